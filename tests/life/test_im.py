"""The Infrastructure Manager's way in: the real server and client raise a fleet, which trains and stores its model.

The server fetches the collection by git, so what is tested is what has been committed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from fleet import left, living, manifest, playbook
from harness import ROOT, as_root, token, user_runs, wait_until

SERVED = "git+git://198.18.0.1/flotilla,HEAD"
OPTIONS = ("-e", f"radl_collection={SERVED}", "-e", "job=im", "-e", "training_max_steps=30")


def client(command: str, check: bool = True) -> str:
    """Run im_client as a user would who has .venv-im/bin in his path; returns what it prints."""
    return user_runs("sh", "-c", f'PATH="{ROOT}/.venv-im/bin:$PATH" im_client {command}', check=check).stdout


def configured(infrastructure: str) -> bool:
    """Wait until the server has configured all hosts, or has given up."""
    done = user_runs(str(ROOT / ".venv-im/bin/im_client"), "wait", infrastructure, "900", seconds=960, check=False)
    return done.returncode == 0


def stored(session: boto3.Session) -> bool:
    try:
        return bool(manifest(session, "models/im/manifest.json")["files"])
    except ClientError:
        return False


@pytest.fixture(scope="module")
def radl(region: boto3.Session, before: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fleet's RADL; its password lies beside it."""
    file = tmp_path_factory.mktemp("radl") / "im.radl"
    user_runs("scripts/lab", "im", seconds=300)
    playbook("playbooks/radl.yml", "-e", f"radl_file={file}", *OPTIONS)
    return file


@pytest.fixture(scope="module")
def infrastructure(region: boto3.Session, radl: Path) -> str:
    """An infrastructure whose credentials have expired before it was created; its id."""
    role = region.client("iam").get_role(RoleName="flotilla-test-us-east-1")["Role"]["Arn"]
    old = token(region, role, 1).get_credentials()
    assert old
    keys = {"access_key": old.access_key, "secret_key": old.secret_key, "session_token": old.token}
    session = {"sts_creds": {**keys, "expiration": "2026-01-01T00:00:00Z"}}
    playbook("playbooks/radl.yml", "-e", f"radl_file={radl}", *OPTIONS, "-e", json.dumps({"__radl_session": session}))
    (found,) = re.findall(r"with ID: (\S+)", client(f"create {radl} < {radl.with_suffix('.password')}"))
    return found


def test_secrets_are_nobody_elses(radl: Path) -> None:
    assert "AKIA" not in radl.read_text() and "ASIA" not in radl.read_text()
    assert {f.stat().st_mode & 0o077 for f in radl.parent.iterdir()} == {0}


def test_expired_credentials_are_refused_in_a_sentence(infrastructure: str) -> None:
    sentence = "have expired at 2026-01-01T00:00:00Z: give it new ones"
    wait_until(lambda: sentence in client(f"getcontmsg {infrastructure}"), 300, "the server passes on what is wrong")


def test_a_killed_server_goes_on_when_it_is_told_to(infrastructure: str, radl: Path) -> None:
    playbook("playbooks/radl.yml", "-e", f"radl_file={radl}", *OPTIONS)
    told = f"reconfigure {infrastructure} {radl} < {radl.with_suffix('.password')}"
    client(told)
    wait_until(lambda: "flotilla.kit.hdfs" in client(f"getcontmsg {infrastructure}"), 180, "HDFS is set up")
    as_root("kill", "-KILL", str(json.loads(as_root("cat", "/run/flotilla-lab/im.json"))["pid"]))
    user_runs("scripts/lab", "im")
    client(told)
    if not configured(infrastructure):
        pytest.fail(client(f"getcontmsg {infrastructure}", check=False)[-6000:], pytrace=False)


def test_any_node_says_how_far_the_job_is(infrastructure: str) -> None:
    assert re.search(r"train: \w+, \d+ of 30 steps", client(f"ssh {infrastructure} 0 flotilla-status"))


def test_the_model_is_stored(region: boto3.Session, infrastructure: str) -> None:
    assert "in state: configured" in client(f"getstate {infrastructure}")
    wait_until(lambda: stored(region), 300, "a model in S3")
    assert manifest(region, "models/im/manifest.json")["global_step"] >= 30


def test_nothing_is_left(region: boto3.Session, before: list[str], infrastructure: str) -> None:
    client(f"destroy {infrastructure} --yes")
    wait_until(lambda: not living(region), 60, "no instances")
    playbook("playbooks/destroy.yml")
    assert left(region) == before
