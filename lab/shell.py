"""Calling the system's own tools."""

from __future__ import annotations

import subprocess


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
