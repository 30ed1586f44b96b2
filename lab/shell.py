"""Calling the system's own tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .untyped import Json


class LabError(Exception):
    """Something a user can understand and mend; its text is the whole message."""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its output.

    Raises:
        LabError: it ended with a status other than 0 and `check` is true; carries its last line of error output.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        why = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise LabError(f"'{' '.join(command)}' failed ({done.returncode}): {why}")
    return done.stdout


def said(file: Path, program: str) -> Json:
    """What a daemon wrote of itself into a file, its `pid` among it; None where it doesn't run (any more)."""
    try:
        facts = json.loads(file.read_text())
        alive = program.encode() in Path(f"/proc/{facts['pid']}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError):
        return None
    return facts if alive else None
