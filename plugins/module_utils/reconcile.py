# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The fleet's instances, compared with the groups that are wanted: what is launched, kept, started and ended."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import fleet_groups, untyped

LIVE = ("pending", "running", "stopping", "stopped")

Slot = tuple[str, int]  # a group, and an index in it: the place of one host


class Instance(TypedDict):
    """An instance of the fleet, as far as it matters here."""

    id: str  # i-…
    group: str  # its tag flotilla-group; empty where it has none
    index: int | None  # its number in the group, from 0 on; the Infrastructure Manager's instances have none
    state: str  # pending, running, shutting-down, terminated, stopping or stopped
    launched: datetime.datetime  # for the first time: a stop and start doesn't change it
    type: str  # such as t3.large
    public: str  # its public IPv4 address; empty without
    private: str  # its private one
    reason: str  # of the last change of its state, in AWS's words; often empty
    tags: dict[str, str]
    attached: list[str]  # the ids of its volumes and network interfaces


class Plan(TypedDict):
    """What has to be done so that each index of a group exists exactly once."""

    launch: list[Slot]
    keep: list[Instance]
    start: list[Instance]  # those of keep that are stopped, or are stopping
    terminate: list[Instance]  # above the count, of no group, or there twice


def check_launcher(name: str, launcher: str, instances: Sequence[Instance]) -> list[str]:
    """A fleet has one launcher: the Infrastructure Manager gives its instances no index."""
    ours = [one for one in instances if one["index"] is not None]
    if launcher == "im" and ours:
        return [
            f"the fleet {name} is there already, with {len(ours)} instances that site.yml has launched: "
            "remove it by playbooks/destroy.yml, or set fleet_name to another name."
        ]
    if launcher == "ansible" and len(ours) < len(instances):
        return [
            f"the fleet {name} is there already, with {len(instances) - len(ours)} instances of the Infrastructure "
            "Manager's: remove it by im_client destroy, or set fleet_name to another name."
        ]
    return []


def check_shrink(terminated: Sequence[Instance]) -> list[str]:
    """HDFS keeps three copies: of the hosts that run, two may go without loss before it has made new ones."""
    going = [f"{one['group']}-{one['index']}" for one in terminated if one["state"] == "running"]
    if len(going) < 3:
        return []
    return [
        f"{', '.join(going)} would go at once, and with them perhaps all copies of a file in HDFS: "
        "take away two at a time and wait a quarter of an hour in between, or destroy the fleet and begin anew."
    ]


def compare(groups: Mapping[str, fleet_groups.Group], instances: Sequence[Instance]) -> Plan:
    """Compare the wanted groups with the fleet's instances."""
    live = sorted((one for one in instances if one["state"] in LIVE), key=lambda one: (one["launched"], one["id"]))
    slots: dict[Slot, Instance] = {}
    terminate = []
    for one in live:
        group, index = groups.get(one["group"]), one["index"]
        if group is None or index is None or index >= group["count"]:
            terminate.append(one)
            continue
        slot = (one["group"], index)
        if slot not in slots:
            slots[slot] = one
        elif slots[slot]["state"] not in ("pending", "running") and one["state"] in ("pending", "running"):
            terminate.append(slots[slot])
            slots[slot] = one
        else:
            terminate.append(one)
    every = [(name, index) for name in fleet_groups.GROUPS if name in groups for index in range(groups[name]["count"])]
    return {
        "launch": [slot for slot in every if slot not in slots],
        "keep": [slots[slot] for slot in every if slot in slots],
        "start": [slots[slot] for slot in every if slot in slots and slots[slot]["state"] in ("stopping", "stopped")],
        "terminate": sorted(terminate, key=lambda one: (one["group"], -1 if one["index"] is None else -one["index"])),
    }


def check_swaps(groups: Mapping[str, fleet_groups.Group], kept: Sequence[Instance]) -> list[str]:
    """A running host keeps its type: it holds data."""
    problems = []
    for one in kept:
        wanted = groups[one["group"]]["instance_type"]
        if one["type"] != wanted:
            problems.append(
                f"{one['group']}-{one['index']} runs as {one['type']}, but fleet_groups.{one['group']}.instance_type "
                f"is {wanted}: destroy the fleet first, or set the type back."
            )
    return problems


def client_token(fleet: str, group: str, index: int, place: str, before: list[str]) -> str:
    """Return RunInstances' idempotence token of a slot: the same again until an instance was there and went.

    ``place`` is what a launch is bound to (subnet and security group); ``before`` are the slot's former instances.
    """
    text = "/".join([fleet, group, str(index), place, *sorted(before)])
    return "flotilla-" + hashlib.sha256(text.encode()).hexdigest()[:48]


def simplify(instance: untyped.Answer) -> Instance:
    """Reduce what DescribeInstances says to what is needed here.

    LaunchTime is the last start; since the first launch the root volume and the first network interface are attached.
    """
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    attached = [
        *(mapping.get("Ebs", {}).get("AttachTime") for mapping in instance.get("BlockDeviceMappings", [])),
        *(card.get("Attachment", {}).get("AttachTime") for card in instance.get("NetworkInterfaces", [])),
    ]
    return {
        "id": instance["InstanceId"],
        "group": tags.get("flotilla-group", ""),
        "index": fleet_groups.whole(tags.get("flotilla-index", "")),
        "state": instance["State"]["Name"],
        "launched": min([instance["LaunchTime"], *filter(None, attached)]),
        "type": instance["InstanceType"],
        "public": instance.get("PublicIpAddress", ""),
        "private": instance.get("PrivateIpAddress", ""),
        "reason": instance.get("StateReason", {}).get("Message", ""),
        "tags": tags,
        "attached": [
            *(mapping["Ebs"]["VolumeId"] for mapping in instance.get("BlockDeviceMappings", []) if "Ebs" in mapping),
            *(card["NetworkInterfaceId"] for card in instance.get("NetworkInterfaces", [])),
        ],
    }
