"""The Infrastructure Manager's way in: the real server and client raise a fleet, which trains and stores its model.

The server fetches the collection by git, so what is tested is what has been committed.
"""

from __future__ import annotations

import re
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from fleet import left, living, manifest, playbook
from harness import ROOT, user_runs, wait_until

SERVED = "git+git://198.18.0.1/flotilla,HEAD"


def client(command: str, check: bool = True) -> str:
    """Run im_client as a user would who has .venv-im/bin in his path; returns what it prints."""
    return user_runs("sh", "-c", f'PATH="{ROOT}/.venv-im/bin:$PATH" im_client {command}', check=check).stdout


def stored(session: boto3.Session) -> bool:
    try:
        return bool(manifest(session, "models/im/manifest.json")["files"])
    except ClientError:
        return False


@pytest.fixture(scope="module")
def infrastructure(region: boto3.Session, before: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An infrastructure that the server has configured; its id."""
    file = tmp_path_factory.mktemp("radl") / "im.radl"
    user_runs("scripts/lab", "im", seconds=300)
    playbook(
        "playbooks/radl.yml", "-e", f"radl_file={file}", "-e", f"radl_collection={SERVED}",
        "-e", "job=im", "-e", "training_max_steps=30",
    )  # fmt: skip
    assert "AKIA" not in file.read_text() and "ASIA" not in file.read_text()
    made = client(f"create {file} < {file.with_suffix('.password')}")
    (found,) = re.findall(r"with ID: (\S+)", made)
    if user_runs(str(ROOT / ".venv-im/bin/im_client"), "wait", found, "900", check=False).returncode:
        pytest.fail(client(f"getcontmsg {found}", check=False)[-6000:], pytrace=False)
    return found


def test_the_model_is_stored(region: boto3.Session, infrastructure: str) -> None:
    assert "in state: configured" in client(f"getstate {infrastructure}")
    wait_until(lambda: stored(region), 300, "a model in S3")
    assert manifest(region, "models/im/manifest.json")["global_step"] >= 30


def test_nothing_is_left(region: boto3.Session, before: list[str], infrastructure: str) -> None:
    client(f"destroy {infrastructure} --yes")
    wait_until(lambda: not living(region), 60, "no instances")
    playbook("playbooks/destroy.yml")
    assert left(region) == before


def test_the_password_file_is_nobody_elses(tmp_path: Path, region: boto3.Session) -> None:
    file = tmp_path / "im.radl"
    playbook("playbooks/radl.yml", "-e", f"radl_file={file}", "-e", f"radl_collection={SERVED}", "-e", "job=im")
    assert {f.stat().st_mode & 0o077 for f in tmp_path.iterdir()} == {0}
    playbook("playbooks/destroy.yml")
