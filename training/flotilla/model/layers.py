"""Builds a network of TensorFlow's own operations from its description, job/design.py; the built-in ResNet, too."""

from __future__ import annotations

import collections
from collections.abc import Callable

import tensorflow as tf

from flotilla.job.design import KERNEL, Design, Layer

v1 = tf.compat.v1

BATCH_NORM_DECAY = 0.997
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM = "batch_norm"  # the scope of their variables
LAYER_LOSSES = "flotilla_layer_losses"  # the collection of what l1 and l2 of single layers add to the loss

INITIALIZERS: dict[str, Callable[[], tf.keras.initializers.Initializer]] = {
    "glorot_uniform": v1.glorot_uniform_initializer,
    "glorot_normal": v1.glorot_normal_initializer,
    "he_uniform": lambda: v1.variance_scaling_initializer(2.0, "fan_in", "uniform"),
    "he_normal": lambda: v1.variance_scaling_initializer(2.0, "fan_in", "truncated_normal"),
    "lecun_uniform": lambda: v1.variance_scaling_initializer(1.0, "fan_in", "uniform"),
    "lecun_normal": lambda: v1.variance_scaling_initializer(1.0, "fan_in", "truncated_normal"),
    "zeros": v1.zeros_initializer,
}
ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "none": tf.identity, "relu": tf.nn.relu, "leaky_relu": tf.nn.leaky_relu, "elu": tf.nn.elu, "selu": tf.nn.selu,
    "sigmoid": tf.nn.sigmoid, "tanh": tf.nn.tanh, "softplus": tf.nn.softplus, "swish": tf.nn.swish,
}  # fmt: skip


def inputs(features: dict[str, tf.Tensor], design: Design) -> tf.Tensor:
    """Return what the first layer takes: images [batch, height, width, channels] of 0 to 255 scaled, or columns.

    Columns, each [batch, values], are put side by side as they are.
    """
    if design.columns:
        return tf.concat([tf.cast(features[name], tf.float32) for name in design.columns], axis=1)
    image = tf.cast(features["image"], tf.float32)
    return image / 255 if design.scale == "unit" else image / 128 - 1


def network(x: tf.Tensor, design: Design, trainers: int, packed: bool = True) -> tf.Tensor:
    """Return logits [batch, classes] of examples [batch, …].

    So many trainers train the same variables; with none the graph is one that evaluates or predicts. Where it isn't
    packed, which is for exports, every batch norm has variables of its own, and `Unpacker` restores them. Adds every
    trainable variable's l2 loss to REGULARIZATION_LOSSES, what single layers ask for to LAYER_LOSSES, and while
    training the updates of the moving averages to UPDATE_OPS.
    """
    norms = _BatchNorms(design.norms, trainers, packed) if design.norms else None
    for layer in design.layers:
        x = _LAYERS[layer.kind](x, layer, norms, trainers > 0)
    if norms:
        norms.update()
    return x


def _dense(x: tf.Tensor, layer: Layer, *_: object) -> tf.Tensor:
    kernel, *bias = _weights(layer)
    x = tf.matmul(x, kernel)
    return _activated(x + bias[0] if bias else x, layer)


def _conv(x: tf.Tensor, layer: Layer, *_: object) -> tf.Tensor:
    kernel, *bias = _weights(layer)
    x = tf.nn.conv2d(x, kernel, layer.stride, _padding(layer.padding, layer.kernel, layer.stride))
    return _activated(x + bias[0] if bias else x, layer)


def _pool(x: tf.Tensor, layer: Layer, *_: object) -> tf.Tensor:
    pool = tf.nn.avg_pool2d if layer.average else tf.nn.max_pool2d
    return pool(x, layer.size, layer.stride, layer.padding.upper())


def _global_average_pool(x: tf.Tensor, *_: object) -> tf.Tensor:
    return tf.reduce_mean(x, axis=[1, 2])


def _flatten(x: tf.Tensor, layer: Layer, *_: object) -> tf.Tensor:
    return tf.reshape(x, [-1, *layer.output])


def _batch_norm(x: tf.Tensor, layer: Layer, norms: _BatchNorms | None, _training: bool) -> tf.Tensor:
    assert norms
    if len(layer.input) == 3:
        return norms.add(x)
    return tf.reshape(norms.add(tf.reshape(x, [-1, 1, 1, *layer.input])), [-1, *layer.input])


def _activation(x: tf.Tensor, layer: Layer, *_: object) -> tf.Tensor:
    return ACTIVATIONS[layer.activation](x)


def _dropout(x: tf.Tensor, layer: Layer, _norms: object, training: bool) -> tf.Tensor:
    return tf.nn.dropout(x, layer.rate) if training and layer.rate else x


def _block(x: tf.Tensor, layer: Layer, norms: _BatchNorms | None, _training: bool) -> tf.Tensor:
    """Return what a residual block of K. He et al. (arXiv:1512.03385) makes of x, its shortcut without variables."""
    assert norms
    shortcut = x
    kernels = _weights(layer)
    for number, (kernel, stride) in enumerate(zip(kernels, (layer.stride, 1), strict=True)):
        x = norms.add(tf.nn.conv2d(x, kernel, stride, _padding("same", KERNEL, stride)))
        x = x if number else tf.nn.relu(x)
    missing = layer.size - layer.input[-1]
    if layer.stride > 1:
        shortcut = tf.nn.avg_pool2d(shortcut, layer.stride, layer.stride, "SAME")
    if missing:
        shortcut = tf.pad(shortcut, [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]])
    return tf.nn.relu(x + shortcut)


_Build = Callable[[tf.Tensor, Layer, "_BatchNorms | None", bool], tf.Tensor]
_LAYERS: dict[str, _Build] = {
    "dense": _dense, "conv": _conv, "pool": _pool, "global_average_pool": _global_average_pool, "flatten": _flatten,
    "batch_norm": _batch_norm, "activation": _activation, "dropout": _dropout, "block": _block,
}  # fmt: skip


def _activated(x: tf.Tensor, layer: Layer) -> tf.Tensor:
    return x if layer.activation == "none" else ACTIVATIONS[layer.activation](x)


def _padding(padding: str, kernel: int, stride: int) -> str | list[list[int]]:
    """Return the same border on both sides, also with a stride, where "SAME" would pad on one side only."""
    if padding == "same" and stride > 1 and kernel % 2:
        return [[0, 0], [kernel // 2] * 2, [kernel // 2] * 2, [0, 0]]
    return padding.upper()


def _weights(layer: Layer) -> list[tf.Tensor]:
    """Return the values of a layer's variables, and note what l1 and l2 make of its kernels."""
    found = []
    for variable in layer.variables:
        kernel = len(variable.shape) > 1
        value = _weight(variable.name, list(variable.shape), INITIALIZERS[layer.initializer if kernel else "zeros"]())
        found.append(value)
        if kernel and layer.l2:
            v1.add_to_collection(LAYER_LOSSES, layer.l2 * tf.nn.l2_loss(value))
        if kernel and layer.l1:
            v1.add_to_collection(LAYER_LOSSES, layer.l1 * tf.reduce_sum(tf.abs(value)))
    return found


class _BatchNorms:
    """The network's batch norms one after the other, with one variable of each kind for all of them.

    Each variable is a transfer from its parameter server in every step, and one back: with variables of their own the
    batch norms would have three of four.

    Args:
        channels: of each.
        trainers, packed: as for `network`.
    """

    def __init__(self, channels: list[int], trainers: int, packed: bool) -> None:
        self._trainers = trainers
        self._averages: list[tf.Variable] = []  # mean and variance
        self._batches: list[tuple[tf.Tensor, tf.Tensor]] = []
        with v1.variable_scope(BATCH_NORM):
            if packed:
                parts = [tf.split(variable, channels) for variable in self._variables(sum(channels))]
                self._parts = iter(list(zip(*parts, strict=True)))
            else:
                self._parts = iter([self._own(number, each) for number, each in enumerate(channels)])

    def _own(self, number: int, channels: int) -> tuple[tf.Tensor | tf.Variable, ...]:
        with v1.variable_scope(str(number)):
            return tuple(self._variables(channels))

    def _variables(self, channels: int) -> list[tf.Tensor | tf.Variable]:
        """Make the variables of so many channels; return those that normalize."""
        ones, zeros = v1.ones_initializer(), v1.zeros_initializer()
        weights = [_weight("gamma", [channels], ones), _weight("beta", [channels], zeros)]
        self._averages = [
            v1.get_variable(name, [channels], initializer=initializer, trainable=False)
            for name, initializer in (("moving_mean", zeros), ("moving_variance", ones))
        ]
        return weights if self._trainers else weights + self._averages

    def add(self, x: tf.Tensor) -> tf.Tensor:
        """Return what the next one makes of x."""
        x, *of_batch = v1.nn.fused_batch_norm(
            x, *next(self._parts), epsilon=BATCH_NORM_EPSILON, is_training=bool(self._trainers)
        )
        self._batches.append(tuple(of_batch))
        return x

    def update(self) -> None:
        """Have the moving averages follow the batches, after the last one."""
        if not self._trainers:
            return
        # Over few steps at first, for they can't follow weights that still change fast: measured after 400 steps, the
        # model evaluates to 0.49 (loss 1.75) so, and to 0.18 (6.16) with the usual ramp (1 + step) / (10 + step).
        step = tf.cast(v1.train.get_or_create_global_step(), tf.float32)
        decay = tf.minimum(BATCH_NORM_DECAY, (1 + step) / (100 + step))
        # All trainers may read the same old average: where their shares are more than the whole, it runs away.
        share = tf.minimum(1 - decay, 1 / self._trainers)
        for average, values in zip(self._averages, zip(*self._batches, strict=True), strict=True):
            update = v1.assign_sub(average, (average - tf.concat(values, 0)) * share)
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)


def _weight(name: str, shape: list[int], initializer: tf.keras.initializers.Initializer) -> tf.Tensor:
    """Return a trainable variable's value, read once: every read is a transfer from its parameter server."""
    variable = v1.get_variable(name, shape, initializer=initializer)
    value = variable.read_value()
    v1.add_to_collection(v1.GraphKeys.REGULARIZATION_LOSSES, tf.nn.l2_loss(value))
    return value


class Unpacker(v1.train.Saver):  # type: ignore[misc, name-defined]
    """Restores what a packed network has saved into one that isn't packed, and saves that as it is.

    Converters know batch norms with constants of their own: OpenVINO's refuses one that gets a part of a variable.
    """

    def restore(self, sess: tf.compat.v1.Session, save_path: str) -> None:
        """Set the graph's variables to those of a checkpoint; NotFoundError where it lacks one."""
        checkpoint = tf.train.load_checkpoint(save_path)
        variables = sess.graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)
        begins: collections.Counter[str] = collections.Counter()  # of the next part, by packed variable
        values = {}
        for variable in variables:  # in the order in which they were made, which is that of the parts
            name = variable.op.name
            if name.startswith(f"{BATCH_NORM}/"):
                name = f"{BATCH_NORM}/{name.rpartition('/')[2]}"
                begin, begins[name] = begins[name], begins[name] + variable.shape[0]
                value = checkpoint.get_tensor(name)[begin : begins[name]]
            else:
                value = checkpoint.get_tensor(name)
            values[variable.initializer.inputs[1]] = value
        sess.run([variable.initializer for variable in variables], values)
