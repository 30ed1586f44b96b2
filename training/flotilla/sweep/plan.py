"""A sweep's file, and the networks that it asks for: each a set of parameters that are laid over a base.

Pure logic: no data are read and nothing is trained here, and neither TensorFlow nor Optuna is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flotilla.job import documents, network_file
from flotilla.job.design import Design, fit
from flotilla.job.documents import Document, Place
from flotilla.job.errors import BadInput
from flotilla.sweep.base import HIDDEN, PLACES, Content, base_of, built, canonical, found_at, mapping, paths
from flotilla.sweep.values import CLOSE, MOST, Scalar, Values, product, rows

GRID, RANDOM, TPE = "grid", "random", "tpe"
MOST_LAYERS = 1000  # as network.schema.json has it
REGRESSION_LOSS = "mean_squared_error"
SHORTCUTS = (*HIDDEN, *PLACES)
_NAMES = {**{path: name for name, path in PLACES.items()}, "training.data_batch_size": "batch_size"}
FED = ("learning_rate", "training.epochs")  # what a traced network can be given anew

# What is varied where a sweep says nothing but its data and label. Of C. McLeod, "A Framework for Distributed Deep
# Learning Layer Design in Python", are the number of networks ("(1000-50000) DNNs on the same dataset", here the
# least), the share that is held out ("80% training and 20% testing"), and the layers: its networks flatten "around
# 500-700 hidden layers", and it wants "as few layers as possible"; so up to there, by factors of about two. It varies
# activations ("several different combinations of activation functions") and "the hyper-parameters" without a word of
# which values: those are ours.
SOURCE_TRIALS = 1000
SOURCE_SPLIT = 0.2
SOURCE_VARY: Content = {
    "layers": [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 700],
    "nodes": [16, 64],
    "activation": ["relu", "tanh", "sigmoid"],
    "optimizer": ["sgd", "adam"],
    "learning_rate": {"from": 0.0001, "to": 0.1, "scale": "log"},
    "batch_size": [32, 128],
}
EPOCHS = 20

_BOUND = {"type": "number", "minimum": -1e12, "maximum": 1e12}
_STEP = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e12}
_RANGE = {"from": _BOUND, "to": _BOUND, "step": _STEP, "scale": {"enum": ["linear", "log"]}}
_VALUES = {
    "minItems": 1, "if": {"type": "object"},
    "then": {"additionalProperties": False, "required": ["from", "to"], "properties": _RANGE},
}  # fmt: skip
SCHEMA: Content = {
    "type": "object", "additionalProperties": False, "required": ["data", "label"], "properties": {
        "data": {"type": "string", "minLength": 1}, "label": {"type": "string", "minLength": 1},
        "task": {"enum": ["auto", "classification", "regression"]},
        "split": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "seed": {"type": "integer", "minimum": 0}, "trials": {"type": "integer", "minimum": 1, "maximum": MOST},
        "how": {"enum": [GRID, RANDOM, TPE]}, "epochs": {"type": "number", "exclusiveMinimum": 0},
        "best": {"type": "integer", "minimum": 1}, "end_early": {"type": "boolean"}, "network": {},
        "columns": {"type": "object", "additionalProperties": {"enum": ["number", "category", "out"]}},
        "categories": {"type": "integer", "minimum": 2, "maximum": 10_000},
        "vary": {"type": "object", "additionalProperties": _VALUES},
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A file that is right: what it varies makes networks."""

    document: Document
    data: str
    label: str
    task: str
    split: float  # share of the rows that is held out
    seed: int
    trials: int  # that are asked for; of a grid all that there are
    how: str
    best: int  # how many models are kept
    end_early: bool  # whether trials without hope end before their last epoch
    columns: Mapping[str, str]  # what some columns have to be, whatever they look like
    categories: int  # values up to which texts are a category
    base: Content  # a network's file without what the data say
    vary: Mapping[str, Values]  # by shortcut or path
    base_lines: Document  # where errors of the base are

    @property
    def size(self) -> int | None:
        """How many parameter sets there are; None: no end of them."""
        return product(self.vary.values())


@dataclasses.dataclass(frozen=True)
class Point:
    """A network of a sweep; lists among its parameters are JSON text, so that any database and sampler holds them."""

    number: int
    identity: str  # of its parameters
    parameters: Mapping[str, Scalar]


class Network(NamedTuple):
    """What a point is for some data."""

    content: Content  # of its file
    design: Design
    settings: Mapping[str, object]  # of its training, with what the file leaves out


def load(path: str) -> Sweep:
    """Read a sweep's file; raise BadInput with one sentence that says where and what would be right."""
    return judge(documents.read(path, "sweep"))


def judge(document: Document) -> Sweep:
    """Return what a document says; raise BadInput."""
    content = document.content
    if not isinstance(content, dict):
        raise document.wrong((), "this is no sweep: write a mapping with the keys data and label.")
    network_file.check_form(document, SCHEMA)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", content["data"])
    if scheme and scheme[1] not in ("s3", "hdfs"):
        raise document.wrong(("data",), f"data is of {scheme[1]}://: give s3://, hdfs:// or a path on this host.")
    given = content.get("vary", {} if "network" in content else SOURCE_VARY)
    if not given:
        raise document.wrong(
            ("vary",) if "vary" in content else ("network",),
            f"nothing varies, so all networks were the same: write what does under vary ({', '.join(SHORTCUTS)}, or "
            "a path such as training.momentum).",
        )
    base, base_lines = base_of(document, content)
    training = mapping(base["training"])
    if "epochs" in content and "training.epochs" in given:
        raise document.wrong(("epochs",), "epochs and vary's training.epochs are the same: keep one of them.")
    training["epochs"] = content.get("epochs", training.get("epochs", EPOCHS))
    vary: dict[str, Values] = {}
    for key, wanted in given.items():
        name = _name(document, key, base)
        if name in vary:
            raise document.wrong(("vary", key), f"{key} sets the same as another key of vary, {name}: keep one.")
        vary[name] = _values(document, key, wanted)
    how = content.get("how", RANDOM)
    sweep = Sweep(
        document, content["data"], content["label"], content.get("task", "auto"),
        float(content.get("split", SOURCE_SPLIT)), int(content.get("seed", 0)),
        int(content.get("trials", MOST if how == GRID else SOURCE_TRIALS)), how, int(content.get("best", 5)),
        bool(content.get("end_early", False)), content.get("columns", {}), int(content.get("categories", 100)),
        base, vary, base_lines,
    )  # fmt: skip
    _check_values(sweep, {_NAMES.get(key, key): key for key in given})
    return dataclasses.replace(sweep, trials=_grid(sweep)) if how == GRID else sweep


def _grid(sweep: Sweep) -> int:
    """Return how many networks a grid has; raise BadInput where it can't be trained."""
    place: Place = ("vary",)
    for name, values in sweep.vary.items():
        if values.count is None:
            raise sweep.document.wrong(
                place, f"{name} is anything {values}, and a grid has no end so: give step, a list, or how: random."
            )
    size = sweep.size or 0
    if size > sweep.trials:
        asked = "trials asks for" if "trials" in mapping(sweep.document.content) else "a sweep has at most"
        raise sweep.document.wrong(
            place,
            f"the grid has {size:,} networks, and {asked} {sweep.trials:,}: vary less, or write how: random, which "
            "takes some of them.",
        )
    return size


def _name(document: Document, key: str, base: Content) -> str:
    """Return a key of vary as it is used; raise BadInput where the network has none."""
    name, place = _NAMES.get(key, key), ("vary", key)
    if name in SHORTCUTS:
        return name
    parts = key.split(".")
    of_data = parts[:2] in (["network", "classes"], ["network", "input"], ["network", "scale"])
    if of_data or parts[0] in ("fleet", "ecs"):
        raise document.wrong(place, f"{key} is what the data or the fleet say: leave it out.")
    above = found_at(base, parts[:-1])
    known = len(parts) > 1 and (
        isinstance(above, dict) or (isinstance(above, list) and parts[-1].isdecimal() and int(parts[-1]) < len(above))
    )
    if not known:
        near = difflib.get_close_matches(key, [*SHORTCUTS, *paths(base)], 1, 0.0)[0]
        raise document.wrong(
            place,
            f"vary has {key}, and no layer or key of the network is called so: the nearest is {near} "
            f"(short ones are {', '.join(SHORTCUTS)}; layers of a path count from 0).",
        )
    return name


def _values(document: Document, key: str, given: object) -> Values:
    """Return what is written for a key of vary; raise BadInput."""
    place: Place = ("vary", key)
    if isinstance(given, list):
        choices: list[Scalar] = []
        for number, value in enumerate(given):
            if not isinstance(value, (str, int, float, list, dict)):
                raise document.wrong((*place, number), f"{key} has an empty value, or a date: write text or a number.")
            frozen = canonical(value) if isinstance(value, (list, dict)) else value
            if frozen in choices:
                raise document.wrong((*place, number), f"{key} has {frozen} twice: leave one out.")
            choices.append(frozen)
        return Values(tuple(choices))
    if not isinstance(given, dict):
        raise document.wrong(
            place, f"{key} is one value: write a list of choices, or {{from: …, to: …}}; what is fixed is network's."
        )
    low, high, step = given["from"], given["to"], given.get("step", 0)
    log = given.get("scale") == "log"
    if low > high:
        raise document.wrong((*place, "from"), f"{key} goes from {low} to {high}: write the smaller one first.")
    if log and low <= 0:
        raise document.wrong((*place, "from"), f"{key} has a log scale from {low}: it has to begin above 0.")
    if log and step:
        raise document.wrong(
            (*place, "step"), f"{key} has steps on a log scale: leave one of them out, or write a list."
        )
    if low == high:
        return Values((low,))
    whole = all(isinstance(value, int) for value in (low, high, step))
    values = Values((), low if whole else float(low), high if whole else float(high), step, log)
    if values.count is None and high - low < CLOSE * max(abs(low), abs(high)):
        raise document.wrong((*place, "to"), f"{key} goes from {low} to {high}, as good as the same: write a list.")
    return values


def _check_values(sweep: Sweep, keys: Mapping[str, str]) -> None:
    """Build a network of each choice and each end of a range, beside the others' first ones; raise BadInput."""
    # Two classes and a column, where the base doesn't say it, stand for those of the data
    classes = 0 if sweep.task == "regression" else int(str(mapping(sweep.base["network"]).get("classes", 2)))
    _made(sweep, {}, (), classes, sweep.base_lines)
    first = {name: values.ends[0] for name, values in sweep.vary.items()}
    last = {name: values.ends[1] for name, values in sweep.vary.items()}
    for name, values in sorted(sweep.vary.items(), key=lambda one: one[0] != "layers"):  # the others need its first
        place: Place = ("vary", keys[name])
        ends = zip(("from", "to"), values.ends, strict=True)
        for at, value in enumerate(values.choices) if values.choices else ends:
            lines = sweep.document._replace(lines={(): sweep.document.line((*place, at))})
            if name == "layers" and (
                isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_LAYERS
            ):
                raise lines.wrong((), f"layers has {value}: write whole numbers from 1 to {MOST_LAYERS}.")
            _made(sweep, {**first, name: value}, (), classes, lines)
        if values.count != 1 and built(sweep.base, {**last, name: first[name]}) == built(sweep.base, last):
            raise sweep.document.wrong(
                place,
                f"{keys[name]} changes no network: the base has no such layer, or another key of vary sets the same: "
                "leave one out.",
            )


def count(sweep: Sweep) -> int:
    """Return how many points there are: those that are asked for, or all, where there are fewer."""
    return sweep.trials if sweep.how == TPE else min(sweep.trials, sweep.size or sweep.trials)


def points(sweep: Sweep) -> Iterator[Point]:
    """Yield the points of a grid or of a random sweep, none twice, the same ones in every process.

    Those of one architecture come one after the other: to trace a network costs more than to train it.
    """
    if sweep.how == TPE:
        raise ValueError("A sampler makes its points one by one, of the results before: see sampler.")
    order = sorted(sweep.vary, key=FED.__contains__)  # stable: the file's order in both parts
    cut = sum(name not in FED for name in order)
    for number, row in enumerate(rows([sweep.vary[name] for name in order], cut, sweep.trials, sweep.seed)):
        found = dict(zip(order, row, strict=True))
        yield point_of({name: found[name] for name in sweep.vary}, number)


def point_of(parameters: Mapping[str, Scalar], number: int = 0) -> Point:
    """Return the point of parameters that `points`, a sampler or a database has given."""
    # A sampler's steps are 0.1 + 2 * 0.1
    found = {name: float(f"{v:.15g}") if isinstance(v, float) else v for name, v in parameters.items()}
    return Point(number, _digest(found), found)


def architecture_of(point: Point) -> str:
    """Return a key of a sweep's points that one traced network can train: from other weights, at other rates."""
    return _digest({name: value for name, value in point.parameters.items() if name not in FED})


def seed_of(sweep: Sweep, point: Point) -> int:
    """Return the seed of a point's start weights and order of rows: the same one for the same parameters."""
    return int(_digest({"seed": sweep.seed, "point": point.identity}), 16) % 2**31


def identity_of(sweep: Sweep, table: str) -> str:
    """Return a digest of all that decides what a sweep's trials are; `table` is that of its table's file."""
    return hashlib.sha256(canonical([sweep.document.content, sweep.base, table]).encode()).hexdigest()


def network_of(sweep: Sweep, point: Point, columns: Sequence[str], classes: int) -> Content:
    """Return the content of a point's network file, which training_network takes as it is where there are classes.

    Args:
        columns: the names of the features, as the data have them.
        classes: of the label; 0 for a regression. Then classes is 1, and the loss mean_squared_error. The kit's own
            training has no regression yet: network.schema.json wants 2 classes, and estimator.py labels that count
            them and accuracy.
    """
    return made(sweep, point, columns, classes).content


def made(sweep: Sweep, point: Point, columns: Sequence[str], classes: int) -> Network:
    """Return what `network_of` does, with its layers' shapes and its settings; raise BadInput where they don't fit."""
    if classes == 1 or (not classes and sweep.task == "classification"):
        raise BadInput(f"{sweep.label} has {classes} classes in {sweep.data}: there is nothing to tell apart.")
    return _made(sweep, point.parameters, columns, classes, sweep.base_lines)


def _made(
    sweep: Sweep, parameters: Mapping[str, Scalar], columns: Sequence[str], classes: int, lines: Document
) -> Network:
    """Build and judge a network; without columns, for those that the base has."""
    content = built(sweep.base, parameters)
    network, training = mapping(content["network"]), mapping(content["training"])
    own = mapping(network.get("input", {})).get("columns", list(columns) or ["column"])
    if columns and own != list(columns):
        raise lines.wrong(
            ("network", "input", "columns"), "columns aren't those that the data have, in their order: leave input out."
        )
    given = network.get("classes", classes) if classes else 1
    content["network"] = network = {"input": {"columns": own}, **network, "classes": given}
    taken = network if classes else {**network, "classes": 2}  # the schema knows no regression
    if not classes:
        training.pop("metrics", None)  # all of them are of classes
        if training.setdefault("loss", REGRESSION_LOSS) != REGRESSION_LOSS:
            raise lines.wrong(
                ("training", "loss"),
                f"loss is {training['loss']}, which is of classes, and this is a regression: write {REGRESSION_LOSS}.",
            )
    file = network_file.judge(lines._replace(content={**content, "network": taken}))
    width = (len(file.columns),)
    design = file.design(width, classes)
    if not classes:
        design = dataclasses.replace(fit(file.layers, width, 1), columns=design.columns, metrics=())
    return Network(content, design, file.settings)


def says(sweep: Sweep, count: int) -> list[str]:
    """Return the plan of so many points, a line each thing."""
    training = mapping(sweep.base["training"])
    sets = "endlessly many" if sweep.size is None else f"{sweep.size:,}"
    how = {
        GRID: "a grid: every set of parameters",
        RANDOM: f"drawn at random (seed {sweep.seed}) of {sets} sets of parameters",
        TPE: f"chosen by TPE (seed {sweep.seed}) of {sets} sets of parameters, by what the earlier ones reach",
    }[sweep.how]
    if sweep.how == RANDOM and sweep.size is not None and sweep.size <= sweep.trials:
        how = f"every set of parameters: {sweep.trials:,} are asked for, and there are no more"
    kinds = product(values for name, values in sweep.vary.items() if name not in FED)
    most = count if kinds is None else min(kinds, count)
    name = sweep.document.name.rpartition("/")[2]
    lines = [
        f"The sweep {name}: {count:,} networks that learn {sweep.label} of {sweep.data}; "
        f"{sweep.split * 100:g} % of the rows are held out, the best {min(sweep.best, count)} are kept.",
        f"They are {how}, in at most {most:,} architectures.",
    ]
    if "training.epochs" not in sweep.vary:
        lines.append(f"epochs: {training['epochs']:g}")
    return [*lines, *(f"{name}: {values}" for name, values in sweep.vary.items())]


def _digest(parameters: Mapping[str, Scalar]) -> str:
    return hashlib.sha256(canonical(dict(parameters)).encode()).hexdigest()[:12]
