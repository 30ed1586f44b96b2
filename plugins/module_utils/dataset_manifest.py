# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data set's manifest, held against the objects that lie beside it in S3.

Hosts read it by training/flotilla/storage/manifest.py, which can't be shared: both are tested with the cases in
tests/support/manifests.json.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

FORMAT = "flotilla-dataset/1"
NAME = "manifest.json"
SPLITS = ("train", "validation", "eval")  # that the built-in network reads; a program reads what it likes
# No spaces, and nothing that S3, HDFS or its shell would read as a pattern or as another folder.
PATH = r"(?!.*(^|/)\.)[A-Za-z0-9._=@+-]+(/[A-Za-z0-9._=@+-]+)*"
TEXTS = {"path": PATH, "split": r"\S+", "sha256": r"[0-9a-f]{64}", "crc32c": r"[0-9a-f]{8}"}


class File(TypedDict):
    """A file of a data set: TFRecords of one split."""

    path: str  # below the data set's folder
    split: str  # train, validation or eval
    sha256: str  # 64 hex digits
    crc32c: str  # 8 hex digits
    size: int  # bytes
    records: int


class Manifest(TypedDict):
    """What a data set's manifest.json says."""

    format: str  # flotilla-dataset/1
    name: str  # such as cifar10
    files: list[File]
    features: dict[str, object]  # by name: shape and dtype, and of a label the number of classes


def check_batch(batch: int, manifest: Manifest, url: str) -> list[str]:
    """Each trainer fills its batches from the whole of the split that is trained on; batch 0 isn't judged."""
    records = sum(entry["records"] for entry in manifest["files"] if entry["split"] == "train")
    if batch <= records:
        return []
    return [
        f"training_batch_size is {batch}, but the data set {url} has {records} examples to train on: "
        f"set it to at most {records}."
    ]


def check_manifest(text: str, url: str, splits: Sequence[str] = SPLITS) -> tuple[Manifest | None, list[str]]:
    """Parse a data set's manifest, which has to have these splits; returns it, or None with the problems found."""
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
    for split in splits:
        if not any(entry["split"] == split for entry in files):
            return None, [f"The manifest {url} has no file of the split '{split}': {hint}"]
    name = manifest.get("name")
    if not isinstance(name, str) or not name or not isinstance(manifest.get("features"), dict):
        return None, [f"The manifest {url} has no name or no features: {hint}"]
    return Manifest(format=FORMAT, name=name, files=files, features=manifest["features"]), []


def _check_file(entry: object) -> str:
    """Return what is wrong with a file of a manifest, or nothing."""
    if not isinstance(entry, dict):
        return "no object"
    for key in (*TEXTS, "size", "records"):
        value = entry.get(key)
        if value is None:
            return f"no {key}"
        if key in TEXTS:
            fits = isinstance(value, str) and re.fullmatch(TEXTS[key], value) and value != NAME
        else:
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not fits:
            return f"the {key} {value!r}"
    return ""


def check_objects(manifest: Manifest, sizes: dict[str, int], url: str) -> list[str]:
    """Compare a manifest with the objects (path below the folder: size) that are there."""
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
