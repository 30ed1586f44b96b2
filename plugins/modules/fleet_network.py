#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_network
short_description: Make a fleet's network and security group
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Makes VPC, subnet, internet gateway, route table, a gateway endpoint for S3, which costs nothing, and a security
    group, or in an existing network the security group alone.
  - All is found by the tag C(flotilla-fleet), so that an interrupted run is simply repeated. What doesn't depend on
    each other is made at the same time.
  - SSH from O(ssh_sources) gets in and nothing else; among the group's members everything passes. Other rules of the
    group are removed.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet
options:
  tags:
    description: Tags of all that is made, beside C(Name).
    type: dict
    required: true
  cidr:
    description: The network of the VPC.
    type: str
    default: ""
  zone:
    description: The subnet's availability zone, with name and cidr.
    type: dict
    default: {}
  vpc_id:
    description: An existing VPC; empty means an own one.
    type: str
    default: ""
  subnet_id:
    description: A subnet of the existing VPC.
    type: str
    default: ""
  ssh_sources:
    description: Networks that may use SSH.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Says what would be made or changed.
    support: full
"""

EXAMPLES = r"""
- name: Make the network
  flotilla.kit.fleet_network:
    region: us-east-1
    name: demo
    tags: {flotilla-fleet: demo, flotilla-owner: me, flotilla-expires: "{{ preflight.expires }}"}
    cidr: 10.77.0.0/16
    zone: {name: us-east-1a, cidr: 10.77.0.0/19}
    ssh_sources: [203.0.113.7/32]
  register: network
"""

RETURN = r"""
vpc_id:
  description: The VPC; empty in check mode where it would be made, as are the others.
  returned: success
  type: str
subnet_id:
  description: The subnet.
  returned: success
  type: str
route_table_id:
  description: The route table; empty in an existing network.
  returned: success
  type: str
security_group_id:
  description: The security group.
  returned: success
  type: str
changes:
  description: What was made or changed (in check mode, would be).
  returned: success
  type: list
  elements: str
"""


from ansible_collections.flotilla.kit.plugins.module_utils import aws, make, naming, untyped

EVERYWHERE = "0.0.0.0/0"
Rule = tuple[str, int, int, str, str]  # protocol, ports from and to, what the source is, the source
# How AWS calls the sources of a rule, and a source of each.
SOURCES = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "UserIdGroupPairs": "GroupId",
    "PrefixListIds": "PrefixListId",
}


class Network(make.Maker):
    """The network of one fleet."""

    def __init__(self, parameters: untyped.Parameters, dry: bool) -> None:
        """Keep the module's parameters."""
        super().__init__(parameters, dry, "ec2")
        self.own = not parameters["vpc_id"]
        self.vpc = parameters["vpc_id"]
        self.subnet = parameters["subnet_id"]
        self.gateway = self.table = self.group = ""
        self.found: dict[str, list[untyped.Answer]] = {}

    def ensure(self) -> untyped.Result:
        """Make what is missing; returns the ids."""
        self.look()
        self.refresh_tags()
        if self.own:
            self.ensure_vpc()
            self.at_once(self.ensure_gateway, self.ensure_subnet, self.ensure_table, self.ensure_group)
            self.at_once(self.ensure_route, self.ensure_association, self.ensure_endpoint)
        else:
            self.ensure_group()
        return {
            "changed": bool(self.changes),
            "vpc_id": self.vpc,
            "subnet_id": self.subnet,
            "route_table_id": self.table,
            "security_group_id": self.group,
            "changes": self.changes,
        }

    def look(self) -> None:
        """List what is there, all kinds at once."""
        kinds = {
            "VPC": ("describe_vpcs", "Vpcs"),
            "subnet": ("describe_subnets", "Subnets"),
            "internet gateway": ("describe_internet_gateways", "InternetGateways"),
            "route table": ("describe_route_tables", "RouteTables"),
            "endpoint": ("describe_vpc_endpoints", "VpcEndpoints"),
            "security group": ("describe_security_groups", "SecurityGroups"),
        }
        if not self.own:
            kinds = {"security group": kinds["security group"]}
        tagged = aws.tag_filter(self.p["name"])
        answers = self.at_once(
            *(
                lambda kind=kind, method=method, key=key: self.aws.pages(
                    f"list the fleet's {kind}", "ec2", method, key, Filters=tagged
                )
                for kind, (method, key) in kinds.items()
            )
        )
        self.found = dict(zip(kinds, answers, strict=True))

    def refresh_tags(self) -> None:
        """Bring the tags of all that is there up to date, e.g. a later expiry."""
        ids = {
            "VPC": "VpcId", "subnet": "SubnetId", "internet gateway": "InternetGatewayId",
            "route table": "RouteTableId", "endpoint": "VpcEndpointId", "security group": "GroupId",
        }  # fmt: skip
        old = [
            one[ids[kind]]
            for kind, there in self.found.items()
            for one in there
            if not self.p["tags"].items() <= aws.tags_of(one).items()
            and one.get("State") not in ("deleting", "deleted")
        ]
        if old and self.change("tags"):
            self.call("tag the fleet's network", "ec2", "create_tags", Resources=old, Tags=aws.tag_list(self.p["tags"]))

    def of_vpc(self, kind: str) -> list[untyped.Answer]:
        """Return what is there of a kind in the fleet's VPC."""
        return [one for one in self.found[kind] if one.get("VpcId") == self.vpc]

    def ensure_vpc(self) -> None:
        """Find the VPC, or make it; hosts in it have names."""
        there = sorted(self.found["VPC"], key=lambda one: str(one["VpcId"]))
        if len(there) > 1:  # an answer was lost, and with it the knowledge of the first: it is the one with a subnet
            used = {one["VpcId"] for one in self.found["subnet"]}
            there.sort(key=lambda one: one["VpcId"] not in used)
        if there:
            self.vpc = str(there[0]["VpcId"])
            return
        if not self.change("VPC"):
            return
        made = self.call(
            "make the VPC",
            "ec2",
            "create_vpc",
            CidrBlock=self.p["cidr"],
            TagSpecifications=self.tagged("vpc", "vpc"),
        )
        self.vpc = str(made["Vpc"]["VpcId"])
        self.call(
            "give the VPC's hosts names",
            "ec2",
            "modify_vpc_attribute",
            VpcId=self.vpc,
            EnableDnsHostnames={"Value": True},
        )

    def ensure_subnet(self) -> None:
        """Find the subnet in the zone, or make it."""
        zone = self.p["zone"]
        there = [one for one in self.of_vpc("subnet") if one["AvailabilityZone"] == zone["name"]]
        if not there and self.change("subnet"):
            made = self.call(
                f"make the subnet in {zone['name']}",
                "ec2",
                "create_subnet",
                fine=("InvalidSubnet.Conflict",),
                VpcId=self.vpc,
                CidrBlock=zone["cidr"],
                AvailabilityZone=zone["name"],
                TagSpecifications=self.tagged("subnet", "subnet"),
            )
            there = [made["Subnet"]] if made else self.taken_subnet()
        self.subnet = str(there[0]["SubnetId"]) if there else ""

    def taken_subnet(self) -> list[untyped.Answer]:
        """Return the subnet that has the network: ours, where the answer to its making was lost."""
        zone = self.p["zone"]
        named = [
            *aws.tag_filter(self.p["name"]),
            {"Name": "vpc-id", "Values": [self.vpc]},
            {"Name": "availability-zone", "Values": [zone["name"]]},
        ]
        found: list[untyped.Answer] = self.aws.pages(
            "list the fleet's subnet", "ec2", "describe_subnets", "Subnets", Filters=named
        )
        if not found:
            raise aws.FleetError(
                f"The network {zone['cidr']} of the VPC {self.vpc} is another subnet's, which isn't the fleet's: "
                "destroy the fleet first, or set another fleet_vpc_cidr."
            )
        return found

    def ensure_gateway(self) -> None:
        """Find the internet gateway, or make it, and attach it."""
        there = self.found["internet gateway"]
        attached = [one for one in there if any(to["VpcId"] == self.vpc for to in one.get("Attachments", []))]
        free = [one for one in there if not one.get("Attachments")]
        if attached:
            self.gateway = str(attached[0]["InternetGatewayId"])
            return
        if not self.change("internet gateway"):
            return
        if free:
            self.gateway = str(free[0]["InternetGatewayId"])
        else:
            made = self.call(
                "make the internet gateway",
                "ec2",
                "create_internet_gateway",
                TagSpecifications=self.tagged("internet-gateway", "gateway"),
            )
            self.gateway = str(made["InternetGateway"]["InternetGatewayId"])
        self.call(
            "attach the internet gateway",
            "ec2",
            "attach_internet_gateway",
            fine=("Resource.AlreadyAssociated",),
            InternetGatewayId=self.gateway,
            VpcId=self.vpc,
        )

    def ensure_table(self) -> None:
        """Find the route table, or make it."""
        there = self.of_vpc("route table")
        if there:
            self.table = str(there[0]["RouteTableId"])
        elif self.change("route table"):
            made = self.call(
                "make the route table",
                "ec2",
                "create_route_table",
                VpcId=self.vpc,
                TagSpecifications=self.tagged("route-table", "routes"),
            )
            self.table = str(made["RouteTable"]["RouteTableId"])

    def known_table(self) -> untyped.Answer:
        """Return the route table as it was found; empty where it is new."""
        return next((one for one in self.of_vpc("route table") if one["RouteTableId"] == self.table), {})

    def ensure_route(self) -> None:
        """Let the route table lead to the internet."""
        ways = [one for one in self.known_table().get("Routes", []) if one.get("DestinationCidrBlock") == EVERYWHERE]
        if any(one.get("GatewayId") == self.gateway and one.get("State") != "blackhole" for one in ways):
            return
        if self.change("route to the internet"):
            self.call(
                "make the route to the internet",
                "ec2",
                "replace_route" if ways else "create_route",
                fine=("RouteAlreadyExists",),
                RouteTableId=self.table,
                DestinationCidrBlock=EVERYWHERE,
                GatewayId=self.gateway,
            )

    def ensure_association(self) -> None:
        """Give the subnet the route table."""
        if any(
            self.subnet and one.get("SubnetId") == self.subnet for one in self.known_table().get("Associations", [])
        ):
            return
        if self.change("the subnet's routes"):
            self.call(
                "give the subnet its routes",
                "ec2",
                "associate_route_table",
                fine=("Resource.AlreadyAssociated",),
                RouteTableId=self.table,
                SubnetId=self.subnet,
            )

    def ensure_endpoint(self) -> None:
        """Make the way to S3 that costs nothing."""
        there = [one for one in self.of_vpc("endpoint") if one.get("State", "").lower() not in ("deleting", "deleted")]
        if any(self.table in one.get("RouteTableIds", []) for one in there) or not self.change("endpoint for S3"):
            return
        self.call(
            "make the endpoint for S3",
            "ec2",
            "create_vpc_endpoint",
            fine=("RouteAlreadyExists",),
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{self.p['region']}.s3",
            VpcEndpointType="Gateway",
            RouteTableIds=[self.table],
            TagSpecifications=self.tagged("vpc-endpoint", "s3"),
        )

    def ensure_group(self) -> None:
        """Find the security group, or make it, and give it its rules."""
        there = self.of_vpc("security group")
        if not there and self.change("security group"):
            name = naming.in_region(self.p["name"])
            made = self.call(
                "make the security group",
                "ec2",
                "create_security_group",
                fine=("InvalidGroup.Duplicate",),
                GroupName=name,
                Description=f"Nodes of the Flotilla fleet {self.p['name']}",
                VpcId=self.vpc,
                TagSpecifications=self.tagged("security-group", "nodes"),
            )
            there = [{"GroupId": made["GroupId"]}] if made else self.taken_group(name)
        if there:
            self.group = str(there[0]["GroupId"])
            self.ensure_rules(rules_of(there[0].get("IpPermissions", [])))

    def taken_group(self, name: str) -> list[untyped.Answer]:
        """Return the security group that has the name: ours, where the answer to its making was lost."""
        named = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [self.vpc]}]
        found: list[untyped.Answer] = self.aws.pages(
            "look up the security group", "ec2", "describe_security_groups", "SecurityGroups", Filters=named
        )
        if any(aws.tags_of(one).get("flotilla-fleet") == self.p["name"] for one in found):
            return found
        raise aws.FleetError(
            f"The VPC {self.vpc} has a security group {name} that isn't a fleet's: set fleet_name to another name, or "
            "delete that group."
        )

    def wanted_rules(self) -> dict[Rule, str]:
        """Return the rules with their descriptions: nobody outside needs anything but SSH."""
        kinds = {source: "Ipv6Ranges" if ":" in source else "IpRanges" for source in self.p["ssh_sources"]}
        rules: dict[Rule, str] = {
            ("tcp", 22, 22, kind, source): "SSH from the caller" for source, kind in kinds.items()
        }
        rules["-1", -1, -1, "UserIdGroupPairs", self.group] = "everything between the nodes of the fleet"
        return rules

    def ensure_rules(self, there: dict[Rule, str]) -> None:
        """Give the group exactly the rules that it should have: first what is missing, then not what is too much."""
        wanted = self.wanted_rules()
        missing = {rule: words for rule, words in wanted.items() if rule not in there}
        reworded = {rule: words for rule, words in wanted.items() if rule in there and there[rule] != words}
        superfluous = {rule: words for rule, words in there.items() if rule not in wanted}
        for rules, method, fine in (
            (missing, "authorize_security_group_ingress", ("InvalidPermission.Duplicate",)),
            (reworded, "update_security_group_rule_descriptions_ingress", ()),
            (superfluous, "revoke_security_group_ingress", ("InvalidPermission.NotFound",)),
        ):
            if rules and self.change("security group's rules"):
                self.call(
                    "set the security group's rules",
                    "ec2",
                    method,
                    fine=fine,
                    GroupId=self.group,
                    IpPermissions=[permission(rule, words) for rule, words in rules.items()],
                )


def rules_of(permissions: list[untyped.Answer]) -> dict[Rule, str]:
    """Return AWS's rules one by one, with their descriptions."""
    return {
        (one["IpProtocol"], one.get("FromPort", -1), one.get("ToPort", -1), kind, source[key]): source.get(
            "Description", ""
        )
        for one in permissions
        for kind, key in SOURCES.items()
        for source in one.get(kind, [])
    }


def permission(rule: Rule, words: str) -> untyped.Request:
    """Return a rule as AWS takes it."""
    protocol, first, last, kind, source = rule
    ports = {} if protocol == "-1" else {"FromPort": first, "ToPort": last}
    described = {"Description": words} if words else {}
    return {"IpProtocol": protocol, **ports, kind: [{SOURCES[kind]: source, **described}]}


def main() -> None:
    """Run the module."""
    make.run(
        Network,
        {
            "cidr": {"type": "str", "default": ""},
            "zone": {"type": "dict", "default": {}},
            "vpc_id": {"type": "str", "default": ""},
            "subnet_id": {"type": "str", "default": ""},
            "ssh_sources": {"type": "list", "elements": "str", "required": True},
        },
    )


if __name__ == "__main__":
    main()
