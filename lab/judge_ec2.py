"""What EC2 refuses and moto takes: names and rules of security groups, networks, what is in use.

The words are those of EC2's list of error codes, or as users have reported them.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterator

from moto.ec2.models.instances import Instance

from . import quotas
from .judge import refuse, rule
from .untyped import Moto, Request

CHARACTERS = r"a-zA-Z0-9. _\-:/()#,@[\]+=;{}!$*"


# ---------------------------------------------------------------- security groups


def describes(text: str, what: str, ampersand: bool = True) -> None:
    """Refuse a description that EC2 doesn't take."""
    if not re.fullmatch(f"[{CHARACTERS}{'&' if ampersand else ''}]{{0,255}}", text):
        refuse(
            "InvalidParameterValue",
            f"Invalid {what} description. Valid descriptions are strings less than 256 characters from the following "
            "set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
        )


@rule("ec2:CreateSecurityGroup")
def _group(call: Moto, request: Request) -> None:
    name, vpc = request.get("GroupName", ""), request.get("VpcId")
    describes(request.get("Description", ""), "security group")
    if name.startswith("sg-"):
        refuse(
            "InvalidParameterValue",
            f"Value ({name}) for parameter GroupName is invalid. Group names may not be in the format sg-*.",
        )
    if name.lower() == "default":
        refuse("InvalidGroup.Reserved", f"The security group name '{name}' is reserved for AWS internal use")
    if not re.fullmatch(f"[{CHARACTERS}&]{{1,255}}", name):
        refuse(
            "InvalidParameterValue",
            f"Value ({name}) for parameter GroupName is invalid. Character sets beyond ASCII are not supported.",
        )
    vpc = vpc or next((one.id for one in call.ec2_backend.vpcs.values() if one.is_default), None)
    for one in call.ec2_backend.groups.get(vpc, {}).values():
        if one.name.lower() == name.lower():
            refuse("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc}'")


def permissions(request: Request) -> list[Request]:
    """A request's rules; a single one may be spread over the request itself."""
    if "IpProtocol" in request:
        ranges = [{"CidrIp": request["CidrIp"]}] if request.get("CidrIp") else []
        pairs = [{"GroupName": request[n]} for n in ("SourceSecurityGroupName",) if request.get(n)]
        ports = {name: request.get(name) for name in ("IpProtocol", "FromPort", "ToPort")}
        return [{**ports, "IpRanges": ranges, "UserIdGroupPairs": pairs}]
    return request.get("IpPermissions") or []


@rule(
    "ec2:AuthorizeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress",
    "ec2:RevokeSecurityGroupEgress", "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
    "ec2:UpdateSecurityGroupRuleDescriptionsEgress",
)  # fmt: skip
def _rules(call: Moto, request: Request) -> None:
    if request.get("CidrIp"):
        request["CidrIp"] = call.params["CidrIp"] = network(request["CidrIp"])
    for one in permissions(request):
        for kind in ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs", "PrefixListIds"):
            for source in one.get(kind) or []:
                describes(source.get("Description") or "", "rule", kind in ("IpRanges", "Ipv6Ranges"))
        for source in one.get("IpRanges") or []:
            source["CidrIp"] = network(source.get("CidrIp", ""))
        protocol = str(one.get("IpProtocol")).lower()
        if not (protocol in ("-1", "tcp", "udp", "icmp", "icmpv6") or (protocol.isdigit() and int(protocol) < 256)):
            refuse("InvalidParameterValue", f"Invalid value '{protocol}' for IP protocol. Unknown protocol.")
        if protocol in ("tcp", "udp", "6", "17"):
            _ports(one.get("FromPort"), one.get("ToPort"))
        if not any(one.get(kind) for kind in ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs", "PrefixListIds")):
            refuse("MissingParameter", "Source group or IP range must be specified.")


def _ports(first: Moto, last: Moto) -> None:
    if first is None or last is None:
        refuse(
            "InvalidParameterValue", "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange."
        )
    for name, port in (("from", int(first)), ("to", int(last))):
        if not 0 <= port <= 65535:
            refuse("InvalidParameterValue", f"TCP/UDP ({name}) port ({port}) out of range")
    if int(first) > int(last):
        refuse("InvalidParameterValue", f"Invalid TCP/UDP port range ({first}:{last})")


def network(cidr: str) -> str:
    """An IPv4 network as AWS answers it: without host bits."""
    try:
        if "/" not in cidr:
            raise ValueError
        return str(ipaddress.IPv4Network(cidr, strict=False))
    except ValueError:
        refuse("InvalidParameterValue", f"CIDR block {cidr} is malformed")


# ---------------------------------------------------------------- networks


@rule("ec2:CreateVpc", "ec2:CreateSubnet")
def _block(call: Moto, request: Request) -> None:
    if request.get("CidrBlock"):
        try:
            block = ipaddress.IPv4Network(request["CidrBlock"], strict=False)
        except ValueError:
            return  # moto has the words
        request["CidrBlock"] = call.params["CidrBlock"] = str(block)
        if any(block.overlaps(ipaddress.IPv4Network(one)) for one in ("127.0.0.0/8", "169.254.0.0/16")):
            refuse("InvalidVpc.Range", f"The CIDR '{block}' is invalid.")


@rule("ec2:CreateVpc")
def _vpc_quota(call: Moto, request: Request) -> None:
    if len(call.ec2_backend.vpcs) >= quotas.VPCS.value:
        refuse("VpcLimitExceeded", "The maximum number of VPCs has been reached.")


@rule("ec2:CreateInternetGateway")
def _gateway_quota(call: Moto, request: Request) -> None:
    if len(call.ec2_backend.internet_gateways) >= quotas.GATEWAYS.value:
        refuse("InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached.")


@rule("ec2:CreateSubnet")
def _subnet(call: Moto, request: Request) -> None:
    try:
        block = ipaddress.IPv4Network(request.get("CidrBlock", ""))
    except ValueError:
        return
    if not 16 <= block.prefixlen <= 28:
        refuse("InvalidSubnet.Range", f"The CIDR '{block}' is invalid.")
    for zone in call.ec2_backend.subnets.values():
        for one in zone.values():
            other = ipaddress.IPv4Network(one.cidr_block, strict=False)
            if one.vpc_id == request.get("VpcId") and block.overlaps(other):
                refuse("InvalidSubnet.Conflict", f"The CIDR '{block}' conflicts with another subnet")


@rule("ec2:AttachInternetGateway")
def _attach_gateway(call: Moto, request: Request) -> None:
    gateway, vpc = request.get("InternetGatewayId"), request.get("VpcId")
    for one in call.ec2_backend.internet_gateways.values():
        if one.vpc and one.vpc.id == vpc and one.id != gateway:
            refuse("InvalidParameterValue", f"Network {vpc} already has an internet gateway attached")


@rule("ec2:CreateRoute")
def _route(call: Moto, request: Request) -> None:
    table = call.ec2_backend.route_tables.get(request.get("RouteTableId"))
    gateway = call.ec2_backend.internet_gateways.get(request.get("GatewayId"))
    if request.get("DestinationCidrBlock") and "/" in request["DestinationCidrBlock"]:
        call.params["DestinationCidrBlock"] = network(request["DestinationCidrBlock"])
    if table and gateway and (not gateway.vpc or gateway.vpc.id != table.vpc_id):
        refuse(
            "InvalidParameterValue",
            f"route table {table.id} and network gateway {gateway.id} belong to different networks",
        )
    if table and call.params.get("DestinationCidrBlock") == call.ec2_backend.vpcs[table.vpc_id].cidr_block:
        refuse("RouteAlreadyExists", f"The route identified by {request['DestinationCidrBlock']} already exists.")


@rule("ec2:AssociateRouteTable")
def _associate(call: Moto, request: Request) -> None:
    wanted, subnet = request.get("RouteTableId"), request.get("SubnetId")
    for table in call.ec2_backend.route_tables.values():
        if subnet and subnet in table._associations.values() and table.id != wanted:
            refuse(
                "Resource.AlreadyAssociated",
                f"the specified association for route table {wanted} conflicts with an existing association",
            )


@rule("ec2:CreateVpcEndpoint")
def _endpoint(call: Moto, request: Request) -> None:
    service = request.get("ServiceName", "")
    call.params.setdefault("VpcEndpointType", "Gateway")  # moto can't delete one that was made without it
    if not re.fullmatch(rf"com\.amazonaws\.{call.region}\.[a-z0-9.\-]+", service):
        refuse("InvalidServiceName", f"The Vpc Endpoint Service '{service}' does not exist")
    if request.get("PolicyDocument"):
        try:
            json.loads(request["PolicyDocument"])
        except ValueError:
            refuse("InvalidPolicyDocument", "Policy document is not valid JSON.")
    for other in call.ec2_backend.vpc_end_points.values():
        if other.service_name != service or other.state != "available":
            continue
        for table in set(other.route_table_ids or []) & set(request.get("RouteTableIds") or []):
            prefixes = other.destination_prefix_list_id
            refuse(
                "RouteAlreadyExists",
                f"route table {table} already has a route with destination-prefix-list-id {prefixes}",
            )


@rule("ec2:ModifySubnetAttribute", "ec2:ModifyVpcAttribute", "ec2:ModifyInstanceAttribute")
def _one_at_a_time(call: Moto, request: Request) -> None:
    if len(set(request) - {"SubnetId", "VpcId", "InstanceId", "DryRun", "Attribute", "Value"}) > 1:
        refuse("InvalidParameterCombination", "Fields for multiple attribute types specified.")


# ---------------------------------------------------------------- what is in use


def living(backend: Moto) -> list[Instance]:
    """The instances that aren't terminated yet: they have their interfaces, groups and addresses till then."""
    return [one for one in backend.all_instances() if one.state != "terminated"]


def interfaces(backend: Moto) -> Iterator[Moto]:
    """The network interfaces, which moto keeps, and those of instances that are about to end, which it doesn't."""
    seen = set()
    for one in living(backend):
        for interface in one.nics.values():
            seen.add(interface.id)
            yield interface
    for interface in list(backend.enis.values()):
        if interface.id not in seen and not (interface.instance and interface.instance.state == "terminated"):
            yield interface


@rule("ec2:DeleteSecurityGroup")
def _delete_group(call: Moto, request: Request) -> None:
    backend, group = call.ec2_backend, request.get("GroupId")
    if not group and request.get("GroupName"):
        found = backend.get_security_group_from_name(request["GroupName"])
        group = found.id if found else None
    own = backend.get_security_group_from_id(group) if group else None
    if not own:
        return
    if own.name == "default":
        refuse("CannotDelete", f'the specified group: "{own.id}" name: "default" cannot be deleted by a user')
    used = any(group in {one.id for one in interface.group_set} for interface in interfaces(backend))
    used = used or any(group in {one.id for one in instance.security_groups} for instance in living(backend))
    named = any(
        (one.source_group or {}).get("GroupId") == group
        for groups in backend.groups.values()
        for other in groups.values()
        if other.id != group
        for one in (*other.ingress_rules, *other.egress_rules)
    )
    if used or named:
        refuse("DependencyViolation", f"resource {group} has a dependent object")


@rule("ec2:DeleteSubnet")
def _delete_subnet(call: Moto, request: Request) -> None:
    if any(one.subnet.id == request.get("SubnetId") for one in interfaces(call.ec2_backend)):
        refuse("DependencyViolation", f"The subnet '{request['SubnetId']}' has dependencies and cannot be deleted.")


@rule("ec2:DeleteVpc")
def _delete_vpc(call: Moto, request: Request) -> None:
    backend, vpc = call.ec2_backend, request.get("VpcId")
    if (
        any(group.name != "default" for group in backend.groups.get(vpc, {}).values())
        or any(one.vpc and one.vpc.id == vpc for one in backend.internet_gateways.values())
        or any(one.vpc_id == vpc and one.state == "available" for one in backend.vpc_end_points.values())
        or any(one.vpc_id == vpc for zone in backend.subnets.values() for one in zone.values())
        or any(one.vpc_id == vpc and not one.main_association_id for one in backend.route_tables.values())
    ):
        refuse("DependencyViolation", f"The vpc '{vpc}' has dependencies and cannot be deleted.")


@rule("ec2:DetachInternetGateway")
def _detach_gateway(call: Moto, request: Request) -> None:
    vpc = request.get("VpcId")
    if any(one.subnet.vpc_id == vpc and one.public_ip for one in interfaces(call.ec2_backend)):
        refuse(
            "DependencyViolation",
            f"Network {vpc} has some mapped public address(es). Please unmap those public address(es) before detaching "
            "the gateway.",
        )


@rule("ec2:DeleteNetworkInterface")
def _delete_interface(call: Moto, request: Request) -> None:
    interface = request.get("NetworkInterfaceId")
    if any(one.id == interface and one.instance for one in interfaces(call.ec2_backend)):
        refuse("InvalidNetworkInterface.InUse", f"Network interface '{interface}' is currently in use.")


# ---------------------------------------------------------------- tags and keys


@rule("ec2:CreateTags")
def _tags_of_nothing(call: Moto, request: Request) -> None:
    for one in request.get("Resources") or []:
        if one.startswith("i-"):
            call.ec2_backend.get_multi_instances_by_id([one])
        elif one.startswith("sg-") and not call.ec2_backend.get_security_group_from_id(one):
            refuse("InvalidGroup.NotFound", f"The security group '{one}' does not exist")
        elif one.startswith("vpc-") and one not in call.ec2_backend.vpcs:
            refuse("InvalidVpcID.NotFound", f"The vpc ID '{one}' does not exist")


@rule("ec2:ImportKeyPair", "ec2:CreateKeyPair")
def _key(call: Moto, request: Request) -> None:
    if not 0 < len(request.get("KeyName", "")) <= 255:
        refuse("InvalidParameterValue", "Value for parameter KeyName is invalid. Length exceeds maximum of 255.")
    material = request.get("PublicKeyMaterial")
    if material is None:
        return
    text = material.decode(errors="replace") if isinstance(material, bytes) else str(material)
    parts = text.split()
    try:
        kind = base64.b64decode(parts[1], validate=True)
        if parts[0] not in ("ssh-rsa", "ssh-ed25519") or parts[0].encode() not in kind[:20]:
            raise ValueError
    except (ValueError, IndexError):
        refuse("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
