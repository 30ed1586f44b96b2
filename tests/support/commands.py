"""Running a command as a user would, and processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW, MOST_SLOW_SECS = 3, 240  # waits only end what never comes: on a slow machine later, but not for ever
BY_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


def user_environment() -> dict[str, str]:
    """The environment of a user who has put .venv/bin into PATH, and set nothing of AWS or Ansible."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "ANSIBLE_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}:/usr/sbin:/sbin"
    return environment


def user_runs(*command: str, seconds: float = 900, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the README in the repository's root; its output is shown when it fails."""
    done = subprocess.run(command, cwd=ROOT, env=user_environment(), text=True, timeout=seconds,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False)
    return done


def as_root(*command: str) -> str:
    """Run a command as root; returns what it prints."""
    done = subprocess.run([*BY_ROOT, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def family(pid: int) -> set[int]:
    """Ids of a process and of all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def kill_family(pid: int) -> None:
    """Kill a process and all that descend from it: Ansible's workers are in sessions of their own."""
    for one in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something to become true, checking up to five times a second; a slow machine has longer."""
    seconds = min(SLOW * seconds, seconds + MOST_SLOW_SECS)
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if true():
            return
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s still not: {what}")
        # Who asks all the time, by SSH or a program, has half of the processors for it.
        time.sleep(max(0.2, 2 * (time.monotonic() - asked)))
