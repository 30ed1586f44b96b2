"""One task's work: every input of a part is prepared, goes through the model, and is a row of a Parquet file in S3."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import logging
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flotilla.inference import inputs, own, pictures, saved_model
from flotilla.inference.arrays import Array, Arrays
from flotilla.inference.inputs import Item, Part, Value
from flotilla.inference.own import Column
from flotilla.inference.saved_model import Facts
from flotilla.inference.settings import InferConfig
from flotilla.job.errors import BadInput, Temporary, cause
from flotilla.storage import jsons, manifest, objects, s3
from flotilla.storage.s3 import Prefix

if TYPE_CHECKING:
    import pyarrow.parquet as pq

PARTS = "parts"  # in the target, a Parquet file for each part
SUSPECTS = ".suspects"  # in the target: inputs with which a task's process has ended
FIRST_SECS = 5.0  # for the preparation of the inputs that the model is tried with
SAMPLES = 6  # of the surest and of the least sure inputs of a part
BROKEN = 20  # of a part's broken inputs
_METADATA = b"flotilla"
_TRUTHS = ("true", "false", "1", "0")
_log = logging.getLogger(__name__)


class Sample(TypedDict):
    """An input for the page to show."""

    path: str
    page: int | None
    record: int | None
    label: str
    name: str  # of the class, or its number
    score: float
    picture: str  # a JPEG in base64, from when the page is made on; empty where the input is no image


class Broken(TypedDict):
    """An input that couldn't be classified."""

    path: str
    page: int | None
    record: int | None
    error: str


class Summary(TypedDict):
    """What came of a part."""

    part: int
    files: int
    rows: int
    broken: int
    bytes: int  # of the inputs
    classes: dict[str, int]  # rows by class
    labelled: int
    strange: int  # labels that are no class's number
    right: int
    confusion: dict[str, int]  # by "label class", as numbers
    surest: list[Sample]
    least_sure: list[Sample]
    errors: list[Broken]
    # read, prepare, predict; cpu and wall of all; load: the processor's for the model, which none of the others has
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tasks of a job share."""

    config: InferConfig
    facts: Facts
    kind: str
    features: Mapping[str, manifest.Feature]
    labels: Mapping[str, int]  # the class of a folder's or a label's name
    plan: str  # the plan's digest, which each part's file repeats


class _Input(NamedTuple):
    """An input on its way through the model."""

    item: Item
    page: int | None
    arrays: Arrays | None  # None: it is broken
    error: str = ""


def name_of(number: int) -> str:
    """Return the path of a part's file in the target."""
    return f"{PARTS}/part-{number:06d}.parquet"


class Worker:
    """What a process needs for all its parts of a job: source, target, model and the user's functions."""

    def __init__(self, job: Job, model: saved_model.Model | None = None) -> None:
        """Load the model, unless it is given."""
        self.job = job
        config = job.config
        self.source = inputs.open_source(config.source)
        self.target = Prefix(config.target, refused=Temporary)
        self.own = own.Own(config.program)
        began = time.process_time()
        self.model = model or self._load()
        self.load: float | None = time.process_time() - began  # until a task has told it

    def _load(self) -> saved_model.Model:
        config, facts = self.job.config, self.job.facts
        place = saved_model.locate(config.model)
        if place.identity != facts["identity"]:
            raise Temporary(f"The model in {config.model} has changed since the job began: take another infer_target.")
        return saved_model.Model(saved_model.fetch(place, config.models_dir), facts["signature"])


_worker: Worker | None = None


def classify(job: Job, part: Part, attempt: int = 0) -> Summary:
    """Write the part's predictions, and return what came of it. `attempt` counts from 0.

    The same part written again is the same rows in the same place, so nothing is lost or there twice, however often
    and by whomever it is tried. Raises Temporary, for another attempt.
    """
    global _worker  # loading a model takes seconds
    if _worker is None or _worker.job.plan != job.plan:
        _worker = Worker(job)
        gc.freeze()  # PySpark collects garbage after each task, among all that TensorFlow has: a fifth of a second
    return _Task(_worker, part, attempt).run()


class _Task:
    def __init__(self, worker: Worker, part: Part, attempt: int) -> None:
        self.worker, self.part, self.job = worker, part, worker.job
        self.suspects = _Suspects(worker.target, part.number) if attempt else None
        self.seconds = {"read": 0.0, "prepare": 0.0, "predict": 0.0, "load": 0.0}
        self.rows = Rows(worker.job.facts["own"], worker.job.plan)
        self.batch = saved_model.batch_of(worker.job.facts) or worker.job.config.batch
        self.summary: Summary = {
            "part": part.number, "files": len(part.objects), "rows": 0, "broken": 0,
            "bytes": sum(one.size for one in part.objects), "classes": {}, "labelled": 0, "strange": 0, "right": 0,
            "confusion": {}, "surest": [], "least_sure": [], "errors": [], "seconds": self.seconds,
        }  # fmt: skip
        self.limit = Limit(worker.job.config.item_secs)
        self.began, self.cpu = time.monotonic(), time.process_time()

    def run(self) -> Summary:
        waiting: list[_Input] = []
        with self.limit:
            for one in self._inputs():
                if waiting and (len(waiting) >= self.batch or not _alike(waiting[-1], one)):
                    self._predict(waiting)
                    waiting = []
                waiting.append(one)
            if waiting:
                self._predict(waiting)
        self.seconds["cpu"] = round(time.process_time() - self.cpu, 3)
        self.seconds["wall"] = round(time.monotonic() - self.began, 3)
        return self._write()

    def _inputs(self) -> Iterator[_Input]:
        """Yield the part's inputs, prepared; each takes at most item_secs."""
        stream = inputs.items(self.worker.source, self.job.kind, self.part)
        number = 0
        while True:
            with self._timed("read"):
                item = next(stream, None)
            if item is None:
                return
            with self._timed("prepare"):
                prepared = self._prepare(item, number)
            yield from prepared
            number += 1

    def _prepare(self, item: Item, number: int) -> list[_Input]:
        if item.error:
            return [_Input(item, None, None, item.error)]
        if self.suspects and self.suspects.guilty(number):
            why = "its preparation has ended the process twice: it takes too much memory or time"
            return [_Input(item, None, None, why)]
        if self.suspects:
            self.suspects.trying(number)
        pages: list[_Input] = []
        error = ""
        try:
            with self.limit.item():
                for one in self._arrays(item):
                    pages.append(one)
        except TimeoutError:
            error = f"its preparation takes longer than {self.limit.seconds:g} s"
        except (MemoryError, SystemExit) as problem:
            error = f"its preparation ends with {type(problem).__name__}"
        except (pictures.Broken, own.Failed, Unfit) as problem:
            error = str(problem)
        except (Temporary, BadInput):
            raise
        except Exception as problem:  # of a decoder or of the user's: one input isn't the end of the job
            error = f"{type(problem).__name__}: {cause(problem)}"
        if error:  # of the page after those that were whole
            pages.append(_Input(item, len(pages), None, error))
        return [pages[0]._replace(page=None)] if len(pages) == 1 else pages

    def _arrays(self, item: Item) -> Iterator[_Input]:
        facts, takes = self.job.facts, self.job.facts["takes"]
        if self.worker.own.prepares:
            data = item.data if self.job.kind in (inputs.IMAGES, inputs.RECORDS) else dict(item.values or {})
            yield _Input(item, None, self.worker.own.prepare(data, facts))
            return
        (name, *_others) = facts["inputs"]
        one = [1] * len(facts["inputs"][name]["shape"])  # of a text
        if takes == "examples":
            yield _Input(item, None, {name: np.array(item.data, object).reshape(one)})
        elif takes == "columns":
            yield _Input(item, None, columns(item, facts))
        elif takes == "encoded images":  # which the model decodes
            data = item.data if item.values is None else encoded(item)
            yield _Input(item, None, {name: np.array(data, object).reshape(one)})
        else:
            for page, picture in enumerate(images(item, self.job.features)):
                yield _Input(item, page, {name: self._pixels(picture, name)})

    def _pixels(self, picture: Image.Image, name: str) -> Array:
        facts = self.job.facts
        height, width, channels = facts["size"]
        pixels = pictures.to_array(picture, height, width, channels or 3)
        array = scaled(pixels, facts["inputs"][name]["dtype"], self.job.config.scale)
        if facts["layout"] == "channels first":
            return np.moveaxis(array, 2, 0)
        return (
            array.reshape([size or -1 for size in facts["inputs"][name]["shape"]])
            if facts["layout"] == "flat"
            else array
        )

    def _predict(self, some: Sequence[_Input]) -> None:
        """Put a batch through the model, or what of it goes through."""
        if some[0].arrays is None:
            for one in some:
                self._add(one, None)
            return
        arrays = [one.arrays for one in some if one.arrays is not None]
        batch = saved_model.batch_of(self.job.facts)
        if self.worker.load is not None:
            self._first_call(self.worker.load, arrays[0], batch)
        with self._timed("predict"):
            try:
                given = called(self.worker.model, arrays, batch)
            except Exception as error:  # by whatever an operation of the model's raises
                if _passes(error, len(some) > 1):
                    raise Temporary(f"The model failed: {cause(error)}") from error
                if len(some) == 1:
                    self._add(some[0]._replace(arrays=None, error=f"the model refuses it: {cause(error)[:300]}"), None)
                    return
                given = None
        if given is None:
            half = len(some) // 2
            self._predict(some[:half])
            self._predict(some[half:])
            return
        for row, one in enumerate(some):
            self._add(one, {name: np.asarray(value[row]) for name, value in given.items()})

    def _first_call(self, load: float, one: Arrays, batch: int) -> None:
        """Call the model with one input, once a process: seconds in which it compiles, which are no input's."""
        began, cpu = time.monotonic(), time.process_time()
        _goes_through(self.worker, one, batch)
        cpu = time.process_time() - cpu
        self.seconds["load"] = round(load + cpu, 3)
        self.worker.load = None
        self.began += time.monotonic() - began
        self.cpu += cpu

    def _add(self, one: _Input, given: Arrays | None) -> None:
        """Make the row of an input."""
        summary, job, error = self.summary, self.job, one.error
        top: list[int] = []
        scores: NDArray[np.float64] | None = None
        mine: dict[str, Column] = {}
        if given is not None:
            error, scores, mine = self._scores(given)
        if scores is not None and not error:
            top = np.argsort(-scores, kind="stable")[: job.config.top].tolist()
            self._show(one, top[0], float(scores[top[0]]))
        label = job.labels.get(one.item.label) if one.item.number is None else one.item.number
        if job.kind != inputs.IMAGES and not job.facts["label"]:
            label = None
        self.rows.add(
            {
                "path": one.item.path, "page": one.page, "record": one.item.record, "sha256": one.item.digest(),
                "label": one.item.label or None, "class": top[0] if top else None,
                "name": _name(job.facts, top[0]) if top else None,
                "score": float(scores[top[0]]) if scores is not None and top else None,
                "top_classes": top or None,
                "top_scores": [float(scores[number]) for number in top] if scores is not None and top else None,
                "output": _flat(given, job) if given is not None and not error else None,
                "error": error or None, **{f"own_{name}": value for name, value in mine.items()},
            }
        )  # fmt: skip
        summary["rows"] += 1
        if error:
            summary["broken"] += 1
            if len(summary["errors"]) < BROKEN:
                where: Broken = {"path": one.item.path, "page": one.page, "record": one.item.record, "error": error}
                summary["errors"].append(where)
        elif top:
            name = _name(job.facts, top[0])
            summary["classes"][name] = summary["classes"].get(name, 0) + 1
        if label is not None and top and not 0 <= label < job.facts["classes"]:
            summary["strange"] += 1
        elif label is not None and top:
            summary["labelled"] += 1
            summary["right"] += label == top[0]
            pair = f"{label} {top[0]}"
            summary["confusion"][pair] = summary["confusion"].get(pair, 0) + 1

    def _scores(self, given: Arrays) -> tuple[str, NDArray[np.float64] | None, dict[str, Column]]:
        facts = self.job.facts
        scores: NDArray[np.float64] | None = None
        error = ""
        if facts["scores"]:
            scores = given[facts["scores"]].astype(np.float64)
            if facts["meaning"] == "logits":
                scores = saved_model.softmax(scores[None])[0]
            if not np.isfinite(scores).all():
                error = "the model gives no number for it (NaN)"
        try:
            with self.limit.item():
                mine = self.worker.own.present(given, facts["own"])
        except own.Failed as failed:
            return error or str(failed), scores, {}
        except TimeoutError:
            return error or f"present takes longer than {self.limit.seconds:g} s", scores, {}
        return error, scores, mine

    def _show(self, one: _Input, number: int, score: float) -> None:
        """Keep an input for the page, if it is among the surest or the least sure."""
        sample: Sample = {
            "path": one.item.path, "page": one.page, "record": one.item.record, "label": one.item.label,
            "name": _name(self.job.facts, number), "score": score, "picture": "",
        }  # fmt: skip
        keep(self.summary, [sample], [sample], SAMPLES)

    def _write(self) -> Summary:
        """Put the part's file into S3, unless another attempt of it has; return what the file there says."""
        path, target = name_of(self.part.number), self.worker.target
        file = self.rows.close(self.summary)
        try:
            item = objects.hashed(path, lambda: _chunks(file))
            if item.size <= s3.PART:
                try:
                    target.put(path, file.read_bytes(), if_absent=True)
                except s3.Changed:
                    with contextlib.suppress(ValueError):  # one that isn't whole is written over
                        plan, summary = told(target.read(path))
                        if plan == self.job.plan:
                            return summary
                    objects.upload(target, path, item)
            else:
                objects.upload(target, path, item)
            objects.compare(target, path, item)
        finally:
            file.unlink(missing_ok=True)
        return self.summary

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds[name] + time.monotonic() - began, 6)


def first_batch(worker: Worker, some: Sequence[Item]) -> tuple[Facts, float]:
    """Put some inputs through the model and the user's functions: what it gives, and the seconds that one takes.

    Raises BadInput where none of them goes through.
    """
    if not some:
        raise BadInput(f"{worker.source.url()} has files, but no record or row in those that were looked at.")
    task = _Task(worker, Part(0, ()), 0)
    batch = saved_model.batch_of(worker.job.facts)
    with task.limit:
        began = time.monotonic()
        ready: list[_Input] = []
        for number, item in enumerate(some):
            ready += task._prepare(item, number)
            if time.monotonic() > began + FIRST_SECS:
                break
        prepare = (time.monotonic() - began) / max(1, len(ready))
        fine = [one for one in ready if one.arrays is not None]
        if not fine:
            raise BadInput(f"{_place(ready[0].item)} can't be classified: {ready[0].error.rstrip('.')}.")
        alike = [one.arrays for one in fine if one.arrays is not None and _alike(fine[0], one)][: batch or None]
        try:
            given = called(worker.model, alike, batch)
        except Exception as error:  # by whatever an operation of the model's raises, perhaps at one broken input
            alike = [one for one in alike if _goes_through(worker, one, batch)]
            if not alike:
                raise BadInput(f"The model refuses {_place(fine[0].item)}: {cause(error).rstrip('.')}.") from error
            given = called(worker.model, alike, batch)
        facts = saved_model.settle(worker.job.facts, given, len(alike))
        try:
            facts["own"] = own.kinds_of(
                worker.own.present({name: np.asarray(value[0]) for name, value in given.items()})
            )
        except own.Failed as error:
            raise BadInput(f"{_place(fine[0].item)} can't be presented: {str(error).rstrip('.')}.") from error
    began = time.monotonic()  # not of the first call, which compiles
    called(worker.model, alike, batch)
    return facts, prepare + (time.monotonic() - began) / len(alike)


def called(model: saved_model.Model, arrays: Sequence[Arrays], batch: int) -> Arrays:
    """Return what the model gives for inputs that are alike; a model with a batch of its own gets that, filled up."""
    stacked = _stacked(arrays)
    if len(arrays) < batch:
        stacked = {
            name: np.concatenate([value, value[:1].repeat(batch - len(arrays), 0)]) for name, value in stacked.items()
        }
    given = model(stacked)
    return {name: value[: len(arrays)] if value.ndim else value for name, value in given.items()}


def _passes(error: Exception, several: bool) -> bool:
    """Whether an error of the model's is none of its inputs': it may be over at another attempt."""
    import tensorflow as tf

    if isinstance(error, tf.errors.ResourceExhaustedError):
        return not several  # half of them may fit
    passing = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)
    return isinstance(error, passing)


def _stacked(arrays: Sequence[Arrays]) -> Arrays:
    """Return a batch of inputs that are alike."""
    return {name: np.stack([one[name] for one in arrays]) for name in arrays[0]}


def _goes_through(worker: Worker, one: Arrays, batch: int) -> bool:
    try:
        called(worker.model, [one], batch)
    except Exception:  # told where it is a row
        return False
    return True


def _place(item: Item) -> str:
    return item.path if item.record is None else f"{item.path}, number {item.record}"


def keep(summary: Summary, surest: Sequence[Sample], least_sure: Sequence[Sample], most: int) -> None:
    """Let a summary show these inputs, too, if they are among its surest or its least sure ones."""
    summary["surest"] = sorted([*summary["surest"], *surest], key=lambda one: -one["score"])[:most]
    summary["least_sure"] = sorted([*summary["least_sure"], *least_sure], key=lambda one: one["score"])[:most]


class Unfit(Exception):
    """Why a record or row isn't what the model takes."""


def columns(item: Item, facts: Facts) -> Arrays:
    """Return a row's or record's columns as the model takes them; raise Unfit."""
    values = item.values
    if values is None:
        raise Unfit("it is no tf.train.Example")
    found: Arrays = {}
    for name, wanted in facts["inputs"].items():
        alone = len(facts["inputs"]) == 1 and wanted["dtype"] != "object"
        several = math.prod(size or 2 for size in wanted["shape"]) > 1
        if name in values and not (alone and several and isinstance(values[name], (int, float, str))):
            found[name] = _column(name, values[name], wanted)
        elif alone:  # all numbers of the row, in their order
            found[name] = _numbers(name, values, wanted, facts["label"])
        else:
            raise Unfit(f"it has no column {name}; there are {', '.join(map(str, values)) or 'none'}")
    return found


def _column(name: str, value: Value, wanted: saved_model.Input) -> Array:
    if value is None or value == "":
        raise Unfit(f"its column {name} is empty")
    shape = [size if size is not None else -1 for size in wanted["shape"]]
    try:
        if wanted["dtype"] == "object":
            every = value if isinstance(value, list) else [value]
            texts = [one if isinstance(one, bytes) else str(one).encode() for one in every]
            return np.array(texts, object).reshape(shape)
        return _as(wanted["dtype"], value).reshape(shape)
    except (TypeError, ValueError) as error:
        what = f"{wanted['dtype']} {wanted['shape']}".replace("object", "text")
        raise Unfit(f"its column {name} is {str(value)[:40]!r}, but the model takes {what}") from error


def _as(dtype: str, value: object) -> Array:
    """Return a number, its text, or a list of them, in a type; raise ValueError where it is none."""
    if isinstance(value, str):
        value = value.strip()
        if dtype == "bool":
            value = (
                {"true": True, "false": False, "1": True, "0": False}[value.lower()]
                if value.lower() in _TRUTHS
                else None
            )
        elif np.dtype(dtype).kind in "iu" and not re.search(r"[.eEnN]", value):
            value = int(value)  # all of its digits
        else:
            value = float(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(str(value))
    return array.astype(dtype)


def _numbers(name: str, values: Mapping[str, Value], wanted: saved_model.Input, label: str) -> Array:
    """Return all numbers of a row but its label, in their order; raise Unfit."""
    every = {column: value for column, value in values.items() if inputs.is_number(value) and column != label}
    size = None if None in wanted["shape"] else math.prod(map(int, filter(None, wanted["shape"])))
    if not every or (size is not None and len(every) != size):
        raise Unfit(f"it has {len(every)} columns of numbers, but the model takes {size or 'some'} as {name}")
    shape = [one if one is not None else -1 for one in wanted["shape"]]
    return np.concatenate([_as(wanted["dtype"], value).reshape(1) for value in every.values()]).reshape(shape)


def encoded(item: Item) -> bytes:
    """Return the image's file that a record or row holds; raise Unfit."""
    if item.values is None:
        raise Unfit("it is no tf.train.Example")
    found = inputs.image_of(item.values)
    if found is None:
        raise Unfit(f"it has no image; of its columns ({', '.join(map(str, item.values))}) none is called image")
    return found


def images(item: Item, features: Mapping[str, manifest.Feature]) -> Iterator[Image.Image]:
    """Yield the images of an input, one for each page; raise Unfit or pictures.Broken."""
    raw = None if item.values is None else raw_image(item, features)
    if raw is not None:
        yield raw
    else:
        yield from pictures.pages(item.data if item.values is None else encoded(item))


def raw_image(item: Item, features: Mapping[str, manifest.Feature]) -> Image.Image | None:
    """Return the image of a record that the kit has made; None where it is encoded."""
    known = features.get("image")
    value = (item.values or {}).get("image")
    if not known or known.get("encoding") or not isinstance(value, bytes) or "shape" not in known:
        return None
    channels, height, width = known["shape"]
    if len(value) != channels * height * width:
        raise Unfit(f"its image has {len(value)} bytes, not {channels} x {height} x {width}")
    pixels = np.moveaxis(np.frombuffer(value, np.uint8).reshape(channels, height, width), 0, 2)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else np.ascontiguousarray(pixels))


def scaled(pixels: NDArray[np.uint8], dtype: str, scale: str) -> Array:
    """Return pixels in the model's type; of floats in the scale that is wanted."""
    if not dtype.startswith(("float", "bfloat")):
        return pixels.astype(dtype)
    numbers = pixels.astype(np.float32)
    if scale == "0..1":
        numbers /= 255
    elif scale == "-1..1":
        numbers = numbers / 127.5 - 1
    return numbers.astype(dtype)


def _alike(one: _Input, other: _Input) -> bool:
    """Whether two inputs fit into a batch."""
    if one.arrays is None or other.arrays is None:
        return one.arrays is other.arrays
    return all(array.shape == other.arrays[name].shape for name, array in one.arrays.items())


def _name(facts: Facts, number: int) -> str:
    return facts["names"][number] if number < len(facts["names"]) else str(number)


def _flat(given: Mapping[str, Array], job: Job) -> list[float] | None:
    """Return all numbers of all outputs, by the outputs' names: where they were asked for, or there are no classes."""
    facts = job.facts
    if facts["scores"] and not job.config.whole_output:
        return None
    numbers = [
        np.ravel(given[name]).astype(np.float64) for name in facts["outputs"] if given[name].dtype.kind in "biuf"
    ]
    return np.concatenate(numbers).tolist() if numbers else None


class Rows:
    """The rows of a part, on this host's disk as they come: what is in memory is a thousand of them."""

    HELD = 1000

    def __init__(self, own_columns: Mapping[str, str], plan: str) -> None:
        self._plan = plan
        self._own = {f"own_{name}": kind for name, kind in own_columns.items()}
        self._held: list[Mapping[str, object]] = []
        self._writer: pq.ParquetWriter | None = None
        self._file: Path | None = None

    def add(self, row: Mapping[str, object]) -> None:
        """Take a row."""
        self._held.append(row)
        if len(self._held) >= self.HELD:
            self._flush()

    def close(self, summary: Summary) -> Path:
        """Return the Parquet file with all rows; its metadata hold what came of the part, and of which plan."""
        self._flush()
        assert self._writer is not None
        assert self._file is not None
        self._writer.add_key_value_metadata({_METADATA: jsons.dumps({"plan": self._plan, "summary": summary})})
        self._writer.close()
        return self._file

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {
            "text": pa.string(), "number": pa.float64(), "truth": pa.bool_(), "numbers": pa.list_(pa.float64()),
            "texts": pa.list_(pa.string()),
        }  # fmt: skip
        schema = pa.schema(
            [
                ("path", pa.string()), ("page", pa.int32()), ("record", pa.int64()), ("sha256", pa.string()),
                ("label", pa.string()), ("class", pa.int32()), ("name", pa.string()), ("score", pa.float64()),
                ("top_classes", pa.list_(pa.int32())), ("top_scores", pa.list_(pa.float64())),
                ("output", pa.list_(pa.float64())), ("error", pa.string()),
                *((name, kinds[kind]) for name, kind in self._own.items()),
            ]
        )  # fmt: skip
        if self._writer is None or self._file is None:
            handle, name = tempfile.mkstemp(suffix=".parquet")
            os.close(handle)
            self._file = Path(name)
            self._writer = pq.ParquetWriter(name, schema, compression="zstd")
        self._writer.write_table(
            pa.table({one.name: pa.array([row.get(one.name) for row in self._held], one.type) for one in schema})
        )
        self._held = []


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(s3.CHUNK):
            yield chunk


def told(raw: bytes) -> tuple[str, Summary]:
    """Return the plan that a part's file was made by, and what came of the part; raise ValueError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = json.loads(pq.ParquetFile(io.BytesIO(raw)).metadata.metadata[_METADATA])
        return str(content["plan"]), content["summary"]
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


class _Suspects:
    """Which inputs of a part were being prepared when a process ended, as a note in the target.

    Written from the second attempt on alone: what ends a process is found so, and costs no other input its row. First
    the process notes a block of inputs, and one by one those of a block in which it has ended once.
    """

    BLOCK = 256

    def __init__(self, target: Prefix, part: int) -> None:
        self._target, self._path = target, f"{SUSPECTS}/{part:06d}.json"
        self._died: dict[str, int] = {}
        self._trying = ""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, AttributeError):
            found = json.loads(target.read(self._path))
            self._died = {str(key): int(count) for key, count in found["died"].items()}
            if found.get("trying"):
                self._died[found["trying"]] = self._died.get(found["trying"], 0) + 1

    def guilty(self, number: int) -> bool:
        """Whether it was this input twice: once may be chance."""
        return self._died.get(f"input {number}", 0) >= 2

    def trying(self, number: int) -> None:
        """Note that an input is being prepared."""
        block = f"block {number // self.BLOCK}"
        trying = f"input {number}" if block in self._died else block
        if trying != self._trying:
            self._trying = trying
            self._target.put(self._path, json.dumps({"trying": trying, "died": self._died}).encode())


class Limit:
    """Ends what takes longer than so many seconds, while it is entered.

    By an exception, which only a process's main thread can be sent; and where that isn't heard, as in C that hangs, by
    the end of the process.
    """

    GRACE_SECS = 5.0

    def __init__(self, seconds: float, end: Callable[[], object] = lambda: os._exit(70)) -> None:
        self.seconds, self._end = seconds, end
        self._deadline = 0.0  # 0: nothing runs
        self._over = threading.Event()
        self._heard = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Limit:
        if self._heard:
            self._before = signal.signal(signal.SIGALRM, _raise_late)
        threading.Thread(target=self._watch, name="limit", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._heard:
            signal.signal(signal.SIGALRM, self._before)

    @contextlib.contextmanager
    def item(self) -> Iterator[None]:
        """Bound what is done inside; raises TimeoutError there."""
        self._deadline = time.monotonic() + self.seconds
        if self._heard:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            yield
        finally:
            if self._heard:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self._deadline = 0.0

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.seconds)):
            deadline = self._deadline
            if deadline and time.monotonic() > deadline + self.GRACE_SECS:
                self._end()


def _raise_late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError
