"""The plan with its prices."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import prices


def product(price: str, usage: str = "BoxUsage:m5.large") -> str:
    """A product as GetProducts gives it."""
    dimensions = {"sku.term.rate": {"unit": "Hrs", "pricePerUnit": {"USD": price}}}
    return json.dumps(
        {
            "product": {"attributes": {"usagetype": usage}},
            "terms": {"OnDemand": {"sku.term": {"priceDimensions": dimensions}}},
        }
    )


class PriceList:
    """The Price List API with a few prices."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def pages(self, doing: str, service: str, method: str, key: str, **arguments: Any) -> list[str]:
        filters = {one["Field"]: one["Value"] for one in arguments["Filters"]}
        self.asked.append(filters)
        if arguments["ServiceCode"] == "AmazonVPC":
            return [product("0.045", "EUC1-VpcEndpoint-Hours"), product("0.005", "EUC1-PublicIPv4:InUseAddress")]
        if filters.get("productFamily") == "Storage Snapshot":
            return [product("0.0135", "EUC1-EBS:SnapshotArchiveStorage"), product("0.054", "EUC1-EBS:SnapshotUsage")]
        if filters.get("volumeApiName") == "gp3":
            return [product("0.0952", "EUC1-EBS:VolumeUsage.gp3")]
        return {"m5.large": [product("0.115")]}.get(filters["instanceType"], [])


def test_prices_are_those_of_the_region() -> None:
    api = PriceList()
    found = prices.look_up(api, "eu-central-1", ["m5.large", "x9.large"])
    assert found == {"m5.large": 0.115, "GB": 0.0952 / 730, "address": 0.005}
    assert {one["regionCode"] for one in api.asked} == {"eu-central-1"}


def test_a_snapshot_costs_what_is_not_archived() -> None:
    assert prices.snapshot(PriceList(), "eu-central-1") == 0.054


@pytest.mark.parametrize(
    ("products", "price"),
    [
        ([], None),
        ([product("0.0000000000")], None),
        ([product("0.0000000000"), product("0.096")], 0.096),
        ([json.dumps({"product": {"attributes": {}}, "terms": {"Reserved": {}}})], None),
        ([json.dumps(json.loads(product("1")) | {"terms": {}})], None),
        ([product("1").replace("USD", "CNY")], None),
    ],
)
def test_on_demand_takes_the_first_price(products: list[str], price: float | None) -> None:
    assert prices.on_demand(products) == price


GROUPS: dict[str, dict[str, Any]] = {
    "ps": {"count": 1, "instance_type": "m5.large", "gpus": 0, "gpu": "", "tasks": 1, "volume_size": 20},
    "worker": {"count": 2, "instance_type": "g4dn.12xlarge", "gpus": 4, "gpu": "T4", "tasks": 4, "volume_size": 100},
}


def test_table() -> None:
    known = {"m5.large": 0.1, "g4dn.12xlarge": 3.9, "GB": 0.0001, "address": 0.005}
    hourly = {name: prices.host_price(group, known, public=True) for name, group in GROUPS.items()}
    assert prices.table(GROUPS, hourly, datetime.timedelta(hours=2), 0) == [
        "group   hosts  instance type  GPUs  tasks  volume    $/h",
        "ps          1  m5.large       -         1   20 GB  0.107",
        "worker      2  g4dn.12xlarge  4 T4      4  100 GB  7.830",
        "in all      3                                      7.937",
        "Every host powers itself off in 2.0 h at the latest; until then it's $15.87 on demand, without taxes, traffic "
        "and what lies in S3.",
    ]


def test_table_with_an_unknown_price() -> None:
    known = {"m5.large": 0.1, "GB": 0.0001}
    hourly = {name: prices.host_price(group, known, public=False) for name, group in GROUPS.items()}
    lines = prices.table(GROUPS, hourly, datetime.timedelta(hours=2), 3)
    assert [line.split()[-1] for line in lines[1:-1]] == ["0.102", "?", "?"]
    assert lines[-1] == "3 of the hosts are there already. Every host powers itself off in 2.0 h at the latest."
