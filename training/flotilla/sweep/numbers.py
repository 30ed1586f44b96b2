"""A judged table as arrays of numbers: rows to train on, rows that are held out, and how new rows become the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flotilla.job.errors import BadInput
from flotilla.sweep.columns import Judged, Label, known, parse
from flotilla.sweep.table import MISSING, read

FORMAT = "flotilla-table/1"
SPLIT = 0.2
MOST_BYTES = 2 * 10**9  # of the rows as numbers, and at most a quarter of the host's memory
_FEW = 0.05  # of new rows that may lack a number where there is a text

Floats = NDArray[np.float32]


class Feature(TypedDict):
    """How a column becomes numbers."""

    name: str
    kind: str  # number or category
    style: str  # of numbers
    least: float  # of the rows to train on, which becomes 0
    most: float  # which becomes 1
    median: float  # of the same, as it is
    fill: float  # the median after scaling, for what is missing
    values: list[str]  # of a category: a number each
    missing: bool  # whether a number more says that it's missing


class LabelNumbers(TypedDict):
    """How a label becomes numbers, and numbers a label."""

    name: str
    task: str
    classes: list[str]  # by their number
    mean: float  # of the rows to train on; a label is a prediction times std, plus mean
    std: float
    style: str


class Description(TypedDict):
    """All that was decided, as JSON may hold it."""

    format: str
    table: str
    rows: int
    training: int
    held_out: int
    split: float
    seed: int
    features: list[str]
    columns: list[Feature]
    left_out: dict[str, str]  # why, by column
    label: LabelNumbers
    notes: list[str]


@dataclass(frozen=True)
class Prepared:
    """A table as numbers; of classes, labels are their numbers, of others the label without its mean, by its std."""

    training: Floats
    training_labels: NDArray[np.int64] | Floats
    held_out: Floats
    held_out_labels: NDArray[np.int64] | Floats
    training_rows: NDArray[np.int64]  # which of the table's these are
    held_out_rows: NDArray[np.int64]
    description: Description


class _Split(NamedTuple):
    labels: NDArray[np.float64]  # of all rows; NaN: none
    training: NDArray[np.bool_]
    held_out: NDArray[np.bool_]


def prepare(judged: Judged, seed: int = 0, split: float = SPLIT, most_bytes: int = 0) -> Prepared:
    """Split a table and make numbers of it; raise BadInput where these were too many for the memory."""
    table, label = judged.table, judged.label
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _fits(table.name, judged.rows, judged.features, most_bytes or min(MOST_BYTES, memory // 4))
    parts = _split(judged, seed, split)
    features = _features(judged, parts.training)
    names = _names(features)
    training = np.empty((int(parts.training.sum()), len(names)), np.float32)
    held_out = np.empty((int(parts.held_out.sum()), len(names)), np.float32)
    first, done = 0, [0, 0]
    for frame in table.batches([one["name"] for one in features]):
        values = _values(frame, features)
        for index, (array, mask) in enumerate(((training, parts.training), (held_out, parts.held_out))):
            some = values[mask[first : first + frame.height]]
            array[done[index] : done[index] + len(some)] = some
            done[index] += len(some)
        first += frame.height
    for place, feature in zip(_places(features), features, strict=True):
        if feature["kind"] == "number":
            # Of what is in the arrays, so that it takes no further memory; as float32, what JSON holds is the same
            median = np.nanmedian(training[:, place])
            feature["fill"] = float(median)
            feature["median"] = feature["least"] + float(median) * (feature["most"] - feature["least"])
            for array in (training, held_out):
                array[np.isnan(array[:, place]), place] = median
    numbers, left = parts.labels[parts.training], parts.labels[parts.held_out]
    mean, std = float(numbers.mean()), float(numbers.std())
    if label.task == "regression":
        if not std:
            raise BadInput(f"{label.name} is the same in all rows to train on: there is nothing to learn.")
        labels = [((one - mean) / std).astype(np.float32) for one in (numbers, left)]
    else:
        labels = [one.astype(np.int64) for one in (numbers, left)]
        mean, std = 0.0, 1.0
    description: Description = {
        "format": FORMAT, "table": table.name, "rows": table.rows, "training": len(training),
        "held_out": len(held_out), "split": split, "seed": seed, "features": names, "columns": features,
        "left_out": {
            one.name: "left out: it has no values in the rows to train on" if one.used else one.notes[0]
            for one in judged.columns if one.name not in {feature["name"] for feature in features}
        },
        "label": {
            "name": label.name, "task": label.task, "classes": list(label.classes), "mean": mean, "std": std,
            "style": label.style,
        },
        "notes": [*table.notes, *label.notes, *(f"{one.name}: {note}" for one in judged.columns for note in one.notes)],
    }  # fmt: skip
    rows = [np.flatnonzero(mask) for mask in (parts.training, parts.held_out)]
    return Prepared(training, labels[0], held_out, labels[1], rows[0], rows[1], description)


def apply(
    description: Description, file: Path, name: str = "", work: Path | None = None, most_bytes: int = MOST_BYTES
) -> Floats:
    """Return a file's rows as the numbers that a network of this description takes; raise BadInput."""
    if description.get("format") != FORMAT:
        raise BadInput(f"The table was prepared by another Flotilla ({description.get('format')}): prepare it again.")
    table = read(file, name, work)
    features = description["columns"]
    for feature in features:
        known(table, feature["name"], "a column that the networks were trained with")
    values = np.empty((table.rows, len(description["features"])), np.float32)
    _fits(table.name, *values.shape, most_bytes)
    first, texts = 0, np.zeros(len(features), np.int64)
    for frame in table.batches([one["name"] for one in features]):
        some = _values(frame, features)
        for index, (place, feature) in enumerate(zip(_places(features), features, strict=True)):
            if feature["kind"] == "number":
                lacking = np.isnan(some[:, place])
                if lacking.any():
                    texts[index] += int((~frame[feature["name"]].filter(lacking).is_in(MISSING)).sum())
                    some[lacking, place] = feature["fill"]
        values[first : first + frame.height] = some
        first += frame.height
    for feature, count in zip(features, texts, strict=True):
        if count > max(3, _FEW * table.rows):
            raise BadInput(
                f"{table.name} has {count} values in {feature['name']} that are no numbers, as it had in "
                f"{description['table']}: write them as there."
            )
    return values


def _fits(name: str, rows: int, features: int, most: int) -> None:
    if rows * features * 4 > most:
        raise BadInput(
            f"{name} makes {rows} rows of {features} numbers, {rows * features * 4 / 10**9:.1f} GB in memory, where "
            f"this host has {most / 10**9:.1f} GB for them: leave columns or rows out, or take a larger host."
        )


def _split(judged: Judged, seed: int, split: float) -> _Split:
    """Draw the rows that are held out, of each class the same share; classes of one row are trained on."""
    table, label = judged.table, judged.label
    labels = np.concatenate([_numbers(frame, label) for frame in table.batches([label.name])])
    rows = np.flatnonzero(~np.isnan(labels))
    rows = rows[
        np.random.RandomState(seed % 2**32).permutation(len(rows))
    ]  # the same for ever, as numpy promises of this one
    if label.task == "classification":
        of = labels[rows].astype(np.int64)
        several = np.bincount(of)[of] > 1
        rows = rows[several][np.argsort(of[several], kind="stable")]
    # In order of the classes every so many is held out, so the same share of each
    steps = np.floor(np.arange(len(rows) + 1) * split + 1e-9)
    held_out = np.zeros(len(labels), bool)
    held_out[rows[np.diff(steps) > 0]] = True
    if label.task == "classification":  # of each one row at least is trained on, however few are
        trained = np.unique(labels[~held_out])
        lost, places = np.unique(labels[held_out], return_index=True)
        held_out[np.flatnonzero(held_out)[places[~np.isin(lost, trained)]]] = False
    if not held_out.any():
        raise BadInput(f"Of {len(rows)} rows none is held out (split: {split}): hold out more of them.")
    return _Split(labels, ~held_out & ~np.isnan(labels), held_out)


def _numbers(frame: pl.DataFrame, label: Label) -> NDArray[np.float64]:
    if label.task == "regression":
        numbers = parse(frame, {label.name: label.style})[:, 0]
        return np.where(np.isfinite(numbers), numbers, np.nan)
    number = {name: float(place) for place, name in enumerate(label.classes)}
    codes = frame[label.name].replace_strict(
        list(label.texts), [number[name] for name in label.texts.values()], default=None, return_dtype=pl.Float64
    )
    found: NDArray[np.float64] = codes.fill_null(np.nan).to_numpy()
    return found


def _features(judged: Judged, training: NDArray[np.bool_]) -> list[Feature]:
    """Look at the rows to train on alone: the least and most of numbers, the values of categories, what is missing."""
    used = [one for one in judged.columns if one.used]
    styles = {one.name: one.style for one in used if one.number}
    least, most = np.full(len(styles), np.nan), np.full(len(styles), np.nan)
    lacking = np.full(len(styles), False)
    values: dict[str, set[str]] = {one.name: set() for one in used if not one.number}
    first = 0
    for frame in judged.table.batches([one.name for one in used]):
        some = frame.filter(training[first : first + frame.height])
        first += frame.height
        floats = parse(some, styles)
        floats[~np.isfinite(floats)] = np.nan
        if len(floats):
            least, most = np.fmin(least, np.fmin.reduce(floats)), np.fmax(most, np.fmax.reduce(floats))
            lacking |= np.isnan(floats).any(axis=0)
        for name, found in values.items():
            found.update(some[name].unique())
    features: list[Feature] = []
    places = {name: place for place, name in enumerate(styles)}
    for one in used:
        if one.number and not np.isnan(least[places[one.name]]):
            place = places[one.name]
            features.append(_feature(one.name, "number", bool(lacking[place])))
            features[-1] |= {"style": one.style, "least": float(least[place]), "most": float(most[place])}
        elif not one.number:
            seen = values[one.name]
            features.append(_feature(one.name, "category", bool(seen & set(MISSING))))
            features[-1]["values"] = sorted(seen - set(MISSING))
    return features


def _feature(name: str, kind: str, missing: bool) -> Feature:
    return {
        "name": name, "kind": kind, "style": "", "least": 0.0, "most": 0.0, "median": 0.0, "fill": 0.0, "values": [],
        "missing": missing,
    }  # fmt: skip


def _names(features: Sequence[Feature]) -> list[str]:
    names: list[str] = []
    for one in features:
        names += [one["name"]] if one["kind"] == "number" else [f"{one['name']} = {value}" for value in one["values"]]
        names += [f"{one['name']} is missing"] if one["missing"] else []
    return names


def _places(features: Sequence[Feature]) -> Iterator[int]:
    """Yield where each column's numbers begin."""
    place = 0
    for one in features:
        yield place
        place += _width(one)


def _width(feature: Feature) -> int:
    return (1 if feature["kind"] == "number" else len(feature["values"])) + feature["missing"]


def _values(frame: pl.DataFrame, features: Sequence[Feature]) -> Floats:
    """Return rows as numbers; NaN where a number is missing."""
    numbers = [one for one in features if one["kind"] == "number"]
    floats = parse(frame, {one["name"]: one["style"] for one in numbers})
    least = np.array([one["least"] for one in numbers])
    span = np.array([one["most"] - one["least"] for one in numbers])
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 is missing
        scaled = ((floats - least) / np.where(span > 0, span, 1.0)).astype(np.float32)
    scaled[~np.isfinite(scaled)] = np.nan
    places = list(_places(features))
    values = np.zeros((frame.height, sum(map(_width, features))), np.float32)
    values[:, [place for place, one in zip(places, features, strict=True) if one["kind"] == "number"]] = scaled
    for place, one in zip(places, features, strict=True):
        texts = frame[one["name"]]
        for index, value in enumerate(one["values"]):
            values[:, place + index] = (texts == value).to_numpy()
        if one["missing"]:
            number = one["kind"] == "number"
            values[:, place + _width(one) - 1] = (
                np.isnan(values[:, place]) if number else texts.is_in(MISSING).to_numpy()
            )
    return values
