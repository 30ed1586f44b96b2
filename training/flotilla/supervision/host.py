"""What runs on this host, as systemd and the NameNode tell it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from typing import TypedDict

STORE = "flotilla-store.service"
INFER = "flotilla-infer.service"
SWEEP = "flotilla-sweep.service"
NAMENODE = "hadoop-namenode.service"
NAMENODE_PAGES = "http://127.0.0.1:9870"  # on loopback, of the NameNode's host alone
PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NRestarts,StateChangeTimestampMonotonic,MemoryCurrent"


class UnitState(TypedDict):
    """A unit, in systemd's words."""

    active: str
    sub: str
    result: str
    restarts: int
    since: float  # when it came into this state, seconds since the epoch
    memory: int | None  # bytes


class HdfsHealth(TypedDict, total=False):
    """What a NameNode says of HDFS."""

    problem: str  # a sentence, empty where there is none; else nothing of the following
    live: list[str]  # names of DataNodes
    dead: list[str]
    missing: int  # blocks
    under_replicated: int  # blocks
    used: int  # bytes
    capacity: int  # bytes
    safe_mode: bool


class _Bean(TypedDict):
    """Of NameNodeInfo and FSNamesystemState, what is read here; nodes are JSON objects by name."""

    LiveNodes: str
    DeadNodes: str
    NumberOfMissingBlocks: int
    UnderReplicatedBlocks: int
    Used: int
    Total: int
    Safemode: str


def units() -> dict[str, UnitState]:
    """Return the units of tasks, store, inference, sweep and NameNode by name; none on a machine without systemd."""
    names = ("training@*.service", STORE, INFER, SWEEP, NAMENODE)
    command = ["systemctl", "show", "--no-pager", f"--property={PROPERTIES}", *names]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_units(shown.stdout, time.time() - time.clock_gettime(time.CLOCK_MONOTONIC))


def parse_units(text: str, booted: float) -> dict[str, UnitState]:
    """Read what `systemctl show` prints, on a host whose monotonic clock began at `booted`."""
    found: dict[str, UnitState] = {}
    for block in text.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("LoadState") != "loaded":
            continue
        memory = unit.get("MemoryCurrent", "")
        found[unit["Id"]] = {
            "active": unit["ActiveState"],
            "sub": unit["SubState"],
            "result": unit["Result"],
            "restarts": int(unit.get("NRestarts") or 0),
            "since": booted + int(unit.get("StateChangeTimestampMonotonic") or 0) / 1e6,
            # Where it isn't counted systemd says "[not set]", before version 250 the greatest number.
            "memory": int(memory) if memory.isdigit() and int(memory) < 1 << 63 else None,
        }
    return found


def task_name(unit: str) -> str | None:
    """Return worker-0 for training@worker-0.service, None for what is no task's unit."""
    match = re.fullmatch(r"training@(.+)\.service", unit)
    return match[1] if match else None


def hdfs_health(pages: str) -> HdfsHealth:
    """Ask the NameNode that has these pages."""
    try:
        # Not name=FSNamesystem: these numbers are some seconds old.
        info, state = _bean(pages, "NameNodeInfo"), _bean(pages, "FSNamesystemState")
        return {
            "problem": "",
            "live": sorted(name.rsplit(":", 1)[0] for name in json.loads(info["LiveNodes"])),
            "dead": sorted(name.rsplit(":", 1)[0] for name in json.loads(info["DeadNodes"])),
            "missing": info["NumberOfMissingBlocks"],
            "under_replicated": state["UnderReplicatedBlocks"],
            "used": info["Used"],
            "capacity": info["Total"],
            "safe_mode": bool(info["Safemode"]),
        }
    except (OSError, ValueError, LookupError):  # in the middle of its start it answers, but not all
        return {"problem": f"the NameNode doesn't answer, see journalctl -u {NAMENODE.removesuffix('.service')}"}


def _bean(pages: str, name: str) -> _Bean:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: this is loopback
    with opener.open(f"{pages}/jmx?qry=Hadoop:service=NameNode,name={name}", timeout=3) as answer:
        found: _Bean = json.load(answer)["beans"][0]
    return found
