"""The lab's logic without hosts: what it refuses as AWS does, policies, prices, schedules, control groups."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core.authorization import enable_iam_authentication
from moto.ec2.models import ec2_backends
from moto.ec2.responses import EC2Response
from moto.iam.models import iam_backends

from lab import __main__ as command
from lab import (
    access,
    cgroups,
    judge,
    judge_launch,
    market,
    needs,
    network,
    quotas,
    schedules,
    snapshots,
    weather,
    wire,
)
from lab.hosts import Host
from lab.network import Port, Rule

PREFIX = {"StringLike": {"s3:prefix": ["data/*", "data"]}}


@pytest.mark.parametrize(
    ("conditions", "values", "expected"),
    [
        (PREFIX, {"s3:prefix": "data/x"}, True),
        (PREFIX, {"s3:prefix": "data"}, True),
        (PREFIX, {"s3:prefix": "other/"}, False),
        (PREFIX, {}, False),
        ({"StringLikeIfExists": {"s3:prefix": "data/*"}}, {}, True),
        ({"StringNotEquals": {"s3:prefix": "secret"}}, {"s3:prefix": "secret"}, False),
        ({"StringNotEquals": {"s3:prefix": "secret"}}, {}, True),
        ({"Null": {"s3:prefix": "true"}}, {}, True),
        ({"Null": {"s3:prefix": "true"}}, {"s3:prefix": ""}, False),
        ({"NumericLessThanEquals": {"s3:max-keys": 10}}, {"s3:max-keys": "11"}, False),
        ({**PREFIX, "Bool": {"aws:SecureTransport": "true"}}, {"s3:prefix": "data"}, False),
        ({"Bool": {"aws:SecureTransport": "true"}}, {"aws:securetransport": "false"}, False),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, {"aws:currenttime": "x"}, False),
    ],
)  # fmt: skip
def test_conditions(conditions: dict[str, Any], values: dict[str, str], expected: bool) -> None:
    assert access.holds(conditions, values) is expected


def test_prices_grow_with_the_size_and_are_unknown_elsewhere() -> None:
    assert market.on_demand("t3.large") == pytest.approx(0.0832)
    assert market.on_demand("c5.xlarge") == pytest.approx(0.17)
    assert market.on_demand("m5.4xlarge") == pytest.approx(0.768)
    assert market.on_demand("g4dn.xlarge") == pytest.approx(0.526)
    assert market.on_demand("u-12tb1.metal") is None
    assert market.on_demand("t3.huge") is None


def test_products_must_match_every_filter() -> None:
    filters = {"instanceType": "t3.large", "regionCode": "us-east-1", "operatingSystem": "Linux"}
    assert len(market.products("AmazonEC2", filters)) == 1
    assert market.products("AmazonEC2", {**filters, "operatingSystem": "Windows"}) == []
    (snapshot,) = market.products("AmazonEC2", {"productFamily": "Storage Snapshot", "regionCode": "us-east-1"})
    assert snapshot["product"]["attributes"]["usagetype"] == "EBS:SnapshotUsage"
    assert market.products("AmazonRDS", {}) == []


def test_groups_that_go_while_we_look_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / cgroups.CGROUP / "node" / "payload"
    gone.mkdir(parents=True)
    scandir = os.scandir

    def vanishing(path: Any = ".") -> Any:
        if Path(path) == gone:
            raise FileNotFoundError(str(path))
        return scandir(path)

    def only_here() -> Iterator[Path]:
        yield tmp_path

    monkeypatch.setattr(cgroups, "hierarchies", only_here)
    monkeypatch.setattr(os, "scandir", vanishing)
    assert [p.name for p in cgroups.groups("node")][-1] == "node"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("tcp", 22, 22, ("10.0.0.0/8",)), ["ip saddr 10.0.0.0/8 tcp dport 22"]),
        (Rule("17", 5000, 5010, ("10.0.0.0/8",)), ["ip saddr 10.0.0.0/8 udp dport 5000-5010"]),
        (Rule("tcp", 0, 65535, (), ("sg-1",)), ["ip saddr @sg_1 meta l4proto tcp"]),
        (Rule("-1", None, None, ("0.0.0.0/0", "::/0")), ["ip saddr 0.0.0.0/0"]),
        (Rule("50", None, None, ("0.0.0.0/0",)), ["ip saddr 0.0.0.0/0 meta l4proto 50"]),
        (Rule("tcp", 22, 22), []),
    ],
)
def test_rules_open_what_they_say_and_no_more(rule: Rule, expected: list[str]) -> None:
    assert rule.matches("saddr") == expected


FACTS = {"region": "us-east-1", "endpoint": "http://x", "access_key": "a", "secret_key": "b"}
OTHERS = "[default]\nregion = eu-west-1\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's ~/.aws/config, which isn't there yet."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws/config"))
    return tmp_path / "aws/config"


def test_profile_comes_and_goes(config: Path) -> None:
    command.write_profile(FACTS)
    assert config.read_text().count("[profile flotilla-lab]") == 1
    command.write_profile(None)
    assert not config.exists()


@pytest.mark.parametrize("end", ["\n# <<< flotilla lab\n", "\n"])
def test_profile_leaves_the_users_lines_alone(config: Path, end: str) -> None:
    config.parent.mkdir()
    config.write_text(OTHERS)
    command.write_profile(FACTS)
    config.write_text(config.read_text().replace("\n# <<< flotilla lab\n", end) + "[profile more]\nregion = x\n")
    command.write_profile(FACTS)
    command.write_profile(None)
    assert config.read_text() == OTHERS + "[profile more]\nregion = x\n"


def test_profile_of_that_name_which_is_not_the_labs_is_refused(config: Path) -> None:
    config.parent.mkdir()
    config.write_text("[profile flotilla-lab]\nregion = mars\n")
    with pytest.raises(command.LabError, match="rename it"):
        command.write_profile(FACTS)
    command.write_profile(None)
    assert "mars" in config.read_text()


def test_config_that_is_a_link_stays_one(config: Path, tmp_path: Path) -> None:
    config.parent.mkdir()
    (tmp_path / "dotfile").write_text(OTHERS)
    config.symlink_to(tmp_path / "dotfile")
    command.write_profile(FACTS)
    assert config.is_symlink() and "flotilla-lab" in (tmp_path / "dotfile").read_text()


# ---------------------------------------------------------------- what AWS refuses

ME = "arn:aws:iam::123456789012"


def trust(**principal: str) -> str:
    """A trust policy."""
    return policy(Principal=principal, Action="sts:AssumeRole")


def policy(**statement: Any) -> str:
    """A policy of one statement."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def sized(size: int) -> str:
    """A policy of at least so many bytes."""
    return policy(Action="s3:GetObject", Resource="arn:aws:s3:::" + "x" * size)


@functools.cache
def client(service: str) -> Any:
    """A client of a service, made once: reading its description takes longer than a test."""
    return boto3.client(service, "us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")


class Cloud:
    """An account with a network, an image, a role and a profile, all judged."""

    def __init__(self) -> None:
        self.ec2, self.iam, self.sts, self.scheduler = map(client, ("ec2", "iam", "sts", "scheduler"))
        self.vpc = self.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.1.0.0/24", AvailabilityZone="us-east-1a")[
            "Subnet"
        ]["SubnetId"]
        self.group = self.ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=self.vpc)["GroupId"]
        self.image = self.ec2.register_image(Name="image")["ImageId"]
        image = ec2_backends["123456789012"]["us-east-1"].amis[self.image]
        image.architecture, image.root_device_name = "x86_64", "/dev/xvda"
        self.iam.create_role(RoleName="nodes", AssumeRolePolicyDocument=trust(Service="ec2.amazonaws.com"))
        self.iam.create_user(UserName="me")
        self.iam.create_instance_profile(InstanceProfileName="nodes")
        self.iam.add_role_to_instance_profile(InstanceProfileName="nodes", RoleName="nodes")

    def known(self, value: Any) -> Any:
        """A request with the ids of what is there: `VPC`, `SUBNET`, `GROUP`, `IMAGE`."""
        if isinstance(value, dict):
            return {name: self.known(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.known(one) for one in value]
        ids = {"VPC": self.vpc, "SUBNET": self.subnet, "GROUP": self.group, "IMAGE": self.image}
        return ids.get(value, value) if isinstance(value, str) else value

    def call(self, operation: str, **request: Any) -> Any:
        """Call `ec2.run_instances` or another method of a client."""
        service, method = operation.split(".")
        return getattr(getattr(self, service), method)(**self.known(request))

    def launch(self, **options: Any) -> Any:
        """Launch an instance."""
        interface = {
            "DeviceIndex": 0,
            "SubnetId": self.subnet,
            "Groups": [self.group],
            "AssociatePublicIpAddress": True,
        }
        settings = {"ImageId": self.image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.large"}
        return self.ec2.run_instances(**{**settings, "NetworkInterfaces": [interface], **self.known(options)})

    def refused(self, operation: str, **request: Any) -> tuple[int, str, str]:
        """Status, code and words with which a call is refused."""
        with pytest.raises(ClientError) as raised:
            self.launch(**request) if operation == "launch" else self.call(operation, **request)
        answer = raised.value.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


@contextmanager
def judged() -> Iterator[Cloud]:
    """An account under the judge."""
    judge.attach()
    try:
        with mock_aws():
            yield Cloud()
    finally:
        judge.detach()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An account of the test's own, and fair weather."""
    monkeypatch.setattr(weather, "FILE", tmp_path / "weather.json")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with judged() as one:
        yield one


RULE, GROUP = "Invalid rule description", "Invalid security group description"
AMONG = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "GROUP"}]}


def opening(**more: Any) -> dict[str, Any]:
    """A request to open SSH."""
    return {"GroupId": "GROUP", "IpPermissions": [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8"}], **more}
    ]}  # fmt: skip


def among(description: str) -> dict[str, Any]:
    """A request that lets a group's members reach each other."""
    pair = {"GroupId": "GROUP", "Description": description}
    return {"GroupId": "GROUP", "IpPermissions": [{"IpProtocol": "-1", "UserIdGroupPairs": [pair]}]}


def tagged(kind: str, *tags: tuple[str, str]) -> dict[str, Any]:
    """Tags of what a request makes."""
    return {
        "TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags]}]
    }


INGRESS = "ec2.authorize_security_group_ingress"
ROLE = {"RoleName": "new", "AssumeRolePolicyDocument": trust(Service="ec2.amazonaws.com")}
TARGET = {"Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances", "RoleArn": f"{ME}:role/nodes"}
SCHEDULE = {"Name": "i-1", "ScheduleExpression": "at(2999-01-01T00:00:00)", "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": TARGET}  # fmt: skip
ECDSA = (b"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrY"
         b"MjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg= me")  # fmt: skip
PARAMETER = "InvalidParameterValue"

REFUSED = [
    # Names and descriptions
    (INGRESS, among("the fleet's nodes"), 400, PARAMETER, RULE),
    (INGRESS, among("nodes & nodes"), 400, PARAMETER, RULE),
    (INGRESS, opening(IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "x" * 256}]), 400, PARAMETER, RULE),
    (INGRESS, opening(IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "<x>"}]), 400, PARAMETER, "less than 256"),
    ("ec2.update_security_group_rule_descriptions_ingress", among("ü"), 400, PARAMETER, RULE),
    ("ec2.create_security_group", {"GroupName": "a", "Description": "it's", "VpcId": "VPC"}, 400, PARAMETER, GROUP),
    ("ec2.create_security_group", {"GroupName": "sg-a", "Description": "a", "VpcId": "VPC"}, 400, PARAMETER, "sg-*"),
    ("ec2.create_security_group", {"GroupName": "NODES", "Description": "a", "VpcId": "VPC"}, 400,
     "InvalidGroup.Duplicate", "already exists"),
    ("ec2.create_security_group", {"GroupName": "x" * 256, "Description": "a", "VpcId": "VPC"},
     400, PARAMETER, "GroupName"),
    (INGRESS, opening(IpRanges=[{"CidrIp": "10.0.0.1/33"}]), 400, PARAMETER, "CIDR block 10.0.0.1/33 is malformed"),
    (INGRESS, opening(FromPort=70000), 400, PARAMETER, r"TCP/UDP \(from\) port \(70000\) out of range"),
    (INGRESS, opening(IpProtocol="banana"), 400, PARAMETER, "Unknown protocol"),
    (INGRESS, {"GroupId": "GROUP", "IpPermissions": [{**AMONG, "IpProtocol": "tcp"}]},
     400, PARAMETER, "both from and to"),
    # Tags
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", **tagged("vpc", ("aws:x", "y"))}, 400, PARAMETER, "reserved"),
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", **tagged("vpc", ("x", "y" * 257))},
     400, PARAMETER, "length of 256"),
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", **tagged("vpc", ("x" * 128, "y"))},
     400, "InvalidTagKey.Malformed", ""),
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", **tagged("vpc", ("x", "y"), ("x", "z"))},
     400, PARAMETER, "Duplicate"),
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", **tagged("subnet", ("x", "y"))},
     400, PARAMETER, "not a valid taggable"),
    ("ec2.create_tags", {"Resources": ["SUBNET"], "Tags": [{"Key": "aws:x", "Value": "y"}]},
     400, PARAMETER, "reserved"),
    ("launch", tagged("vpc", ("x", "y")), 400, PARAMETER, "'vpc' is not a valid taggable resource type"),
    ("iam.create_role", {**ROLE, "Tags": [{"Key": "a", "Value": "b,c"}]},
     400, "ValidationError", "'tags.1.member.value'"),
    ("iam.create_role", {**ROLE, "Tags": [{"Key": "aws:a", "Value": "b"}]}, 400, "InvalidInput", "aws:"),
    ("iam.create_instance_profile",
     {"InstanceProfileName": "p", "Tags": [{"Key": str(n), "Value": ""} for n in range(51)]},
     400, "ValidationError", "less than or equal to 50"),
    # Policies, roles, schedules
    ("iam.put_role_policy", {"RoleName": "nodes", "PolicyName": "p", "PolicyDocument": sized(10241)}, 409,
     "LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role nodes"),
    ("iam.put_user_policy", {"UserName": "me", "PolicyName": "p", "PolicyDocument": sized(2049)}, 409,
     "LimitExceeded", "Maximum policy size of 2048 bytes exceeded for user me"),
    ("iam.create_policy", {"PolicyName": "p", "PolicyDocument": sized(6145)}, 409, "LimitExceeded", "PolicySize: 6144"),
    ("iam.create_policy", {"PolicyName": "p", "PolicyDocument": policy(Sid="a-b", Action="*", Resource="*")}, 400,
     "MalformedPolicyDocument", "alpha-numeric"),
    ("iam.create_role", {**ROLE, "AssumeRolePolicyDocument": "x"}, 400, "MalformedPolicyDocument", "invalid Json"),
    ("iam.create_role", {**ROLE, "AssumeRolePolicyDocument": "{}"}, 400, "MalformedPolicyDocument", "Syntax"),
    ("iam.create_role", {**ROLE, "AssumeRolePolicyDocument": trust(Service="banana.amazonaws.com")}, 400,
     "MalformedPolicyDocument", "Invalid principal in policy"),
    ("iam.create_role", {**ROLE, "AssumeRolePolicyDocument": trust(AWS=f"{ME}:role/nobody")}, 400,
     "MalformedPolicyDocument", "Invalid principal in policy"),
    ("iam.create_role", {**ROLE, "RoleName": "a b"},
     400, "ValidationError", "at 'roleName' failed to satisfy constraint"),
    ("iam.create_role", {**ROLE, "RoleName": "x" * 65}, 400, "ValidationError", "less than or equal to 64"),
    ("iam.create_role", {**ROLE, "RoleName": "NODES"}, 409, "EntityAlreadyExists", "already exists"),
    ("iam.create_role", {**ROLE, "Description": "中"}, 400, "ValidationError", "at 'description'"),
    ("iam.create_role", {**ROLE, "MaxSessionDuration": 43201}, 400, "ValidationError", "equal to 43200"),
    ("sts.assume_role", {"RoleArn": f"{ME}:role/nodes", "RoleSessionName": "ab", "DurationSeconds": 7200}, 400,
     "ValidationError", "exceeds the MaxSessionDuration"),
    ("sts.assume_role", {"RoleArn": f"{ME}:role/nodes", "RoleSessionName": "a b"},
     400, "ValidationError", "roleSessionName"),
    ("sts.assume_role", {"RoleArn": f"{ME}:role/nobody", "RoleSessionName": "ab"}, 403, "AccessDenied", "AssumeRole"),
    ("scheduler.create_schedule", {**SCHEDULE, "ScheduleExpression": "banana"}, 400, "ValidationException",
     "Invalid Schedule Expression banana"),
    ("scheduler.create_schedule", {**SCHEDULE, "ScheduleExpression": "at(2020-01-01T00:00:00)"}, 400,
     "ValidationException", "in the past"),
    ("scheduler.create_schedule", SCHEDULE, 400, "ValidationException", "must allow AWS EventBridge Scheduler"),
    ("scheduler.create_schedule", {**SCHEDULE, "Name": "a b"}, 400, "ValidationException", "at 'name'"),
    ("scheduler.create_schedule", {**SCHEDULE, "GroupName": "none"}, 404, "ResourceNotFoundException", "none"),
    ("scheduler.create_schedule", {**SCHEDULE, "Target": {**TARGET, "Arn": TARGET["Arn"] + "Now"}}, 400,
     "ValidationException", "not a supported target"),
    ("ec2.import_key_pair", {"KeyName": "k", "PublicKeyMaterial": ECDSA}, 400, "InvalidKey.Format", "OpenSSH"),
    # Networks
    ("ec2.create_subnet", {"VpcId": "VPC", "CidrBlock": "10.1.0.0/28"}, 400, "InvalidSubnet.Conflict", "conflicts"),
    ("ec2.create_subnet", {"VpcId": "VPC", "CidrBlock": "10.1.9.0/29"}, 400, "InvalidSubnet.Range", "is invalid"),
    ("ec2.create_vpc", {"CidrBlock": "169.254.0.0/16"}, 400, "InvalidVpc.Range", "is invalid"),
    ("ec2.create_vpc", {"CidrBlock": "10.2.0.0/16", "DryRun": True}, 412, "DryRunOperation", "would have succeeded"),
    ("ec2.create_vpc_endpoint", {"VpcId": "VPC", "ServiceName": "com.amazonaws.mars.s3"},
     400, "InvalidServiceName", ""),
    ("ec2.modify_vpc_attribute", {"VpcId": "VPC", "EnableDnsSupport": {"Value": True},
     "EnableDnsHostnames": {"Value": True}}, 400, "InvalidParameterCombination", "multiple attribute"),
    ("ec2.describe_instances", {"Filters": [{"Name": "banana", "Values": ["x"]}]},
     400, PARAMETER, "filter 'banana' is invalid"),
    ("ec2.describe_instances", {"InstanceIds": ["banana"]}, 400, "InvalidInstanceID.Malformed", 'Invalid id: "banana"'),
    ("ec2.describe_security_groups", {"GroupIds": ["banana"]}, 400, "InvalidGroupId.Malformed", "expecting"),
    # Launches
    ("launch", {"UserData": "x" * 16385}, 400, PARAMETER, "limited to 16384 bytes"),
    ("launch", {"ClientToken": "x" * 65}, 400, PARAMETER, "64 ASCII"),
    ("launch", {"InstanceType": "t9.huge"}, 400, PARAMETER, "Invalid value 't9.huge' for InstanceType"),
    ("launch", {"ImageId": "ami-00000000"},
     400, "InvalidAMIID.NotFound", r"The image id '\[ami-00000000\]' does not exist"),
    ("launch", {"KeyName": "nobody"}, 400, "InvalidKeyPair.NotFound", "The key pair 'nobody' does not exist"),
    ("launch", {"InstanceType": "m6g.large"}, 400, PARAMETER, "architecture 'arm64' of the specified instance type"),
    ("launch", {"InstanceType": "p5.48xlarge", "MaxCount": 2}, 400, "VcpuLimitExceeded", "vCPU limit of 192"),
    ("launch", {"IamInstanceProfile": {"Name": "nobody"}}, 400, PARAMETER, "Invalid IAM Instance Profile Name"),
    ("launch", {"MinCount": 2}, 400, PARAMETER, "minCount"),
    ("launch", {"MinCount": 0}, 400, PARAMETER, "minCount"),
    ("launch", {"MaxCount": 252, "InstanceType": "x1.16xlarge"},
     400, "InsufficientFreeAddressesInSubnet", "enough free"),
    ("launch", {"SecurityGroupIds": ["GROUP"]}, 400, "InvalidParameterCombination", "instance-level security groups"),
    ("launch", {"Placement": {"AvailabilityZone": "us-east-1b"}}, 400, PARAMETER, "us-east-1b"),
    ("launch", {"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, 400, PARAMETER, "from 1 to 64"),
    ("launch", {"MetadataOptions": {"HttpTokens": "banana"}}, 400, PARAMETER, "banana"),
    ("launch", {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]}, 400,
     "InvalidBlockDeviceMapping", "expect size>= 8GB"),
    # Images
    ("ec2.create_image", {"InstanceId": "i-00000000", "Name": "a#b"}, 400, "InvalidAMIName.Malformed", "letters"),
    ("ec2.create_image", {"InstanceId": "i-00000000", "Name": "image"}, 400, "InvalidAMIName.Duplicate",
     "AMI name image is already in use by AMI ami-"),
    ("ec2.create_image", {"InstanceId": "i-00000000", "Name": "new"}, 400, "InvalidInstanceID.NotFound", "i-00000000"),
    ("ec2.create_image", {"InstanceId": "i-00000000", "Name": "new", **tagged("volume", ("x", "y"))},
     400, PARAMETER, "'volume' is not a valid taggable resource type"),
    ("ec2.register_image", {"Name": "image"}, 400, "InvalidAMIName.Duplicate", "already in use"),
    ("ec2.copy_image", {"SourceImageId": "ami-00000000", "SourceRegion": "us-east-1", "Name": "new"},
     400, "InvalidAMIID.NotFound", "does not exist"),
    ("ec2.describe_snapshots", {"SnapshotIds": ["banana"]}, 400, "InvalidSnapshotID.Malformed", "expecting"),
    ("ec2.describe_snapshots", {"SnapshotIds": ["snap-00000000"]}, 400, "InvalidSnapshot.NotFound", "does not exist"),
    ("ec2.delete_snapshot", {"SnapshotId": "snap-00000000"}, 400, "InvalidSnapshot.NotFound", "does not exist"),
    ("ec2.create_tags", {"Resources": ["ami-00000000"], "Tags": [{"Key": "x", "Value": "y"}]},
     400, "InvalidAMIID.NotFound", "does not exist"),
    ("ec2.create_tags", {"Resources": ["snap-00000000"], "Tags": [{"Key": "x", "Value": "y"}]},
     400, "InvalidSnapshot.NotFound", "does not exist"),
    ("launch", {"DryRun": True}, 412, "DryRunOperation", "would have succeeded"),
]  # fmt: skip


@pytest.fixture(scope="class")
def account() -> Iterator[Cloud]:
    """An account for requests that change nothing, and fair weather."""
    with pytest.MonkeyPatch.context() as patched, judged() as one:
        patched.setattr(weather, "FILE", Path(os.devnull))
        yield one


class TestRefused:
    """One after the other to one account."""

    @pytest.mark.parametrize(("operation", "request_", "status", "code", "words"), REFUSED)
    def test_as_by_aws(
        self, account: Cloud, operation: str, request_: dict[str, Any], status: int, code: str, words: str
    ) -> None:
        found = account.refused(operation, **request_)
        assert found[:2] == (status, code), found
        assert re.search(words, found[2]), found


def test_judge_goes_as_it_came() -> None:
    before = EC2Response.__dict__.get("create_vpc")
    judge.attach()
    judge.attach()
    assert EC2Response.__dict__["create_vpc"] is not before
    judge.detach()
    assert EC2Response.__dict__.get("create_vpc") is before


def test_rules_are_kept_without_host_bits(cloud: Cloud) -> None:
    """Or the same rule in another form would be a second one."""
    cloud.call(INGRESS, **opening(IpRanges=[{"CidrIp": "10.0.0.5/8", "Description": "a & b - it #1 [x]!"}]))
    assert cloud.refused(INGRESS, **opening())[1] == "InvalidPermission.Duplicate"


@pytest.mark.parametrize("name", ["cidr", "cidr-block", "vpc-id", "tag:x"])
def test_filters_that_there_are(cloud: Cloud, name: str) -> None:
    """DescribeVpcs takes cidr-block, which amazon.aws sends and its description doesn't list."""
    assert cloud.ec2.describe_vpcs(Filters=[{"Name": name, "Values": ["nothing"]}])["Vpcs"] == []


def test_what_is_in_use_is_not_deleted(cloud: Cloud) -> None:
    ec2 = cloud.ec2
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=cloud.vpc)
    other = ec2.create_security_group(GroupName="other", Description="other", VpcId=cloud.vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[cloud.known(AMONG)])
    instance = cloud.launch()["Instances"][0]
    interface = instance["NetworkInterfaces"][0]["NetworkInterfaceId"]
    detach = {"InternetGatewayId": gateway, "VpcId": cloud.vpc}
    used = "DependencyViolation"
    group = f"resource {cloud.group} has a dependent object"
    assert cloud.refused("ec2.delete_security_group", GroupId=cloud.group) == (400, used, group)
    assert "The subnet 'subnet-" in cloud.refused("ec2.delete_subnet", SubnetId=cloud.subnet)[2]
    assert "mapped public address" in cloud.refused("ec2.detach_internet_gateway", **detach)[2]
    assert cloud.refused("ec2.delete_network_interface", NetworkInterfaceId=interface)[1].endswith(".InUse")
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert cloud.refused("ec2.delete_security_group", GroupId=cloud.group)[2] == group, "a rule of another names it"
    ec2.delete_security_group(GroupId=other)
    ec2.delete_security_group(GroupId=cloud.group)
    ec2.delete_subnet(SubnetId=cloud.subnet)
    assert cloud.refused("ec2.delete_vpc", VpcId=cloud.vpc)[1] == used, "its gateway"
    ec2.detach_internet_gateway(**detach)
    ec2.delete_vpc(VpcId=cloud.vpc)


def test_a_client_token_launches_once(cloud: Cloud) -> None:
    first = cloud.launch(ClientToken="once")["Instances"][0]["InstanceId"]
    assert cloud.launch(ClientToken="once")["Instances"][0]["InstanceId"] == first
    assert cloud.refused("launch", ClientToken="once", InstanceType="t3.small")[1] == "IdempotentParameterMismatch"
    found = cloud.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["once"]}])["Reservations"]
    assert [one["InstanceId"] for r in found for one in r["Instances"]] == [first]
    cloud.ec2.terminate_instances(InstanceIds=[first])
    assert cloud.refused("launch", ClientToken="once")[1] == "IdempotentInstanceTerminated"


def test_states_in_which_nothing_starts(cloud: Cloud) -> None:
    instance = cloud.launch()["Instances"][0]
    one = {"InstanceIds": [instance["InstanceId"]]}
    kind = {"InstanceId": instance["InstanceId"], "InstanceType": {"Value": "t3.small"}}
    assert cloud.refused("ec2.modify_instance_attribute", **kind)[1] == "IncorrectInstanceState"
    cloud.ec2.stop_instances(**one)
    cloud.ec2.modify_instance_attribute(**kind)
    cloud.ec2.start_instances(**one)
    again = cloud.ec2.describe_instances(**one)["Reservations"][0]["Instances"][0]["LaunchTime"]
    assert again >= instance["LaunchTime"]
    cloud.ec2.terminate_instances(**one)
    assert "from which it can be started" in cloud.refused("ec2.start_instances", **one)[2]


def test_a_new_profile_is_not_known_at_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_launch, "PROFILE_SECONDS", 60.0)
    assert "iamInstanceProfile.name" in cloud.refused("launch", IamInstanceProfile={"Name": "nodes"})[2]
    monkeypatch.setattr(judge_launch, "PROFILE_SECONDS", 0.0)
    cloud.launch(IamInstanceProfile={"Name": "nodes"})


def test_capacity_quotas_and_zones(cloud: Cloud) -> None:
    weather.command(["lacks", "us-east-1a", "t3.large"])
    status, code, words = cloud.refused("launch")
    assert (status, code) == (500, "InsufficientInstanceCapacity")
    assert "sufficient t3.large capacity in the Availability Zone you requested (us-east-1a)" in words
    assert "or choosing us-east-1b, us-east-1c" in words
    weather.command(["clear"])
    for quota in ("L-1216C47A", "L-F678F1CE", "L-A4707A72"):
        weather.command(["quota", quota, "2"])
    cloud.launch()
    assert cloud.refused("launch")[1:] == ("VcpuLimitExceeded", cloud.refused("launch")[2])
    assert "vCPU limit of 2 allows" in cloud.refused("launch")[2]
    assert cloud.refused("ec2.create_vpc", CidrBlock="10.2.0.0/16")[1] == "VpcLimitExceeded"
    for _ in range(2):
        cloud.ec2.create_internet_gateway()
    assert cloud.refused("ec2.create_internet_gateway")[1] == "InternetGatewayLimitExceeded"
    asked = client("service-quotas").get_service_quota
    assert asked(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]["Value"] == 2
    assert asked(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]["Value"] == 128
    cloud.ec2.create_subnet(VpcId=cloud.vpc, CidrBlock="10.1.5.0/24", AvailabilityZone="us-east-1e")
    subnets = cloud.ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1e"]}, {
        "Name": "vpc-id", "Values": [cloud.vpc]}])["Subnets"]  # fmt: skip
    interface = {"DeviceIndex": 0, "SubnetId": subnets[0]["SubnetId"]}
    assert "is not supported in your requested Availability Zone (us-east-1e)" in cloud.refused(
        "launch", NetworkInterfaces=[interface]
    )[2]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "bucket"),
    [("t3.large", "standard"), ("c5.xlarge", "standard"), ("g4dn.xlarge", "g"), ("gr6.4xlarge", "g"),
     ("vt1.3xlarge", "g"),
     ("p5.48xlarge", "p"), ("x1.16xlarge", ""), ("trn1.2xlarge", ""), ("mac1.metal", ""), ("hpc6a.48xlarge", ""),
     ("dl2q.24xlarge", "")],
)  # fmt: skip
def test_buckets_of_vcpus(kind: str, bucket: str) -> None:
    assert quotas.bucket(kind) == bucket


@pytest.mark.parametrize("words", [["rain"], ["lacks", "us-east-1a"], ["away", "soon"], ["lose"], ["quota", "L-1"]])
def test_weather_that_there_is_not(words: list[str]) -> None:
    with pytest.raises(command.LabError, match="isn't a weather"):
        weather.command(words)


def test_weather_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather, "FILE", tmp_path / "weather.json")
    assert weather.command([]) == ["fair"]
    weather.command(["lose", "RunInstances", "2"])
    assert [weather.loses("RunInstances") for _ in range(3)] == [True, True, False]
    assert weather.command(["away", "60", "EC2"])[0].startswith("ec2 away for")
    assert weather.away("ec2") and not weather.away("iam")
    assert weather.command(["clear"]) == ["fair"]


@pytest.mark.parametrize(
    ("service", "request_", "action"),
    [
        ("s3", {"REQUEST_METHOD": "PUT", "QUERY_STRING": "partNumber=1&uploadId=x"}, "UploadPart"),
        ("s3", {"REQUEST_METHOD": "POST", "QUERY_STRING": "uploadId=x"}, "CompleteMultipartUpload"),
        ("s3", {"REQUEST_METHOD": "PUT"}, "PutObject"),
        ("scheduler", {"REQUEST_METHOD": "POST", "PATH_INFO": "/schedules/i-1"}, "CreateSchedule"),
        ("scheduler", {"REQUEST_METHOD": "DELETE", "PATH_INFO": "/schedule-groups/x"}, "DeleteScheduleGroup"),
        ("ssm", {"REQUEST_METHOD": "POST", "HTTP_X_AMZ_TARGET": "AmazonSSM.GetParameters"}, "GetParameters"),
    ],
)
def test_calls_are_known_by_name(service: str, request_: dict[str, Any], action: str) -> None:
    assert wire.action(request_, service) == action


# ---------------------------------------------------------------- images and snapshots

DIGEST = [{"Key": "flotilla-image", "Value": "abc"}]
BOTH = {"TagSpecifications": [{"ResourceType": kind, "Tags": DIGEST} for kind in ("image", "snapshot")]}


def encrypted(size: int) -> dict[str, Any]:
    """An encrypted root volume."""
    disk = {"VolumeSize": size, "VolumeType": "gp3", "Encrypted": True}
    return {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": disk}]}


def described(cloud: Cloud, image: str) -> dict[str, Any]:
    """An image as DescribeImages lists it."""
    (found,) = cloud.ec2.describe_images(ImageIds=[image])["Images"]
    return dict(found)


def root_of(cloud: Cloud, instance: str) -> dict[str, Any]:
    """An instance's root volume."""
    where = [{"Name": "attachment.instance-id", "Values": [instance]}]
    (found,) = cloud.ec2.describe_volumes(Filters=where)["Volumes"]
    return dict(found)


def test_an_image_is_as_its_instances_volume(cloud: Cloud) -> None:
    instance = cloud.launch(**encrypted(20))["Instances"][0]["InstanceId"]
    changed = {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": False}}]}
    refusal = cloud.refused("ec2.create_image", InstanceId=instance, Name="new", **changed)
    assert refusal[1] == "InvalidBlockDeviceMapping"
    image = cloud.ec2.create_image(InstanceId=instance, Name="new", **BOTH)["ImageId"]
    found = described(cloud, image)
    disk = found["BlockDeviceMappings"][0]["Ebs"]
    assert found["Tags"] == DIGEST
    assert (found["Architecture"], found["RootDeviceName"], found["Public"]) == ("x86_64", "/dev/xvda", False)
    assert (found["SourceInstanceId"], found["SourceImageId"]) == (instance, cloud.image)
    assert (disk["VolumeSize"], disk["Encrypted"]) == (20, True)
    (snapshot,) = cloud.ec2.describe_snapshots(OwnerIds=["self"], Filters=[
        {"Name": "tag:flotilla-image", "Values": ["abc"]}])["Snapshots"]  # fmt: skip
    assert (snapshot["SnapshotId"], snapshot["Encrypted"]) == (disk["SnapshotId"], True)
    assert snapshot["VolumeId"] == root_of(cloud, instance)["VolumeId"]
    used_by = [{"Name": "block-device-mapping.snapshot-id", "Values": [disk["SnapshotId"]]}]
    assert [one["ImageId"] for one in cloud.ec2.describe_images(Filters=used_by)["Images"]] == [image]
    # And so is what is launched from it.
    least = cloud.refused("launch", ImageId=image, **encrypted(19))
    assert least[1:] == ("InvalidBlockDeviceMapping", least[2]) and "expect size>= 20GB" in least[2]
    for options in ({}, {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {}}]}):
        volume = root_of(cloud, cloud.launch(ImageId=image, **options)["Instances"][0]["InstanceId"])
        assert (volume["Size"], volume["Encrypted"], volume["VolumeType"]) == (20, True, "gp3")
        assert volume["SnapshotId"] == disk["SnapshotId"]


def test_what_an_image_uses_is_not_deleted_before_it(cloud: Cloud) -> None:
    instance = cloud.launch()["Instances"][0]["InstanceId"]
    made = [cloud.ec2.create_image(InstanceId=instance, Name=f"new-{n}")["ImageId"] for n in range(2)]
    disks = [described(cloud, image)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] for image in made]
    status, code, words = cloud.refused("ec2.delete_snapshot", SnapshotId=disks[0])
    assert (status, code) == (400, "InvalidSnapshot.InUse")
    assert words == f"The snapshot {disks[0]} is currently in use by {made[0]}"
    cloud.ec2.deregister_image(ImageId=made[0])
    cloud.ec2.delete_snapshot(SnapshotId=disks[0])
    cloud.ec2.deregister_image(ImageId=made[1], DeleteAssociatedSnapshots=True)
    left = {one["SnapshotId"] for one in cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert not left & set(disks)
    assert cloud.refused("launch", ImageId=made[0])[1] == "InvalidAMIID.NotFound"


def test_an_image_must_be_there_before_it_is_launched(cloud: Cloud) -> None:
    backend = ec2_backends["123456789012"]["us-east-1"]
    instance = cloud.launch()["Instances"][0]["InstanceId"]
    image = cloud.ec2.create_image(InstanceId=instance, Name="new")["ImageId"]
    backend.amis[image].state = "pending"
    assert cloud.refused("launch", ImageId=image)[1:] == (
        "InvalidAMIID.Unavailable", f"AMI '{image}' is pending, and cannot be run")  # fmt: skip
    backend.amis[image].state = "available"
    del backend.snapshots[backend.amis[image].ebs_snapshot.id]
    assert cloud.refused("launch", ImageId=image)[1] == "InvalidSnapshot.NotFound"
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert "Instance is not in state 'running'" in cloud.refused(
        "ec2.create_image", InstanceId=instance, Name="other"
    )[2]  # fmt: skip
    backend.amis[image].owner_id = "999999999999"
    assert cloud.refused("ec2.deregister_image", ImageId=image)[1] == "AuthFailure"


def test_a_copy_may_be_encrypted_and_a_registered_image_has_its_architecture(cloud: Cloud) -> None:
    instance = cloud.launch()["Instances"][0]["InstanceId"]
    image = cloud.ec2.create_image(InstanceId=instance, Name="new", **BOTH)["ImageId"]
    copied = cloud.ec2.copy_image(SourceImageId=image, SourceRegion="us-east-1", Name="copy", Encrypted=True,
                                  CopyImageTags=True)["ImageId"]  # fmt: skip
    found, disk = described(cloud, copied), described(cloud, image)["BlockDeviceMappings"][0]["Ebs"]
    assert not disk["Encrypted"] and found["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
    assert found["Tags"] == DIGEST
    root = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": disk["SnapshotId"]}}
    other = cloud.ec2.register_image(Name="arm", Architecture="arm64", RootDeviceName="/dev/xvda",
                                     BlockDeviceMappings=[root])["ImageId"]  # fmt: skip
    assert "architecture 'x86_64' of the specified instance type" in cloud.refused("launch", ImageId=other)[2]
    cloud.ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    assert cloud.refused("ec2.delete_snapshot", SnapshotId=disk["SnapshotId"])[2].endswith(other), "of two images"


def test_who_makes_images_may_do_so_to_instance_image_and_snapshot(cloud: Cloud) -> None:
    instance = cloud.launch(**tagged("instance", ("flotilla-fleet", "demo")))["Instances"][0]["InstanceId"]
    wanted = {"StringEquals": {"aws:RequestTag/flotilla-image": "abc"}}
    new = ["arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*"]
    ours = {"StringEquals": {"aws:ResourceTag/flotilla-image": "abc"}}
    with as_user(
        cloud,
        {"Action": "ec2:CreateImage", "Resource": "arn:aws:ec2:*:*:instance/*", "Condition": OURS},
        {"Action": "ec2:CreateImage", "Resource": new, "Condition": wanted},
        {
            "Action": "ec2:CreateTags",
            "Resource": new,
            "Condition": {"StringEquals": {"ec2:CreateAction": "CreateImage"}},
        },
        {"Action": ["ec2:DeregisterImage", "ec2:DeleteSnapshot"], "Resource": "*", "Condition": ours},
    ) as mine:
        ec2 = mine("ec2")
        with pytest.raises(ClientError, match=r"UnauthorizedOperation.*ec2:CreateImage on resource: .*::image/\*"):
            ec2.create_image(InstanceId=instance, Name="bare")
        image = ec2.create_image(InstanceId=instance, Name="new", **BOTH)["ImageId"]
        with pytest.raises(ClientError, match=f"ec2:DeregisterImage on resource: .*image/{cloud.image}"):
            ec2.deregister_image(ImageId=cloud.image)
        ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_a_layer_stays_while_a_snapshot_or_a_host_needs_it(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS", tmp_path)
    backend = ec2_backends["123456789012"]["us-east-1"]
    instance = cloud.launch()["Instances"][0]["InstanceId"]
    images = [backend.amis[cloud.ec2.create_image(InstanceId=instance, Name=f"new-{n}")["ImageId"]] for n in range(3)]
    layers = [tmp_path / image.ebs_snapshot.id for image in images]
    for layer in layers:
        layer.mkdir()
    kept = snapshots.Snapshots(backend, {})
    below = snapshots.Disk((layers[0],), "admin")
    kept.disks = {layers[0].name: below, layers[1].name: snapshots.Disk((layers[1], layers[0]), "ubuntu")}
    kept.copy(images[2], images[1])
    assert kept.disk(images[2].id) == snapshots.Disk((layers[1], layers[0]), "ubuntu")
    kept.collect()
    assert [layer.exists() for layer in layers] == [True, True, False], "the copy has no layer of its own"
    for image in images[:2]:
        cloud.ec2.deregister_image(ImageId=image.id, DeleteAssociatedSnapshots=True)
    kept.collect()
    assert [layer.exists() for layer in layers[:2]] == [True, True], "of the copy"
    kept.hosts["i-1"] = Host("i-1", [layers[0], Path("/base")], "admin", 2, cached=True)
    cloud.ec2.deregister_image(ImageId=images[2].id, DeleteAssociatedSnapshots=True)
    kept.collect()
    assert [layer.exists() for layer in layers[:2]] == [True, False], "a host's"
    kept.hosts.clear()
    kept.collect()
    assert not any(layer.exists() for layer in layers)


def test_a_disk_has_its_files_and_no_links_into_the_shared_cache(tmp_path: Path) -> None:
    shared, layer = tmp_path / "shared", tmp_path / "layer"
    for name in ("archive/a/module.py", "archive/a/data/deep.txt"):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).write_text(name)
    (layer / "venv").mkdir(parents=True)
    links = {"module.py": "/var/cache/uv/archive/a/module.py", "data": "/var/cache/uv/archive/a/data",
             "python": "/usr/bin/python3", "lost": "/var/cache/uv/gone"}  # fmt: skip
    for name, target in links.items():
        (layer / "venv" / name).symlink_to(target)
    snapshots.unshare(layer, shared)
    module = layer / "venv/module.py"
    assert not module.is_symlink() and module.samefile(shared / "archive/a/module.py"), "nothing is copied"
    assert (layer / "venv/data/deep.txt").read_text() == "archive/a/data/deep.txt"
    assert str((layer / "venv/python").readlink()) == "/usr/bin/python3"
    assert str((layer / "venv/lost").readlink()) == "/var/cache/uv/gone"


# ---------------------------------------------------------------- what hosts reach

WIDE, INTERNAL = Rule("-1", None, None, ("0.0.0.0/0",)), Rule("-1", None, None, ("10.0.0.0/8",), ("sg-1",))
TO_S3, OTHER_PORT = Rule("tcp", 443, 443, s3=True), Rule("tcp", 80, 80, ("0.0.0.0/0",))


@pytest.mark.parametrize(
    ("public", "endpoint", "egress", "expected"),
    [
        (True, False, [WIDE], "all"),
        (True, True, [WIDE], "all"),
        (False, True, [WIDE], "s3"),
        (False, True, [TO_S3], "s3"),
        (True, False, [INTERNAL, TO_S3], "s3"),
        (True, True, [INTERNAL], ""),
        (True, True, [OTHER_PORT], ""),
        (True, False, [Rule("tcp", 0, 65535, ("0.0.0.0/0",))], "all"),
        (False, False, [WIDE, TO_S3], ""),
        (True, True, [], ""),
    ],
)
def test_what_of_aws_a_host_reaches(public: bool, endpoint: bool, egress: list[Rule], expected: str) -> None:
    port = Port("i-0123456789abcdef0", "10.0.0.4", "198.51.100.10" if public else None, ["sg-1"], [], egress, endpoint)
    assert port.services == expected
    rules = network.render([port])
    assert ("dnat to 198.18.0.1:5001" in rules) == (expected == "s3")
    assert ("ip daddr 198.18.0.1 tcp dport 5000 accept" in rules) == (expected == "all")
    assert ('oifname "up0" drop' in rules) != public


def test_an_endpoint_is_a_gateway_if_nothing_else_is_said(cloud: Cloud) -> None:
    made = cloud.ec2.create_vpc_endpoint(VpcId=cloud.vpc, ServiceName="com.amazonaws.us-east-1.s3")["VpcEndpoint"]
    assert made["VpcEndpointType"] == "Gateway"
    cloud.ec2.delete_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])
    [left] = cloud.ec2.describe_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])["VpcEndpoints"]
    assert left["State"] == "deleted"


@pytest.mark.parametrize(
    ("service", "expected"), [("s3", b"object"), ("", b"object"), ("ec2", None), ("sts", None), ("ssm", None)]
)
def test_a_gateway_endpoint_shows_s3_alone(
    service: str, expected: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("lab.api")
    monkeypatch.setattr(api, "SILENCE_SECONDS", 0.0)
    asked = {"REQUEST_METHOD": "GET", "PATH_INFO": "/bucket/object"}
    if service:
        asked["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential=AKIA/20261129/us-east-1/{service}/aws4_request"
    serve = api.s3_alone(lambda environ, start: [b"object"])
    if expected:
        assert serve(asked, None) == [expected]
    else:
        with pytest.raises(ConnectionResetError):
            serve(asked, None)


# ---------------------------------------------------------------- rights and schedules

TERMINATE = {"Action": "ec2:TerminateInstances", "Resource": "arn:aws:ec2:*:*:instance/*"}
OURS = {"StringEquals": {"aws:ResourceTag/flotilla-fleet": "demo"}}


def test_a_due_schedule_ends_what_its_role_may(cloud: Cloud) -> None:
    ids = [
        cloud.launch(**tagged("instance", ("flotilla-fleet", name)))["Instances"][0]["InstanceId"]
        for name in ("demo", "other", "demo")
    ]
    cloud.iam.create_role(RoleName="end", AssumeRolePolicyDocument=trust(Service="scheduler.amazonaws.com"))
    right = policy(**TERMINATE, Condition=OURS)
    cloud.iam.put_role_policy(RoleName="end", PolicyName="end", PolicyDocument=right)
    cloud.scheduler.create_schedule_group(Name="flotilla-demo")
    for number, some in enumerate((ids[:1], ids[1:2], [ids[2], "i-00000000000000000"])):
        cloud.scheduler.create_schedule(
            Name=f"s{number}", GroupName="flotilla-demo", ScheduleExpression="at(2999-01-01T00:00:00)",
            FlexibleTimeWindow={"Mode": "OFF"}, ActionAfterCompletion="DELETE",
            Target={**TARGET, "RoleArn": f"{ME}:role/end", "Input": json.dumps({"InstanceIds": some}),
                    "RetryPolicy": {"MaximumRetryAttempts": 0}},
        )  # fmt: skip

    def states() -> list[str]:
        found = cloud.ec2.describe_instances(InstanceIds=ids)["Reservations"]
        named = {one["InstanceId"]: one["State"]["Name"] for r in found for one in r["Instances"]}
        return [named[one] for one in ids]

    schedules.run_due(datetime(2998, 12, 31, tzinfo=timezone.utc))
    assert states() == ["running"] * 3
    schedules.run_due(datetime(2999, 1, 1, tzinfo=timezone.utc))
    assert states() == ["terminated", "running", "running"], "another fleet's; one with an unknown id"
    assert cloud.scheduler.list_schedules(GroupName="flotilla-demo")["Schedules"] == []


def test_a_schedule_that_fails_is_tried_again(cloud: Cloud) -> None:
    instance = cloud.launch()["Instances"][0]["InstanceId"]
    cloud.iam.create_role(RoleName="end", AssumeRolePolicyDocument=trust(Service="scheduler.amazonaws.com"))
    target = {**TARGET, "RoleArn": f"{ME}:role/end", "Input": json.dumps({"InstanceIds": [instance]})}
    cloud.scheduler.create_schedule(**{**SCHEDULE, "Target": target})
    due = datetime(2999, 1, 1, tzinfo=timezone.utc)
    schedules.run_due(due)
    cloud.iam.put_role_policy(RoleName="end", PolicyName="end", PolicyDocument=policy(**TERMINATE))
    schedules.run_due(due)
    assert cloud.ec2.describe_instance_status()["InstanceStatuses"] != []
    schedules.run_due(due + timedelta(seconds=5))
    assert cloud.ec2.describe_instance_status()["InstanceStatuses"] == []
    cloud.scheduler.get_schedule(Name="i-1")  # it stays where it isn't told to go


def needed(service: str, action: str, **given: str) -> list[tuple[str, str]]:
    """Actions and the last parts of the resources that a call needs."""
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return [(one.action, one.resource.rpartition(":")[2]) for one in needs.needs(service, action, dotted)]


def test_what_calls_need(cloud: Cloud) -> None:
    launch = needed(
        "ec2", "RunInstances", ImageId=cloud.image, KeyName="k", NetworkInterface__1__SubnetId=cloud.subnet,
        NetworkInterface__1__SecurityGroupId__1=cloud.group, IamInstanceProfile__Name="nodes",
        TagSpecification__1__ResourceType="instance", TagSpecification__1__Tag__1__Key="a",
        TagSpecification__1__Tag__1__Value="b",
    )  # fmt: skip
    assert set(launch) == {
        *(("ec2:RunInstances", f"{kind}/*") for kind in ("instance", "volume", "network-interface")),
        ("ec2:RunInstances", f"image/{cloud.image}"), ("ec2:RunInstances", f"subnet/{cloud.subnet}"),
        ("ec2:RunInstances", f"security-group/{cloud.group}"), ("ec2:RunInstances", "key-pair/k"),
        ("ec2:CreateTags", "instance/*"), ("iam:PassRole", "role/nodes"),
    }  # fmt: skip
    ids = {"RouteTableId": "rtb-00000000", "GatewayId": "igw-00000000"}
    assert needed("ec2", "CreateRoute", **ids) == [("ec2:CreateRoute", "route-table/rtb-00000000")]
    assert needed("ec2", "DescribeInstances", InstanceId__1="i-00000000") == [("ec2:DescribeInstances", "*")]
    pass_on = needed("iam", "AddRoleToInstanceProfile", InstanceProfileName="nodes", RoleName="nodes")
    assert pass_on == [("iam:AddRoleToInstanceProfile", "instance-profile/nodes"), ("iam:PassRole", "role/nodes")]


@pytest.mark.parametrize(
    ("conditions", "values", "expected"),
    [
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["a"]}, True),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["a", "c"]}, False),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}, {}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {"aws:TagKeys": ["c", "a"]}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {}, False),
        (OURS, {"aws:ResourceTag/flotilla-fleet": "demo"}, True),
        (OURS, {"aws:ResourceTag/flotilla-fleet": "other"}, False),
    ],
)
def test_conditions_on_tags(conditions: dict[str, Any], values: dict[str, Any], expected: bool) -> None:
    assert access.holds(conditions, values) is expected


def test_a_boundary_limits(cloud: Cloud) -> None:
    access.attach()
    backend = iam_backends["123456789012"]["aws"]
    need = needs.Need("iam:PassRole", f"{ME}:role/nodes", {"iam:PassedToService": "ec2.amazonaws.com"})
    everything = policy(Action="*", Resource="*")
    limit = policy(Action="iam:PassRole", Resource="*",
                   Condition={"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}})  # fmt: skip
    bound = cloud.iam.create_policy(PolicyName="limit", PolicyDocument=limit)["Policy"]["Arn"]
    whole = cloud.iam.create_policy(PolicyName="all", PolicyDocument=everything)["Policy"]["Arn"]
    assert access.allows(backend, [everything], None, need)
    assert access.allows(backend, [backend.get_policy(whole)], None, need), "an attached policy"
    assert access.allows(backend, [everything], whole, need)
    assert not access.allows(backend, [everything], bound, need)
    assert not access.allows(backend, [], whole, need)


@contextmanager
def as_user(cloud: Cloud, *statements: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Clients of a user who has these rights, all judged by the lab's IAM."""
    document = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **one} for one in statements]})
    cloud.iam.put_user_policy(UserName="me", PolicyName="rights", PolicyDocument=document)
    key = cloud.iam.create_access_key(UserName="me")["AccessKey"]
    access.attach()
    with enable_iam_authentication():
        yield lambda service: boto3.client(
            service, aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]
        )


def test_rights_hang_on_tags_and_on_roles_that_are_passed_on(cloud: Cloud) -> None:
    ours, others = (
        cloud.launch(**tagged("instance", ("flotilla-fleet", name)))["Instances"][0]["InstanceId"]
        for name in ("demo", "other")
    )
    cloud.iam.create_role(RoleName="end", AssumeRolePolicyDocument=trust(Service="scheduler.amazonaws.com"))
    launch = {
        "ImageId": cloud.image,
        "MinCount": 1,
        "MaxCount": 1,
        "InstanceType": "t3.large",
        "SubnetId": cloud.subnet,
    }
    passing = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    tagging = {"StringEquals": {"ec2:CreateAction": "RunInstances", "aws:RequestTag/flotilla-fleet": "demo"}}
    with as_user(
        cloud,
        {**TERMINATE, "Condition": OURS},
        {"Action": ["ec2:RunInstances", "scheduler:CreateSchedule"], "Resource": "*"},
        {"Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*:*:*/*", "Condition": tagging},
        {"Action": "iam:PassRole", "Resource": f"{ME}:role/*", "Condition": passing},
    ) as mine:
        ec2, scheduler = mine("ec2"), mine("scheduler")
        ec2.terminate_instances(InstanceIds=[ours])
        with pytest.raises(ClientError, match=r"AccessDeniedException.*scheduler:ListScheduleGroups"):
            scheduler.list_schedule_groups()
        with pytest.raises(ClientError, match=f"UnauthorizedOperation.*ec2:TerminateInstances on .*{others}"):
            ec2.terminate_instances(InstanceIds=[ours, others])
        profile = {"IamInstanceProfile": {"Name": "nodes"}}
        ec2.run_instances(**launch, **profile, **tagged("instance", ("flotilla-fleet", "demo")))
        with pytest.raises(ClientError, match="ec2:CreateTags"):
            ec2.run_instances(**launch, **tagged("instance", ("flotilla-fleet", "other")))
        with pytest.raises(ClientError, match=r"AccessDeniedException.*iam:PassRole on resource: .*role/end"):
            scheduler.create_schedule(**{**SCHEDULE, "Target": {**TARGET, "RoleArn": f"{ME}:role/end"}})


def test_who_may_not_pass_a_role_on_launches_nothing_with_it(cloud: Cloud) -> None:
    launch = {
        "ImageId": cloud.image,
        "MinCount": 1,
        "MaxCount": 1,
        "InstanceType": "t3.large",
        "SubnetId": cloud.subnet,
    }
    with as_user(cloud, {"Action": "ec2:*", "Resource": "*"}) as mine:
        mine("ec2").run_instances(**launch)
        with pytest.raises(ClientError, match=r"iam:PassRole on resource: .*role/nodes"):
            mine("ec2").run_instances(**launch, IamInstanceProfile={"Name": "nodes"})


def test_a_users_boundary_limits(cloud: Cloud) -> None:
    limit = policy(Action=["ec2:Describe*", "iam:CreateRole"], Resource="*")
    bound = cloud.iam.create_policy(PolicyName="limit", PolicyDocument=limit)["Policy"]["Arn"]
    cloud.iam.put_user_permissions_boundary(UserName="me", PermissionsBoundary=bound)
    only = {"StringEquals": {"iam:PermissionsBoundary": bound}}
    with as_user(
        cloud, {"Action": "ec2:*", "Resource": "*"}, {"Action": "iam:CreateRole", "Resource": "*", "Condition": only}
    ) as mine:
        mine("ec2").describe_instances()
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            mine("ec2").create_vpc(CidrBlock="10.2.0.0/16")
        with pytest.raises(ClientError, match="AccessDenied"):
            mine("iam").create_role(**ROLE)
        mine("iam").create_role(**ROLE, PermissionsBoundary=bound)
