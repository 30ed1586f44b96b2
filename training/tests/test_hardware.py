"""Several trainers on one host: who gets what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flotilla import train
from flotilla.job.cluster import Task
from flotilla.job.errors import BadInput
from flotilla.supervision import hardware, progress

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
    shares = [hardware.processors(range(number), slot, slots, str(tmp_path)) for slot in range(slots)]
    assert sorted(one for share in shares for one in share) == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_tasks_than_processors_share_them(tmp_path: Path) -> None:
    assert [hardware.processors({4, 6}, slot, 4, str(tmp_path)) for slot in range(4)] == [{4}, {4}, {6}, {6}]


def test_siblings_and_sockets_stay_together(tmp_path: Path) -> None:
    """As EC2 counts: first one thread of every core, then the other."""
    for number in range(16):
        folder = tmp_path / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{number % 8 // 4}\n")
        (folder / "core_id").write_text(f"{number % 4}\n")
    shares = [hardware.processors(range(16), slot, 4, str(tmp_path)) for slot in range(4)]
    assert shares == [{0, 8, 1, 9}, {2, 10, 3, 11}, {4, 12, 5, 13}, {6, 14, 7, 15}]


@pytest.mark.parametrize(
    ("visible", "given"),
    [(None, 4), ("2", 1), ("0,1", 2), ("GPU-8932f937, GPU-1", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,1,2,3,4", 4)],
)
def test_gpus_that_a_process_was_given(visible: str | None, given: int) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert hardware.expected(4, environ) == given
    assert hardware.expected(0, environ) == 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this a host with GPUs: so many when TensorFlow was installed, these that it sees now."""
    import tensorflow as tf

    monkeypatch.setattr(hardware, "GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def become(gpus: int, *names: str) -> None:
        hardware.GPUS.write_text(f"{gpus}\n")
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(names))
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda name: {"device_name": name})

    return become


def test_the_device_that_a_task_computes_on(host: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.device(Task()) == "CPU", "installed by somebody else"
    host(0)
    assert hardware.device(Task()) == "CPU"
    host(1, "Tesla T4")
    assert hardware.device(Task()) == "GPU 0 T4"
    host(4, *["NVIDIA A100-SXM4-40GB"] * 4)
    assert hardware.device(Task()) == "GPU 0 A100 (of 4)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    host(4, "NVIDIA A10G")
    assert hardware.device(Task("worker", 1, CLUSTER)) == "GPU 2 A10G"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    host(4)
    assert hardware.device(Task()) == "CPU", "as somebody wants it"


@pytest.mark.parametrize(
    ("visible", "gpus", "names", "words"),
    [
        (None, 1, [], "worker-0 was given 1 of the 1 GPUs that its host had"),
        (None, 4, ["Tesla T4"] * 3, "worker-0 was given 4 of the 4 GPUs"),
        ("3", 4, [], "worker-0 was given 1 of the 4 GPUs"),
    ],
)
def test_a_gpu_that_is_gone_is_not_replaced_by_the_cpu(
    host: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    gpus: int,
    names: list[str],
    words: str,
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    host(gpus, *names)
    with pytest.raises(BadInput, match=f"^{words} .* sees {len(names)}: see nvidia-smi .* training@worker-0 .*cpu"):
        hardware.device(Task("worker", 0, CLUSTER))


@pytest.mark.parametrize("program", [False, True])
def test_a_training_without_its_gpu_is_refused(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bool
) -> None:
    """Really: TensorFlow sees none here."""
    monkeypatch.setattr(hardware, "GPUS", tmp_path / "gpus")
    hardware.GPUS.write_text("1\n")
    arguments = [*tiny, "--tasks-dir", str(tmp_path / "tasks")]
    if program:
        file = tmp_path / "own" / "main.py"
        file.parent.mkdir()
        file.write_text("raise AssertionError('it was run')\n")
        arguments += ["--program", str(file)]
    assert train.main(arguments) == 2, "which isn't started again"
    assert not (tmp_path / "model").exists()
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told and told["state"] == "failed"
    assert "1 of the 1 GPUs" in told["message"] and "TensorFlow sees 0" in told["message"]
    assert progress.read_task(str(tmp_path / "tasks"), "local-0")["problem"] == told["message"]


PROBE = """
import os, sys
from flotilla.supervision import hardware
from flotilla.job.cluster import Task
hardware.claim(Task(sys.argv[1], 0, {"ps": ["a:1"], "chief": ["a:2"], "worker": ["a:3"]}))
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
