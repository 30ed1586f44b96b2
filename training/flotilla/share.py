"""A host with several trainers: each takes one GPU and its share of the processors.

TensorFlow sizes its thread pools by the processors that the process may use, and takes the memory of every GPU that
it sees, so both have to be done before it is imported.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from flotilla.cluster import Task


def take(task: Task) -> None:
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


def _place(system: Path, number: int) -> tuple[int, int]:
    """Return socket and core of a processor; a system that doesn't say has one core a processor."""
    try:
        folder = system / f"cpu{number}" / "topology"
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, number
