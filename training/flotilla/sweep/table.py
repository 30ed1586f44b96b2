"""A table as people have it, a CSV or Parquet file, read as text whatever its separator, marks and encoding."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl
from polars.selectors import by_name

from flotilla.job.errors import BadInput, ProgramError, cause

# What people write where they have no value; in a label's column some of these may be classes
MISSING = ("", "?", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "-")
POINT, COMMA = ".", ","  # the styles of numbers: which of the two the fraction begins with
# Numbers with marks between their thousands, by style; and, of those that aren't, what the other style reads
THOUSANDS = {POINT: r"^[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$", COMMA: r"^[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?$"}
FOREIGN = {
    POINT: r"^[+-]?(\d*,\d+|[1-9]\d{0,2}((\.\d{3})+,\d+|(\.\d{3}){2,}))([eE][+-]?\d+)?$",
    COMMA: r"^[+-]?(\d*\.\d+|[1-9]\d{0,2}((,\d{3})+\.\d+|(,\d{3}){2,}))([eE][+-]?\d+)?$",
}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
HEAD = 2**20  # bytes that separator and names are found from
SAMPLE = 1000  # rows of these that the style of numbers is found from
CELLS, BLOCK = 500_000, 16 * 2**20  # values, and bytes, of a batch of rows
_GZIP, _PARQUET, _WESTERN = b"\x1f\x8b", b"PAR1", "cp1252"
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
# By their first bytes, files that are no tables
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook or another document of Office: save the sheet as CSV",
    b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"GIF8": "a picture", b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file: save the table as CSV or Parquet", b"SQLite format": "an SQLite database",
    b"BZh": "packed by bzip2: unpack it, or pack it by gzip", b"\xfd7zXZ": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it", b"<?xml": "XML: save the table as CSV or Parquet",
    b"<!": "a page of the web, perhaps an error's", b"<html": "a page of the web, perhaps an error's",
    b"{": "JSON: save the table as CSV or Parquet", b"[{": "JSON: save the table as CSV or Parquet",
    b"[\n": "JSON: save the table as CSV or Parquet",
}  # fmt: skip


class Block(NamedTuple):
    """Rows of a CSV file that are read at once."""

    start: int  # byte
    size: int
    rows: int  # as the file has them, blank ones with them
    blank: tuple[int, ...]  # which of those
    first: int  # the number of its first row in the table, and of its first line in the file
    line: int


class _Layout(NamedTuple):
    names: tuple[str, ...]
    separator: str
    style: str
    start: int  # byte of the first row
    lines: int  # before it


@dataclass(frozen=True)
class Table:
    """A table's file, which has been looked through once; its values are read as text."""

    name: str  # for messages
    file: Path
    columns: tuple[str, ...]
    rows: int  # without blank ones
    separator: str  # empty: Parquet
    style: str  # of numbers, where a column's own values don't tell
    notes: tuple[str, ...]  # what was taken for granted
    blocks: tuple[Block, ...] = ()
    copy: object = field(default=None, repr=False)  # the file, if it's a temporary one, which goes with the table

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, some at a time, as texts without blanks around; what is missing is empty."""
        columns = self.columns if columns is None else columns
        for frame in self._parquet(columns) if not self.separator else self._csv(columns):
            # As one piece: a wide table is read in hundreds, each of which would cost as much
            yield frame.rechunk().select(pl.all().str.strip_chars())

    def _csv(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        numbers = [self.columns.index(name) for name in columns]
        with self.file.open("rb") as opened:
            for block in self.blocks:
                opened.seek(block.start)
                frame = pl.read_csv(
                    opened.read(block.size), columns=numbers, has_header=False, separator=self.separator,
                    schema=dict.fromkeys(self.columns, pl.String), infer_schema=False, empty_string_is_null=False,
                    extra_columns="ignore", missing_columns="insert", raise_if_empty=False,
                )  # fmt: skip
                if frame.height != block.rows:  # no rows may be lost silently
                    raise ProgramError(
                        f"{self.name} has {block.rows} rows from line {block.line} on, but {frame.height} are read: "
                        "please report this."
                    )
                if block.blank:
                    there = pl.Series(range(block.rows)).is_in(block.blank)
                    frame = frame.filter(~there)
                yield frame[list(columns)]

    def _parquet(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        scan = pl.scan_parquet(self.file, glob=False).select(by_name(columns).cast(pl.String).fill_null(""))
        try:
            yield from scan.collect_batches(chunk_size=max(1, CELLS // max(1, len(columns))), lazy=True)
        except pl.exceptions.PolarsError as error:
            raise BadInput(f"{self.name} can't be read: {cause(error)}.") from error

    def place(self, row: int) -> str:
        """Return where a row is, in words."""
        block = next((one for one in reversed(self.blocks) if one.first <= row), None)
        if block is None:
            return f"row {row + 1}"
        line, number = block.line, block.first
        with self.file.open("rb") as opened:
            opened.seek(block.start)
            reader = csv.reader(_Lines(opened), delimiter=self.separator, skipinitialspace=True)
            for index in range(block.rows):
                line = block.line + reader.line_num
                next(reader)
                if index in block.blank:
                    continue
                if number == row:
                    break
                number += 1
        return f"line {line}"


def counted(count: int, what: str) -> str:
    """Return how many there are, in words."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def digest(file: Path) -> str:
    """Return a file's SHA-256, in hex."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        for chunk in iter(lambda: opened.read(2**20), b""):
            found.update(chunk)
    return found.hexdigest()


def read(file: Path, name: str = "", work: Path | None = None) -> Table:
    """Look through a table's file; raise BadInput where it isn't one.

    What polars can't read as it is, is copied to a temporary file in the folder `work`.
    """
    name = name or file.name
    with file.open("rb") as opened:
        ends = [opened.read(4)]
        opened.seek(max(0, file.stat().st_size - 4))
        ends.append(opened.read(4))
    if ends == [_PARQUET, _PARQUET]:
        return _read_parquet(file, name)
    if file.name.lower().endswith((".parquet", ".pq")) and ends[1]:
        raise BadInput(f"{name} is no whole Parquet file, whatever its name says: write it again.")
    plain, copy, notes = _plain(file, name, work)
    layout = _layout(plain, name)
    blocks, odd = _check(plain, name, layout)
    if odd:
        plain, copy = _rewritten(plain, layout, work)
        blocks, _odd = _check(plain, name, layout._replace(start=0))
    rows = sum(block.rows - len(block.blank) for block in blocks)
    if not rows:
        raise BadInput(f"{name} has names of columns but no rows: add some.")
    if blank := sum(len(block.blank) for block in blocks):
        notes.append(f"left out: {counted(blank, 'blank line')}")
    if layout.style == COMMA:
        notes.append("its numbers are taken to have decimal commas, where a column doesn't say otherwise")
    return Table(name, plain, layout.names, rows, layout.separator, layout.style, tuple(notes), blocks, copy)


def _read_parquet(file: Path, name: str) -> Table:
    try:
        scan = pl.scan_parquet(file, glob=False)
        schema = scan.collect_schema()
        rows = int(scan.select(pl.len()).collect().item())
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{name} can't be read as a Parquet file: {cause(error)}.") from error
    if not rows:
        raise BadInput(f"{name} has no rows: add some.")
    nested = [column for column, kind in schema.items() if kind.is_nested() or kind in (pl.Binary, pl.Object)]
    columns = tuple(column for column in schema if column not in nested)
    if not columns:
        raise BadInput(f"{name} holds lists or bytes alone, as in {nested[0]}: give numbers or texts, a column each.")
    notes = [f"{len(nested)} columns with lists or bytes are left out, as {nested[0]}"] if nested else []
    return Table(name, file, columns, rows, "", POINT, tuple(notes))


def _plain(file: Path, name: str, work: Path | None) -> tuple[Path, object, list[str]]:
    """Return a CSV file as polars can read it, unpacked, in UTF-8, with usual ends of lines, and the copy it may be."""
    with file.open("rb") as opened:
        packed = opened.read(2) == _GZIP

    def stream() -> BinaryIO:
        return gzip.open(file) if packed else file.open("rb")  # type: ignore[return-value]

    try:
        with stream() as raw:
            head = raw.read(HEAD)
        if not head.strip():
            raise BadInput(f"{name} is empty: it has to hold a table.")
        if what := next((what for mark, what in _OTHERS.items() if head.lstrip().startswith(mark)), ""):
            raise BadInput(f"{name} is no table but {what}.")
        encoding = next((known for mark, known in _MARKS.items() if head.startswith(mark)), "")
        if not encoding and b"\0" in head:
            raise BadInput(f"{name} holds zero bytes, which a text doesn't: if it is UTF-16, save it as CSV in UTF-8.")
        notes = []
        if not encoding:
            with stream() as raw:
                encoding = _encoding(raw, name)
        if encoding == _WESTERN:
            notes.append("it isn't UTF-8, so it is taken for Windows-1252, what Western European programs write")
        start = head.decode(encoding, "ignore").rstrip("\r\n")
        mac = "\r" in start and "\n" not in start
        if not (packed or mac) and encoding.startswith("utf-8"):
            return file, None, notes
        copy = tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv", dir=work)  # noqa: SIM115
        with stream() as raw, io.TextIOWrapper(raw, encoding, newline=None if mac else "") as text:
            shutil.copyfileobj(text, copy, HEAD)
        copy.flush()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{name} can't be unpacked ({cause(error)}): pack it again.") from error
    except UnicodeError as error:
        raise BadInput(f"{name} can't be read as {encoding} ({cause(error)}): save it as CSV in UTF-8.") from error
    return Path(copy.name), copy, notes


def _encoding(raw: BinaryIO, name: str) -> str:
    """Return the encoding of a text without a mark: UTF-8 or, where nothing speaks against it, Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    plain, lines = True, 1
    for block in itertools.chain(iter(lambda: raw.read(HEAD), b""), [b""]):
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            before = error.object[: int(error.start)]
            if plain and before.isascii():
                return _WESTERN
            lines += before.count(b"\n")
            raise BadInput(
                f"{name} is UTF-8 at first, but its line {lines} isn't: save it as CSV in one encoding, UTF-8."
            ) from error
        plain = plain and block.isascii()
        lines += block.count(b"\n")
    return "utf-8"


def _layout(file: Path, name: str) -> _Layout:
    """Find the names of the columns, and what separates them, in a file's beginning."""
    with file.open("rb") as opened:
        raw = opened.read(HEAD)
    cut = len(raw) == HEAD
    text = raw.decode("utf-8-sig", "ignore")
    start = 3 if raw.startswith(codecs.BOM_UTF8) else 0
    lines = list(io.StringIO(text, newline="\n"))
    if cut and not lines[-1].endswith("\n"):
        lines.pop()
    if not lines:
        raise BadInput(f"{name} begins with a line of more than {HEAD} bytes: it is no table of values.")
    before, comment, known = 0, "", ""
    for line in lines:
        if line.startswith("#"):
            comment = line
        elif found := re.match(r"sep=(.)\s*$", line):  # as Excel writes it
            known = found[1]
        elif line.strip():
            break
        before += 1
    body = lines[before:]
    if not body:
        raise BadInput(f"{name} has no rows: add a line with the columns' names, and rows.")
    separator, rows, used = _separated(body, known or "".join(SEPARATORS), cut)
    names = [cell.strip() for cell in rows[0]]
    style = _style(rows[1:], separator)
    commented = next(csv.reader([comment.lstrip("# ")], delimiter=separator), [])
    named = re.match("#[^# ]", comment) or (any(map(_number, names)) and not any(map(_number, commented)))
    if named and len(commented) == len(names) > 1:
        names, used = [cell.strip() for cell in commented], 0  # as numpy.savetxt writes them
    if _are_values(names):
        raise BadInput(
            f"{name} has values ({', '.join(names[:4])}) where the columns' names belong: add a first line with these."
        )
    if len(names) == 1 and len({len(row[0].split()) for row in rows}) == 1 and len(names[0].split()) > 1 < len(rows):
        raise BadInput(f"{name} has columns separated by blanks: separate them by commas, semicolons or tabs.")
    if twice := [one for one, count in Counter(filter(None, names)).items() if count > 1]:
        raise BadInput(
            f"{name} has columns of the same name, {', '.join(twice[:10])}: rename them, or add a first line with "
            "names where it has none."
        )
    for number, one in enumerate(names, 1):
        if not one:
            free = (f"column-{number}{more}" for more in ("", *(f"-{more}" for more in range(2, len(names) + 2))))
            names[number - 1] = next(new for new in free if new not in names)
    before += used
    start += sum(len(line.encode()) for line in lines[:before])
    return _Layout(tuple(names), separator, style, start, before)


def _separated(lines: Sequence[str], separators: str, cut: bool) -> tuple[str, list[list[str]], int]:
    """Return what separates the values of some lines best, these, and how many lines the first row has."""
    best: tuple[tuple[bool, bool, float, int], str, list[list[str]], int] | None = None
    for separator in separators:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows: list[list[str]] = []
        used = 0
        try:
            for row in reader:
                if any(row):
                    rows.append(row)
                    used = used or reader.line_num
        except csv.Error:
            pass  # which is said with its line later
        if cut and len(rows) > 2:
            rows.pop()  # perhaps a part of one
        if not rows:
            continue
        wide = len(rows[0])
        fit = sum(len(row) >= wide and not any(row[wide:]) for row in rows) / len(rows)
        rank = (wide > 1 and fit == 1, wide > 1, fit, wide)
        if best is None or rank > best[0]:
            best = rank, separator, rows, used
    if best is None:
        return separators[0], [list(lines[:1])], 1
    return best[1:]


def _style(rows: Sequence[Sequence[str]], separator: str) -> str:
    """Return how numbers are written, by those that can be read in one way only."""
    cells = pl.Series([cell.strip() for row in rows[:SAMPLE] for cell in row[:SAMPLE]], dtype=pl.String)
    comma, point = (int((cells.str.contains(FOREIGN[a]) & ~cells.str.contains(THOUSANDS[a])).sum()) for a in FOREIGN)
    return COMMA if comma > point or (comma == point and separator == ";") else POINT


def _are_values(names: Sequence[str]) -> bool:
    """Whether the cells of a first row are values, not names, of which some may be numbers."""
    numbers = [float(one.replace(",", ".")) for one in names if _number(one)]
    if not numbers:
        return False
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len(numbers) == len(list(filter(None, names))):
        return not (len(numbers) > 2 and numbers[0] == 0 and steps == {1.0})  # as pandas numbers columns
    whole = all(number.is_integer() for number in numbers)
    in_steps = len(steps) == 1 and 0 not in steps  # as years are
    return not whole or (len(numbers) > 2 and not in_steps)


def _number(cell: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?", cell.strip()))


class _Lines:
    """The lines of a file, from where it stands; knows how far they went, and what quotes were among them."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self.end = opened.tell()
        self.quoted = self.spaced = False

    def __iter__(self) -> Iterator[str]:
        for raw in self._opened:
            self.end += len(raw)
            if b'"' in raw:
                self.quoted = True
                self.spaced = self.spaced or b' "' in raw
            yield raw.decode()


def _check(file: Path, name: str, layout: _Layout) -> tuple[tuple[Block, ...], bool]:
    """Return the blocks of a file's rows, all of which fit, and whether polars would read some otherwise."""
    wide, most = len(layout.names), max(1, CELLS // len(layout.names))
    blocks: list[Block] = []
    blank: list[int] = []
    rows = whole = bad = last = 0
    start, line, odd, said = layout.start, 0, False, ""
    with file.open("rb") as opened:
        opened.seek(start)
        lines = _Lines(opened)
        reader = csv.reader(lines, delimiter=layout.separator, strict=True, skipinitialspace=True)
        try:
            for row in reader:
                if len(row) == wide:
                    if not row[0].strip() and not "".join(row).strip():
                        blank.append(rows)
                elif not "".join(row).strip():
                    blank.append(rows)
                elif len(row) < wide or any(row[wide:]):
                    said = said or f"its line {layout.lines + last + 1} has {counted(len(row), 'value')}"
                    bad += 1
                if lines.quoted:  # polars takes quotes in the midst of a value for a value's beginning, or end
                    odd = odd or lines.spaced or any('"' in cell for cell in row)
                    lines.quoted = False
                rows += 1
                last = reader.line_num
                if rows == most or lines.end - start > BLOCK:
                    blocks.append(Block(start, lines.end - start, rows, tuple(blank), whole, layout.lines + line + 1))
                    whole += rows - len(blank)
                    start, line, rows, blank = lines.end, last, 0, []
        except csv.Error as error:
            what = str(error)
            if "end of data" in what or "field larger" in what:
                what = "a quote opens a value there that nothing closes"
            raise BadInput(
                f"{name} can't be read in line {layout.lines + last + 1} ({what}): correct that line."
            ) from error
    if rows:
        blocks.append(Block(start, lines.end - start, rows, tuple(blank), whole, layout.lines + line + 1))
        whole += rows - len(blank)
    if bad and bad == whole:
        raise BadInput(
            f"{name} has names for {wide} columns, but {said}, and no row fits: give each column a name in the first "
            "line, the first one too."
        )
    if bad:
        others = f" (one of {bad} such lines)" if bad > 1 else ""
        raise BadInput(
            f"{name} has {wide} columns, but {said}{others}: correct it; a value that holds what separates the columns "
            "has to be in quotes."
        )
    return tuple(blocks), odd


def _rewritten(file: Path, layout: _Layout, work: Path | None) -> tuple[Path, object]:
    """Return a copy of a file's rows with quotes as everybody understands them, line by line the same."""
    copy = tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv", dir=work)  # noqa: SIM115
    writer = csv.writer(copy, delimiter=layout.separator, lineterminator="\n")
    with file.open("rb") as opened:
        opened.seek(layout.start)
        writer.writerows(csv.reader(_Lines(opened), delimiter=layout.separator, strict=True, skipinitialspace=True))
    copy.flush()
    return Path(copy.name), copy
