"""Objects in S3 that hold a folder's files: hashed first, uploaded where they aren't there, read back and compared."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import TypedDict

import google_crc32c

from flotilla.job.errors import Temporary
from flotilla.storage.files import Files
from flotilla.storage.s3 import Prefix

_log = logging.getLogger(__name__)


class Entry(TypedDict):
    """What a manifest says of an object."""

    path: str  # in the manifest's folder
    size: int  # bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One object of a model: where its bytes come from, and their size and checksums."""

    path: str
    size: int
    sha256: str
    crc32c: str
    read: Callable[[], Iterator[bytes]]

    def entry(self) -> Entry:
        """Return what the manifest says of it."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def from_file(to: str, source: Files, path: str) -> Item:
    whole = hashed(to, lambda: source.read(path))
    # Event files may still grow: what is stored is what was hashed.
    return dataclasses.replace(whole, read=lambda: source.read(path, whole.size))


def hashed(path: str, read: Callable[[], Iterator[bytes]]) -> Item:
    size, sha256, crc = 0, hashlib.sha256(), 0
    for chunk in read():
        size += len(chunk)
        sha256.update(chunk)
        crc = google_crc32c.extend(crc, chunk)
    return Item(path, size, sha256.hexdigest(), f"{crc:08x}", read)


def upload(target: Prefix, path: str, item: Item) -> None:
    """Put one object, unless it is there from an earlier try."""
    with contextlib.suppress(FileNotFoundError):
        if target.head(path) == (item.size, item.crc32c):
            return
    target.put_stream(path, item.read(), item.size, item.crc32c)


def compare(target: Prefix, path: str, item: Item) -> None:
    """Read an object back; where it differs it is uploaded once more."""
    for last in (False, True):
        back = hashed(path, lambda: target.stream(path))
        if (back.size, back.sha256) == (item.size, item.sha256):
            return
        if not last:
            _log.warning("%s isn't what was uploaded; uploading it again.", target.url(path))
            target.put_stream(path, item.read(), item.size, item.crc32c)
    raise Temporary(
        f"{target.url(path)} came back with {back.size} bytes and SHA-256 {back.sha256} instead of "
        f"{item.size} and {item.sha256}."
    )
