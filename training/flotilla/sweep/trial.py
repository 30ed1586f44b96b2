"""Trains networks of a sweep on a prepared table, one after the other in one process.

TensorFlow starts once, and all points of an architecture train one graph, from other weights and at other rates: to
import it takes far longer than a small network's training, and so does a graph.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from flotilla.job.config import TrainConfig
from flotilla.job.design import FLOAT, Design
from flotilla.job.errors import BadInput, ProgramError
from flotilla.model import estimator, layers
from flotilla.sweep import export
from flotilla.sweep.numbers import Floats, Prepared
from flotilla.sweep.plan import REGRESSION_LOSS, Network

v1 = tf.compat.v1

Stop = Callable[[int, float], bool]
Labels = NDArray[np.int64] | Floats

LOADED = 2**24  # bytes of rows that are in a session at a time, and of a layer's values where they are evaluated
_KEYS = {
    "epochs", "batch_size", "optimizer", "momentum", "learning_rate", "schedule", "learning_rate_epochs",
    "learning_rate_factors", "warmup_steps", "weight_decay", "loss", "augment",
}  # fmt: skip


class Diverged(ProgramError):
    """A network's loss is no finite number any more."""


class TooLarge(ProgramError):
    """A network doesn't fit into the memory."""


class Trained(NamedTuple):
    """What a network has reached on the held-out rows, with the weights of its last step."""

    score: float  # what is made large: the accuracy, or r2
    accuracy: float | None  # of a classification
    rmse: float | None  # of a regression, in the label's own unit
    loss: float  # with what weight decay, l1 and l2 add, as in a fleet's evaluation
    metrics: Mapping[str, float]  # that the network's file names, accuracy with them
    epochs: list[float]  # the score after each epoch; the last one may be a part of an epoch
    seconds: float
    cpu_seconds: float  # of all threads
    parameters: int  # that are trained
    early: bool  # whether it was stopped before its end


class Trainer:
    """Trains networks on a table's rows; after any failure it is ready for the next network.

    A training's result depends on its seed alone, not on what was trained before.

    Args:
        prepared: the rows to train on, and those that are held out.
        threads: of TensorFlow; the first session of a process sets it for all others.
        most_graphs: how many architectures are kept.
        most_bytes: of memory that a network may take in training, beside the rows; 0: as much as there is.
    """

    def __init__(self, prepared: Prepared, threads: int = 1, most_graphs: int = 4, most_bytes: int = 0) -> None:
        self.architectures = 0  # graphs that were made
        self._prepared = prepared
        self._threads = threads
        self._most_graphs, self._most_bytes = most_graphs, most_bytes
        self._graphs: dict[tuple[str, int], _Graph] = {}  # the one that was used last at the end
        self._last: _Graph | None = None

    def train(self, network: Network, architecture: str, seed: int, stop: Stop | None = None) -> Trained:
        """Train a network from weights of this seed; raise BadInput, Diverged or TooLarge.

        An epoch has every row once, in another order each time; its last batch is smaller where rows are left over.

        Args:
            architecture: plan.architecture_of its point.
            stop: is asked after each epoch, with its number from 1 on and the score; whether to end there.
        """
        began, cpu_began = time.perf_counter(), time.process_time()
        self._last = None
        rows = len(self._prepared.training)
        counts = _counts(float(str(network.settings["epochs"])), rows)
        config = _config(network.settings, counts)
        # Rates that fall to 0 have the number of steps in their graph
        key = architecture, config.max_steps if config.schedule in ("linear", "cosine") else 0
        needs = network.design.memory(config.batch_size, config.optimizer, alone=True)
        if needs > self._most_bytes > 0:
            raise TooLarge(_too_large(network, config, f"{needs / 1e9:.3g} GB, of {self._most_bytes / 1e9:.3g} GB"))
        scores: list[float] = []
        try:
            graph = self._graph(key, network.design, config)
            graph.start(float(str(network.settings["learning_rate"])), seed)
            for epoch, count in enumerate(counts, 1):
                finite = graph.epoch(self._prepared.training, self._prepared.training_labels, count)
                found = graph.evaluate(self._prepared.held_out, self._prepared.held_out_labels)
                if not (finite and math.isfinite(found["loss"])):
                    raise Diverged(
                        f"The loss is no finite number any more in epoch {epoch}, at the learning rate "
                        f"{network.settings['learning_rate']}: train with a smaller one."
                    )
                scores.append(self._score(found))
                if stop and stop(epoch, scores[-1]):
                    break
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            self._drop(key)
            raise TooLarge(_too_large(network, config, "all there is")) from error
        self._last = graph
        squared = found.pop("squared_error", None)
        return Trained(
            scores[-1], found.get("accuracy"),
            None if squared is None else math.sqrt(squared) * self._prepared.description["label"]["std"],
            found.pop("loss"), found, scores, time.perf_counter() - began, time.process_time() - cpu_began,
            network.design.parameters, len(scores) < len(counts),
        )  # fmt: skip

    def logits(self) -> Floats:
        """Return what the last network gives for the held-out rows, [rows, classes]; of a regression [rows, 1]."""
        return self._trained.logits(self._prepared.held_out)

    def export(self, folder: Path) -> None:
        """Write the last network as a SavedModel that takes a table's columns, see export.save; raise BadInput."""
        graph = self._trained
        export.save(folder, self._prepared.description, graph.design, graph.loss, graph.weights())

    def close(self) -> None:
        """Release all graphs."""
        for key in list(self._graphs):
            self._drop(key)
        self._last = None

    @property
    def _trained(self) -> _Graph:
        if self._last is None:
            raise BadInput("There is no trained network: none was trained yet, or the last one failed.")
        return self._last

    def _graph(self, key: tuple[str, int], design: Design, config: TrainConfig) -> _Graph:
        """Return the graph of an architecture, a new one where none is kept."""
        graph = self._graphs.pop(key, None)
        if graph is None:
            while len(self._graphs) >= self._most_graphs:
                self._drop(next(iter(self._graphs)))
            regression = self._prepared.description["label"]["task"] == "regression"
            graph = _Graph(design, config, regression, len(self._prepared.training), self._threads)
            self.architectures += 1
        self._graphs[key] = graph
        return graph

    def _drop(self, key: tuple[str, int]) -> None:
        if graph := self._graphs.pop(key, None):
            graph.close()

    def _score(self, found: Mapping[str, float]) -> float:
        if "accuracy" in found:
            return found["accuracy"]
        # Where all held-out labels are the same, by the spread of those to train on, which is 1
        spread = float(np.var(self._prepared.held_out_labels, dtype=np.float64)) or 1.0
        return 1 - found["squared_error"] / spread


class _Graph:
    """The graph and the session of an architecture.

    TensorFlow neither rewrites the graph nor has other threads run it, and without dropout a step takes no feed: for
    networks this small that costs more than it gains. All that is random is fed, so that the seed decides alone: what
    operations keep of their own seeds outlasts a training.
    """

    def __init__(self, design: Design, config: TrainConfig, regression: bool, rows: int, threads: int) -> None:
        if regression and config.loss != REGRESSION_LOSS:
            raise BadInput(f"loss is {config.loss}, which is of classes: write {REGRESSION_LOSS} for a regression.")
        self.design, self.loss = design, config.loss
        self._batch, width = config.batch_size, design.input[0]
        self._loads = max(1, LOADED // (FLOAT * width * self._batch)) * self._batch
        self._evaluates = max(1, LOADED // (FLOAT * max(width, *(layer.values for layer in design.layers))))
        with tf.Graph().as_default() as graph:
            self._fed = (
                v1.placeholder(tf.float32, [None, width]),
                v1.placeholder(tf.float32 if regression else tf.int64, [None]),
                v1.placeholder(tf.float32, []),
            )
            loaded = [_variable(one) for one in (*self._fed, tf.constant(0))]
            self._load = tf.group(*(variable.initializer for variable in loaded))
            *examples, rate, place = (variable.read_value() for variable in loaded)
            self._x, self._labels = (one[place : place + self._batch] for one in examples)
            step = v1.train.get_or_create_global_step()
            # Steps by epochs: those of whole batches and of the smaller last one
            rate *= estimator.learning_rate(config, _steps(rows, self._batch) * self._batch, 1, step.read_value())
            self._logits, loss = self._network(config, regression, 1)
            learn = estimator.optimizer(config, rate).minimize(loss)
            with tf.control_dependencies([learn, *v1.get_collection(v1.GraphKeys.UPDATE_OPS)]):
                further = [step.assign_add(1).op, loaded[-1].assign_add(self._batch).op]
            with tf.control_dependencies(further):
                self._step = tf.identity(loss)
            if design.norms or any(layer.rate for layer in design.layers):  # else both networks are the same
                with v1.variable_scope(v1.get_variable_scope(), reuse=True):
                    self._logits, loss = self._network(config, regression, 0)
            if regression:
                metrics = {"squared_error": v1.metrics.mean(tf.square(self._logits[:, 0] - self._labels))}
            else:
                metrics = estimator.metrics(design, self._labels, self._logits)
            metrics["loss"] = v1.metrics.mean(loss, tf.size(self._labels))
            self._metrics = {name: value for name, (value, _update) in metrics.items()}
            self._updates = [update for _value, update in metrics.values()]
            self._reset = v1.local_variables_initializer()
            self._start = v1.global_variables_initializer()
            self._variables = {variable.op.name: variable for variable in v1.global_variables()}
        operations = graph.get_operations()
        random = {op.outputs[0]: _DRAWS[op.type] for op in operations if op.type in _DRAWS}
        # What weights begin with, and what dropout takes of a batch, whose size is open
        self._first = {tensor: draw for tensor, draw in random.items() if tensor.shape.is_fully_defined()}
        self._masks = [tensor for tensor in random if tensor not in self._first]
        plain = threads == 1 and all(op.type not in _CALLS for op in operations)
        self._session = v1.Session(graph=graph, config=_session_config(threads, plain))
        self._quick = self._session.make_callable(self._step)

    def _network(self, config: TrainConfig, regression: bool, trainers: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the logits of a batch and their loss, with what the weights add to it."""
        for key in (v1.GraphKeys.REGULARIZATION_LOSSES, layers.LAYER_LOSSES):
            v1.get_default_graph().clear_collection(key)  # of the network that trains
        logits = layers.network(self._x, self.design, trainers)
        if regression:
            loss = v1.losses.mean_squared_error(self._labels, logits[:, 0])
        else:
            loss = estimator.error(config.loss, self._labels, logits)
        if config.weight_decay:
            loss += config.weight_decay * tf.add_n(v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES))
        if single := v1.get_collection(layers.LAYER_LOSSES):
            loss += tf.add_n(single)
        return logits, loss

    def start(self, rate: float, seed: int) -> None:
        """Forget what was trained, and begin with weights of this seed."""
        self._rate = rate
        weights, self._order, self._noise = (np.random.default_rng([seed, use]) for use in range(3))
        self._session.run(self._start, {first: draw(weights, first.shape) for first, draw in self._first.items()})

    def epoch(self, x: Floats, labels: Labels, count: int) -> bool:
        """Train on so many of the rows; return whether the loss stayed finite."""
        order = self._order.permutation(len(x))[:count]
        for begin in range(0, count, self._loads):
            some = order[begin : begin + self._loads]
            self._session.run(self._load, dict(zip(self._fed, (x[some], labels[some], self._rate), strict=True)))
            for left in range(len(some), 0, -self._batch):
                if not math.isfinite(self._stepped(min(left, self._batch))):
                    return False
        return True

    def _stepped(self, rows: int) -> float:
        """Make a step; return its loss."""
        if not self._masks:
            return float(self._quick())
        masks = {mask: _uniform(self._noise, (rows, *mask.shape[1:])) for mask in self._masks}
        return float(self._session.run(self._step, masks))

    def evaluate(self, x: Floats, labels: Labels) -> dict[str, float]:
        """Return the loss and the metrics of such rows; of a regression the mean squared error."""
        self._session.run(self._reset)
        for begin in range(0, len(x), self._evaluates):
            some = slice(begin, begin + self._evaluates)
            self._session.run(self._updates, {self._x: x[some], self._labels: labels[some]})
        return {name: float(value) for name, value in self._session.run(self._metrics).items()}

    def logits(self, x: Floats) -> Floats:
        """Return the logits of such rows."""
        parts = [x[begin : begin + self._evaluates] for begin in range(0, len(x), self._evaluates)]
        return np.concatenate([self._session.run(self._logits, {self._x: part}) for part in parts])

    def weights(self) -> dict[str, Floats]:
        """Return the values of the network's variables, by their names."""
        names = {variable.name for variable in self.design.variables}
        found: dict[str, Floats] = self._session.run({name: self._variables[name] for name in names})
        return found

    def close(self) -> None:
        self._session.close()


def _variable(value: tf.Tensor) -> tf.Variable:
    """Return a variable that begins with a value, which may be fed, whenever its initializer runs."""
    return v1.Variable(value, trainable=False, collections=[], shape=value.shape)


def _session_config(threads: int, plain: bool) -> tf.compat.v1.ConfigProto:
    """Return the settings of a session, whose operations one thread can run in a row where the graph is plain."""
    config = v1.ConfigProto(
        device_count={"GPU": 0}, intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = -1  # L0
    if plain:
        config.experimental.executor_type = "SINGLE_THREADED_EXECUTOR"
    return config


def _uniform(generator: np.random.Generator, shape: Sequence[int]) -> Floats:
    return generator.random(shape, np.float32)


def _truncated_normal(generator: np.random.Generator, shape: Sequence[int]) -> Floats:
    """Return values of a standard normal distribution, drawn again where they are beyond 2, as TensorFlow's are."""
    values = generator.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = generator.standard_normal(int(beyond.sum()), np.float32)
    return values


# Operations that call functions, as a rate that changes at some epochs: alone, a thread waits for itself there
_CALLS = {
    "If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile", "PartitionedCall",
    "StatefulPartitionedCall",
}  # fmt: skip
_Draw = Callable[[np.random.Generator, Sequence[int]], Floats]
_DRAWS: dict[str, _Draw] = {"RandomUniform": _uniform, "TruncatedNormal": _truncated_normal}  # by type of operation


def _counts(epochs: float, rows: int) -> list[int]:
    """Return how many rows each epoch trains on: all, the last one perhaps a part."""
    total = max(1, round(epochs * rows))
    return [min(rows, total - done) for done in range(0, total, rows)]


def _steps(rows: int, batch: int) -> int:
    return math.ceil(rows / batch)


def _too_large(network: Network, config: TrainConfig, needs: str) -> str:
    return (
        f"A network of {network.design.parameters:,} parameters, in batches of {config.batch_size}, needs more memory "
        f"than it may have ({needs}): vary fewer nodes or layers, or smaller batches."
    )


def _config(settings: Mapping[str, object], counts: Sequence[int]) -> TrainConfig:
    """Return a network's settings as training takes them, with a rate of 1; raise BadInput for what it can't do."""
    if unknown := sorted(settings.keys() - _KEYS):
        raise BadInput(f"{unknown[0]} is nothing that a sweep's training knows: leave it out.")
    if settings.get("augment"):
        raise BadInput("augment crops and flips images, and a sweep's rows are none: leave it out.")

    def number(key: str) -> float:
        return float(str(settings.get(key, getattr(TrainConfig, key))))

    def numbers(key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        given = settings.get(key, default)
        assert isinstance(given, (list, tuple))
        return tuple(map(float, given))

    batch = int(number("batch_size"))
    return TrainConfig(
        data_dir="-", model_dir="-",  # nothing is read or written
        max_steps=sum(_steps(count, batch) for count in counts), batch_size=batch, learning_rate=1.0,
        loss=str(settings.get("loss", TrainConfig.loss)), optimizer=str(settings["optimizer"]),
        schedule=str(settings["schedule"]), learning_rate_epochs=numbers("learning_rate_epochs", ()),
        learning_rate_factors=numbers("learning_rate_factors", (1.0,)), warmup_steps=int(number("warmup_steps")),
        momentum=number("momentum"), weight_decay=number("weight_decay"),
    )  # fmt: skip
