"""A fleet on the lab, as tests see it: by the commands of the README, over ssh, and by AWS's API."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import testinfra

from tests.support.commands import ROOT, kill_family, user_environment, user_runs, wait_until
from tests.support.lab import living

INVENTORY = "tests/life/inventory"
BUCKET = "flotilla-test"
BARE = "/aws/service/debian/release/12/latest/amd64"  # the image that is baked from
SERVED = "git+git://198.18.0.1/flotilla,HEAD"  # this checkout's commits, by the git server of `scripts/lab im`


def playbook(*arguments: str, check: bool = True) -> str:
    """Run ansible-playbook as a user would; returns its output."""
    return user_runs("ansible-playbook", "-i", INVENTORY, *arguments, check=check).stdout


@contextlib.contextmanager
def running(tmp_path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """A running ansible-playbook, with a way to read what it has printed so far; killed at the end."""
    environment = {**user_environment(), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ansible-playbook", "-i", INVENTORY, *arguments], cwd=ROOT, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process, lambda: log.read_text(errors="replace")
    finally:
        kill_family(process.pid)
        process.wait()


def killed_when(true: Callable[[], bool], tmp_path: Path, *arguments: str) -> None:
    """Run a playbook and kill it with SIGKILL as soon as something is true."""
    with running(tmp_path, *arguments) as (process, output):
        wait_until(lambda: true() or process.poll() is not None, 300, "the moment to kill the controller")
        assert process.poll() is None, output()[-3000:]


def killed_at(tmp_path: Path, text: str, *arguments: str) -> None:
    """Run a playbook and kill it with SIGKILL as soon as it has printed `text`."""
    killed_when(lambda: text in (tmp_path / "log").read_text(errors="replace"), tmp_path, *arguments)


def variables(name: str) -> dict[str, Any]:
    """A node's variables, as Ansible sees them."""
    return dict(json.loads(user_runs("ansible-inventory", "-i", INVENTORY, "--host", name).stdout))


@cache
def connect(name: str, address: str) -> Any:
    its = variables(name)
    return testinfra.get_host(
        f"ssh://{its['ansible_user']}@{address}",
        ssh_identity_file=its["ansible_ssh_private_key_file"],
        ssh_extra_args=its["ansible_ssh_common_args"],
        timeout=60,  # where all processors train, 10 s have been too few
    )


@cache
def address(name: str) -> str:
    return str(variables(name)["ansible_host"])


def host(name: str) -> Any:
    """A node of the running fleet, over ssh."""
    return connect(name, address(name))


def manifest(session: boto3.Session, key: str) -> dict[str, Any]:
    """A manifest in the tests' bucket."""
    body = session.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return dict(json.loads(body))


def on_hdfs(source: str) -> str:
    """The folder that a data set's folder in S3 is staged to."""
    url = source.rstrip("/")
    return f"/datasets/{re.sub('[^A-Za-z0-9._-]', '-', Path(url).name)}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


CIFAR10 = on_hdfs(f"s3://{BUCKET}/cifar10/")


def watch(*options: str, code: int = 0) -> dict[str, Any]:
    """What scripts/watch --json prints last; its exit status has to be this one."""
    done = user_runs("scripts/watch", "-i", INVENTORY, "--json", *options, check=False)
    assert done.returncode == code, done.stdout
    return dict(json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1]))


@dataclass
class Image:
    """A baked image: AWS's description, what playbooks/image.yml said, what was in the region before and after."""

    its: dict[str, Any]
    said: str
    before: list[str]
    after: list[str]


def baked(session: boto3.Session) -> list[dict[str, Any]]:
    """What has been baked, as AWS describes it; tests of the lab alone have left other images."""
    kind: Any = [{"Name": "tag:flotilla-kind", "Values": ["cpu"]}]
    return list(session.client("ec2").describe_images(Owners=["self"], Filters=kind)["Images"])


def left(session: boto3.Session) -> list[str]:
    """Everything in the region that a fleet is made of, asked of each service by itself, not by our own code."""
    ec2, iam = session.client("ec2"), session.client("iam")
    return sorted(
        [
            *living(session),
            *[v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]],
            *[v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
            *[g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"],
            *[g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]],
            *[k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]],
            *[n["NetworkInterfaceId"] for n in ec2.describe_network_interfaces()["NetworkInterfaces"]],
            *[e["VpcEndpointId"] for e in ec2.describe_vpc_endpoints()["VpcEndpoints"] if e["State"] != "deleted"],
            *[r["RoleName"] for r in iam.list_roles()["Roles"]],
            *[
                g["Name"]
                for g in session.client("scheduler").list_schedule_groups()["ScheduleGroups"]
                if g["Name"] != "default"
            ],
            *[p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]],
        ]
    )
