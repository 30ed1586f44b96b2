"""Several trainers on one host: who gets what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flotilla import share
from flotilla.cluster import Task

CLUSTER = {
    "ps": ["a:2222"],
    "chief": ["b:2222"],
    "worker": ["b:2223", "b:2224", "c:2222", "c:2223", "c:2224", "d:2222"],
}


@pytest.mark.parametrize(
    ("kind", "index", "slot"),
    [
        ("chief", 0, (0, 3)),
        ("worker", 0, (1, 3)),
        ("worker", 1, (2, 3)),
        ("worker", 2, (0, 3)),
        ("worker", 4, (2, 3)),
        ("worker", 5, (0, 1)),
        ("ps", 0, (0, 1)),
        ("evaluator", 0, (0, 1)),
    ],
)
def test_slots(kind: str, index: int, slot: tuple[int, int]) -> None:
    assert Task(kind, index, CLUSTER).slot == slot


def test_a_process_on_its_own_has_everything() -> None:
    assert Task().slot == (0, 1)


@pytest.mark.parametrize(("number", "slots"), [(8, 1), (8, 2), (8, 3), (7, 4), (4, 4)])
def test_all_processors_are_used_once(number: int, slots: int, tmp_path: Path) -> None:
    shares = [share.processors(range(number), slot, slots, str(tmp_path)) for slot in range(slots)]
    assert sorted(one for share in shares for one in share) == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_tasks_than_processors_share_them(tmp_path: Path) -> None:
    assert [share.processors({4, 6}, slot, 4, str(tmp_path)) for slot in range(4)] == [{4}, {4}, {6}, {6}]


def test_siblings_and_sockets_stay_together(tmp_path: Path) -> None:
    """As EC2 counts: first one thread of every core, then the other."""
    for number in range(16):
        folder = tmp_path / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{number % 8 // 4}\n")
        (folder / "core_id").write_text(f"{number % 4}\n")
    shares = [share.processors(range(16), slot, 4, str(tmp_path)) for slot in range(4)]
    assert shares == [{0, 8, 1, 9}, {2, 10, 3, 11}, {4, 12, 5, 13}, {6, 14, 7, 15}]


PROBE = """
import os, sys
from flotilla import share
from flotilla.cluster import Task
share.take(Task(sys.argv[1], 0, {"ps": ["a:1"], "chief": ["a:2"], "worker": ["a:3"]}))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), *sorted(os.sched_getaffinity(0)))
"""


def probe(kind: str, **environ: str) -> list[str]:
    """The GPUs and processors of a process that has taken its share."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, kind], env={**inherited, **environ}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_process_takes_its_share() -> None:
    usable = os.sched_getaffinity(0)
    chief, worker, ps = probe("chief"), probe("worker"), probe("ps")
    assert (chief[0], worker[0], ps[0]) == ("0", "1", "None")
    assert set(map(int, ps[1:])) == usable
    assert set(map(int, chief[1:])) | set(map(int, worker[1:])) == usable
    if len(usable) > 1:
        assert not set(chief[1:]) & set(worker[1:])
    assert probe("worker", CUDA_VISIBLE_DEVICES="7")[0] == "7"
