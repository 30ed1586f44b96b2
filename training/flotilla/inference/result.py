"""The predictions as a whole: the plan that their folder begins with, what is there already, and what ends it.

manifest.json is written last, once every input has been found in the files that were read back.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np

import flotilla
from flotilla.inference import page, part
from flotilla.inference.arrays import Array
from flotilla.inference.inputs import CUT, IMAGES, Found, Part
from flotilla.inference.part import Summary
from flotilla.inference.saved_model import Facts
from flotilla.inference.settings import InferConfig
from flotilla.job.errors import BadInput, Mismatch
from flotilla.storage import jsons, objects
from flotilla.storage.s3 import Changed, Prefix

FORMAT = "flotilla-predictions/1"
PLAN = "plan.json"
MANIFEST = "manifest.json"
HDF5 = "predictions.h5"
_PART = re.compile(rf"{part.PARTS}/part-(\d{{6}})\.parquet")
_THREADS = 8
_WHOLE = ("page", "record", "class")
_NUMBERS = (*_WHOLE, "score")
_TEXTS = ("path", "sha256", "label", "name", "error")


class Plan(TypedDict):
    """What a folder of predictions is made from, and how: the first object in it."""

    format: str
    digest: str  # of all that follows, but for the addresses
    model: str
    source: str
    kind: str
    files: int
    bytes: int
    inputs: str  # a digest of the listing
    parts: int
    facts: Facts
    settings: dict[str, object]


def plan(config: InferConfig, found: Found, facts: Facts) -> Plan:
    """Return the plan for these inputs."""
    program = hashlib.sha256(Path(config.program).read_bytes()).hexdigest() if config.program else ""
    settings: dict[str, object] = {
        "scale": config.scale, "top": config.top, "whole_output": config.whole_output, "program": program,
        "files": config.files,
    }  # fmt: skip
    says = {"inputs": found.digest(), "parts": len(found.parts()), "facts": facts, "settings": settings}
    return {
        "format": FORMAT, "digest": hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest(),
        "model": config.model, "source": config.source, "kind": found.kind, "files": len(found.objects),
        "bytes": found.size, "inputs": found.digest(), "parts": len(found.parts()), "facts": facts,
        "settings": settings,
    }  # fmt: skip


def before(target: Prefix) -> Plan | None:
    """Return the plan of the predictions that are in the target; raise BadInput where something else is."""
    try:
        content = json.loads(target.read(PLAN))
    except FileNotFoundError:
        some = next((one.path for one in target.objects() if not one.path.endswith("/") and one.path), "")
        if some:
            raise BadInput(
                f"{target.url()} (infer_target) has {some}, and no predictions: name a folder of their own."
            ) from None
        return None
    except ValueError as error:
        raise BadInput(f"{target.url(PLAN)} isn't what the kit has written: name another infer_target.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f"{target.url(PLAN)} isn't a plan of predictions: name another infer_target.")
    found: Plan = content  # type: ignore[assignment]  # as `begin` wrote it
    return found


def check_same(target: Prefix, old: Plan, new: Plan) -> None:
    """Raise BadInput where the target holds the predictions of another job, saying what differs."""
    if old["digest"] == new["digest"]:
        return
    differs = [
        words
        for words, same in (
            ("another model", old["facts"]["identity"] == new["facts"]["identity"]),
            ("other inputs", old["inputs"] == new["inputs"]),
            ("another signature", old["facts"]["signature"] == new["facts"]["signature"]),
            ("other names of classes", old["facts"]["names"] == new["facts"]["names"]),
            ("other settings", old["settings"] == new["settings"]),
        )
        if not same
    ]
    raise BadInput(
        f"{target.url()} (infer_target) holds predictions of {' and '.join(differs) or 'another kit'}, from "
        f"{old['source']}: name another infer_target."
    )


def begin(target: Prefix, new: Plan) -> dict[int, Summary]:
    """Write the plan, or find it; return what came of the parts that are done. Raises BadInput."""
    old = before(target)
    if old is None:
        try:
            target.put(PLAN, jsons.dumps(new, indent=2).encode() + b"\n", if_absent=True)
        except Changed:  # by somebody who begins at the same time
            old = before(target)
    if old is not None:
        check_same(target, old, new)
    there = [one.path for one in target.objects() if _PART.fullmatch(one.path)]
    done = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for raw in pool.map(target.read, there):
            try:
                digest, summary = part.told(raw)
            except ValueError:  # not whole; it is written again
                continue
            if digest == new["digest"]:
                done[summary["part"]] = summary
    return done


def is_done(target: Prefix, plan: Plan, hdf5: bool) -> dict[str, object] | None:
    """Return the manifest, where it is there, of this plan and with all that is wanted."""
    try:
        content = json.loads(target.read(MANIFEST))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("plan") != plan["digest"]:
        return None
    return content if not hdf5 or any(one["path"] == HDF5 for one in content["files"]) else None


def total(summaries: Iterable[Summary]) -> Summary:
    """Return what came of several parts together."""
    whole: Summary = {
        "part": -1, "files": 0, "rows": 0, "broken": 0, "bytes": 0, "classes": {}, "labelled": 0, "strange": 0,
        "right": 0, "confusion": {}, "surest": [], "least_sure": [], "errors": [], "seconds": {},
    }  # fmt: skip
    for one in summaries:
        add(whole, one)
    return whole


def add(whole: Summary, one: Summary) -> None:
    """Add what came of a part to the whole."""
    for key in ("files", "rows", "broken", "bytes", "labelled", "strange", "right"):
        whole[key] += one[key]
    for sums, more in ((whole["classes"], one["classes"]), (whole["confusion"], one["confusion"])):
        for name, count in more.items():
            sums[name] = sums.get(name, 0) + count
    for name, value in one["seconds"].items():
        whole["seconds"][name] = round(whole["seconds"].get(name, 0.0) + value, 3)
    part.keep(whole, one["surest"], one["least_sure"], 2 * part.SAMPLES)
    whole["errors"] = [*whole["errors"], *one["errors"]][:100]


def finish(
    target: Prefix, config: InferConfig, new: Plan, found: Found, seconds: float, spark: Mapping[str, float]
) -> dict[str, object]:
    """Read all parts back, hold them against the listing, and write the page and the manifest, which is returned.

    Raises Mismatch where an input has no row or two.
    """
    files: list[objects.Entry] = []
    whole = total([])
    parts = found.parts()
    with contextlib.ExitStack() as stack:
        wanted = stack.enter_context(Hdf5()) if config.hdf5 else None
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS))
        for some in _batches(parts, _THREADS):  # so many files in memory at a time
            for one, raw in zip(some, pool.map(target.read, [part.name_of(one.number) for one in some]), strict=True):
                files.append(_item(part.name_of(one.number), raw).entry())
                rows = _columns(raw, wanted is not None)
                _hold(rows, one, found)
                add(whole, part.told(raw)[1])
                if wanted is not None:
                    wanted.add(rows)
        if wanted is not None:
            item = _item(HDF5, wanted.close())
            objects.upload(target, HDF5, item)
            objects.compare(target, HDF5, item)
            files.append(item.entry())
    facts = new["facts"]
    content: dict[str, object] = {
        "format": FORMAT,
        "plan": new["digest"],
        "model": {"url": config.model, "identity": facts["identity"], "job": facts["job"]},
        "source": {"url": config.source, "kind": found.kind, "files": len(found.objects), "bytes": found.size},
        "left_out": list(found.left_out[:100]),
        "rows": whole["rows"],
        "broken": whole["broken"],
        "classes": whole["classes"],
        "labelled": whole["labelled"],
        "strange_labels": whole["strange"],
        "accuracy": whole["right"] / whole["labelled"] if whole["labelled"] and not whole["strange"] else None,
        "model_takes": facts["takes"],
        "model_gives": {"output": facts["scores"], "meaning": facts["meaning"], "classes": facts["classes"]},
        "scale": config.scale if _scales(facts) else None,
        "settings": new["settings"],
        "seconds": round(seconds, 1),
        "seconds_of_tasks": whole["seconds"],
        "seconds_of_spark": dict(spark),
        "versions": {"flotilla": flotilla.__version__, "numpy": np.__version__},
        "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "files": files,
    }
    if facts["takes"] not in ("columns", "examples"):  # which are no images
        page.draw(config.source, found, [*whole["surest"], *whole["least_sure"]], apart=bool(config.master))
    shown = page.render(content, whole, facts["names"]).encode()
    target.put(page.NAME, shown)
    files.append(_item(page.NAME, shown).entry())
    raw = jsons.dumps(content, indent=2).encode() + b"\n"
    target.put(MANIFEST, raw)
    return content


def _scales(facts: Facts) -> bool:
    """Whether the model takes pixels as floats, whose scale it doesn't say."""
    return facts["takes"] == "images" and any(one["dtype"].startswith("float") for one in facts["inputs"].values())


Columns = dict[str, list[object]]  # rows by column


def _item(path: str, raw: bytes) -> objects.Item:
    return objects.hashed(path, lambda: iter([raw]))


def _batches(parts: Sequence[Part], count: int) -> Iterator[Sequence[Part]]:
    return (parts[start : start + count] for start in range(0, len(parts), count))


def _columns(raw: bytes, every: bool) -> Columns:
    """Return a part's rows by column: those that tell the inputs apart, or all of the kit's."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(raw))
    names = file.schema_arrow.names if every else ["path", "page", "record", "error"]
    # By this thread alone: Arrow's others still hold the bytes when a process ends soon, which aborts it (34314 there)
    table = file.read(names, use_threads=False)
    found: Columns = {str(name): list(column) for name, column in table.to_pydict().items()}
    return found


def _hold(rows: Columns, one: Part, found: Found) -> None:
    """Hold a part's rows against its share of the listing: none lost, none twice; raise Mismatch."""
    keys = Counter(zip(rows["path"], rows["page"], rows["record"], strict=True))
    if twice := [key for key, count in keys.items() if count > 1]:
        raise Mismatch(f"{len(twice)} inputs have several rows, as {twice[0][0]}: please report this.")
    there = Counter(rows["path"])
    cut = {path for path, error in zip(rows["path"], rows["error"], strict=True) if str(error or "").startswith(CUT)}
    paths = {listed.path for listed in one.objects}
    least = {path: 1 if found.kind == IMAGES else _share(found.records.get(path, 0), one) for path in paths - cut}
    lost = [path for path, count in least.items() if there[path] < count]
    strange = there.keys() - paths
    if lost or strange:
        raise Mismatch(
            f"{len(lost)} inputs have no row, as {min(lost)}: please report this."
            if lost
            else f"{len(strange)} rows are of no input, as {min(map(str, strange))}: please report this."
        )


def _share(records: int, one: Part) -> int:
    """Return how many of a file's records are in a part."""
    return len(range(one.piece, records, one.pieces))


class Hdf5:
    """The predictions as HDF5: a dataset a column."""

    def __enter__(self) -> Hdf5:
        import h5py

        self._out = io.BytesIO()
        self._file = h5py.File(self._out, "w")
        self._text = h5py.string_dtype()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, rows: Columns) -> None:
        """Take a part's rows."""
        for name, values in rows.items():
            first = next((value for value in values if value is not None), None)
            if isinstance(first, list):
                numbers = [one if isinstance(one, list) else [] for one in values]
                wide = max(map(len, numbers))
                if first and isinstance(first[0], str):
                    continue  # lists of the user's own texts
                none = -1 if name == "top_classes" else np.nan
                self._append(name, np.array([[*one, *[none] * (wide - len(one))] for one in numbers]))
            elif isinstance(first, (int, float)) or name in _NUMBERS:
                none = -1 if name in _WHOLE else np.nan
                kind = np.int64 if name in _WHOLE else np.float64
                self._append(name, np.array([none if one is None else one for one in values], kind))
            elif isinstance(first, str) or name in _TEXTS:
                self._append(name, np.array([one or "" for one in values], object), self._text)

    def _append(self, name: str, values: Array, kind: object = None) -> None:
        if name not in self._file:
            most = (None,) * values.ndim
            self._file.create_dataset(name, data=values, dtype=kind, maxshape=most, chunks=True)
            return
        data = self._file[name]
        before = data.shape[0]
        size = (before + len(values), *(max(sizes) for sizes in zip(data.shape[1:], values.shape[1:], strict=True)))
        data.resize(size)
        data[(slice(before, None), *(slice(0, one) for one in values.shape[1:]))] = values

    def close(self) -> bytes:
        """Return the file."""
        self._file.close()
        return self._out.getvalue()
