"""What a fleet may cost and how many hosts it may have, before anything is made."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
import test_fleet_aws
import yaml
from ansible_collections.flotilla.kit.plugins.module_utils import aws, fleet_groups, prices
from ansible_collections.flotilla.kit.plugins.modules import fleet_preflight
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from botocore.exceptions import ClientError
from test_fleet_aws import problems
from test_plan import one

from lab import market
from tests.support.commands import ROOT

cloud, image, variables = test_fleet_aws.cloud, test_fleet_aws.image, test_fleet_aws.variables
raised = test_fleet_aws.raised
LOOK_UP = prices.look_up
HOURS = datetime.timedelta(hours=4)
KNOWN = {"m5.large": 0.096, "GB": 0.0001, "address": 0.005}


def fleet(count: int, kind: str = "m5.large") -> dict[str, dict[str, Any]]:
    """Groups as preflight has them."""
    return {"worker": {"count": count, "instance_type": kind, "volume_size": 20}}


@pytest.mark.parametrize("most", [0, -3, "many", 1.5, True, None, "", "nan"])
def test_a_number_of_hosts(most: Any) -> None:
    one(fleet_groups.check_caps(most, 25), "fleet_max_hosts", "whole number")


@pytest.mark.parametrize("cost", [0, -1, "nan", float("inf"), "lots", "$25", True, None, ""])
def test_an_amount_of_dollars(cost: Any) -> None:
    one(fleet_groups.check_caps(20, cost), "fleet_max_cost", "above 0")


def test_caps_by_the_command_line_are_text() -> None:
    assert fleet_groups.check_caps("20", "0.5") == []
    one(fleet_groups.check_hosts(fleet(21), "20"), "21 hosts (21 worker)", "set fleet_max_hosts to 21")
    assert fleet_groups.check_hosts(fleet(20), 20) == []


def test_a_slip_of_the_finger_is_found_without_asking_aws(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "Aws", lambda *_, **__: pytest.fail("AWS was asked"))
    variables["groups"]["worker"]["count"] = 5000
    one(problems(variables), "5002 hosts (1 ps, 1 chief, 5000 worker)", "fleet_max_hosts is 20")
    found = problems(variables, max_cost="nan", max_hosts=0)
    assert len(found) == 2 and "fleet_max_hosts" in found[0] and "fleet_max_cost" in found[1]


def test_the_sum() -> None:
    assert prices.check_cost(fleet(60), KNOWN, True, HOURS, 25) == []
    one(
        prices.check_cost(fleet(61), KNOWN, True, HOURS, 25),
        "$6.28 an hour, which is $25.13 in the 4.0 hours",
        "fleet_max_cost is $25",
        "set fleet_max_cost to 26",
    )
    assert prices.check_cost(fleet(61), KNOWN, False, HOURS, 25) == []


def test_what_is_known_is_judged_where_something_is_not() -> None:
    groups = {**fleet(1000), "ps": {"count": 1, "instance_type": "x9.large", "volume_size": 20}}
    assert prices.unknown(groups, {"m5.large": 1.0}, True) == ["x9.large", "gp3 volumes", "public addresses"]
    assert prices.unknown(groups, {"m5.large": 1.0, "GB": 0.1}, False) == ["x9.large"]
    one(prices.check_cost(groups, KNOWN, True, HOURS, 25), "at least $103.01 an hour")


@pytest.mark.parametrize("launcher", ["ansible", "im"])
def test_a_dear_fleet_is_refused(variables: dict[str, Any], launcher: str) -> None:
    # Four hosts at $0.0832, with volume and address $0.0904.
    one(
        problems(variables, launcher=launcher, max_cost="1.4"), "$0.36 an hour, which is $1.4", "fleet_max_cost is $1.4"
    )
    assert problems(variables, launcher=launcher, max_cost="1.5") == []


def test_running_hosts_count(raised: test_fleet_aws.Raised) -> None:
    raised.up()
    assert problems(raised.variables, max_cost=1.5) == []
    raised.variables["groups"]["worker"]["count"] = 3
    one(problems(raised.variables, max_cost=1.5), "$0.45 an hour", "fleet_max_cost is $1.5")


def refused(code: str) -> Any:
    """A look-up that AWS refuses."""

    def pages(self: Any, doing: str, *_: Any, **__: Any) -> None:
        cause = ClientError({"Error": {"Code": code, "Message": "No."}}, "GetProducts")
        raise aws.FleetError(aws.explain(cause, doing, "")) from cause

    return type("Refusing", (), {"pages": pages})()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", ["you may not ask for it, pricing:GetProducts", "have that permission added"]),
        ("InternalErrorException", ["(No)", "try again"]),
    ],
)
def test_an_unknown_price_counts_as_too_much(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: str, words: list[str]
) -> None:
    monkeypatch.setattr(prices, "look_up", lambda _, *rest: LOOK_UP(refused(code), *rest))
    one(problems(variables), "t3.large", "fleet_max_cost ($25)", "fleet_unknown_prices", *words)
    preflight = Preflight({**variables, "unknown_prices": True})
    preflight.run()
    assert preflight.problems == [] and len(preflight.warnings) == 1


def test_a_type_that_the_price_list_lacks(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "look_up", lambda *_: {"GB": 0.0001, "address": 0.005})
    one(problems(variables), "The price of t3.large isn't known", "AWS's price list has none for us-east-1")
    assert problems(variables, unknown_prices=True) == []


def test_the_role_hands_on_every_option_of_preflight() -> None:
    tasks = yaml.safe_load((ROOT / "roles/fleet/tasks/validate.yml").read_text())
    options = yaml.safe_load(fleet_preflight.DOCUMENTATION)["options"]
    assert {"region", "name", *options} <= set(tasks[0]["flotilla.kit.fleet_preflight"])


@pytest.mark.parametrize("inventory", ["inventories/aws", "inventories/lab", "tests/life/inventory"])
def test_fleets_that_come_with_the_kit_are_within_the_cap(inventory: str) -> None:
    given = yaml.safe_load((ROOT / inventory / "group_vars/all.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles/fleet/defaults/main.yml").read_text())
    groups = given["fleet_groups"].values()
    hourly = sum(group["count"] * (market.on_demand(group["instance_type"]) or 1e9) for group in groups)
    cap = given.get("fleet_max_cost", defaults["fleet_max_cost"])
    assert hourly * given["fleet_expiry_hours"] < cap / 2, "room for other counts"
    assert sum(group["count"] for group in groups) <= defaults["fleet_max_hosts"]


def test_fleets_of_tests_and_benchmarks_have_prices_within_the_cap() -> None:
    files = [path for folder in ("tests/life", "tests/roles", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    types = {kind for path in files for kind in re.findall(r'"instance_type": "([a-z0-9.]+)"', path.read_text())}
    assert {"t3.large", "c5.xlarge", "c5.4xlarge"} <= types
    dearest = max(market.on_demand(kind) or 1e9 for kind in types - {"t9.huge", "p2.xlarge"})  # these are refused
    assert 6 * 4 * dearest < 25, "the largest of them have six hosts"
