# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The groups of hosts in ``fleet_groups``: what a user may write there, and how many hosts that makes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import TypedDict

GROUPS = ("ps", "chief", "worker", "evaluator")
TRAINERS = ("chief", "worker")
GROUP_KEYS = {"count", "image", "instance_type", "ssh_user", "volume_size"}
MORE_KEYS = {"chief": {"tasks"}, "worker": {"tasks"}, "evaluator": {"enabled"}}


class GivenGroup(TypedDict, total=False):
    """A group as a user writes it in ``fleet_groups``: anything may stand there, and is checked."""

    count: object  # how many hosts, as number or text
    instance_type: object  # such as t3.large
    image: object  # an ami-… or the name of an SSM parameter, in place of the one that its GPU asks for
    ssh_user: object  # who logs in, where the image's name doesn't tell
    volume_size: object  # of the root volume, in GiB
    tasks: object  # how many training tasks a host holds, of chief and worker
    enabled: object  # whether there is an evaluator at all, of evaluator


class WantedGroup(TypedDict):
    """A group that has hosts, with whole numbers and plain text."""

    count: int  # how many hosts, at least 1
    instance_type: str
    image: str  # empty: the one that the GPU asks for
    ssh_user: str  # empty: the one that the image's cloud-init makes
    volume_size: int  # GiB; 0: as large as is needed
    tasks: int  # training tasks a host; 0: one a GPU, else one


class Group(WantedGroup, total=False):
    """A group as fleet_preflight hands it to fleet_instances: with all that AWS says of its type and image."""

    gpus: int  # how many a host has
    gpu: str  # their name, such as T4; empty without
    local_disk: int  # GB of NVMe disks; until the volume's size is chosen
    image_id: str  # ami-…
    image_size: int  # GiB; until the volume's size is chosen
    root_device: str  # such as /dev/xvda


def whole(value: object) -> int | None:
    """Return a count that was given as number or text, or None when it isn't a whole number."""
    if isinstance(value, bool):
        return None
    text = str(value).strip()
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else None


def amount(value: object) -> float | None:
    """Return a number above 0 that was given as number or text, or None when it isn't one."""
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not math.isfinite(number) or number <= 0 else number


def filled(groups: object, defaults: Mapping[str, Mapping[str, object]]) -> object:
    """Return the groups with what they leave out; what is no mapping stays as it is, to be refused."""
    if not isinstance(groups, Mapping):
        return groups
    found: dict[str, object] = dict(groups)
    for name, group in defaults.items():
        given = groups.get(name, {})
        found[name] = {**group, **given} if isinstance(given, Mapping) else given
    return found


def check_groups(groups: object, alone: bool = False, partial: bool = False) -> list[str]:
    """Counts, types and sizes of the groups, as far as they can be judged without AWS.

    ``alone`` takes a chief only; ``partial`` takes groups that a network's file will fill.
    """
    if not isinstance(groups, dict):
        return ["fleet_groups must be a mapping of ps, chief and worker to a count and an instance_type each."]
    problems = []
    for name, group in groups.items():
        if name not in GROUPS:
            near = difflib.get_close_matches(str(name), GROUPS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(GROUPS)}."
            problems.append(f"fleet_groups has an unknown group '{name}': {hint}")
            continue
        if not isinstance(group, dict):
            problems.append(f"fleet_groups.{name} must have a count and an instance_type.")
            continue
        known = GROUP_KEYS | MORE_KEYS.get(name, set())
        for key in group:
            if key == "tasks" and name not in TRAINERS:
                problems.append(
                    f"fleet_groups.{name}.tasks is set, but only hosts of chief and worker hold several tasks: "
                    "leave it out."
                )
            elif key not in known:
                problems.append(
                    f"fleet_groups.{name} has an unknown key '{key}': known are {', '.join(sorted(known))}."
                )
        problems += _check_group(str(name), group, partial)
    if problems or partial:
        return problems
    if _count(groups, "ps") < 1 and not alone:
        problems.append("The fleet has no parameter server: set fleet_groups.ps.count to 1 or more.")
    if _count(groups, "chief") > 1 or "chief" not in groups:
        found = _count(groups, "chief")
        problems.append(
            f"The fleet has {'no chief' if found == 0 else f'{found} chiefs'}, but a training has exactly one: "
            "set fleet_groups.chief.count to 1 (or to 0 for a fleet that never trains, docs/inference.md)."
        )
    elif _count(groups, "chief") == 0 and _count(groups, "evaluator"):
        problems.append("The fleet has an evaluator, but no chief: set fleet_groups.evaluator.count to 0.")
    if _count(groups, "evaluator") > 1:
        problems.append("A training has at most one evaluator: set fleet_groups.evaluator.count to 0 or 1.")
    return problems


def _check_group(name: str, group: Mapping[str, object], partial: bool) -> list[str]:
    problems = []
    if not isinstance(group.get("enabled", True), bool):
        problems.append(f"fleet_groups.{name}.enabled is '{group['enabled']}': set it to true or false.")
    if name == "evaluator" and set(group) <= {"enabled"}:
        return problems
    count = whole(group.get("count"))
    if count and not group.get("enabled", True):
        problems.append(
            f"fleet_groups.{name} has a host, but enabled is false: set its count to 0, or leave enabled out."
        )
    if partial and "count" not in group:
        count = 0
    if count is None:
        shown = group.get("count")
        problems.append(
            f"fleet_groups.{name} has no count: set how many hosts it has."
            if shown is None
            else f"fleet_groups.{name}.count is '{shown}': set it to a whole number of hosts."
        )
    elif count < 0:
        problems.append(f"fleet_groups.{name}.count is {count}: a number of hosts can't be negative.")
    elif count > 0 and not partial and not str(group.get("instance_type") or "").strip():
        problems.append(f"fleet_groups.{name} has no instance_type: set one, for example t3.large.")
    for key in ("instance_type", "image"):
        if not re.fullmatch(r"[A-Za-z0-9._/-]*", str(group.get(key) or "").strip()):
            problems.append(f"fleet_groups.{name}.{key} is '{group[key]}': take letters, digits and . _ / - only.")
    user = group.get("ssh_user") or "admin"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", str(user)):
        problems.append(f"fleet_groups.{name}.ssh_user is '{user}': give a user's name, or leave it out.")
    size = group.get("volume_size")
    if size is not None and (whole(size) is None or not 1 <= (whole(size) or 0) <= 16384):
        problems.append(
            f"fleet_groups.{name}.volume_size is '{size}': set it to whole GiB, 1 to 16384, or leave it out."
        )
    tasks = group.get("tasks")
    if tasks is not None and name in TRAINERS and (whole(tasks) or 0) < 1:
        problems.append(
            f"fleet_groups.{name}.tasks is '{tasks}': set it to a whole number of at least 1, "
            "or leave it out for one task a GPU."
        )
    return problems


def _count(groups: Mapping[str, GivenGroup], name: str) -> int:
    return whole((groups.get(name) or {}).get("count", 0)) or 0


def wanted_groups(groups: Mapping[str, GivenGroup]) -> dict[str, Group]:
    """Return the groups that have hosts, in order, with whole numbers and plain text."""
    wanted: dict[str, Group] = {}
    for name in GROUPS:
        if _count(groups, name) > 0:
            group = groups[name]
            wanted[name] = {
                "count": _count(groups, name),
                "instance_type": str(group["instance_type"]).strip(),
                "image": str(group.get("image") or ""),
                "ssh_user": str(group.get("ssh_user") or ""),
                "volume_size": whole(group.get("volume_size")) or 0,
                "tasks": whole(group.get("tasks")) or 0,
            }
    return wanted


def trains(groups: object) -> bool:
    """Whether a fleet has trainers: one whose chief.count is 0 is there for inference alone."""
    chief = groups.get("chief") if isinstance(groups, Mapping) else None
    return not isinstance(chief, Mapping) or whole(chief.get("count", 1)) != 0


def check_caps(max_hosts: object, max_cost: object) -> list[str]:
    """The caps are numbers; there is always one."""
    problems = []
    if (whole(max_hosts) or 0) < 1:
        problems.append(f"fleet_max_hosts is '{max_hosts}': set it to a whole number of hosts, at least 1.")
    if amount(max_cost) is None:
        problems.append(f"fleet_max_cost is '{max_cost}': set it to a number of dollars above 0, for example 25.")
    return problems


def check_hosts(groups: Mapping[str, Group], max_hosts: object) -> list[str]:
    """One digit too many is found out here."""
    hosts, most = sum(group["count"] for group in groups.values()), whole(max_hosts)
    if most is None or most < 1 or hosts <= most:
        return []
    counts = ", ".join(f"{group['count']} {name}" for name, group in groups.items())
    return [
        f"The fleet has {hosts} hosts ({counts}), but fleet_max_hosts is {most}: correct the counts in fleet_groups, "
        f"or set fleet_max_hosts to {hosts} if you mean it."
    ]
