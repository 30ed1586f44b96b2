# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A network's YAML file, judged by training/flotilla/network.py in a process of its own: the package is the hosts'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

SECONDS = 60


class Facts(TypedDict):
    """What the program says of a network that is right."""

    columns: list[str]  # the features that it takes; none: images
    groups: dict[str, dict[str, object]]  # as fleet_groups
    asked: dict[str, object]  # what of them the file itself says
    memory: int  # bytes that a step needs in a trainer
    batch_size: int
    says: list[str]  # for the plan


def judge(root: str, path: str, manifest: str = "") -> tuple[Facts | None, list[str]]:
    """Judge a file, also by the text of a data set's manifest; returns None with the problems found."""
    command = [sys.executable, "-m", "flotilla.network", "--json", path, *(["--data", "-"] if manifest else [])]
    environment = {**os.environ, "PYTHONPATH": str(Path(root, "training"))}
    done = subprocess.run(
        command, input=manifest, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        return None, [f"training_network: {last}"]
    facts: Facts = json.loads(done.stdout)
    return facts, []


def check_memory(facts: Facts, group: str, kind: str, mebibytes: int, tasks: int) -> list[str]:
    """A host has to have the memory for a step of all its tasks."""
    needed = facts["memory"] * tasks
    if not mebibytes or needed <= mebibytes * 2**20:
        return []
    return [
        f"training_network: a step of {facts['batch_size']} examples needs {needed / 1e9:.1f} GB, and "
        f"fleet_groups.{group}.instance_type {kind} has {mebibytes * 2**20 / 1e9:.1f} GB of memory: take a larger "
        "type, smaller batches, or a smaller network."
    ]


def say_decided(facts: Facts, groups: object) -> list[str]:
    """Say what of the fleet the file decides, and what fleet_groups has in its place."""
    found = []
    for name, wanted in facts["groups"].items():
        given = groups.get(name, {}) if isinstance(groups, Mapping) else {}
        if not isinstance(given, Mapping):
            continue
        own = [f"{key} {value}" for key, value in wanted.items() if key not in given]
        other = [f"{key} {given[key]} (not {value})" for key, value in wanted.items() if given.get(key, value) != value]
        if own:
            found.append(f"Of {name} it decides {' and '.join(own)}.")
        if other:
            found.append(f"Of {name} fleet_groups sets {' and '.join(other)}, which wins.")
    return found
