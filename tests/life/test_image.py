"""A baked image: what is in it and what isn't, and a fleet of hosts that start from it, beside one that doesn't."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from tests.support.commands import ROOT, as_root, user_runs, wait_until
from tests.support.fleet import BARE, INVENTORY, Image, baked, host, killed_at, left, manifest, playbook
from tests.support.lab import HOST, delete_network, living, make_network

GROUPS = {
    "ps": {"count": 1, "instance_type": "t3.large"},
    "chief": {"count": 1, "instance_type": "c5.xlarge"},
    "worker": {"count": 1, "instance_type": "c5.xlarge", "image": BARE},
}
FLEET = ["-e", json.dumps({"fleet_groups": GROUPS, "job": "baked", "training_max_steps": 20})]
PAIR = {name: GROUPS[name] for name in ("ps", "chief")}
HOSTS = ("ps-0", "chief-0")
# What a host has by itself, and an image mustn't
OWN = (
    "etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/cloud/*", "root/.ssh/*",
    "home/*/.ssh/*", "root/.cache", "home/*/.cache", "root/.*_history", "home/*/.*_history", "root/.aws", "home/*/.aws",
    "root/.ansible", "root/.keras", "home/*/.ansible", "etc/flotilla", "var/lib/flotilla",
    "etc/systemd/system/flotilla-expiry.*",
    "etc/systemd/system/*.wants/flotilla-expiry.*", "var/log/journal/*", "var/lib/apt/lists/*_*", "tmp/*", "var/tmp/*",
    "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/lib/hadoop-handout", "run/*",
)  # fmt: skip
# Traces of what installs, on a host whose image has none of them
INSTALLED = (
    "ls -d /var/log/dpkg.log /var/log/apt/history.log /var/cache/apt/pkgcache.bin",
    "find /var/lib/apt/lists -type f -newermt @1 -not -name lock",
    "find /opt/tensorflow /opt/uv /opt/flotilla-training /usr/lib/python3 -type f -newer /proc/1"
    " -not -name gpus -not -name '*.pyc'",
    "sudo find /root/.cache /root/.m2 /home -path '*/.cache/*' -type f",
    "sudo journalctl --boot --output=cat --grep="
    "'(apt|pip|uv|mvn|package|dpkg)[a-z_.-]* +Invoked|Starting.*[aA]pt|[/ ](apt-get|dpkg|pip|uv|mvn) '"
    " | grep --invert-match COMMAND=/usr/bin/journalctl",  # this look itself
)


@pytest.fixture(scope="module")
def fleet(image: Image, region: boto3.Session, before: list[str]) -> Iterator[str]:
    """What site.yml says while it raises a fleet of two baked hosts and a bare one, and trains."""
    yield playbook("site.yml", *FLEET, "-v")
    playbook("playbooks/destroy.yml")
    assert left(region) == before


def written(image: Image, command: str) -> str:
    """What a shell command says in the folder of all that the builder had written, as the lab keeps it."""
    (disk,) = [disk["Ebs"] for disk in image.its["BlockDeviceMappings"] if "Ebs" in disk]
    return as_root("sh", "-euc", f"cd /var/lib/flotilla-lab/snapshots/{disk['SnapshotId']}; {command}")


def test_builder_is_gone_and_the_image_is_named(image: Image) -> None:
    assert image.after == image.before
    assert image.its["ImageId"] in image.said and "a month" in image.said and "site.yml" in image.said


def test_nothing_of_the_builder_is_in_it(image: Image) -> None:
    # A character device is the overlay's word for what was deleted of the base image.
    assert (
        written(image, f'for name in {" ".join(OWN)}; do test ! -e "$name" || test -c "$name" || echo "$name"; done')
        == ""
    )
    assert written(image, "cat etc/machine-id") == ""
    assert written(image, "ls opt/flotilla/installed | sed 's/-.*//' | sort | xargs") == "hdfs node tensorflow"
    assert len(written(image, "ls -d opt/hadoop-* opt/tensorflow/bin/python opt/tensorflow/training-*").split()) == 3


def test_nothing_is_baked_twice(image: Image, region: boto3.Session, before: list[str]) -> None:
    assert "there is nothing to bake" in playbook("playbooks/image.yml", "-v")
    assert left(region) == before


def test_the_plan_says_which_image(fleet: str, image: Image) -> None:
    assert f"from the baked image {image.its['Name']} ({image.its['ImageId']}" in fleet


def test_baked_hosts_install_nothing(fleet: str) -> None:
    for name in HOSTS:
        for look in INSTALLED:
            assert host(name).run(look).stdout == "", f"{name}: {look}"


def test_these_looks_see_what_is_installed(fleet: str) -> None:
    seen = [bool(host("worker-0").run(look).stdout) for look in INSTALLED]
    assert sum(seen) >= 4, dict(zip(INSTALLED, seen, strict=True))


def test_hosts_of_one_image_are_strangers(fleet: str) -> None:
    for own in ("cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub", "cat /proc/sys/kernel/hostname"):
        assert len({host(name).check_output(own) for name in HOSTS}) == 2, own


def test_bare_host_beside_them_has_hadoop_from_them(fleet: str) -> None:
    report = host("ps-0").check_output("sudo -u hdfs hdfs dfsadmin -report")
    assert re.search(r"Live datanodes \(3\)", report)
    assert host("ps-0").service("hadoop-handout").is_running


def test_nothing_changes_the_second_time(fleet: str) -> None:
    recap = playbook("site.yml", *FLEET, "-v")
    assert set(re.findall(r"changed=(\d+)", recap)) == {"0"}, recap


def test_apt_works_later(fleet: str) -> None:
    """Its lists aren't in the image: empty ones must not count as today's."""
    user_runs(
        "ansible", "-i", INVENTORY, "chief-0", "--become", "--module-name=ansible.builtin.apt",
        "--args=name=hello update_cache=true cache_valid_time=86400 install_recommends=false",
    )  # fmt: skip


def test_a_role_that_was_changed_starts_bare(image: Image, region: boto3.Session, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    user_runs("git", "clone", "--quiet", str(ROOT), str(checkout))
    for changed in ROOT.glob("roles/**/*.yml"):
        shutil.copy(changed, checkout / changed.relative_to(ROOT))
    with (checkout / "roles/node/tasks/install.yml").open("a") as tasks:
        tasks.write("# changed\n")
    said = user_runs(
        "env",
        f"--chdir={checkout}",
        "ansible-playbook",
        "-i",
        INVENTORY,
        "site.yml",
        "--check",
        "-e",
        "fleet_name=other",
        "-v",
    ).stdout
    assert f"as the baked {image.its['Name']}" in said and "is of other roles or of another bare image" in said
    assert "from the bare image" in said and "from the baked image" not in said


@pytest.fixture
def alone(image: Image, region: boto3.Session, tmp_path: Path) -> Iterator[str]:
    """Variables of a fleet whose hosts reach S3 and each other alone, and we them by a host beside them."""
    network = make_network(region, tmp_path, "10.96.0.0/24", "alone")
    [bastion] = network.launch()
    subnet, table = network.private_subnet("10.97.0.0/24")
    network.s3_endpoint(table)
    network.reachable(bastion)
    through = shlex.join(network.ssh_command(bastion, "-W", "%h:%p"))
    there = {"fleet_vpc_id": network.vpc, "fleet_subnet_id": subnet,
             "fleet_public_addresses": False, "fleet_ssh_sources": ["10.96.0.0/24"],
             "ansible_ssh_extra_args": f"-o ProxyCommand={shlex.quote(through)}"}  # fmt: skip
    yield json.dumps({"fleet_name": "alone", "job": "alone", "fleet_groups": PAIR, "training_max_steps": 20} | there)
    playbook("playbooks/destroy.yml", "-e", "fleet_name=alone")
    delete_network(region, network)


def test_a_fleet_without_internet_trains_and_stores(alone: str, region: boto3.Session) -> None:
    bare = playbook("site.yml", "-e", alone, "-e", "fleet_baked=never", check=False)
    assert "has no way to the internet, but" in bare
    playbook("site.yml", "-e", alone)
    assert manifest(region, "models/alone/manifest.json")["global_step"] >= 20
    reach = ["ansible", "-i", INVENTORY, "chief-0", "-e", alone, "--module-name=ansible.builtin.wait_for"]
    done = user_runs(*reach, f"--args=host={HOST.removesuffix('/32')} port=22 timeout=3", check=False)
    assert "Timeout when waiting for" in done.stdout


def test_killed_and_simultaneous_bakers(image: Image, region: boto3.Session, tmp_path: Path) -> None:
    """A builder whose controller is killed ends by itself; two bakers at once make an image each."""
    there, hosts = left(region), set(living(region))
    again = ("playbooks/image.yml", "-v", "-e", "fleet_bake_force=true")
    killed_at(tmp_path, "install | Run role tensorflow", *again, "-e", "fleet_bake_hours=0.02")  # 72 s
    with ThreadPoolExecutor() as two:
        list(two.map(lambda _: playbook(*again), range(2)))
    assert len(baked(region)) == 3
    wait_until(lambda: set(living(region)) == hosts, 60, "the builder has ended")
    assert left(region) != there, "its network is left"
    assert "there is nothing to bake" in playbook("playbooks/image.yml", "-v")
    assert left(region) == there


def test_images_are_pruned(fleet: str, image: Image, region: boto3.Session) -> None:
    """But one that hosts were launched from. Later tests (tests/life/test_life.py) are about bare hosts."""
    prune = ("playbooks/images.yml", "-e", "images_keep=0")
    playbook(*prune)
    assert [one["ImageId"] for one in baked(region)] == [image.its["ImageId"]]
    playbook("playbooks/destroy.yml")
    playbook(*prune)
    assert baked(region) == []
