"""Prints how far the job is, and what this node's own programs do, from their progress files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flotilla import hdfs, progress, publish
from flotilla.errors import ProgramError

PROGRESS_DIR = "/var/lib/flotilla/progress"
JOB_FILE = "/etc/flotilla/job.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each phase, or all of it as JSON; return the exit status, 1 when HDFS can't be asked."""
    parser = argparse.ArgumentParser(prog="flotilla-status", description=__doc__)
    parser.add_argument("--dir", default=PROGRESS_DIR, help="folder of the progress files (default: %(default)s)")
    parser.add_argument("--job", default=JOB_FILE, help="the job's configuration (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help="only what this node does, HDFS isn't asked")
    parser.add_argument("--json", action="store_true", help="print a JSON object: phase to its progress")
    arguments = parser.parse_args(argv)
    files = sorted(Path(arguments.dir).glob("*.json"))
    found = [file.read_bytes() for file in files]
    error = ""
    if not arguments.here:
        try:
            found += _published(arguments.job)
        except ProgramError as problem:
            error = str(problem)
    phases: dict[str, dict[str, Any]] = {}
    for phase in sorted(filter(None, map(progress.parse, found)), key=lambda phase: float(phase["updated"])):
        phases.pop(phase["phase"], None)
        phases[phase["phase"]] = phase
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


def _published(job_file: str) -> list[bytes]:
    """Return what the job's nodes have told through HDFS; nothing where there is no job."""
    try:
        model_dir = json.loads(Path(job_file).read_text(encoding="utf-8"))["model_dir"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    folder = hdfs.join(model_dir, publish.FOLDER)
    return [
        content
        for name in sorted(hdfs.names(folder))
        if name.endswith(".json") and (content := hdfs.read(hdfs.join(folder, name)))
    ]


def line(phase: dict[str, Any], now: float | None = None) -> str:
    """Say one phase's progress in one line."""
    parts = [
        f"{phase['phase']}: {phase['state']}",
        f"{_number(phase['done'])} of {_number(phase['total'])} {phase['unit']}",
    ]
    if phase.get("rate") is not None:
        parts.append(f"{_number(phase['rate'])} {phase['rate_unit']}")
    parts += [f"{key} {_number(value)}" for key, value in phase["detail"].items()]
    if phase["state"] == "running":
        if phase.get("eta") is not None:
            parts.append(f"{_duration(phase['eta'])} left")
        silent = (time.time() if now is None else now) - float(phase["updated"])
        if silent > 60:
            parts.append(f"silent for {_duration(silent)}")
    if phase.get("message"):
        parts.append(str(phase["message"]))
    return ", ".join(parts)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


if __name__ == "__main__":
    sys.exit(main())
