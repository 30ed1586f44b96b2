"""Prints how far this node's programs are, from their progress files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flotilla import progress

PROGRESS_DIR = "/var/lib/flotilla/progress"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each phase, or all of it as JSON; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.status", description=__doc__)
    parser.add_argument("--dir", default=PROGRESS_DIR, help="folder of the progress files (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object: phase to its progress")
    arguments = parser.parse_args(argv)
    found = [progress.read(path) for path in sorted(Path(arguments.dir).glob("*.json"))]
    phases = sorted((phase for phase in found if phase), key=lambda phase: float(phase["updated"]))
    if arguments.json:
        print(json.dumps({phase["phase"]: phase for phase in phases}, indent=2))
    elif not phases:
        print("nothing has run here yet")
    else:
        for phase in phases:
            print(line(phase))
    return 0


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
