"""The evaluator of the kit's own network, with checkpoints that come and go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from flotilla.job.config import TrainConfig
from flotilla.loop.budget import Budget
from flotilla.model import network
from flotilla.supervision.progress import TaskFile, read_task


def keep(folder: Path, *steps: int) -> None:
    """Have the folder list these checkpoints, the last one as the newest."""
    paths = [str(folder / f"model.ckpt-{step}") for step in steps]
    for path in paths:
        Path(f"{path}.index").touch()
    tf.compat.v1.train.update_checkpoint_state(str(folder), paths[-1], paths)


@pytest.mark.parametrize("error", [ValueError, tf.errors.NotFoundError, tf.errors.UnknownError])
def test_a_checkpoint_that_was_deleted_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """Its files go one by one: the index is still there when the rest is gone."""
    monkeypatch.setattr(network, "POLL_SECS", 0)
    asked: list[str] = []

    def evaluate(*_: Any, checkpoint_path: str, **__: Any) -> dict[str, float]:
        asked.append(Path(checkpoint_path).name)
        if len(asked) == 1:
            keep(tmp_path, 3, 4)
            raise error("gone") if error is ValueError else error(None, None, "gone")
        return {"global_step": 4, "accuracy": 0.5, "loss": 1.0}

    keep(tmp_path, 1, 2)
    config = TrainConfig(data_dir="/d", model_dir=str(tmp_path), max_steps=4)
    specification = SimpleNamespace(input_fn=None, hooks=[], name="validation")
    told = TaskFile(str(tmp_path), "job", "evaluator-0")
    network._evaluate(config, SimpleNamespace(evaluate=evaluate), specification, 10, told, Budget(config))
    assert asked == ["model.ckpt-2", "model.ckpt-4"] and (tmp_path / "model.ckpt-2.index").exists()
    assert read_task(str(tmp_path), "evaluator-0")["step"] == 4


def test_an_error_of_a_checkpoint_that_is_there_is_one(tmp_path: Path) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        keep(tmp_path, 2, 3)
        raise tf.errors.UnknownError(None, None, "broken")

    keep(tmp_path, 1, 2)
    config = TrainConfig(data_dir="/d", model_dir=str(tmp_path))
    specification = SimpleNamespace(input_fn=None, hooks=[], name="validation")
    with pytest.raises(tf.errors.UnknownError, match="broken"):
        network._evaluate(
            config, SimpleNamespace(evaluate=evaluate), specification, 10, TaskFile("", "", ""), Budget(config)
        )
