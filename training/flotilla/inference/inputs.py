"""What is to be classified: a folder's files of one kind, the parts that tasks take, and what each file holds."""

from __future__ import annotations

import csv
import fnmatch
import functools
import gzip
import hashlib
import io
import json
import math
import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flotilla.job.errors import BadInput, Temporary, cause
from flotilla.storage import manifest
from flotilla.storage.files import Files, open_folder
from flotilla.storage.manifest import Object
from flotilla.storage.s3 import Prefix

if TYPE_CHECKING:
    import pyarrow as pa
    import tensorflow as tf

KINDS = {
    "images": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    "TFRecord files": (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz"),
    "Parquet files": (".parquet", ".pq"),
    "CSV files": (".csv", ".csv.gz", ".tsv"),
}
IMAGES, RECORDS, PARQUET, CSV = KINDS
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # as TensorFlow's own tools name TFRecord files
CUT = "the file can't be read from here on"
AHEAD = 16  # images that are read before they are needed
LEAST, MOST, PARTS = 16, 256, 64  # images a part, and how many parts a small folder makes
PART_BYTES = 64 * 1024**2
RECORDS_AT_A_TIME = 16
PIECES, PIECE_BYTES = 8, 1024**2  # of a file of records or rows: the most, and the least
# By their names, what people call the feature or column that holds an image, and the one with its class
IMAGE_NAMES = ("image", "image/encoded", "image_raw", "image_bytes", "encoded", "content", "bytes", "data")
LABEL_NAMES = ("label", "image/class/label", "labels", "class", "target", "y")

Value = bytes | str | int | float | list[float] | list[bytes] | Mapping[str, object] | None


class Source(Protocol):
    """A folder that is read; paths are relative to it."""

    def url(self, path: str = "") -> str:
        """Return the full address of a path."""

    def objects(self) -> list[Object]:
        """Return what is in the folder, by path."""

    def stream(self, one: Object) -> Iterator[bytes]:
        """Yield a file's bytes, as it was when it was listed."""


class _S3Source:
    def __init__(self, url: str) -> None:
        self._prefix = Prefix(url)
        self.url = self._prefix.url

    def objects(self) -> list[Object]:
        return sorted(one for one in self._prefix.objects() if not one.path.endswith("/"))

    def stream(self, one: Object) -> Iterator[bytes]:
        return self._prefix.stream(one.path, one.etag)


class _FolderSource:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.url = files.url

    def objects(self) -> list[Object]:
        return sorted(Object(path, one.size, f"{one.changed:.3f}") for path, one in self._files.statuses().items())

    def stream(self, one: Object) -> Iterator[bytes]:
        return self._files.read(one.path)


def open_source(url: str) -> Source:
    """Open a folder of S3, of HDFS or of this host."""
    return _S3Source(url) if url.startswith("s3://") else _FolderSource(open_folder(url))


class Part(NamedTuple):
    """What one task takes, and one file of the predictions holds."""

    number: int
    objects: tuple[Object, ...]
    piece: int = 0  # of each file the records or rows whose number leaves this remainder
    pieces: int = 1

    def has(self, record: int) -> bool:
        """Whether a record or row of its files is in it."""
        return record % self.pieces == self.piece


@dataclass(frozen=True)
class Found:
    """The inputs of a folder: of one kind, by path."""

    kind: str
    objects: tuple[Object, ...]
    left_out: tuple[str, ...]  # files of no known kind
    features: Mapping[str, manifest.Feature]  # what the kit's manifest says of the records
    records: Mapping[str, int]  # by path, as that manifest has them

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(one.size for one in self.objects)

    def digest(self) -> str:
        """Return what changes with every input."""
        lines = json.dumps([self.kind, [(one.path, one.size, one.etag) for one in self.objects]])
        return hashlib.sha256(lines.encode()).hexdigest()

    def parts(self) -> list[Part]:
        """Deal the inputs out: always the same for the same folder."""
        groups: list[list[Object]] = []
        most = min(MOST, max(LEAST, -(-len(self.objects) // PARTS))) if self.kind == IMAGES else 1
        size = 0
        for one in self.objects:
            if not groups or len(groups[-1]) >= most or size + one.size > PART_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(one)
            size += one.size
        if self.kind == IMAGES or len(groups) >= PARTS:
            return [Part(number, tuple(group)) for number, group in enumerate(groups)]
        parts: list[Part] = []
        for (one,) in groups:  # so that few files keep many hosts busy; each reads all of its file
            pieces = max(1, min(PIECES, -(-PARTS // len(groups)), one.size // PIECE_BYTES))
            parts += [Part(len(parts) + piece, (one,), piece, pieces) for piece in range(pieces)]
        return parts


def kind_of(path: str) -> str:
    """Return what a file is by its name; empty where that says nothing."""
    name = PurePosixPath(path).name.lower()
    for kind, endings in KINDS.items():
        if name.endswith(endings):
            return kind
    return RECORDS if _SHARD.search(name) else ""


def find(source: Source, pattern: str = "*") -> Found:
    """Return a folder's inputs: the files of one kind that match the pattern; raise BadInput."""
    listed = source.objects()
    every = [one for one in listed if not _hidden(one.path)]
    if not every:
        raise BadInput(f"There is nothing in {source.url()} (infer_source): correct it, or upload something.")
    chosen = [one for one in every if fnmatch.fnmatchcase(one.path, pattern)]
    if archived := [one.path for one in chosen if one.storage in manifest.ARCHIVED and not one.restored]:
        raise BadInput(
            f"{len(archived)} objects in {source.url()} are archived, as {archived[0]}: restore them, or leave them "
            "out (infer_files)."
        )
    if not chosen:
        raise BadInput(
            f"None of the {len(every)} files in {source.url()} matches '{pattern}' (infer_files), for example "
            f"{every[0].path} doesn't."
        )
    by_kind: dict[str, list[Object]] = {}
    for one in chosen:
        by_kind.setdefault(kind_of(one.path), []).append(one)
    others = tuple(one.path for one in by_kind.pop("", []))
    if not by_kind:
        raise BadInput(
            f"{source.url()} has {len(chosen)} files, as {others[0]}, of which none is an image "
            f"({' '.join(KINDS[IMAGES])}), a TFRecord, a Parquet or a CSV file by its name."
        )
    if len(by_kind) > 1:
        said = " and ".join(f"{len(some)} {kind}, as {some[0].path}" for kind, some in by_kind.items())
        raise BadInput(f"{source.url()} has {said}: choose some of one kind (infer_files: '*{_ending(by_kind)}').")
    kind = max(by_kind)  # the only one
    objects = by_kind[kind]
    if not sum(one.size for one in objects):
        raise BadInput(f"All {len(objects)} {kind} in {source.url()} are empty.")
    ours = next((one for one in listed if one.path == manifest.NAME), None) if kind == RECORDS else None
    features: Mapping[str, manifest.Feature] = {}
    records: dict[str, int] = {}
    if ours and manifest.is_ours(raw := b"".join(source.stream(ours))):
        known = manifest.parse(raw, source.url(manifest.NAME))
        features, records = known.features, {entry.path: entry.records for entry in known.files if entry.records}
    return Found(kind, tuple(objects), others, features, records)


def _hidden(path: str) -> bool:
    return path == manifest.NAME or any(name.startswith((".", "_")) for name in PurePosixPath(path).parts)


def _ending(by_kind: Mapping[str, list[Object]]) -> str:
    most = max(by_kind.values(), key=len)
    return Counter(PurePosixPath(one.path).suffix for one in most).most_common(1)[0][0]


@dataclass(frozen=True)
class Item:
    """One thing of a file: the file itself, a record of it, or a row; an error in the place of what can't be read."""

    path: str
    record: int | None  # which of the file, from 0; None: the file is one input
    data: bytes  # the file's, the record's; a row's as JSON, for its checksum
    values: Mapping[str, Value] | None = None  # of a record or row, by feature or column
    label: str = ""  # a class's name, or what is written there
    number: int | None = None  # of its class, where a record or row says that
    error: str = ""

    def digest(self) -> str:
        """Return the SHA-256 of the data."""
        return hashlib.sha256(self.data).hexdigest() if self.data else ""


def items(source: Source, kind: str, part: Part) -> Iterator[Item]:
    """Yield what a part holds; what is broken is an Item with an error. Raises Temporary for what is gone."""
    if kind == IMAGES:
        for one, data in _ahead(source, part.objects):
            yield Item(one.path, None, data, label=PurePosixPath(one.path).parent.name)
        return
    read = {RECORDS: _records, PARQUET: _parquet, CSV: _csv}[kind]
    for one in part.objects:
        count = 0
        # On the disk: what is in memory then is a record or some rows, not the file.
        with tempfile.NamedTemporaryFile(suffix=".part") as file:
            try:
                file.writelines(source.stream(one))
            except FileNotFoundError as error:
                raise _gone(source, one) from error
            file.flush()
            try:
                for count, make in read(one.path, Path(file.name), part):
                    if part.has(count):
                        yield make()
                    count += 1
            except (BadInput, Temporary):
                raise
            except Exception as error:  # of whichever library reads it, there are many
                if part.has(count):
                    yield Item(one.path, count, b"", error=f"{CUT}: {cause(error)}")


def _gone(source: Source, one: Object) -> Temporary:
    return Temporary(f"{source.url(one.path)} is gone since it was listed: run the same command again.")


def _read(source: Source, one: Object) -> bytes:
    try:
        return b"".join(source.stream(one))
    except FileNotFoundError as error:
        raise _gone(source, one) from error


def _ahead(source: Source, objects: Iterable[Object]) -> Iterator[tuple[Object, bytes]]:
    """Yield objects with their bytes, in order, some of them read beforehand."""
    with ThreadPoolExecutor(AHEAD // 2) as pool:
        waiting: deque[tuple[Object, Future[bytes]]] = deque()
        try:
            for one in objects:
                waiting.append((one, pool.submit(_read, source, one)))
                if len(waiting) >= AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _one, future in waiting:
                future.cancel()


# A reader yields the number of each record or row and what makes its Item, of which a part needs some only.
Read = tuple[int, Callable[[], Item]]


def _records(path: str, file: Path, part: Part) -> Iterator[Read]:
    """Read a TFRecord file's records; their checksums are checked."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(str(file), compression_type="GZIP" if _is_packed(file) else "")
    number = part.piece
    try:  # TensorFlow skips the others, and gives several at a time: one by one, all of a file cost ten times as much
        for some in records.shard(part.pieces, part.piece).batch(RECORDS_AT_A_TIME).as_numpy_iterator():
            for record in some:
                yield number, functools.partial(_example, path, number, record)
                number += part.pieces
    except tf.errors.DataLossError:  # somewhere after the last one: up to there
        since = max(0, number - part.pieces + 1)
        for number, record in enumerate(records.skip(since).as_numpy_iterator(), since):
            yield number, functools.partial(_example, path, number, record)


def _example(path: str, number: int, record: bytes) -> Item:
    import tensorflow as tf

    example = tf.train.Example()
    try:
        example.ParseFromString(record)
    except Exception:  # of protobuf's; it has no other reason
        return Item(path, number, record, values=None)
    values = {name: _feature(feature) for name, feature in example.features.feature.items()}
    return Item(path, number, record, values, *_label(values))


def _feature(feature: tf.train.Feature) -> Value:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    found = list(getattr(feature, kind).value)
    return found[0] if len(found) == 1 else found


def _parquet(path: str, file: Path, _part: Part) -> Iterator[Read]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(256):
            for row in range(batch.num_rows):
                yield number, functools.partial(_parquet_row, path, number, batch, row)
                number += 1


def _parquet_row(path: str, number: int, batch: pa.RecordBatch, row: int) -> Item:
    return _row(path, number, batch.slice(row, 1).to_pylist()[0])


def _csv(path: str, file: Path, _part: Part) -> Iterator[Read]:
    """Read the rows of a CSV file with a header, whatever separates its columns; all values are text."""
    packed = _is_packed(file)
    with gzip.open(file, "rb") if packed else file.open("rb") as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        first = text.readline()
        mark = max(",;\t", key=first.count)
        header = next(csv.reader([first], delimiter=mark), [])
        if header and all(is_number(name) for name in header):
            raise ValueError(f"its first line has numbers ({first.strip()[:40]}) in the place of the columns' names")
        for number, row in enumerate(csv.DictReader(text, header, delimiter=mark, strict=True)):
            yield number, functools.partial(_csv_row, path, number, row)


def _csv_row(path: str, number: int, row: Mapping[object, object]) -> Item:
    return _row(path, number, {str(name): value if isinstance(value, str) else None for name, value in row.items()})


def _is_packed(file: Path) -> bool:
    """Whether gzip has made a file."""
    with file.open("rb") as opened:
        return opened.read(3) == b"\x1f\x8b\x08"


def is_number(value: Value) -> bool:
    """Whether a value is a number, or the text of one."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _row(path: str, number: int, row: Mapping[str, Value]) -> Item:
    data = json.dumps(
        row, sort_keys=True, default=lambda value: value.hex() if isinstance(value, bytes) else str(value)
    )
    return Item(path, number, data.encode(), row, *_label(row))


def image_of(values: Mapping[str, Value]) -> bytes | None:
    """Return the bytes of the image that a record or row holds, by its name or as its only bytes; None without one."""
    for name in IMAGE_NAMES:
        if (found := _bytes(values.get(name))) is not None:
            return found
    every = [found for value in values.values() if (found := _bytes(value)) is not None]
    return every[0] if len(every) == 1 else None


def _bytes(value: Value) -> bytes | None:
    if isinstance(value, Mapping):  # as Hugging Face's data sets have an image
        value = value.get("bytes")  # type: ignore[assignment]  # looked at just now
    return value if isinstance(value, bytes) else None


def label_name(values: Mapping[str, Value]) -> str:
    """Return the feature or column that holds the class; empty where none is called so."""
    return next((name for name in LABEL_NAMES if name in values), "")


def _label(values: Mapping[str, Value]) -> tuple[str, int | None]:
    """Return what is written as the label, and the number of the class where it is a whole one."""
    value = values.get(label_name(values))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = value.strip()
        return text, _whole(float(text)) if is_number(text) else None
    number = _whole(value) if isinstance(value, (int, float)) else None
    return "" if number is None else str(number), number


def _whole(number: float) -> int | None:
    """Return a number that is a whole one; None where it isn't."""
    return int(number) if math.isfinite(number) and number == int(number) else None


def first(source: Source, found: Found, count: int) -> list[Item]:
    """Return some of the inputs, from different places of the folder, to try the model with."""
    step = max(1, len(found.objects) // count)
    some: list[Item] = []
    for one in found.objects[::step]:
        for item in items(source, found.kind, Part(0, (one,))):
            some.append(item)
            if len(some) >= count or (found.kind == IMAGES):
                break
        if len(some) >= count:
            break
    return some
