"""What a trainer tells of itself, from steps and a clock that are given."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flotilla import hooks
from flotilla.progress import TaskFile


class Trainer:
    """Runs a hook as a session would."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._file = 100.0, folder / "worker-0.json"
        monkeypatch.setattr(hooks.time, "monotonic", lambda: self.now)
        self.hook = hooks.TaskHook(TaskFile(str(folder), "cifar10", "worker-0"), 128)
        self.hook._writer = None

    def step(self, seconds: float, global_step: int) -> None:
        self.now += seconds
        self.hook.after_run(None, SimpleNamespace(results=global_step))

    def told(self) -> dict[str, float] | None:
        if not self._file.exists():
            return None
        content = json.loads(self._file.read_text())
        self._file.unlink()
        return {key: content[key] for key in ("step", "steps_per_second", "examples_per_second", "staleness")}


def test_speed_is_its_own_and_staleness_that_of_the_steps_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path, monkeypatch)
    trainer.step(30, 10)  # with the graph's optimization
    for step in (13, 16, 19):
        trainer.step(1, step)
    assert trainer.told() is None
    trainer.step(1, 22)
    trainer.step(1, 25)
    assert trainer.told() == {"step": 25, "steps_per_second": 1.0, "examples_per_second": 128.0, "staleness": 2.0}
    # Alone from now on; the next span begins where the last one ended.
    for step in range(26, 36):
        trainer.step(0.5, step)
    assert trainer.told() == {"step": 35, "steps_per_second": 2.0, "examples_per_second": 256.0, "staleness": 0.0}
    # A restored checkpoint: what was before doesn't count.
    trainer.step(60, 20)
    trainer.step(2, 24)
    assert trainer.told() is None
    trainer.hook.end(None)
    assert trainer.told() == {"step": 24, "steps_per_second": 0.5, "examples_per_second": 64.0, "staleness": 3.0}
