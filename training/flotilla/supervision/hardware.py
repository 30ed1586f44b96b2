"""A host with several trainers: each takes one GPU and its share of the processors.

TensorFlow sizes its thread pools by the processors that the process may use, and takes the memory of every GPU that
it sees, so both have to be done before it is imported. Whether the GPUs are there shows when it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from flotilla.job.cluster import Task
from flotilla.job.errors import BadInput

# Beside TensorFlow, by role tensorflow: how many GPUs the host had when it was installed; 0 with the build for the CPU.
GPUS = Path(sys.prefix) / "gpus"

STARVED = 0.8  # of the time: what else runs there has left it less than a fifth of what it could use
LOOK_SECS = 30.0


def claim(task: Task) -> None:
    """Keep this process, and the threads that it starts from now on, to the task's share of the host.

    A ps and an evaluator share with whoever is there, and a trainer that is alone has everything. Where the
    environment says which GPUs are to be seen, that stays.
    """
    slot, slots = task.slot
    if slots == 1:
        return
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order of nvidia-smi
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(slot))
    os.sched_setaffinity(0, processors(os.sched_getaffinity(0), slot, slots))


def processors(usable: Collection[int], slot: int, slots: int, system: str = "/sys/devices/system/cpu") -> set[int]:
    """Return a slot's processors: whole cores where they suffice, all of one socket, and never none."""
    ordered = sorted(usable, key=lambda number: (*_place(Path(system), number), number))
    first, end = slot * len(ordered) // slots, (slot + 1) * len(ordered) // slots
    return set(ordered[first : max(end, first + 1)])


class StarvationWatch:
    """Tells when this process waits for processors most of the time, as beside other work on a small host.

    Weights and priorities make training yield: what they cost shows here, whichever of them the kernel heeds.

    Args:
        say: called with a sentence, and with an empty one when it is over.
    """

    def __init__(self, say: Callable[[str], None], system: str = "/proc/self/task") -> None:
        self._say, self._system = say, Path(system)
        self._before = self._times()
        self._said = ""

    def start(self) -> None:
        threading.Thread(target=self._watch, name="starved", daemon=True).start()

    def look(self) -> None:
        """Compare with the time before, and say what is new."""
        now = self._times()
        ran, waited = (
            sum(times[n] - self._before.get(thread, (0, 0))[n] for thread, times in now.items()) for n in (0, 1)
        )
        self._before = now
        share = waited / (ran + waited) if ran + waited else 0.0
        # In steps: the sentence is news only when it is another one.
        sentence = f"waits for processors {round(share * 20) * 5} % of the time" if share >= STARVED else ""
        if sentence != self._said:
            self._say(sentence)
        self._said = sentence

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_SECS)
            self.look()

    def _times(self) -> dict[str, tuple[int, int]]:
        """Return how long each thread ran and how long it waited for a processor, in nanoseconds."""
        found = {}
        for file in self._system.glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError):  # a thread that has just ended, or no such statistics
                ran, waited = map(int, file.read_text(encoding="ascii").split()[:2])
                found[file.parent.name] = ran, waited
        return found


def expected(gpus: int, environ: Mapping[str, str]) -> int:
    """Return how many of the host's GPUs a process was given: all, or those that its environment names."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not gpus:
        return gpus
    hidden = [number for number, name in enumerate([*named.split(","), ""]) if name.strip() in ("", "-1")]
    return min(hidden[0], gpus)  # CUDA hides all from there on


def device(task: Task) -> str:
    """Return what a trainer or an evaluator computes on, as `CPU` or `GPU 0 T4`.

    Raises:
        BadInput: a GPU that it was given isn't there, and TensorFlow would train on the CPU without a word.
    """
    import tensorflow as tf

    gpus = int(GPUS.read_text(encoding="ascii")) if GPUS.exists() else 0  # else somebody else has installed it
    given, found = expected(gpus, os.environ), tf.config.list_physical_devices("GPU")
    if len(found) < given:
        raise BadInput(
            f"{task.name} was given {given} of the {gpus} GPUs that its host had when TensorFlow was installed, and "
            f"TensorFlow sees {len(found)}: see nvidia-smi there and systemctl show -p DeviceAllow "
            f"training@{task.name} (which has to be empty), reboot the host, or set fleet_accelerator to cpu, and run "
            "site.yml again."
        )
    if not found:
        return "CPU"
    name = str(tf.config.experimental.get_device_details(found[0]).get("device_name", ""))
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    others = f" (of {len(found)})" if len(found) > 1 else ""  # it computes on the first
    return f"GPU {number} {name.removeprefix('NVIDIA ').removeprefix('Tesla ').split('-')[0]}".rstrip() + others


def _place(system: Path, number: int) -> tuple[int, int]:
    """Return socket and core of a processor; a system that doesn't say has one core a processor."""
    try:
        folder = system / f"cpu{number}" / "topology"
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, number
