"""The lab's pure logic: conditions of policies, prices, control groups that go while they are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import __main__ as command
from lab import access, cgroups, market
from lab.network import Rule

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
