"""The network that a sweep's networks are made of, and what lays parameters over it.

It is a network's file (docs/networks.md) without what the data say: its input and, where it leaves them out, classes.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flotilla.job import documents, network_file
from flotilla.job.documents import Document
from flotilla.sweep.values import Scalar

# What `layers`, `nodes`, `activation` and `dropout` are of is all hidden layers; the others have one place.
HIDDEN = ("layers", "nodes", "activation", "dropout")
PLACES = {name: f"training.{name}" for name in ("optimizer", "learning_rate", "batch_size")}

Content = dict[str, object]

DENSE: Content = {"dense": {"units": 32, "activation": "relu"}}  # a hidden layer of which nothing is said
BASE: Content = {"network": {"layers": [DENSE]}, "training": {"optimizer": "adam", "batch_size": 128}}


def base_of(document: Document, content: Content) -> tuple[Content, Document]:
    """Return the network that all are made of, in the form that paths go by; and its lines."""
    given = content.get("network", copy.deepcopy(BASE))
    own = Document(document.name, given, {(): document.line(("network",) if "network" in content else ())})
    if isinstance(given, str):
        if Path(given).name == Path(document.name).name:
            raise document.wrong(("network",), "network's file has the name of the sweep's: rename one of them.")
        beside = Path(document.name).parent
        at = beside / Path(given).name  # on a fleet it lies beside the sweep's file
        own = documents.read(str(beside / given if (beside / given).is_file() or not at.is_file() else at))
    elif isinstance(given, dict):
        own.lines.update({place[1:]: line for place, line in document.lines.items() if place[:1] == ("network",)})
        if {"path", "file"} & given.keys():
            raise document.wrong(
                ("network",), "network is a path or a network's content, not both: write network: PATH, or the content."
            )
        if "layers" in given:
            raise document.wrong(
                ("network", "layers"), "layers is a key too high: a network's file has it under network, so here it is "
                "network: {network: {layers: …}, training: …}."
            )  # fmt: skip
    else:
        raise document.wrong(("network",), "network is neither a path nor a network's content: write one of them.")
    whole = copy.deepcopy(own.content)
    if isinstance(whole, dict) and isinstance(whole.get("network"), dict):
        whole["network"].setdefault("classes", 2)  # else the data's
    file = network_file.judge(own._replace(content=whole))
    base = mapping(copy.deepcopy(own.content))
    if "neural_network" in base:
        raise own.wrong(
            ("neural_network",), "Cuttlefish's form is of images, and a sweep's rows are none: write network."
        )
    if file.image:
        raise own.wrong(("network", "input", "image"), "a sweep's rows are columns, not images: leave input out.")
    network, training = mapping(base["network"]), mapping(base.setdefault("training", {}))
    network["layers"] = _spelled(network["layers"])
    if "data_batch_size" in training:
        training["batch_size"] = training.pop("data_batch_size")
    return base, own


def built(base: Content, parameters: Mapping[str, Scalar]) -> Content:
    """Lay parameters over a base: first what has a place of its own, then what is of all hidden layers."""
    content = copy.deepcopy(base)
    for name, value in parameters.items():
        if name not in HIDDEN:
            *above, last = PLACES.get(name, name).split(".")
            holder = found_at(content, above)
            if isinstance(holder, list):
                holder[int(last)] = _thawed(value)
            else:
                mapping(holder)[last] = _thawed(value)
    network = mapping(content["network"])
    network["layers"] = _stack(_spelled(network["layers"]), parameters)
    return content


def _stack(layers: object, parameters: Mapping[str, Scalar]) -> object:
    """Change the hidden layers: each dense layer, with what follows it up to the next one.

    With `layers`, all are as the first one is. `activation` is that of the layer itself, or of the activation layers
    that follow it; `dropout` that of the dropout layers, or of one after each hidden layer where there is none.
    """
    if not isinstance(layers, list) or not set(HIDDEN) & parameters.keys():
        return layers
    begins = [n for n, layer in enumerate(layers) if isinstance(layer, dict) and "dense" in layer]
    head = layers[: begins[0]] if begins else layers
    hidden = [layers[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)] if begins else []
    if "layers" in parameters:
        pattern = copy.deepcopy(hidden[0] if hidden else [DENSE])
        for layer in pattern:
            for options in layer.values() if isinstance(layer, dict) else ():
                if isinstance(options, dict):
                    options.pop("name", None)  # of one layer alone
        hidden = [copy.deepcopy(pattern) for _copy in range(int(parameters["layers"]))]
    dropped = any("dropout" in layer for layer in layers if isinstance(layer, dict))
    for group in hidden:
        dense, *after = [layer for layer in group if isinstance(layer, dict)]
        activations = [layer for layer in after if "activation" in layer]
        if "nodes" in parameters:
            dense["dense"]["units"] = parameters["nodes"]
        if "activation" in parameters:
            for options in activations or [dense["dense"]]:
                options["activation"] = parameters["activation"]
        if "dropout" in parameters and not dropped:
            group.append({"dropout": parameters["dropout"]})
    stacked = [*head, *itertools.chain.from_iterable(hidden)]
    for layer in stacked if "dropout" in parameters else ():
        if isinstance(layer, dict) and "dropout" in layer:
            layer["dropout"] = parameters["dropout"]
    return stacked


def _spelled(layers: object) -> object:
    """Write `dense: 100` as `dense: {units: 100}`, so that its options have a place."""
    if not isinstance(layers, list):
        return layers
    return [
        {**layer, "dense": {"units": layer["dense"]}}
        if isinstance(layer, dict) and not isinstance(layer.get("dense", {}), dict)
        else layer
        for layer in layers
    ]


def found_at(content: object, parts: Sequence[str]) -> object:
    """Return what is at a path, or None."""
    for part in parts:
        if isinstance(content, list) and part.isdecimal() and int(part) < len(content):
            content = content[int(part)]
        else:
            content = content.get(part) if isinstance(content, dict) else None
    return content


def paths(content: object, above: str = "") -> Iterator[str]:
    """Yield all paths, layers counted from 0."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield f"{above}{key}"
        yield from paths(value, f"{above}{key}.")


def mapping(value: object) -> Content:
    assert isinstance(value, dict)
    return value


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _thawed(value: Scalar) -> object:
    """Return a list or mapping of its JSON text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
