"""A network as a list of layers: what each makes of what comes in, its variables, and what a step of it takes.

Pure arithmetic: neither TensorFlow nor a file is needed. flotilla.job.network_file reads such a list from YAML, and
flotilla.model.layers builds it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Shape = tuple[int, ...]  # of one example: height, width, channels; or a number of values
Kind = Literal[
    "dense", "conv", "pool", "global_average_pool", "block", "batch_norm", "activation", "dropout", "flatten"
]
OUTPUT = "dense"  # the last layer's name
KERNEL = 3  # of a residual block
FLOAT = 4  # bytes
SLOTS = {"sgd": 0, "momentum": 1, "adagrad": 1, "rmsprop": 2, "adam": 2}  # what an optimizer keeps for each parameter
STAGES = (16, 32, 64)  # filters of the built-in ResNet
LARGE = 96  # pixels of the smaller side, from which on it brings images to a quarter of their size


class Misfit(Exception):
    """A layer can't take what comes in; place is its number among the layers as they were given."""

    def __init__(self, place: int, sentence: str) -> None:
        super().__init__(sentence)
        self.place = place


class Variable(NamedTuple):
    """What is learned, or followed."""

    name: str
    shape: Shape
    trainable: bool = True

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer, with what its kind asks for."""

    kind: Kind
    name: str = ""
    size: int = 0  # units, filters, or the width of a pool's window
    kernel: int = 1
    stride: int = 1
    padding: str = "same"
    activation: str = "none"
    initializer: str = "glorot_uniform"
    bias: bool = True
    average: bool = False  # of a pool
    rate: float = 0.0  # of dropout
    l1: float = 0.0
    l2: float = 0.0
    input: Shape = ()
    output: Shape = ()

    @property
    def norms(self) -> list[int]:
        """The channels of its batch norms."""
        return {"batch_norm": [self.output[-1]], "block": [self.size] * 2}.get(self.kind, [])

    @property
    def variables(self) -> list[Variable]:
        """Its own variables; all batch norms of a network share theirs."""
        if self.kind == "block":
            shapes = [(KERNEL, KERNEL, channels, self.size) for channels in (self.input[-1], self.size)]
            return [Variable(f"{self.name}/conv{n}/kernel", shape) for n, shape in enumerate(shapes)]
        if self.kind not in ("dense", "conv"):
            return []
        kernel = (self.kernel, self.kernel) if self.kind == "conv" else ()
        found = [Variable(f"{self.name}/kernel", (*kernel, self.input[-1], self.size))]
        return [*found, Variable(f"{self.name}/bias", (self.size,))] if self.bias else found

    @property
    def flops(self) -> int:
        """Floating-point operations of one example, forward; a multiplication with its addition counts as two."""
        positions = math.prod(self.output[:-1])
        products = sum(v.elements for v in self.variables if len(v.shape) > 1)
        window = self.size**2 if self.kind == "pool" else 1
        return 2 * products * positions + window * math.prod(self.output)

    @property
    def values(self) -> int:
        """Values of one example that a training step keeps until it has gone back."""
        of_norm = self.activation != "none"
        return math.prod(self.output) * (6 if self.kind == "block" else 1 + of_norm)


@dataclasses.dataclass(frozen=True)
class Design:
    """A network with its shapes."""

    layers: tuple[Layer, ...]  # the last one gives a value for each class
    classes: int
    columns: tuple[str, ...] = ()  # numeric features in place of images
    metrics: tuple[str, ...] = ("accuracy",)
    scale: str = "signed"  # what pixels become: -1 to 1, or 0 to 1 (unit)

    @property
    def input(self) -> Shape:
        return self.layers[0].input

    @property
    def norms(self) -> list[int]:
        """The channels of all batch norms, in order."""
        return [channels for layer in self.layers for channels in layer.norms]

    @property
    def variables(self) -> list[Variable]:
        """All variables in the order in which they are made."""
        norms = sum(self.norms)
        names = {"gamma": True, "beta": True, "moving_mean": False, "moving_variance": False}
        shared = [Variable(f"batch_norm/{name}", (norms,), trains) for name, trains in names.items() if norms]
        return shared + [variable for layer in self.layers for variable in layer.variables]

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(variable.elements for variable in self.variables if variable.trainable)

    def flops(self, batch: int) -> int:
        """Return the operations of a training step: forward, back to parameters, and to all inputs but the first."""
        first = next(layer.flops for layer in self.layers if layer.variables)
        return batch * (3 * sum(layer.flops for layer in self.layers) - first)

    def loads(self, servers: int) -> list[int]:
        """Return the bytes of variables that each parameter server holds, as estimator.ByLoad deals them out."""
        loads = [0] * servers
        loads[0] = 8  # the global step
        for variable in self.variables:
            loads[loads.index(min(loads))] += variable.elements * FLOAT
        return loads

    def traffic(self, servers: int) -> list[float]:
        """Return the megabits that each parameter server sends and takes in a trainer's step: values, and changes."""
        return [2 * load * 8 / 1e6 for load in self.loads(servers)]

    def memory(self, batch: int, optimizer: str, alone: bool) -> int:
        """Return the bytes that a step needs in a trainer: variables, gradients, and what layers make of the batch.

        A trainer that is `alone` also holds what the optimizer keeps, which else is the parameter servers'.
        """
        held = sum(variable.elements for variable in self.variables)
        slots = SLOTS[optimizer] * self.parameters if alone else 0
        values = batch * (math.prod(self.input) + 2 * sum(layer.values for layer in self.layers))
        return FLOAT * (held + self.parameters + slots + values)


def fit(layers: Sequence[Layer], shape: Shape, classes: int) -> Design:
    """Return the layers with their shapes for examples of this one, and the last layer; raise Misfit."""
    found = []
    for place, layer in enumerate([*layers, Layer("dense", OUTPUT, size=classes)]):
        last = place == len(layers)
        if last and len(shape) == 3:  # a last layer takes values side by side
            found.append(Layer("flatten", input=shape, output=(math.prod(shape),)))
            shape = found[-1].output
        output = _output(layer, shape, place)
        found.append(dataclasses.replace(layer, input=shape, output=output))
        shape = output
    return Design(tuple(found), classes)


def _output(layer: Layer, shape: Shape, place: int) -> Shape:
    """Return what a layer makes of this shape; raise Misfit."""
    if layer.kind in ("batch_norm", "activation", "dropout"):
        return shape
    if layer.kind == "flatten":
        return (math.prod(shape),)
    if layer.kind == "dense":
        if len(shape) == 3:
            raise Misfit(
                place, f"dense takes values side by side, and {show(shape)} (an image) comes in: put flatten before it."
            )
        return (layer.size,)
    if len(shape) != 3:
        raise Misfit(
            place, f"{layer.kind} takes an image (height x width x channels), and {show(shape)} values come in: "
            "put it before flatten and dense, or leave it out."
        )  # fmt: skip
    height, width, channels = shape
    if layer.kind == "global_average_pool":
        return (channels,)
    if layer.kind == "block":
        if layer.size < channels:
            raise Misfit(
                place, f"block has {layer.size} filters, and {channels} channels come in, which its shortcut can't "
                f"leave out: give it at least {channels}."
            )  # fmt: skip
        return (-(-height // layer.stride), -(-width // layer.stride), layer.size)
    window = layer.kernel if layer.kind == "conv" else layer.size
    out = layer.size if layer.kind == "conv" else channels
    if layer.padding == "same":
        return (-(-height // layer.stride), -(-width // layer.stride), out)
    if window > min(height, width):
        raise Misfit(
            place, f"{layer.kind} has a window of {window} x {window}, and {show(shape)} comes in: take a smaller one, "
            "or padding: same."
        )  # fmt: skip
    return ((height - window) // layer.stride + 1, (width - window) // layer.stride + 1, out)


def show(shape: Shape) -> str:
    """Return a shape as people write it."""
    return " x ".join(map(str, shape))


def resnet(size: int, shape: Shape, classes: int) -> Design:
    """Return ResNet v1 for small images, as in tensorflow/models, tutorials/image/cifar10_estimator.

    K. He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2: three stages of n
    blocks with 16, 32 and 64 filters, option-A shortcuts. 6n + 2 layers; n = 7 gives 658,586 trainable parameters for
    10 classes. Large images are first brought to a quarter of their height and width, by a stride and a max pool, as
    in its section 3.3.
    """
    large = min(shape[:2]) >= LARGE
    layers = [
        Layer("conv", "first", size=STAGES[0], kernel=KERNEL, stride=2 if large else 1, bias=False),
        Layer("batch_norm"),
        Layer("activation", activation="relu"),
    ]
    if large:
        layers.append(Layer("pool", size=3, stride=2))
    for stage, filters in enumerate(STAGES):
        layers += blocks(Layer("block", f"stage{stage}", size=filters, stride=2 if stage else 1), (size - 2) // 6)
    return fit([*layers, Layer("global_average_pool")], shape, classes)


def blocks(first: Layer, count: int) -> list[Layer]:
    """Return a stage of residual blocks, of which the first one has the stride."""
    named = [dataclasses.replace(first, name=f"{first.name}/block{number}") for number in range(count)]
    return named[:1] + [dataclasses.replace(block, stride=1) for block in named[1:]]
