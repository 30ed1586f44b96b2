"""The Infrastructure Manager's way in: the real server and client raise a fleet, change it and end it.

The server fetches the collection by git, so what is tested is what has been committed.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.commands import ROOT, as_root, user_runs, wait_until
from tests.support.fleet import BARE, SERVED, left, manifest, playbook
from tests.support.lab import living, token

# The parameter server's host is IM's master, too, and gets most of the processors: the others train all the time.
GROUPS = {
    "ps": {"count": 1, "instance_type": "c5.4xlarge"},
    "chief": {"count": 1, "instance_type": "t3.large"},
    "worker": {"count": 1, "instance_type": "t3.large", "image": BARE},  # the others start from the baked one
}
pytestmark = pytest.mark.usefixtures("image")
JOB = {"job": "im", "training_max_steps": 100_000, "training_batch_size": 32}
OPTIONS = ("-e", json.dumps({"fleet_groups": GROUPS, **JOB}))


def client(command: str, check: bool = True) -> str:
    """Run im_client as a user would who has .venv-im/bin in his path; returns what it prints."""
    return user_runs("sh", "-c", f'PATH="{ROOT}/.venv-im/bin:$PATH" im_client {command}', check=check).stdout


def write(radl: Path, *options: str) -> None:
    """Write the RADL, with new credentials for the hosts."""
    playbook("playbooks/radl.yml", "-e", f"radl_file={radl}", "-e", f"radl_collection={SERVED}", *OPTIONS, *options)


def create(radl: Path) -> str:
    """Create an infrastructure; returns its id."""
    (found,) = re.findall(r"with ID: (\S+)", client(f"create {radl} < {radl.with_suffix('.password')}"))
    return found


def reconfigure(infrastructure: str, radl: Path) -> None:
    client(f"reconfigure {infrastructure} {radl} < {radl.with_suffix('.password')}")


def configured(infrastructure: str) -> None:
    """Wait until the server has configured all hosts; fail with what it says where it has given up.

    The client's own `wait` looks every 30 s.
    """
    end = time.monotonic() + 900
    while (now := state(infrastructure)) in ("pending", "running", "unknown") and time.monotonic() < end:
        time.sleep(3)
    if now != "configured":
        pytest.fail(f"{now}: " + client(f"getcontmsg {infrastructure}", check=False)[-6000:], pytrace=False)


def state(infrastructure: str) -> str:
    """What the server says of it: pending, running, configured, unconfigured, failed …; unknown where it doesn't."""
    found = re.search(r"infrastructure is in state: (\w+)", client(f"getstate {infrastructure}", check=False))
    return found[1] if found else "unknown"


def says(infrastructure: str, what: str, seconds: float) -> None:
    """Wait until the server says something that it hasn't said before it was told to do something; nothing ran then."""
    wait_until(
        lambda: what not in client(f"getcontmsg {infrastructure}"), 300, f"the server has begun, without {what!r}"
    )
    wait_until(lambda: what in client(f"getcontmsg {infrastructure}"), seconds, f"the server says {what!r}")


def configures(infrastructure: str, since: float) -> bool:
    """Whether the server's agent configures a host, one that has begun since then.

    What the server says doesn't tell it: it keeps the words of an agent that it has ended.
    """
    agents = "pgrep -f '[c]txt_agent.py' | xargs -r ps -o etimes= -p"
    ages = re.findall(r"^ *(\d+) *$", on(infrastructure, 0, agents, check=False), re.MULTILINE)
    return any(int(age) < time.time() - since for age in ages)


def on(infrastructure: str, machine: int, command: str, check: bool = True) -> str:
    """Run a command on one of its virtual machines: 0 the parameter server's host, 1 the chief's, 2 and 3 workers'."""
    return client(f"sshvm {infrastructure} {machine} 0 {shlex.quote(command)}", check=check)


def status(infrastructure: str) -> dict[str, dict[str, object]]:
    """How far the job is, as the parameter server's host says it."""
    output = on(infrastructure, 0, "flotilla-status --json", check=False)
    return dict(json.loads(output[output.index("{") : output.rindex("}") + 1])) if "{" in output else {}


def step(infrastructure: str, since: float = 0) -> int:
    """The global step that the chief told last; 0 where it has made none since then."""
    train = status(infrastructure).get("train")
    if not train or (since and not (train["rate"] and float(str(train["updated"])) > since)):
        return 0
    return int(str(train["done"]))


@pytest.fixture(scope="module")
def radl(region: boto3.Session, before: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fleet's RADL; its password lies beside it."""
    file = tmp_path_factory.mktemp("radl") / "im.radl"
    user_runs("scripts/lab", "im", seconds=300)
    write(file)
    return file


@pytest.fixture(scope="module")
def expired(region: boto3.Session, radl: Path) -> dict[str, str]:
    """Credentials of the hosts' role that have come to their end."""
    role = region.client("iam").get_role(RoleName="flotilla-test-us-east-1")["Role"]["Arn"]
    old = token(region, role, 1).get_credentials()
    assert old and old.token
    return {"access_key": old.access_key, "secret_key": old.secret_key, "session_token": old.token}


@pytest.fixture(scope="module")
def infrastructure(radl: Path, expired: dict[str, str]) -> str:
    """An infrastructure whose credentials have expired before it was created; its id."""
    session = {"sts_creds": {**expired, "expiration": "2026-01-01T00:00:00Z"}}
    write(radl, "-e", json.dumps({"__radl_session": session}))
    return create(radl)


def test_secrets_are_nobody_elses(radl: Path) -> None:
    assert "AKIA" not in radl.read_text() and "ASIA" not in radl.read_text()
    assert {f.stat().st_mode & 0o077 for f in radl.parent.iterdir()} == {0}


def test_a_version_that_git_does_not_have_is_refused(radl: Path) -> None:
    wrong = SERVED.replace("HEAD", "v99")
    output = playbook("playbooks/radl.yml", *OPTIONS, "-e", f"radl_collection={wrong}", check=False)
    assert "git finds no v99 at git://198.18.0.1/flotilla" in output
    assert not (ROOT / "radl/test.radl").exists()


def test_expired_credentials_are_refused_in_a_sentence(infrastructure: str) -> None:
    says(infrastructure, "have expired at 2026-01-01T00:00:00Z: give it new ones", 300)


def test_a_killed_server_goes_on_when_it_is_told_to(region: boto3.Session, infrastructure: str, radl: Path) -> None:
    write(radl)
    begin = time.time()
    reconfigure(infrastructure, radl)
    wait_until(lambda: configures(infrastructure, begin), 180, "hosts are being configured")
    as_root("kill", "-KILL", str(json.loads(as_root("cat", "/run/flotilla-lab/im.json"))["pid"]))
    user_runs("scripts/lab", "im")
    reconfigure(infrastructure, radl)
    configured(infrastructure)
    assert "configured" in client(f"wait {infrastructure} 30")
    assert len(living(region)) == 3, "what was tried several times is there once"
    for name in ("ps-0", "chief-1", "worker-2"):
        assert f"net_interface.1.dns_name = '{name}'" in client(f"getinfo {infrastructure}"), name
    assert re.search(r"train: \w+, \d+ of 100000 steps", client(f"ssh {infrastructure} 0 flotilla-status"))
    wait_until(lambda: step(infrastructure) > 0, 180, "it trains")


def test_after_a_stop_and_a_start_everything_comes_back(region: boto3.Session, infrastructure: str) -> None:
    client(f"stop {infrastructure}")
    wait_until(lambda: states(region) == {"stopped"}, 120, "all are stopped")
    client(f"start {infrastructure}")
    wait_until(lambda: states(region) == {"running"}, 120, "all run")
    begin = time.time()
    wait_until(lambda: step(infrastructure, begin) > 0, 300, "training goes on")
    limit(region, 0.3)


def limit(region: boto3.Session, cores: float) -> None:
    """Leave this machine's processors to whoever configures: the trainers get so many each; 0: all."""
    named: Any = [{"Name": "tag:flotilla-group", "Values": ["chief", "worker"]}]
    pages = region.client("ec2").get_paginator("describe_instances").paginate(Filters=named)
    for instance in pages.search("Reservations[].Instances[?State.Name == 'running'][].InstanceId"):
        user_runs("scripts/lab", "limit", instance, str(cores))


def states(region: boto3.Session) -> set[str]:
    found = region.client("ec2").describe_instances(InstanceIds=living(region))["Reservations"]
    return {i["State"]["Name"] for r in found for i in r["Instances"]}


def test_a_worker_more_joins_hdfs_and_the_training(infrastructure: str) -> None:
    client(f"addresource {infrastructure} radl/worker.radl")
    configured(infrastructure)
    assert "Live datanodes (4)" in on(infrastructure, 0, "sudo -u hdfs hdfs dfsadmin -report -live")
    log = "sudo journalctl --unit training@worker-1"
    wait_until(lambda: "examples/s" in on(infrastructure, 3, log), 180, "the new worker trains")


def test_a_worker_less_loses_no_block_and_training_goes_on(infrastructure: str) -> None:
    client(f"removeresource {infrastructure} 3")
    begin = time.time()
    report = "sudo -u hdfs hdfs dfsadmin -report | grep -E 'datanodes|^.Missing blocks:|^.Under'"
    gone = ("Live datanodes (3)", "Missing blocks: 0", "Under replicated blocks: 0")
    wait_until(lambda: all(line in on(infrastructure, 0, report) for line in gone), 240, "HDFS has all copies again")
    assert "is HEALTHY" in on(infrastructure, 0, "sudo -u hdfs hdfs fsck /")
    wait_until(lambda: step(infrastructure, begin) > 0, 180, "training goes on")


def test_credentials_that_expire_before_the_model_is_stored(
    region: boto3.Session, infrastructure: str, radl: Path, expired: dict[str, str]
) -> None:
    for machine, task in ((1, "chief-0"), (2, "worker-0")):  # they would have the processors, and be done meanwhile
        on(infrastructure, machine, f"sudo systemctl stop training@{task}")
    limit(region, 0)
    last = step(infrastructure) + 80
    steps = ("-e", f"training_max_steps={last}")
    write(radl, *steps)
    reconfigure(infrastructure, radl)
    says(infrastructure, "Task store_chief finished successfully", 600)  # soon the training ends by its new setting
    names = {"ACCESS_KEY_ID": "access_key", "SECRET_ACCESS_KEY": "secret_key", "SESSION_TOKEN": "session_token"}
    edit = ";".join(f"s|^AWS_{name}=.*|AWS_{name}={expired[key]}|" for name, key in names.items())
    on(infrastructure, 1, f"sudo sed -i '{edit}' /etc/flotilla/credentials.env")
    configured(infrastructure)
    told = "credentials of this host have expired"
    wait_until(lambda: told in on(infrastructure, 0, "flotilla-status", check=False), 900, "the status says so")
    with pytest.raises(ClientError):
        manifest(region, "models/im/manifest.json")
    write(radl, *steps)
    reconfigure(infrastructure, radl)
    configured(infrastructure)
    # Up to 30 s until it is tried again, and 60 s for the events that the stopped trainers haven't closed.
    wait_until(lambda: status(infrastructure)["store"]["state"] == "done", 180, "the model is stored")
    stored = manifest(region, "models/im/manifest.json")
    assert stored["files"] and stored["global_step"] >= last
    assert stored["variables"]["training_max_steps"] == last


def test_reconfigure_changed_only_what_was_new(infrastructure: str) -> None:
    """The last one had the same settings as the one before, and new credentials."""
    output = client(f"getcontmsg {infrastructure}")
    blocks = re.split(r"^(?=(?:TASK|RUNNING HANDLER) \[)", output, flags=re.MULTILINE)
    changed = {block.split("***")[0] for block in blocks if "flotilla.kit" in block and "\nchanged: " in block}
    assert {name for name in changed if "credentials" not in name} == set()


def test_destroy_leaves_nothing(region: boto3.Session, before: list[str], infrastructure: str) -> None:
    """The server deletes its security group before its hosts have ended, which EC2 refuses: it is told again."""
    said: list[str] = []

    def destroyed() -> bool:
        said.append(client(f"destroy {infrastructure} --yes", check=False))
        return "successfully destroyed" in said[-1]

    wait_until(destroyed, 120, "the infrastructure is destroyed")
    # Of its own it wants a moment before it may be told, where it has just been told something else.
    assert all("DependencyViolation" in words or "Invalid State" in words for words in said[:-1]), said
    wait_until(lambda: not living(region), 60, "no instances")
    playbook("playbooks/destroy.yml")
    assert left(region) == before
