"""What the columns of a table are, judged from all of its rows: which a network can learn from, and which it can't."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.selectors import by_name

from flotilla.job.errors import BadInput
from flotilla.sweep.table import COMMA, FOREIGN, MISSING, POINT, SEPARATORS, THOUSANDS, Table, counted

NUMBER, WHOLE, CATEGORY, TEXT = "number", "whole number", "category", "text"
TIME, CONSTANT, NOTHING = "date or time", "constant", "nothing"
Task = Literal["classification", "regression"]
OUT = "out"
WAYS = (NUMBER, CATEGORY, OUT)  # what a user can say of a column
MOST_CLASSES = 10_000
NUMBERS = 20  # a label with more of them is no class
LEAST_ROWS = 10
_IDS = 20  # rows, below which numbers in a row are no sign of anything
_FEW = 0.05  # of the values that may be texts among numbers; or so many:
_FEW_ROWS = 3
_HASHES, _MOST_HASHES = 5_000_000, 20_000  # different values that are kept in mind: of all columns, and of one
_SAMPLE = 5_000_000  # values that are looked at for what tells the label, and so many rows
_SAMPLE_ROWS = 10_000
_ALIKE = 0.99999  # a correlation that is none by chance
_CHANCE = 1e-3  # how often a random column of all may be taken for one that tells the label
_SHOWN = 40  # columns of which there is nothing to say
_DATE = r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})"
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp][Mm])?"
_TIME = rf"^({_DATE}([T ]{_CLOCK} ?(Z|UTC|[+-]\d{{2}}:?\d{{2}})?)?|{_CLOCK})$"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """What is known of a column."""

    name: str
    kind: str
    used: bool
    missing: int
    distinct: int
    more: bool = False  # than these
    least: float | None = None
    most: float | None = None
    style: str = POINT
    values: Mapping[str, int] = field(default_factory=dict)  # a category's, with their rows
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> bool:
        """Whether a network gets it as a number."""
        return self.kind in (NUMBER, WHOLE)


@dataclass(frozen=True)
class Label:
    """What is to be predicted."""

    name: str
    task: Task
    missing: int  # rows that are left out
    classes: Mapping[str, int]  # with their rows; empty: numbers
    texts: Mapping[str, str]  # the class that each text in the file stands for
    least: float | None = None
    most: float | None = None
    style: str = POINT
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A table with what is known of its columns."""

    table: Table
    columns: tuple[Column, ...]  # without the label
    label: Label

    @property
    def rows(self) -> int:
        """Rows that have a label."""
        return self.table.rows - self.label.missing

    @property
    def features(self) -> int:
        """Return how many numbers a row becomes, at most."""
        return sum((1 if one.number else len(one.values)) + (one.missing > 0) for one in self.columns if one.used)


def parse(frame: pl.DataFrame, styles: Mapping[str, str]) -> Floats:
    """Return columns of texts as numbers, by the style of each; what is none is NaN."""
    if not styles:
        return np.empty((frame.height, 0))
    ways = {style: [name for name, own in styles.items() if own == style] for style in set(styles.values())}
    # All at once, as a wide table has thousands; by_name, as col takes ^a.*$ for a pattern
    columns = [_floats(by_name(names), style) for style, names in ways.items()]
    floats: Floats = frame.select(columns)[list(styles)].to_numpy(writable=True)
    every = list(styles.items())
    for index in np.flatnonzero(np.isnan(floats).any(axis=0)):
        name, style = every[index]
        places = np.flatnonzero(np.isnan(floats[:, index]))
        marked = frame[name].gather(places).str.contains(THOUSANDS[style]).to_numpy()
        if marked.any():
            texts = frame[name].gather(places[marked]).str.replace_all(_other(style), "", literal=True)
            floats[places[marked], index] = texts.str.replace(",", ".", literal=True).cast(pl.Float64).to_numpy()
    return floats


def _floats(column: pl.Expr, style: str) -> pl.Expr:
    if style == COMMA:
        column = pl.when(~column.str.contains(".", literal=True)).then(column.str.replace(",", ".", literal=True))
    return column.cast(pl.Float64, strict=False)


class _Seen:
    """What has been seen of a column so far."""

    def __init__(self, style: str, most: int, most_hashes: int) -> None:
        self.style, self.most, self.most_hashes = style, most, most_hashes
        self.least = self.greatest = math.nan  # of its numbers
        self.whole = True
        self.numbers = self.texts = self.foreign = self.times = self.infinite = self.empty = 0
        self.marks: Counter[str] = Counter()  # of missing values
        self.counts: Counter[str] | None = Counter()  # of texts as they are; None: of too many
        self.hashes: NDArray[np.uint64] | None = None  # of those, as long as they aren't too many either
        self.distinct, self.repeats = 0, False
        self.odd: list[tuple[int, str]] = []  # the first that are no numbers, with their rows

    @property
    def counting(self) -> bool:
        return self.counts is not None or self.hashes is not None

    @property
    def missing(self) -> int:
        return self.empty + self.marks.total()

    @property
    def named(self) -> dict[str, int]:
        """Its texts with their rows, without what is missing; only where they were counted."""
        return {text: count for text, count in (self.counts or {}).items() if text not in self.marks}

    @property
    def few_texts(self) -> bool:
        """Whether it has numbers, and texts are slips among them."""
        return self.texts <= max(_FEW_ROWS, _FEW * (self.texts + self.numbers)) and 4 * self.texts <= self.numbers

    def others(self, texts: pl.Series, floats: Floats, first: int) -> None:
        """Take what isn't a finite number of some rows, the first of which is that row of the table."""
        finite = np.isfinite(floats)
        rest = texts.filter(~finite)
        missing = rest.is_in(MISSING) | rest.str.contains("^[+-]?[nN][aA][nN]$")
        marks = Counter(rest.filter(missing).to_list())
        self.empty += marks.pop("", 0)
        self.marks.update(marks)
        others = rest.filter(~missing)
        if not len(others):
            return
        infinite = int(np.isinf(floats).sum())
        self.infinite += infinite
        self.texts += len(others) - infinite
        self.foreign += int(others.str.contains(FOREIGN[self.style]).sum())
        self.times += int(others.str.contains(_TIME).sum())
        places = np.flatnonzero(~finite)[(~missing).to_numpy()][: _FEW_ROWS - len(self.odd)]
        self.odd += [(first + int(place), str(texts[int(place)])) for place in places]

    def count(self, texts: pl.Series) -> None:
        """Count the different texts of some rows, while they aren't too many."""
        if self.counts is not None:
            self.counts.update(texts.to_list())
            self.counts.pop("", None)
            self.distinct = len(self.counts)
            self.repeats = self.repeats or self.counts.total() > self.distinct
            if self.distinct > self.most:
                self.hashes = pl.Series(list(self.counts), dtype=pl.String).hash().to_numpy()
                self.counts = None
        elif self.hashes is not None:
            new = texts.filter(texts != "").hash().to_numpy()
            before = self.distinct + len(new)
            self.hashes = np.union1d(self.hashes, new)
            self.distinct = len(self.hashes)
            self.repeats = self.repeats or self.distinct < before
        if self.distinct > self.most_hashes:
            self.hashes = None


def _look(table: Table, styles: Mapping[str, str], most: Mapping[str, int]) -> tuple[dict[str, _Seen], pl.DataFrame]:
    """Look at all rows of some columns; return what they are, and some rows from everywhere in the table."""
    hashes = max(1000, min(_MOST_HASHES, _HASHES // len(styles)))
    seen = {name: _Seen(style, most[name], max(hashes, most[name])) for name, style in styles.items()}
    least, greatest = np.full(len(seen), np.nan), np.full(len(seen), np.nan)
    numbers = np.zeros(len(seen), np.int64)
    whole: NDArray[np.bool_] = np.full(len(seen), True)
    enough, share, first = max(200, min(_SAMPLE_ROWS, _SAMPLE // len(styles))), 1.0, 0
    sample: list[tuple[float, tuple[str, ...]]] = []
    for frame in table.batches(list(styles)):
        floats = parse(frame, styles)
        finite = np.isfinite(floats)
        inside = np.where(finite, floats, np.nan)
        least = np.fmin(least, np.fmin.reduce(inside, axis=0))
        greatest = np.fmax(greatest, np.fmax.reduce(inside, axis=0))
        whole &= ((np.floor(inside) == inside) | ~finite).all(axis=0)
        numbers += finite.sum(axis=0)
        for index, (one, texts, every) in enumerate(
            zip(seen.values(), frame, list(np.atleast_1d(finite.all(axis=0))), strict=True)
        ):
            if not every:
                one.others(texts, floats[:, index], first)
            if one.counting:
                one.count(texts)
        key = np.modf((first + np.arange(frame.height)) * 0.6180339887498949)[0]  # no rhythm of rows is like this one
        # As lists: what polars filters may hold all texts that it was filtered from
        sample += list(zip(key[key < share], frame.filter(key < share).iter_rows(), strict=True))
        while len(sample) > enough:
            share /= 2
            sample = [(own, row) for own, row in sample if own < share]
        first += frame.height
    for index, one in enumerate(seen.values()):
        one.least, one.greatest = float(least[index]), float(greatest[index])
        one.whole, one.numbers = bool(whole[index]), int(numbers[index])
    return seen, pl.DataFrame([row for _own, row in sample], dict.fromkeys(seen, pl.String), orient="row")


def judge(
    table: Table, label: str, task: str = "auto", ways: Mapping[str, str] | None = None, most_categories: int = 100
) -> Judged:
    """Judge all columns; `ways` says of some what they have to be: number, category or out. Raises BadInput."""
    ways = dict(ways or {})
    known(table, label, "label")
    for name, way in ways.items():
        known(table, name, "columns")
        if way not in WAYS or name == label:
            raise BadInput(f"columns says '{way}' of {name}: of a column other than the label say {_or(WAYS)}.")
    if task not in ("auto", "classification", "regression"):
        raise BadInput(f"task is '{task}': it has to be auto, classification or regression.")
    styles = dict.fromkeys(table.columns, table.style)
    most = dict.fromkeys(table.columns, most_categories) | {label: MOST_CLASSES}
    seen, sample = _look(table, styles, most)
    # Whatever the table's first lines look like: a column whose numbers are all written in the other style is read so
    others = {name: _other(table.style) for name, one in seen.items() if 2 * one.foreign > one.texts}
    if others:
        better, _sample = _look(table, others, most)
        seen |= {name: one for name, one in better.items() if one.texts < seen[name].texts}
    judged = _label(table, label, seen[label], task)
    columns = [
        _column(table, name, one, ways.get(name, ""), most_categories) for name, one in seen.items() if name != label
    ]
    if not any(one.used for one in columns):
        said = "; ".join(f"{one.name} is {one.notes[0]}" for one in columns[:3]) or "it is the only one"
        raise BadInput(f"{table.name} has no column to predict {label} from: {said}.")
    told = _tell(sample, judged, [one for one in columns if one.used])
    columns = [replace(one, notes=(*one.notes, told[one.name])) if one.name in told else one for one in columns]
    return Judged(table, tuple(columns), judged)


def _other(style: str) -> str:
    return POINT if style == COMMA else COMMA


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def known(table: Table, name: str, setting: str) -> None:
    """Raise BadInput where a table has no such column; the setting is what asks for it."""
    if name in table.columns:
        return
    lower = {column.lower(): column for column in reversed(table.columns)}
    near = [lower[one] for one in difflib.get_close_matches(name.strip().lower(), lower, 1)]
    hint = f"do you mean '{near[0]}'?" if near else f"it has {', '.join(table.columns[:10])}."
    raise BadInput(f"{table.name} has no column '{name}' ({setting}): {hint}")


def _listed(table: Table, places: Sequence[tuple[int, str]], count: int) -> str:
    """Return some values with where they are."""
    said = ", ".join(f"'{text[:30]}' in {table.place(row)}" for row, text in places)
    return said + (f" and {count - len(places)} more" if count > len(places) else "")


def _label(table: Table, name: str, seen: _Seen, task: str) -> Label:
    """Judge the label."""
    notes = []
    numbers = seen.numbers > 0 and seen.few_texts
    many = seen.counts is None or len(seen.named) > NUMBERS
    if seen.texts and (task == "classification" or (task == "auto" and not many)):
        numbers = False  # classes, of which some are no numbers
    if task == "regression" and not numbers:
        what = f"has texts, as {_listed(table, seen.odd[:1], 1)}" if seen.odd else "has no numbers"
        raise BadInput(f"{name} {what}, so it can't be predicted as a number: write task: classification.")
    if numbers and (task == "regression" or (task == "auto" and (many or not seen.whole))):
        left = seen.missing + seen.texts + seen.infinite
        if seen.odd:
            notes.append(f"rows without a number are left out: {_listed(table, seen.odd, seen.texts + seen.infinite)}")
        if task == "auto":
            why = f"more than {NUMBERS} numbers" if many else "numbers with fractions"
            notes.append(f"{why}, so they are predicted as such (task: classification takes each for a class)")
        if seen.least == seen.greatest:
            raise BadInput(f"{name} is {seen.least:.15g} in all rows: there is nothing to predict.")
        return _enough(
            table, Label(name, "regression", left, {}, {}, seen.least, seen.greatest, seen.style, tuple(notes))
        )
    if seen.counts is None:
        raise BadInput(f"{name} has more than {MOST_CLASSES} values, which is too many classes: choose another label.")
    counts, left = seen.named, seen.missing
    if not numbers and seen.marks and len(counts) + len(seen.marks) > 1:
        counts, left = seen.counts, seen.empty
        marks = ", ".join(f"'{mark}'" for mark in sorted(seen.marks))
        notes.append(f"{marks} is taken for a class, not for a missing value, as the classes are texts")
    texts = {text: _class(text, seen.style) if numbers else text for text in counts}
    classes: Counter[str] = Counter()
    for text, count in counts.items():
        classes[texts[text]] += count
    order = sorted(classes, key=float if numbers else None)
    if len(order) < 2:
        what = f"one class alone, {order[0]}" if order else "no value at all"
        raise BadInput(f"{name} has {what}: choose another label.")
    if len(order) > NUMBERS and max(classes.values()) == 1:
        raise BadInput(f"{name} has another class in each row, so none can be learned: choose another label.")
    if single := [one for one in order if classes[one] == 1]:
        some = ", ".join(single[:5]) + (" and others" if len(single) > 5 else "")
        notes.append(f"of one row alone, which is trained on, so never tested: {some}")
    ordered = {one: classes[one] for one in order}
    return _enough(table, Label(name, "classification", left, ordered, texts, notes=tuple(notes)))


def _class(text: str, style: str) -> str:
    """Return a class's name by its number: 1, 1.0 and 01 are one."""
    number = float(parse(pl.DataFrame({"": [text]}), {"": style})[0, 0])
    if number.is_integer():
        return str(int(number)) if abs(number) < 2**53 else text
    return f"{number:.15g}"


def _enough(table: Table, label: Label) -> Label:
    rows = table.rows - label.missing
    if rows < LEAST_ROWS:
        raise BadInput(
            f"{table.name} has {counted(rows, 'row')} with a value of {label.name}: {LEAST_ROWS} are the least."
        )
    if label.missing:
        label = replace(label, notes=(f"left out: {counted(label.missing, 'row')} without it", *label.notes))
    return label


def _column(table: Table, name: str, seen: _Seen, way: str, most_categories: int) -> Column:
    """Judge a column that is no label."""
    present = seen.numbers + seen.texts + seen.infinite
    distinct = seen.distinct - len(seen.marks)
    number = seen.numbers > 0 and seen.few_texts
    unique = not seen.repeats and distinct > 0
    notes: list[str] = []
    least, greatest = (None if math.isnan(one) else one for one in (seen.least, seen.greatest))
    column = Column(name, NUMBER, True, seen.missing, distinct, not seen.counting, least, greatest, seen.style)

    def out(kind: str, why: str, keep: str = "") -> Column:
        how = f" (columns: {{{name}: {keep}}} keeps it)" if keep else ""
        return replace(column, kind=kind, used=False, notes=(f"left out: {why}{how}", *notes))

    if present == 0:
        return out(NOTHING, "it has no values")
    if distinct == 1 and not seen.missing:
        return out(CONSTANT, f"it is {next(iter(seen.named))[:30]} in all rows")
    if way == OUT:
        kind = WHOLE if number and seen.whole else NUMBER if number else CATEGORY
        return out(kind, "columns says so")
    if way == NUMBER and not seen.numbers:
        raise BadInput(f"columns says that {name} is a number, but it has none: say category, or out.")
    if (number and way != CATEGORY) or way == NUMBER:
        kind = WHOLE if seen.whole else NUMBER
        if seen.infinite:
            notes.append(f"taken as missing: {counted(seen.infinite, 'infinite value')}")
        if seen.texts:
            odd = _listed(table, seen.odd, seen.texts + seen.infinite)
            notes.append(f"taken as missing, being no number: {odd}")
        if seen.style != table.style:
            notes.append(f"its numbers have decimal {'commas' if seen.style == COMMA else 'points'}")
        column = replace(column, missing=seen.missing + seen.texts + seen.infinite)
        in_a_row = seen.whole and seen.greatest - seen.least + 1 == present and not column.missing
        if unique and in_a_row and present >= _IDS and way != NUMBER:
            return out(kind, "it numbers the rows", NUMBER)
        return replace(column, kind=kind, notes=tuple(notes))
    keep = CATEGORY if seen.counts is not None else ""
    if way != CATEGORY and 0 < seen.texts == seen.times and not seen.numbers:
        return out(TIME, "a network takes no time; add columns with what matters of it, as hour or age", keep)
    if unique and present >= _IDS and way != CATEGORY:
        return out(TEXT, "each row has another one", keep)
    if seen.counts is None:
        return out(CATEGORY, f"it has more than {most_categories} different texts (categories)")
    if seen.numbers and not number:
        notes.append(f"its numbers are taken as texts, as others are none: {_listed(table, seen.odd, seen.texts)}")
    values = dict(sorted(seen.named.items()))
    return replace(column, kind=CATEGORY, values=values, notes=tuple(notes))


def _tell(sample: pl.DataFrame, label: Label, columns: Sequence[Column]) -> dict[str, str]:
    """Return what to say of columns that tell the label by themselves, in the rows that are looked at."""
    said: dict[str, str] = {}
    if label.task == "regression":
        target = parse(sample, {label.name: label.style})[:, 0]
        keep = np.isfinite(target)
    else:
        order = {name: number for number, name in enumerate(label.classes)}
        codes = {text: float(order[name]) for text, name in label.texts.items()}
        target = np.array([codes.get(text, np.nan) for text in sample[label.name]])
        keep = ~np.isnan(target)
    sample, target = sample.filter(keep), target[keep]
    if len(target) < LEAST_ROWS:
        return said
    classes, codes_of, sizes = np.unique(target, return_inverse=True, return_counts=True)
    # The logarithm of how probable one certain order of the rows' labels is among all, and of what is no chance
    chance = sum(math.lgamma(size + 1) for size in sizes) - math.lgamma(len(target) + 1)
    limit = math.log(_CHANCE / len(columns))
    numbers = [one for one in columns if one.number]
    floats = parse(sample, {one.name: one.style for one in numbers})
    floats[~np.isfinite(floats)] = np.nan
    apart = _apart(floats, codes_of) if label.task == "classification" else np.full(len(numbers), False)
    likely = chance + math.lgamma(len(classes) + 1) < limit
    for index, one in enumerate(numbers):
        there = ~np.isnan(floats[:, index])
        if 10 * there.sum() < 9 * len(target):
            continue
        if label.task == "regression" and _alike(floats[there, index], target[there]):
            said[one.name] = "it goes with the label alone"
        elif likely and apart[index]:
            said[one.name] = "its value alone tells the class"
    for one in columns:
        if one.name in said or one.more or one.distinct > 100 or len(classes) < 2:
            continue
        pairs = pl.DataFrame({"value": sample[one.name], "class": codes_of}).unique()
        values = pairs["value"].n_unique()
        if 1 < values == pairs.height and chance + values * math.log(len(classes)) < limit:
            same = values == len(classes)
            said[one.name] = "each of its values is one of the label's" if same else "its value alone tells the label"
    more = "leave it out (columns) if it isn't known before the label is"
    return {name: f"{why} in {len(target)} rows looked at: {more}" for name, why in said.items()}


def _apart(floats: Floats, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the classes' numbers don't overlap, by column."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    least, greatest = (ufunc.reduceat(floats[order], starts, axis=0) for ufunc in (np.fmin, np.fmax))
    by = np.argsort(least, axis=0)
    least, greatest = np.take_along_axis(least, by, 0), np.take_along_axis(greatest, by, 0)
    return np.asarray((greatest[:-1] < least[1:]).all(axis=0))


def _alike(a: Floats, b: Floats) -> bool:
    """Whether two columns of numbers are nearly a line, or always grow together or against one another."""
    if a.min() == a.max() or b.min() == b.max():
        return False
    if abs(float(np.corrcoef(a, b)[0, 1])) > _ALIKE:
        return True
    rising, first = np.lexsort((b, a)), np.sign(np.diff(np.sort(a)))
    falling = np.lexsort((-b, a))
    return bool((np.sign(np.diff(b[rising])) == first).all() or (np.sign(np.diff(-b[falling])) == first).all())


def says(judged: Judged) -> list[str]:
    """Return what is known of a table, for people."""
    table, label = judged.table, judged.label
    how = f"separated by {SEPARATORS.get(table.separator, table.separator)}" if table.separator else "Parquet"
    lines = [f"{table.name}: {counted(table.rows, 'row')}, {counted(len(table.columns), 'column')}, {how}"]
    lines += [f"  {one}" for one in table.notes]
    if label.task == "classification":
        counts = [f"{name} {count}" for name, count in label.classes.items()]
        more = f" and {len(counts) - 20} more" if len(counts) > 20 else ""
        lines.append(f"To predict: {label.name}, {len(counts)} classes: {', '.join(counts[:20])}{more}")
    else:
        lines.append(f"To predict: {label.name}, a number from {label.least:.6g} to {label.most:.6g}")
    lines += [f"  {one}" for one in label.notes]
    plain = [one for one in judged.columns if not one.notes]
    few = {one.name for one in plain[:_SHOWN]}
    shown = [one for one in judged.columns if one.notes or one.name in few]
    lines += _rows([("column", "kind", "missing", "distinct", "values", ""), *(_row(one) for one in shown)])
    if len(shown) < len(judged.columns):
        kinds = Counter(one.kind for one in plain[_SHOWN:])
        lines.append("and " + ", ".join(f"{count} more: {kind}" for kind, count in kinds.items()))
    size = judged.rows * judged.features * 4 / 10**6
    used = sum(one.used for one in judged.columns)
    lines.append(
        f"{used} of {len(judged.columns)} columns are used: {judged.features} numbers a row, {size:.1f} MB in all"
    )
    return lines


def _row(column: Column) -> tuple[str, ...]:
    values = ""
    if column.number and column.least is not None:
        values = f"{column.least:.6g} to {column.most:.6g}"
    elif column.values:
        values = ", ".join(list(column.values)[:5]) + (", …" if len(column.values) > 5 else "")
    distinct = f"over {column.distinct}" if column.more else str(column.distinct)
    return column.name, column.kind, str(column.missing or ""), distinct, values, "; ".join(column.notes)


def _rows(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's rows, one below the other."""
    cut = [[cell if last else cell[:40] for last, cell in zip((*[False] * 5, True), row, strict=True)] for row in rows]
    wide = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip() for row in cut]
