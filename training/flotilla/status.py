"""Prints how far the job is, and what this host's own programs do, from their progress files."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from flotilla.job.errors import ProgramError
from flotilla.storage import hdfs
from flotilla.supervision import host, progress
from flotilla.supervision.host import HdfsHealth, UnitState
from flotilla.supervision.progress import Report, TaskReport

PROGRESS_DIR = "/var/lib/flotilla/progress"
JOB_FILE = "/etc/flotilla/job.json"
HDFS_SECS = 4.0  # whoever asks how far a job is gets an answer, whatever HDFS does


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each phase, or all of it as JSON; return the exit status, 1 when HDFS can't be asked."""
    parser = argparse.ArgumentParser(prog="flotilla-status", description=__doc__)
    parser.add_argument("--dir", default=PROGRESS_DIR, help="folder of the progress files (default: %(default)s)")
    parser.add_argument("--job", default=JOB_FILE, help="the job's configuration (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help="only what this host does, HDFS isn't asked")
    parser.add_argument("--json", action="store_true", help="print a JSON object: phase to its progress")
    parser.add_argument("--tasks", action="store_true", help="print a line of JSON: phases, tasks, units and HDFS here")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="with --tasks: again and again")
    arguments = parser.parse_args(argv)
    if arguments.tasks:
        return _print_tasks(arguments.dir, arguments.job, arguments.every)
    found = _found(arguments.dir)
    error = ""
    if not arguments.here:
        try:
            found += hdfs.within(HDFS_SECS, lambda: _published(arguments.job))
        except ProgramError as problem:
            error = str(problem)
    phases = _phases(found)
    if arguments.json:
        print(json.dumps(phases, indent=2))
    elif not phases and not error:
        print("nothing has run here yet" if arguments.here else "no job has run yet")
    else:
        for phase in phases.values():
            print(line(phase))
    if error:
        print(f"flotilla-status: {error}", file=sys.stderr)
    return 1 if error else 0


class TaskState(UnitState):
    """A task's unit, and what the task says of itself."""

    told: TaskReport | None


class NodeState(TypedDict):
    """What a node and its programs do: a line of `flotilla-status --tasks`, which scripts/watch reads."""

    time: float  # of this node's clock, seconds since the epoch
    job: dict[str, object]  # name and max_steps; None where there is no job
    phases: dict[str, Report]  # by name, the one reported last at the end
    tasks: dict[str, TaskState]  # by name, as worker-1
    store: UnitState | None
    infer: UnitState | None
    sweep: UnitState | None
    hdfs: HdfsHealth | None  # of the NameNode's host


def look(folder: str = PROGRESS_DIR, job_file: str = JOB_FILE) -> NodeState:
    """Return what this node and its programs do."""
    units, job = host.units(), _job(job_file)
    tasks: dict[str, TaskState] = {}
    for unit in sorted(units):
        if name := host.task_name(unit):
            told = progress.read_task(str(job.get("tasks_dir", "")), name)
            tasks[name] = {**units[unit], "told": told or None}
    return {
        "time": time.time(),
        "job": {key: job.get(key) for key in ("name", "max_steps")},
        "phases": _phases(_found(folder)),
        "tasks": tasks,
        "store": units.get(host.STORE),
        "infer": units.get(host.INFER),
        "sweep": units.get(host.SWEEP),
        "hdfs": host.hdfs_health(host.NAMENODE_PAGES) if host.NAMENODE in units else None,
    }


def _print_tasks(folder: str, job_file: str, every: float | None) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who doesn't listen any more ends it
    while True:
        print(json.dumps(look(folder, job_file)), flush=True)
        if every is None:
            return 0
        time.sleep(every)


def _found(folder: str) -> list[bytes]:
    found = []
    for file in sorted(Path(folder).glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # removed just now: a unit starts anew
            found.append(file.read_bytes())
    return found


def _phases(found: list[bytes]) -> dict[str, Report]:
    """Return the phases by name, the one reported last at the end."""
    phases: dict[str, Report] = {}
    for phase in sorted(filter(None, map(progress.parse, found)), key=lambda phase: float(phase["updated"])):
        phases.pop(phase["phase"], None)
        phases[phase["phase"]] = phase
    return phases


def _job(job_file: str) -> dict[str, object]:
    """Return the job's configuration; nothing where there is none."""
    try:
        job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def _published(job_file: str) -> list[bytes]:
    """Return what the job's nodes have copied to HDFS; nothing where there is no job."""
    model_dir = _job(job_file).get("model_dir")
    if not model_dir:
        return []
    folder = hdfs.join(str(model_dir), progress.FOLDER)
    return [
        content
        for name in sorted(hdfs.names(folder))
        if name.endswith(".json") and (content := hdfs.read(hdfs.join(folder, name)))
    ]


def line(phase: Report, now: float | None = None) -> str:
    """Say one phase's progress in one line."""
    of = f" of {_number(phase['total'])}" if phase["total"] else ""  # a program needn't have said how much
    parts = [f"{phase['phase']}: {phase['state']}", f"{_number(phase['done'])}{of} {phase['unit']}"]
    if phase.get("rate") is not None:
        parts.append(f"{_number(phase['rate'])} {phase['rate_unit']}")
    parts += [f"{key} {_number(value)}" for key, value in phase["detail"].items()]
    if phase["state"] == "running":
        if (eta := phase.get("eta")) is not None:
            parts.append(f"{_duration(eta)} left")
        silent = (time.time() if now is None else now) - float(phase["updated"])
        if silent > 60:
            parts.append(f"silent for {_duration(silent)}")
    if phase.get("message"):
        parts.append(str(phase["message"]))
    return ", ".join(parts)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


if __name__ == "__main__":
    sys.exit(main())
