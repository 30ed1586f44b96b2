"""Whether the units that train may use the GPUs, as the systemd of the GPU images sees it: Ubuntu 22.04 has 249.

Debian 11's 247 stands in for it: as every systemd before 252 it takes ProtectClock= for a list of the devices that a
unit may use, and so closes all others (systemd's pull request 25075). Device rules aren't tried, since in a container
they have no effect; systemd is asked which ones it would set.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, as_root, user_runs

CACHE = Path("/var/lib/flotilla-lab/cache")
BUILD = "mmdebstrap --variant=extract --mode=root --include=systemd bullseye"  # unpacked is enough
UNITS = {"training": "training@.service", "tensorflow": "flotilla-proof.service"}  # by their roles
# A systemd that only plans, as nobody: it prints all that it would know of the units.
ASK = """
mkdir -p "$1/proc" "$1/sys" "$1/run"
mount -t proc proc "$1/proc"; mount --rbind /sys "$1/sys"; mount -t tmpfs tmpfs "$1/run"
mkdir -p "$1/run/systemd/system"; cp "$2"/* "$1/run/systemd/system"
chroot "$1" /lib/systemd/systemd --version
exec chroot --userspec=65534:65534 "$1" /lib/systemd/systemd --test --system --unit=all.target
"""

Rules = tuple[str, list[str]]  # DevicePolicy, and what DeviceAllow lists


@pytest.fixture(scope="module")
def debian_11() -> Path:
    """The root folder of a systemd 247; unpacked once."""
    root = CACHE / f"bullseye-{hashlib.sha256(BUILD.encode()).hexdigest()[:12]}"
    if not root.is_dir():
        part = f"{root}.part"
        as_root("sh", "-euc", f"mkdir -p {CACHE}; rm -rf {CACHE}/bullseye-*; {BUILD} {part}; mv {part} {root}")
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The units that train, and the proof's, as the roles write them."""
    folder = tmp_path_factory.mktemp("written")
    given = {
        "ansible_python_interpreter": sys.executable,
        "__training_environment_file": "/etc/flotilla/program.env",
        "__training_job": {"done_file": "/var/lib/flotilla/chief.done"},
        "__tensorflow_with_hdfs": True,
        "__tensorflow_home": "/opt/tensorflow",
        "__tensorflow_mark": "/opt/flotilla/installed/tensorflow-0",
        "__tensorflow_host": {"environment": ""},
        "__tensorflow_gpus": 1,
    }
    for role, name in UNITS.items():
        user_runs(
            "ansible", "localhost", "--inventory=localhost,", "--connection=local",
            "--module-name=ansible.builtin.template",
            "--args", f"src={ROOT}/roles/{role}/templates/{name}.j2 dest={folder}/{name}",
            "--extra-vars", f"@{ROOT}/roles/{role}/defaults/main.yml", "--extra-vars", json.dumps(given),
        )  # fmt: skip
    return {name: (folder / name).read_text() for name in UNITS.values()}


@pytest.fixture(scope="module")
def rules(debian_11: Path, written: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rules]:
    """The device rules of units that use GPUs; and of one each with settings that do close devices."""
    training = written["training@.service"]
    units = {
        **written,
        "clock@.service": training.replace("[Service]", "[Service]\nProtectClock=true"),
        "private@.service": training.replace("[Service]", "[Service]\nPrivateDevices=true"),
    }
    wanted = [unit.replace("@", "@chief-0") for unit in units] + ["training@evaluator-0.service"]
    folder = tmp_path_factory.mktemp("units")
    for name, text in {**units, "all.target": f"[Unit]\nWants={' '.join(wanted)}"}.items():
        (folder / name).write_text(f"{text}\n")
    said = as_root("unshare", "--mount", "sh", "-euc", ASK, "sh", str(debian_11), str(folder))
    assert "systemd 247" in said
    blocks = dict(re.findall(r"-> Unit (\S+):\n(.*?)(?=-> (?:Unit|Job) |\Z)", said, re.DOTALL))
    return {
        unit: (re.findall(r"DevicePolicy: (\S+)", blocks[unit])[0], re.findall(r"DeviceAllow: (.+)", blocks[unit]))
        for unit in wanted
    }


def test_all_units_that_train_are_held_to_it() -> None:
    templates = [*ROOT.glob("roles/*/templates/*.service.j2"), *ROOT.glob("roles/*/templates/*.timer.j2")]
    found = {file.name for file in templates if re.search(r"flotilla\.train |prove\.py ", file.read_text())}
    assert found == {f"{name}.j2" for name in UNITS.values()}


@pytest.mark.parametrize("unit", ["training@chief-0.service", "training@evaluator-0.service", "flotilla-proof.service"])
def test_a_unit_that_trains_may_use_every_device(rules: dict[str, Rules], unit: str) -> None:
    assert rules[unit] == ("auto", [])


def test_settings_that_close_devices_would_be_found(rules: dict[str, Rules]) -> None:
    assert rules["clock@chief-0.service"] == ("auto", ["char-rtc r"])
    assert rules["private@chief-0.service"][0] == "closed"
