"""What the seal takes from a host that becomes an image, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

SEAL = ROOT / "roles/image/files/seal.py"
OWN = (
    "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/hostname", "var/lib/systemd/random-seed",
    "var/lib/cloud/instance/user-data.txt", "var/lib/cloud/data/status.json", "var/lib/dhcp/dhclient.eth0.leases",
    "root/.ssh/authorized_keys", "home/admin/.ssh/authorized_keys", "home/admin/.bash_history", "root/.python_history",
    "root/.cache/uv/wheel", "home/admin/.aws/credentials", "home/admin/.ansible/tmp/x", "etc/flotilla/credentials.env",
    "etc/systemd/system/flotilla-expiry.timer", "etc/systemd/system/sysinit.target.wants/flotilla-expiry.timer",
    "var/log/journal/0123/system.journal", "var/log/cloud-init.log", "var/log/apt/history.log", "var/log/wtmp",
    "var/lib/apt/lists/mirror_InRelease", "var/lib/apt/periodic/update-success-stamp", "var/cache/apt/pkgcache.bin",
    "var/lib/hadoop-handout/hadoop.tar.gz",
)  # fmt: skip
RUNNING = ("tmp/ansible_command_payload/zip", "tmp/.X11-unix/x", "var/tmp/y")
KEPT = (
    "etc/ssh/sshd_config", "etc/systemd/system/apt-daily.timer", "opt/flotilla/installed/node-0", "opt/tensorflow/pip",
    "home/admin/.bashrc", "root/.profile", "usr/bin/python3", "var/lib/dpkg/status",
)  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for name in (*OWN, *RUNNING, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("its own")
    (tmp_path / "etc/machine-id").write_text("0123\n")
    return tmp_path


def seal(host: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SEAL, *options, host], text=True, capture_output=True)


def there(host: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (host / name).exists()]


def test_nothing_of_its_own_stays_and_all_else_does(host: Path) -> None:
    done = seal(host)
    assert done.returncode == 0, done.stderr
    assert there(host, OWN) == []
    assert there(host, KEPT) == list(KEPT)
    assert there(host, RUNNING) == list(RUNNING), "running programs need them, the one that seals among them"
    assert (host / "etc/machine-id").read_text() == ""
    assert (host / "var/log/apt").is_dir() and (host / "var/cache/apt").is_dir()
    assert (host / "var/lib/apt/lists").stat().st_mtime == 0, "or apt would take the empty lists for today's"
    assert done.stdout.splitlines()[-1].endswith(".ssh"), "the way in goes last"


def test_at_the_end_all_goes(host: Path) -> None:
    assert seal(host).returncode == 0
    (host / "var/log/syslog").write_text("written since")
    assert seal(host, "--last").returncode == 0
    assert there(host, (*OWN, *RUNNING, "var/log/syslog")) == []
    assert there(host, KEPT) == list(KEPT)


def test_links_are_taken_not_what_they_lead_to(host: Path) -> None:
    (host / "srv").mkdir()
    (host / "srv/kept").write_text("x")
    (host / "home/admin/.cache").symlink_to(host / "srv")
    assert seal(host).returncode == 0
    assert (host / "srv/kept").exists() and not (host / "home/admin/.cache").is_symlink()


def test_what_cannot_be_taken_is_said(host: Path) -> None:
    (host / "root/.bash_history").mkdir()
    (host / "etc/machine-id").unlink()
    (host / "etc/machine-id").mkdir()
    done = seal(host)
    assert done.returncode == 1
    assert (
        "/etc/machine-id of this host would stay in the image (Is a directory): make it of another host." in done.stderr
    )
