# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data set's manifest, held against the objects that lie beside it in S3."""

from __future__ import annotations

import json
from typing import TypedDict

FORMAT = "flotilla-dataset/1"


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


def check_manifest(text: str, url: str) -> tuple[Manifest | None, list[str]]:
    """Parse a data set's manifest; returns it, or None with the problems found."""
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
    kinds = {"path": str, "split": str, "sha256": str, "crc32c": str, "size": int, "records": int}
    for number, entry in enumerate(files):
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                return None, [f"The manifest {url} has no {key} in its file {number}: {hint}"]
    for split in ("train", "validation", "eval"):
        if not any(entry["split"] == split for entry in files):
            return None, [f"The manifest {url} has no file of the split '{split}': {hint}"]
    if not isinstance(manifest.get("name"), str) or not isinstance(manifest.get("features"), dict):
        return None, [f"The manifest {url} has no name or no features: {hint}"]
    return Manifest(format=FORMAT, name=manifest["name"], files=files, features=manifest["features"]), []


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
