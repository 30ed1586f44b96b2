"""A data set's manifest: which files it has, with their sizes and checksums."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from typing import TypedDict

from flotilla.job.errors import BadInput

FORMAT = "flotilla-dataset/1"
NAME = "manifest.json"
FAILED = "staging-failed.json"  # in its place: why staging was given up, for whoever waits for the data
# No spaces, and nothing that S3, HDFS or its shell would read as a pattern or as another folder.
_PATH = re.compile(r"(?!.*(^|/)\.)[A-Za-z0-9._=@+-]+(/[A-Za-z0-9._=@+-]+)*")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of a data set; crc32c is 8 hex digits."""

    path: str
    split: str
    size: int
    records: int
    sha256: str
    crc32c: str


class Feature(TypedDict, total=False):
    """What the records hold under a name."""

    dtype: str
    shape: list[int]  # channels, height, width
    classes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A data set. raw is the manifest's own bytes, so that a copy is the same file."""

    name: str
    files: tuple[Entry, ...]
    features: dict[str, Feature]  # image and label
    raw: bytes

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def share(self, index: int, shares: int) -> list[Entry]:
        """Return one host's files: dealt out from the largest on, each to the host with the least bytes."""
        if not 0 <= index < shares:
            raise BadInput(f"Share {index} of {shares} doesn't exist: count shares from 0.")
        loads = [0] * shares
        mine = []
        for entry in sorted(self.files, key=lambda entry: (-entry.size, entry.path)):
            host = loads.index(min(loads))
            loads[host] += entry.size
            if host == index:
                mine.append(entry)
        return mine


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
    features = content.get("features")
    return Manifest(name, entries, features if isinstance(features, dict) else {}, raw)


def _entry(item: object, number: int, where: str) -> Entry:
    if not isinstance(item, dict):
        raise BadInput(f"{where}: file {number} isn't an object with path, split, size, records and checksums.")
    path = item.get("path")
    if not isinstance(path, str) or not _PATH.fullmatch(path) or path == NAME:
        raise BadInput(
            f"{where}: file {number} has the path {path!r}: use letters, digits and . _ = @ + - /, "
            "and begin no name with a dot."
        )
    for key, pattern in (("sha256", r"[0-9a-f]{64}"), ("crc32c", r"[0-9a-f]{8}"), ("split", r"\S+")):
        value = item.get(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise BadInput(f"{where}: {path} has the {key} {value!r}: upload the data set again.")
    for key in ("size", "records"):
        value = item.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"{where}: {path} has the {key} {value!r}: upload the data set again.")
    return Entry(path, item["split"], item["size"], item["records"], item["sha256"], item["crc32c"])
