"""Each role on two hosts of the lab: check mode from nothing, converge, nothing to do the second time, verify.

The hosts, a parameter server's and a chief's, are a fleet in a VPC that was there before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.support.commands import ROOT, user_runs
from tests.support.lab import delete_vpc, make_vpc

GROUPS = {name: {"count": 1, "instance_type": "c5.xlarge"} for name in ("ps", "chief")}
FLEET = ["-i", "tests/life/inventory", "-e", json.dumps({"fleet_name": "roles", "fleet_groups": GROUPS})]
# Each needs those before it.
ROLES = ["node", "hdfs", "tensorflow", "dataset", "training", "tensorboard", "store", "spark", "infer", "sweep"]


@pytest.fixture(scope="module")
def vpc(dataset: boto3.Session) -> Iterator[tuple[str, str]]:
    """A VPC that is somebody else's, and its subnet."""
    made = make_vpc(dataset, "10.94.0.0/24")
    yield made
    delete_vpc(dataset, made[0])


@pytest.fixture(scope="module")
def inventory(vpc: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two hosts of the lab, bare."""
    where = ("-e", f"fleet_vpc_id={vpc[0]}", "-e", f"fleet_subnet_id={vpc[1]}")
    user_runs("ansible-playbook", *FLEET, *where, "playbooks/provision.yml")
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


def test_destroy_leaves_a_vpc_that_was_there(inventory: Path, dataset: boto3.Session, vpc: tuple[str, str]) -> None:
    ec2 = dataset.client("ec2")
    networks = ec2.describe_network_interfaces(Filters=[{"Name": "vpc-id", "Values": [vpc[0]]}])
    assert len(networks["NetworkInterfaces"]) == 2
    user_runs("ansible-playbook", *FLEET, "playbooks/destroy.yml")
    assert [subnet["VpcId"] for subnet in ec2.describe_subnets(SubnetIds=[vpc[1]])["Subnets"]] == [vpc[0]]
    groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc[0]]}])["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == ["default"]
