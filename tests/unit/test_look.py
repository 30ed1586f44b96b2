"""What role tensorflow sees of GPUs and their driver: stand-ins for nvidia-smi, the PCI bus and a driver's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOOK = Path(__file__).parents[2] / "roles/tensorflow/files/look.py"
SLOTS = ("0000:00:1e.0", "0000:00:1f.0")
ANSWERS = "535.183.01, 00000000:00:1E.0\n535.183.01, 00000000:00:1F.0\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
LOST = "Unable to determine the device handle for GPU0000:00:1F.0: Unknown Error"

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Looks at a host with so many GPUs on its bus; `smi` is what its nvidia-smi does, a shell script."""

    def run(gpus: int, smi: str = "", *traces: str) -> dict[str, Any]:
        devices = [(slot, "0x10de", "0x030200") for slot in SLOTS[:gpus]]
        # NVIDIA's sound, another's display and a bridge are no GPUs
        others = [
            ("01:00.1", "0x10de", "0x040300"),
            ("02:00.0", "0x1d0f", "0x030000"),
            ("03:00.0", "0x10de", "0x068000"),
        ]
        for slot, vendor, kind in devices + others:
            device = tmp_path / "sys/bus/pci/devices" / slot
            device.mkdir(parents=True)
            (device / "vendor").write_text(f"{vendor}\n")
            (device / "class").write_text(f"{kind}\n")
        for trace in traces:
            (tmp_path / trace).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / trace).touch()
        program = tmp_path / "usr/bin/nvidia-smi"
        program.parent.mkdir(parents=True, exist_ok=True)
        if smi:
            program.write_text(f"#!/bin/sh\n{smi}\n")
            program.chmod(0o755)
        environ = {
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "LOOK_ROOT": str(tmp_path),
            "LOOK_SECONDS": "1",
            **{name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
        }
        done = subprocess.run(
            [sys.executable, "-c", LOOK.read_text()], env=environ, capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return {
            key: found[key] for key in ("gpus", "answering", "silent", "driver", "words", "traces", "ours", "before")
        }

    return run


NOTHING = {"gpus": 0, "answering": 0, "silent": [], "driver": "", "traces": [], "ours": False, "before": 0}


def test_no_gpu(look: Look) -> None:
    assert look(0) == {**NOTHING, "words": "nvidia-smi can't be run: No such file or directory"}


def test_a_driver_that_works(look: Look) -> None:
    assert look(2, f"printf '{ANSWERS}'", "proc/driver/nvidia/version") == {
        **NOTHING, "gpus": 2, "answering": 2, "driver": "535.183.01", "words": "",
        "traces": ["usr/bin/nvidia-smi", "proc/driver/nvidia"],
    }  # fmt: skip


def test_a_gpu_without_any_driver(look: Look) -> None:
    found = look(1)
    assert found == {**NOTHING, "gpus": 1, "silent": [SLOTS[0]], "words": found["words"]}


def test_a_driver_that_is_silent_is_quoted(look: Look) -> None:
    found = look(1, f'echo "{NO_DRIVER}"\necho\nexit 9')
    assert (found["answering"], found["silent"], found["traces"]) == (0, [SLOTS[0]], ["usr/bin/nvidia-smi"])
    assert found["words"] == f"nvidia-smi ended with 9: {NO_DRIVER}".rstrip(".")


@pytest.mark.parametrize(
    ("file", "trace"),
    [
        ("sys/module/nvidia/version", "sys/module/nvidia"),
        ("lib/modules/6.8.0-1063-aws/updates/dkms/nvidia.ko.zst", "lib/modules/*/**/nvidia.ko*"),
        ("usr/src/nvidia-595.91.07/dkms.conf", "usr/src/nvidia-*"),
        ("usr/lib/x86_64-linux-gnu/libcuda.so.1", "usr/lib/x86_64-linux-gnu/libcuda.so*"),
    ],
)
def test_any_part_of_a_driver_is_a_driver(look: Look, file: str, trace: str) -> None:
    assert look(1, "", file)["traces"] == [trace]


def test_what_a_plain_kernel_has_is_none(look: Look) -> None:
    modules = "lib/modules/6.1.0-40-cloud-amd64/kernel/drivers"
    files = (
        "video/fbdev/nvidia/nvidiafb.ko",
        "platform/x86/nvidia-wmi-ec-backlight.ko",
        "i2c/busses/i2c-nvidia-gpu.ko",
    )
    assert look(1, "", *(f"{modules}/{file}" for file in files), "sys/module/nvidiafb/version")["traces"] == []


def test_a_driver_that_hangs(look: Look) -> None:
    began = time.monotonic()
    found = look(1, "sleep 60")
    assert time.monotonic() - began < 20
    assert (found["answering"], found["words"]) == (0, "nvidia-smi gave no answer within 1 s")


@pytest.mark.parametrize("code", [0, 255])
def test_one_gpu_of_two_is_silent(look: Look, code: int) -> None:
    found = look(2, f'echo "{ANSWERS.splitlines()[0]}"\necho "{LOST}"\nexit {code}')
    assert (found["answering"], found["silent"], found["driver"]) == (1, [SLOTS[1]], "535.183.01")
    assert found["words"] == (f"nvidia-smi ended with {code}: " if code else "") + LOST


def test_what_was_before(look: Look, tmp_path: Path) -> None:
    (tmp_path / "opt/tensorflow").mkdir(parents=True)
    (tmp_path / "opt/tensorflow/gpus").write_text("4\n")
    (tmp_path / "opt/flotilla-driver").touch()
    found = look(1)
    assert (found["before"], found["ours"]) == (4, True)
