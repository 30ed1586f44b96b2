"""A SavedModel: where it is, what it takes and gives, and its call."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from flotilla.inference.arrays import Array, Arrays
from flotilla.inference.inputs import (
    IMAGES,
    RECORDS,
    Item,
    Source,
    Value,
    image_of,
    is_number,
    label_name,
    open_source,
)
from flotilla.job.errors import BadInput, Mismatch
from flotilla.storage import manifest

if TYPE_CHECKING:
    import tensorflow as tf

GRAPH = "saved_model.pb"
DEFAULT = "serving_default"
LEAST_SIDE = 8  # pixels of an image that is given as a row of numbers; shorter rows are columns
MODEL_FORMAT = "flotilla-model/"
# Names of outputs that are classes' scores, the best one first; and what those are
_SCORES = {
    "probabilities": "probabilities",
    "scores": "probabilities",
    "softmax": "probabilities",
    "predictions": "",
    "logits": "logits",
}


class Input(TypedDict):
    """One of the tensors that a model takes."""

    dtype: str  # as numpy has it; object: bytes
    shape: list[int | None]  # without the batch
    batch: int  # how many inputs a call has to have; 0: any number


class Facts(TypedDict):
    """What is known of a model, so that every task does the same with it."""

    signature: str
    takes: str  # images, encoded images, examples, columns, or what the user's function makes: own
    inputs: dict[str, Input]
    size: list[int | None]  # of images: height, width, channels
    layout: str  # of images: channels last, channels first or flat
    scores: str  # the output of classes' scores; empty: the model gives none
    meaning: str  # of these: probabilities, logits or scores; values where there are none
    outputs: list[str]  # all of them
    classes: int  # 0 where the model gives none
    names: list[str]  # of the classes; none: numbers
    label: str  # the column or feature that is one, and isn't the model's; empty: none
    own: dict[str, str]  # what the user's columns hold (inference/own.py, kind_of)
    identity: str  # changes with every other model
    job: str  # which has made it; empty: not one of ours


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a SavedModel lies."""

    source: Source
    folder: str  # of saved_model.pb, below the source; empty or ending in a slash
    identity: str
    job: str
    names: tuple[str, ...]
    sums: Mapping[str, str]  # SHA-256 by path, where a manifest has them


def locate(url: str) -> Place:
    """Find the SavedModel in a folder, a stored model's or one alone; raise BadInput."""
    source = open_source(url)
    objects = {one.path: one for one in source.objects()}
    if not objects:
        raise BadInput(f"There is nothing in {source.url()} (infer_model): name the folder of a model.")
    graphs = [path for path in objects if path.rsplit("/", 1)[-1] == GRAPH]
    if not graphs:
        hint = " (a job of a program that exports none leaves a checkpoint alone)" if "result.json" in objects else ""
        raise BadInput(f"{source.url()} holds no {GRAPH}{hint}: infer_model has to name a SavedModel's folder.")
    preferred = [path for path in (GRAPH, f"saved_model/{GRAPH}") if path in graphs]
    if not preferred and len(graphs) > 1:
        raise BadInput(
            f"{source.url()} holds {len(graphs)} models, in {', '.join(sorted(graphs)[:3])}: name the folder of one."
        )
    folder = (preferred or graphs)[0].removesuffix(GRAPH)
    files = [(path, one.size, one.etag) for path, one in sorted(objects.items()) if path.startswith(folder)]
    identity, job = hashlib.sha256(json.dumps(files).encode()).hexdigest(), ""
    names: tuple[str, ...] = ()
    sums: dict[str, str] = {}
    if manifest.NAME in objects:
        raw = b"".join(source.stream(objects[manifest.NAME]))
        found = _ours(raw)
        if found:
            identity, job = hashlib.sha256(raw).hexdigest(), str(found.get("job", ""))
            labels = found.get("labels")
            names = tuple(map(str, labels)) if isinstance(labels, list) else ()
            entries = found.get("files")
            for entry in entries if isinstance(entries, list) else []:
                sums[str(entry["path"])] = str(entry["sha256"])
    return Place(source, folder, identity, job, names, sums)


def _ours(raw: bytes) -> dict[str, object]:
    try:
        content = json.loads(raw)
    except ValueError:
        return {}
    ours = isinstance(content, dict) and str(content.get("format", "")).startswith(MODEL_FORMAT)
    return content if ours else {}


def fetch(place: Place, models_dir: str) -> Path:
    """Return the folder of the model on this host's disk, copied there once, by the first process that needs it.

    Models of earlier jobs are deleted. Raises Mismatch where a file isn't what the model's manifest says.
    """
    home = Path(models_dir)
    home.mkdir(parents=True, exist_ok=True)
    to = home / place.identity[:32]
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (to / place.folder / GRAPH).exists():
            return to / place.folder
        for other in home.iterdir():
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
        part = home / f".{os.getpid()}"
        for one in place.source.objects():
            if not one.path.startswith(place.folder):
                continue
            data = b"".join(place.source.stream(one))
            if place.sums.get(one.path, hashlib.sha256(data).hexdigest()) != hashlib.sha256(data).hexdigest():
                raise Mismatch(f"{place.source.url(one.path)} isn't what the model's manifest says: store it again.")
            file = part / one.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        part.rename(to)
    return to / place.folder


class Model:
    """A loaded SavedModel."""

    def __init__(self, folder: Path, signature: str) -> None:
        """Load it; raise BadInput."""
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        try:
            # Kept, or its variables would go with it.
            self._loaded = tf.saved_model.load(str(folder))
        except (tf.errors.OpError, ValueError, OSError, KeyError, TypeError) as error:
            said = str(error).strip().splitlines()[0]
            newer = "not registered" in said or "NodeDef mentions attr" in said
            hint = f" It was made by a newer TensorFlow than {tf.__version__}: export it with that." if newer else ""
            raise BadInput(f"The model can't be loaded: {said.rstrip('.')}.{hint}") from error
        self.signature, self._call = self._choose(signature)

    def _choose(self, wanted: str) -> tuple[str, tf.types.experimental.ConcreteFunction]:
        every = {name: call for name, call in self._loaded.signatures.items() if not name.startswith("__")}
        self.every = sorted(every)
        if not every:
            raise BadInput("The model has no signature, so nobody can tell how to call it: export it with one.")
        if wanted and wanted not in every:
            raise BadInput(f"The model has no signature '{wanted}' (infer_signature): there are {_listed(every)}.")
        if not wanted and DEFAULT not in every and len(every) > 1:
            raise BadInput(f"The model has the signatures {_listed(every)}: choose one (infer_signature).")
        name = wanted or (DEFAULT if DEFAULT in every else next(iter(every)))
        return name, every[name]

    def inputs(self) -> dict[str, Input]:
        """Return what the signature takes, without the batch."""
        found: dict[str, Input] = {}
        for name, spec in sorted(self._call.structured_input_signature[1].items()):
            first, *shape = list(spec.shape) if spec.shape.rank else [None]
            found[name] = {"dtype": np.dtype(spec.dtype.as_numpy_dtype).name, "shape": shape, "batch": first or 0}
        return found

    def outputs(self) -> list[str]:
        """Return the names of what the signature gives."""
        return sorted(self._call.structured_outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> Arrays:
        """Return what the model gives for a batch."""
        import tensorflow as tf

        given = self._call(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: np.asarray(value.numpy()) for name, value in given.items()}


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def judge(
    model: Model, place: Place, kind: str, labels: tuple[str, ...], sample: Item | None = None, prepares: bool = False
) -> Facts:
    """Say what the model takes of inputs of this kind, of which `sample` is one; raise BadInput where they don't fit.

    With `prepares` a function of the user's makes what it takes. What it gives `settle` says, once it has been called.
    """
    inputs = model.inputs()
    values: Mapping[str, Value] = (sample.values if sample else None) or {}
    facts: Facts = {
        "signature": model.signature, "takes": "own" if prepares else "columns", "inputs": inputs, "size": [],
        "layout": "", "scores": "", "meaning": "", "outputs": model.outputs(), "classes": 0,
        "names": list(labels or place.names), "label": label_of(values, inputs), "own": {},
        "identity": place.identity, "job": place.job,
    }  # fmt: skip
    if prepares:
        return facts
    if len(inputs) != 1:
        if kind == IMAGES:
            raise BadInput(
                f"The model takes {len(inputs)} inputs ({_listed(inputs)}), and infer_source has images, which are "
                "one: name a file with a function prepare(data) that makes them (infer_program), or another signature."
            )
        return facts
    ((name, one),) = inputs.items()
    text, (size, layout) = one["dtype"] == "object", _size(one["shape"])
    if kind != IMAGES:
        named = name in values and not isinstance(values[name], (bytes, Mapping))
        no_image = image_of(values) is None or not (text or layout)
        if no_image and text and not named:
            if kind != RECORDS:
                raise BadInput(
                    f"The model takes texts as {name}, and the rows have no such column: there are {_listed(values)}."
                )
            facts["takes"] = "examples"
        if named or no_image:
            return facts
    if text:
        _check_text(model, name, one, kind)
        facts["takes"] = "examples" if _takes_examples(name) else "encoded images"
        return facts
    if not layout:
        raise BadInput(
            f"The model takes {name} of the shape {one['shape']}, which is no image's: name a file with a function "
            "prepare(data) that makes such an array of an image's bytes (infer_program)."
        )
    facts["takes"], facts["size"], facts["layout"] = "images", size, layout
    return facts


def label_of(values: Mapping[str, Value], inputs: Mapping[str, Input]) -> str:
    """Return which column is the label: none that the model takes, by its name or as one of all numbers of a row."""
    label = label_name(values)
    if label in inputs:
        return ""
    if len(inputs) == 1:
        ((name, one),) = inputs.items()
        numbers = sum(is_number(value) for value in values.values())
        by_order = name not in values and one["dtype"] != "object" and None not in one["shape"]
        if by_order and is_number(values.get(label)) and numbers == math.prod(map(int, filter(None, one["shape"]))):
            return ""
    return label


def _check_text(model: Model, name: str, one: Input, kind: str) -> None:
    if one["shape"] not in ([], [1]):
        raise BadInput(f"The model takes texts of the shape {one['shape']} as {name}, of which an image isn't one.")
    if _takes_examples(name) and kind != RECORDS:
        raise BadInput(
            f"The model takes serialized tf.train.Examples ({name}), and infer_source has {kind}: give TFRecord files, "
            f"or a signature that takes images (infer_signature: there are {', '.join(model.every)})."
        )


def _takes_examples(name: str) -> bool:
    """Whether a text is a serialized tf.train.Example, by the name that Estimators give it."""
    return "example" in name.lower() or name == "inputs"


def _size(shape: list[int | None]) -> tuple[list[int | None], str]:
    """Return height, width and channels of an image in this shape, and its layout; none where it is no image's."""
    if len(shape) == 3:
        if shape[2] in (1, 3, 4):
            return shape, "channels last"
        if shape[0] in (1, 3, 4):
            return [shape[1], shape[2], shape[0]], "channels first"
    if len(shape) == 2 and None not in shape:
        return [*shape, 1], "flat"
    if len(shape) == 1 and shape[0]:
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if side >= LEAST_SIDE and side * side * channels == shape[0]:
                return [side, side, channels], "flat"
    return [], ""


def batch_of(facts: Facts) -> int:
    """Return how many inputs each call has to have; 0: any number."""
    return max((one["batch"] for one in facts["inputs"].values()), default=0)


def settle(facts: Facts, given: Mapping[str, Array], batch: int) -> Facts:
    """Add what the outputs are, from those of a first batch; raise BadInput."""
    numbers = {
        name: value
        for name, value in given.items()
        if value.dtype.kind == "f" and value.ndim == 2 and value.shape[0] == batch and value.shape[1] > 1
    }
    for name, value in given.items():
        if value.ndim == 0 or value.shape[0] != batch:
            raise BadInput(
                f"The model gives {name} of the shape {list(value.shape)} for {batch} inputs: every output needs a row "
                "an input."
            )
    name = next((name for name in _SCORES if name in numbers), next(iter(sorted(numbers)), ""))
    if not name:
        return {**facts, "meaning": "values"}
    scores = numbers[name].astype(np.float64)
    sums = np.abs(scores.sum(axis=1) - 1) < 1e-3
    meaning = _SCORES.get(name, "") or ("probabilities" if sums.all() and (scores >= 0).all() else "")
    if not meaning:  # nobody says, so only what can be softmax's arguments is
        meaning = "logits" if (scores < 0).any() or (scores > 1).any() else "scores"
    classes = int(scores.shape[1])
    if facts["names"] and len(facts["names"]) != classes:
        raise BadInput(
            f"The model gives {classes} classes ({name}), but there are {len(facts['names'])} names of classes: "
            "correct infer_labels."
        )
    return {**facts, "scores": name, "meaning": meaning, "classes": classes}


def softmax(logits: Array) -> NDArray[np.float64]:
    """Return the probabilities of logits [batch, classes]."""
    numbers = logits.astype(np.float64)
    powers: NDArray[np.float64] = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
