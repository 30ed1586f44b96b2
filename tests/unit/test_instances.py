"""fleet_instances against moto with AWS's weather: zones without capacity, an API that is away, lost answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import aws, reconcile
from ansible_collections.flotilla.kit.plugins.modules.fleet_instances import Fleet, reconcile_fleet
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ConnectionClosedError
from moto import mock_aws

LACK = (
    "We currently do not have sufficient {} capacity in the Availability Zone you requested ({}). Our system will be "
    "working on provisioning additional capacity."
)
NOT_OFFERED = (
    "Your requested instance type ({}) is not supported in your requested Availability Zone ({}). Please retry your "
    "request by not specifying an Availability Zone or choosing us-east-1c."
)
QUOTA = "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket."
SHARED = boto3.session.Session()  # reading EC2's description anew for each client takes longer than all else here
ZONES = [{"name": f"us-east-1{letter}", "cidr": f"10.77.{32 * place}.0/19"} for place, letter in enumerate("abc")]
LIVE = ("pending", "running", "stopping", "stopped")


def refuse(code: str, words: str, status: int, action: str = "RunInstances") -> ClientError:
    """AWS's answer as boto3 raises it."""
    error = {"Error": {"Code": code, "Message": words}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(error, action)


class Region:
    """moto's region with a weather, tokens as AWS has them, and a clock that only sleeping moves."""

    def __init__(self, call: Any) -> None:
        """Keep botocore's way to call."""
        self.call = call
        self.lock = threading.Lock()
        self.now = 0.0
        self.asked: list[str] = []
        self.order: list[str] = []  # types in the order of their launch
        self.lacks: dict[tuple[str, str], ClientError] = {}
        self.away: dict[str, tuple[float, Exception]] = {}  # from an action's first call on, all are away for seconds
        self.until: tuple[float, Exception] | None = None
        self.lost: dict[str, int] = {}
        self.tokens: dict[str, tuple[dict[str, Any], str]] = {}
        self.unlisted: set[str] = set()
        self.denied: set[str] = set()
        self.reasons: dict[str, str] = {}  # instances that end by themselves

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def answer(self, client: Any, action: str, arguments: dict[str, Any]) -> Any:
        """Answer one call."""
        with self.lock:
            self.asked.append(action)
            if action in self.away:
                seconds, error = self.away.pop(action)
                self.until = (self.now + seconds, error)
            if self.until and self.now < self.until[0]:
                raise self.until[1]
            if action in self.denied:
                raise refuse("UnauthorizedOperation", "You are not authorized to perform this operation.", 403, action)
            special = {"RunInstances": self.run, "DescribeInstances": self.describe}.get(action)
            found = special(client, arguments) if special else self.call(client, action, arguments)
            if self.lost.get(action):
                self.lost[action] -= 1
                raise ConnectionClosedError(endpoint_url="https://ec2.us-east-1.amazonaws.com/")
            return found

    def state(self, client: Any, identity: str) -> str:
        """An instance's state."""
        found = self.call(client, "DescribeInstances", {"InstanceIds": [identity]})
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def run(self, client: Any, arguments: dict[str, Any]) -> Any:
        """RunInstances with tokens and zones."""
        request = {key: value for key, value in arguments.items() if key != "ClientToken"}
        if arguments["ClientToken"] in self.tokens:
            before, identity = self.tokens[arguments["ClientToken"]]
            if not identity or before != request:
                words = (
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
                )
                raise refuse("IdempotentParameterMismatch", words, 400)
            if self.state(client, identity) not in LIVE:
                raise refuse("IdempotentInstanceTerminated", "The instance was terminated.", 400)
            return {"Instances": [{"InstanceId": identity}]}
        subnet = arguments["NetworkInterfaces"][0]["SubnetId"]
        zone = self.call(client, "DescribeSubnets", {"SubnetIds": [subnet]})["Subnets"][0]["AvailabilityZone"]
        self.order.append(arguments["InstanceType"])
        if (zone, arguments["InstanceType"]) in self.lacks:
            raise self.lacks[zone, arguments["InstanceType"]]
        made = self.call(client, "RunInstances", arguments)
        self.tokens[arguments["ClientToken"]] = (request, made["Instances"][0]["InstanceId"])
        return made

    def describe(self, client: Any, arguments: dict[str, Any]) -> Any:
        """DescribeInstances with the filter that moto lacks."""
        filters = arguments.get("Filters", [])
        tokens = [value for one in filters if one["Name"] == "client-token" for value in one["Values"]]
        others = [one for one in filters if one["Name"] != "client-token"]
        found = self.call(client, "DescribeInstances", {**arguments, "Filters": others})
        mine = {self.tokens[token][1] for token in tokens if token in self.tokens}
        for reservation in found["Reservations"]:
            reservation["Instances"] = [
                one
                for one in reservation["Instances"]
                if (one["InstanceId"] in mine if tokens else one["InstanceId"] not in self.unlisted)
            ]
            for one in reservation["Instances"]:
                if one["InstanceId"] in self.reasons:
                    one["State"]["Name"] = "terminated"
                    one["StateReason"] = {"Message": self.reasons[one["InstanceId"]]}
        return found

    def lack(self, zone: str, *types: str) -> None:
        """Take a zone's capacity for types away."""
        for name in types:
            self.lacks[zone, name] = refuse("InsufficientInstanceCapacity", LACK.format(name, zone), 500)


class World:
    """A fleet's network, and the fleet as fleet_instances sees it."""

    def __init__(self, region: Region) -> None:
        """Make what the role makes before the instances."""
        self.region = region
        self.ec2 = SHARED.client("ec2", region_name="us-east-1")
        iam = SHARED.client("iam", region_name="us-east-1")
        iam.create_instance_profile(InstanceProfileName="flotilla-demo")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.make_subnet(ZONES[0])
        self.routes = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        image = self.ec2.register_image(Name="debian-12-amd64-test", RootDeviceName="/dev/sda1")["ImageId"]
        self.group = self.ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=self.vpc)["GroupId"]
        host = {"image_id": image, "root_device": "/dev/sda1", "volume_size": 20, "ssh_user": "admin"}
        small = {**host, "instance_type": "t3.large", "gpus": 0, "tasks": 1}
        large = {**host, "instance_type": "g5.xlarge", "gpus": 1, "tasks": 1}
        self.groups = {"ps": {**small, "count": 1}, "chief": {**large, "count": 1}, "worker": {**large, "count": 2}}
        self.expires = "2026-11-28T20:00:00Z"

    def make_subnet(self, zone: dict[str, str]) -> str:
        """Make the subnet of a zone."""
        tags = [{"ResourceType": "subnet", "Tags": [{"Key": "flotilla-fleet", "Value": "demo"}]}]
        made = self.ec2.create_subnet(
            VpcId=self.vpc, CidrBlock=zone["cidr"], AvailabilityZone=zone["name"], TagSpecifications=tags
        )
        return str(made["Subnet"]["SubnetId"])

    def fleet(self, **changes: Any) -> Fleet:
        """The fleet."""
        tags = {"flotilla-fleet": "demo", "flotilla-owner": "ada", "flotilla-expires": self.expires}
        parameters = {
            "region": "us-east-1",
            "profile": "",
            "name": "demo",
            "groups": self.groups,
            "tags": tags,
            "zones": ZONES,
            "subnet_id": self.subnet,
            "vpc_id": self.vpc,
            "route_table_id": self.routes,
            "security_group_id": self.group,
            "key_name": "flotilla-demo",
            "instance_profile": "flotilla-demo",
            "public_addresses": True,
            "user_data": "#cloud-config",
            "timeout": 300,
        }
        return Fleet({**parameters, **changes})

    def up(self, dry: bool = False, **changes: Any) -> dict[str, Any]:
        """Run fleet_instances."""
        return reconcile_fleet(self.fleet(**changes), dry)

    def live(self) -> dict[str, str]:
        """Names and ids of what is alive, asked behind the weather's back; fails when a name is there twice."""
        found = self.region.call(self.ec2, "DescribeInstances", {})["Reservations"]
        alive = [one for r in found for one in r["Instances"] if one["State"]["Name"] in LIVE]
        pairs = [(aws.tags_of(one)["Name"].removeprefix("demo-"), one["InstanceId"]) for one in alive]
        assert len(dict(pairs)) == len(pairs)
        return dict(sorted(pairs))

    def zones(self) -> set[str]:
        """The zones of what is alive."""
        found = self.region.call(self.ec2, "DescribeInstances", {})["Reservations"]
        alive = [one for r in found for one in r["Instances"] if one["State"]["Name"] in LIVE]
        return {one["Placement"]["AvailabilityZone"] for one in alive}


ALL = ["chief-0", "ps-0", "worker-0", "worker-1"]
AWAY = refuse("Unavailable", "The server is overloaded and can't handle the request.", 503)
CLOSED = ConnectionClosedError(endpoint_url="https://ec2.us-east-1.amazonaws.com/")


@pytest.fixture
def region(monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    """A region of fair weather."""
    call = BaseClient._make_api_call
    region = Region(call)
    monkeypatch.setattr(BaseClient, "_make_api_call", lambda client, action, args: region.answer(client, action, args))
    monkeypatch.setattr(Fleet, "wait_ssh", lambda self, running: None)
    monkeypatch.setattr(boto3.session, "Session", lambda **_: SHARED)
    monkeypatch.setattr(aws.Aws, "lapse", (0, ""))
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        monkeypatch.setattr(time, "sleep", region.sleep)
        monkeypatch.setattr(time, "monotonic", lambda: region.now)
        yield region
        monkeypatch.undo()


@pytest.fixture
def world(region: Region) -> World:
    """A fleet whose instances are still to be launched."""
    return World(region)


def test_the_scarcest_type_first_and_nothing_the_second_time(world: World) -> None:
    first = world.up()
    assert world.region.order == [*["g5.xlarge"] * 3, "t3.large"]
    assert list(world.live()) == ALL and world.zones() == {"us-east-1a"}
    assert (first["zone"], first["lacking"]) == ("us-east-1a", [])
    second = world.up()
    assert not second["changed"] and second["launched"] == []


def test_of_types_without_gpus_the_largest_is_first(world: World) -> None:
    for group, name in {"ps": "m5.large", "chief": "m5.24xlarge", "worker": "m5.2xlarge"}.items():
        world.groups[group].update(instance_type=name, gpus=0)
    world.up()
    assert world.region.order[0] == "m5.24xlarge"


@pytest.mark.parametrize("lacking", ["g5.xlarge", "t3.large"])
def test_a_zone_without_capacity_is_left(world: World, lacking: str) -> None:
    """With t3.large, three hosts had been launched and are ended again."""
    world.region.lack("us-east-1a", lacking)
    answer = world.up()
    assert list(world.live()) == ALL and world.zones() == {"us-east-1b"}
    assert answer["zone"] == "us-east-1b"
    assert answer["lacking"] == [
        {"name": "us-east-1a", "reason": f"{lacking}: {LACK.format(lacking, 'us-east-1a').rstrip('.')}"}
    ]
    subnets = {
        one["AvailabilityZone"]: one for one in world.ec2.describe_subnets()["Subnets"] if one["VpcId"] == world.vpc
    }
    assert subnets["us-east-1b"]["CidrBlock"] == "10.77.32.0/19"
    assert {"flotilla-fleet": "demo", "Name": "demo-subnet"}.items() <= aws.tags_of(subnets["us-east-1b"]).items()
    (table,) = world.ec2.describe_route_tables(RouteTableIds=[world.routes])["RouteTables"]
    assert [one["SubnetId"] for one in table["Associations"]] == [subnets["us-east-1b"]["SubnetId"]]
    again = world.up(zones=ZONES[1:2], subnet_id=subnets["us-east-1b"]["SubnetId"])
    assert not again["changed"]


def test_a_subnet_of_an_earlier_run_has_its_routes_already(world: World) -> None:
    """Whether AWS takes the same association twice isn't documented."""
    world.ec2.associate_route_table(RouteTableId=world.routes, SubnetId=world.make_subnet(ZONES[1]))
    world.region.lack("us-east-1a", "t3.large")
    call = world.region.call

    def once(client: Any, action: str, arguments: dict[str, Any]) -> Any:
        if action == "AssociateRouteTable":
            words = "the specified association for route table rtb-1 conflicts with an existing association"
            raise refuse("Resource.AlreadyAssociated", words, 400, action)
        return call(client, action, arguments)

    world.region.call = once
    assert world.up()["zone"] == "us-east-1b" and list(world.live()) == ALL


def test_a_type_that_a_zone_does_not_offer(world: World) -> None:
    words = NOT_OFFERED.format("g5.xlarge", "us-east-1a")
    world.region.lacks["us-east-1a", "g5.xlarge"] = refuse("Unsupported", words, 400)
    world.region.lack("us-east-1b", "g5.xlarge")
    world.make_subnet(ZONES[2])  # an earlier run came that far
    assert world.up()["zone"] == "us-east-1c" and world.zones() == {"us-east-1c"}


def test_no_zone_has_capacity(world: World) -> None:
    for zone in ZONES:
        world.region.lack(zone["name"], "t3.large")
    with pytest.raises(aws.FleetError) as caught:
        world.up()
    text = str(caught.value)
    assert all(f"{zone['name']} (t3.large: {LACK.format('t3.large', zone['name'])[:-1]})" in text for zone in ZONES)
    assert text.endswith("zone (fleet_zone) or region; nothing that this run launched is left.") and "\n" not in text
    assert world.live() == {} and world.region.now < 60
    world.region.lacks.clear()
    assert world.up()["zone"] == "us-east-1a" and list(world.live()) == ALL


def test_a_fleet_stays_in_its_zone(world: World) -> None:
    world.up()
    before = world.live()
    world.groups["worker"]["count"] = 3
    world.groups["evaluator"] = {**world.groups["ps"]}
    world.region.lack("us-east-1a", "t3.large")
    with pytest.raises(aws.FleetError, match="us-east-1a"):
        world.up()
    assert world.live() == before and world.zones() == {"us-east-1a"}


def test_what_is_no_matter_of_the_zone_fails_at_once(world: World) -> None:
    world.region.lacks["us-east-1a", "t3.large"] = refuse("VcpuLimitExceeded", QUOTA, 400)
    with pytest.raises(aws.FleetError, match=r"VcpuLimitExceeded\): ask AWS for a higher quota.*was ended again"):
        world.up()
    assert world.live() == {} and "CreateSubnet" not in world.region.asked[8:]


def test_capacity_that_goes_between_launch_and_start(world: World) -> None:
    fleet = world.fleet()
    first = fleet.launch("chief", 0, [])
    world.ec2.terminate_instances(InstanceIds=[first])
    world.region.reasons[first] = "Server.InsufficientInstanceCapacity: Insufficient capacity to satisfy request."
    launch_all = fleet.launch_all

    def with_the_ended(slots: Any, known: Any) -> list[str]:
        launched = launch_all(slots, known)
        return [*launched, first] if fleet.zone["name"] == "us-east-1a" else launched

    fleet.launch_all = with_the_ended  # type: ignore[method-assign]
    assert reconcile_fleet(fleet, False)["zone"] == "us-east-1b"
    assert list(world.live()) == ALL and world.zones() == {"us-east-1b"}


def test_what_can_not_be_ended_is_named(world: World) -> None:
    world.region.lack("us-east-1a", "t3.large")
    world.region.denied.add("TerminateInstances")
    with pytest.raises(aws.FleetError) as caught:
        world.up()
    assert len(world.live()) == 3 and all(identity in str(caught.value) for identity in world.live().values())
    assert "t3.large: We currently" in str(caught.value) and "destroy the fleet" in str(caught.value)


def test_check_mode_changes_nothing(world: World) -> None:
    asked = len(world.region.asked)
    answer = world.up(dry=True, subnet_id="", vpc_id="", route_table_id="")
    assert sorted(answer["launched"]) == ALL and answer["zone"] == "us-east-1a"
    assert set(world.region.asked[asked:]) == {"DescribeInstances", "GetScheduleGroup"}


@pytest.mark.parametrize(
    ("phase", "error"),
    [
        ("DescribeInstances", AWAY),
        ("CreateTags", AWAY),
        ("StartInstances", AWAY),
        ("TerminateInstances", AWAY),
        ("RunInstances", AWAY),
        ("RunInstances", CLOSED),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_api_that_is_away_for_40_seconds(world: World, phase: str, error: Exception) -> None:
    world.groups["worker"]["count"] = 3
    world.up()
    world.groups["worker"]["count"] = 2
    world.groups["evaluator"] = {**world.groups["ps"]}
    world.ec2.stop_instances(InstanceIds=[world.live()["ps-0"]])
    world.expires = "2026-11-28T21:00:00Z"
    began = world.region.now
    world.region.away[phase] = (40, error)
    answer = world.up()
    assert world.region.now >= began + 40
    assert (answer["launched"], answer["started"]) == (["evaluator-0"], ["ps-0"])
    assert answer["terminated"][0].startswith("worker-2") and len(answer["retagged"]) == 4
    assert list(world.live()) == [*ALL[:1], "evaluator-0", *ALL[1:]]
    assert aws.Aws.lapse[0] >= 10


def test_an_api_that_is_away_while_a_zone_is_left(world: World) -> None:
    world.region.lack("us-east-1a", "t3.large")
    for phase in ("TerminateInstances", "CreateSubnet", "AssociateRouteTable"):
        world.region.away[phase] = (40, AWAY)
    assert world.up()["zone"] == "us-east-1b" and list(world.live()) == ALL


def test_waiting_goes_on_until_its_own_deadline(world: World) -> None:
    """The patience of a call is 120 s, the wait's 300."""
    fleet = world.fleet()
    launched = fleet.launch_all([("ps", 0)], [])
    world.region.away["DescribeInstances"] = (250, AWAY)
    assert [one["id"] for one in fleet.wait_running(launched)] == launched
    world.region.away["DescribeInstances"] = (1000, AWAY)
    with pytest.raises(aws.FleetError, match="AWS is away or too busy"):
        fleet.wait_running(launched)
    assert list(world.live()) == ["ps-0"]


@pytest.mark.parametrize("times", [1, 5])
def test_lost_answers_make_no_second_host(world: World, times: int) -> None:
    for action in ("RunInstances", "CreateSubnet", "AssociateRouteTable", "TerminateInstances", "DescribeInstances"):
        world.region.lost[action] = times
    world.region.lack("us-east-1a", "t3.large")
    world.up()
    assert list(world.live()) == ALL and world.zones() == {"us-east-1b"}


def test_hosts_whose_answers_never_came_are_ended(world: World) -> None:
    world.region.lost["RunInstances"] = 10**6
    with pytest.raises(aws.FleetError, match="was ended again"):
        world.up()
    assert world.live() == {}


def killed(world: World) -> str:
    """A run that was killed after its first launch, which AWS doesn't list yet; the next run has a later expiry."""
    identity = world.fleet().launch("worker", 1, [])
    world.region.unlisted.add(identity)
    world.expires = "2026-11-28T21:00:00Z"
    return identity


def test_an_instance_that_is_not_listed_yet_is_taken_over(world: World) -> None:
    identity = killed(world)
    assert world.fleet().launch("worker", 1, []) == identity
    world.region.unlisted.clear()
    assert world.up()["retagged"] == [] and world.live()["worker-1"] == identity


def test_an_unlisted_instance_of_another_type_is_no_host_of_ours(world: World) -> None:
    killed(world)
    world.groups["worker"]["instance_type"] = "g5.2xlarge"
    with pytest.raises(aws.FleetError, match=r"worker-1 runs as g5\.xlarge"):
        world.fleet().launch("worker", 1, [])


def test_an_unlisted_instance_that_ended(world: World) -> None:
    identity = killed(world)
    world.ec2.terminate_instances(InstanceIds=[identity])
    assert world.fleet().launch("worker", 1, []) == world.live()["worker-1"] != identity


def test_a_token_of_a_request_that_failed(world: World) -> None:
    """Two runs that failed, each with an expiry of its own: their tokens are used up, and no instance has them."""
    first = reconcile.client_token("demo", "ps", 0, world.subnet + world.group, [])
    second = reconcile.client_token("demo", "ps", 0, world.subnet + world.group, [first])
    world.region.tokens = {first: ({}, ""), second: ({}, "")}
    assert world.fleet().launch("ps", 0, []) == world.live()["ps-0"]
    assert 20 <= world.region.now <= 30


def test_tokens_whose_instances_ended_and_are_forgotten(world: World) -> None:
    for _ in range(3):
        identity = world.fleet().launch("ps", 0, [])
        world.ec2.terminate_instances(InstanceIds=[identity])
        world.region.unlisted.add(identity)
    assert list(world.up()["launched"]) and len(world.live()) == 4 and world.region.now < 5


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid."),
        ("InvalidSubnetID.NotFound", "The subnet ID 'subnet-1' does not exist"),
    ],
)
def test_what_aws_does_not_know_yet(world: World, code: str, words: str) -> None:
    world.region.lacks["us-east-1a", "t3.large"] = refuse(code, words, 400)
    sleep = world.region.sleep
    passed = iter(range(5))

    def known_later(seconds: float) -> None:
        sleep(seconds)
        if next(passed, None) is None:
            world.region.lacks.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", known_later)
        assert len(world.up()["launched"]) == 4
    world.region.lacks["us-east-1a", "t3.large"] = refuse(code, words, 400)
    world.groups["evaluator"] = {**world.groups["ps"]}
    began = world.region.now
    with pytest.raises(aws.FleetError, match=code):
        world.up()
    assert 60 <= world.region.now - began <= 90 and len(world.live()) == 4
