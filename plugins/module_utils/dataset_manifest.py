# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data set in S3: what its manifest says, held against the objects beside it, or what the list of its objects says.

Hosts judge both by training/flotilla/storage/manifest.py, which can't be shared: both are tested with the cases in
tests/support/manifests.json and tests/support/listings.json.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import untyped

FORMAT = "flotilla-dataset/1"
NAME = "manifest.json"
SPLITS = ("train", "validation", "eval")  # that the built-in network reads; a program reads what it likes
LONGEST = 255  # bytes of a name in HDFS
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")  # storage classes that S3 reads nothing of
SHOWN = 3  # of the objects with one problem


class _File(TypedDict):
    path: str  # below the data set's folder
    crc32c: str  # 8 hex digits
    size: int  # bytes


class File(_File, total=False):
    """A file of a data set."""

    split: str  # train, validation or eval
    sha256: str  # 64 hex digits
    records: int


class Manifest(TypedDict):
    """What a data set's manifest.json says."""

    format: str  # flotilla-dataset/1
    name: str  # such as cifar10
    files: list[File]
    features: dict[str, object]  # by name: shape and dtype, and of a label the number of classes


class Listing(TypedDict):
    """A folder of S3 as a data set."""

    version: str  # a digest of all that is said of its objects
    sizes: list[int]  # of its files, in bytes
    folders: int  # how many empty objects, which stand for folders, are left out


def check_batch(batch: int, manifest: Manifest, url: str) -> list[str]:
    """Each trainer fills its batches from the whole of the split that is trained on; batch 0 isn't judged."""
    records = sum(entry["records"] for entry in manifest["files"] if entry.get("split") == "train")
    if batch <= records:
        return []
    return [
        f"training_batch_size is {batch}, but the data set {url} has {records} examples to train on: "
        f"set it to at most {records}."
    ]


def is_ours(text: str) -> bool:
    """Whether a file of this name is a data set's manifest, and not something else that happens to be called so."""
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith("flotilla-dataset/")


def why_not(path: str) -> str:
    """Return why HDFS can't have a file of this path; nothing where it can."""
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


def _folders(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:end]) for end in range(1, len(names))]


def check_objects(objects: Iterable[untyped.Answer], prefix: str, url: str) -> tuple[Listing | None, list[str]]:
    """Take the objects that ListObjectsV2 has below a prefix for a data set; returns None with the problems found."""
    lines: list[tuple[str, int, str]] = []
    folders = 0
    wrong: dict[str, list[str]] = {}
    for one in objects:
        path, size = str(one["Key"]).removeprefix(prefix), int(one["Size"])
        if size == 0 and (not path or path.endswith("/")):
            folders += 1
            continue
        storage = one.get("StorageClass", "STANDARD")
        if storage in ARCHIVED and "RestoreExpiryDate" not in one.get("RestoreStatus", {}):
            wrong.setdefault(f"archived ({storage}), so that S3 doesn't give it: restore it", []).append(path)
        elif reason := why_not(path):
            wrong.setdefault(f"not to be staged, as {reason}: rename it", []).append(path)
        lines.append((path, size, str(one["ETag"])))
    paths = {line[0] for line in lines}
    both = sorted(paths.intersection(folder for path in paths for folder in _folders(path)))
    if both:
        wrong["not to be staged, as it is an object and a folder of others: rename it"] = both
    if wrong:
        return None, [_say(url, names, what) for what, names in wrong.items()]
    if not lines:
        return None, [f"The data set {url} has no objects: upload it, or correct dataset_source."]
    text = "".join(f"{size} {etag} {path}\n" for path, size, etag in sorted(lines))
    return {
        "version": hashlib.sha256(text.encode()).hexdigest(),
        "sizes": [line[1] for line in lines],
        "folders": folders,
    }, []


def _say(url: str, names: list[str], what: str) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"The data set {url} has an object that is {what}, or name a folder without it: {shown}{more}."


def check_manifest(
    text: str, url: str, splits: Sequence[str] = SPLITS, needed: Sequence[str] = ("image", "label")
) -> tuple[Manifest | None, list[str]]:
    """Parse a data set's manifest, which has to have these splits and features; returns it, or None with problems."""
    hint = "upload the data set again with its manifest."
    try:
        manifest = json.loads(text)
    except ValueError:
        return None, [f"The manifest {url} isn't JSON: {hint}"]
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        given = manifest.get("format") if isinstance(manifest, dict) else None
        return None, [f"The manifest {url} has the format '{given}' instead of '{FORMAT}': {hint}"]
    files = manifest.get("files")
    if not isinstance(files, list) or not files:
        return None, [f"The manifest {url} lists no files: {hint}"]
    for number, entry in enumerate(files):
        if problem := _check_file(entry):
            return None, [f"The manifest {url} has {problem} in its file {number}: {hint}"]
    paths = Counter(entry["path"] for entry in files)
    if twice := [path for path, count in paths.items() if count > 1]:
        return None, [f"The manifest {url} lists {min(twice)} twice: {hint}"]
    if both := paths.keys() & {folder for path in paths for folder in _folders(path)}:
        return None, [f"The manifest {url} lists {min(both)} as a file and as a folder: {hint}"]
    for split in splits:
        if not any(entry.get("split") == split and entry.get("records") for entry in files):
            return None, [
                f"The manifest {url} has no records of the split '{split}', which the built-in network needs: {hint}"
            ]
    name, features = manifest.get("name"), manifest.get("features")
    if not isinstance(name, str) or not name or not isinstance(features, dict):
        return None, [f"The manifest {url} has no name or no features: {hint}"]
    if splits and not set(needed) <= features.keys():
        what = " and ".join([", ".join(needed[:-1]), needed[-1]])
        return None, [f"The manifest {url} has no features {what}, which the network needs: {hint}"]
    return Manifest(format=FORMAT, name=name, files=files, features=features), []


def _text(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _path(value: object) -> bool:
    return isinstance(value, str) and not why_not(value) and value != NAME


_MUST = {"path": _path, "crc32c": _text(r"[0-9a-f]{8}"), "size": _number}
_MAY = {"split": _text(r"\S+"), "sha256": _text(r"[0-9a-f]{64}"), "records": _number}


def _check_file(entry: object) -> str:
    """Return what is wrong with a file of a manifest, or nothing."""
    if not isinstance(entry, dict):
        return "no object"
    for key, fits in {**_MUST, **_MAY}.items():
        value = entry.get(key)
        if value is None and key in _MUST:
            return f"no {key}"
        if value is not None and not fits(value):
            return f"the {key} {value!r}"
    return ""


def compare(manifest: Manifest, sizes: dict[str, int], url: str) -> list[str]:
    """Hold a manifest against the objects (path below the folder: size) that are there."""
    missing = [entry["path"] for entry in manifest["files"] if entry["path"] not in sizes]
    wrong = [
        entry["path"] for entry in manifest["files"] if entry["path"] in sizes and sizes[entry["path"]] != entry["size"]
    ]
    problems = []
    for names, what in ((missing, "isn't there"), (wrong, "has another size than the manifest says")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            problems.append(f"The data set {url} doesn't match its manifest, {names[0]}{more} {what}: upload it again.")
    return problems
