"""The predictions as a whole: the plan that their folder begins with, what is there already, and what ends it.

manifest.json is written last, once every input has been found in the files that were read back.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np

import flotilla
from flotilla.inference import page, part
from flotilla.inference.inputs import IMAGES, Found
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
        some = next((one.path for one in target.objects()), "")
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


def is_done(target: Prefix) -> dict[str, object] | None:
    """Return the manifest, where it is there."""
    try:
        content = json.loads(target.read(MANIFEST))
    except FileNotFoundError:
        return None
    return content if isinstance(content, dict) else None


def total(summaries: Iterable[Summary]) -> Summary:
    """Return what came of all parts together."""
    whole: Summary = {
        "part": -1, "files": 0, "rows": 0, "broken": 0, "bytes": 0, "classes": {}, "labelled": 0, "right": 0,
        "confusion": {}, "surest": [], "least_sure": [], "errors": [], "seconds": {},
    }  # fmt: skip
    classes: Counter[str] = Counter()
    confusion: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for one in summaries:
        for key in ("files", "rows", "broken", "bytes", "labelled", "right"):
            whole[key] += one[key]
        classes.update(one["classes"])
        confusion.update(one["confusion"])
        for name, value in one["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
        whole["surest"] = sorted([*whole["surest"], *one["surest"]], key=lambda sample: -sample["score"])
        whole["least_sure"] = sorted([*whole["least_sure"], *one["least_sure"]], key=lambda sample: sample["score"])
        del whole["surest"][2 * part.SAMPLES :], whole["least_sure"][2 * part.SAMPLES :]
        whole["errors"] = [*whole["errors"], *one["errors"]][:100]
    whole["classes"], whole["confusion"] = dict(classes), dict(confusion)
    whole["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    return whole


def finish(
    target: Prefix, config: InferConfig, new: Plan, found: Found, seconds: float, spark: Mapping[str, float]
) -> dict[str, object]:
    """Read all parts back, hold them against the listing, and write the page and the manifest, which is returned.

    Raises Mismatch where an input has no row or two.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files, tables, summaries = [], [], []
    paths = [part.name_of(one.number) for one in found.parts()]
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, raw in zip(paths, pool.map(target.read, paths), strict=True):
            files.append({"path": path, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()})
            tables.append(pq.read_table(io.BytesIO(raw)))
            summaries.append(part.told(raw)[1])
    rows = pa.concat_tables(tables, promote_options="permissive")
    _hold(rows, found)
    whole = total(summaries)
    if config.hdf5:
        raw = hdf5(rows)
        item = objects.hashed(HDF5, lambda: iter([raw]))
        objects.upload(target, HDF5, item)
        objects.compare(target, HDF5, item)
        files.append({"path": HDF5, "size": len(raw), "sha256": item.sha256})
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
        "accuracy": whole["right"] / whole["labelled"] if whole["labelled"] else None,
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
    shown = page.render(content, whole, facts["names"]).encode()
    target.put(page.NAME, shown)
    files.append({"path": page.NAME, "size": len(shown), "sha256": hashlib.sha256(shown).hexdigest()})
    raw = jsons.dumps(content, indent=2).encode() + b"\n"
    target.put(MANIFEST, raw)
    return content


def _scales(facts: Facts) -> bool:
    """Whether the model takes pixels as floats, whose scale it doesn't say."""
    return facts["takes"] == "images" and any(one["dtype"].startswith("float") for one in facts["inputs"].values())


def _hold(rows: Mapping[str, object], found: Found) -> None:
    """Hold the rows against the listing: none lost, none twice; raise Mismatch."""
    keys: Counter[tuple[str, int, int]] = Counter()
    columns = [rows[name].to_pylist() for name in ("path", "page", "record")]  # type: ignore[attr-defined]
    for path, number, record in zip(*columns, strict=True):
        keys[path, -1 if number is None else number, -1 if record is None else record] += 1
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise Mismatch(f"{len(twice)} inputs have several rows, as {twice[0][0]}: please report this.")
    there = Counter(path for path, *_ in keys)
    if found.kind == IMAGES:
        lost = [one.path for one in found.objects if one.path not in there]
    else:
        lost = [path for path, count in found.records.items() if path in there and there[path] < count]
    strange = there.keys() - {one.path for one in found.objects}
    if lost or strange:
        raise Mismatch(
            f"{len(lost)} inputs have no row, as {lost[0]}: please report this."
            if lost
            else f"{len(strange)} rows are of no input, as {min(strange)}: please report this."
        )


def hdf5(rows: Mapping[str, object]) -> bytes:
    """Return the predictions as HDF5: a dataset for path, page, record, label, class, score and the best classes."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name in ("path", "label", "name", "error"):
            values = rows[name].to_pylist()  # type: ignore[attr-defined]
            file.create_dataset(name, data=[value or "" for value in values], dtype=h5py.string_dtype())
        for name in ("page", "record", "class"):
            values = rows[name].to_pylist()  # type: ignore[attr-defined]
            file[name] = np.array([-1 if value is None else value for value in values], np.int64)
        values = rows["score"].to_pylist()  # type: ignore[attr-defined]
        file["score"] = np.array([np.nan if value is None else value for value in values])
        for name, kind, none in (("top_classes", np.int64, -1), ("top_scores", np.float64, np.nan)):
            lists = [value or [] for value in rows[name].to_pylist()]  # type: ignore[attr-defined]
            wide = max(map(len, lists), default=0)
            file[name] = np.array([[*value, *[none] * (wide - len(value))] for value in lists], kind).reshape(-1, wide)
    return out.getvalue()
