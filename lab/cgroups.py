"""Control groups: every process of the lab is in one, so that `down` finds them all, whatever became of their parents.

Works with cgroup v2 and with the mix of v1 and v2 (a `systemd` and a `unified` hierarchy side by side).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .settings import CGROUP

ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The mounted hierarchies that the lab uses; the one that tracks processes comes first."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    names = ("unified", "systemd", "cpu", "cpuacct", "memory", "pids")
    return [ROOT / name for name in names if (ROOT / name / "cgroup.procs").exists()]


def create(name: str) -> list[Path]:
    """Make the group in every hierarchy and return the `cgroup.procs` files that a process joins by writing its id."""
    files = []
    for hierarchy in hierarchies():
        group = hierarchy / CGROUP / name
        group.mkdir(parents=True, exist_ok=True)
        files.append(group / "cgroup.procs")
        # With v2 a group has the controllers that the one above it hands down.
        if (offered := hierarchy / CGROUP / "cgroup.controllers").exists():
            for controller in offered.read_text().split():
                with contextlib.suppress(OSError):
                    (hierarchy / CGROUP / "cgroup.subtree_control").write_text(f"+{controller}")
    return files


def weigh(name: str, cpus: int) -> None:
    """Give the group a share of the processors, while all of them are wanted, in proportion to so many CPUs."""
    for hierarchy in hierarchies():
        for file, value in (("cpu.weight", 50 * cpus), ("cpu.shares", 512 * cpus)):  # v2, v1: 2 CPUs are their default
            if (hierarchy / CGROUP / name / file).exists():
                (hierarchy / CGROUP / name / file).write_text(str(value))


def limit(name: str, cores: float) -> None:
    """Let the group have no more than so many processors' time, also while nobody else wants it; 0: no limit."""
    # Parts of 20 ms, since who has used its part up answers nobody until the next.
    period, quota = 20_000, round(cores * 20_000)
    for hierarchy in hierarchies():
        group = hierarchy / CGROUP / name
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota or 'max'} {period}")
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota or -1))


def limit_memory(name: str, gib: float) -> None:
    """Let the group have no more than so many GiB of memory; who wants more is killed. 0: no limit."""
    most = round(gib * 2**30)
    for hierarchy in hierarchies():
        for file, value in (("memory.max", most or "max"), ("memory.limit_in_bytes", most or -1)):  # v2, v1
            if (hierarchy / CGROUP / name / file).exists():
                (hierarchy / CGROUP / name / file).write_text(str(value))


@contextlib.contextmanager
def frozen(name: str) -> Iterator[None]:
    """Let no process of the group run meanwhile; needs a hierarchy of cgroup v2.

    Raises:
        TimeoutError: they aren't all at rest after 10 s.
    """
    found = [group for h in hierarchies() if (group := h / CGROUP / name / "cgroup.freeze").exists()]
    deadline = time.monotonic() + 10
    try:
        for group in found:
            group.write_text("1")
            while "frozen 1" not in group.with_name("cgroup.events").read_text():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the processes of {name} can't be brought to rest")
                time.sleep(0.01)
        yield
    finally:
        for group in found:
            group.write_text("0")


def joined(name: str, command: list[str]) -> list[str]:
    """The command as one that is in the group from its first instruction on."""
    joins = "".join(f"echo $$ > '{procs}' && " for procs in create(name))
    return ["sh", "-c", f'{joins}exec "$@"', "sh", *command]


def groups(name: str = "") -> list[Path]:
    """The group and all below it in every hierarchy, deepest first."""
    found: list[Path] = []
    for hierarchy in hierarchies():
        top = hierarchy / CGROUP / name if name else hierarchy / CGROUP
        # os.walk, for groups may go while we look; rglob would fail.
        found += sorted((Path(folder) for folder, _, _ in os.walk(top)), key=lambda p: -len(p.parts))
    return found


def pids(name: str = "") -> set[int]:
    """Ids of the processes in the group and below it."""
    found: set[int] = set()
    for group in groups(name):
        try:
            found |= {int(line) for line in (group / "cgroup.procs").read_text().split()}
        except OSError:  # the group has just gone
            continue
    return found - {os.getpid(), 0}


def kill(name: str = "", seconds: float = 30.0) -> None:
    """Kill what is left in the group and remove it; returns when it is gone.

    Raises:
        TimeoutError: processes are still there after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while left := pids(name):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(left)} of the lab don't end")
        time.sleep(0.02)
    for group in groups(name):
        for _ in range(100):
            try:
                group.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # busy for a moment after its last process has gone
                time.sleep(0.02)


def resident_bytes(name: str) -> int:
    """Sum of the resident memory of the group's processes, without what they share, in bytes."""
    total = 0
    for pid in pids(name):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total
