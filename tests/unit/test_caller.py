"""Who calls, what the fleet is called then, and that another's fleet stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ansible_collections.flotilla.kit.plugins.module_utils import aws, naming
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from moto import mock_aws
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parent.parent.parent
REGION = "us-east-1"
ME = "arn:aws:iam::123456789012:user/ada"


@pytest.mark.parametrize(
    ("who", "owner", "name"),
    [
        ("iam::123456789012:user/alice", "alice", "alice"),
        ("iam::123456789012:user/team/x/Alice.B", "Alice.B", "alice-b"),
        ("iam::123456789012:user/a,b", "a-b", "a-b"),
        ("iam::123456789012:user/4711", "4711", "fleet-4711"),
        ("iam::123456789012:user/+=", "+=", "fleet"),
        (f"iam::123456789012:user/{'long-' * 8}", "long-" * 8, "long-long-long-long-long-long-lo"),
        (f"iam::123456789012:user/{'a' * 31}-b", f"{'a' * 31}-b", "a" * 31),
        ("iam::123456789012:root", "root", "root"),
        ("sts::123456789012:federated-user/bob", "bob", "bob"),
        (
            "sts::123456789012:assumed-role/AWSReservedSSO_Lab_0123456789abcdef/eve@example.com",
            "eve@example.com",
            "eve",
        ),
        ("sts::123456789012:assumed-role/Trainer/grace", "grace", "grace"),
        ("sts::123456789012:assumed-role/Trainer/i-am-grace", "i-am-grace", "i-am-grace"),
        *(
            (f"sts::123456789012:assumed-role/The_Trainers/{session}", "The_Trainers", "the-trainers")
            for session in (
                "botocore-session-1732800000",
                "aws-go-sdk-1732800000000000000",
                "AWSCLI-Session",
                "i-0abc12345def67890",
                "1732800000",
                "0123456789abcdef0123456789abcdef",
                "AWSCodeBuild-1e9d2a3c-77aa-4a4a-9b9b-0123456789ab",
            )
        ),
    ],
)
def test_the_caller_has_one_name(who: str, owner: str, name: str) -> None:
    assert naming.caller_name(f"arn:aws:{who}") == owner and naming.check_owner(owner) == []
    assert naming.default_name(f"arn:aws:{who}") == name and naming.check_name(name) == []


def test_another_owner_is_named() -> None:
    assert (
        naming.check_ownership("demo", {"ada"}, "ada", False)
        == naming.check_ownership("demo", set(), "ada", False)
        == []
    )
    assert naming.check_ownership("demo", {""}, "ada", False) == [], "what has no owner is nobody else's"
    assert naming.check_ownership("demo", {"ada", "grace"}, "ada", True) == []
    (problem,) = naming.check_ownership("demo", {"ada", "grace"}, "ada", False)
    assert "The fleet demo is grace's, and you are ada" in problem and "fleet_adopt" in problem


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """One for all tests here: reading EC2's description anew takes longer than all else."""
    return boto3.Session()


@pytest.fixture
def region(session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """EC2 of an empty region."""
    monkeypatch.setattr(aws, "open_session", lambda *_: session)
    with mock_aws():
        yield session.client("ec2", region_name=REGION)


def tags(owner: str, fleet: str = "demo") -> list[dict[str, str]]:
    """The tags of what a run of role fleet makes."""
    return [{"Key": "flotilla-fleet", "Value": fleet}, {"Key": "flotilla-owner", "Value": owner}]


def vpc(ec2: Any, its: list[dict[str, str]]) -> None:
    ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": its}])


def group(ec2: Any, its: list[dict[str, str]]) -> None:
    specification = [{"ResourceType": "security-group", "Tags": its}]
    ec2.create_security_group(GroupName="flotilla-demo", Description="x", TagSpecifications=specification)


def key_pair(ec2: Any, its: list[dict[str, str]]) -> None:
    ec2.create_key_pair(KeyName="flotilla-demo", TagSpecifications=[{"ResourceType": "key-pair", "Tags": its}])


def role(ec2: Any, its: list[dict[str, str]]) -> None:
    boto3.client("iam").create_role(RoleName=f"flotilla-demo-{REGION}", AssumeRolePolicyDocument="{}", Tags=its)


def owner_of(instances: list[dict[str, str]] | None = None, **changes: Any) -> str:
    """Whose the fleet demo is after ada's check; raises FleetError where that is refused."""
    preflight = Preflight({"region": REGION, "name": "demo", "owner": "", "adopt": False, **changes})
    preflight.aws = aws.Aws(REGION)
    preflight.result["arn"] = ME
    preflight.owner(instances or [])
    return str(preflight.result["owner"])


@pytest.mark.parametrize("make", [vpc, group, key_pair, role])
def test_what_a_killed_run_of_another_left_is_not_taken(region: Any, make: Callable[..., None]) -> None:
    make(region, tags("grace"))
    with pytest.raises(aws.FleetError, match="The fleet demo is grace's, and you are ada"):
        owner_of()
    assert owner_of(adopt=True) == "grace", "who helps out doesn't lock out whoever raised it"
    assert owner_of(adopt=True, owner="lab") == "lab"
    assert owner_of(name="other") == "ada"


@pytest.mark.parametrize("make", [vpc, group, key_pair, role])
def test_my_own_is_gone_on_with(region: Any, make: Callable[..., None]) -> None:
    make(region, tags("ada"))
    assert owner_of() == "ada"
    assert owner_of(owner="lab") == "lab", "an owner's name may be given later on"


def test_instances_tell_whose_they_are(region: Any) -> None:
    found = [{"flotilla-fleet": "demo", "flotilla-owner": "lab"}]
    with pytest.raises(aws.FleetError, match="is lab's, and you are ada"):
        owner_of(found)
    assert owner_of(found, owner="lab") == "lab"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """AWS at an address of this machine's, for programs of their own."""
    one = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    yield f"http://{host}:{port}"
    one.stop()


@pytest.fixture
def plays(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs Ansible on a copy of inventories/aws; returns what it prints in one line, with its status in front."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    copy = tmp_path / "aws"
    (copy / "group_vars").mkdir(parents=True)
    for file in ("fleet.yml", "group_vars/all.yml"):
        (copy / file).write_text((ROOT / "inventories/aws" / file).read_text())

    def play(*arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        command = [sys.executable, "-m", "ansible", *arguments[:1], "-i", str(copy), *arguments[1:]]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return f"{done.returncode} {' '.join((done.stdout + done.stderr).split())}"

    return play


def test_without_a_name_it_is_the_callers_for_all_that_ansible_runs(plays: Callable[..., str], tmp_path: Path) -> None:
    show = tmp_path / "show.yml"
    task = {"ansible.builtin.debug": {"msg": "It is {{ fleet_name }}."}}
    show.write_text(yaml.safe_dump([{"hosts": "localhost", "connection": "local", "tasks": [task]}]))
    # moto calls whoever has no user of its own so.
    assert "It is moto." in plays("playbook", str(show)), "localhost is implicit, and in no group"
    everything = tmp_path / "aws/group_vars/all.yml"
    everything.write_text(everything.read_text() + "fleet_name: mine\n")
    assert "It is mine." in plays("playbook", str(show))


def test_an_empty_name_is_refused(plays: Callable[..., str]) -> None:
    # An unset variable of a shell: -e wins over whatever an inventory could say, and destroy would take another fleet.
    said = plays("playbook", "playbooks/destroy.yml", "-e", "fleet_name=")
    assert not said.startswith("0 ") and "fleet_name is empty: leave it out" in said, said


@pytest.mark.parametrize("command", [("site.yml", "--check"), ("playbooks/destroy.yml",)])
def test_keys_and_a_profile_are_told_first(
    plays: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text("[profile lab]\naws_access_key_id=a\naws_secret_access_key=b\n")
    said = plays("playbook", *command, "-e", "fleet_profile=lab")
    assert not said.startswith("0 ") and "AWS_ACCESS_KEY_ID is exported and fleet_profile is lab" in said, said
    assert "'unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY'" in said
