"""Puts a finished model into S3: SavedModel, last checkpoint, metrics, event files, and the tasks' logs.

manifest.json is written last, after every object was read back and compared, so that a model without a
manifest is not a model. A finished model is never overwritten: another one of the same job is stored as <job>-2, -3 …
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TypedDict

import flotilla
from flotilla import logs as task_logs
from flotilla import mirror
from flotilla.adapter.program import EVALUATION
from flotilla.job.config import read_object
from flotilla.job.errors import BadInput, ProgramError, Temporary
from flotilla.loop.outcome import FAILED
from flotilla.storage import jsons
from flotilla.storage.files import Files, open_folder
from flotilla.storage.objects import Entry, Item, compare, from_file, hashed, upload
from flotilla.storage.s3 import Prefix, parse_url
from flotilla.supervision.progress import FOLDER, HdfsCopier, Progress, write_json

FORMAT = "flotilla-model/1"
SETTLE_SECS = 60  # the evaluator's last look at the model takes about half of it on two cores
PROGRAM_SETTLE_SECS = 600  # nobody knows how long that of a program takes
LOGS_SECS = 90.0  # for the tasks' last words, once the model is stored; one that has begun late has 60 s to end
FAILED_LOGS_SECS = 180.0  # of a failed job they are all that there is; a task has 60 s to end
CLOSE_SECS = 15.0  # which a task that ends has for its event files
# What is in a model directory beside the program's own files: checkpoints, the kit's notes, what is being written
_OURS = re.compile(
    r"(model\.ckpt-\d+\.[^/]*|checkpoint|job-[^/]*\.json|progress/.*|(.*/)?(temp-|\.)[^/]*(/.*)?|.*\.part"
    r"|(model|variables|steps|evaluator|evaluation|result)\.json)$"
)
LOGS = "logs"  # in a stored model's folder
_log = logging.getLogger(__name__)


class Result(TypedDict, total=False):
    """What result.json says of a training, as far as it is read here."""

    program: str  # left out by an old kit
    global_step: int
    metrics: dict[str, float]  # of the last evaluation
    saved_model: str  # its folder, where the training has exported one
    labels: list[str]  # the classes' names; none: unknown
    versions: dict[str, str]


class Manifest(TypedDict):
    """The manifest.json of a stored model, which is written last."""

    format: str
    job: str
    fleet: str
    global_step: int
    metrics: dict[str, float]
    labels: list[str]  # the classes' names; none: unknown
    versions: dict[str, str]  # what made it
    variables: dict[str, object]  # what the user set
    created: str  # UTC, as 2026-01-31T12:00:00Z
    files: list[Entry]
    left_out: list[str]  # older checkpoints, which end with the fleet


class Outcome(TypedDict, total=False):
    """What came of storing."""

    changed: bool
    manifest: str  # its address
    job: str
    global_step: int
    metrics: dict[str, float]
    objects: int
    bytes: int
    target: str  # of the configuration
    logs: str  # the address of a failed job's


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    """What is stored and where to; the metadata are the help's texts."""

    model_dir: str = dataclasses.field(metadata={"help": "the finished job's folder, or hdfs://host:port/path"})
    target: str = dataclasses.field(metadata={"help": "s3://bucket/prefix/, the model goes to a folder <job> in it"})
    job: str = dataclasses.field(metadata={"help": "the job's name"})
    fleet: str = dataclasses.field(default="", metadata={"help": "the fleet's name, for the manifest"})
    variables: dict[str, object] = dataclasses.field(
        default_factory=dict, metadata={"help": "what the user set, for the manifest"}
    )
    progress: str = dataclasses.field(default="", metadata={"help": "file to which the progress is written"})
    done_file: str = dataclasses.field(default="", metadata={"help": "file that is written when the model is stored"})
    trained_file: str = dataclasses.field(
        default="", metadata={"help": "the chief's done file: older than done_file, nothing is new to store"}
    )
    mirror: str = dataclasses.field(
        default="", metadata={"help": "s3://bucket/prefix/, the job's mirror, of no more use with a stored model"}
    )


def load_config(path: str) -> StoreConfig:
    """Read and check a configuration."""
    content = read_object(path)
    fields = {field.name: field for field in dataclasses.fields(StoreConfig)}
    if unknown := sorted(set(content) - set(fields)):
        raise BadInput(f"{path} has the unknown key '{unknown[0]}': see --help for the keys.")
    for name, field in fields.items():
        kind: type = dict if name == "variables" else str
        if name in content and not isinstance(content[name], kind):
            raise BadInput(f"{name} is {content[name]!r} in {path}: give {'an object' if kind is dict else 'a text'}.")
        if not content.get(name) and field.default is field.default_factory is dataclasses.MISSING:
            raise BadInput(f"{name} is missing in {path}.")
    config = StoreConfig(**content)
    check_job(config.job)
    for url in filter(None, (config.target, config.mirror)):
        parse_url(url)
    return config


def check_job(job: str) -> None:
    """Raise BadInput for a name that a folder in S3 can't have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", job):
        raise BadInput(f"The job's name is '{job}': give letters, digits, dots, dashes and underscores.")


def store(config: StoreConfig, target: Prefix) -> Outcome:
    """Store the model."""
    source = open_folder(config.model_dir)
    result = _result(source, config.job)
    progress = Progress(config.progress, "store", 0, "objects")
    _settle(source, progress, PROGRAM_SETTLE_SECS if "program" in result else SETTLE_SECS)
    result["metrics"] = result["metrics"] or _evaluation(source, result["global_step"])
    items = collect(source, result)
    manifest: Manifest = {
        "format": FORMAT,
        "job": config.job,
        "fleet": config.fleet,
        "global_step": result["global_step"],
        "metrics": result["metrics"],
        "labels": result.get("labels", []),
        "versions": {**result.get("versions", {}), "flotilla": flotilla.__version__},
        "variables": config.variables,
        "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "files": [item.entry() for item in items],
        "left_out": _left_out(source, items),
    }
    name, old = _find_name(target, config.job, manifest, _claim(source, config))
    if old is not None and _all_there(target, name, old):
        return _outcome(False, target, name, old)

    progress = Progress(config.progress, "store", 2 * len(items), "objects")
    for done, item in enumerate(items):
        progress.update(done, message=f"uploading {item.path}")
        upload(target, f"{name}/{item.path}", item)
    for done, item in enumerate(items, len(items)):
        progress.update(done, message=f"reading back {item.path}")
        compare(target, f"{name}/{item.path}", item)
    said = logs(source, progress, LOGS_SECS)
    for item in said:
        upload(target, f"{name}/{item.path}", item)
        compare(target, f"{name}/{item.path}", item)
    manifest["files"] = sorted([*manifest["files"], *(item.entry() for item in said)], key=lambda entry: entry["path"])
    raw = jsons.dumps(manifest, indent=2).encode() + b"\n"
    target.put(f"{name}/manifest.json", raw, if_absent=old is None)
    if target.read(f"{name}/manifest.json") != raw:
        raise Temporary(f"{target.url(name)}/manifest.json isn't what was written.")
    return _outcome(True, target, name, manifest)


def store_logs(config: StoreConfig, target: Prefix) -> Outcome:
    """Store the logs of a failed job's tasks, and why it has failed, where its model would lie."""
    source = open_folder(config.model_dir)
    items = logs(source, Progress("", "store", 0, "objects"), FAILED_LOGS_SECS)
    with contextlib.suppress(FileNotFoundError):
        items.append(from_file(f"{LOGS}/{FAILED}", source, FAILED))
    name = _find_name(target, config.job, None, _claim(source, config))[0]
    for item in items:
        upload(target, f"{name}/{item.path}", item)
    return {"changed": bool(items), "job": config.job, "logs": target.url(f"{name}/{LOGS}/"), "objects": len(items)}


def logs(source: Files, progress: Progress, seconds: float) -> list[Item]:
    """Return the logs of the job's tasks.

    A task's log comes when it has ended, for which it has some seconds; of one that ends still later the log is left
    out, or an earlier process's.
    """
    deadline = time.monotonic() + seconds
    while True:
        there = source.statuses()
        paths = {task: f"{task_logs.FOLDER}/{task_logs.name(task)}" for task in _began(there)}
        late = sorted(
            task
            for task, path in paths.items()
            if path not in there or there[path].changed < there[f"{FOLDER}/{task}.started"].changed
        )
        if not late or time.monotonic() >= deadline:
            break
        progress.update(0, message=f"waiting for the log of {late[0]}")
        time.sleep(1)
    if late:
        _log.warning("Not ended yet: %s. Their logs end earlier, or aren't stored.", ", ".join(late))
    found = [path for path in there if path.startswith(f"{task_logs.FOLDER}/")]
    return [from_file(f"{LOGS}/{PurePosixPath(path).name}", source, path) for path in sorted(found)]


def _began(there: Iterable[str]) -> list[str]:
    """Return the tasks that have said at their start that they did."""
    return [PurePosixPath(path).stem for path in there if path.startswith(f"{FOLDER}/") and path.endswith(".started")]


def check(target: Prefix, job: str) -> dict[str, object]:
    """Prove that a model can be stored, leaving nothing; say where the job's next model will lie."""
    check_job(job)
    name = _find_name(target, job)[0]
    target.prove_writable(f"{name}/manifest.json")
    return {"writable": True, "target": target.url(f"{name}/")}


def _settle(source: Files, progress: Progress, seconds: float) -> None:
    """Wait a while for the evaluator to end, and for event files to be closed; then close those of killed tasks.

    Until then HDFS shows such a file's size, but not its content, and would for twenty minutes.
    """
    deadline = time.monotonic() + seconds
    while _evaluating(source):
        if time.monotonic() >= deadline:
            _log.warning("%s: the evaluator hasn't ended; what it still writes isn't stored.", source.url())
            break
        progress.update(0, message="waiting for the evaluator to end")
        time.sleep(1)
    sizes = source.sizes()
    waiting = sorted(path for path in sizes if _is_events(path))
    newest = {PurePosixPath(path).parent: path for path in waiting}.values()
    deadline = time.monotonic() + CLOSE_SECS
    while waiting := [path for path in waiting if sum(map(len, source.read(path))) < sizes.get(path, 0)]:
        over = time.monotonic() - deadline
        if over >= CLOSE_SECS:
            _log.warning("%s isn't closed; what is in it isn't stored.", source.url(waiting[0]))
            return
        for path in waiting:
            if over >= 0 or path not in newest:  # a task that was started again has left it
                source.close(path)
        progress.update(0, message=f"waiting for {waiting[0]} to be closed")
        time.sleep(1)
        sizes = source.sizes()


def _evaluating(source: Files) -> bool:
    """Return what the evaluator said last."""
    try:
        return bool(json.loads(b"".join(source.read("evaluator.json")))["evaluating"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _is_events(path: str) -> bool:
    return "tfevents" in PurePosixPath(path).name and not path.startswith("export/")


def collect(source: Files, result: Result) -> list[Item]:
    """Return the objects of a model: saved_model/ (a program may have none), checkpoint/, events/ and result.json.

    And network.yml, where the network was a file; and of a program files/: all else that it has written into the model
    directory, but for other checkpoints.
    """
    sizes = source.sizes()
    export = result.get("saved_model", "").strip("/") or _last_export(sizes)
    if export and f"{export}/saved_model.pb" not in sizes:
        raise BadInput(f"{source.url(export)} has no saved_model.pb, though result.json names it: train again.")
    checkpoint = _last_checkpoint(source, sizes)
    names = {path: "saved_model" + path[len(export) :] for path in sizes if export and path.startswith(f"{export}/")}
    names |= {path: "checkpoint/" + path for path in sizes if path.startswith(checkpoint + ".")}
    names |= {path: "events/" + path for path in sizes if _is_events(path)}
    names["result.json"] = "result.json"
    names |= {path: path for path in sizes if path == "network.yml"}
    if "program" in result:  # which may write what it likes
        names |= {path: "files/" + path for path in sizes if path not in names and not _OURS.match(path)}
    items = [from_file(to, source, path) for path, to in names.items()]
    items = [item for item in items if item.size or not _is_events(item.path)]
    # So that the folder can be given to tf.train.latest_checkpoint; the job's own state names older ones too.
    state = f'model_checkpoint_path: "{checkpoint}"\nall_model_checkpoint_paths: "{checkpoint}"\n'.encode()
    items.append(hashed("checkpoint/checkpoint", lambda: iter([state])))
    return sorted(items, key=lambda item: item.path)


def _left_out(source: Files, items: list[Item]) -> list[str]:
    """Return the names of the checkpoints that aren't stored, and say so."""
    stored = {PurePosixPath(item.path).name for item in items}
    found = sorted(
        path.removesuffix(".index")
        for path in source.sizes()
        if re.fullmatch(r"model\.ckpt-\d+\.index", path) and path not in stored
    )
    if found:
        _log.warning("%s has %d older checkpoints, which aren't stored.", source.url(), len(found))
    return found


def _result(source: Files, job: str) -> Result:
    try:
        result: Result = json.loads(b"".join(source.read("result.json")))
        if not isinstance(result.get("saved_model", ""), str) or not isinstance(result["metrics"], dict):
            raise TypeError
        int(result["global_step"])
    except FileNotFoundError as error:
        raise BadInput(f"{source.url('result.json')} isn't there: the job {job} hasn't been trained.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{source.url('result.json')} isn't a result of training: train again.") from error
    return result


def _evaluation(source: Files, step: int) -> dict[str, float]:
    """Return the metrics of a program's evaluation of that step; the evaluator may make it after the chief's end."""
    try:
        found = json.loads(b"".join(source.read(EVALUATION)))
        return dict(found["metrics"]) if found["global_step"] == step else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _last_export(sizes: dict[str, int]) -> str:
    """Return the folder of the last SavedModel that a program exported, by the time in its name; empty without one."""
    folders = [
        PurePosixPath(path).parent for path in sizes if path.startswith("export/") and path.endswith("/saved_model.pb")
    ]
    finished = [folder for folder in folders if folder.name.isdigit()]
    return str(max(finished, key=lambda folder: int(folder.name))) if finished else ""


def _last_checkpoint(source: Files, sizes: dict[str, int]) -> str:
    """Return the prefix of the last checkpoint's files, as the state file `checkpoint` names it."""
    try:
        state = b"".join(source.read("checkpoint")).decode()
    except FileNotFoundError as error:
        raise BadInput(f"{source.url()} has no checkpoint: train again.") from error
    found = re.search(r'^model_checkpoint_path: "([^"]+)"', state, re.MULTILINE)
    prefix = found[1].rsplit("/", 1)[-1] if found else ""
    if f"{prefix}.index" not in sizes:
        raise BadInput(f"{source.url()} names the checkpoint '{prefix}', whose files aren't there: train again.")
    return prefix


def _claim(source: Files, config: StoreConfig) -> bytes:
    """Return what tells this job from others of its name, such as a colleague's: when it began."""
    try:
        began = json.loads(b"".join(source.read("model.json"))).get("began")
    except (FileNotFoundError, ValueError, AttributeError):
        began = None
    return json.dumps({"fleet": config.fleet, "job": config.job, "began": began}).encode()


def _find_name(
    target: Prefix, job: str, manifest: Manifest | None = None, claim: bytes | None = None
) -> tuple[str, Manifest | None]:
    """Return the first of <job>, <job>-2 … that is free, or holds this very model and its manifest.

    A free one is claimed first, since two fleets may store at the same time.
    """
    for number in range(1, 1000):
        name = job if number == 1 else f"{job}-{number}"
        try:
            old = json.loads(target.read(f"{name}/manifest.json"))
        except FileNotFoundError:
            if claim is None or _is_claimed(target, name, claim):
                return name, None
            continue
        except ValueError:
            continue
        if manifest is not None and _identity(old) == _identity(manifest):
            return name, old
    raise BadInput(f"{target.url(job)}-999 is taken too: delete old models or choose another job name.")


def _is_claimed(target: Prefix, name: str, claim: bytes) -> bool:
    """Claim a folder, unless somebody else was faster."""
    with contextlib.suppress(FileNotFoundError):
        return target.read(f"{name}/.claim") == claim
    target.put(f"{name}/.claim", claim, if_absent=True)
    return True


def _identity(manifest: Manifest) -> object:
    """What makes a model the same; event files and logs may have grown since."""
    if not isinstance(manifest, dict):
        return None
    files = manifest.get("files") or []
    model = sorted(
        (f["path"], f["size"], f["sha256"]) for f in files if not f["path"].startswith(("events/", f"{LOGS}/"))
    )
    return manifest.get("format"), manifest.get("job"), manifest.get("global_step"), model


def _all_there(target: Prefix, name: str, manifest: Manifest) -> bool:
    for entry in manifest["files"]:
        try:
            if target.head(f"{name}/{entry['path']}")[0] != entry["size"]:
                return False
        except FileNotFoundError:
            return False
    return True


def _outcome(changed: bool, target: Prefix, name: str, manifest: Manifest) -> Outcome:
    return {
        "changed": changed,
        "manifest": target.url(f"{name}/manifest.json"),
        "job": manifest["job"],
        "global_step": manifest["global_step"],
        "metrics": manifest["metrics"],
        "objects": len(manifest["files"]),
        "bytes": sum(entry["size"] for entry in manifest["files"]),
    }


def _stored_before(config: StoreConfig) -> Outcome | None:
    """Return what done_file says, where it is newer than the chief's and of this job and target."""
    if not config.done_file or not config.trained_file:
        return None
    try:
        if Path(config.done_file).stat().st_mtime < Path(config.trained_file).stat().st_mtime:
            return None
        outcome: Outcome = json.loads(Path(config.done_file).read_text(encoding="utf-8"))
        mine = outcome["job"] == config.job and outcome["target"] == config.target
    except (OSError, ValueError, KeyError, TypeError):
        return None
    outcome["changed"] = False
    return outcome if mine else None


def _run(config: StoreConfig) -> Outcome:
    Progress(config.progress, "store", 0, "objects")
    outcome = _stored_before(config)
    if outcome is None:
        # A refusal may end, and hours of training are worth waiting for: the unit tries again.
        outcome = store(config, Prefix(config.target, refused=Temporary))
        if config.mirror:
            mirror.end(config.mirror, config.model_dir)
        outcome["target"] = config.target
        if config.done_file:
            write_json(config.done_file, outcome)
    Progress(config.progress, "store", outcome["objects"], "objects").finish(
        f"the model of step {outcome['global_step']} is stored, see {outcome['manifest']}"
    )
    return outcome


def _parser() -> argparse.ArgumentParser:
    keys = "".join(f"\n  {field.name:13} {field.metadata['help']}" for field in dataclasses.fields(StoreConfig))
    parser = argparse.ArgumentParser(
        prog="python -m flotilla.store",
        description=__doc__,
        epilog=f"keys of the configuration, a JSON object:{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="store the model that this configuration names")
    commands = parser.add_subparsers(dest="command", metavar="check|logs")
    checking = commands.add_parser("check", help="prove that a model can be stored, leaving nothing")
    checking.add_argument("--target", required=True, metavar="s3://BUCKET/PREFIX/")
    commands.add_parser("logs", help="store the tasks' logs of a failed job, which --config names")
    checking.add_argument("--job", default="job", metavar="NAME", help="the job's name (default: job)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    parser = _parser()
    args = parser.parse_args(argv)
    progress_file = ""
    copier = None
    try:
        if args.command == "check":
            outcome: Outcome | dict[str, object] = check(Prefix(args.target), args.job)
        elif args.config and args.command == "logs":
            config = load_config(args.config)
            outcome = store_logs(config, Prefix(config.target))
        elif args.config:
            config = load_config(args.config)
            progress_file = config.progress
            copier = HdfsCopier(config.progress, config.model_dir)
            outcome = _run(config)
        else:
            parser.error("give --config FILE, with the command logs or without, or the command check")
    except FileNotFoundError as error:  # the evaluator deleted an old event file, say
        return _failed(Temporary(f"{error} is gone."), progress_file)
    except ProgramError as error:
        return _failed(error, progress_file)
    finally:
        if copier:
            copier.stop()
    print(jsons.dumps(outcome))
    return 0


def _failed(error: ProgramError, progress_file: str) -> int:
    print(f"flotilla.store: {error}", file=sys.stderr)
    progress = Progress(progress_file, "store", 0, "objects")
    if isinstance(error, Temporary):  # the unit is started again, so this isn't the end
        progress.update(0, message=f"{error} Trying again; the model stays in HDFS.")
    else:
        progress.fail(str(error))
    return error.code


if __name__ == "__main__":
    sys.exit(main())
