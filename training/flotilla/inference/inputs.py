"""What is to be classified: a folder's files of one kind, the parts that tasks take, and what each file holds."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import json
import math
import re
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flotilla.job.errors import BadInput, Temporary
from flotilla.storage import manifest
from flotilla.storage.files import Files, open_folder
from flotilla.storage.manifest import Object
from flotilla.storage.s3 import Prefix

if TYPE_CHECKING:
    import tensorflow as tf

KINDS = {
    "images": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    "TFRecord files": (".tfrecord", ".tfrecords"),
    "Parquet files": (".parquet", ".pq"),
    "CSV files": (".csv", ".csv.gz", ".tsv"),
}
IMAGES, RECORDS, PARQUET, CSV = KINDS
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # as TensorFlow's own tools name TFRecord files
AHEAD = 16  # images that are read before they are needed
LEAST, MOST, PARTS = 16, 256, 64  # images a part, and how many parts a small folder makes
PART_BYTES = 64 * 1024**2
# By their names, what people call the feature or column that holds an image, and the one with its class
IMAGE_NAMES = ("image", "image/encoded", "image_raw", "image_bytes", "encoded", "content", "bytes", "data")
LABEL_NAMES = ("label", "image/class/label", "labels", "class", "target", "y")

Value = bytes | str | int | float | list[float] | list[bytes] | None


class Source(Protocol):
    """A folder that is read; paths are relative to it."""

    def url(self, path: str = "") -> str:
        """Return the full address of a path."""

    def objects(self) -> list[Object]:
        """Return what is in the folder, by path."""

    def read(self, one: Object) -> bytes:
        """Return a file's bytes, as it was when it was listed."""


class _S3Source:
    def __init__(self, url: str) -> None:
        self._prefix = Prefix(url)
        self.url = self._prefix.url

    def objects(self) -> list[Object]:
        found = [one for one in self._prefix.objects() if not one.path.endswith("/")]
        archived = [one.path for one in found if one.storage in manifest.ARCHIVED and not one.restored]
        if archived:
            raise BadInput(
                f"{len(archived)} objects in {self.url()} are archived, as {archived[0]}: restore them, or leave them "
                "out (infer_files)."
            )
        return sorted(found)

    def read(self, one: Object) -> bytes:
        return b"".join(self._prefix.stream(one.path, one.etag))


class _FolderSource:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.url = files.url

    def objects(self) -> list[Object]:
        return sorted(Object(path, one.size, f"{one.changed:.3f}") for path, one in self._files.statuses().items())

    def read(self, one: Object) -> bytes:
        return b"".join(self._files.read(one.path))


def open_source(url: str) -> Source:
    """Open a folder of S3, of HDFS or of this host."""
    return _S3Source(url) if url.startswith("s3://") else _FolderSource(open_folder(url))


class Part(NamedTuple):
    """What one task takes, and one file of the predictions holds."""

    number: int
    objects: tuple[Object, ...]


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
        return [Part(number, tuple(group)) for number, group in enumerate(groups)]


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
    ((kind, objects),) = by_kind.items()
    if not sum(one.size for one in objects):
        raise BadInput(f"All {len(objects)} {kind} in {source.url()} are empty.")
    ours = next((one for one in listed if one.path == manifest.NAME), None) if kind == RECORDS else None
    features: Mapping[str, manifest.Feature] = {}
    records: dict[str, int] = {}
    if ours and manifest.is_ours(raw := source.read(ours)):
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
    label: str = ""
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
        data = _read(source, one)
        count = 0
        try:
            for count, item in enumerate(read(one.path, data), 1):  # noqa: B007  (told below)
                yield item
        except _Broken as error:
            yield Item(one.path, count, b"", error=f"the file can't be read from here on: {error}")


class _Broken(Exception):
    """Why the rest of a file can't be read."""


def _read(source: Source, one: Object) -> bytes:
    try:
        return source.read(one)
    except FileNotFoundError as error:
        raise Temporary(f"{source.url(one.path)} is gone since it was listed: run the same command again.") from error


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
            for _, future in waiting:
                future.cancel()


def _records(path: str, data: bytes) -> Iterator[Item]:
    """Yield a TFRecord file's records; their checksums are checked."""
    import tensorflow as tf

    kind = "GZIP" if data[:2] == b"\x1f\x8b" else ""
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as file:
        file.write(data)
        file.flush()
        try:
            every = tf.data.TFRecordDataset(file.name, compression_type=kind).as_numpy_iterator()
            for number, record in enumerate(every):
                yield _example(path, number, record)
        except tf.errors.OpError as error:
            raise _Broken(str(error.message).splitlines()[0]) from error


def _example(path: str, number: int, record: bytes) -> Item:
    import tensorflow as tf

    example = tf.train.Example()
    try:
        example.ParseFromString(record)
    except Exception:  # of protobuf's; it has no other reason
        return Item(path, number, record, values=None)
    values = {name: _feature(feature) for name, feature in example.features.feature.items()}
    return Item(path, number, record, values, _label(values))


def _feature(feature: tf.train.Feature) -> Value:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    found = list(getattr(feature, kind).value)
    return found[0] if len(found) == 1 else found


def _parquet(path: str, data: bytes) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        number = 0
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                yield _row(path, number, row)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise _Broken(str(error).splitlines()[0]) from error


def _csv(path: str, data: bytes) -> Iterator[Item]:
    """Yield the rows of a CSV file with a header, whatever separates its columns."""
    import gzip

    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        first = text.partition("\n")[0]
        mark = max(",;\t", key=first.count)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        for number, row in enumerate(rows):
            yield _row(path, number, {str(name): _number(value) for name, value in row.items()})
    except (csv.Error, UnicodeDecodeError, OSError, EOFError) as error:
        raise _Broken(str(error)) from error


def _number(text: object) -> Value:
    if not isinstance(text, str):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _row(path: str, number: int, row: Mapping[str, Value]) -> Item:
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    return Item(path, number, json.dumps(plain, sort_keys=True, default=str).encode(), row, _label(row))


def label_name(values: Mapping[str, Value]) -> str:
    """Return the feature or column that holds the class; empty where none is called so."""
    return next((name for name in LABEL_NAMES if name in values), "")


def _label(values: Mapping[str, Value]) -> str:
    value = values.get(label_name(values))
    if isinstance(value, (int, float)) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


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
