#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_preflight
short_description: Check everything about a fleet before anything is touched
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Judges a fleet's variables, looks up in AWS what they name, and fails with one sentence a problem.
  - Changes nothing. Writing to the model's folder is proved by an upload that is begun and aborted, launching by
    requests that AWS judges and doesn't carry out.
  - Holds the fleet against the account's quotas, and what it costs until its expiry against O(max_cost).
  - Returns what the launch needs, such as images, volume sizes, the availability zones and the nodes' access policy,
    and a plan with prices.
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
  owner:
    description: Who the fleet belongs to, as a tag; empty means the caller's name.
    type: str
    default: ""
  tags:
    description: The user's own tags of everything that is made.
    type: dict
    default: {}
  adopt:
    description: Whether to go on with a fleet of that name that is somebody else's.
    type: bool
    default: false
  launcher:
    description: Who launches the instances, this collection or the Infrastructure Manager; both can't under one name.
    type: str
    choices: [ansible, im]
    default: ansible
  groups:
    description: Mapping of C(ps), C(chief), C(worker) and C(evaluator) to their count, instance type, and more.
    type: raw
    required: true
  expiry_hours:
    description: Hours from the launch until every node powers itself off.
    type: raw
    required: true
  ssh_sources:
    description: Networks that may use SSH; empty means the caller's own address, asked at O(checkip_url).
    type: list
    elements: str
    default: []
  ssh_open_to_world:
    description: Whether O(ssh_sources) may be the whole world.
    type: bool
    default: false
  checkip_url:
    description: An address that answers with the caller's public address.
    type: str
    default: https://checkip.amazonaws.com
  boundary:
    description: The permissions boundary of the fleet's roles, by name or ARN; empty means C(flotilla-boundary), where
      the account has a policy of that name, else none.
    type: str
    default: ""
  ssh_key:
    description: The private key on this machine that opens the nodes; it may be missing. Empty means none is needed.
    type: path
    default: ""
  vpc_id:
    description: An existing VPC; empty means an own one.
    type: str
    default: ""
  subnet_id:
    description: A subnet of the existing VPC.
    type: str
    default: ""
  vpc_cidr:
    description: The network of an own VPC.
    type: str
    default: 10.77.0.0/16
  zone:
    description: The only availability zone that may be taken; empty means any that offers all instance types.
    type: str
    default: ""
  max_hosts:
    description: More hosts than this are refused.
    type: raw
    default: 20
  max_cost:
    description: A fleet that costs more $ until its expiry, on demand, is refused.
    type: raw
    default: 25
  unknown_prices:
    description: Whether a price that AWS doesn't tell counts as nothing, instead of as more than O(max_cost).
    type: bool
    default: false
  dataset_source:
    description: The data set's folder in S3.
    type: str
    default: ""
  model_target:
    description: The folder in S3 that models are written to.
    type: str
    default: ""
  program:
    description: The user's own program; where it is an object in S3, that is looked at, and nodes may read it.
    type: str
    default: ""
  batch_size:
    description: Examples a batch, of which the data set must have one at least to train on; 0 means not judged.
    type: int
    default: 0
  accelerator:
    description: What TensorFlow shall compute on.
    type: str
    choices: [auto, cpu, gpu]
    default: auto
  images:
    description: The image (V(ami-…) or name of an SSM parameter) of hosts without GPU, with GPU, and with a GPU whose
      driver is still to be installed.
    type: dict
    required: true
    suboptions:
      cpu:
        description: Image of hosts without GPU.
        type: str
        required: true
      gpu:
        description: Image of hosts with GPU, driver included.
        type: str
        required: true
      gpu_plain:
        description: Image of hosts whose GPU the driver in the GPU image is too new for.
        type: str
        required: true
  baked:
    description: Whether hosts start from images that C(playbooks/image.yml) has made, V(auto) where one fits, V(always)
      or the fleet is refused, V(never).
    type: str
    choices: [auto, always, never]
    default: never
  distribution:
    description: Hadoop's distribution, which is part of what decides whether a baked image fits.
    type: str
    default: slim
  root:
    description: The collection's folder, whose files decide whether a baked image fits; needed unless O(baked=never).
    type: path
  builder:
    description: The kind of image that the fleet, one host in the group chief, is there to make; empty means that it is
      there to train.
    type: str
    choices: ["", cpu, gpu]
    default: ""
  volume_size:
    description: The least size of a volume in GiB where a group names none.
    type: int
    default: 20
  public_addresses:
    description: Whether the nodes get public addresses, which cost money.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Check the fleet
  flotilla.kit.fleet_preflight:
    region: us-east-1
    name: demo
    groups:
      ps: {count: 1, instance_type: t3.large}
      chief: {count: 1, instance_type: t3.large}
      worker: {count: 2, instance_type: g5.xlarge}
    expiry_hours: 4
    dataset_source: s3://example/cifar10/
    model_target: s3://example/models/
    images:
      cpu: /aws/service/debian/release/12/latest/amd64
      gpu: /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id
      gpu_plain: /aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id
  register: preflight
"""

RETURN = r"""
account:
  description: The caller's account.
  returned: success
  type: str
arn:
  description: Who the caller is.
  returned: success
  type: str
owner:
  description: The owner's tag.
  returned: success
  type: str
boundary:
  description: The ARN of the roles' permissions boundary; empty means none.
  returned: success
  type: str
public_key:
  description: The public key of O(ssh_key); empty where that is missing.
  returned: success
  type: str
replace_key_pair:
  description: Whether EC2 has the fleet's key pair with another key, which no node was launched with.
  returned: success
  type: bool
expires:
  description: When the nodes power themselves off, ISO 8601 in UTC.
  returned: success
  type: str
zone:
  description: The best of the availability zones.
  returned: success
  type: str
zones:
  description: The availability zones that offer all instance types, best first, each with its name and the network
    (cidr) of its subnet in the fleet's own VPC, which is empty in an existing one.
  returned: success
  type: list
  elements: dict
ssh_sources:
  description: The networks that may use SSH.
  returned: success
  type: list
  elements: str
groups:
  description: The groups with count, instance_type, image_id, root_device, ssh_user, volume_size, gpus, gpu, and tasks
    (how many training tasks a host holds) each.
  returned: success
  type: dict
hosts:
  description: How many hosts the fleet has.
  returned: success
  type: int
running:
  description: How many of them are there already.
  returned: success
  type: int
dataset:
  description: Name, files, bytes and records of the data set; empty when none was given.
  returned: success
  type: dict
baked:
  description: The baked images that hosts start from, by group, each with id and name.
  returned: success
  type: dict
starts:
  description: What images the missing hosts start from, as sentences.
  returned: success
  type: list
  elements: str
plan:
  description: What the fleet is made of and costs on demand, as lines of a table; a question mark is an unknown price.
  returned: success
  type: list
  elements: str
policy:
  description: The nodes' access policy.
  returned: success
  type: dict
"""

import concurrent.futures
import datetime
import re
import time
from collections import Counter
from typing import Any

from ansible.module_utils.urls import open_url
from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    images,
    internet,
    plan,
    prices,
    quotas,
    ssh,
    variables,
)

# What AWS answers to a rehearsed launch that it would carry out, or where only the network isn't there yet.
LAUNCHES = {"DryRunOperation", "DefaultVpcDoesNotExist", "MissingInput", "VPCIdNotSpecified"}
# What the launch itself gets over, or says better.
LATER = {"InsufficientFreeAddressesInSubnet", "InsufficientInstanceCapacity"}
REMEDIES = {
    "OptInRequired": "accept the image's terms in the AWS Marketplace, or set another image",
    "PendingVerification": "wait until AWS has verified the account, or ask AWS's support",
    "VcpuLimitExceeded": "ask AWS for a higher quota, or take fewer or other instances",
}


class Preflight:
    """The look-ups, each of which adds to the problems or to the result."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        """Keep the module's parameters."""
        self.p = parameters
        self.tags: dict[str, str] = parameters.get("tags") or {}
        self.problems: list[str] = []
        self.most: dict[str, Any] = {}  # the document of the roles' boundary
        self.warnings: list[str] = []
        self.result: dict[str, Any] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.kept: list[dict[str, Any]] = []  # the fleet's instances that stay
        self.ended: set[str] = set()  # the ids of those that this run will end
        self.infos: dict[str, dict[str, Any]] = {}  # what AWS says of the instance types
        self.zones: dict[str, str] = {}  # the zones of the fleet's instances, by id
        self.bound = ("", "")  # why there is only one zone to take (plan.BOUND), and which
        self.subnets: dict[str, dict[str, Any]] = {}  # the fleet's own subnets of an earlier run, by zone
        self.baked: dict[str, dict[str, Any]] = {}  # by group, the baked image that its hosts start from
        self.own_vpc = False  # whether the fleet has its VPC already
        self.aws: Any = None

    def check(self, problems: list[str]) -> bool:
        """Note problems; true when there was none."""
        self.problems += problems
        return not problems

    def variables(self) -> None:
        """Judge what can be judged without AWS."""
        self.check(plan.check_region(self.p["region"]))
        self.check(plan.check_name(self.p["name"]))
        self.check(plan.check_owner(self.p["owner"]))
        self.check(variables.check_tags(self.tags))
        if self.check(plan.check_groups(self.p["groups"], bool(self.p.get("builder")))):
            self.groups = plan.wanted_groups(self.p["groups"])
        self.check(plan.check_expiry(self.p["expiry_hours"]))
        if self.check(plan.check_sources(self.p["ssh_sources"], self.p["ssh_open_to_world"])):
            self.check(plan.check_versions(self.p["ssh_sources"]))
        self.result["hosts"] = sum(group["count"] for group in self.groups.values())
        self.check(plan.check_network(self.p["vpc_id"], self.p["subnet_id"], self.p["vpc_cidr"], self.result["hosts"]))
        self.check(plan.check_zone(self.p["zone"], self.p["region"]))
        self.check(plan.check_caps(self.p["max_hosts"], self.p["max_cost"]))
        self.check(plan.check_hosts(self.groups, self.p["max_hosts"]))
        self.check(plan.check_addresses(self.p["public_addresses"], self.p["vpc_id"], self.p["ssh_sources"]))
        self.check(plan.check_s3(self.p["dataset_source"], "dataset_source"))
        self.check(plan.check_s3(self.p["model_target"], "store_target"))
        if not self.problems and self.p["dataset_source"] and self.p["model_target"]:
            self.check(plan.check_apart(self.p["dataset_source"], self.p["model_target"]))
        self.check(plan.check_program(self.p["program"]))
        self.ssh_key()

    def ssh_key(self) -> None:
        """Judge the SSH key on this machine."""
        self.result["public_key"] = ""
        if self.p["ssh_key"]:
            self.result["public_key"], problems = ssh.public_key(self.p["ssh_key"])
            self.check(problems)

    def caller(self) -> None:
        """Find out who calls; wrong credentials end everything here."""
        me = self.aws.call("ask who the caller is", "sts", "get_caller_identity")
        self.result.update(account=me["Account"], arn=me["Arn"])

    def boundary(self) -> None:
        """Find the roles' permissions boundary: the given one, else that of the policy to copy, where there is one."""
        given = self.p["boundary"]
        partition, name = self.result["arn"].split(":")[1], given or "flotilla-boundary"
        arn = name if name.startswith("arn:") else f"arn:{partition}:iam::{self.result['account']}:policy/{name}"
        self.result["boundary"] = arn
        iam = self.aws.client("iam")
        try:
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found = iam.get_policy_version(PolicyArn=arn, VersionId=version)
            self.most = found["PolicyVersion"]["Document"]
        except Exception as error:
            denied, lacking = aws.code(error) in aws.DENIED_CODES, aws.code(error) == "NoSuchEntity"
            unseen = denied and getattr(error, "operation_name", "") == "GetPolicy"
            if lacking and given:
                self.problems.append(
                    f"fleet_boundary {given} isn't a policy of this account: make it (roles/fleet/README.md, "
                    "Permissions), or correct the name."
                )
            elif not given and (lacking or unseen):
                self.result["boundary"] = ""
            elif not denied:
                raise aws.FleetError(aws.explain(error, f"look up the policy {name}", self.aws.profile)) from error

    def fleet(self) -> None:
        """Look at what is there of the fleet already: its expiry and its instances' types stay."""
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[
                *aws.tag_filter(self.p["name"]),
                {"Name": "instance-state-name", "Values": list(plan.LIVE)},
            ],
        )
        instances = [plan.simplify(one) for reservation in found for one in reservation["Instances"]]
        self.zones = {
            one["InstanceId"]: one.get("Placement", {}).get("AvailabilityZone", "")
            for reservation in found
            for one in reservation["Instances"]
        }
        self.owner([one["tags"] for one in instances])
        self.check(plan.check_launcher(self.p["name"], self.p["launcher"], instances))
        if self.p["launcher"] == "im":
            kept = instances
        else:
            compared = plan.reconcile(self.groups, instances)
            kept = compared["keep"]
            self.ended = {one["id"] for one in compared["terminate"]}
            self.check(plan.check_swaps(self.groups, kept))
            self.check(plan.check_shrink(compared["terminate"]))
        self.kept = kept
        expires, problems = plan.expiry(
            float(self.p["expiry_hours"]),
            datetime.datetime.now(datetime.timezone.utc),
            [one["launched"] for one in kept],
            [one["tags"].get("flotilla-expires", "") for one in kept],
        )
        self.check(problems)
        self.result.update(expires=expires, running=len(kept))
        self.key_pair(len(kept))

    def owner(self, tags: list[dict[str, str]]) -> None:
        """Find out whose the fleet is, by its instances' tags and all else that is there; another's ends everything.

        A run that was killed early has left no instance.
        """
        mine = aws.tag_filter(self.p["name"])
        for kind, method, key in (
            ("VPC", "describe_vpcs", "Vpcs"),
            ("security group", "describe_security_groups", "SecurityGroups"),
            ("key pair", "describe_key_pairs", "KeyPairs"),
        ):
            tags += map(aws.tags_of, self.aws.call(f"list the fleet's {kind}", "ec2", method, Filters=mine)[key])
        role = f"flotilla-{self.p['name']}-{self.p['region']}"
        try:
            tags.append(aws.tags_of(self.aws.client("iam").get_role(RoleName=role)["Role"]))
        except Exception as error:
            if aws.code(error) != "NoSuchEntity":
                raise aws.FleetError(aws.explain(error, "look up the fleet's role", self.aws.profile)) from error
        caller = plan.caller_name(self.result["arn"])
        owners = {one.get("flotilla-owner", "") for one in tags if one.get("flotilla-fleet") == self.p["name"]}
        theirs = sorted(owners - {"", caller})
        problems = plan.check_theirs(self.p["name"], set(theirs), self.p["owner"] or caller, self.p["adopt"])
        if problems:
            raise aws.FleetError(problems[0])
        # Without a name given, whoever raised the fleet stays its owner when somebody else goes on with it.
        self.result["owner"] = self.p["owner"] or (theirs[0] if theirs else caller)

    def key_pair(self, hosts: int) -> None:
        """Hold this machine's SSH key against the key pair that the fleet's hosts were launched with."""
        self.result["replace_key_pair"] = False
        if not self.p["ssh_key"]:
            return
        name = {"Name": "key-name", "Values": [f"flotilla-{self.p['name']}"]}
        found = self.aws.call(
            "look up the fleet's key pair", "ec2", "describe_key_pairs", IncludePublicKey=True, Filters=[name]
        )
        for pair in found["KeyPairs"]:
            self.result["replace_key_pair"], problems = ssh.compare_pair(
                self.p["name"], self.p["ssh_key"], self.result["public_key"], pair, hosts
            )
            self.check(problems)

    def network(self) -> None:
        """Check an existing network, or the fleet's own of an earlier run, and what binds the fleet to a zone."""
        if self.p["vpc_id"]:
            self.existing_network()
        else:
            self.own_network()
        why, zone = self.bound
        if not zone:
            self.bound = ("zone", self.p["zone"])
        elif self.p["zone"] not in ("", zone):
            self.problems.append(
                f"fleet_zone is {self.p['zone']}, but the fleet can only be in {zone}, {plan.BOUND[why][0]}: "
                f"leave fleet_zone empty, or {plan.BOUND[why][1]} {self.p['zone']}."
            )

    def own_network(self) -> None:
        """Look at the fleet's own network of an earlier run: its instances share a zone."""
        tags = aws.tag_filter(self.p["name"])
        vpcs = self.aws.call("list the fleet's VPC", "ec2", "describe_vpcs", Filters=tags)["Vpcs"]
        self.own_vpc = bool(vpcs)
        for vpc in vpcs:
            if vpc["CidrBlock"] != self.p["vpc_cidr"]:
                self.problems.append(
                    f"The fleet's VPC {vpc['VpcId']} has the network {vpc['CidrBlock']}, but fleet_vpc_cidr is "
                    f"{self.p['vpc_cidr']}: destroy the fleet first, or set it back."
                )
        subnets = self.aws.call("list the fleet's subnets", "ec2", "describe_subnets", Filters=tags)["Subnets"]
        self.subnets = {subnet["AvailabilityZone"]: subnet for subnet in subnets}
        if self.kept:
            self.bound = ("instances", self.zones[self.kept[0]["id"]])

    def existing_network(self) -> None:
        """Check fleet_vpc_id and fleet_subnet_id."""
        subnets = self.aws.call(
            "look up fleet_subnet_id",
            "ec2",
            "describe_subnets",
            Filters=[{"Name": "subnet-id", "Values": [self.p["subnet_id"]]}],
        )["Subnets"]
        if not subnets:
            self.problems.append(
                f"fleet_subnet_id {self.p['subnet_id']} isn't there in {self.p['region']}: name a subnet of the VPC."
            )
            return
        subnet = subnets[0]
        if subnet["VpcId"] != self.p["vpc_id"]:
            self.problems.append(
                f"fleet_subnet_id {subnet['SubnetId']} belongs to {subnet['VpcId']}, not to fleet_vpc_id "
                f"{self.p['vpc_id']}: name a subnet of that VPC."
            )
        missing = self.result["hosts"] - self.result.get("running", 0)
        if subnet["AvailableIpAddressCount"] < missing:
            self.problems.append(
                f"fleet_subnet_id {subnet['SubnetId']} has {subnet['AvailableIpAddressCount']} free addresses for "
                f"{missing} hosts: take another subnet."
            )
        self.bound = ("subnet", str(subnet["AvailabilityZone"]))

    def ways_out(self) -> None:
        """Hold what hosts need against where their existing subnet's routes lead; an own network has it all."""
        if not self.p["vpc_id"]:
            return
        vpc = [{"Name": "vpc-id", "Values": [self.p["vpc_id"]]}]
        tables = self.aws.pages("list the VPC's routes", "ec2", "describe_route_tables", "RouteTables", Filters=vpc)
        found = self.aws.pages("list the VPC's endpoints", "ec2", "describe_vpc_endpoints", "VpcEndpoints", Filters=vpc)
        table = internet.table_of(tables, self.p["subnet_id"])
        way, s3 = internet.ways(table, found, self.p["public_addresses"])
        missing = self.missing()
        bare = [name for name in self.groups if missing[name] and name not in self.baked]
        if way:
            return
        where = f"fleet_subnet_id {self.p['subnet_id']}"
        plain = [name for name in bare if self.groups[name]["gpu"] in plan.CLOSED_DRIVER_GPUS]
        self.check(internet.check(where, s3, bare, plain, self.p["program"], self.p["launcher"] == "im"))

    def types(self) -> None:
        """Judge the instance types, and choose the zones that offer them all."""
        old = {
            name
            for name, group in self.groups.items()
            if not self.check(plan.check_family(name, group["instance_type"]))
        }
        names = {group["instance_type"] for name, group in self.groups.items() if name not in old}
        if not names:
            return
        infos = self.infos = {
            info["InstanceType"]: info
            for info in self.aws.pages(
                "describe the instance types",
                "ec2",
                "describe_instance_types",
                "InstanceTypes",
                Filters=[{"Name": "instance-type", "Values": sorted(names)}],
            )
        }
        known: list[str] = []
        if names - set(infos):
            offers = self.aws.pages(
                "list the region's instance types",
                "ec2",
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                LocationType="region",
            )
            known = sorted(offer["InstanceType"] for offer in offers)
        for name, group in self.groups.items():
            wanted = group["instance_type"]
            if name in old:
                continue
            if wanted not in infos:
                self.problems.append(
                    f"fleet_groups.{name}.instance_type {wanted} doesn't exist in {self.p['region']}: "
                    + plan.near_types(wanted, known)
                )
                continue
            self.check(plan.check_type(name, wanted, infos[wanted]))
            group["gpus"], group["gpu"] = plan.gpus_of(infos[wanted])
            group["local_disk"] = infos[wanted].get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0)
            group["tasks"], problems = plan.pick_tasks(
                name, group["tasks"], wanted, infos[wanted], self.p["accelerator"]
            )
            self.check(problems)
            if name in plan.TRAINERS and self.p["accelerator"] != "cpu" and group["tasks"] < group["gpus"]:
                self.warnings.append(
                    f"fleet_groups.{name}.instance_type {wanted} has {group['gpus']} GPUs, of which training uses "
                    f"{group['tasks']}: leave tasks out to use all."
                )
            memory = infos[wanted].get("MemoryInfo", {}).get("SizeInMiB", 0)
            if memory < 1024 * (1 + group["tasks"]):
                tasks = "TensorFlow" if group["tasks"] == 1 else f"{group['tasks']} tasks of TensorFlow"
                self.warnings.append(
                    f"fleet_groups.{name}.instance_type {wanted} has {memory} MiB of memory, "
                    f"too little for HDFS and {tasks} together: {2 + 2 * group['tasks']} GiB or more do."
                )
        if self.problems:
            return
        self.check(
            plan.check_accelerator(self.p["accelerator"], {name: group["gpus"] for name, group in self.groups.items()})
        )
        offers = self.aws.pages(
            "list the zones that offer the instance types",
            "ec2",
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": sorted(names)}],
        )
        # Local Zones (us-west-2-lax-1a) have not all that a fleet needs.
        offers = [offer for offer in offers if re.fullmatch(self.p["region"] + "[a-z]", offer["Location"])]
        zones, problems = plan.pick_zones(names, offers, self.bound, tuple(self.subnets))
        if self.check(problems):
            self.place(zones)

    def place(self, zones: list[str]) -> None:
        """Say what network each zone's subnet gets."""
        if self.p["vpc_id"]:
            placed = [{"name": zone, "cidr": ""} for zone in zones]
        else:
            there = {zone: str(subnet["CidrBlock"]) for zone, subnet in self.subnets.items()}
            placed = plan.place_zones(zones, self.p["vpc_cidr"], there)
        if not placed:
            self.problems.append(
                f"fleet_vpc_cidr {self.p['vpc_cidr']} has no room for a subnet in {' or '.join(zones)}"
                + (f", as the fleet's in {' and '.join(sorted(self.subnets))} take it" if self.subnets else "")
                + ": destroy the fleet first, take a larger network, or another fleet_zone."
            )
            return
        self.result.update(zones=placed, zone=placed[0]["name"])

    def images(self) -> None:
        """Find the groups' images and the users that they make."""
        sources = {
            name: group["image"] or self.p["images"][plan.image_kind(group["gpu"], self.p["accelerator"])]
            for name, group in self.groups.items()
        }
        parameters = sorted({source for source in sources.values() if source.startswith("/")})
        values: dict[str, str] = {}
        if parameters:
            answer = self.aws.call("look up the images' SSM parameters", "ssm", "get_parameters", Names=parameters)
            values = {one["Name"]: one["Value"] for one in answer["Parameters"]}
        # One problem an image, not one a group.
        users: dict[str, list[str]] = {}
        for name, source in sources.items():
            users.setdefault(source, []).append(name)
        for source, names in users.items():
            image_id = values.get(source, source)
            if not image_id.startswith("ami-"):
                self.problems.append(
                    f"The image {source or '(none)'} of {', '.join(names)} "
                    + (
                        f"isn't an SSM parameter in {self.p['region']}: "
                        if source.startswith("/")
                        else "isn't an image's id: "
                    )
                    + f"set fleet_groups.{names[0]}.image to an ami-… of Debian 12 or Ubuntu 22.04."
                )
            for name in names:
                self.groups[name]["image_id"] = image_id
        if self.problems:
            return
        self.describe_images(users)
        if not self.problems:
            self.bake()

    def describe_images(self, users: dict[str, list[str]]) -> None:
        """Judge the bare images; ``users`` are the groups of each, by what names it."""
        found = {
            image["ImageId"]: image
            for image in self.aws.pages(
                "describe the images",
                "ec2",
                "describe_images",
                "Images",
                Filters=[{"Name": "image-id", "Values": sorted({one["image_id"] for one in self.groups.values()})}],
            )
        }
        for source, names in users.items():
            image_id = self.groups[names[0]]["image_id"]
            image = found.get(image_id)
            where = f"The image {image_id} of {', '.join(names)}"
            hint = f"set fleet_groups.{names[0]}.image to one of Debian 12 or Ubuntu 22.04 for x86_64."
            if image is None:
                self.problems.append(f"{where} isn't there in {self.p['region']}: {hint}")
                continue
            system = image.get("Platform") or image.get("Architecture", "x86_64")
            if system != "x86_64":
                self.problems.append(f"{where} is for {system}: {hint}")
                continue
            device = image.get("RootDeviceName") or "/dev/xvda"
            sizes = [
                mapping["Ebs"].get("VolumeSize", 0)
                for mapping in image.get("BlockDeviceMappings", [])
                if mapping.get("DeviceName") == device and "Ebs" in mapping
            ]
            user, reason = plan.judge_system(source, image)
            if reason and not all(self.groups[name]["ssh_user"] for name in names):
                self.problems.append(
                    f"{where} ('{image.get('Name', '')}') {reason}: {hint[:-1]}, or ssh_user too if you know better."
                )
            for name in names:
                group = self.groups[name]
                group.update(root_device=device, image_size=max(sizes, default=0))
                group["ssh_user"] = group["ssh_user"] or user

    def bake(self) -> None:
        """Take the newest baked image that fits in a bare one's place, where one is wanted."""
        self.result.update(baked={}, starts=[])
        wanted = self.p.get("baked", "never")
        kinds: dict[tuple[str, str], list[str]] = {}
        for name, group in self.groups.items():
            if group["image"]:  # chosen on purpose
                continue
            kinds.setdefault((plan.image_kind(group["gpu"], self.p["accelerator"]), group["image_id"]), []).append(name)
        if wanted == "never":
            return
        there = images.own(self.aws)
        snapshots = images.snapshots_of(self.aws, there)
        missing, at = self.missing(), images.now()
        for (kind, bare), names in kinds.items():
            ofkind = [one for one in there if one["kind"] == kind]
            digest = images.digest(self.p["root"], kind, bare, self.p["distribution"]) if kind in images.KINDS else ""
            same = [one for one in ofkind if one["digest"] == digest]
            image = next((one for one in same if not images.problem(one, snapshots)), None)
            for one in same[: same.index(image)] if image else same:
                self.warnings.append(
                    f"The baked image {one['name']} ({one['id']}) isn't used, as it {images.problem(one, snapshots)}: "
                    "playbooks/images.yml with images_keep removes it, once it isn't being made any more."
                )
            small = [name for name in names if image and 0 < self.groups[name]["volume_size"] < image["size"]]
            self.check(
                [
                    f"fleet_groups.{name}.volume_size is {self.groups[name]['volume_size']} GiB, but the baked image "
                    f"{image['name']} has {image['size']}: set it to that, or fleet_baked to never."
                    for name in small
                    if image
                ]
            )
            for name in names if image else []:
                self.baked[name] = image or {}
                self.groups[name].update(image_id=self.baked[name]["id"], root_device=self.baked[name]["root_device"])
            new = {name: self.groups[name]["instance_type"] for name in names if missing[name]}
            if not new:
                continue
            if image:
                self.result["starts"].append(images.say_taken(kind, list(new), image, at))
            elif wanted == "always":
                self.problems.append(images.say_lacking(kind, new, ofkind, at))
            elif kind in images.KINDS:
                self.result["starts"].append(images.say_bare(kind, new, ofkind, at))
        self.result["baked"] = {name: {key: one[key] for key in ("id", "name")} for name, one in self.baked.items()}

    def bucket(self, bucket: str, variable: str) -> bool:
        """Check that a bucket is there and may be looked at; warn when it is in another region."""
        client = self.aws.client("s3")
        try:
            answer = client.head_bucket(Bucket=bucket)
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket"):
                self.problems.append(
                    f"The bucket {bucket} of {variable} isn't there: make it, or correct the variable."
                )
            elif status == "403":
                self.problems.append(
                    f"The bucket {bucket} of {variable} may not be read by {self.result['arn']}: "
                    "it is somebody else's, or your policy lacks s3:ListBucket on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at the bucket {bucket}", self.aws.profile))
            return False
        region = answer.get("BucketRegion")
        if region and region != self.p["region"]:
            self.warnings.append(
                f"The bucket {bucket} is in {region}, the fleet in {self.p['region']}: "
                "traffic between them costs money and time."
            )
        return True

    def dataset(self) -> None:
        """Read the data set's manifest and compare it with the objects."""
        url = self.p["dataset_source"]
        self.result["dataset"] = {}
        if not url:
            return
        bucket, prefix = plan.split_s3(url)
        if not self.bucket(bucket, "dataset_source"):
            return
        where = f"s3://{bucket}/{prefix}manifest.json"
        try:
            body = self.aws.client("s3").get_object(Bucket=bucket, Key=prefix + "manifest.json")["Body"].read()
        except Exception as error:
            if aws.code(error) in ("404", "NoSuchKey"):
                self.problems.append(
                    f"The data set {url} has no manifest ({where} isn't there): "
                    "upload it with the dataset command, which writes one, or correct dataset_source."
                )
            else:
                self.problems.append(aws.explain(error, f"read {where}", self.aws.profile))
            return
        manifest, problems = plan.check_manifest(body.decode("utf-8", "replace"), where)
        if not self.check(problems):
            return
        objects = self.aws.pages(
            f"list s3://{bucket}/{prefix}",
            "s3",
            "list_objects_v2",
            "Contents",
            Bucket=bucket,
            Prefix=prefix,
        )
        sizes = {item["Key"].removeprefix(prefix): item["Size"] for item in objects}
        self.check(plan.check_objects(manifest, sizes, url))
        self.check(plan.check_batch(self.p["batch_size"], manifest, url))
        self.result["dataset"] = {
            "name": manifest.get("name", ""),
            "files": len(manifest["files"]),
            "bytes": sum(entry["size"] for entry in manifest["files"]),
            "records": sum(entry.get("records", 0) for entry in manifest["files"]),
        }

    def model(self) -> None:
        """Prove that the model's folder may be written to, and leave nothing there."""
        url = self.p["model_target"]
        if not url:
            return
        bucket, prefix = plan.split_s3(url)
        if not self.bucket(bucket, "store_target"):
            return
        client = self.aws.client("s3")
        key = prefix + ".flotilla-write-test"
        try:
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        except Exception as error:
            self.problems.append(aws.explain(error, f"write to {url} (store_target)", self.aws.profile))

    def program(self) -> None:
        """Look at the program from where the nodes will fetch it, if that is S3."""
        url = self.p["program"]
        if not url.startswith("s3://"):
            return
        bucket, key = plan.split_program(url)
        try:
            size = self.aws.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket", "NoSuchKey"):
                self.problems.append(
                    f"There is no object {key} in the bucket {bucket}, or no such bucket: upload the program there, "
                    "or correct training_program."
                )
            elif status == "403":
                self.problems.append(
                    f"The object {key} in the bucket {bucket} (training_program) may not be read by "
                    f"{self.result['arn']}: it isn't there, or your policy lacks s3:GetObject on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at {url} (training_program)", self.aws.profile))
            return
        if size > plan.PROGRAM_LIMIT:
            self.problems.append(
                f"training_program {url} is larger than {plan.PROGRAM_LIMIT // 10**6} MB: "
                "data belong into dataset_source."
            )

    def disks(self) -> bool:
        """Choose the volumes' sizes; false when one that is wanted doesn't do."""
        found: list[str] = []
        total = self.result.get("dataset", {}).get("bytes", 0)
        for name, group in self.groups.items():
            gpu = plan.image_kind(group["gpu"], self.p["accelerator"]) != "cpu" or self.p.get("builder") == "gpu"
            need = plan.disk_need(total, self.result["hosts"], gpu, group.pop("local_disk"))
            size, problems = plan.pick_disk(
                name, group["volume_size"], need, group.pop("image_size"), self.p["volume_size"], gpu
            )
            group["volume_size"] = max(size, self.baked[name]["size"]) if size and name in self.baked else size
            found += problems
        return self.check(found)

    def missing(self) -> dict[str, int]:
        """Return how many hosts of each group are still to be launched."""
        there = Counter(one["group"] for one in self.kept)
        return {name: max(group["count"] - there[name], 0) for name, group in self.groups.items()}

    def allowed(self) -> None:
        """Hold the fleet against the account's quotas and rights, and the caps: all that is asked side by side."""
        for service in ("ec2", "pricing", "service-quotas"):
            self.aws.client(service)  # making a client isn't safe in several threads, using it is
        missing = self.missing()
        launches = {
            (group["instance_type"], group["image_id"]): name for name, group in self.groups.items() if missing[name]
        }
        # Whoever can't reach the quotas or the prices is told so, and goes on.
        with self.aws.until(time.monotonic() + 30), concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(self.within_quotas),
                pool.submit(self.costs),
                *(pool.submit(self.rehearse, name) for name in launches.values()),
            ]
        found = [future.result() for future in asked]
        for problems in found:
            # Where the quotas could be read, they say it better.
            self.check([text for text in problems if not (found[0] and "(VcpuLimitExceeded)" in text)])

    def within_quotas(self) -> list[str]:
        """Hold what is missing of the fleet against the quotas; where they may not be read, that is a warning."""
        # A stopped host counts for nothing until it is started again.
        on = [one for one in self.kept if one["state"] in ("pending", "running")]
        there = Counter(one["group"] for one in on)
        needed: Counter[str] = Counter()
        for name, group in self.groups.items():
            needed[group["instance_type"]] += max(group["count"] - there[name], 0)
        network = self.p["launcher"] == "ansible" and not self.p["vpc_id"] and not self.own_vpc
        codes = sorted({quotas.of_type(name) for name in needed if needed[name]} - {""})
        codes += [quotas.VPCS, quotas.GATEWAYS] if network else []
        if not codes:
            return []
        more = f"--region {self.p['region']}" + (f" --profile {self.p['profile']}" if self.p["profile"] else "")
        try:
            found = quotas.look_up(self.aws, codes)
            problems = []
            if any(code in quotas.FAMILIES for code in found):
                running, vcpus = self.running()
                problems += quotas.check_vcpus(needed, running, vcpus, found, more)
            if network:
                problems += quotas.check_network(self.networks(), found, more)
            return problems
        except aws.FleetError as error:
            self.warnings.append(f"Whether the account's quotas are enough isn't known. {error}")
            return []

    def running(self) -> tuple[Counter[str], dict[str, int]]:
        """Return the on-demand instances of the account that count and stay, by type, and the vCPUs of all types."""
        found = self.aws.pages(
            "list the account's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}],
        )
        types = Counter(
            str(one["InstanceType"])
            for reservation in found
            for one in reservation["Instances"]
            # Spot instances and capacity blocks have quotas of their own.
            if not one.get("InstanceLifecycle") and one["InstanceId"] not in self.ended
        )
        infos = dict(self.infos)
        others = sorted(set(types) - set(infos))
        for first in range(0, len(others), 100):  # a filter takes 200 values
            more = self.aws.pages(
                "describe the instance types",
                "ec2",
                "describe_instance_types",
                "InstanceTypes",
                Filters=[{"Name": "instance-type", "Values": others[first : first + 100]}],
            )
            infos.update({info["InstanceType"]: info for info in more})
        return types, {name: int(info["VCpuInfo"]["DefaultVCpus"]) for name, info in infos.items()}

    def networks(self) -> dict[str, int]:
        """Return how many VPCs and internet gateways the account has in the region."""
        vpcs = self.aws.pages("list the account's VPCs", "ec2", "describe_vpcs", "Vpcs")
        gateways = self.aws.pages(
            "list the account's internet gateways", "ec2", "describe_internet_gateways", "InternetGateways"
        )
        return {quotas.VPCS: len(vpcs), quotas.GATEWAYS: len(gateways)}

    def request(self, name: str) -> dict[str, Any]:
        """Return RunInstances' request for a host of a group, as far as it's known before anything is made."""
        group = self.groups[name]
        tags = {
            **self.tags,
            "flotilla-fleet": self.p["name"],
            "flotilla-owner": self.result["owner"],
            "flotilla-expires": self.result["expires"],
            "Name": f"{self.p['name']}-{name}-0",
            "flotilla-group": name,
            "flotilla-index": "0",
            "flotilla-ssh-user": group["ssh_user"],
            "flotilla-tasks": str(group["tasks"]),
            "flotilla-gpus": str(group.get("gpus", 0)),
        }
        kinds: tuple[str, ...] = ("instance", "volume", "network-interface")
        if self.p["launcher"] == "im":
            # The Infrastructure Manager gives these, and only to instances.
            tags = {key: tags[key] for key in (*self.tags, "flotilla-fleet", "flotilla-group", "flotilla-expires")}
            kinds = ("instance",)
        request: dict[str, Any] = {
            "MinCount": 1,
            "MaxCount": 1,
            "ImageId": group["image_id"],
            "InstanceType": group["instance_type"],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": [
                {
                    "DeviceName": group["root_device"],
                    "Ebs": {
                        "VolumeSize": group["volume_size"],
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            "TagSpecifications": [{"ResourceType": kind, "Tags": aws.tag_list(tags)} for kind in kinds],
        }
        subnet = self.p["subnet_id"] or self.subnets.get(self.result["zone"], {}).get("SubnetId")
        if subnet:
            request["NetworkInterfaces"] = [
                {
                    "DeviceIndex": 0,
                    "SubnetId": subnet,
                    "AssociatePublicIpAddress": self.p["public_addresses"],
                    "DeleteOnTermination": True,
                }
            ]
        return request

    def rehearse(self, name: str) -> list[str]:
        """Have AWS judge the launch of a group's host without carrying it out.

        Without a subnet AWS judges the default one, where what it says of networks isn't of interest.
        """
        kind = self.groups[name]["instance_type"]
        try:
            self.aws.client("ec2").run_instances(DryRun=True, **self.request(name))
        except Exception as error:
            code, words = aws.code(error), aws.message(error)
            if code in LAUNCHES | LATER or "Availability Zone" in words:
                return []
            if code in aws.DENIED_CODES:
                if re.search(r":(key-pair|security-group|subnet|vpc)/", words):  # these aren't the fleet's yet
                    return []
                action = re.search(r"not authorized to perform: (\S+)", words)
                return [
                    f"{self.result['arn']} may not launch {name} as {kind} ({words}): have "
                    f"{action[1] if action else 'ec2:RunInstances'} added, as in roles/fleet/files/policy.json."
                ]
            if getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500:
                remedy = REMEDIES.get(code, f"correct fleet_groups.{name} or its image, or ask AWS's support")
                return [f"AWS would refuse to launch {name} as {kind}: {words} ({code}): {remedy}."]
            self.warnings.append(f"Whether AWS would launch {name} as {kind} isn't known: {words}.")
        return []

    def costs(self) -> list[str]:
        """Say what the fleet is made of and costs, and hold it against the cap; what isn't known counts as more."""
        known: dict[str, float] = {}
        public, cap = self.p["public_addresses"], plan.amount(self.p["max_cost"]) or 0.0
        types = sorted({group["instance_type"] for group in self.groups.values()})
        why, remedy = f"AWS's price list has none for {self.p['region']}", "take types that have a price"
        try:
            known = prices.look_up(self.aws, self.p["region"], types)
        except aws.FleetError as error:
            if self.p["unknown_prices"]:
                self.warnings.append(f"The prices are unknown. {error}")
            denied = error.__cause__ is not None and aws.code(error.__cause__) in aws.DENIED_CODES
            why = "you may not ask for it, pricing:GetProducts" if denied else aws.message(error.__cause__ or error)
            remedy = "have that permission added" if denied else "try again"
        hourly = {name: prices.host_price(group, known, public) for name, group in self.groups.items()}
        expires = datetime.datetime.strptime(self.result["expires"], "%Y-%m-%dT%H:%M:%SZ")
        left = expires.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.now(datetime.timezone.utc)
        self.result["plan"] = prices.table(self.groups, hourly, left, self.result["running"])
        problems: list[str] = prices.check_cost(self.groups, known, public, left, cap)
        unknown = prices.unknown(self.groups, known, public)
        if unknown and not self.p["unknown_prices"]:
            problems.append(
                f"The price of {', '.join(unknown)} isn't known ({why}), and counts as more than fleet_max_cost "
                f"(${cap:g}): {remedy}, or set fleet_unknown_prices to true to go on without."
            )
        return problems

    def sources(self) -> None:
        """Name the networks that may use SSH: the given ones, else the caller's address."""
        if self.p["ssh_sources"]:
            self.result["ssh_sources"] = plan.networks(self.p["ssh_sources"])
            return
        url = self.p["checkip_url"]
        try:
            text = open_url(url, timeout=10).read(64).decode("ascii", "replace").strip()
            self.result["ssh_sources"] = plan.networks([text])
        except Exception as error:  # Ansible has errors of its own for a bad certificate
            self.problems.append(
                f"Your own address could not be looked up at {url} ({error}): "
                "set fleet_ssh_sources to the networks that may use SSH."
            )

    def run(self) -> None:
        """Check everything; stop where the rest would make no sense."""
        self.variables()
        if self.problems:
            return
        # Few attempts: this is where a wrong endpoint or network shows.
        self.aws = aws.Aws(self.p["region"], self.p["profile"], attempts=3)
        try:
            self.caller()
            self.boundary()
            self.fleet()
        except aws.FleetError:
            if self.check(plan.unknown_region(self.p["region"], self.aws.regions())):
                raise
            return
        self.network()
        self.types()
        if not self.problems:
            self.images()
        settled = not self.problems
        self.dataset()
        self.model()
        self.program()
        if settled:
            self.ways_out()
        if settled and self.disks():
            self.allowed()
        self.sources()
        partition = self.result["arn"].split(":")[1]
        self.result["policy"] = plan.policy(
            self.p["dataset_source"], self.p["model_target"], self.p["program"], partition
        )
        if self.most:
            self.check(plan.check_boundary(self.result["boundary"], self.most, self.result["policy"]))
        self.result["groups"] = self.groups


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
            "tags": {"type": "dict", "default": {}},
            "adopt": {"type": "bool", "default": False},
            "launcher": {"type": "str", "choices": ["ansible", "im"], "default": "ansible"},
            "groups": {"type": "raw", "required": True},
            "expiry_hours": {"type": "raw", "required": True},
            "ssh_sources": {"type": "list", "elements": "str", "default": []},
            "ssh_open_to_world": {"type": "bool", "default": False},
            "checkip_url": {"type": "str", "default": "https://checkip.amazonaws.com"},
            "boundary": {"type": "str", "default": ""},
            "ssh_key": {"type": "path", "default": ""},
            "vpc_id": {"type": "str", "default": ""},
            "subnet_id": {"type": "str", "default": ""},
            "vpc_cidr": {"type": "str", "default": "10.77.0.0/16"},
            "zone": {"type": "str", "default": ""},
            "max_hosts": {"type": "raw", "default": 20},
            "max_cost": {"type": "raw", "default": 25},
            "unknown_prices": {"type": "bool", "default": False},
            "dataset_source": {"type": "str", "default": ""},
            "model_target": {"type": "str", "default": ""},
            "program": {"type": "str", "default": ""},
            "batch_size": {"type": "int", "default": 0},
            "accelerator": {"type": "str", "choices": ["auto", "cpu", "gpu"], "default": "auto"},
            "images": {
                "type": "dict",
                "required": True,
                "options": {kind: {"type": "str", "required": True} for kind in ("cpu", "gpu", "gpu_plain")},
            },
            "baked": {"type": "str", "choices": ["auto", "always", "never"], "default": "never"},
            "distribution": {"type": "str", "default": "slim"},
            "root": {"type": "path"},
            "builder": {"type": "str", "choices": ["", *images.KINDS], "default": ""},
            "volume_size": {"type": "int", "default": 20},
            "public_addresses": {"type": "bool", "default": True},
        },
        required_if=[("baked", "auto", ("root",)), ("baked", "always", ("root",))],
    )
    preflight = Preflight(module.params)
    try:
        preflight.run()
    except aws.FleetError as error:
        preflight.problems.append(str(error))
    for text in preflight.warnings:
        module.warn(text)
    if preflight.problems:
        # The same fault may show in several places, e.g. an unreadable bucket that is both source and target.
        problems = list(dict.fromkeys(preflight.problems))
        module.fail_json(msg="\n".join(problems))
    module.exit_json(changed=False, **preflight.result)


if __name__ == "__main__":
    main()
