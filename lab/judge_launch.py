"""What EC2 refuses of launches and moto takes, and how it reads client tokens.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
"""

from __future__ import annotations

import base64
import ipaddress
import json
import threading

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.responses import EC2Response
from moto.iam.models import iam_backends

from . import quotas, weather
from .judge import patch, refuse, rule
from .untyped import Moto, Request

# For seconds after its creation EC2 doesn't know an instance profile; the lab's region sets it.
PROFILE_SECONDS = 0.0

_launching = threading.Lock()


@rule("ec2:ModifyInstanceAttribute")
def _modify(call: Moto, request: Request) -> None:
    stopped = {"InstanceType", "UserData", "EbsOptimized", "SriovNetSupport", "EnaSupport", "Kernel", "Ramdisk"}
    if stopped & set(request) or request.get("Attribute") in ("instanceType", "userData"):
        for one in call.ec2_backend.get_multi_instances_by_id([request["InstanceId"]]):
            if one.state != "stopped":
                refuse("IncorrectInstanceState", f"The instance '{one.id}' is not in the 'stopped' state.")


@rule("ec2:StartInstances", "ec2:StopInstances")
def _start_stop(call: Moto, request: Request) -> None:
    done = "started" if call._get_action() == "StartInstances" else "stopped"
    wrong = ("shutting-down", "terminated", *(("stopping",) if done == "started" else ()))
    for one in call.ec2_backend.get_multi_instances_by_id(request.get("InstanceIds") or []):
        if one.state in wrong:
            refuse("IncorrectInstanceState", f"The instance '{one.id}' is not in a state from which it can be {done}.")


def zones_with(region: str, instance_type: str) -> list[str]:
    """The zones of a region that offer a type."""
    offered = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
    return sorted({one["Location"] for one in offered if one["InstanceType"] == instance_type})


@rule("ec2:RunInstances")
def _counts(call: Moto, request: Request) -> None:
    least, most = int(request.get("MinCount", 1)), int(request.get("MaxCount", 1))
    if least < 1:
        refuse("InvalidParameterValue", f"Value ({least}) for parameter minCount is invalid. Minimum is 1.")
    if least > most:
        refuse(
            "InvalidParameterValue", f"Value ({least}) for parameter minCount is invalid. It exceeds maxCount ({most})."
        )
    call.params["MinCount"] = most  # EC2 launches as many as it can; moto the least
    token = request.get("ClientToken") or ""
    if len(token) > 64 or not token.isascii():
        refuse("InvalidParameterValue", f"Invalid value '{token}' for clientToken: up to 64 ASCII characters.")


@rule("ec2:RunInstances")
def _image_and_type(call: Moto, request: Request) -> None:
    backend, kind, image = call.ec2_backend, request.get("InstanceType"), request.get("ImageId")
    if kind and kind not in INSTANCE_TYPES:
        refuse("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.")
    if image and image not in backend.amis:
        refuse("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
    key = request.get("KeyName")
    if key and key not in backend.key_pairs:
        refuse("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
    if kind and image:
        architecture = backend.amis[image].architecture
        able = INSTANCE_TYPES[kind]["ProcessorInfo"]["SupportedArchitectures"]
        if architecture and architecture not in able:
            refuse(
                "InvalidParameterValue",
                f"The architecture '{able[0]}' of the specified instance type does not match the architecture "
                f"'{architecture}' of the specified AMI. Specify an instance type and an AMI that have matching "
                "architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover "
                "the architecture of the instance type or AMI.",
            )


@rule("ec2:RunInstances")
def _user_data(call: Moto, request: Request) -> None:
    try:
        size = len(base64.b64decode(request.get("UserData") or ""))
    except ValueError:
        return  # moto has the words
    if size > 16384:
        refuse("InvalidParameterValue", "User data is limited to 16384 bytes")


@rule("ec2:RunInstances")
def _profile(call: Moto, request: Request) -> None:
    wanted = request.get("IamInstanceProfile") or {}
    if not wanted:
        return
    parameter = "name" if wanted.get("Name") else "arn"
    value = wanted.get("Name") or wanted.get("Arn")
    for one in iam_backends[call.current_account][call.partition].get_instance_profiles():
        if value not in (one.name, one.arn) or (utcnow() - one.create_date).total_seconds() < PROFILE_SECONDS:
            continue
        if not one.roles:
            refuse("InvalidParameterValue", f'IAM Instance Profile "{one.arn}" has no associated IAM Roles')
        return
    name = "Name" if parameter == "name" else "ARN"
    refuse(
        "InvalidParameterValue",
        f"Value ({value}) for parameter iamInstanceProfile.{parameter} is invalid. Invalid IAM Instance Profile {name}",
    )


@rule("ec2:RunInstances")
def _network(call: Moto, request: Request) -> None:
    backend, nics = call.ec2_backend, request.get("NetworkInterfaces") or []
    if nics and (request.get("SecurityGroupIds") or request.get("SecurityGroups")):
        refuse(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level security groups may not be specified on the same request",
        )
    if len(nics) > 1 and any(one.get("AssociatePublicIpAddress") for one in nics):
        refuse(
            "InvalidParameterCombination",
            "The associatePublicIPAddress parameter cannot be specified when launching with multiple network "
            "interfaces.",
        )
    indices = [one.get("DeviceIndex") for one in nics]
    if len(set(indices)) < len(indices):
        refuse("InvalidParameterValue", "Each network interface requires a unique device index.")
    first = nics[0] if nics else {}
    if not first.get("NetworkInterfaceId") and "" in (first.get("SubnetId"), request.get("SubnetId")):
        refuse("InvalidParameterValue", "Invalid value '' for subnetId.")
    subnet_id = first.get("SubnetId") or request.get("SubnetId")
    if not subnet_id:
        return
    subnet = backend.get_subnet(subnet_id)
    for group in [*(first.get("Groups") or []), *(request.get("SecurityGroupIds") or [])]:
        found = backend.get_security_group_from_id(group)
        if not found:
            refuse("InvalidGroup.NotFound", f"The security group '{group}' does not exist")
        if found.vpc_id != subnet.vpc_id:
            refuse("InvalidParameter", f"Security group {group} and subnet {subnet_id} belong to different networks.")
    zone = (request.get("Placement") or {}).get("AvailabilityZone")
    if zone and zone != subnet.availability_zone:
        refuse("InvalidParameterValue", f"The subnet '{subnet_id}' isn't in the Availability Zone '{zone}'.")
    block = ipaddress.IPv4Network(subnet.cidr_block, strict=False)
    if address := first.get("PrivateIpAddress") or request.get("PrivateIpAddress"):
        if ipaddress.IPv4Address(address) not in block:
            refuse("InvalidParameterValue", f"Address {address} does not fall within the subnet's address range")
        if ipaddress.IPv4Address(address) in (*(block[n] for n in range(4)), block[-1]):
            refuse("InvalidParameterValue", f"Address {address} is in subnet's reserved address range")
    if int(request.get("MaxCount", 1)) > subnet.available_ip_address_count:
        refuse(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )


@rule("ec2:RunInstances")
def _options(call: Moto, request: Request) -> None:
    hops = (request.get("MetadataOptions") or {}).get("HttpPutResponseHopLimit")
    if hops is not None and not 1 <= int(hops) <= 64:
        refuse("InvalidParameterValue", f"Invalid value '{hops}' for httpPutResponseHopLimit: from 1 to 64.")
    image = call.ec2_backend.amis.get(request.get("ImageId"))
    for one in request.get("BlockDeviceMappings") or []:
        disk = one.get("Ebs") or {}
        size, kind = disk.get("VolumeSize"), disk.get("VolumeType", "gp2")
        root = bool(image) and one.get("DeviceName") == image.root_device_name
        if root and kind in ("st1", "sc1"):
            refuse("BootForVolumeTypeUnsupported", f"Boot from volume is not supported for the volume type '{kind}'.")
        if size is None:
            continue
        if not 1 <= int(size) <= (65536 if kind == "gp3" else 16384):
            refuse("InvalidParameterValue", f"Volume of {size}GiB is out of range for the volume type '{kind}'.")


@rule("ec2:RunInstances")
def _capacity(call: Moto, request: Request) -> None:
    backend, kind = call.ec2_backend, request.get("InstanceType", "m1.small")
    nics = request.get("NetworkInterfaces") or [{}]
    subnet = nics[0].get("SubnetId") or request.get("SubnetId")
    zone = (request.get("Placement") or {}).get("AvailabilityZone")
    if subnet:
        zone = backend.get_subnet(subnet).availability_zone
    offering = zones_with(call.region, kind)
    if kind in INSTANCE_TYPES and zone and zone not in offering:
        refuse(
            "Unsupported",
            f"Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone}). "
            f"Please retry your request by not specifying an Availability Zone or choosing {', '.join(offering)}.",
        )
    if kind in INSTANCE_TYPES:
        spot = (request.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        quotas.check_launch(backend, kind, int(request.get("MaxCount", 1)), spot)
    if zone and weather.lacks(zone, kind):
        others = [one for one in offering if not weather.lacks(one, kind)]
        text = (
            f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone}). Our "
            "system will be working on provisioning additional capacity."
        )
        if others:
            text += (
                f" You can currently get {kind} capacity by not specifying an Availability Zone in your request or "
                f"choosing {', '.join(others)}."
            )
        refuse("InsufficientInstanceCapacity", text)


# ---------------------------------------------------------------- what moto does otherwise


def attach() -> None:
    """Let a client token be a launch once, and a launch time be that of the last start."""
    run, start = EC2Response.run_instances, Instance.start

    def run_once(self: Moto) -> Moto:
        # One at a time: moto takes addresses from a generator, and no token may be used twice at once.
        with _launching:
            return _run_once(self, run)

    def started(self: Instance) -> Moto:
        if self.state == "stopped":
            self.launch_time = utcnow()
        return start(self)

    patch(EC2Response, "run_instances", run_once)
    patch(Instance, "start", started)


def _run_once(call: Moto, run: Moto) -> Moto:
    """Launch, unless the request's token has launched already.

    https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
    """
    token = call.params.get("ClientToken")
    tokens = call.ec2_backend.__dict__.setdefault("lab_tokens", {})
    asked = json.dumps(call.params, sort_keys=True, default=str)
    if token in tokens and not call.params.get("DryRun"):
        before, reservation = tokens[token]
        if asked != before:
            refuse(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        if all(one.state == "terminated" for one in reservation.instances):
            refuse(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with a resource that is already deleted. Please use "
                "a different client token.",
            )
        return ActionResult(reservation)
    answer = run(call)
    reservation = answer.result
    # moto tags instances and volumes only.
    for one in call.params.get("TagSpecifications") or []:
        if one["ResourceType"] == "network-interface":
            tags = {tag["Key"]: tag.get("Value", "") for tag in one["Tags"]}
            for instance in reservation.instances:
                for interface in instance.nics.values():
                    interface.add_tags(tags)
    if token:
        tokens[token] = asked, reservation
    return answer
