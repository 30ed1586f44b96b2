"""The fleet's network and access, against moto made as strict as AWS's documents."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import access_policy, aws, make
from ansible_collections.flotilla.kit.plugins.modules.fleet_access import Access
from ansible_collections.flotilla.kit.plugins.modules.fleet_network import Network
from ansible_collections.flotilla.kit.plugins.modules.fleet_resources import Resources
from botocore.exceptions import ClientError
from moto import mock_aws

from lab import judge

REGION = "us-east-1"
ACCOUNT = "123456789012"
TAGS = {"flotilla-fleet": "demo", "flotilla-owner": "ada", "flotilla-expires": "2099-11-28T20:00:00Z"}
MADE = ["VPC", "subnet", "internet gateway", "route table", "route to the internet", "endpoint for S3"]


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty region that refuses what AWS refuses."""
    monkeypatch.setattr(make, "PROPAGATION", 0)
    session = boto3.session.Session()  # reading EC2's description anew for each client takes longer than all else here
    monkeypatch.setattr(aws.boto3.session, "Session", lambda **_: session)
    monkeypatch.setattr(boto3, "client", session.client)
    with mock_aws():
        judge.attach()
        yield
        judge.detach()


def wanted(**more: Any) -> dict[str, Any]:
    """What the role tells fleet_network."""
    return {
        "region": REGION, "profile": "", "name": "demo", "tags": TAGS, "cidr": "10.77.0.0/16", "vpc_id": "",
        "subnet_id": "", "zone": {"name": "us-east-1a", "cidr": "10.77.0.0/19"}, "ssh_sources": ["203.0.113.7/32"],
        **more,
    }  # fmt: skip


def access(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """What the role tells fleet_access."""
    return {
        "region": REGION, "profile": "", "name": "demo", "tags": TAGS, "launcher": "ansible", "account": ACCOUNT,
        "partition": "aws", "boundary": "", "policy": access_policy.policy("s3://data/cifar10/", "s3://models/out/"),
        "folders_policy": {}, "schedule": True, "ssh_key": str(tmp_path / "new/folder/key"), "public_key": "",
        "replace_key_pair": False,
        **more,
    }  # fmt: skip


def group() -> dict[str, Any]:
    """The security group."""
    (found,) = boto3.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["flotilla-demo"]}]
    )["SecurityGroups"]
    return dict(found)


def test_a_network_is_made_once() -> None:
    first = Network(wanted(), False).ensure()
    assert first["changed"] and set(MADE) < set(first["changes"])
    second = Network(wanted(), False).ensure()
    assert second == {**first, "changed": False, "changes": []}
    ec2 = boto3.client("ec2")
    (table,) = ec2.describe_route_tables(RouteTableIds=[first["route_table_id"]])["RouteTables"]
    assert any(one.get("GatewayId", "").startswith("igw-") for one in table["Routes"])
    assert [one["SubnetId"] for one in table["Associations"]] == [first["subnet_id"]]
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert endpoint["RouteTableIds"] == [first["route_table_id"]] and endpoint["ServiceName"].endswith(".s3")
    names = ec2.describe_vpc_attribute(VpcId=first["vpc_id"], Attribute="enableDnsHostnames")
    assert names["EnableDnsHostnames"]["Value"]
    for kind, key in (("vpcs", "Vpcs"), ("subnets", "Subnets"), ("internet_gateways", "InternetGateways"),
                      ("route_tables", "RouteTables"), ("vpc_endpoints", "VpcEndpoints"),
                      ("security_groups", "SecurityGroups")):  # fmt: skip
        (one,) = getattr(ec2, f"describe_{kind}")(Filters=aws.tag_filter("demo"))[key]
        assert TAGS.items() < aws.tags_of(one).items() and aws.tags_of(one)["Name"].startswith("demo-"), kind


def test_check_mode_makes_nothing(tmp_path: Path) -> None:
    answer = Network(wanted(), True).ensure()
    assert set(MADE) < set(answer["changes"]) and answer["changed"] and answer["subnet_id"] == ""
    answer = Access(access(tmp_path), True).ensure()
    assert {"SSH key", "key pair", "instance profile"} < set(answer["changes"]) and answer["role_arn"] == ""
    assert not (tmp_path / "new").exists()
    ec2 = boto3.client("ec2")
    assert not ec2.describe_vpcs(Filters=aws.tag_filter("demo"))["Vpcs"] and not ec2.describe_key_pairs()["KeyPairs"]


@pytest.mark.parametrize("lost", ["create_subnet", "create_route_table", "attach_internet_gateway",
                                  "create_vpc_endpoint", "create_security_group",
                                  "authorize_security_group_ingress", "associate_route_table"])  # fmt: skip
def test_what_a_killed_run_left_is_gone_on_with(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stopped before one of its calls; another run makes the rest and nothing twice."""
    call = aws.Aws.call

    def killed(self: Any, doing: str, service: str, method: str, **arguments: Any) -> Any:
        if method == lost:
            raise KeyboardInterrupt
        return call(self, doing, service, method, **arguments)

    monkeypatch.setattr(aws.Aws, "call", killed)
    with pytest.raises(KeyboardInterrupt):
        Network(wanted(), False).ensure()
    monkeypatch.setattr(aws.Aws, "call", call)
    answer = Network(wanted(), False).ensure()
    assert answer["changed"] and Network(wanted(), False).ensure() == {**answer, "changed": False, "changes": []}
    fleet = Resources(REGION, "", "demo", schedule=False)
    kinds = [one["kind"] for one in fleet.sweep()[0]]
    assert sorted(kinds) == sorted(
        ["VPC endpoint", "security group", "route table", "internet gateway", "subnet", "VPC"]
    )
    assert fleet.remove_all(20)[1] == []


@pytest.mark.parametrize("method", ["create_subnet", "create_security_group", "attach_internet_gateway",
                                    "create_route", "associate_route_table"])  # fmt: skip
def test_an_answer_that_was_lost_makes_nothing_twice(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS has done it, the connection broke before that was heard, and the call is made again."""
    client, lost = aws.Aws.client, []

    def losing(self: Any, service: str) -> Any:
        found = client(self, service)
        real = getattr(found._client, method)
        if service == "ec2" and not lost and real.__name__ != "once":

            def once(**arguments: Any) -> Any:
                answer = real(**arguments)
                if not lost:
                    lost.append(method)
                    raise ClientError({"Error": {"Code": "InternalError", "Message": "lost"},
                                       "ResponseMetadata": {"HTTPStatusCode": 500}}, method)  # fmt: skip
                return answer

            setattr(found._client, method, once)
        return found

    monkeypatch.setattr(aws.Aws, "client", losing)
    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)
    answer = Network(wanted(), False).ensure()
    assert lost == [method]
    monkeypatch.setattr(aws.Aws, "client", client)
    assert Network(wanted(), False).ensure() == {**answer, "changed": False, "changes": []}


def test_the_group_has_exactly_its_rules() -> None:
    answer = Network(wanted(), False).ensure()
    identity = answer["security_group_id"]
    ec2 = boto3.client("ec2")
    world = [{"IpProtocol": "tcp", "FromPort": 8020, "ToPort": 8020, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.authorize_security_group_ingress(GroupId=identity, IpPermissions=world)
    answer = Network(wanted(ssh_sources=["198.51.100.1/32", "2001:db8::/64"]), False).ensure()
    assert answer["changes"] == ["security group's rules"] * 2
    rules = {(one["IpProtocol"], one.get("FromPort")): one for one in group()["IpPermissions"]}
    assert set(rules) == {("tcp", 22), ("-1", None)}
    assert [one["CidrIp"] for one in rules["tcp", 22]["IpRanges"]] == ["198.51.100.1/32"]
    assert [one["CidrIpv6"] for one in rules["tcp", 22]["Ipv6Ranges"]] == ["2001:db8::/64"]
    assert [one["GroupId"] for one in rules["-1", None]["UserIdGroupPairs"]] == [identity]


def test_a_later_expiry_is_tagged_everywhere(tmp_path: Path) -> None:
    Network(wanted(), False).ensure()
    Access(access(tmp_path), False).ensure()
    later = {**TAGS, "flotilla-expires": "2099-11-29T20:00:00Z"}
    assert Network(wanted(tags=later), False).ensure()["changes"] == ["tags"]
    assert Network(wanted(tags=later), False).ensure()["changes"] == []
    answer = Access(access(tmp_path, tags=later), False).ensure()
    assert len(answer["changes"]) == 4 and all("tags" in one for one in answer["changes"])
    assert Access(access(tmp_path, tags=later), False).ensure()["changes"] == []


def test_an_existing_network_gets_a_group_alone() -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    answer = Network(wanted(vpc_id=vpc, subnet_id="subnet-1"), False).ensure()
    assert (answer["vpc_id"], answer["subnet_id"], answer["route_table_id"]) == (vpc, "subnet-1", "")
    assert group()["VpcId"] == vpc and not ec2.describe_vpcs(Filters=aws.tag_filter("demo"))["Vpcs"]


def test_a_foreign_group_of_the_name_is_refused() -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    ec2.create_security_group(GroupName="flotilla-demo", Description="x", VpcId=vpc)
    with pytest.raises(aws.FleetError, match="flotilla-demo that isn't a fleet's: set fleet_name"):
        Network(wanted(vpc_id=vpc, subnet_id="subnet-1"), False).ensure()


def test_another_zone_gets_its_subnet() -> None:
    first = Network(wanted(), False).ensure()
    second = Network(wanted(zone={"name": "us-east-1b", "cidr": "10.77.32.0/19"}), False).ensure()
    assert second["changes"] == ["subnet", "the subnet's routes"]
    assert second["vpc_id"] == first["vpc_id"] and second["subnet_id"] != first["subnet_id"]


def test_access_is_made_once(tmp_path: Path) -> None:
    key = tmp_path / "new/folder/key"
    first = Access(access(tmp_path), False).ensure()
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700 and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Access(access(tmp_path), False).ensure() == {**first, "changed": False, "changes": []}
    iam = boto3.client("iam")
    role = iam.get_role(RoleName=f"flotilla-demo-{REGION}")["Role"]
    assert first["role_arn"] == role["Arn"] and TAGS.items() < aws.tags_of(role).items()
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}
    written = iam.get_role_policy(RoleName=f"flotilla-demo-{REGION}", PolicyName="storage")["PolicyDocument"]
    assert written == access_policy.policy("s3://data/cifar10/", "s3://models/out/")
    profile = iam.get_instance_profile(InstanceProfileName=f"flotilla-demo-{REGION}")["InstanceProfile"]
    assert [one["RoleName"] for one in profile["Roles"]] == [f"flotilla-demo-{REGION}"]
    expiry = iam.get_role_policy(RoleName=f"flotilla-demo-{REGION}-expiry", PolicyName="terminate")["PolicyDocument"]
    (statement,) = expiry["Statement"]
    assert statement["Action"] == "ec2:TerminateInstances" and statement["Resource"].endswith(":instance/*")
    assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/flotilla-fleet": "demo"}}
    (pair,) = boto3.client("ec2").describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert pair["PublicKey"].split()[:2] == (tmp_path / "new/folder/key.pub").read_text().split()[:2]


def test_the_infrastructure_manager_gets_a_role_alone(tmp_path: Path) -> None:
    answer = Access(access(tmp_path, launcher="im"), False).ensure()
    iam = boto3.client("iam")
    assert [one["Arn"] for one in iam.list_roles()["Roles"]] == [answer["role_arn"]]
    trust = iam.get_role(RoleName=f"flotilla-demo-{REGION}")["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert not iam.list_instance_profiles()["InstanceProfiles"] and not (tmp_path / "new").exists()


def test_roles_get_the_boundary(tmp_path: Path) -> None:
    iam = boto3.client("iam")
    Access(access(tmp_path), False).ensure()
    document = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    arn = iam.create_policy(PolicyName="flotilla-boundary", PolicyDocument=document)["Policy"]["Arn"]
    answer = Access(access(tmp_path, boundary=arn), False).ensure()
    assert len(answer["changes"]) == 2 and all(one.startswith("boundary of the role") for one in answer["changes"])
    Access(access(tmp_path, name="other", tags={**TAGS, "flotilla-fleet": "other"}, boundary=arn), False).ensure()
    for fleet in ("demo", "other"):
        for suffix in ("", "-expiry"):
            role = iam.get_role(RoleName=f"flotilla-{fleet}-{REGION}{suffix}")["Role"]
            assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == arn


def test_what_was_changed_by_hand_is_set_back(tmp_path: Path) -> None:
    Access(access(tmp_path), False).ensure()
    iam, name = boto3.client("iam"), f"flotilla-demo-{REGION}"
    iam.put_role_policy(
        RoleName=name, PolicyName="storage", PolicyDocument=json.dumps(access_policy.policy("s3://data/x/", ""))
    )
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    answer = Access(access(tmp_path), False).ensure()
    assert sorted(answer["changes"]) == ["instance profile's role", f"policy of the role {name}"]
    assert Access(access(tmp_path), False).ensure()["changes"] == []


def test_a_key_pair_of_a_key_that_is_gone_is_replaced(tmp_path: Path) -> None:
    Access(access(tmp_path), False).ensure()
    other = access(tmp_path, ssh_key=str(tmp_path / "other"), replace_key_pair=True)
    assert Access(other, False).ensure()["changes"].count("key pair") == 2
    (pair,) = boto3.client("ec2").describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert pair["PublicKey"].split()[:2] == (tmp_path / "other.pub").read_text().split()[:2]


def test_a_key_that_can_not_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "key.pub").mkdir()
    with pytest.raises(aws.FleetError, match="ssh-keygen could not make or read the SSH key"):
        Access(access(tmp_path, ssh_key=str(tmp_path / "key")), False).ensure()
