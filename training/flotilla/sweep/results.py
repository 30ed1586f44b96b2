"""What came of a sweep: its networks as one table, as files, and in short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import polars as pl

from flotilla.storage import jsons
from flotilla.sweep.base import canonical
from flotilla.sweep.plan import Sweep, count
from flotilla.sweep.values import Scalar

PARQUET, CSV = "trials.parquet", "trials.csv"
STATES = ("done", "ended early", "failed", "running", "waiting")
FINISHED = STATES[:2]
PREFIX = "parameter_"  # of a parameter's column, where its name is a result's
_FIRST = {"number": pl.Int64, "identity": pl.String, "state": pl.String, "score": pl.Float64}
_REST = {
    "accuracy": pl.Float64, "rmse": pl.Float64, "loss": pl.Float64, "seconds": pl.Float64, "cpu_seconds": pl.Float64,
    "parameters_count": pl.Int64, "tries": pl.Int64, "started": pl.Float64, "ended": pl.Float64, "host": pl.String,
    "error": pl.String, "epochs": pl.List(pl.Float64),
}  # fmt: skip
RESULTS = {**_FIRST, **_REST}  # the table's columns beside the parameters, with their types
_NUMBERS = 5  # of a failure's networks
_UNKNOWN = "no reason is known"
# What differs between two sentences about the same: numbers, and names that are numbers
_VARIES = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{12,}\b|[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)
# Where a spreadsheet begins a formula: in a cell, or behind a semicolon, which separates cells where commas are those
# of numbers. Numbers themselves are none.
_FORMULA = re.compile(r"(^|;)([\s\"']*)(?=[=+\-@＝＋－＠])(?![+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\s*(?:;|$))")  # noqa: RUF001


class Row(TypedDict):
    """A network of a sweep."""

    number: int
    identity: str
    parameters: dict[str, Scalar]  # lists are JSON text
    state: Literal["done", "ended early", "failed", "running", "waiting"]
    score: float | None  # the greater the better: accuracy of a classification, R² of a regression
    accuracy: float | None
    rmse: float | None
    loss: float | None
    epochs: list[float]  # the score after each
    seconds: float | None
    cpu_seconds: float | None
    parameters_count: int | None
    host: str
    tries: int
    started: float | None  # Unix time, as ended
    ended: float | None
    error: str


class Best(TypedDict):
    """A network as the summary has it."""

    number: int
    identity: str
    parameters: dict[str, Scalar]
    score: float
    accuracy: float | None
    rmse: float | None
    loss: float | None
    seconds: float | None
    parameters_count: int | None


class Failure(TypedDict):
    """Networks that failed for the same reason, but for the numbers in it."""

    reason: str  # of the first
    count: int
    numbers: list[int]  # the first ones


class Summary(TypedDict):
    """A sweep in short, as JSON may hold it."""

    networks: int  # that were asked for
    states: dict[str, int]
    without_score: int  # that are done or ended early, but whose score is no number
    best: list[Best]
    processor_hours: float | None
    wall_seconds: float | None  # from the first begin to the last end, with any pause between
    networks_per_minute: float | None  # done or ended early
    failures: list[Failure]  # the most frequent first


def frame(rows: Iterable[Row]) -> pl.DataFrame:
    """Return the table, a row a network in order of their numbers: RESULTS, and a column for each parameter.

    What isn't known is null, as are numbers that aren't finite. The type of a parameter's column is Boolean, Int64 or
    Float64, or String where its values are texts or of several types.
    """
    found: dict[str, list[object]] = {name: [] for name in RESULTS}
    parameters: dict[str, list[Scalar | None]] = {}
    for number, row in enumerate(rows):
        cells: Mapping[str, object] = row
        for name, column in found.items():
            cell = cells[name]
            column.append((plain(cell) or None) if isinstance(cell, str) else cell)
        for name in row["parameters"]:
            if name not in parameters:
                parameters[name] = [None] * number
        for name, values in parameters.items():
            values.append(row["parameters"].get(name))
    series = {name: pl.Series(name, found.pop(name), kind) for name, kind in RESULTS.items()}
    order = [
        *(series[name] for name in _FIRST), *(_typed(column_of(name), parameters[name]) for name in parameters),
        *(series[name] for name in _REST),
    ]  # fmt: skip
    table, element = pl.DataFrame(order), pl.element()
    reals = [pl.col(name) for name, kind in table.schema.items() if kind == pl.Float64]
    return table.with_columns(
        *(pl.when(real.is_finite()).then(real) for real in reals),
        pl.col("epochs").list.eval(pl.when(element.is_finite()).then(element)),
    ).sort("number", maintain_order=True)


def column_of(parameter: str) -> str:
    """Return the name of a parameter's column: its own, behind PREFIX where a result is called so."""
    name = plain(parameter)
    return PREFIX + name if name in RESULTS or name.startswith(PREFIX) else name


def parameters_of(frame: pl.DataFrame) -> dict[str, str]:
    """Return the parameters' names by their columns."""
    return {column: column.removeprefix(PREFIX) for column in frame.columns if column not in RESULTS}


def text(value: Scalar) -> str:
    """Return a parameter's value as a column of texts has it."""
    return plain(value) if isinstance(value, str) else canonical(value)


def plain(words: str) -> str:
    """Return a text in one line, of characters that every file and picture can hold."""
    return words if words.isprintable() else "".join(one if one.isprintable() else " " for one in words)


def _typed(name: str, values: Sequence[Scalar | None]) -> pl.Series:
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    fits = all(abs(value) < 2**63 for value in there if isinstance(value, int))
    if kinds == {bool}:
        return pl.Series(name, values, pl.Boolean)
    if kinds == {int} and fits:
        return pl.Series(name, values, pl.Int64)
    if kinds <= {int, float} and fits:
        return pl.Series(name, [None if value is None else float(value) for value in values], pl.Float64)
    return pl.Series(name, [None if value is None else text(value) for value in values], pl.String)


def write(frame: pl.DataFrame, folder: Path) -> None:
    """Write the table as PARQUET and CSV into a folder.

    As CSV, the epochs are JSON, and texts that a spreadsheet took for a formula begin with an apostrophe.
    """
    frame.write_parquet(folder / PARQUET)
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    frame = frame.with_columns(
        *(pl.Series(name, [None if one is None else _safe(one) for one in frame[name]], pl.String) for name in texts),
        pl.Series("epochs", [jsons.dumps(one.to_list()) for one in frame["epochs"]], pl.String),
    )
    frame.rename({name: _safe(name) for name in frame.columns}).write_csv(folder / CSV)


def _safe(words: str) -> str:
    return _FORMULA.sub(r"\1\2'", words)


def scored(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the networks that are done or ended early and have a score."""
    return frame.filter(pl.col("state").is_in(FINISHED) & pl.col("score").is_not_null())


def best(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Return the k networks with the highest score; of equal ones those with fewer parameters, then the earlier."""
    order = ["score", "parameters_count", "number"]
    return scored(frame).sort(order, descending=[True, False, False], nulls_last=True).head(k)


def summary(frame: pl.DataFrame, sweep: Sweep) -> Summary:
    """Return the table in short, with the best networks that the sweep keeps."""
    states = {state: int((frame["state"] == state).sum()) for state in STATES}
    ended = sum(states[state] for state in FINISHED)
    first, last, processor = frame["started"].min(), frame["ended"].max(), frame["cpu_seconds"]
    wall = None if first is None or last is None else float(last - first)
    names = parameters_of(frame)
    chosen: list[Best] = [
        {
            "number": one["number"], "identity": one["identity"],
            "parameters": {name: one[column] for column, name in names.items() if one[column] is not None},
            "score": one["score"], "accuracy": one["accuracy"], "rmse": one["rmse"], "loss": one["loss"],
            "seconds": one["seconds"], "parameters_count": one["parameters_count"],
        }
        for one in best(frame, sweep.best).iter_rows(named=True)
    ]  # fmt: skip
    return {
        "networks": max(count(sweep), frame.height), "states": states,
        "without_score": ended - scored(frame).height, "best": chosen,
        "processor_hours": processor.sum() / 3600 if processor.count() else None, "wall_seconds": wall,
        "networks_per_minute": 60 * ended / wall if wall and wall > 0 else None, "failures": _failures(frame),
    }  # fmt: skip


def _failures(frame: pl.DataFrame) -> list[Failure]:
    groups: dict[str, Failure] = {}
    failed = frame.filter(pl.col("state") == "failed")
    for number, error in zip(failed["number"], failed["error"], strict=True):
        group = groups.setdefault(
            _VARIES.sub("0", error or ""), {"reason": error or _UNKNOWN, "count": 0, "numbers": []}
        )
        group["count"] += 1
        if len(group["numbers"]) < _NUMBERS:
            group["numbers"].append(number)
    return sorted(groups.values(), key=lambda one: (-one["count"], one["numbers"]))
