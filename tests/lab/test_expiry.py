"""A host's expiry is armed before anything that can hang at boot, and stays armed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
import jinja2
import pytest
from harness import ROOT, Network, make_network, wait_until


def user_data(expires: datetime) -> str:
    """What role fleet gives its hosts."""
    template = (ROOT / "roles/fleet/templates/user-data.yml.j2").read_text()
    facts = {"expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return str(jinja2.Template(template, keep_trailing_newline=True).render(__fleet_facts=facts))


@pytest.fixture(scope="module")
def network(lab: boto3.Session, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return make_network(lab, tmp_path_factory.mktemp("network"), "10.93.0.0/24")


def since_boot(network: Network, instance: str) -> dict[str, float]:
    """Seconds from the boot until units were active, or began where that is what is asked."""
    show = "systemctl show --value -p"
    wanted = {
        "timer": f"{show} ActiveEnterTimestampMonotonic flotilla-expiry.timer",
        "cloud-init": f"{show} InactiveExitTimestampMonotonic cloud-init.service",
        "sysinit": f"{show} ActiveEnterTimestampMonotonic sysinit.target",
        "sshd": f"{show} InactiveExitTimestampMonotonic ssh.service",
    }
    said = network.ssh(instance, "; ".join(wanted.values())).stdout.split()
    return {name: int(value) / 1e6 for name, value in zip(wanted, said, strict=True)}


def test_the_expiry_is_armed_before_anything_that_can_hang(network: Network, tmp_path: Path) -> None:
    expires = datetime.now(timezone.utc) + timedelta(seconds=12)
    # One boots as always; of the other the boot never gets beyond cloud-init's first stage, so nobody can log in.
    hang = "  - [sh, -c, 'systemctl is-active flotilla-expiry.timer && sleep infinity']\n"
    (whole,) = network.launch(UserData=user_data(expires + timedelta(hours=1)))
    (hung,) = network.launch(UserData=user_data(expires) + hang)
    network.reachable(whole)
    first = since_boot(network, whole)
    assert first["cloud-init"] < first["timer"] < first["sysinit"] < first["sshd"], first
    network.ec2.stop_instances(InstanceIds=[whole])
    wait_until(lambda: network.states([whole]) == {"stopped"}, 20, "stopped")
    network.ec2.start_instances(InstanceIds=[whole])
    network.reachable(whole)
    later = since_boot(network, whole)
    assert 0 < later["timer"] < later["cloud-init"], f"armed by itself: {later}"
    next_time = network.ssh(whole, "systemctl show --value -p NextElapseUSecRealtime flotilla-expiry.timer").stdout
    assert (expires + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S UTC") in next_time
    network.ec2.terminate_instances(InstanceIds=[whole])
    wait_until(lambda: network.states([hung]) != {"running"}, 60, "the host whose boot hangs is off")
    assert datetime.now(timezone.utc) >= expires, "not before its time"
    wait_until(lambda: network.states([whole, hung]) <= {"terminated", "stopped"}, 20, "both have ended")
