"""What ends a fleet's hosts from outside, against moto's EventBridge Scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import jinja2
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.flotilla.kit.plugins.module_utils import aws, schedule
from ansible_collections.flotilla.kit.plugins.modules import fleet_instances
from ansible_collections.flotilla.kit.plugins.modules.fleet_instances import Fleet
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.support.commands import ROOT

ROLE = "arn:aws:iam::123456789012:role/flotilla-demo-us-east-1-expiry"
TAGS = {"flotilla-fleet": "demo", "flotilla-owner": "me", "flotilla-expires": "2099-12-31T23:55:00Z"}
HOSTS = ["i-0a", "i-0b"]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[aws.Aws]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with mock_aws():
        yield aws.Aws("us-east-1")


def ensure(cloud: aws.Aws, hosts: list[str], dry: bool = False, expires: str = TAGS["flotilla-expires"]) -> list[str]:
    tags = {**TAGS, "flotilla-expires": expires}
    return list(schedule.Schedules(cloud, "demo", dry).ensure(hosts, expires, ROLE, tags))


def there() -> dict[str, str]:
    """Names and times of the fleet's schedules."""
    scheduler = boto3.client("scheduler")
    names = [one["Name"] for one in scheduler.list_schedules(GroupName="flotilla-demo")["Schedules"]]
    return {
        name: scheduler.get_schedule(Name=name, GroupName="flotilla-demo")["ScheduleExpression"]
        for name in sorted(names)
    }


def failing(
    monkeypatch: pytest.MonkeyPatch, cloud: aws.Aws, method: str, code: str, text: str, times: int
) -> list[Any]:
    """Let a method fail some times; returns the list of its calls."""
    client = cloud.client("scheduler")
    real: Callable[..., Any] = getattr(client, method)
    calls: list[Any] = []

    def fails(**arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) <= times:
            raise ClientError({"Error": {"Code": code, "Message": text}}, method)
        return real(**arguments)

    monkeypatch.setattr(client, method, fails)
    return calls


def test_each_instance_is_ended_ten_minutes_after_its_expiry(cloud: aws.Aws) -> None:
    assert ensure(cloud, HOSTS) == ["flotilla-demo", *HOSTS]
    assert there() == dict.fromkeys(HOSTS, "at(2100-01-01T00:05:00)")
    scheduler = boto3.client("scheduler")
    one = scheduler.get_schedule(Name="i-0a", GroupName="flotilla-demo")
    assert one["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
    assert json.loads(one["Target"]["Input"]) == {"InstanceIds": ["i-0a"]} and one["Target"]["RoleArn"] == ROLE
    assert (one["FlexibleTimeWindow"], one["ScheduleExpressionTimezone"]) == ({"Mode": "OFF"}, "UTC")
    group = scheduler.get_schedule_group(Name="flotilla-demo")
    assert aws.tags_of(scheduler.list_tags_for_resource(ResourceArn=group["Arn"])) == TAGS
    assert ensure(cloud, HOSTS) == [], "nothing the second time"


def test_what_changes_is_brought_up_to_date(cloud: aws.Aws) -> None:
    ensure(cloud, HOSTS)
    later = "2100-01-01T01:00:00Z"
    assert ensure(cloud, HOSTS, dry=True, expires=later) == ["flotilla-demo", *HOSTS]
    assert ensure(cloud, HOSTS) == [], "a dry run changes nothing"
    assert ensure(cloud, ["i-0b", "i-0c"], expires=later) == ["flotilla-demo", "i-0b", "i-0c", "i-0a"]
    assert there() == dict.fromkeys(["i-0b", "i-0c"], "at(2100-01-01T01:10:00)")
    off = schedule.wanted("demo", "i-0b", later, ROLE) | {"State": "DISABLED"}
    boto3.client("scheduler").update_schedule(**off)
    assert ensure(cloud, ["i-0b", "i-0c"], expires=later) == ["i-0b"]


def test_a_dry_run_from_nothing_makes_nothing(cloud: aws.Aws) -> None:
    assert ensure(cloud, HOSTS, dry=True) == ["flotilla-demo", *HOSTS]
    groups = boto3.client("scheduler").list_schedule_groups()["ScheduleGroups"]
    assert [group["Name"] for group in groups] == ["default"]


def test_a_role_that_aws_does_not_know_yet(cloud: aws.Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    calls = failing(monkeypatch, cloud, "create_schedule", "ValidationException", words, 3)
    ensure(cloud, ["i-0a"])
    assert len(calls) == 4 and list(there()) == ["i-0a"]
    monkeypatch.setattr(schedule, "WAIT", -1)
    calls = failing(monkeypatch, cloud, "create_schedule", "ValidationException", words, 9)
    with pytest.raises(aws.FleetError, match="schedule an instance's end: The execution role"):
        ensure(cloud, HOSTS)
    assert len(calls) == 1, "not for ever"


def test_another_run_was_faster(cloud: aws.Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(cloud, HOSTS)
    monkeypatch.setattr(schedule.Schedules, "_names", lambda self: [])
    assert ensure(cloud, HOSTS) == HOSTS
    assert list(there()) == HOSTS


def test_a_group_that_is_being_deleted_is_waited_for(cloud: aws.Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{"State": "DELETING", "Arn": "arn:aws:scheduler:us-east-1:123456789012:schedule-group/flotilla-demo"}] * 3
    real = schedule.Schedules._find_group
    monkeypatch.setattr(schedule.Schedules, "_find_group", lambda self: states.pop() if states else real(self))
    assert ensure(cloud, HOSTS) == ["flotilla-demo", *HOSTS]
    assert list(there()) == HOSTS and not states


def test_left_out_they_are_removed(cloud: aws.Aws) -> None:
    ensure(cloud, HOSTS)
    assert schedule.Schedules(cloud, "demo", dry=True).remove() and list(there()) == HOSTS
    assert schedule.Schedules(cloud, "demo").remove()
    assert not schedule.Schedules(cloud, "demo").remove()


def test_a_refusal_is_said_loudly_and_stops_nothing(cloud: aws.Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"region": "us-east-1", "profile": "", "name": "demo", "groups": {}, "tags": TAGS, "subnet_id": ""}
    denied = ("get_schedule_group", "AccessDeniedException", "not authorized to perform: scheduler:GetScheduleGroup", 9)
    fleet = Fleet({**parameters, "schedule_role": ROLE})
    failing(monkeypatch, fleet.aws, *denied)
    assert fleet.schedule(HOSTS, False) == [] == fleet.schedule(HOSTS, False)
    (warning,) = fleet.warnings
    assert "costs money until you destroy the fleet" in warning and "scheduler:GetScheduleGroup" in warning
    fleet = Fleet({**parameters, "schedule_role": ""})
    failing(monkeypatch, fleet.aws, *denied)
    assert fleet.schedule(HOSTS, False) == [] and not fleet.warnings, "who wants none needs no permission"


def test_a_refusal_is_said_also_where_something_else_fails(
    cloud: aws.Aws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(fleet: Fleet, dry: bool) -> None:
        fleet.warnings.append("Nothing outside the hosts ends one.")
        raise aws.FleetError("SSH doesn't answer.")

    monkeypatch.setattr(fleet_instances, "reconcile_fleet", fails)
    names = {"name": "demo", "key_name": "k", "instance_profile": "p"}
    with patch_module_args({"region": "us-east-1", "groups": {}, "tags": TAGS, **names}), pytest.raises(SystemExit):
        fleet_instances.main()
    said = capsys.readouterr().out
    assert "SSH doesn't answer." in said and "Nothing outside the hosts ends one." in said


def test_the_timer_that_a_host_brings_along_is_armed_first() -> None:
    """In user data and in RADL the same, in what cloud-init does before all else, and short enough for EC2."""
    source = (ROOT / "roles/fleet/templates/user-data.yml.j2").read_text()
    data = jinja2.Template(source, keep_trailing_newline=True).render(
        fleet_validated={"expires": "2099-12-31T00:00:00Z"}
    )
    assert data.startswith("#cloud-config\n") and len(data.encode()) <= 16384
    content = yaml.safe_load(data)
    assert list(content) == ["bootcmd"], "write_files and runcmd come later, and runcmd after all packages"
    for radl in ("infrastructure", "cpu", "gpus", "existing-vpc"):
        recipe = (
            (ROOT / f"radl/{radl}.radl").read_text().partition("configure boot (\n@begin\n")[2].partition("@end")[0]
        )
        boot = yaml.safe_load(recipe)
        assert boot["bootcmd"] == content["bootcmd"] and "runcmd" not in boot
    (command,) = content["bootcmd"]
    assert command[:3] == ["cloud-init-per", "instance", "flotilla-expiry"], "a later expiry stays over a reboot"
    for kind in ("service", "timer"):
        ours = (ROOT / f"roles/node/templates/flotilla-expiry.{kind}.j2").read_text()
        values = {"node_expires": "2099-12-31T00:00:00Z"}
        later = jinja2.Template(ours.partition("\n")[2]).render(values)
        at_boot = command[-1].partition(f"flotilla-expiry.{kind} <<'END'\n")[2].partition("END\n")[0]
        plain = [line for line in later.splitlines() if line and not line.startswith(("#", "Description="))]
        assert plain == at_boot.splitlines(), "role node changes nothing but the expiry"
        assert "DefaultDependencies=no" in plain
