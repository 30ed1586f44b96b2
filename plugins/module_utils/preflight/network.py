# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's look at the network: an existing one or the fleet's own, and which addresses may use SSH."""

from __future__ import annotations

from ansible.module_utils.urls import open_url
from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    images,
    internet,
    networking,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings


class Network(findings.Findings):
    """The VPC, the subnets, their ways out, and who may use SSH."""

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
                f"fleet_zone is {self.p['zone']}, but the fleet can only be in {zone}, {networking.BOUND[why][0]}: "
                f"leave fleet_zone empty, or {networking.BOUND[why][1]} {self.p['zone']}."
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
        plain = [name for name in bare if self.groups[name]["gpu"] in images.CLOSED_DRIVER_GPUS]
        self.check(internet.check(where, s3, bare, plain, self.p["program"], self.p["launcher"] == "im"))

    def sources(self) -> None:
        """Name the networks that may use SSH: the given ones, else the caller's address."""
        if self.p["ssh_sources"]:
            self.result["ssh_sources"] = networking.cidrs(self.p["ssh_sources"])
            return
        url = self.p["checkip_url"]
        try:
            text = open_url(url, timeout=10).read(64).decode("ascii", "replace").strip()
            self.result["ssh_sources"] = networking.cidrs([text])
        except Exception as error:  # Ansible has errors of its own for a bad certificate
            self.problems.append(
                f"Your own address could not be looked up at {url} ({error}): "
                "set fleet_ssh_sources to the networks that may use SSH."
            )
