"""The lab's pure logic: conditions of policies, prices, control groups that go while they are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import access, cgroups, market

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
