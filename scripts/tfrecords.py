"""TFRecord files with tf.train.Examples of an image and its label, the same bytes each time.

Written here because protobuf serialises a map (as the package tfrecord does it) in an order that changes from one
process to the next.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import google_crc32c

HEADER = 12  # bytes before a record: its length, and a checksum of that


class _File(TypedDict):
    path: str  # below the data set's folder
    size: int  # bytes
    crc32c: str  # 8 hex digits


class ManifestFile(_File, total=False):
    """A file of a data set."""

    split: str  # train, validation, eval, or another that a program knows
    records: int
    sha256: str  # hex digits


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def example(image: bytes, label: int) -> bytes:
    """A serialised tf.train.Example with features image (bytes) and label (int64)."""
    image_feature = field(1, field(1, image))
    label_feature = field(3, field(1, varint(label)))
    return field(
        1,
        field(1, field(1, b"image") + field(2, image_feature)) + field(1, field(1, b"label") + field(2, label_feature)),
    )


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return length + masked_crc(length) + record + masked_crc(record)


class Summary:
    """What a manifest says of a file, from its bytes as they come."""

    def __init__(self) -> None:
        self.size = self._crc = self._records = 0
        self._sha256 = hashlib.sha256()
        self._header, self._skip, self._framed = b"", 0, True  # of the TFRecord file that it may be

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        self._crc = google_crc32c.extend(self._crc, chunk)
        self._sha256.update(chunk)
        at = 0
        while self._framed and at < len(chunk):
            if self._skip:
                taken = min(self._skip, len(chunk) - at)
                self._skip -= taken
            else:
                taken = min(HEADER - len(self._header), len(chunk) - at)
                self._header += chunk[at : at + taken]
                if len(self._header) == HEADER:
                    self._begin_record()
            at += taken

    def _begin_record(self) -> None:
        length, checksum = self._header[:8], self._header[8:]
        self._framed = masked_crc(length) == checksum
        self._skip = struct.unpack("<Q", length)[0] + 4
        self._records += 1
        self._header = b""

    def entry(self, path: str, split: str) -> ManifestFile:
        """Return what the manifest says; records only of a TFRecord file."""
        entry: ManifestFile = {
            "path": path,
            "size": self.size,
            "crc32c": f"{self._crc:08x}",
            "sha256": self._sha256.hexdigest(),
        }
        if split:
            entry["split"] = split
        if self._framed and self._records and not self._skip and not self._header:
            entry["records"] = self._records
        return entry


def write(path: Path, split: str, examples: Iterable[tuple[bytes, int]]) -> ManifestFile:
    """Write images and their labels as a TFRecord file; returns what a manifest says of it."""
    summary = Summary()
    with path.open("wb") as out:
        for image, label in examples:
            data = framed(example(image, label))
            out.write(data)
            summary.feed(data)
    return summary.entry(path.name, split)
