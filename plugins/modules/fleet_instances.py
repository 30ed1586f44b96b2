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
  - The scarcest type is launched first, then all others. A zone without capacity is left for the next, unless the fleet
    has instances already, which are bound to theirs.
  - What could not be launched as a whole is ended again, so that a failed launch costs nothing.
  - Each instance gets a schedule in EventBridge Scheduler that terminates it ten minutes after its expiry, for the case
    that it hangs. Where that can't be made, it warns and goes on, for the hosts have timers of their own.
  - Waits until all instances run, and those with public addresses answer on the SSH port; others may be reachable
    through another host only.
  - The volumes are encrypted gp3, the instance metadata wants a token and is one hop far, and a shutdown from inside
    terminates.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet
options:
  groups:
    description: The groups as M(flotilla.kit.fleet_preflight) returns them.
    type: dict
    required: true
  tags:
    description: Tags of every instance, volume and network interface beside C(Name), C(flotilla-group),
      C(flotilla-index), C(flotilla-ssh-user), C(flotilla-tasks) and C(flotilla-gpus).
    type: dict
    required: true
  zones:
    description: The zones to try, best first, each with C(name) and C(cidr), the network of its subnet. The first one's
      subnet is O(subnet_id); the others get theirs when they are tried.
    type: list
    elements: dict
    default: []
  subnet_id:
    description: The subnet in the first zone.
    type: str
    default: ""
  vpc_id:
    description: The VPC of further zones' subnets.
    type: str
    default: ""
  route_table_id:
    description: The route table of further zones' subnets.
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
  schedule_role:
    description: The ARN of the role with which EventBridge Scheduler terminates what has outlived its expiry, the tag
      C(flotilla-expires); empty means no schedules, and deletes those that are there.
    type: str
    default: ""
  timeout:
    description: Seconds to wait until all instances run, and again until SSH answers.
    type: int
    default: 300
attributes:
  check_mode:
    description: Says what would be launched, started, terminated and scheduled.
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
zone:
  description: The zone that missing instances were launched in (in check mode, that would be tried first).
  returned: success
  type: str
lacking:
  description: The zones that were tried before without success, each with name and reason.
  returned: success
  type: list
  elements: dict
retagged:
  description: Names of the hosts whose tags were brought up to date.
  returned: success
  type: list
  elements: str
scheduled:
  description: Ids of the instances whose schedule was made, changed or deleted, and the name of the schedules' group
    if it was.
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
import re
import socket
import time
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    fleet_groups,
    launch,
    make,
    naming,
    networking,
    reconcile,
    schedule,
    untyped,
)

MORE_QUOTA = "ask AWS for a higher quota, or take fewer or smaller instances"
HINTS = {
    "InsufficientFreeAddressesInSubnet": "take a larger fleet_vpc_cidr, or another fleet_subnet_id",
    "InsufficientInstanceCapacity": "run the same command again later",
    "InstanceLimitExceeded": MORE_QUOTA,
    "MaxSpotInstanceCountExceeded": MORE_QUOTA,
    "OptInRequired": "accept the image's terms, or set another image",
    "PendingVerification": "wait until AWS has verified the account, or ask AWS's support",
    "VcpuLimitExceeded": MORE_QUOTA,
}
# What was made a moment ago isn't known everywhere at once.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
NOT_YET = {"InvalidGroup.NotFound", "InvalidKeyPair.NotFound", "InvalidSubnetID.NotFound"}
LISTED = 20  # seconds after which AWS lists what it has launched


class NoCapacity(aws.FleetError):
    """A zone has no capacity for a type, or doesn't offer it: AWS's words, with the type."""


class FullZone(TypedDict):
    """A zone that was tried and lacks capacity."""

    name: str
    reason: str  # AWS's words, with the type


def is_no_capacity(error: BaseException) -> bool:
    """Whether AWS refuses a launch for reasons of the zone, which other zones may not have."""
    if aws.code(error) == "Unsupported":
        return "availability zone" in aws.message(error).lower()
    return aws.code(error) in ("InsufficientInstanceCapacity", "InsufficientCapacity")


def unknown_yet(error: BaseException) -> bool:
    """Whether AWS may not have heard of the subnet, group, key pair or instance profile yet."""
    profile = "iaminstanceprofile" in aws.message(error).replace(" ", "").lower()
    return aws.code(error) in NOT_YET or (profile and aws.code(error).startswith("InvalidParameter"))


def size(instance_type: str) -> float:
    """Return how large a type is, in xlarge, by its name; metal is the largest there is, all below xlarge are 0."""
    number = re.search(r"\.(\d*)xlarge$", instance_type)
    return float(number[1] or 1) if number else 1000.0 if ".metal" in instance_type else 0.0


class Fleet:
    """The instances of one fleet."""

    def __init__(self, parameters: untyped.Parameters) -> None:
        """Keep the module's parameters."""
        self.p = parameters
        self.groups: dict[str, fleet_groups.Group] = parameters["groups"]
        # The network was made before, so AWS can be reached.
        self.aws = aws.Aws(parameters["region"], parameters["profile"], reached=True)
        self.ec2 = self.aws.client("ec2")
        self.warnings: list[str] = []
        self.zones: list[networking.Zone] = parameters.get("zones") or [{"name": "its zone", "cidr": ""}]
        self.zone = self.zones[0]
        self.subnet = parameters["subnet_id"]
        self.lacking: list[FullZone] = []
        self.launched: list[str] = []
        self.scheduled: list[str] = []

    def instances(self, *extra: untyped.Request) -> list[reconcile.Instance]:
        """List the fleet's instances in every state."""
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[*aws.tag_filter(self.p["name"]), *extra],
        )
        return [reconcile.simplify(one) for reservation in found for one in reservation["Instances"]]

    def tags(self, group: str, index: int) -> dict[str, str]:
        """Return the tags of one slot's instance, volume and network interface."""
        return launch.host_tags(self.p["name"], (group, index), self.groups[group], self.p["tags"])

    def request(self, group: str, index: int) -> untyped.Request:
        """Return what RunInstances is asked for a slot, but for the token."""
        network = launch.interface(self.subnet, self.p["public_addresses"])
        return {
            **launch.request(self.groups[group], self.tags(group, index)),
            "KeyName": self.p["key_name"],
            "IamInstanceProfile": {"Name": self.p["instance_profile"]},
            "UserData": self.p["user_data"],
            "NetworkInterfaces": [{**network, "Groups": [self.p["security_group_id"]]}],
        }

    def launch(self, group: str, index: int, known: list[reconcile.Instance]) -> str:
        """Launch the instance of one slot; returns its id. Raises NoCapacity for want of capacity, else FleetError."""
        request = self.request(group, index)
        place = self.subnet + self.p["security_group_id"]
        before = [one["id"] for one in known if (one["group"], one["index"]) == (group, index)]
        refused: float | None = None
        while True:
            token = reconcile.client_token(self.p["name"], group, index, place, before)
            try:
                return str(self.ec2.run_instances(ClientToken=token, **request)["Instances"][0]["InstanceId"])
            except Exception as error:
                refused = time.monotonic() if refused is None else refused
                waited = time.monotonic() - refused
                another = False
                if waited > make.PROPAGATION:
                    raise self.refusal(error, f"{group}-{index}", request["InstanceType"]) from error
                if aws.code(error) == "IdempotentInstanceTerminated":
                    # What an earlier run launched has ended, and AWS remembers the token but lists it no longer.
                    another = True
                elif aws.code(error) == "IdempotentParameterMismatch":
                    # An earlier run asked for it, with an older expiry: either AWS doesn't list it yet, or it has
                    # ended, or that request failed.
                    there = self.instances({"Name": "client-token", "Values": [token]})
                    live = [one for one in there if one["state"] in reconcile.LIVE]
                    if live:
                        return self.adopt(live[0])
                    another = bool(there) or waited > LISTED
                elif not unknown_yet(error):
                    raise self.refusal(error, f"{group}-{index}", request["InstanceType"]) from error
                if another:
                    before.append(token)
                else:
                    time.sleep(2)

    def refusal(self, error: BaseException, host: str, instance_type: str) -> aws.FleetError:
        """Return what to say when AWS refuses to launch, or start, a host."""
        if is_no_capacity(error):
            return NoCapacity(f"{instance_type}: {aws.message(error)}")
        hint = HINTS.get(aws.code(error))
        if hint:
            words = f"{aws.message(error)} ({aws.code(error)})"
            return aws.FleetError(f"AWS could not launch {host} as {instance_type}: {words}: {hint}.")
        return aws.FleetError(aws.explain(error, f"launch {host}", self.aws.profile))

    def adopt(self, one: reconcile.Instance) -> str:
        """Take over an instance of an earlier run that was killed before anybody saw it; returns its id."""
        problems = reconcile.check_swaps(self.groups, [one])
        if problems:
            raise aws.FleetError(problems[0])
        self.retag([one], False)
        return one["id"]

    def batches(self, slots: list[reconcile.Slot]) -> list[list[reconcile.Slot]]:
        """Return what to launch first, the hosts of the scarcest type (most GPUs, then the largest), and the rest."""
        types = {slot: self.groups[slot[0]]["instance_type"] for slot in slots}
        first = max(slots, key=lambda slot: (self.groups[slot[0]].get("gpus", 0), size(types[slot])), default=None)
        scarcest = types.get(first) if first else None
        rare = [slot for slot in slots if types[slot] == scarcest]
        rest = [slot for slot in slots if types[slot] != scarcest]
        return [batch for batch in (rare, rest) if batch]

    def launch_all(self, slots: list[reconcile.Slot], known: list[reconcile.Instance]) -> list[str]:
        """Launch several slots, the hosts of a batch side by side; returns the ids, which are in ``launched``, too.

        Goes no further after a failure. Raises NoCapacity when no other reason was given, else FleetError with
        all reasons.
        """
        self.launched = []
        problems: list[aws.FleetError] = []
        for batch in self.batches(slots):
            if problems:
                break
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                waiting = [pool.submit(self.launch, group, index, known) for group, index in batch]
                for future in concurrent.futures.as_completed(waiting):
                    try:
                        self.launched.append(future.result())
                    except concurrent.futures.CancelledError:
                        continue
                    except aws.FleetError as error:
                        problems.append(error)
                        for other in waiting:
                            other.cancel()
        if problems:
            final = sorted({str(one) for one in problems if not isinstance(one, NoCapacity)})
            if final:
                raise aws.FleetError("\n".join(final))
            raise NoCapacity("; ".join(sorted({str(one) for one in problems})))
        return self.launched

    def subnet_in(self, zone: networking.Zone) -> str:
        """Find the fleet's subnet in a further zone, or make it, with the fleet's routes; returns its id."""
        place = [
            {"Name": "vpc-id", "Values": [self.p["vpc_id"]]},
            {"Name": "availability-zone", "Values": [zone["name"]]},
        ]
        filters = [*aws.tag_filter(self.p["name"]), *place]
        tags = aws.tag_list({**self.p["tags"], "Name": f"{self.p['name']}-subnet"})
        found = self.aws.pages("list the fleet's subnets", "ec2", "describe_subnets", "Subnets", Filters=filters)
        if not found:
            try:
                made = self.aws.call(
                    f"make a subnet in {zone['name']}",
                    "ec2",
                    "create_subnet",
                    VpcId=self.p["vpc_id"],
                    CidrBlock=zone["cidr"],
                    AvailabilityZone=zone["name"],
                    TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}],
                )
                found = [made["Subnet"]]
            except aws.FleetError:
                # The first answer may have been lost, and then the network is taken, by what we made.
                found = self.aws.pages(
                    "list the fleet's subnets", "ec2", "describe_subnets", "Subnets", Filters=filters
                )
                if not found:
                    raise
        subnet = str(found[0]["SubnetId"])
        try:
            self.aws.call(
                f"give the subnet in {zone['name']} its routes",
                "ec2",
                "associate_route_table",
                RouteTableId=self.p["route_table_id"],
                SubnetId=subnet,
            )
        except aws.FleetError as error:
            # By an earlier run, or by a request whose answer was lost.
            if error.__cause__ is None or aws.code(error.__cause__) != "Resource.AlreadyAssociated":
                raise
        return subnet

    def settle(self, todo: reconcile.Plan, known: list[reconcile.Instance]) -> list[reconcile.Instance]:
        """Launch what is missing in the first zone that has it all; returns the fleet's instances once they run.

        Raises FleetError when it can't be, and then nothing that was launched here is left.
        """
        kept = [one["id"] for one in todo["keep"]]
        for number, zone in enumerate(self.zones[:1] if kept else self.zones):
            self.zone = zone
            if number:
                self.subnet = self.subnet_in(zone)
            try:
                launched = self.launch_all(todo["launch"], known)
            except aws.FleetError as error:
                problem = error
            else:
                ids = [*kept, *launched]
                if launched or todo["terminate"]:
                    self.scheduled += self.schedule(ids, False)
                try:
                    return self.wait_running(ids)
                except NoCapacity as error:
                    problem = error
            try:
                ended = self.end_launched(todo["launch"], known)
            except aws.FleetError as error:
                raise aws.FleetError(f"{problem}\n{error}") from problem
            if not isinstance(problem, NoCapacity):
                raise aws.FleetError(f"{problem}{' What this run had launched was ended again.' if ended else ''}")
            self.lacking.append({"name": zone["name"], "reason": str(problem)})
        raise aws.FleetError(
            f"No zone that may be taken has the capacity for the fleet: {self.reasons()}: run the same command again "
            "later, or take another instance type, zone (fleet_zone) or region; nothing that this run launched is left."
        )

    def reasons(self) -> str:
        """Return which zones were tried in vain, and AWS's words, as part of a sentence."""
        return "; ".join(f"{one['name']} ({one['reason']})" for one in self.lacking)

    def end_launched(self, slots: list[reconcile.Slot], known: list[reconcile.Instance]) -> bool:
        """End again what this run has launched, and wait until it is ending; returns whether there was something.

        Asks AWS for it by slot, too: the answer to a launch may have been lost. Raises FleetError with what is left.
        """
        old = {one["id"] for one in known}
        deadline = time.monotonic() + aws.PATIENCE
        unseen, ended, denied, reason = set(self.launched), False, False, "AWS doesn't list it"
        with self.aws.until(deadline):
            while True:
                there = [one for one in self.instances() if one["id"] not in old]
                unseen -= {one["id"] for one in there}
                live = {
                    one["id"]
                    for one in there
                    if one["state"] in reconcile.LIVE and (one["group"], one["index"]) in slots
                }
                left = sorted(live | unseen)
                if not left:
                    return ended
                if denied or time.monotonic() > deadline:
                    raise aws.FleetError(
                        f"What this run launched could not be ended again and costs money "
                        f"({', '.join(left)}: {reason}): destroy the fleet."
                    )
                ended = True
                for identity in left:  # one by one: of a list AWS ends none when it doesn't know one yet
                    try:
                        self.ec2.terminate_instances(InstanceIds=[identity])
                        reason = "it doesn't end"
                    except Exception as error:
                        denied, reason = aws.code(error) in aws.DENIED_CODES, aws.message(error)
                time.sleep(1)

    def retag(self, kept: list[reconcile.Instance], dry: bool) -> list[str]:
        """Bring the tags of kept instances up to date, e.g. a later expiry; returns the hosts' names."""
        changed = []
        for one in kept:
            index = one["index"]
            if index is None:
                continue  # none of the fleet's hosts
            wanted = {key: value for key, value in self.tags(one["group"], index).items() if key != "flotilla-ssh-user"}
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

    def schedule(self, ids: list[str], dry: bool) -> list[str]:
        """Have AWS terminate instances that outlive their expiry; returns what changed.

        A failure is a warning: it mustn't keep a fleet from being raised whose hosts have timers of their own.
        """
        schedules = schedule.Schedules(self.aws, self.p["name"], dry)
        role = self.p.get("schedule_role")
        changed: list[str] = []
        if self.warnings:
            return changed
        if not self.aws.offers("scheduler"):
            if role:
                self.warnings.append(
                    f"EventBridge Scheduler isn't in {self.p['region']}: a host that hangs at boot or loses its timer "
                    "costs money until you destroy the fleet."
                )
            return changed
        try:
            if role:
                changed = schedules.ensure(ids, self.p["tags"]["flotilla-expires"], role, self.p["tags"])
            elif schedules.remove():
                changed = [schedules.group]
        except aws.FleetError as error:
            if role:
                self.warnings.append(
                    "Nothing outside the hosts ends one that hangs at boot or loses its timer, and that costs money "
                    f"until you destroy the fleet: {error} Then run the same command again "
                    "(roles/fleet/files/policy.json has the permissions), or set fleet_schedule to false."
                )
        return changed

    def start(self, stopped: list[reconcile.Instance]) -> None:
        """Start stopped instances, once those that are still stopping have stopped."""
        ids = [one["id"] for one in stopped]
        deadline = time.monotonic() + self.p["timeout"]
        with self.aws.until(deadline):
            while any(one["state"] == "stopping" for one in self.instances() if one["id"] in ids):
                if time.monotonic() > deadline:
                    raise aws.FleetError(
                        f"Of {', '.join(ids)} some are still stopping after {self.p['timeout']} s: "
                        "run again later, or destroy the fleet."
                    )
                time.sleep(2)
        self.aws.call("start stopped instances", "ec2", "start_instances", InstanceIds=ids)

    def wait_running(self, ids: list[str]) -> list[reconcile.Instance]:
        """Wait until all instances run; returns them."""
        deadline = time.monotonic() + self.p["timeout"]
        with self.aws.until(deadline):
            return self._wait_running(ids, deadline)

    def _wait_running(self, ids: list[str], deadline: float) -> list[reconcile.Instance]:
        pause = 0.5
        while True:
            found = {one["id"]: one for one in self.instances() if one["id"] in ids}
            for one in found.values():
                if one["state"] in ("shutting-down", "terminated"):
                    # Server.InsufficientInstanceCapacity: the zone's capacity went between request and start.
                    if "insufficientinstancecapacity" in one["reason"].lower():
                        raise NoCapacity(f"{one['type']}: {one['reason'].rstrip('.')}")
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

    def wait_ssh(self, running: list[reconcile.Instance]) -> None:
        """Wait until the SSH server of every instance that has a public address says who it is."""
        running = [one for one in running if one["public"]]  # ssh may have another host between us and the others
        deadline = time.monotonic() + self.p["timeout"]

        def answers(address: str) -> str:
            while True:
                try:
                    with socket.create_connection((address, 22), timeout=5) as connection:
                        connection.settimeout(5)
                        if connection.recv(4) == b"SSH-":
                            return ""
                        reason = "something that isn't SSH answers"
                except OSError as error:
                    reason = error.strerror or str(error)
                if time.monotonic() > deadline:
                    return reason
                time.sleep(0.3)

        with concurrent.futures.ThreadPoolExecutor(max(len(running), 1)) as pool:
            reasons = list(pool.map(lambda one: answers(one["public"]), running))
        silent = [
            f"{one['group']}-{one['index']} ({one['public']}: {reason})"
            for one, reason in zip(running, reasons, strict=True)
            if reason
        ]
        if silent:
            raise aws.FleetError(
                f"SSH doesn't answer after {self.p['timeout']} s on {', '.join(silent)}: "
                "check that fleet_ssh_sources has your address, and the instance's console output; "
                "then run the same command again, or destroy the fleet."
            )


def reconcile_fleet(fleet: Fleet, dry: bool) -> untyped.Result:
    """Make the instances what the groups say, or in a dry run say what that would mean."""
    known = fleet.instances()
    todo = reconcile.compare(fleet.groups, known)
    problems = reconcile.check_swaps(fleet.groups, todo["keep"])
    if problems:
        raise aws.FleetError("\n".join(problems))
    result: untyped.Result = {
        "launched": [f"{group}-{index}" for group, index in todo["launch"]],
        "started": [f"{one['group']}-{one['index']}" for one in todo["start"]],
        "terminated": [f"{one['group']}-{one['index']} ({one['id']})" for one in todo["terminate"]],
        "retagged": fleet.retag(todo["keep"], dry),
        "scheduled": fleet.schedule([one["id"] for one in known if one["state"] in reconcile.LIVE], dry),
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
        running = fleet.settle(todo, known)
        result["scheduled"] += fleet.scheduled
        fleet.wait_ssh(running)
    result.update(zone=fleet.zone["name"], lacking=fleet.lacking)
    result["instances"] = [
        {
            "name": f"{one['group']}-{one['index']}",
            "id": one["id"],
            "type": one["type"],
            "public": one["public"],
            "private": one["private"],
        }
        for one in sorted(running, key=lambda one: (fleet_groups.GROUPS.index(one["group"]), one["index"]))
    ]
    return result


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "groups": {"type": "dict", "required": True},
            "tags": {"type": "dict", "required": True},
            "zones": {"type": "list", "elements": "dict", "default": []},
            "subnet_id": {"type": "str", "default": ""},
            "vpc_id": {"type": "str", "default": ""},
            "route_table_id": {"type": "str", "default": ""},
            "security_group_id": {"type": "str", "default": ""},
            "key_name": {"type": "str", "required": True, "no_log": False},
            "instance_profile": {"type": "str", "required": True},
            "public_addresses": {"type": "bool", "default": True},
            "user_data": {"type": "str", "default": ""},
            "schedule_role": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 300},
        },
    )
    problems = naming.check_name(module.params["name"])  # in a filter, * would mean every fleet
    if problems:
        module.fail_json(msg=problems[0])
    warnings: list[str] = []  # are said also where something else fails: hosts may run without a schedule
    try:
        fleet = Fleet(module.params)
        warnings = fleet.warnings
        result = reconcile_fleet(fleet, module.check_mode)
    except aws.FleetError as error:
        for warning in warnings:
            module.warn(warning)
        module.fail_json(msg=str(error))
    for warning in warnings:
        module.warn(warning)
    if fleet.lacking:
        module.warn(f"The fleet is in {fleet.zone['name']}, as other zones lack capacity: {fleet.reasons()}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
