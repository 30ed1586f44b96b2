"""Networks that are YAML files: read, judged with the line of every error, and made layers of.

Two forms are taken: Cuttlefish's own (T. N. Brooks et al., "Cuttlefish: A Library For Building Distributed Neural
Networks"), and a richer one. network.schema.json says what may stand in both; what it can't say is judged here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from flotilla.job import documents
from flotilla.job.design import Design, Layer, Misfit, Shape, blocks, fit, show
from flotilla.job.documents import Document, Place
from flotilla.job.errors import BadInput

SCHEMA = Path(__file__).with_name("network.schema.json")
DIGITS: Shape = (28, 28, 1)  # what is taken for the input where neither a file nor data say it
# What Cuttlefish's networks are trained by, as the TensorFlow examples of their time were.
CUTTLEFISH = {"optimizer": "adam", "schedule": "linear"}
# What a file leaves out of `training`; a job's other keys have their own defaults.
DEFAULTS = {
    "optimizer": "momentum",
    "schedule": "constant",
    "learning_rate": 0.01,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "augment": False,
}
RATES = {"adam": 0.001, "rmsprop": 0.001}
UNUSED = (
    "is Cuttlefish's place on AWS's container service and isn't used: the fleet is fleet_groups, in the account and "
    "region of the inventory."
)
_NOUNS = {
    "integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false",
    "array": "a list", "object": "a mapping of keys and values",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NetworkFile:
    """A file whose form is right; whether its layers fit their input, `design` says."""

    document: Document
    layers: tuple[Layer, ...]
    places: tuple[Place, ...]  # of the layers
    classes: int
    image: Shape = ()  # height, width, channels; empty where the data set says it
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    scale: str = "signed"
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)  # keys of the job
    servers: int = 0  # parameter servers; 0 where the file doesn't say it
    groups: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)  # as fleet_groups
    notes: tuple[str, ...] = ()  # sentences about what isn't used

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def identity(self) -> str:
        """A digest of what has to be the same for a checkpoint to be restored and a job to be done."""
        layers = [dataclasses.astuple(layer) for layer in self.layers]
        return hashlib.sha256(json.dumps([layers, self.classes, self.columns, self.scale]).encode()).hexdigest()[:12]

    @property
    def batch_size(self) -> int:
        return int(str(self.settings.get("batch_size", 128)))

    def design(self, shape: Shape = (), classes: int = 0) -> Design:
        """Return the layers for examples of this shape; raise BadInput where they don't fit.

        Args:
            shape: (height, width, channels) of images or (values,) of columns, as the data set has them.
            classes: of the data set; 0 where it isn't known.
        """
        if classes and classes != self.classes:
            keys: Place = ("neural_network", "num_classes") if self._cuttlefish else ("network", "classes")
            raise self.document.wrong(
                keys, f"{keys[-1]} is {self.classes}, and the data set has {classes} classes: write {classes}."
            )
        if shape and self.image and shape != self.image:
            raise self.document.wrong(
                ("network", "input", "image"),
                f"image is {show(self.image)}, and the data set has images of {show(shape)} (height, width, channels): "
                f"write {list(shape)}, or leave input out.",
            )
        try:
            default = (len(self.columns),) if self.columns else DIGITS
            found = fit(self.layers, shape or self.image or default, self.classes)
        except Misfit as error:
            place = self.places[min(error.place, len(self.places) - 1)]
            raise self.document.wrong(place, f"layer {error.place + 1}, {error}") from error
        return dataclasses.replace(found, columns=self.columns, metrics=self.metrics, scale=self.scale)

    @property
    def _cuttlefish(self) -> bool:
        return isinstance(self.document.content, dict) and "neural_network" in self.document.content


@functools.lru_cache(maxsize=4)
def load(path: str) -> NetworkFile:
    """Read a network's file; raise BadInput with one sentence that says where and what would be right."""
    return judge(documents.read(path))


def judge(document: Document) -> NetworkFile:
    """Return what a document says; raise BadInput."""
    content = document.content
    if not isinstance(content, dict):
        raise document.wrong((), "this is no network: write a mapping with the key network or neural_network.")
    check_form(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    if ("network" in content) == ("neural_network" in content):
        both = "both network and neural_network are there: keep one." if "network" in content else (
            "there is no network: write the key network (docs/networks.md), or Cuttlefish's neural_network."
        )  # fmt: skip
        raise document.wrong(("network",) if "network" in content else (), both)
    training = dict(content.get("training", {}))
    notes = [f"{document.name}, line {document.line(('ecs',))}: ecs {UNUSED}"] if "ecs" in content else []
    servers = int(training.pop("num_parameter_servers", 0))
    if {"batch_size", "data_batch_size"} <= training.keys():
        raise document.wrong(
            ("training", "data_batch_size"), "batch_size and data_batch_size are the same: keep one of them."
        )
    if "data_batch_size" in training:
        training["batch_size"] = training.pop("data_batch_size")
    metrics = tuple(dict.fromkeys(["accuracy", *training.pop("metrics", [])]))
    own = CUTTLEFISH if "neural_network" in content else {}
    settings = {**DEFAULTS, **own, **training}
    if "learning_rate" not in training:
        settings["learning_rate"] = RATES.get(str(settings["optimizer"]), DEFAULTS["learning_rate"])
    _check_schedule(document, settings)
    groups = {name: dict(group) for name, group in content.get("fleet", {}).items()}
    if servers and groups.get("ps", {}).get("count", servers) != servers:
        raise document.wrong(
            ("fleet", "ps", "count"),
            f"count is {groups['ps']['count']}, and num_parameter_servers is {servers}: keep one of them.",
        )
    servers = servers or int(groups.get("ps", {}).get("count", 0))
    if not servers and "count" in groups.get("ps", {}):
        raise document.wrong(
            ("fleet", "ps", "count"), "count is 0, but a fleet has a parameter server: write 1 or more."
        )
    if "neural_network" in content:
        layers, places = _dense_stack(document, content["neural_network"])
        return NetworkFile(
            document, layers, places, content["neural_network"]["num_classes"], metrics=metrics, scale="unit",
            settings=settings, servers=servers, groups=groups, notes=tuple(notes),
        )  # fmt: skip
    network = content["network"]
    given = network.get("input", {})
    if "columns" in given and settings["augment"]:
        raise document.wrong(
            ("training", "augment"), "augment crops and flips images, and columns are none: leave it out."
        )
    layers, places = _layers(document, network)
    return NetworkFile(
        document, layers, places, network["classes"], tuple(given.get("image", ())), tuple(given.get("columns", ())),
        metrics, str(network.get("scale", "signed")), settings, servers, groups, tuple(notes),
    )  # fmt: skip


def _dense_stack(document: Document, network: Mapping[str, object]) -> tuple[tuple[Layer, ...], tuple[Place, ...]]:
    """Return Cuttlefish's hidden layers."""
    count, nodes = int(str(network["num_of_hidden_layers"])), network["num_nodes_per_layer"]
    widths = nodes if isinstance(nodes, list) else [nodes] * count
    place: Place = ("neural_network", "num_nodes_per_layer")
    if len(widths) != count:
        raise document.wrong(
            place,
            f"num_nodes_per_layer lists {len(widths)} layers, and num_of_hidden_layers is {count}: write {len(widths)} "
            "there, or leave out or add widths here (neither input nor output counts as one).",
        )
    dense = [
        Layer("dense", f"dense{n}", size=size, activation="relu", initializer="he_normal")
        for n, size in enumerate(widths)
    ]
    return (Layer("flatten"), *dense), (place,) * (count + 1)


def _layers(document: Document, network: Mapping[str, object]) -> tuple[tuple[Layer, ...], tuple[Place, ...]]:
    """Return the layers of our form, with the places that errors point to."""
    found: list[Layer] = []
    places: list[Place] = []
    given = network["layers"]
    assert isinstance(given, list)
    names: dict[str, Place] = {}
    counts: dict[str, int] = {}
    for number, entry in enumerate(given):
        (kind, value), *_more = entry.items() if isinstance(entry, dict) else [(entry, None)]
        options = dict(value) if isinstance(value, dict) else {}
        if kind == "dense" and not options:
            options = {"units": value}
        place: Place = ("network", "layers", number) if value is None else ("network", "layers", number, kind)
        position = counts.setdefault(kind, 0)
        counts[kind] += 1
        default = f"stage{position}" if kind == "block" else f"{kind}{position}"
        name = str(options.pop("name", default)) if kind in ("dense", "conv", "block") else ""
        if name and (name in names or name in ("dense", "batch_norm")):
            other = f"in line {document.line(names[name])}" if name in names else "by the kit"
            raise document.wrong(place, f"the name {name} is already taken {other}: give this layer another.")
        if name:
            names[name] = place
        layer = _layer(kind, value, options, name, str(network.get("initializer", "glorot_uniform")))
        more = blocks(layer, int(options.get("repeat", 1))) if kind == "block" else [layer]
        found += more
        places += [place] * len(more)
    return tuple(found), tuple(places) or (("network", "layers"),)


def _layer(kind: str, value: object, options: dict[str, object], name: str, initializer: str) -> Layer:
    """Return a layer of our form."""
    if kind == "activation":
        return Layer("activation", activation=str(value))
    if kind == "dropout":
        return Layer("dropout", rate=float(str(value)))
    if kind == "batch_norm":
        return Layer("batch_norm")
    if kind == "flatten":
        return Layer("flatten")
    if kind == "global_average_pool":
        return Layer("global_average_pool")

    def whole(key: str, default: int) -> int:
        return int(str(options.get(key, default)))

    if kind == "pool":
        size = whole("size", 1)
        padding = str(options.get("padding", "same"))
        return Layer(
            "pool", size=size, stride=whole("stride", size), padding=padding, average=options.get("type") == "average"
        )
    first = str(options.get("initializer", initializer))
    if kind == "block":
        return Layer("block", name, size=whole("filters", 1), stride=whole("stride", 1), initializer=first)
    return Layer(
        "conv" if kind == "conv" else "dense",
        name,
        size=whole("filters" if kind == "conv" else "units", 1),
        kernel=whole("kernel", 1),
        stride=whole("stride", 1),
        padding=str(options.get("padding", "same")),
        activation=str(options.get("activation", "none")),
        initializer=first,
        bias=bool(options.get("bias", True)),
        l1=float(str(options.get("l1", 0))),
        l2=float(str(options.get("l2", 0))),
    )


def _check_schedule(document: Document, settings: Mapping[str, object]) -> None:
    """Refuse what the schedule doesn't use, or lacks."""
    epochs, factors = settings.get("learning_rate_epochs"), settings.get("learning_rate_factors")
    steps = settings["schedule"] == "steps"
    for key, value in (("learning_rate_epochs", epochs), ("learning_rate_factors", factors)):
        if value is not None and not steps:
            raise document.wrong(("training", key), f"{key} is of schedule: steps: write that, or leave {key} out.")
        if value is None and steps:
            raise document.wrong(("training", "schedule"), f"schedule: steps needs {key}: write a list of numbers.")
    if isinstance(epochs, list) and isinstance(factors, list):
        if len(factors) != len(epochs) + 1:
            raise document.wrong(
                ("training", "learning_rate_factors"),
                f"learning_rate_factors has {len(factors)} numbers for {len(epochs)} learning_rate_epochs: "
                f"write {len(epochs) + 1}, the first for the time before.",
            )
        if epochs != sorted(set(epochs)):
            raise document.wrong(("training", "learning_rate_epochs"), "learning_rate_epochs don't grow: sort them.")
    if "momentum" in settings and settings["optimizer"] != "momentum":
        raise document.wrong(
            ("training", "momentum"),
            f"momentum is of optimizer: momentum, not of {settings['optimizer']}: leave it out.",
        )


def check_form(document: Document, schema: Mapping[str, object]) -> None:
    """Hold a document against a schema; raise BadInput for the first error, by lines."""
    try:
        import jsonschema
    except ImportError as error:
        why = "A network's file is judged by the Python package jsonschema, which isn't there: pip install jsonschema."
        raise BadInput(why) from error
    strict = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=strict)(schema)  # 32.0 isn't
    found = sorted(validator.iter_errors(document.content), key=lambda one: document.line(tuple(one.absolute_path)))
    if not found:
        return
    first = found[0]
    place: Place = tuple(first.absolute_path)
    if first.validator == "additionalProperties":
        known = sorted(first.schema["properties"])
        # Where there may be several, the one of the least line
        unknown = min((key for key in first.instance if key not in known), key=lambda key: document.line((*place, key)))
        raise document.wrong((*place, unknown), f"{_where(place)} has no key {unknown}: {_near(unknown, known)}")
    raise document.wrong(place, _sentence(first.validator, first.validator_value, first.instance, place, first.schema))


def _sentence(rule: str, wanted: object, value: object, place: Place, schema: Mapping[str, object]) -> str:
    """Say which value breaks a rule of the schema, and what would be right."""
    shown = _shown(value)
    where = _where(place)
    if rule == "required" and isinstance(wanted, list) and isinstance(value, dict):
        missing = next(key for key in wanted if key not in value)
        return f"{where} has no {missing}: write it."
    if rule == "type":
        return f"{where} is {shown}: write {_NOUNS.get(str(wanted), str(wanted))}."
    if rule == "enum" and isinstance(wanted, list):
        return f"{where} is {shown}: {_near(value, wanted)}"
    words = {
        "minimum": f"at least {wanted}", "maximum": f"at most {wanted}", "exclusiveMinimum": f"more than {wanted}",
        "exclusiveMaximum": f"less than {wanted}", "minLength": "some text",
        "uniqueItems": "each one once only",
    }  # fmt: skip
    if rule in words:
        return f"{where} is {shown}: write {words[rule]}."
    if rule in ("minItems", "maxItems") and isinstance(value, list):
        fixed = schema.get("minItems") == schema.get("maxItems")
        count = f"{wanted}" if fixed else f"at {'least' if rule == 'minItems' else 'most'} {wanted}"
        what = schema.get("description", "values")
        return f"{where} has {len(value)} values: write {count} ({what})."
    if rule in ("minProperties", "maxProperties") and isinstance(value, dict):
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        keys = " and ".join(map(str, value)) or "nothing"
        return f"{where} has {keys}: write one of {', '.join(properties)}."
    if rule == "pattern":
        return f"{where} is {shown}: write it as the pattern {wanted} has it."
    return f"{where} is {shown}, which the rule {rule} {wanted} refuses."


def _near(value: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(value), known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else f"take one of {', '.join(known)}."


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    text = str(value) if isinstance(value, (int, float)) else repr(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 40 else f"{text[:40]}…"


def _where(place: Place) -> str:
    """Return the keys to a value, layers counted from 1; at the top, the file."""
    text = ""
    for part in place:
        text += f" {part + 1}" if isinstance(part, int) else (f".{part}" if text else part)
    return text or "the file"
