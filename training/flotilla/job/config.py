"""The configuration of a training run: a JSON file, overridden by the command line, checked before it starts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flotilla.job import network_file
from flotilla.job.cluster import Task
from flotilla.job.errors import BadInput

# What a key may be
CHOICES = {
    "scheme": ("estimator", "session"),
    "precision": ("float32", "bfloat16", "auto"),
    "optimizer": ("momentum", "sgd", "adam", "rmsprop", "adagrad"),
    "schedule": ("steps", "constant", "linear", "cosine"),
    "loss": ("softmax_cross_entropy", "sigmoid_cross_entropy", "hinge", "mean_squared_error"),
}
NETWORK_KEYS = (  # of the kit's own training alone
    "scheme", "sync", "precision", "network", "resnet_size", "epochs", "train_split", "validation_split", "eval_split",
    "optimizer", "schedule", "loss", "augment", "learning_rate", "learning_rate_epochs", "learning_rate_factors",
    "warmup_steps", "momentum", "weight_decay", "shuffle_buffer", "save_checkpoints_steps", "eval_interval_secs",
)  # fmt: skip
CLUSTER = ("{ps_hosts}", "{worker_hosts}", "{job_name}", "{task_index}")  # as TensorFlow 1's examples have it
LOCAL_DATA = "{local_data_dir}"


def _key(default: Any, text: str, low: float | None = None) -> Any:
    metadata = {"help": text, "low": low}
    if isinstance(default, (tuple, dict)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. The learning rate and its schedule are the thesis's, in epochs of the train split;
    only the warm-up is ours: a network this deep learns little in its first hundreds of steps at 0.1.

    In asynchronous training a global step is one batch of one trainer, whatever their number, so the schedule's
    boundaries are not divided by it (the thesis did). In synchronous training a global step is one batch of every
    trainer: there they are.
    """

    name: str = _key("job", "the job's name")
    data_dir: str = _key("", "where the TFRecord files and manifest.json are: a folder or hdfs://host:port/path")
    model_dir: str = _key("", "where checkpoints, events and the result go: a folder or hdfs://host:port/path")
    max_steps: int = _key(60_000, "the global step to stop at, counted over all workers; 0: by epochs", 0)
    epochs: float = _key(0.0, "how often every example is trained on, where max_steps is 0", 0)
    minutes: float = _key(0.0, "end earlier: at the step that fits into so many minutes; 0: at max_steps", 0)
    batch_size: int = _key(128, "examples a step of one trainer", 1)
    scheme: str = _key("estimator", "train with an Estimator (estimator), or with a MonitoredTrainingSession (session)")
    sync: bool = _key(False, "whether a step waits for a batch of every trainer, true or false")
    precision: str = _key("float32", "what CPUs compute in: float32, bfloat16, or auto: what is faster here")
    network: str = _key("", "the YAML file of the network to train instead of ResNet; see docs/networks.md")
    program: str = _key("", "the program to run instead of the built-in network, a Python file; see docs/programs.md")
    program_root: str = _key("", "the program's top folder (default: the one around the package that it is in)")
    arguments: tuple[str, ...] = _key((), "its arguments; {data_dir}, {model_dir}, {max_steps} … stand for these keys")
    local_data_dir: str = _key("", "folder on this host for a program's copy of the data set ({local_data_dir})")
    work_dir: str = _key(
        "", "folder in which each task has a copy of its program to run in (default: runs where you are)"
    )
    resnet_size: int = _key(44, "layers of the network, 6n + 2", 8)
    train_split: str = _key("train", "the split to train on")
    validation_split: str = _key("validation", "the split that is evaluated while training")
    eval_split: str = _key("eval", "the split that the finished model is evaluated on")
    loss: str = _key("softmax_cross_entropy", f"what is made small: {', '.join(CHOICES['loss'])}")
    augment: bool = _key(True, "whether images are cropped and flipped at random, true or false")
    optimizer: str = _key("momentum", f"one of {', '.join(CHOICES['optimizer'])}")
    learning_rate: float = _key(0.1, "the first learning rate", 0)
    schedule: str = _key(
        "steps", "how the rate changes: at the epochs (steps), not at all (constant), or to 0 (linear, cosine)"
    )
    learning_rate_epochs: tuple[float, ...] = _key((82.0, 123.0, 300.0), "epochs at which the rate changes", 0)
    learning_rate_factors: tuple[float, ...] = _key(
        (1.0, 0.1, 0.01, 0.002),
        "what the rate is multiplied by, before the first of these epochs and from each on",
        0,
    )
    warmup_steps: int = _key(1000, "steps in which the rate grows to its first value; the thesis has 0", 0)
    momentum: float = _key(0.9, "the optimizer's momentum", 0)
    weight_decay: float = _key(2e-4, "factor of the l2 loss over all trainable variables", 0)
    shuffle_buffer: int = _key(16_384, "examples that are shuffled among each other", 1)
    seed: int = _key(0, "seed of the shuffling and of the first weights", 0)
    save_checkpoints_steps: int = _key(200, "steps between two checkpoints", 1)
    keep_checkpoints: int = _key(5, "checkpoints that are kept", 1)
    eval_interval_secs: int = _key(60, "least seconds between two evaluations while training", 0)
    log_every_steps: int = _key(10, "steps between two lines of the log, and between two summaries", 1)
    watchdog_secs: int = _key(120, "end with code 75 when the global step stands still for so long", 5)
    watchdog_start_secs: int = _key(600, "the same until this process has made its first step", 5)
    reach_secs: int = _key(60, "how long to wait for HDFS at the start", 0)
    wait_secs: int = _key(0, "how long a task waits for HDFS and the data set when the job begins; 0: not at all", 0)
    progress: str = _key("", "file to which the chief writes its progress")
    tasks_dir: str = _key("", "folder in which each task on this host says what it does itself")
    done_file: str = _key("", "file that the chief writes when the model is complete")
    mirror: str = _key("", "s3://bucket/prefix/, the job's mirror: a chief without any checkpoint goes on from it")
    evaluator: bool = _key(False, "whether a task beside the cluster's evaluates, true or false")
    cluster: Mapping[str, Any] = _key({}, "TF_CONFIG's cluster: lists of host:port for ps, chief and worker")
    task: str = _key("", "which of the cluster's tasks this is, as chief-0; without it TF_CONFIG says so")

    def __post_init__(self) -> None:
        """Check every value; raise BadInput with one sentence."""
        for field in dataclasses.fields(self):
            value, low = getattr(self, field.name), field.metadata["low"]
            if low is None:
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if not math.isfinite(number) or number < low:
                    raise BadInput(f"{field.name} is {number}: give a number of at least {low:g}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise BadInput(f"name is '{self.name}': give letters, digits, dots, dashes and underscores.")
        for key in ("data_dir", "model_dir"):
            value = getattr(self, key)
            if not value:
                raise BadInput(f"{key} is missing: give a folder or hdfs://host:port/path.")
            if "://" in value and not re.fullmatch(r"(hdfs://[^/]+|file://)/.+", value):
                raise BadInput(f"{key} is '{value}': give a folder or hdfs://host:port/path.")
        if self.wants_local_data and not self.local_data_dir:
            raise BadInput(f"The arguments have {LOCAL_DATA}: give local_data_dir, a folder on this host.")
        if self.mirror and not re.fullmatch(r"s3://[^/]+/.+", self.mirror):
            raise BadInput(f"mirror is '{self.mirror}': give s3://bucket/prefix/, or leave it out.")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise BadInput(f"{key} is '{getattr(self, key)}': give one of {', '.join(choices)}.")
        if self.network and self.program:
            raise BadInput(
                f"network is {self.network} and program {self.program}, and a job trains one: leave one out."
            )
        if not self.max_steps and (not self.epochs or self.program):
            raise BadInput("max_steps is 0: give a number of at least 1, or epochs in its place.")
        if self.cluster:
            self.check_trainers(1 + len(self.cluster.get("worker", [])))
        if (self.resnet_size - 2) % 6:
            raise BadInput(f"resnet_size is {self.resnet_size}: give 6n + 2, such as 20, 32, 44 or 56.")
        if len(self.learning_rate_factors) != len(self.learning_rate_epochs) + 1:
            raise BadInput(
                f"learning_rate_factors has {len(self.learning_rate_factors)} values for "
                f"{len(self.learning_rate_epochs)} learning_rate_epochs: give one factor more than epochs."
            )
        if list(self.learning_rate_epochs) != sorted(set(self.learning_rate_epochs)):
            raise BadInput(f"learning_rate_epochs is {list(self.learning_rate_epochs)}: give growing numbers.")

    @property
    def program_name(self) -> str:
        """What tells a program from others: the last folder and the file to run."""
        if self.network:
            return f"network {network_file.load(self.network).identity}"
        return "/".join(Path(self.program).parts[-2:]) if self.program else "built-in"

    def program_arguments(self, task: Task | None = None) -> list[str]:
        """Return the program's arguments, with values where they name a key, or of a task its CLUSTER, in braces."""
        values = {f"{{{field.name}}}": str(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if task and task.cluster:
            cluster, index = task.as_worker
            hosts = {f"{{{kind}_hosts}}": ",".join(addresses) for kind, addresses in cluster.items()}
            values |= hosts | {"{job_name}": "worker", "{task_index}": str(index)}
        values[LOCAL_DATA] = self.local_data_dir if self.wants_local_data else self.data_dir.removeprefix("file://")
        known = re.compile("|".join(map(re.escape, values)))
        return [known.sub(lambda found: values[found[0]], argument) for argument in self.arguments]

    @property
    def knows_workers_only(self) -> bool:
        """Whether the program is told its cluster by arguments, as one of a ps and workers without a chief."""
        return any(name in argument for name in CLUSTER for argument in self.arguments)

    @property
    def wants_local_data(self) -> bool:
        """Whether the program reads files by Python's own means, of a data set that isn't on this host's disk."""
        named = any(LOCAL_DATA in argument for argument in self.arguments)
        return named and self.data_dir.startswith("hdfs://")

    def examples_a_step(self, trainers: int) -> int:
        """Return how many examples a global step takes: a batch, in synchronous training one of every trainer."""
        return self.batch_size * (trainers if self.sync else 1)

    def with_steps(self, records: int, trainers: int) -> TrainConfig:
        """Return it with the steps that its epochs are, where they are to decide, of so many examples to train on."""
        if self.max_steps:
            return self
        steps = math.ceil(self.epochs * records / self.examples_a_step(trainers))
        return dataclasses.replace(self, max_steps=max(1, steps))

    def check_trainers(self, trainers: int) -> None:
        """Raise BadInput where synchronous training has nobody to wait for."""
        if self.sync and trainers < 2:
            raise BadInput("sync is true, but the chief trains alone: add a worker, or leave sync out.")

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return dataclasses.asdict(self)


def load(argv: Sequence[str] | None = None) -> TrainConfig:
    """Read the command line and the file that --config names; raise BadInput."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.train", description="Trains a model on a data set.")
    parser.add_argument("--config", metavar="FILE", help="JSON file with any of the keys below")
    defaults = {field.name: _default(field) for field in dataclasses.fields(TrainConfig)}
    for field in dataclasses.fields(TrainConfig):
        default = defaults[field.name]
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            metavar="X",
            nargs="+" if isinstance(default, tuple) and default else None,
            help=field.metadata["help"] + (f" (default: {shown})" if shown not in ("", {}) else ""),
        )
    arguments = vars(parser.parse_args(argv))
    path = arguments.pop("config")
    values: dict[str, Any] = {}
    for key, value in (read_object(path) if path else {}).items():
        if key not in defaults:
            raise BadInput(f"{path} has the unknown key '{key}': see --help for the keys.")
        values[key] = _cast(key, value, defaults[key], path)
    for key, value in arguments.items():
        if value is not None:
            values[key] = _cast(key, value, defaults[key], "the command line")
    if file := values.get("network"):
        given = {key: value for key, value in values.items() if value or key not in ("max_steps", "batch_size")}
        values = {**_of_network(file, defaults), **given}
    return TrainConfig(**values)


def _of_network(file: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a network's file sets: defaults for those that the job leaves out."""
    settings = dict(network_file.load(file).settings)
    if "epochs" in settings:
        settings["max_steps"] = 0
    return {key: _cast(key, value, defaults[key], file) for key, value in settings.items()}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def read_object(path: str) -> dict[str, Any]:
    """Return the JSON object in a configuration file; raise BadInput where there is none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"The configuration {path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise BadInput(f"The configuration {path} isn't JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadInput(f"The configuration {path} isn't a JSON object of keys and values.")
    return content


def _cast(key: str, value: Any, default: Any, source: str) -> Any:
    """Return value in the default's type; text may hold a number, but a truth value is none."""
    if key == "arguments":
        words = shlex.split(value) if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)) or not all(isinstance(w, (str, int, float)) for w in words):
            raise BadInput(f"{key} is {value!r} in {source}: give a list of words.")
        return tuple(map(str, words))
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"{key} is {value!r} in {source}: give a list of numbers.")
        return tuple(_cast(key, item, 0.0, source) for item in value)
    if isinstance(default, dict):
        try:
            content = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise BadInput(f"{key} isn't JSON in {source}: {error}.") from error
        if not isinstance(content, dict):
            raise BadInput(f"{key} is {value!r} in {source}: give an object.")
        return content
    if isinstance(default, str):
        if not isinstance(value, str):
            raise BadInput(f"{key} is {value!r} in {source}: give a text.")
        return value
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise BadInput(f"{key} is {value!r} in {source}: give true or false.")
        return str(value).lower() == "true"
    kind, noun = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)
        if kind is int and not number.is_integer():
            raise ValueError
        return int(value) if kind is int and isinstance(value, str) and value.lstrip("+-").isdigit() else kind(number)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{key} is {value!r} in {source}: give {noun}.") from error
