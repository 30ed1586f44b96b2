"""The running lab: data in its S3, and a network in it that is made by the API alone."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from tests.support.commands import user_runs, wait_until

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

HOST = "198.18.0.2/32"  # this machine, as the lab's hosts see it


def upload(name: str) -> None:
    """Put a real data set, cifar10 or mnist, into the lab's S3, where the tests' inventory expects it."""
    user_runs(
        "python", "scripts/dataset.py", "upload", name, f"s3://flotilla-test/{name}/",
        "--profile", "flotilla-lab", "--create-bucket",
    )  # fmt: skip


def limit(name: str, cores: float, gib: float = 0, mbit: float = 0) -> None:
    """Let a host have no more than so many processors, so much memory and so fast a network; 0: all of it."""
    user_runs("scripts/lab", "limit", name, f"{cores:g}", f"{gib:g}", f"{mbit:g}")


def only_lab() -> None:
    """The lab is one for the machine: a test run must not end somebody's fleet."""
    if user_runs("scripts/lab", "status", check=False).returncode == 0:
        pytest.exit("a lab is running, and the tests need their own: end it with 'scripts/lab down' first", 2)


def token(session: boto3.Session, role: str, seconds: int) -> boto3.Session:
    """A session of a role's that ends after some seconds: AWS's least is 900, the lab gives shorter ones."""
    sts = session.client("sts", config=Config(parameter_validation=False))
    made = sts.assume_role(RoleArn=role, RoleSessionName="test", DurationSeconds=seconds)["Credentials"]
    return boto3.Session(
        made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], region_name=session.region_name
    )


@dataclass
class Network:
    """A VPC with a public subnet, a key pair and an instance profile, as a test needs it."""

    ec2: EC2Client
    vpc: str
    subnet: str
    group: str
    image: str
    key: Path
    name: str = "test"

    def launch(self, count: int = 1, **options: object) -> list[str]:
        """Launch instances and wait until they run; returns their ids."""
        interface = {
            "DeviceIndex": 0,
            "SubnetId": self.subnet,
            "Groups": [self.group],
            "AssociatePublicIpAddress": True,
            "DeleteOnTermination": True,  # EC2's default, which moto hasn't
        }
        settings: dict[str, object] = {
            "ImageId": self.image, "MinCount": count, "MaxCount": count, "InstanceType": "t3.large",
            "KeyName": self.name, "IamInstanceProfile": {"Name": self.name},
            "MetadataOptions": {"HttpTokens": "required"},
            "NetworkInterfaces": [interface], **options,
        }  # fmt: skip
        reservation = self.ec2.run_instances(**settings)  # type: ignore[arg-type]
        ids = [i["InstanceId"] for i in reservation["Instances"]]
        wait_until(lambda: self.states(ids) == {"running"}, 20, f"{ids} running")
        return ids

    def states(self, ids: list[str]) -> set[str]:
        """The states that the API reports."""
        found = self.ec2.describe_instances(InstanceIds=ids)["Reservations"]
        return {i["State"]["Name"] for r in found for i in r["Instances"]}

    def address(self, instance: str, kind: str = "Public") -> str:
        """An instance's address now."""
        found = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return str(found.get(f"{kind}IpAddress", ""))

    def ssh_command(self, instance: str, *options: str) -> list[str]:
        """The command that opens ssh to an instance."""
        return [
            "ssh", "-q", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            *options, f"admin@{self.address(instance)}",
        ]  # fmt: skip

    def ssh(self, instance: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on an instance over ssh, once."""
        command_line = self.ssh_command(instance, "-o", "ConnectTimeout=2")
        return subprocess.run([*command_line, command], capture_output=True, text=True, timeout=60)

    def private_subnet(self, cidr: str) -> tuple[str, str]:
        """Add a subnet that no route leads out of; returns it and its route table."""
        self.ec2.associate_vpc_cidr_block(VpcId=self.vpc, CidrBlock=cidr)
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, AvailabilityZone="us-east-1a")
        subnet = made["Subnet"]["SubnetId"]
        table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return subnet, table

    def s3_endpoint(self, table: str) -> None:
        """Lead a route table to S3."""
        self.ec2.create_vpc_endpoint(VpcId=self.vpc, ServiceName="com.amazonaws.us-east-1.s3", RouteTableIds=[table])

    def reachable(self, instance: str) -> None:
        """Wait until ssh lets us in and cloud-init has finished."""
        wait_until(lambda: self.ssh(instance, "cloud-init status --wait").returncode == 0, 40, f"ssh into {instance}")


def make_vpc(session: boto3.Session, cidr: str) -> tuple[str, str]:
    """Make a VPC with a public subnet, by the API alone; returns the ids of both."""
    ec2 = session.client("ec2")
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    # Without a zone EC2 takes one at random, and us-east-1e has neither t3 nor c5.
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    return vpc, subnet


def living(session: boto3.Session, vpc: str = "") -> list[str]:
    """Instances that aren't terminated, in a VPC or in all of them."""
    within: Any = [{"Name": "vpc-id", "Values": [vpc]}] if vpc else []
    pages = session.client("ec2").get_paginator("describe_instances").paginate(Filters=within)
    found = pages.search("Reservations[].Instances[]")
    return [one["InstanceId"] for one in found if one["State"]["Name"] != "terminated"]


def delete_vpc(session: boto3.Session, vpc: str) -> None:
    """Delete a VPC that make_vpc has made, with what tests have put into it: an account may have five."""
    ec2 = session.client("ec2")
    its: Any = [{"Name": "vpc-id", "Values": [vpc]}]
    if ids := living(session, vpc):
        ec2.terminate_instances(InstanceIds=ids)
        wait_until(lambda: not living(session, vpc), 30, f"{ids} terminated")
    if endpoints := [e["VpcEndpointId"] for e in ec2.describe_vpc_endpoints(Filters=its)["VpcEndpoints"]]:
        ec2.delete_vpc_endpoints(VpcEndpointIds=endpoints)
    tables = ec2.describe_route_tables(Filters=its)["RouteTables"]
    for association in [one for table in tables for one in table["Associations"] if not one.get("Main")]:
        ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    for subnet in ec2.describe_subnets(Filters=its)["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for group in ec2.describe_security_groups(Filters=its)["SecurityGroups"]:
        if group["GroupName"] != "default":
            ec2.delete_security_group(GroupId=group["GroupId"])
    for gateway in ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])[
        "InternetGateways"
    ]:
        ec2.detach_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"], VpcId=vpc)
        ec2.delete_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"])
    for table in tables:
        if not any(association.get("Main") for association in table["Associations"]):
            ec2.delete_route_table(RouteTableId=table["RouteTableId"])
    ec2.delete_vpc(VpcId=vpc)


def make_network(session: boto3.Session, folder: Path, cidr: str, name: str = "test") -> Network:
    """Make what instances need, by the API alone, all of it called by a name."""
    ec2, iam, ssm = session.client("ec2"), session.client("iam"), session.client("ssm")
    vpc, subnet = make_vpc(session, cidr)
    group = ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": HOST}]}],
    )
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    ec2.import_key_pair(KeyName=name, PublicKeyMaterial=key.with_suffix(".pub").read_bytes())
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    image = ssm.get_parameter(Name="/aws/service/debian/release/12/latest/amd64")["Parameter"]["Value"]
    time.sleep(2)  # so long EC2 doesn't know a new instance profile
    return Network(ec2, vpc, subnet, group, image, key, name)


def delete_network(session: boto3.Session, network: Network) -> None:
    """Delete what make_network has made."""
    delete_vpc(session, network.vpc)
    network.ec2.delete_key_pair(KeyName=network.name)
    iam, name = session.client("iam"), network.name
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    iam.delete_instance_profile(InstanceProfileName=name)
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)
