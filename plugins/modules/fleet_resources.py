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
  - Removes them in the order of their dependence, and asks again until nothing is left or the time is over.
  - Never touches buckets, or networks that the fleet was given but doesn't own.
  - It may be interrupted, run again, and run twice at a time.
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
  state:
    description: V(present) lists, V(absent) removes.
    type: str
    choices: [present, absent]
    default: present
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
left:
  description: What is still there although it should be gone, each with the reason.
  returned: failure
  type: list
  elements: str
"""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.flotilla.kit.plugins.module_utils import aws, plan

Found = list[dict[str, Any]]


class Resources:
    """Everything of one fleet, by kind."""

    def __init__(self, region: str, profile: str, fleet: str) -> None:
        """Open the clients here: making them isn't safe in several threads, using them is."""
        self.aws = aws.Aws(region, profile)
        self.ec2 = self.aws.client("ec2")
        self.iam = self.aws.client("iam")
        self.fleet = fleet
        self.iam_name = f"flotilla-{fleet}-{region}"
        # In the order of removal. What comes after the first two can't go while instances are there.
        self.kinds: list[tuple[str, Callable[[], Found], Callable[[dict[str, Any]], Any]]] = [
            ("spot request", self.spot_requests, self.cancel_spot_request),
            ("instance", self.instances, lambda one: None),
            ("launch template", self.launch_templates, self.delete_launch_template),
            ("key pair", self.key_pairs, lambda one: self.ec2.delete_key_pair(KeyName=one["name"])),
            ("instance profile", self.instance_profiles, self.delete_instance_profile),
            ("role", self.roles, self.delete_role),
            (
                "VPC endpoint",
                self.endpoints,
                lambda one: self.ec2.delete_vpc_endpoints(VpcEndpointIds=[one["id"]]),
            ),
            ("volume", self.volumes, lambda one: self.ec2.delete_volume(VolumeId=one["id"])),
            (
                "network interface",
                self.network_interfaces,
                lambda one: self.ec2.delete_network_interface(NetworkInterfaceId=one["id"]),
            ),
            ("elastic address", self.addresses, lambda one: self.ec2.release_address(AllocationId=one["id"])),
            (
                "security group",
                self.security_groups,
                lambda one: self.ec2.delete_security_group(GroupId=one["id"]),
            ),
            ("route table", self.route_tables, self.delete_route_table),
            ("internet gateway", self.gateways, self.delete_gateway),
            ("subnet", self.subnets, lambda one: self.ec2.delete_subnet(SubnetId=one["id"])),
            ("VPC", self.vpcs, lambda one: self.ec2.delete_vpc(VpcId=one["id"])),
        ]
        # These hang on instances; trying them earlier would only give errors.
        self.after_instances = {
            "volume",
            "network interface",
            "elastic address",
            "security group",
            "route table",
            "internet gateway",
            "subnet",
            "VPC",
        }

    def _ec2(self, method: str, key: str, identity: str, state: str = "", **arguments: Any) -> Found:
        """Ask for one kind by tag."""
        arguments["Filters"] = [*aws.tag_filter(self.fleet), *arguments.get("Filters", [])]
        items = self.aws.pages(f"list the fleet's resources ({method})", "ec2", method, key, **arguments)
        return [
            {
                "id": item[identity],
                "name": aws.tags_of(item).get("Name", ""),
                "state": str(item.get(state, "")),
                "item": item,
            }
            for item in items
        ]

    def spot_requests(self) -> Found:
        """Requests that could still launch something."""
        active = {"Name": "state", "Values": ["open", "active", "disabled"]}
        return self._ec2(
            "describe_spot_instance_requests",
            "SpotInstanceRequests",
            "SpotInstanceRequestId",
            "State",
            Filters=[active],
        )

    def instances(self) -> Found:
        """Instances in every state but terminated, which AWS lists for an hour."""
        states = ["pending", "running", "stopping", "stopped", "shutting-down"]
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[*aws.tag_filter(self.fleet), {"Name": "instance-state-name", "Values": states}],
        )
        return [
            {
                "id": item["InstanceId"],
                "name": aws.tags_of(item).get("Name", ""),
                "state": item["State"]["Name"],
                "item": item,
            }
            for reservation in found
            for item in reservation["Instances"]
        ]

    def launch_templates(self) -> Found:
        """Launch templates."""
        return self._ec2("describe_launch_templates", "LaunchTemplates", "LaunchTemplateId")

    def key_pairs(self) -> Found:
        """Key pairs."""
        answer = self.aws.call(
            "list the fleet's key pair", "ec2", "describe_key_pairs", Filters=aws.tag_filter(self.fleet)
        )
        return [
            {"id": item["KeyPairId"], "name": item["KeyName"], "state": "", "item": item} for item in answer["KeyPairs"]
        ]

    def endpoints(self) -> Found:
        """VPC endpoints; deleted ones stay listed for a while."""
        found = self._ec2("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId", "State")
        return [one for one in found if one["state"].lower() != "deleted"]

    def volumes(self) -> Found:
        """Volumes."""
        return self._ec2("describe_volumes", "Volumes", "VolumeId", "State")

    def network_interfaces(self) -> Found:
        """Network interfaces."""
        return self._ec2("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId", "Status")

    def addresses(self) -> Found:
        """Elastic addresses."""
        answer = self.aws.call(
            "list the fleet's addresses", "ec2", "describe_addresses", Filters=aws.tag_filter(self.fleet)
        )
        return [
            {"id": item["AllocationId"], "name": item.get("PublicIp", ""), "state": "", "item": item}
            for item in answer["Addresses"]
        ]

    def security_groups(self) -> Found:
        """Security groups."""
        return self._ec2("describe_security_groups", "SecurityGroups", "GroupId")

    def _of_vpc(self, method: str, key: str, identity: str, place: str) -> Found:
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

    def route_tables(self) -> Found:
        """Route tables of our own; the main one goes with its VPC."""
        found = self._of_vpc("describe_route_tables", "RouteTables", "RouteTableId", "vpc-id")
        return [one for one in found if not any(link.get("Main") for link in one["item"].get("Associations", []))]

    def gateways(self) -> Found:
        """Internet gateways."""
        return self._of_vpc("describe_internet_gateways", "InternetGateways", "InternetGatewayId", "attachment.vpc-id")

    def subnets(self) -> Found:
        """Subnets."""
        return self._ec2("describe_subnets", "Subnets", "SubnetId", "State")

    def vpcs(self) -> Found:
        """VPCs."""
        return self._ec2("describe_vpcs", "Vpcs", "VpcId", "State")

    def _iam(self, method: str, key: str, argument: str) -> Found:
        """Ask for the role or profile by its name, which the fleet gives it; IAM has no search by tag."""
        try:
            item = getattr(self.iam, method)(**{argument: self.iam_name})[key]
        except Exception as error:
            if aws.code(error) == "NoSuchEntity":
                return []
            raise aws.FleetError(aws.explain(error, "look up the fleet's role", self.aws.profile)) from error
        if aws.tags_of(item).get("flotilla-fleet") != self.fleet:
            return []
        return [{"id": self.iam_name, "name": self.iam_name, "state": "", "item": item}]

    def instance_profiles(self) -> Found:
        """The nodes' instance profile."""
        return self._iam("get_instance_profile", "InstanceProfile", "InstanceProfileName")

    def roles(self) -> Found:
        """The nodes' role."""
        return self._iam("get_role", "Role", "RoleName")

    def cancel_spot_request(self, one: dict[str, Any]) -> None:
        """Cancel a spot request."""
        self.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[one["id"]])

    def delete_launch_template(self, one: dict[str, Any]) -> None:
        """Delete a launch template with its versions."""
        self.ec2.delete_launch_template(LaunchTemplateId=one["id"])

    def delete_instance_profile(self, one: dict[str, Any]) -> None:
        """Take the role out of the profile, and delete the profile."""
        for role in one["item"].get("Roles", []):
            self.iam.remove_role_from_instance_profile(InstanceProfileName=one["id"], RoleName=role["RoleName"])
        self.iam.delete_instance_profile(InstanceProfileName=one["id"])

    def delete_role(self, one: dict[str, Any]) -> None:
        """Delete the role with its policies."""
        for name in self.iam.list_role_policies(RoleName=one["id"])["PolicyNames"]:
            self.iam.delete_role_policy(RoleName=one["id"], PolicyName=name)
        for policy in self.iam.list_attached_role_policies(RoleName=one["id"])["AttachedPolicies"]:
            self.iam.detach_role_policy(RoleName=one["id"], PolicyArn=policy["PolicyArn"])
        self.iam.delete_role(RoleName=one["id"])

    def delete_route_table(self, one: dict[str, Any]) -> None:
        """Free a route table from its subnets, and delete it."""
        for association in one["item"].get("Associations", []):
            self.ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
        self.ec2.delete_route_table(RouteTableId=one["id"])

    def delete_gateway(self, one: dict[str, Any]) -> None:
        """Take a gateway off its VPC, and delete it."""
        for attachment in one["item"].get("Attachments", []):
            self.ec2.detach_internet_gateway(InternetGatewayId=one["id"], VpcId=attachment["VpcId"])
        self.ec2.delete_internet_gateway(InternetGatewayId=one["id"])

    def sweep(self) -> Found:
        """Ask for all kinds at once; returns what is there, in the order of removal."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda kind: kind[1](), self.kinds))
        return [{"kind": kind[0], **one} for kind, found in zip(self.kinds, answers, strict=True) for one in found]

    def remove(self, found: Found, reasons: dict[str, str]) -> None:
        """Try to remove what was found; note why something could not go."""
        removers = {kind[0]: kind[2] for kind in self.kinds}
        instances = [one for one in found if one["kind"] == "instance"]
        for one in instances:
            reasons[one["id"]] = f"is {one['state']}"
        doomed = [one["id"] for one in instances if one["state"] != "shutting-down"]
        if doomed:
            try:
                self.ec2.terminate_instances(InstanceIds=doomed)
            except Exception as error:
                if not aws.code(error).startswith("InvalidInstanceID"):
                    for identity in doomed:
                        reasons[identity] = aws.explain(error, "terminate it", self.aws.profile)
        for one in found:
            if one["kind"] == "instance" or (instances and one["kind"] in self.after_instances):
                continue
            try:
                removers[one["kind"]](one)
                reasons[one["id"]] = "was told to go but is still listed"
            except Exception as error:
                # What is gone meanwhile, e.g. by another destroy, is what was wanted.
                if "NotFound" not in aws.code(error) and aws.code(error) != "NoSuchEntity":
                    reasons[one["id"]] = aws.explain(error, "delete it", self.aws.profile)

    def remove_all(self, timeout: float) -> tuple[Found, list[str]]:
        """Remove and ask again until nothing is left; returns what was there first, and what is left with reasons."""
        deadline = time.monotonic() + timeout
        first = found = self.sweep()
        reasons: dict[str, str] = {}
        pause = 0.3
        while found:
            self.remove(found, reasons)
            found = self.sweep()
            if found and time.monotonic() > deadline:
                break
            if found:
                time.sleep(pause)
                pause = min(pause * 1.4, 5)
        return first, [f"{one['kind']} {one['id']} ({reasons.get(one['id'], 'waits for the others')})" for one in found]


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "timeout": {"type": "int", "default": 600},
        },
    )
    problems = plan.check_name(module.params["name"])  # in a filter, * would mean every fleet
    if problems:
        module.fail_json(msg=problems[0])
    left: list[str] = []
    try:
        fleet = Resources(module.params["region"], module.params["profile"], module.params["name"])
        if module.params["state"] == "present" or module.check_mode:
            found = fleet.sweep()
        else:
            found, left = fleet.remove_all(module.params["timeout"])
    except aws.FleetError as error:
        module.fail_json(msg=str(error))
    resources = [{key: one[key] for key in ("kind", "id", "name", "state")} for one in found]
    if left:
        module.fail_json(
            msg=f"After {module.params['timeout']} s the fleet {module.params['name']} is not all gone, and what "
            f"is left may cost money: {'; '.join(left)}. Run destroy again, or remove it by hand.",
            resources=resources,
            left=left,
        )
    module.exit_json(changed=module.params["state"] == "absent" and bool(resources), resources=resources)


if __name__ == "__main__":
    main()
