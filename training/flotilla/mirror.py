"""Copies a job's newest checkpoint to S3, from where a new fleet goes on when this one is gone with its HDFS.

A mirror is a folder in S3 with two slots, a and b, written in turn: the hosts may write there, but delete nothing, and
while one slot is overwritten the other stays whole. A slot's manifest.json, written last, has every file's checksum; a
slot whose objects differ from it is torn, and never used.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TypedDict

from flotilla.job.errors import BadInput, Mismatch, ProgramError, Temporary
from flotilla.loop import checkpoints, outcome
from flotilla.storage import hdfs
from flotilla.storage.files import Files, crc32c, open_folder
from flotilla.storage.objects import Item, compare, from_file, upload
from flotilla.storage.s3 import Prefix
from flotilla.supervision.progress import HdfsCopier, Progress

FORMAT = "flotilla-mirror/1"
SLOTS = ("a", "b")
# Objects are called by these, without the step: each checkpoint takes its predecessor's place.
_FILE = re.compile(r"index|meta|data-\d{5}-of-\d{5}")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A checkpoint in S3, as its manifest describes it."""

    name: str
    global_step: int
    model: dict[str, object]  # the content of the job's model.json
    files: list[Item]


class Outcome(TypedDict):
    """What came of copying."""

    changed: bool
    global_step: int | None  # of the newest checkpoint
    message: str


def copy(model_dir: str, target: Prefix) -> Outcome:
    """Copy the newest checkpoint, unless it is there.

    Raises BadInput where the folder holds the mirror of another job.
    """
    step = checkpoints.latest_step(model_dir)
    model = hdfs.read_json(hdfs.join(model_dir, "model.json"))
    if step is None or model is None:
        return _outcome(False, step, "there is no checkpoint yet")
    done = outcome.done(model_dir)
    if done and int(str(done.get("global_step", -1))) >= step:
        return _outcome(False, step, "the job is done, its model is stored in place of a mirror")
    whole = [slot for slot in _slots(target)[0] if _is_whole(target, slot)]
    for slot in whole:
        if slot.model.get("began") != model.get("began"):
            raise BadInput(
                f"{target.url()} holds the mirror of another job of this name, which began "
                f"{_date(slot.model.get('began'))}: give this job another name, or delete that folder."
            )
        if slot.global_step == step:
            return _outcome(False, step, f"step {step} is at {target.url(slot.name)}/ already")
    newest = max(whole, key=lambda slot: slot.global_step, default=None)
    name = SLOTS[newest is not None and newest.name == SLOTS[0]]

    source = open_folder(model_dir)
    prefix = f"model.ckpt-{step}."
    paths = {path for path in source.sizes() if path.startswith(prefix) and _FILE.fullmatch(path[len(prefix) :])}
    try:
        items = [from_file(path[len(prefix) :], source, path) for path in sorted(paths)]
        if prefix + "index" not in paths:
            raise FileNotFoundError(source.url(prefix + "index"))
        for item in items:
            upload(target, f"{name}/{item.path}", item)
            compare(target, f"{name}/{item.path}", item)
    except (FileNotFoundError, Temporary):
        if paths | {prefix + "index"} <= source.sizes().keys():
            raise
        return _outcome(False, step, f"the chief deleted the checkpoint of step {step} meanwhile: next time")
    _put_manifest(
        target,
        name,
        global_step=step,
        model=model,
        files=[{**item.entry(), "crc32c": item.crc32c} for item in items],
    )
    return _outcome(True, step, f"step {step} is at {target.url(name)}/")


def restore(url: str, model_dir: str, model: dict[str, object], wait: float = 0.0) -> int | None:
    """Bring the newest whole mirror back into a model_dir without a checkpoint; return its step, None where none is.

    `model` describes the job's model, as for checkpoints.begin. S3 is asked for `wait` seconds. Raises BadInput where
    the mirror is of another model, and Temporary where HDFS or S3 doesn't say what it has: then a job must not begin.
    """
    names = hdfs.names(model_dir)
    if "checkpoint" in names or any(re.fullmatch(r"model\.ckpt-\d+\.index", name) for name in names):
        return None
    target = Prefix(url, refused=Temporary)  # the permission may come, hours of training wouldn't come back
    return hdfs.retry(lambda: _restore(target, model_dir, model), wait)


def end(url: str, model_dir: str) -> None:
    """Mark a job's mirror as of no more use: its model is stored, and a new training of this name begins anew."""
    target = Prefix(url, refused=Temporary)
    model = hdfs.read_json(hdfs.join(model_dir, "model.json")) or {}
    for slot in _slots(target)[0]:
        if slot.model.get("began") == model.get("began"):
            _put_manifest(target, slot.name, ended=True)


def _restore(target: Prefix, model_dir: str, model: dict[str, object]) -> int | None:
    slots, torn = _slots(target)
    began = (hdfs.read_json(hdfs.join(model_dir, "model.json")) or {}).get("began")
    step = None
    for slot in sorted(slots, key=lambda slot: -slot.global_step):
        if began not in (None, slot.model.get("began")):  # this job began without it, so it is somebody else's
            continue
        for key, value in model.items():
            if slot.model.get(key) != value:
                raise BadInput(
                    f"{target.url(slot.name)}/ is of a model whose {key} is {slot.model.get(key)}, not {value}: "
                    "give the job another name, or delete that folder."
                )
        try:
            _fetch(target, slot, open_folder(model_dir))
        except Mismatch as error:
            torn.append(str(error).rstrip("."))
            continue
        step = slot.global_step
        _log.warning(
            "%s had no checkpoint: going on from step %d, as %s/ has it.", model_dir, step, target.url(slot.name)
        )
        break
    if torn:
        begin = "training begins at step 0" if step is None else f"the other one, of step {step}, is"
        _log.warning("A torn mirror isn't used (%s); %s.", "; ".join(torn), begin)
    return step


def _fetch(target: Prefix, slot: Slot, folder: Files) -> None:
    """Copy a slot's files; the index comes after what it needs, the list of checkpoints last."""
    prefix = f"model.ckpt-{slot.global_step}"
    written: list[str] = []
    try:
        for item in sorted(slot.files, key=lambda item: item.path == "index"):
            if item.path == "index":
                folder.write("model.json", iter([json.dumps(slot.model, indent=2).encode() + b"\n"]))
                written.append("model.json")
            path = f"{prefix}.{item.path}"
            folder.write(path, _verified(item, target.url(f"{slot.name}/{item.path}")))
            written.append(path)
            if crc32c(folder.read(path)) != item.crc32c:
                raise Temporary(f"{folder.url(path)} isn't what was written.")
    except (FileNotFoundError, ProgramError):
        for path in written:
            folder.delete(path)
        raise
    state = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    folder.write("checkpoint", iter([state.encode()]))


def _verified(item: Item, url: str) -> Iterator[bytes]:
    """Yield an object's bytes; raise Mismatch where they aren't the manifest's."""
    size, digest = 0, hashlib.sha256()
    try:
        for chunk in item.read():
            size += len(chunk)
            digest.update(chunk)
            yield chunk
    except FileNotFoundError as error:
        raise Mismatch(f"{url} isn't there.") from error
    if (size, digest.hexdigest()) != (item.size, item.sha256):
        raise Mismatch(f"{url} isn't what the manifest says.")


def _slots(target: Prefix) -> tuple[list[Slot], list[str]]:
    """Return the slots that have a manifest, less those that have ended, and what is wrong with others."""
    slots, torn = [], []
    for name in SLOTS:
        path = f"{name}/manifest.json"
        try:
            content = json.loads(target.read(path))
            if content["format"] != FORMAT:
                raise ValueError
            if content.get("ended"):
                continue
            files = [
                Item(
                    str(entry["path"]),
                    int(entry["size"]),
                    str(entry["sha256"]),
                    str(entry["crc32c"]),
                    functools.partial(target.stream, f"{name}/{entry['path']}"),
                )
                for entry in content["files"]
            ]
            if "index" not in [item.path for item in files] or not all(_FILE.fullmatch(item.path) for item in files):
                raise ValueError
            slots.append(Slot(name, int(content["global_step"]), dict(content["model"]), files))
        except FileNotFoundError:
            continue
        except Mismatch as error:
            torn.append(str(error).rstrip("."))
        except (ValueError, KeyError, TypeError, AttributeError):
            torn.append(f"{target.url(path)} isn't a mirror's manifest")
    return slots, torn


def _is_whole(target: Prefix, slot: Slot) -> bool:
    try:
        return all(target.head(f"{slot.name}/{item.path}") == (item.size, item.crc32c) for item in slot.files)
    except FileNotFoundError:
        return False


def _put_manifest(target: Prefix, name: str, **content: object) -> None:
    created = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    raw = json.dumps({"format": FORMAT, "created": created, **content}, indent=2).encode() + b"\n"
    target.put(f"{name}/manifest.json", raw)
    if target.read(f"{name}/manifest.json") != raw:
        raise Temporary(f"{target.url(name)}/manifest.json isn't what was written.")


def _date(began: object) -> str:
    if not isinstance(began, (int, float)):
        return "at an unknown time"
    return datetime.datetime.fromtimestamp(began, datetime.timezone.utc).strftime("on %Y-%m-%d at %H:%M UTC")


def _outcome(changed: bool, step: int | None, message: str) -> Outcome:
    return {"changed": changed, "global_step": step, "message": message}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0, also where there is nothing to copy; 2 bad input, 75 temporary failure."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m flotilla.mirror", description=__doc__)
    parser.add_argument("--model-dir", required=True, metavar="URL", help="the job's folder, or hdfs://host:port/path")
    parser.add_argument("--mirror", required=True, metavar="s3://BUCKET/PREFIX/", help="the folder of its mirror")
    parser.add_argument("--progress", metavar="FILE", default="", help="file that says what came of it")
    arguments = parser.parse_args(argv)
    try:
        copied = copy(arguments.model_dir, Prefix(arguments.mirror))
    except (FileNotFoundError, ProgramError) as found:
        error = found if isinstance(found, ProgramError) else Temporary(f"{found} is gone.")
        print(f"flotilla.mirror: {error}", file=sys.stderr)
        _report(arguments, 0).fail(str(error))
        code = error.code
    else:
        print(json.dumps(copied))
        _report(arguments, copied["global_step"] or 0).finish(copied["message"])
        code = 0
    HdfsCopier(arguments.progress, arguments.model_dir).stop()
    return code


def _report(arguments: argparse.Namespace, steps: int) -> Progress:
    return Progress(arguments.progress, "mirror", steps, "steps")


if __name__ == "__main__":
    sys.exit(main())
