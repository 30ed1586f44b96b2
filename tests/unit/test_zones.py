"""Which availability zones a fleet may be in, and what network each gets."""

from __future__ import annotations

import ipaddress
from typing import Any

import boto3
import pytest
import test_fleet_aws
from ansible_collections.flotilla.kit.plugins.module_utils import networking
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from test_fleet_aws import problems
from test_plan import one

cloud, image, variables = test_fleet_aws.cloud, test_fleet_aws.image, test_fleet_aws.variables
raised = test_fleet_aws.raised
OFFERS = [
    {"Location": zone, "InstanceType": kind}
    for zone, kinds in {"b": ["t3", "g5"], "a": ["t3"], "c": ["t3", "g5"]}.items()
    for kind in kinds
]


def zones(variables: dict[str, Any], **changes: Any) -> list[dict[str, str]]:
    """The zones that preflight returns."""
    preflight = Preflight({**variables, **changes})
    preflight.run()
    assert preflight.problems == []
    assert preflight.result["zone"] == preflight.result["zones"][0]["name"]
    return list(preflight.result["zones"])


def test_zones_that_offer_all_types_best_first() -> None:
    assert networking.pick_zones({"t3"}, OFFERS) == (["a", "b", "c"], [])
    assert networking.pick_zones({"t3", "g5"}, OFFERS) == (["b", "c"], [])
    assert networking.pick_zones({"t3"}, OFFERS, first=("c",)) == (["c", "a", "b"], [])
    assert networking.pick_zones({"t3"}, OFFERS, ("zone", ""), ("c",)) == (["c", "a", "b"], [])
    one(networking.pick_zones({"p5", "t3"}, OFFERS)[1], "No availability zone offers p5, t3 together")


def test_the_only_zone_that_may_be_taken() -> None:
    for why in networking.BOUND:
        assert networking.pick_zones({"t3"}, OFFERS, (why, "b"), ("c",)) == (["b"], [])
        assert networking.pick_zones({"t3", "g5"}, OFFERS, (why, "a"))[0] == []
    one(
        networking.pick_zones({"t3", "g5"}, OFFERS, ("zone", "a"))[1],
        "a, which is fleet_zone, doesn't offer g5",
        "set that to b or c",
    )
    one(
        networking.pick_zones({"t3", "g5"}, OFFERS, ("subnet", "a"))[1],
        "a, where fleet_subnet_id is, doesn't",
        "subnet in b or c",
    )
    one(
        networking.pick_zones({"t3", "g5"}, OFFERS, ("instances", "a"))[1],
        "a, where the fleet's instances are,",
        "destroy the fleet first",
    )
    one(networking.pick_zones({"t3", "p5"}, OFFERS, ("zone", "a"))[1], "doesn't offer p5: take another type.")


@pytest.mark.parametrize("zone", ["us-east-1", "us-east-2a", "a", "us-east-1ab", "us-east-1-bos-1a", "use1-az1"])
def test_a_zone_is_the_region_s(zone: str) -> None:
    one(networking.check_zone(zone, "us-east-1"), "fleet_zone", zone, "us-east-1a")


def test_good_zones() -> None:
    assert networking.check_zone("", "us-east-1") == networking.check_zone("us-east-1f", "us-east-1") == []


def test_a_zone_s_part_of_the_network_never_changes() -> None:
    parts = [networking.zone_part("10.77.0.0/16", f"us-east-1{letter}") for letter in "abcdefgh"]
    assert parts[0] == "10.77.0.0/19" and parts[5] == "10.77.160.0/19"
    networks = [ipaddress.ip_network(part) for part in parts]
    assert list(ipaddress.collapse_addresses(networks)) == [ipaddress.ip_network("10.77.0.0/16")]
    assert networking.zone_part("10.77.0.0/16", "us-east-1i") == ""
    assert networking.zone_part("10.77.0.0/24", "us-east-1b") == "10.77.0.32/27"
    assert networking.zone_part("10.77.0.0/25", "us-east-1b") == "10.77.0.0/25"


def test_the_room_of_a_part() -> None:
    assert networking.check_network("", "", "10.77.0.0/24", 27) == []
    one(networking.check_network("", "", "10.77.0.0/24", 28), "a zone gets an eighth", "27 addresses for 28 hosts")
    assert networking.check_network("", "", "10.77.0.0/25", 123) == []
    one(networking.check_network("", "", "10.77.0.0/25", 124), "10.77.0.0/25 has 123 addresses for 124 hosts")


def test_places() -> None:
    assert networking.place_zones(["xb", "xa"], "10.0.0.0/16", {}) == [
        {"name": "xb", "cidr": "10.0.32.0/19"},
        {"name": "xa", "cidr": "10.0.0.0/19"},
    ]
    # A network too small to be split has room for one zone.
    assert networking.place_zones(["xb", "xa"], "10.0.0.0/26", {}) == [{"name": "xb", "cidr": "10.0.0.0/26"}]
    # What an earlier version of the kit made takes it all.
    old = {"xb": "10.0.0.0/16"}
    assert networking.place_zones(["xb", "xa"], "10.0.0.0/16", old) == [{"name": "xb", "cidr": "10.0.0.0/16"}]
    assert networking.place_zones(["xa"], "10.0.0.0/16", old) == []
    assert networking.place_zones(["xa", "xi"], "10.0.0.0/16", {"xb": "10.0.32.0/19"}) == [
        {"name": "xa", "cidr": "10.0.0.0/19"}
    ]


def test_a_new_fleet_may_be_anywhere(variables: dict[str, Any]) -> None:
    found = zones(variables)
    assert [one["name"][-1] for one in found] == sorted(one["name"][-1] for one in found) and len(found) > 2
    assert found[1] == {"name": "us-east-1b", "cidr": "10.77.32.0/19"}
    assert zones(variables, zone="us-east-1c") == [{"name": "us-east-1c", "cidr": "10.77.64.0/19"}]
    one(problems(variables, zone="us-east-1z"), "us-east-1z, which is fleet_zone, doesn't offer t3.large", "us-east-1a")
    one(problems(variables, zone="eu-west-1a"), "isn't a zone of us-east-1")


def test_a_subnet_of_an_earlier_run_comes_first(variables: dict[str, Any]) -> None:
    ec2 = boto3.client("ec2")
    tags = [{"Key": "flotilla-fleet", "Value": "demo"}]
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])["Vpc"]
    ec2.create_subnet(
        VpcId=vpc["VpcId"],
        CidrBlock="10.77.32.0/19",
        AvailabilityZone="us-east-1b",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}],
    )
    assert [one["name"] for one in zones(variables)][:3] == ["us-east-1b", "us-east-1a", "us-east-1c"]
    assert zones(variables, zone="us-east-1c") == [{"name": "us-east-1c", "cidr": "10.77.64.0/19"}]


def test_instances_bind_the_fleet_to_their_zone(raised: test_fleet_aws.Raised) -> None:
    only = [{"name": "us-east-1a", "cidr": "10.77.0.0/16"}]  # its subnet takes all, as an earlier version made it
    assert zones(raised.variables) == only
    one(problems(raised.variables, zone="us-east-1b"), "no room for a subnet in us-east-1b", "us-east-1a")
    raised.up()
    assert zones(raised.variables) == zones(raised.variables, zone="us-east-1a") == only
    one(
        problems(raised.variables, zone="us-east-1b"),
        "fleet_zone is us-east-1b, but the fleet can only be in us-east-1a, where the fleet's instances are",
        "leave fleet_zone empty, or destroy the fleet first",
    )


def test_an_existing_subnet_has_its_zone(variables: dict[str, Any]) -> None:
    ec2 = boto3.client("ec2")
    subnet = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1c"]}])["Subnets"][0]
    test_fleet_aws.lead_out(subnet["VpcId"])
    given = {"vpc_id": subnet["VpcId"], "subnet_id": subnet["SubnetId"]}
    assert zones(variables, **given) == zones(variables, **given, zone="us-east-1c")
    assert zones(variables, **given) == [{"name": "us-east-1c", "cidr": ""}]
    one(
        problems(variables, **given, zone="us-east-1a"),
        "fleet_zone is us-east-1a, but the fleet can only be in us-east-1c, where fleet_subnet_id is",
        "or take a subnet in us-east-1a",
    )
