"""Each role on real hosts: check mode before anything is there, converge, nothing to do the second time, verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from harness import ROOT, user_runs

FLEET = ["-i", "tests/life/inventory", "-e", "fleet_name=roles"]
ROLES = ["node", "hdfs", "tensorflow", "training", "tensorboard"]  # each needs those before it


@pytest.fixture(scope="module")
def inventory(dataset: boto3.Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three hosts of the lab, bare."""
    user_runs("ansible-playbook", *FLEET, "playbooks/provision.yml")
    file = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    file.write_text(user_runs("ansible-inventory", *FLEET, "--list", "--yaml").stdout)
    yield file
    user_runs("ansible-playbook", *FLEET, "playbooks/destroy.yml")


@pytest.mark.parametrize("role", ROLES)
def test_role(role: str, inventory: Path) -> None:
    user_runs(
        "env", f"--chdir={ROOT / 'roles' / role}", f"FLOTILLA_ROOT={ROOT}", f"FLOTILLA_INVENTORY={inventory}",
        "molecule", "test", seconds=1200,
    )  # fmt: skip
