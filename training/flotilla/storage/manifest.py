"""What a data set consists of: by its manifest, or where it has none by the list of the objects in its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

from flotilla.job.errors import BadInput

FORMAT = "flotilla-dataset/1"
NAME = "manifest.json"
# In the folder beside a staged data set; in its own there is what its source has, and nothing else.
VERIFIED = "verified.json"  # all is there, and equal; written last
FAILED = "failed.json"  # in its place: why staging was given up
LONGEST = 255  # bytes of a name in HDFS
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")  # storage classes that S3 reads nothing of


class Object(NamedTuple):
    """An object of S3, as the list of its bucket has it; the path is relative to the data set's folder."""

    path: str
    size: int  # bytes
    etag: str
    storage: str = "STANDARD"
    restored: bool = False  # whether an archived one can be read for a while


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of a data set. The crc32c is 8 hex digits, or nothing where only the ETag tells contents apart."""

    path: str
    size: int  # bytes
    crc32c: str = ""
    split: str = ""
    records: int = 0
    etag: str = ""


class Feature(TypedDict, total=False):
    """What the records hold under a name."""

    dtype: str
    shape: list[int]  # channels, height, width; of numbers how many, none: one
    classes: int
    names: list[str]  # of the classes
    encoding: str  # of images: jpeg or png; raw bytes, channels first, without


class Column(NamedTuple):
    """A feature of numbers."""

    dtype: str  # float32 or int64
    values: int  # of an example


class Described(NamedTuple):
    """What a data set's examples are."""

    shape: tuple[int, ...]  # height, width, channels; or the number of all columns' values
    classes: int
    encoding: str  # of images: jpeg, png or none
    columns: dict[str, Column]  # in order; none: images


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A data set. The version is a digest of all that is said of its files."""

    name: str
    files: tuple[Entry, ...]
    features: dict[str, Feature]  # image or columns of numbers, and label
    version: str
    raw: bytes = b""  # the manifest's own bytes, so that a copy is the same file; none of a list

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def share(self, index: int, shares: int) -> list[Entry]:
        """Return one host's files: dealt out from the largest on, each to the host with the least bytes and files."""
        if not 0 <= index < shares:
            raise BadInput(f"Share {index} of {shares} doesn't exist: count shares from 0.")
        loads = [(0, 0)] * shares
        mine = []
        for entry in sorted(self.files, key=lambda entry: (-entry.size, entry.path)):
            host = loads.index(min(loads))
            loads[host] = (loads[host][0] + entry.size, loads[host][1] + 1)
            if host == index:
                mine.append(entry)
        return mine


def described(features: Mapping[str, Feature], columns: Sequence[str], where: str) -> Described:
    """Return what the manifest at `where` says of its images, or of these columns; raise BadInput."""
    try:
        classes = int(features["label"]["classes"])
        if columns:
            found = {name: _column(name, features) for name in columns}
            return Described((sum(column.values for column in found.values()),), classes, "", found)
        image = features["image"]
        channels, height, width = map(int, image["shape"])
        if image["dtype"] != "uint8":
            raise ValueError("image dtype")
        encoding = image.get("encoding", "")
        if encoding not in ("", "jpeg", "png"):
            raise ValueError("image encoding")
    except (KeyError, TypeError, ValueError) as error:
        numbers = [name for name in features if name not in ("image", "label")]
        hint = f"; there are the columns {', '.join(numbers)}" if numbers else ""
        what = "the columns of the network's file" if columns else "images"
        raise BadInput(
            f"{where} doesn't describe {what} and labels (see {error}{hint}): prepare the data set again."
        ) from error
    return Described((height, width, channels), classes, encoding, {})


def _column(name: str, features: Mapping[str, Feature]) -> Column:
    feature = features[name]
    if feature["dtype"] not in ("float32", "int64"):
        raise ValueError(f"{name} dtype")
    (values,) = feature.get("shape") or [1]
    if not isinstance(values, int) or values < 1:
        raise ValueError(f"{name} shape")
    return Column(feature["dtype"], values)


def notes(folder: str) -> str:
    """Return the folder that says how the staging of a data set went."""
    return f"{folder.rstrip('/')}.staging"


def why_not(path: str) -> str:
    """Return why HDFS, or a folder of Linux, can't have a file of this path; nothing where it can."""
    names = path.split("/")
    if ":" in path:
        return "HDFS has no names with a colon"
    if any(name in ("", ".", "..") for name in names):
        return "a folder in it has no name, or is . or .."
    if re.search(r"[\0-\x1f\x7f]", path):
        return "it has control characters"
    if max(len(name.encode()) for name in names) > LONGEST:
        return f"HDFS has no names of more than {LONGEST} bytes"
    return ""


def of_objects(objects: Iterable[Object], where: str) -> Manifest:
    """Return the data set that a folder's objects are, leaving out the empty ones that stand for folders.

    Raises BadInput where one of them can't become a file of HDFS, or can't be read.
    """
    entries = []
    for one in sorted(objects):
        if one.size == 0 and (not one.path or one.path.endswith("/")):
            continue
        if one.storage in ARCHIVED and not one.restored:
            raise BadInput(f"{where}{one.path} is archived ({one.storage}): restore it, or name a folder without it.")
        if reason := why_not(one.path):
            raise BadInput(f"{where}{one.path} can't be staged, as {reason}: rename it, or name a folder without it.")
        entries.append(Entry(one.path, one.size, etag=one.etag))
    paths = {entry.path for entry in entries}
    for entry in entries:
        if both := paths.intersection(_folders(entry.path)):
            raise BadInput(
                f"{where}{min(both)} can't be staged, as it is an object and the folder of {entry.path}: rename it, "
                "or name a folder without it."
            )
    if not entries:
        raise BadInput(f"{where} has no objects: upload the data set, or name another folder.")
    lines = "".join(f"{entry.size} {entry.etag} {entry.path}\n" for entry in entries)
    name = where.rstrip("/").rsplit("/", 1)[-1]
    return Manifest(name, tuple(entries), {}, hashlib.sha256(lines.encode()).hexdigest())


def _folders(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:end]) for end in range(1, len(names))]


def is_ours(raw: bytes) -> bool:
    """Whether a file of this name is a data set's manifest, and not something else that happens to be called so."""
    try:
        content = json.loads(raw)
    except ValueError:
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith("flotilla-dataset/")


def parse(raw: bytes, where: str) -> Manifest:
    """Read a manifest; raise BadInput with one sentence that names `where` it came from."""
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise BadInput(f"{where} isn't JSON ({error}): upload the data set again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f"{where} isn't a manifest of the format {FORMAT}: upload the data set again.")
    name, files = content.get("name"), content.get("files")
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where} has no name: give the data set one.")
    if not isinstance(files, list) or not files:
        raise BadInput(f"{where} lists no files: upload the data set again.")
    entries = tuple(_entry(item, number, where) for number, item in enumerate(files))
    paths = Counter(entry.path for entry in entries)
    if twice := [path for path, count in paths.items() if count > 1]:
        raise BadInput(f"{where} lists {min(twice)} twice: upload the data set again.")
    for entry in entries:
        if both := paths.keys() & set(_folders(entry.path)):
            raise BadInput(f"{where} lists {min(both)} as a file and as a folder: upload the data set again.")
    features = content.get("features")
    version = hashlib.sha256(raw).hexdigest()
    return Manifest(name, entries, features if isinstance(features, dict) else {}, version, raw)


def _entry(item: object, number: int, where: str) -> Entry:
    if not isinstance(item, dict):
        raise BadInput(f"{where}: file {number} isn't an object with path, size and crc32c.")
    path = item.get("path")
    if not isinstance(path, str) or path == NAME:
        raise BadInput(f"{where}: file {number} has the path {path!r}: upload the data set again.")
    if reason := why_not(path):
        raise BadInput(f"{where}: file {number} has the path {path!r}, and {reason}: rename it.")
    for key, pattern in (("crc32c", r"[0-9a-f]{8}"), ("sha256", r"[0-9a-f]{64}"), ("split", r"\S+")):
        value = item.get(key)
        if value is None and key != "crc32c":
            continue
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise BadInput(f"{where}: {path} has the {key} {value!r}: upload the data set again.")
    for key in ("size", "records"):
        value = item.get(key)
        if value is None and key != "size":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"{where}: {path} has the {key} {value!r}: upload the data set again.")
    return Entry(path, item["size"], item["crc32c"], item.get("split") or "", item.get("records") or 0)
