"""Print what the host has right now, as JSON, nothing cached, nothing guessed: look.py MARKS ENVIRONMENT

MARKS is the folder of the marks of finished installations, ENVIRONMENT the file with HDFS clients' settings.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("LOOK_ROOT", "/"))  # stand-ins have another
PATIENCE_SECS = float(os.environ.get("LOOK_SECONDS", "120"))

# Any of these is a driver of somebody's, whether it works or not.
TRACES = (
    "usr/bin/nvidia-smi",
    "proc/driver/nvidia",
    "sys/module/nvidia",
    "lib/modules/*/**/nvidia.ko*",
    "usr/src/nvidia-*",
    "usr/lib/x86_64-linux-gnu/libcuda.so*",
)


def gpus():
    """Return the PCI addresses of NVIDIA's display controllers (class 03), driver or not."""
    found = []
    for device in sorted((ROOT / "sys/bus/pci/devices").glob("*")):
        with contextlib.suppress(OSError):
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
            if vendor.strip() == "0x10de" and kind.startswith("0x03"):
                found.append(device.name)
    return found


def ask():
    """Return the driver's version by the PCI address of each GPU that answers, and what nvidia-smi says beside that."""
    query = ["nvidia-smi", "--query-gpu=driver_version,pci.bus_id", "--format=csv,noheader"]
    try:
        process = subprocess.Popen(
            query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    except OSError as error:
        return {}, f"nvidia-smi can't be run: {error.strerror}"
    try:
        said = process.communicate(timeout=PATIENCE_SECS)[0]
    except subprocess.TimeoutExpired:
        # Not waited for: in a driver that hangs it can't even be killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return {}, f"nvidia-smi gave no answer within {PATIENCE_SECS:g} s"
    answers, words = {}, []
    for line in said.splitlines():
        row = re.fullmatch(r"(\d[\d.]*), ([0-9A-Fa-f]+):(\S+)", line.strip())
        if row:  # 00000000:00:1E.0 there is 0000:00:1e.0 on the bus
            answers[f"{int(row[2], 16):04x}:{row[3].lower()}"] = row[1]
        elif line.strip():
            words.append(line.strip())
    if process.returncode:
        words.insert(0, f"nvidia-smi ended with {process.returncode}:")
    return answers, " ".join(words)


there = gpus()
answers, words = ask()
before = ROOT / "opt/tensorflow/gpus"
marks, settings = map(Path, sys.argv[1:] or ("/nowhere", "/nowhere"))
print(
    json.dumps(
        {
            "machine": platform.machine(),
            "python": "{}.{}".format(*sys.version_info),
            "system": platform.freedesktop_os_release().get("NAME", "").split()[0],
            "kernel": platform.release(),
            "gpus": len(there),
            "answering": len(answers),
            "silent": [address for address in there if address not in answers],
            "driver": min(answers.values(), default=""),
            "words": words.rstrip("."),
            "traces": [trace for trace in TRACES if any(ROOT.glob(trace))],
            "ours": (ROOT / "opt/flotilla-driver").exists(),
            "installed": [str(mark) for mark in marks.glob("tensorflow-*")],
            "environment": hashlib.sha256(settings.read_bytes()).hexdigest() if settings.is_file() else "",
            "before": int(before.read_text()) if before.exists() else 0,
        }
    )
)
