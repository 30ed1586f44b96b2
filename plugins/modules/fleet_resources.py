#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_resources."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_resources
short_description: List or remove everything in AWS that belongs to a fleet
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Finds every kind of resource by the tag C(flotilla-fleet), with one question a kind.
  - Ends the instances first, with one listing before it; removes all else in the order of its dependence, and asks
    again until nothing is left or the time is over.
  - What can't be listed or removed is named in what is left, and is no reason to stop.
  - Never touches buckets, or networks that the fleet was given but doesn't own.
  - It may be interrupted, run again, and run twice at a time.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet
options:
  state:
    description: V(present) lists, V(absent) removes.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description: Who the caller is, as in the tag C(flotilla-owner); empty means the caller's name in AWS.
    type: str
    default: ""
  adopt:
    description: Whether a fleet whose owner is somebody else is removed, too.
    type: bool
    default: false
  schedule:
    description: Whether schedules in EventBridge are looked for.
    type: bool
    default: true
  timeout:
    description: Seconds until what is left is reported as a failure.
    type: int
    default: 600
attributes:
  check_mode:
    description: Lists what would be removed.
    support: full
"""

EXAMPLES = r"""
- name: Remove the fleet
  flotilla.kit.fleet_resources:
    region: us-east-1
    name: demo
    state: absent
"""

RETURN = r"""
resources:
  description: What was found, each with kind, id, name and state, in the order of removal.
  returned: always
  type: list
  elements: dict
unlisted:
  description: The kinds that could not be listed, each with the reason.
  returned: success
  type: list
  elements: str
fleets:
  description: The fleets that are in the region, where nothing of this one is.
  returned: success
  type: list
  elements: str
images:
  description: What baked images there are in the region, which belong to no fleet and stay, and what they cost a month
    at most, in words; empty where there are none, or where that can't be listed.
  returned: success
  type: str
summary:
  description: What was found, or that nothing was, as text by kind.
  returned: success
  type: dict
left:
  description: What is still there although it should be gone, each with the reason.
  returned: failure
  type: list
  elements: str
"""

import concurrent.futures
import difflib
import time
from collections.abc import Callable
from typing import NamedTuple, TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import aws, images, naming, reconcile, untyped
from ansible_collections.flotilla.kit.plugins.module_utils import schedule as schedules


class Item(TypedDict):
    """Something of one kind that belongs to the fleet."""

    id: str
    name: str  # its tag Name, or what it is called; often empty
    state: str  # in AWS's words; empty where such have none
    item: untyped.Answer  # all that AWS says of it


class Resource(Item):
    """Something that belongs to the fleet, whatever it is."""

    kind: str  # as a Kind is called, or instance


class Left(TypedDict):
    """What is still there, or a kind that could not be listed."""

    kind: str
    id: str  # empty: what couldn't be listed
    why: str


Items = list[Item]
Found = list[Resource]

COSTLY = {"instance", "volume"}  # what else a fleet is made of costs nothing
STILL = 30  # seconds without a change after which nothing waits any more for what AWS has refused to remove
GONE_CODES = {"NoSuchEntity", "ResourceNotFoundException"}


class Kind(NamedTuple):
    """A kind of resource: how it is found, how one is removed, and whether that waits until no instance is there."""

    name: str
    service: str
    find: Callable[[], Items]
    remove: Callable[[Resource], object]
    waits: bool


def key(one: Resource | Left) -> str:
    """Return what tells a resource from all others: role and instance profile have one name."""
    return f"{one['kind']} {one['id']}"


def cause(error: BaseException) -> BaseException:
    """Return AWS's own error behind a FleetError."""
    return error.__cause__ or error


def passes(error: BaseException) -> bool:
    """Whether an error may be gone in a minute: AWS is away, or answers others."""
    return aws.temporary(cause(error))


def is_refusal(error: BaseException) -> bool:
    """Whether AWS has said no for good."""
    code = aws.code(cause(error))
    return code in aws.DENIED_CODES or code in aws.CREDENTIAL_CODES or code == "OperationNotPermitted"


class Resources:
    """Everything of one fleet, by kind."""

    def __init__(self, region: str, profile: str, fleet: str, schedule: bool = True) -> None:
        """Open the clients here: making them isn't safe in several threads, using them is."""
        self.aws = aws.Aws(region, profile)
        self.ec2 = self.aws.client("ec2")
        self.iam = self.aws.client("iam")
        self.scheduler = self.aws.client("scheduler")
        self.fleet = fleet
        self.group_name = schedules.group_name(fleet)
        self.iam_name = naming.in_iam(fleet, region)
        self.expiry_name = naming.in_iam_for_expiry(fleet, region)
        self.ended = False  # whether AWS still knows instances of the fleet that have ended
        self.reasons: dict[str, str] = {}  # by key: why it is still there
        self.refused: set[str] = set()  # keys and kinds of what AWS will not remove or list
        ec2 = self.ec2
        # In the order of removal, after the instances. The schedules end those until they are gone.
        self.kinds = [
            Kind("key pair", "ec2", self.key_pairs, lambda one: ec2.delete_key_pair(KeyName=one["name"]), False),
            Kind("instance profile", "iam", self.instance_profiles, self.delete_instance_profile, False),
            Kind("role", "iam", lambda: self.roles(self.iam_name), self.delete_role, False),
            Kind(
                "VPC endpoint",
                "ec2",
                self.endpoints,
                lambda one: ec2.delete_vpc_endpoints(VpcEndpointIds=[one["id"]]),
                False,
            ),
            Kind("schedule group", "scheduler", self.schedule_groups, self.delete_schedule_group, True),
            Kind("expiry role", "iam", lambda: self.roles(self.expiry_name), self.delete_role, True),
            Kind("volume", "ec2", self.volumes, lambda one: ec2.delete_volume(VolumeId=one["id"]), True),
            Kind(
                "network interface",
                "ec2",
                self.network_interfaces,
                lambda one: ec2.delete_network_interface(NetworkInterfaceId=one["id"]),
                True,
            ),
            Kind(
                "security group",
                "ec2",
                self.security_groups,
                lambda one: ec2.delete_security_group(GroupId=one["id"]),
                True,
            ),
            Kind("route table", "ec2", self.route_tables, self.delete_route_table, True),
            Kind("internet gateway", "ec2", self.gateways, self.delete_gateway, True),
            Kind("subnet", "ec2", self.subnets, lambda one: ec2.delete_subnet(SubnetId=one["id"]), True),
            Kind("VPC", "ec2", self.vpcs, lambda one: ec2.delete_vpc(VpcId=one["id"]), True),
        ]
        if not (schedule and self.aws.offers("scheduler")):  # the role may be there from before that was said
            self.kinds = [kind for kind in self.kinds if kind.name != "schedule group"]

    def _ec2(self, method: str, key: str, identity: str, state: str = "") -> Items:
        """Ask for one kind by tag."""
        tagged = aws.tag_filter(self.fleet)
        items = self.aws.pages(f"list the fleet's resources ({method})", "ec2", method, key, Filters=tagged)
        return [
            {
                "id": item[identity],
                "name": aws.tags_of(item).get("Name", ""),
                "state": str(item.get(state, "")),
                "item": item,
            }
            for item in items
        ]

    def instances(self) -> Found:
        """Instances in every state but terminated, which AWS lists for an hour."""
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=aws.tag_filter(self.fleet),
        )
        every: Found = [
            {
                "kind": "instance",
                "id": item["InstanceId"],
                "name": aws.tags_of(item).get("Name", ""),
                "state": item["State"]["Name"],
                "item": item,
            }
            for reservation in found
            for item in reservation["Instances"]
        ]
        living = [one for one in every if one["state"] != "terminated"]
        self.ended = self.ended or len(living) < len(every)
        return living

    def key_pairs(self) -> Items:
        """Key pairs."""
        answer = self.aws.call(
            "list the fleet's key pair", "ec2", "describe_key_pairs", Filters=aws.tag_filter(self.fleet)
        )
        return [
            {"id": item["KeyPairId"], "name": item["KeyName"], "state": "", "item": item} for item in answer["KeyPairs"]
        ]

    def endpoints(self) -> Items:
        """VPC endpoints; deleted ones stay listed for a while."""
        found = self._ec2("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId", "State")
        return [one for one in found if one["state"].lower() != "deleted"]

    def volumes(self) -> Items:
        """Volumes."""
        return self._ec2("describe_volumes", "Volumes", "VolumeId", "State")

    def network_interfaces(self) -> Items:
        """Network interfaces."""
        return self._ec2("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId", "Status")

    def security_groups(self) -> Items:
        """Security groups."""
        return self._ec2("describe_security_groups", "SecurityGroups", "GroupId")

    def _of_vpc(self, method: str, key: str, identity: str, place: str) -> Items:
        """Ask for one kind by tag, and by its place in the fleet's own VPC.

        Ansible's modules make these kinds first and tag them next; a run may have been killed in between.
        """
        found = self._ec2(method, key, identity)
        vpcs = [one["id"] for one in self.vpcs()]
        if vpcs:
            items = self.aws.pages(
                f"list the fleet's resources ({method})", "ec2", method, key, Filters=[{"Name": place, "Values": vpcs}]
            )
            known = {one["id"] for one in found}
            found += [
                {"id": item[identity], "name": "", "state": "untagged", "item": item}
                for item in items
                if item[identity] not in known
            ]
        return found

    def route_tables(self) -> Items:
        """Route tables of our own; the main one goes with its VPC."""
        found = self._of_vpc("describe_route_tables", "RouteTables", "RouteTableId", "vpc-id")
        return [one for one in found if not any(link.get("Main") for link in one["item"].get("Associations", []))]

    def gateways(self) -> Items:
        """Internet gateways."""
        return self._of_vpc("describe_internet_gateways", "InternetGateways", "InternetGatewayId", "attachment.vpc-id")

    def subnets(self) -> Items:
        """Subnets."""
        return self._ec2("describe_subnets", "Subnets", "SubnetId", "State")

    def vpcs(self) -> Items:
        """VPCs."""
        return self._ec2("describe_vpcs", "Vpcs", "VpcId", "State")

    def _named(self, service: str, method: str, key: str, argument: str, name: str) -> Items:
        """Ask for something by the name that the fleet gives it, as its service has no search by tag."""
        try:
            item = getattr(self.aws.client(service), method)(**{argument: name})
            item = item[key] if key else item
            if service == "scheduler":
                item["Tags"] = self.scheduler.list_tags_for_resource(ResourceArn=item["Arn"])["Tags"]
        except Exception as error:
            if aws.code(error) in GONE_CODES:
                return []
            raise aws.FleetError(aws.explain(error, f"look up {name}", self.aws.profile)) from error
        if aws.tags_of(item).get("flotilla-fleet") != self.fleet:
            return []
        return [{"id": name, "name": name, "state": item.get("State", ""), "item": item}]

    def instance_profiles(self) -> Items:
        """The nodes' instance profile."""
        return self._named("iam", "get_instance_profile", "InstanceProfile", "InstanceProfileName", self.iam_name)

    def roles(self, name: str) -> Items:
        """The nodes' role, or that of the schedules."""
        return self._named("iam", "get_role", "Role", "RoleName", name)

    def schedule_groups(self) -> Items:
        """The group of the schedules that end the instances at their expiry."""
        return self._named("scheduler", "get_schedule_group", "", "Name", self.group_name)

    def delete_instance_profile(self, one: Resource) -> None:
        """Take the role out of the profile, and delete the profile."""
        for role in one["item"].get("Roles", []):
            self.iam.remove_role_from_instance_profile(InstanceProfileName=one["id"], RoleName=role["RoleName"])
        self.iam.delete_instance_profile(InstanceProfileName=one["id"])

    def delete_schedule_group(self, one: Resource) -> None:
        """Delete the group with its schedules, which takes AWS a while."""
        if one["state"] != "DELETING":
            self.scheduler.delete_schedule_group(Name=one["id"])

    def delete_role(self, one: Resource) -> None:
        """Delete the role with its policies."""
        for name in self.iam.list_role_policies(RoleName=one["id"])["PolicyNames"]:
            self.iam.delete_role_policy(RoleName=one["id"], PolicyName=name)
        for policy in self.iam.list_attached_role_policies(RoleName=one["id"])["AttachedPolicies"]:
            self.iam.detach_role_policy(RoleName=one["id"], PolicyArn=policy["PolicyArn"])
        self.iam.delete_role(RoleName=one["id"])

    def delete_route_table(self, one: Resource) -> None:
        """Free a route table from its subnets, and delete it."""
        for association in one["item"].get("Associations", []):
            self.ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
        self.ec2.delete_route_table(RouteTableId=one["id"])

    def delete_gateway(self, one: Resource) -> None:
        """Take a gateway off its VPC, and delete it."""
        for attachment in one["item"].get("Attachments", []):
            self.ec2.detach_internet_gateway(InternetGatewayId=one["id"], VpcId=attachment["VpcId"])
        self.ec2.delete_internet_gateway(InternetGatewayId=one["id"])

    def sweep(self) -> tuple[Found, dict[str, str]]:
        """Ask for all kinds but instances at once; returns what is there, and by kind why one can't be listed."""

        def look(kind: Kind) -> Found | aws.FleetError:
            try:
                return [{"kind": kind.name, **one} for one in kind.find()]
            except aws.FleetError as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(look, self.kinds))
        found: Found = []
        unlisted = {}
        for kind, answer in zip(self.kinds, answers, strict=True):
            if isinstance(answer, aws.FleetError):
                unlisted[kind.name] = self.reason(answer, kind.service)
                if not passes(answer):
                    self.refused.add(kind.name)
            else:
                found += answer
        return found, unlisted

    def reason(self, error: BaseException, service: str, doing: str = "") -> str:
        """Say why AWS didn't do something; of a permission that is missing, no more than its name."""
        operation = getattr(cause(error), "operation_name", "")
        if aws.code(cause(error)) in aws.DENIED_CODES and operation:
            return f"you lack the permission {service}:{operation}"
        return aws.explain(error, doing, self.aws.profile).rstrip(".")

    def terminate(self, instances: Found) -> None:
        """End instances; one that AWS doesn't know or may not end must not save the others."""
        doomed = [one["id"] for one in instances if one["state"] != "shutting-down"]

        def end(ids: list[str]) -> bool:
            try:
                self.ec2.terminate_instances(InstanceIds=ids)
            except Exception as error:
                if (len(ids) == 1 or passes(error)) and not aws.code(error).startswith("InvalidInstanceID"):
                    for identity in ids:
                        self.note(f"instance {identity}", "ec2", error, "terminate it")
                return passes(error)
            return True

        for one in instances:
            self.reasons[key(one)] = f"is {one['state']}"
        # AWS ends none of several when one can't be.
        if doomed and not end(doomed) and len(doomed) > 1:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda one: end([one]), doomed))

    def remove(self, found: Found, instances: Found) -> None:
        """Try to remove what was found, as far as it doesn't wait for the instances."""
        kinds = {kind.name: kind for kind in self.kinds}
        for one in found:
            kind = kinds[one["kind"]]
            if kind.waits and instances:
                continue
            try:
                kind.remove(one)
                self.reasons[key(one)] = "was told to go but is still listed"
            except Exception as error:
                # What is gone meanwhile, e.g. by another destroy, is what was wanted.
                if "NotFound" not in aws.code(error) and aws.code(error) not in GONE_CODES:
                    self.note(key(one), kind.service, error, "delete it")

    def note(self, its_key: str, service: str, error: Exception, doing: str) -> None:
        """Remember why something is still there."""
        self.reasons[its_key] = self.reason(error, service, doing)
        if is_refusal(error):
            self.refused.add(its_key)

    def remove_all(
        self, timeout: float, check: Callable[[Found], None] = lambda found: None
    ) -> tuple[Found, list[Left]]:
        """Remove, instances first, and ask again until nothing is left, or only what AWS refuses to remove.

        Returns what was there, and what is left, each with the reason as ``why``; a kind that can't be listed has no
        id. ``check`` is asked about what was found before that is touched, and raises FleetError to end it all. So does
        a listing of instances that is refused.
        """
        deadline = time.monotonic() + timeout
        seen: dict[str, Resource] = {}
        instances: Found = []
        others: Found = []
        keys: set[str] = set()
        changed = time.monotonic()
        pause = 0.3
        while True:
            unlisted: dict[str, str] = {}
            with self.aws.until(0.0):  # not patient with a call: a service that is away must not hold up the others
                try:
                    instances = self.instances()
                    check(instances)
                    if any("flotilla-owner" not in aws.tags_of(one["item"]) for one in instances):
                        check(self.sweep()[0])  # the Infrastructure Manager's hosts name no owner, their role does
                    self.terminate(instances)
                    others, unlisted = self.sweep()
                    check(others)
                except aws.FleetError as error:
                    if not passes(error) or not self.aws.reached:
                        raise
                    unlisted["instance"] = self.reason(error, "ec2")
                else:
                    if not any(key(one) in self.refused for one in instances):  # nothing is taken from one that stays
                        self.remove(others, instances)
            found = [*instances, *others]
            for one in found:
                seen.setdefault(key(one), one)
            last, keys, now = keys, {key(one) for one in found}, time.monotonic()
            if keys != last:
                changed = now
            if self.is_over(instances, keys, set(unlisted), now - changed) or now > deadline:
                break
            if instances or keys == last:  # else this round has removed something, and the next may find nothing left
                time.sleep(pause)
                pause = min(pause * 1.4, 5)
        left: list[Left] = [
            {"kind": one["kind"], "id": one["id"], "why": self.reasons.get(key(one), "waits for the others")}
            for one in found
        ]
        left += [{"kind": kind, "id": "", "why": reason} for kind, reason in unlisted.items()]
        return list(seen.values()), left

    def is_over(self, instances: Found, keys: set[str], unlisted: set[str], still: float) -> bool:
        """Whether asking again would change nothing: all that is left has been refused, or waits for such in vain."""
        if instances:
            return all(key(one) in self.refused for one in instances)
        waiting = (keys | unlisted) - self.refused
        return not waiting or (still > STILL and not waiting & unlisted and bool(keys & self.refused))

    def fleets(self) -> list[str]:
        """Name the fleets that have instances or a VPC in this region; none where that can't be listed."""
        tagged = {"Name": "tag-key", "Values": ["flotilla-fleet"]}
        living = {"Name": "instance-state-name", "Values": list(reconcile.LIVE)}
        try:
            found = self.aws.pages("list fleets", "ec2", "describe_vpcs", "Vpcs", Filters=[tagged])
            for reservation in self.aws.pages(
                "list fleets", "ec2", "describe_instances", "Reservations", Filters=[tagged, living]
            ):
                found += reservation["Instances"]
        except aws.FleetError:
            return []
        return sorted({aws.tags_of(one)["flotilla-fleet"] for one in found})


def line(one: Left) -> str:
    """Say of what is left, or of a kind that can't be listed, why."""
    return f"{one['kind']} {one['id']} ({one['why']})" if one["id"] else f"{one['kind']}s can't be listed: {one['why']}"


def nothing_there(name: str, region: str, fleets: list[str], ended: bool) -> tuple[str, bool]:
    """Say that nothing of a fleet is there, and whether that looks like a slip of the pen.

    ``ended`` is whether AWS still knows instances of it: then it was there within the last hour.
    """
    if ended:
        return f"nothing of the fleet {name} is left in {region}", False
    if not fleets:
        return f"there is no fleet {name} in {region}, nor any other: if it is elsewhere, set fleet_region", False
    near = difflib.get_close_matches(name, fleets, 1)
    return f"there is no fleet {name} in {region} (there are: {', '.join(fleets)})", bool(near)


def summarize(found: Found) -> dict[str, str]:
    """Return how many of each kind there are, and their names."""
    kinds: dict[str, list[str]] = {}
    for one in found:
        kinds.setdefault(one["kind"], []).append(one["name"] or one["id"])
    return {
        kind if len(names) == 1 else f"{len(names)} {kind}s": ", ".join(sorted(names)) for kind, names in kinds.items()
    }


def failure(name: str, found: Found, left: list[Left]) -> str:
    """Say what is gone and what isn't, whether that costs money, and what to do."""
    stays = {key(one) for one in left}
    gone = summarize([one for one in found if key(one) not in stays])
    first = f"Gone of the fleet {name}: {', '.join(gone)}. " if gone else ""
    costs = "may cost money" if {one["kind"] for one in left} & COSTLY else "costs nothing"
    return (
        f"{first}What is left of the fleet {name} {costs}: {'; '.join(map(line, left))}. "
        "Run destroy again, with the permissions that are lacking, if any, or remove it by hand."
    )


def images_that_stay(cloud: aws.Aws) -> str:
    """Say which images stay; that they can't be listed is no reason to fail."""
    try:
        with cloud.until(0.0):  # nor to wait
            there = images.own(cloud)
            return images.summary(there, images.monthly(cloud) if there else None)
    except aws.FleetError:
        return ""


def work(fleet: Resources, parameters: untyped.Parameters, dry: bool) -> untyped.Result:
    """List or remove the fleet; returns the module's answer. Raises FleetError."""
    owners: set[str] = set()

    def check(found: Found) -> None:
        """Refuse what is somebody else's; who asks is looked up only where something has an owner."""
        new = {aws.tags_of(one["item"]).get("flotilla-owner", "") for one in found} - owners - {""}
        if new and not parameters["adopt"]:
            answer = fleet.aws.call("ask who the caller is", "sts", "get_caller_identity")
            caller = naming.caller_name(str(answer["Arn"]))
            problems = naming.check_ownership(fleet.fleet, new - {caller}, parameters["owner"] or caller, False)
            if problems:
                raise aws.FleetError(problems[0])
            owners.update(new)

    left: list[Left] = []
    unlisted: dict[str, str] = {}
    if parameters["state"] == "absent" and not dry:
        found, left = fleet.remove_all(parameters["timeout"], check)
    else:
        instances = fleet.instances()
        others, unlisted = fleet.sweep()
        found = [*instances, *others]
        if parameters["state"] == "absent":
            check(found)
    answer: untyped.Result = {
        "changed": parameters["state"] == "absent" and bool(found),
        "resources": [
            {"kind": one["kind"], "id": one["id"], "name": one["name"], "state": one["state"]} for one in found
        ],
        "unlisted": [line({"kind": kind, "id": "", "why": reason}) for kind, reason in unlisted.items()],
        "fleets": [],
        "images": images_that_stay(fleet.aws) if parameters["state"] == "absent" and not left else "",
        "summary": summarize(found),
    }
    if left:
        return {**answer, "failed": True, "msg": failure(fleet.fleet, found, left), "left": [*map(line, left)]}
    if not found:
        fleets = fleet.fleets()
        said, wrong = nothing_there(fleet.fleet, parameters["region"], fleets, fleet.ended)
        answer.update(fleets=fleets, summary={"nothing": said})
        if wrong and parameters["state"] == "absent":
            return {**answer, "failed": True, "msg": f"T{said[1:]}: set fleet_name to the one that you mean."}
    return answer


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "owner": {"type": "str", "default": ""},
            "adopt": {"type": "bool", "default": False},
            "schedule": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 600},
        },
    )
    problems = naming.check_name(module.params["name"])  # in a filter, * would mean every fleet
    if problems:
        module.fail_json(msg=problems[0])
    try:
        fleet = Resources(
            module.params["region"], module.params["profile"], module.params["name"], module.params["schedule"]
        )
        answer = work(fleet, module.params, module.check_mode)
    except aws.FleetError as error:
        module.fail_json(msg=str(error))
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
