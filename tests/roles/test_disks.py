"""Local NVMe disks, which the lab's hosts don't have: role hdfs's hadoop-disks on loop devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import ROOT, as_root

MODEL = "Amazon EC2 NVMe Instance Storage"

Machine = Callable[[str], str]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A blank disk."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    device = Path(as_root("losetup", "--find", "--show", str(image)))
    yield device
    as_root("losetup", "--detach", str(device))


@pytest.fixture
def boot(tmp_path: Path, disk: Path) -> Machine:
    """Runs a script on a machine that has the disk, and nothing mounted yet."""
    sys = tmp_path / "sys" / disk.name / "device"
    sys.mkdir(parents=True)
    (sys / "model").write_text(f"{MODEL}   \n")
    for name, line in (("passwd", "hdfs:x:64001:64001::/:/bin/false"), ("group", "hdfs:x:64001:")):
        (tmp_path / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")

    def run(script: str) -> str:
        return as_root(
            "unshare", "--mount", "env", f"SYS_BLOCK={tmp_path}/sys", f"HADOOP_DISKS={tmp_path}/disks",
            f"PATH={ROOT}/roles/hdfs/files:/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-euc",
            f"cd {tmp_path}; mount --bind passwd /etc/passwd; mount --bind group /etc/group; {script}",
        )  # fmt: skip

    return run


def content(disk: Path) -> str:
    return as_root("sha256sum", str(disk))


def test_a_blank_disk_is_used_and_keeps_its_data(boot: Machine, tmp_path: Path) -> None:
    where = tmp_path / "disks/0"
    first = boot(f"hadoop-disks; hadoop-disks; stat -c '%U %a' {where}/data; echo block > {where}/data/block")
    assert first.splitlines() == [f"mounted {where}", f"already {where}", "hdfs 700"]
    assert boot(f"hadoop-disks; cat {where}/data/block").splitlines() == [f"mounted {where}", "block"]


@pytest.mark.parametrize("command", ["mkfs.ext4 -q -L precious", "mkswap"])
def test_a_disk_with_something_on_it_is_left_alone(boot: Machine, disk: Path, command: str) -> None:
    as_root(*command.split(), str(disk))
    before = content(disk)
    assert "left alone" in boot("hadoop-disks")
    assert content(disk) == before


def test_a_partitioned_disk_is_left_alone(boot: Machine, tmp_path: Path, disk: Path) -> None:
    partition = tmp_path / "sys" / disk.name / f"{disk.name}p1"
    partition.mkdir()
    (partition / "partition").write_text("1\n")
    before = content(disk)
    assert "left alone" in boot("hadoop-disks")
    assert content(disk) == before


def test_another_kind_of_disk_is_none_of_ours(boot: Machine, tmp_path: Path, disk: Path) -> None:
    (tmp_path / "sys" / disk.name / "device/model").write_text("Amazon Elastic Block Store\n")
    before = content(disk)
    assert boot("hadoop-disks") == ""
    assert content(disk) == before
