"""What belongs to a fleet, and its end: in which order, what stops it, what doesn't, and what it says; against moto."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import access_policy, aws
from ansible_collections.flotilla.kit.plugins.modules import fleet_resources
from ansible_collections.flotilla.kit.plugins.modules.fleet_resources import Resources, line, nothing_there, work
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

REGION = "us-east-1"
ME = "ada"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)
POLICY = json.dumps(access_policy.policy("s3://data/cifar10/", "s3://models/out/"))
SESSION = boto3.session.Session(region_name=REGION)  # reading EC2's description anew takes longer than all else here
LOOK_AND_END = ("Describe", "TerminateInstances")
Judge = Callable[[str], "Exception | None"]


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty region."""
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setattr(aws.boto3.session, "Session", lambda **options: SESSION)
    with mock_aws():
        yield


class Raised:
    """A fleet of two hosts with all that the role makes, and more."""

    def __init__(self, name: str = "demo", owner: str = ME, instances: bool = True) -> None:
        self.ec2, self.iam, self.scheduler = (SESSION.client(service) for service in ("ec2", "iam", "scheduler"))
        self.tags = [{"Key": "flotilla-fleet", "Value": name}, {"Key": "flotilla-owner", "Value": owner}]

        def tagged(kind: str, called: str = "") -> list[dict[str, Any]]:
            return [{"ResourceType": kind, "Tags": [*self.tags, {"Key": "Name", "Value": f"{name}-{called or kind}"}]}]

        ec2 = self.ec2
        self.vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=tagged("vpc"))["Vpc"]["VpcId"]
        self.subnet = ec2.create_subnet(
            VpcId=self.vpc, CidrBlock="10.77.0.0/19", TagSpecifications=tagged("subnet")
        )["Subnet"]["SubnetId"]  # fmt: skip
        gateway = ec2.create_internet_gateway(TagSpecifications=tagged("internet-gateway"))["InternetGateway"]
        ec2.attach_internet_gateway(VpcId=self.vpc, InternetGatewayId=gateway["InternetGatewayId"])
        table = ec2.create_route_table(VpcId=self.vpc, TagSpecifications=tagged("route-table"))["RouteTable"]
        ec2.associate_route_table(RouteTableId=table["RouteTableId"], SubnetId=self.subnet)
        ec2.create_vpc_endpoint(
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{REGION}.s3",
            VpcEndpointType="Gateway",
            RouteTableIds=[table["RouteTableId"]],
            TagSpecifications=tagged("vpc-endpoint"),
        )
        group = ec2.create_security_group(
            GroupName="nodes", Description="nodes", VpcId=self.vpc, TagSpecifications=tagged("security-group")
        )["GroupId"]
        ec2.create_key_pair(KeyName=f"flotilla-{name}", TagSpecifications=tagged("key-pair"))
        ec2.create_volume(Size=1, AvailabilityZone=f"{REGION}a", TagSpecifications=tagged("volume"))
        role = f"flotilla-{name}-{REGION}"
        for one in (role, f"{role}-expiry"):
            self.iam.create_role(RoleName=one, AssumeRolePolicyDocument=TRUST, Tags=self.tags)
            self.iam.put_role_policy(RoleName=one, PolicyName="storage", PolicyDocument=POLICY)
        self.iam.create_instance_profile(InstanceProfileName=role, Tags=self.tags)
        self.iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        self.scheduler.create_schedule_group(Name=f"flotilla-{name}", Tags=self.tags)
        image = ec2.register_image(Name="image", RootDeviceName="/dev/xvda")["ImageId"]
        self.ids = []
        for called in ("chief-0", "worker-0") if instances else ():
            launched = ec2.run_instances(
                ImageId=image,
                InstanceType="t3.large",
                MinCount=1,
                MaxCount=1,
                SubnetId=self.subnet,
                SecurityGroupIds=[group],
                TagSpecifications=tagged("instance", called),
            )
            self.ids.append(launched["Instances"][0]["InstanceId"])

    def living(self) -> set[str]:
        """The instances that haven't ended."""
        found = self.ec2.describe_instances(InstanceIds=self.ids)["Reservations"]
        return {i["InstanceId"] for r in found for i in r["Instances"] if i["State"]["Name"] != "terminated"}


def spied(fleet: Resources, judge: Judge = lambda operation: None) -> list[str]:
    """Note each operation that a fleet's clients are asked for, unless the judge has an error for it."""
    asked: list[str] = []

    def note(model: Any, **_: Any) -> None:
        if error := judge(model.name):
            raise error
        asked.append(model.name)

    for client in (fleet.ec2, fleet.iam, fleet.scheduler):
        client.meta.events.register("before-call", note)
    return asked


def refusal(operation: str, code: str = "UnauthorizedOperation", words: str = "no") -> ClientError:
    """An error as AWS answers."""
    return ClientError(
        {"Error": {"Code": code, "Message": words}, "ResponseMetadata": {"HTTPStatusCode": 400}}, operation
    )  # type: ignore[typeddict-item]


def only(*allowed: str) -> Judge:
    """A policy that allows what begins so."""
    return lambda operation: None if operation.startswith(allowed) else refusal(operation)


def destroy(fleet: Resources, **parameters: Any) -> dict[str, Any]:
    """Run the module's work with state absent."""
    defaults = {"region": REGION, "state": "absent", "owner": ME, "adopt": False, "timeout": 20}
    return work(fleet, {**defaults, **parameters}, False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which a pause takes no time."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))


def test_nothing_of_the_fleet_is_left_and_all_else_is() -> None:
    raised = Raised()
    foreign = raised.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    raised.iam.create_role(RoleName="somebody", AssumeRolePolicyDocument=TRUST)
    raised.scheduler.create_schedule_group(Name="somebody")
    fleet = Resources(REGION, "", "demo")
    kinds = {kind.name for kind in fleet.kinds} - {"network interface"}
    first, left = fleet.remove_all(10)
    assert left == [] and {one["kind"] for one in first} - {"network interface"} == kinds | {"instance"}
    assert fleet.instances() == [] and fleet.sweep() == ([], {}) and not raised.living()
    assert fleet.remove_all(10) == ([], [])
    assert raised.ec2.describe_vpcs(VpcIds=[foreign])["Vpcs"]
    assert [role["RoleName"] for role in raised.iam.list_roles()["Roles"]] == ["somebody"]
    assert {one["Name"] for one in raised.scheduler.list_schedule_groups()["ScheduleGroups"]} == {"default", "somebody"}


def test_it_goes_on_where_it_was_interrupted() -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    fleet.terminate(fleet.instances())
    fleet.remove([one for one in fleet.sweep()[0] if one["kind"] in ("key pair", "role", "security group")], [])
    assert {one["kind"] for one in fleet.sweep()[0]} >= {"VPC", "subnet"}
    assert Resources(REGION, "", "demo").remove_all(10)[1] == [] and not raised.living()


def test_it_finds_what_a_killed_run_left_untagged() -> None:
    raised = Raised()
    table = raised.ec2.create_route_table(VpcId=raised.vpc)["RouteTable"]["RouteTableId"]
    first, left = Resources(REGION, "", "demo").remove_all(10)
    assert table in [one["id"] for one in first] and left == []
    assert table not in [one["RouteTableId"] for one in raised.ec2.describe_route_tables()["RouteTables"]]


@pytest.mark.usefixtures("quick")
def test_instances_end_first_and_what_they_hold_goes_when_they_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    Raised()
    fleet = Resources(REGION, "", "demo")
    listed, rounds = fleet.instances, iter("ab")
    ending: list[dict[str, Any]] = []

    def slow() -> list[dict[str, Any]]:
        """Instances take a while to shut down."""
        if found := listed():
            ending[:] = [{**one, "state": "shutting-down"} for one in found]
        elif next(rounds, None) is None:
            ending.clear()
        return found or list(ending)

    early = ("DeleteKeyPair", "DeleteVpcEndpoints", "DeleteInstanceProfile")

    def in_use(operation: str) -> Exception | None:
        """AWS, which deletes nothing that an instance needs."""
        held = operation.startswith(("Delete", "Detach")) and not operation.startswith((*early, "DeleteRole"))
        assert not (ending and held), f"{operation} while instances are there"
        return None

    monkeypatch.setattr(fleet, "instances", slow)
    asked = spied(fleet, in_use)
    assert fleet.remove_all(60)[1] == []
    assert asked[:2] == ["DescribeInstances", "TerminateInstances"]
    deletes = [operation for operation in asked if operation.startswith("Delete")]
    assert deletes[-4:] == ["DeleteRouteTable", "DeleteInternetGateway", "DeleteSubnet", "DeleteVpc"]
    assert deletes.index("DeleteScheduleGroup") < deletes.index("DeleteSecurityGroup")


def test_to_look_and_to_end_is_enough_for_the_instances() -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    spied(fleet, only(*LOOK_AND_END))
    answer = destroy(fleet, timeout=600)  # which it doesn't wait for
    assert not raised.living() and answer["failed"]
    assert f"VPC {raised.vpc} (you lack the permission ec2:DeleteVpc)" in answer["left"]
    assert "roles can't be listed: you lack the permission iam:GetRole" in answer["left"]
    assert "schedule groups can't be listed: you lack the permission scheduler:GetScheduleGroup" in answer["left"]
    assert answer["msg"].startswith(
        "Gone of the fleet demo: 2 instances. What is left of the fleet demo may cost money: "
    )
    for volume in raised.ec2.describe_volumes()["Volumes"]:
        raised.ec2.delete_volume(VolumeId=volume["VolumeId"])
    fleet = Resources(REGION, "", "demo")
    spied(fleet, only(*LOOK_AND_END))
    assert "What is left of the fleet demo costs nothing: key pair" in destroy(fleet)["msg"]


def test_one_listing_that_is_refused_is_a_line() -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    spied(fleet, lambda operation: refusal(operation) if operation == "DescribeVolumes" else None)
    answer = destroy(fleet)
    assert answer["left"] == ["volumes can't be listed: you lack the permission ec2:DescribeVolumes"]
    assert not raised.living()


@pytest.mark.usefixtures("quick")
def test_what_waits_for_something_refused_is_not_waited_for() -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")

    def judge(operation: str) -> Exception | None:
        if operation == "DeleteVpc":
            return refusal(operation, "DependencyViolation", f"The vpc '{raised.vpc}' has dependencies")
        return refusal(operation) if operation == "DeleteSubnet" else None

    spied(fleet, judge)
    left = [line(one) for one in fleet.remove_all(600)[1]]
    assert len(left) == 2 and "you lack the permission ec2:DeleteSubnet" in left[0] and "has dependencies" in left[1]
    assert time.monotonic() < 60


def test_an_id_that_aws_does_not_know_saves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    listed = fleet.instances
    ghost = {"kind": "instance", "id": "i-0123456789abcdef0", "name": "", "state": "running", "item": {}}
    first = iter([True])
    monkeypatch.setattr(fleet, "instances", lambda: [*listed(), *([ghost] if next(first, False) else [])])
    assert fleet.remove_all(20)[1] == [] and not raised.living()


def test_an_instance_that_may_not_be_ended_saves_no_other_and_keeps_what_it_needs() -> None:
    raised = Raised()
    raised.ec2.modify_instance_attribute(InstanceId=raised.ids[1], DisableApiTermination={"Value": True})
    answer = destroy(Resources(REGION, "", "demo"), timeout=600)
    assert raised.living() == {raised.ids[1]}
    assert answer["left"][0].startswith(f"instance {raised.ids[1]} (") and "OperationNotPermitted" in answer["left"][0]
    assert raised.iam.get_role(RoleName=f"flotilla-demo-{REGION}") and raised.ec2.describe_key_pairs()["KeyPairs"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://198.18.0.1"),
        ClientError(
            {"Error": {"Code": "RequestLimitExceeded"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "X"  # type: ignore[typeddict-item]
        ),
        refusal("X", "Throttling"),
    ],
)  # fmt: skip
def test_an_api_that_is_away_for_a_while_stops_nothing(error: Exception) -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    fleet.aws.reached = True
    spied(fleet, lambda operation: error if time.monotonic() < 8 else None)
    assert fleet.remove_all(600)[1] == [] and not raised.living()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", ["DescribeSubnets", "GetRole", "TerminateInstances", "DeleteVpc"])
def test_so_does_no_other_call(method: str) -> None:
    raised = Raised()
    fleet = Resources(REGION, "", "demo")
    throttled = refusal(method, "Throttling")
    spied(fleet, lambda operation: throttled if operation == method and time.monotonic() < 8 else None)
    assert fleet.remove_all(600)[1] == [] and not raised.living()


@pytest.mark.usefixtures("quick")
def test_an_api_that_stays_away_is_said_at_the_end() -> None:
    Raised()
    fleet = Resources(REGION, "", "demo")
    spied(fleet, lambda operation: EndpointConnectionError(endpoint_url="http://198.18.0.1"))
    with pytest.raises(aws.FleetError, match="doesn't answer"):
        destroy(fleet, timeout=600)  # a wrong address is told soon
    assert time.monotonic() < 30
    fleet.aws.reached = True
    answer = destroy(fleet, timeout=60)
    assert answer["left"][0].startswith("instances can't be listed: AWS's API at http://198.18.0.1 doesn't answer")
    assert "may cost money" in answer["msg"] and 60 < time.monotonic() < 110


def test_a_listing_of_instances_that_is_refused_ends_it_at_once() -> None:
    Raised()
    fleet = Resources(REGION, "", "demo")
    spied(fleet, only("Delete"))
    with pytest.raises(aws.FleetError, match="may not list the fleet's instances"):
        destroy(fleet, timeout=600)


@pytest.mark.usefixtures("quick")
def test_a_region_that_is_none_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Resources(REGION, "", "demo")
    monkeypatch.setattr(fleet.aws, "region", "us-eest-1")
    spied(fleet, lambda operation: EndpointConnectionError(endpoint_url="https://ec2.us-eest-1.amazonaws.com"))
    with pytest.raises(aws.FleetError, match="fleet_region us-eest-1 isn't a region of AWS"):
        fleet.remove_all(600)


@pytest.mark.usefixtures("quick")
def test_a_schedule_group_is_waited_for_while_aws_deletes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Raised()
    fleet = Resources(REGION, "", "demo")
    groups, states = fleet.schedule_groups, iter(["DELETING"] * 3)
    last: list[dict[str, Any]] = []

    def deleting() -> list[dict[str, Any]]:
        found = groups()
        last.extend(found)
        state = "" if found else next(states, "")
        return [{**last[0], "state": state}] if state else found

    kinds = [kind._replace(find=deleting) if kind.name == "schedule group" else kind for kind in fleet.kinds]
    monkeypatch.setattr(fleet, "kinds", kinds)
    asked = spied(fleet)
    assert fleet.remove_all(60)[1] == []
    assert asked.count("DeleteScheduleGroup") == 1 and next(states, None) is None


def test_a_role_or_a_schedule_group_of_the_same_name_that_is_not_ours_stays() -> None:
    SESSION.client("iam").create_role(RoleName=f"flotilla-demo-{REGION}", AssumeRolePolicyDocument=TRUST)
    SESSION.client("scheduler").create_schedule_group(Name="flotilla-demo")
    assert Resources(REGION, "", "demo").sweep() == ([], {})


def test_without_a_schedule_nobody_asks_for_one() -> None:
    raised = Raised(instances=False)
    fleet = Resources(REGION, "", "demo", schedule=False)
    asked = spied(fleet)
    fleet.remove_all(10)
    assert not [operation for operation in asked if "Schedule" in operation]
    assert not raised.iam.list_roles()["Roles"], "the schedules' role is of a time when there were some"


@pytest.mark.parametrize("instances", [True, False])
def test_what_is_another_s_stays_unless_one_says_so(instances: bool) -> None:
    raised = Raised(owner="grace", instances=instances)
    with pytest.raises(aws.FleetError, match=r"The fleet demo is grace's, and you are ada: .*fleet_adopt to true"):
        destroy(Resources(REGION, "", "demo"))
    assert raised.living() == set(raised.ids) and raised.ec2.describe_key_pairs()["KeyPairs"]
    answer = destroy(Resources(REGION, "", "demo"), adopt=True)
    assert answer["changed"] and "failed" not in answer and not raised.living()


def test_hosts_without_an_owner_are_their_role_s() -> None:
    """The Infrastructure Manager's hosts have no tag that names one."""
    raised = Raised(owner="grace")
    raised.ec2.delete_tags(Resources=raised.ids, Tags=[{"Key": "flotilla-owner"}])
    with pytest.raises(aws.FleetError, match="The fleet demo is grace's"):
        destroy(Resources(REGION, "", "demo"))
    assert raised.living() == set(raised.ids)
    assert destroy(Resources(REGION, "", "demo"), adopt=True)["changed"] and not raised.living()


def test_who_asks_is_known_by_his_credentials() -> None:
    Raised(owner="moto")
    assert destroy(Resources(REGION, "", "demo"), owner="")["changed"]
    Raised(owner="grace")
    with pytest.raises(aws.FleetError, match="grace's, and you are moto"):
        destroy(Resources(REGION, "", "demo"), owner="")


def test_what_went_is_said() -> None:
    raised = Raised()
    answer = destroy(Resources(REGION, "", "demo"))
    assert list(answer["summary"].items())[:3] == [
        ("2 instances", "demo-chief-0, demo-worker-0"),
        ("key pair", "flotilla-demo"),
        ("instance profile", f"flotilla-demo-{REGION}"),
    ]
    assert {one["id"] for one in answer["resources"]} >= {*raised.ids, raised.vpc}


def test_a_slip_of_the_pen_is_no_success_but_a_second_time_is() -> None:
    Raised()
    answer = destroy(Resources(REGION, "", "dmeo"))
    assert answer["msg"] == (
        "There is no fleet dmeo in us-east-1 (there are: demo): set fleet_name to the one that you mean."
    )
    Raised("demo2")
    assert "failed" not in destroy(Resources(REGION, "", "demo"))
    again = destroy(Resources(REGION, "", "demo"))
    assert not again["changed"] and "failed" not in again
    assert again["summary"] == {"nothing": "nothing of the fleet demo is left in us-east-1"}


@pytest.mark.parametrize(
    ("fleets", "ended", "said", "wrong"),
    [
        ([], False, "nor any other: if it is elsewhere, set fleet_region", False),
        (["night"], False, "(there are: night)", False),
        (["demo", "night"], False, "(there are: demo, night)", True),
        (["demo"], True, "nothing of the fleet demmo is left", False),
    ],
)
def test_where_nothing_is_it_names_what_is(fleets: list[str], ended: bool, said: str, wrong: bool) -> None:
    sentence, is_wrong = nothing_there("demmo", REGION, fleets, ended)
    assert said in sentence and is_wrong is wrong


def test_a_listing_says_what_it_could_not_list() -> None:
    Raised()
    fleet = Resources(REGION, "", "demo")
    spied(fleet, only(*LOOK_AND_END))
    answer = destroy(fleet, state="present")
    assert not answer["changed"] and "roles can't be listed: you lack the permission iam:GetRole" in answer["unlisted"]
    assert {one["kind"] for one in answer["resources"]} >= {"instance", "VPC"}
    assert fleet_resources.work(fleet, {"region": REGION, "state": "absent", "owner": ME, "adopt": False}, True)[
        "changed"
    ]
    assert len(fleet.instances()) == 2
