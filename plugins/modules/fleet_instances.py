#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_instances."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_instances
short_description: Make a fleet's instances exactly what its groups say
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Each index of a group exists exactly once. Missing ones are launched, stopped ones started, and those above the
    count, or there twice, terminated, the highest index first.
  - What is there is found by tag, and a launch carries its tags and an idempotence token, so that a run that was
    killed can be repeated without doubling anything.
  - Waits until all instances run and answer on the SSH port.
  - The volumes are encrypted gp3, the instance metadata wants a token and is one hop far, and a shutdown from inside
    terminates.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
options:
  region:
    description: The AWS region.
    type: str
    required: true
  name:
    description: The fleet's name.
    type: str
    required: true
  groups:
    description: The groups as M(flotilla.kit.fleet_preflight) returns them.
    type: dict
    required: true
  tags:
    description: Tags of every instance, volume and network interface beside C(Name), C(flotilla-group),
      C(flotilla-index), C(flotilla-ssh-user) and C(flotilla-tasks).
    type: dict
    required: true
  subnet_id:
    description: The subnet.
    type: str
    default: ""
  security_group_id:
    description: The security group.
    type: str
    default: ""
  key_name:
    description: The key pair's name.
    type: str
    required: true
  instance_profile:
    description: The instance profile's name.
    type: str
    required: true
  public_addresses:
    description: Whether the instances get public addresses.
    type: bool
    default: true
  user_data:
    description: What cloud-init does at the first boot.
    type: str
    default: ""
  timeout:
    description: Seconds to wait until all instances run, and again until SSH answers.
    type: int
    default: 300
attributes:
  check_mode:
    description: Says what would be launched, started and terminated.
    support: full
"""

EXAMPLES = r"""
- name: Launch the instances
  flotilla.kit.fleet_instances:
    region: us-east-1
    name: demo
    groups: "{{ preflight.groups }}"
    tags: {flotilla-fleet: demo, flotilla-owner: me, flotilla-expires: "{{ preflight.expires }}"}
    subnet_id: subnet-0123456789abcdef0
    security_group_id: sg-0123456789abcdef0
    key_name: demo
    instance_profile: flotilla-demo
"""

RETURN = r"""
launched:
  description: Names of the hosts that were launched (in check mode, would be).
  returned: success
  type: list
  elements: str
started:
  description: Names of the hosts that had been stopped.
  returned: success
  type: list
  elements: str
terminated:
  description: Names and ids of the hosts that were too many.
  returned: success
  type: list
  elements: str
retagged:
  description: Names of the hosts whose tags were brought up to date.
  returned: success
  type: list
  elements: str
instances:
  description: The fleet's instances, each with name, id, type, public and private address.
  returned: success
  type: list
  elements: dict
"""

import concurrent.futures
import socket
import time
from typing import Any

from ansible_collections.flotilla.kit.plugins.module_utils import aws, plan

HINTS = {
    "InsufficientInstanceCapacity": "try again later, or destroy the fleet and take another type or region",
    "InstanceLimitExceeded": "ask AWS for a higher quota, or take fewer or smaller instances",
    "MaxSpotInstanceCountExceeded": "ask AWS for a higher quota, or take fewer or smaller instances",
    "OptInRequired": "accept the image's terms, or set another image",
    "PendingVerification": "wait until AWS has verified the account, or ask AWS's support",
    "VcpuLimitExceeded": "ask AWS for a higher quota, or take fewer or smaller instances",
}


class Fleet:
    """The instances of one fleet."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        """Keep the module's parameters."""
        self.p = parameters
        self.groups: dict[str, dict[str, Any]] = parameters["groups"]
        self.aws = aws.Aws(parameters["region"], parameters["profile"])
        self.ec2 = self.aws.client("ec2")

    def instances(self, *extra: dict[str, Any]) -> list[dict[str, Any]]:
        """List the fleet's instances in every state."""
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[*aws.tag_filter(self.p["name"]), *extra],
        )
        return [plan.simplify(one) for reservation in found for one in reservation["Instances"]]

    def tags(self, group: str, index: int) -> dict[str, str]:
        """Return the tags of one slot's instance, volume and network interface."""
        return {
            **self.p["tags"],
            "Name": f"{self.p['name']}-{group}-{index}",
            "flotilla-group": group,
            "flotilla-index": str(index),
            "flotilla-ssh-user": self.groups[group]["ssh_user"],
            "flotilla-tasks": str(self.groups[group]["tasks"]),
        }

    def launch(self, group: str, index: int, known: list[dict[str, Any]]) -> str:
        """Launch the instance of one slot; returns its id."""
        wanted = self.groups[group]
        tags = aws.tag_list(self.tags(group, index))
        before = [one["id"] for one in known if (one["group"], one["index"]) == (group, index)]
        place = self.p["subnet_id"] + self.p["security_group_id"]
        request = {
            "ClientToken": plan.client_token(self.p["name"], group, index, place, before),
            "MinCount": 1,
            "MaxCount": 1,
            "ImageId": wanted["image_id"],
            "InstanceType": wanted["instance_type"],
            "KeyName": self.p["key_name"],
            "IamInstanceProfile": {"Name": self.p["instance_profile"]},
            "UserData": self.p["user_data"],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {
                "HttpEndpoint": "enabled",
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 1,
            },
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "SubnetId": self.p["subnet_id"],
                    "Groups": [self.p["security_group_id"]],
                    "AssociatePublicIpAddress": self.p["public_addresses"],
                    "DeleteOnTermination": True,
                }
            ],
            "BlockDeviceMappings": [
                {
                    "DeviceName": wanted["root_device"],
                    "Ebs": {
                        "VolumeSize": wanted["volume_size"],
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
            ],
        }
        deadline = time.monotonic() + 60
        while True:
            try:
                return str(self.ec2.run_instances(**request)["Instances"][0]["InstanceId"])
            except Exception as error:
                late = time.monotonic() > deadline
                if aws.code(error) == "IdempotentParameterMismatch" and not late:
                    # An earlier run asked for it, with an older expiry, and AWS doesn't list it yet.
                    for one in self.instances({"Name": "client-token", "Values": [request["ClientToken"]]}):
                        return str(one["id"])
                elif aws.code(error) == "IdempotentInstanceTerminated" and not late:
                    # What an earlier run launched has ended, and AWS remembers the token but lists it no longer.
                    before.append(request["ClientToken"])
                    request["ClientToken"] = plan.client_token(self.p["name"], group, index, place, before)
                elif "iaminstanceprofile" not in aws.message(error).replace(" ", "").lower() or late:
                    # A new instance profile takes AWS some seconds to know everywhere; all else is final.
                    hint = HINTS.get(aws.code(error))
                    if hint:
                        raise aws.FleetError(
                            f"AWS could not launch {group}-{index} as {wanted['instance_type']}: "
                            f"{aws.message(error)} ({aws.code(error)}): {hint}."
                        ) from error
                    raise aws.FleetError(aws.explain(error, f"launch {group}-{index}", self.aws.profile)) from error
                time.sleep(2)

    def launch_all(self, slots: list[tuple[str, int]], known: list[dict[str, Any]]) -> list[str]:
        """Launch several slots side by side; raises with all reasons when some failed."""
        launched, problems = [], []
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            waiting = {pool.submit(self.launch, group, index, known): f"{group}-{index}" for group, index in slots}
            for future in concurrent.futures.as_completed(waiting):
                try:
                    launched.append(future.result())
                except aws.FleetError as error:
                    problems.append(str(error))
        if problems:
            shown = "\n".join(sorted(set(problems)))
            raise aws.FleetError(
                f"{shown}\n{len(launched)} of {len(slots)} instances were launched and cost money: "
                "run the same command again to add the rest, or destroy the fleet."
            )
        return launched

    def retag(self, kept: list[dict[str, Any]], dry: bool) -> list[str]:
        """Bring the tags of kept instances up to date, e.g. a later expiry; returns the hosts' names."""
        changed = []
        for one in kept:
            wanted = {
                key: value for key, value in self.tags(one["group"], one["index"]).items() if key != "flotilla-ssh-user"
            }
            if any(one["tags"].get(key) != value for key, value in wanted.items()):
                changed.append(f"{one['group']}-{one['index']}")
                if not dry:
                    self.aws.call(
                        "tag the fleet's instances",
                        "ec2",
                        "create_tags",
                        Resources=[one["id"], *one["attached"]],
                        Tags=aws.tag_list(wanted),
                    )
        return changed

    def start(self, stopped: list[dict[str, Any]]) -> None:
        """Start stopped instances, once those that are still stopping have stopped."""
        ids = [one["id"] for one in stopped]
        deadline = time.monotonic() + self.p["timeout"]
        while any(one["state"] == "stopping" for one in self.instances() if one["id"] in ids):
            if time.monotonic() > deadline:
                raise aws.FleetError(
                    f"Of {', '.join(ids)} some are still stopping after {self.p['timeout']} s: "
                    "run again later, or destroy the fleet."
                )
            time.sleep(2)
        self.aws.call("start stopped instances", "ec2", "start_instances", InstanceIds=ids)

    def wait_running(self, ids: list[str]) -> list[dict[str, Any]]:
        """Wait until all instances run; returns them."""
        deadline = time.monotonic() + self.p["timeout"]
        pause = 0.5
        while True:
            found = {one["id"]: one for one in self.instances() if one["id"] in ids}
            for one in found.values():
                if one["state"] in ("shutting-down", "terminated"):
                    raise aws.FleetError(
                        f"{one['group']}-{one['index']} ({one['id']}) ended while it was starting "
                        f"({one['reason'] or 'AWS gives no reason'}): run the same command again, or destroy the fleet."
                    )
            if len(found) == len(ids) and all(one["state"] == "running" for one in found.values()):
                return list(found.values())
            if time.monotonic() > deadline:
                late = [
                    f"{one['group']}-{one['index']} ({one['id']}) is {one['state']}"
                    for one in found.values()
                    if one["state"] != "running"
                ] or [f"{identity} isn't listed" for identity in ids if identity not in found]
                raise aws.FleetError(
                    f"After {self.p['timeout']} s not all instances run: {', '.join(late)}; "
                    "run the same command again, or destroy the fleet."
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 3)

    def wait_ssh(self, running: list[dict[str, Any]]) -> None:
        """Wait until every instance's SSH server says who it is."""
        deadline = time.monotonic() + self.p["timeout"]

        def answers(address: str) -> str:
            reason = "no address"
            while address:
                try:
                    with socket.create_connection((address, 22), timeout=5) as connection:
                        connection.settimeout(5)
                        if connection.recv(4) == b"SSH-":
                            return ""
                        reason = "something that isn't SSH answers"
                except OSError as error:
                    reason = error.strerror or str(error)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.3)
            return reason

        with concurrent.futures.ThreadPoolExecutor(max(len(running), 1)) as pool:
            reasons = list(pool.map(lambda one: answers(one["public"] or one["private"]), running))
        silent = [
            f"{one['group']}-{one['index']} ({one['public'] or one['private']}: {reason})"
            for one, reason in zip(running, reasons, strict=True)
            if reason
        ]
        if silent:
            raise aws.FleetError(
                f"SSH doesn't answer after {self.p['timeout']} s on {', '.join(silent)}: "
                "check that fleet_ssh_sources has your address, and the instance's console output; "
                "then run the same command again, or destroy the fleet."
            )


def reconcile_fleet(fleet: Fleet, dry: bool) -> dict[str, Any]:
    """Make the instances what the groups say, or in a dry run say what that would mean."""
    known = fleet.instances()
    todo = plan.reconcile(fleet.groups, known)
    problems = plan.check_swaps(fleet.groups, todo["keep"])
    if problems:
        raise aws.FleetError("\n".join(problems))
    result: dict[str, Any] = {
        "launched": [f"{group}-{index}" for group, index in todo["launch"]],
        "started": [f"{one['group']}-{one['index']}" for one in todo["start"]],
        "terminated": [f"{one['group']}-{one['index']} ({one['id']})" for one in todo["terminate"]],
        "retagged": fleet.retag(todo["keep"], dry),
    }
    result["changed"] = any(result.values())
    running = todo["keep"]
    if not dry:
        if todo["terminate"]:
            fleet.aws.call(
                "terminate instances that are too many",
                "ec2",
                "terminate_instances",
                InstanceIds=[one["id"] for one in todo["terminate"]],
            )
        if todo["start"]:
            fleet.start(todo["start"])
        launched = fleet.launch_all(todo["launch"], known)
        running = fleet.wait_running([*(one["id"] for one in todo["keep"]), *launched])
        fleet.wait_ssh(running)
    result["instances"] = [
        {"name": f"{one['group']}-{one['index']}", **{key: one[key] for key in ("id", "type", "public", "private")}}
        for one in sorted(running, key=lambda one: (plan.GROUPS.index(one["group"]), one["index"]))
    ]
    return result


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "groups": {"type": "dict", "required": True},
            "tags": {"type": "dict", "required": True},
            "subnet_id": {"type": "str", "default": ""},
            "security_group_id": {"type": "str", "default": ""},
            "key_name": {"type": "str", "required": True, "no_log": False},
            "instance_profile": {"type": "str", "required": True},
            "public_addresses": {"type": "bool", "default": True},
            "user_data": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 300},
        },
    )
    problems = plan.check_name(module.params["name"])  # in a filter, * would mean every fleet
    if problems:
        module.fail_json(msg=problems[0])
    try:
        result = reconcile_fleet(Fleet(module.params), module.check_mode)
    except aws.FleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
