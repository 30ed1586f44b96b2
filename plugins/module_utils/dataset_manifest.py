# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data set's manifest, held against the objects that lie beside it in S3."""

from __future__ import annotations

import json
from typing import Any


def check_batch(batch: int, manifest: dict[str, Any], url: str) -> list[str]:
    """Each trainer fills its batches from the whole of the split that is trained on; batch 0 isn't judged."""
    records = sum(entry["records"] for entry in manifest["files"] if entry["split"] == "train")
    if batch <= records:
        return []
    return [
        f"training_batch_size is {batch}, but the data set {url} has {records} examples to train on: "
        f"set it to at most {records}."
    ]


def check_manifest(text: str, url: str) -> tuple[dict[str, Any], list[str]]:
    """Parse a data set's manifest; returns it with the problems found."""
    hint = "upload the data set again with its manifest."
    try:
        manifest = json.loads(text)
    except ValueError:
        return {}, [f"The manifest {url} isn't JSON: {hint}"]
    if not isinstance(manifest, dict) or manifest.get("format") != "flotilla-dataset/1":
        found = manifest.get("format") if isinstance(manifest, dict) else None
        return {}, [f"The manifest {url} has the format '{found}' instead of 'flotilla-dataset/1': {hint}"]
    files = manifest.get("files")
    if not isinstance(files, list) or not files:
        return {}, [f"The manifest {url} lists no files: {hint}"]
    kinds = {"path": str, "split": str, "sha256": str, "crc32c": str, "size": int, "records": int}
    for number, entry in enumerate(files):
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                return {}, [f"The manifest {url} has no {key} in its file {number}: {hint}"]
    for split in ("train", "validation", "eval"):
        if not any(entry["split"] == split for entry in files):
            return {}, [f"The manifest {url} has no file of the split '{split}': {hint}"]
    if not isinstance(manifest.get("name"), str) or not isinstance(manifest.get("features"), dict):
        return {}, [f"The manifest {url} has no name or no features: {hint}"]
    return manifest, []


def check_objects(manifest: dict[str, Any], sizes: dict[str, int], url: str) -> list[str]:
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
