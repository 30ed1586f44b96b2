"""What a trainer tells of itself, from steps and a clock that are given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from flotilla.loop import checkpoints, hooks
from flotilla.supervision import peers, watchdog
from flotilla.supervision.progress import Progress, TaskFile


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
    assert json.loads((tmp_path / "worker-0.json").read_text())["step"] == 10, "the first is told at once"
    (tmp_path / "worker-0.json").unlink()
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


def test_a_last_step_soon_after_a_report_says_no_other_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step's time says nothing; the report before is counted in."""
    file, now = tmp_path / "train.json", [100.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
    hook = hooks.ReportHook({}, 32, 128, 10, Progress(file, "train", 0, "steps"))
    hook._writer = None
    for step in (1, 11, 21, 31, 32):
        now[0] += 10 if step < 32 else 0.1
        hook.after_run(None, SimpleNamespace(results=[step, {}]))
    assert json.loads(file.read_text())["rate"] == pytest.approx(11 / 10.1 * 128, abs=0.1)


def test_the_first_step_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    hook = hooks.ReportHook({}, 1000, 128, 10, Progress(file, "train", 0, "steps"))
    hook._writer = None

    def done(step: int) -> dict[str, Any]:
        hook.after_run(None, SimpleNamespace(results=[step, {"loss": 2.5}]))
        return json.loads(file.read_text())  # type: ignore[no-any-return]

    assert done(0)["message"] == "starting", "it was read before the step was made"
    told = done(1)
    assert (told["done"], told["message"], told["rate"], told["detail"]) == (1, "", None, {"loss": 2.5})
    assert done(5)["done"] == 1
    assert done(10)["done"] == 10 and done(10)["rate"]


@pytest.fixture
def server() -> Iterator[Any]:
    """A TensorFlow server, which keeps the variables of the sessions that come and go."""
    yield tf.distribute.Server.create_local_server()


def session(server: Any, folder: Path, first: int, spoil: bool = False) -> tuple[Any, Any]:
    """A chief's session: (what it restored or began with, the value that its variable has now)."""
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        step = v1.train.create_global_step()
        value = v1.get_variable("value", initializer=tf.constant(first), use_resource=False)
        weight = v1.get_variable("weight", initializer=1.0, use_resource=False)
        spoiled = weight.assign(float("nan"))
        saver = hooks.Saver(str(folder))
        scaffold = v1.train.Scaffold(saver=saver)
        hook = hooks.SaverHook(str(folder), 1000, scaffold)
        add, tick = value.assign_add(1), v1.assign_add(step, 1)
        with v1.train.MonitoredSession(
            v1.train.ChiefSessionCreator(scaffold, server.target, checkpoint_dir=str(folder))
        ) as plain:
            # As a process that is killed: no hook sees its end.
            inner = plain._tf_sess()
            hook.begin = lambda: None
            hook._summary_writer = SimpleNamespace(add_graph=lambda graph: None, add_session_log=lambda *a: None)
            hook.after_create_session(inner, None)
            began = int(inner.run(value))
            for _ in range(5):
                inner.run([add, tick])
            if spoil:
                inner.run(spoiled)
            return began, int(inner.run(value))


def test_a_chief_goes_on_with_what_the_parameter_servers_hold(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session(server, tmp_path, 10) == (10, 15)
    assert checkpoints.latest_step(str(tmp_path)) == 0
    assert session(server, tmp_path, 20) == (15, 20), "neither begun anew nor set back to the checkpoint"
    assert checkpoints.latest_step(str(tmp_path)) == 5
    checkpoints.trust(str(tmp_path))
    assert session(server, tmp_path, 30) == (15, 20), "set back to the checkpoint"
    checkpoints.trust(str(tmp_path), 4)
    assert session(server, tmp_path, 30) == (15, 20), "what it trusts is of another checkpoint"
    assert session(server, tmp_path, 30, spoil=True) == (20, 25), "it goes on"
    assert session(server, tmp_path, 30) == (20, 25), "set back to the checkpoint, since not all is a number"
    with monkeypatch.context() as patch:
        patch.setattr(tf.estimator.CheckpointSaverHook, "_save", lambda *_: False)
        assert session(server, tmp_path, 30) == (25, 30), "lost before it has saved"
    assert session(server, tmp_path, 30) == (30, 35), "what it noted before is of no harm"
    other = tf.distribute.Server.create_local_server()
    assert session(other, tmp_path, 40)[0] == 30, "a parameter server that was started anew holds nothing"


def test_a_worker_saves_what_was_learned_when_the_chief_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(watchdog, "leave", leave)
    monkeypatch.setattr(peers, "chief_lost", threading.Event())
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        train = v1.assign_add(v1.train.create_global_step(), 1)
        scaffold = v1.train.Scaffold(saver=hooks.Saver(""))
        hook = hooks.LastCheckpointHook(str(tmp_path), scaffold)
        with (
            pytest.raises(SystemExit, match="2"),
            v1.train.MonitoredSession(v1.train.ChiefSessionCreator(scaffold), [hook]) as session,
        ):
            session.run(train)
            session.run(train)
            assert checkpoints.latest_step(str(tmp_path)) is None
            peers.chief_lost.set()
            session.run(train)
    assert checkpoints.latest_step(str(tmp_path)) == 3
