"""Whole trainings of a tiny network: alone, again, resumed, as a cluster, and without a parameter server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, image

from flotilla import failure, train
from flotilla.job.cluster import Task
from flotilla.job.config import load
from flotilla.job.errors import ProgramError
from flotilla.loop import attempts, checkpoints, outcome
from flotilla.storage import hdfs
from flotilla.supervision import peers, progress, watchdog

ROOT = Path(__file__).parents[1]


def result(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "model" / "result.json").read_text())
    return content


def test_what_failed_outside_of_the_training_is_not_in_the_variables() -> None:
    import tensorflow as tf

    errors = tf.errors
    inside = [
        tf.estimator.NanLossDuringTrainingError(),
        errors.InvalidArgumentError(None, None, "Tensor had NaN values"),
        ValueError("a program's own"),
    ]
    outside = [errors.UnknownError(None, None, "hdfs://…; Input/output error"), hdfs.Unreachable(""), OSError(28, "")]
    for error in [*inside, *outside]:
        own = ProgramError("p.py, line 3: …")  # as a program's error is told
        own.__cause__ = error
        assert attempts.by_training(error) == attempts.by_training(own) == (error in inside)


def test_one_process_from_data_to_a_model_that_predicts(tiny: list[str], tmp_path: Path) -> None:
    import tensorflow as tf

    assert train.main([*tiny, "--max-steps", "60"]) == 0
    found = result(tmp_path)
    assert found["global_step"] == 60 and found["config"]["batch_size"] == 16
    assert found["metrics"]["accuracy"] > 0.7
    assert 0 < found["seconds"] < 300
    assert found["examples_per_second"] > 0 and found["versions"]["tensorflow"] == "2.15.1"
    assert json.loads((tmp_path / "done" / "train.json").read_text())["global_step"] == 60
    assert json.loads((tmp_path / "model" / "job-done.json").read_text())["global_step"] == 60
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None
    assert (told["state"], told["done"], told["rate_unit"]) == ("done", 60, "examples/s")
    assert told["detail"]["accuracy"] == pytest.approx(found["metrics"]["accuracy"])

    serve = tf.saved_model.load(str(tmp_path / "model" / found["saved_model"])).signatures["serving_default"]
    images = np.stack([image(n).transpose(1, 2, 0) for n in range(40)])
    answer = serve(image=tf.constant(images))
    assert answer["probabilities"].shape == (40, CLASSES)
    assert np.mean(answer["class"].numpy() == np.arange(40) % CLASSES) > 0.6

    tags = {
        value.tag
        for file in (tmp_path / "model").glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert {"loss", "accuracy", "learning_rate", "examples_per_second", "global_step_per_second"} <= tags
    # Unsharded, and by relative paths, so that the folder can be moved.
    assert (tmp_path / "model" / "model.ckpt-60.data-00000-of-00001").exists()
    assert str(tmp_path) not in (tmp_path / "model" / "checkpoint").read_text()


def test_a_finished_job_trains_nothing_but_a_longer_one_goes_on(tiny: list[str], tmp_path: Path) -> None:
    assert train.main(tiny) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "model").rglob("*")}
    (tmp_path / "done" / "train.json").unlink()
    assert train.main(tiny) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "model").rglob("*")} == before
    assert (tmp_path / "done" / "train.json").exists()
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and told["state"] == "done" and "already trained" in told["message"]

    # Killed before it could say that it is done: says so, exports nothing a second time.
    (tmp_path / "model" / "job-done.json").unlink()
    assert train.main(tiny) == 0
    assert len(list((tmp_path / "model" / "export").iterdir())) == 1

    # Fewer steps than the last checkpoint has are refused; nothing is changed.
    (tmp_path / "model" / "job-done.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "model").rglob("*")}
    assert train.main([*tiny, "--max-steps", "3"]) == 2
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and "max_steps is 3, but" in told["message"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "model").rglob("*")} == before

    # Killed while the list of checkpoints was replaced: the list is made again.
    (tmp_path / "model" / "checkpoint").unlink()
    assert train.main([*tiny, "--max-steps", "15"]) == 0
    assert result(tmp_path)["global_step"] == 15
    assert not (tmp_path / "model" / "model.ckpt-5.index").exists()
    assert checkpoints.latest_step(str(tmp_path / "model")) == 15


@pytest.mark.parametrize("sync", ["false", "true"])
@pytest.mark.parametrize("scheme", ["estimator", "session"])
def test_both_schemes_train_a_cluster_both_ways(tiny: list[str], tmp_path: Path, scheme: str, sync: str) -> None:
    """With two parameter servers; a chief that is killed goes on from its checkpoint."""
    cluster = addresses(ps=2, chief=1, worker=2)
    arguments = [*tiny, "--max-steps", "60", "--scheme", scheme, "--sync", sync]
    log = tmp_path / "chief-0"
    tasks = {name: start(arguments, cluster, name, tmp_path) for name in ("ps-0", "ps-1", "worker-0", "worker-1")}
    chief = start(arguments, cluster, "chief-0", tmp_path)
    try:
        wait_for_line(r"step [2-5]\d of", chief, log)
        chief.kill()
        chief = start(arguments, cluster, "chief-0", tmp_path)
        began = time.monotonic()
        assert chief.wait(timeout=200) == 0, log.read_text()
        codes = {name: task.wait(timeout=100) for name, task in tasks.items()}
    finally:
        for task in (chief, *tasks.values()):
            task.kill()
    assert codes == dict.fromkeys(tasks, 0)
    assert time.monotonic() - began < 110, "nobody waits 120 s at the end"
    assert result(tmp_path)["global_step"] >= 60 and result(tmp_path)["metrics"]["accuracy"] > 0.7


def test_another_model_in_the_folder_is_refused(
    tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(
        '{"program": "built-in", "resnet_size": 44, "classes": 4, "image": [16, 16, 3]}'
    )
    assert train.main(tiny) == 2
    assert "holds a model whose resnet_size is 44, not 8" in caplog.text


def test_a_session_that_lost_its_checkpoint_does_not_overwrite_it(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow.python.training import session_manager

    assert train.main(tiny) == 0
    saved = (tmp_path / "model" / "checkpoint").read_bytes()
    blind = session_manager.checkpoint_management
    monkeypatch.setattr(blind, "get_checkpoint_state", lambda *args, **kwargs: None)
    monkeypatch.setattr(blind, "latest_checkpoint", lambda *args, **kwargs: None)
    assert train.main([*tiny, "--max-steps", "15"]) == 75
    assert (tmp_path / "model" / "checkpoint").read_bytes() == saved


def test_wrong_input_is_said_and_told(tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train.main([*tiny, "--data-dir", str(tmp_path)]) == 2
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and told["state"] == "failed"
    assert told["message"].endswith("stage the data set first, its manifest is written last.")
    assert train.main([*tiny, "--batch-size", "121"]) == 2
    assert "batch_size is 121, but the split 'train' has 120 examples" in caplog.text
    assert train.main([*tiny, "--max-steps", "-1"]) == 2
    assert "max_steps is -1" in caplog.text


def test_a_start_that_comes_to_nothing_doesnt_forget_how_far_it_was(tiny: list[str], tmp_path: Path) -> None:
    tasks, told = str(tmp_path / "tasks"), tmp_path / "progress" / "train.json"
    progress.Progress(told, "train", 60, "steps").update(31)
    for job, done in (("another", 0), (load(tiny).name, 31)):
        progress.TaskFile(tasks, job, "chief-0").update(step=31)
        task = ["--cluster", json.dumps(addresses(ps=1, chief=1)), "--task", "chief-0", "--tasks-dir", tasks]
        assert train.main([*tiny, *task, "--batch-size", "121"]) == 2
        content = progress.read(told)
        assert content is not None and (content["state"], content["done"]) == ("failed", done)
        progress.Progress(told, "train", 60, "steps").update(31)


def test_the_first_ps_tells_how_far_a_lost_chief_was(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.main(tiny) == 0
    (tmp_path / "model" / "job-done.json").unlink()
    monkeypatch.setattr(peers, "chief_lost", threading.Event())
    monkeypatch.setattr(train, "LAST_CHECKPOINT_SECS", 0)
    monkeypatch.setattr(train.watchdog, "leave", lambda code: None)
    config = load(tiny)
    run = train.TaskRun(config, Task("ps", 0, {}))
    run.give_up(peers.Peer("chief-0", "chief-0:2222", False), "It is gone.")
    said = progress.read(tmp_path / "progress" / "train.json")
    assert said is not None and (said["state"], said["message"]) == ("failed", "It is gone.")
    assert said["done"] == result(tmp_path)["global_step"]


def addresses(**tasks: int) -> dict[str, list[str]]:
    """A cluster on loopback, of that many tasks of each type."""
    with contextlib.ExitStack() as stack:
        cluster: dict[str, list[str]] = {}
        for kind, count in tasks.items():
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            cluster[kind] = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return cluster


def start(arguments: list[str], cluster: dict[str, list[str]], name: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a task, which logs into the file of its name."""
    kind, index = name.rsplit("-", 1)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": int(index)}}),
    }
    command = [sys.executable, "-m", "flotilla.train", *arguments]
    with (folder / name).open("wb") as file:
        return subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)


def wait_for_line(pattern: str, task: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while not re.search(pattern, log.read_text()):
        assert time.monotonic() < deadline and task.poll() is None, log.read_text()
        time.sleep(0.2)


def events(folder: Path) -> list[Any]:
    """What a folder's event files hold."""
    import tensorflow as tf

    return [event for file in folder.glob("events.*") for event in tf.compat.v1.train.summary_iterator(str(file))]


def told(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_a_cluster_ends_by_itself(tiny: list[str], tmp_path: Path) -> None:
    cluster = addresses(ps=1, chief=1, worker=1)
    kinds = ("ps-0", "chief-0", "worker-0", "evaluator-0")
    tasks_dir = tmp_path / "tasks"
    arguments = [*tiny, "--max-steps", "600", "--eval-interval-secs", "600", "--tasks-dir", str(tasks_dir)]
    tasks = {kind: start(arguments, cluster, kind, tmp_path) for kind in kinds}
    try:
        codes = {kind: task.wait(timeout=300) for kind, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.kill()
    logs = {kind: (tmp_path / kind).read_text() for kind in kinds}
    assert codes == dict.fromkeys(kinds, 0), logs
    assert result(tmp_path)["global_step"] >= 600
    assert (tmp_path / "done" / "train.json").exists()
    last = max(event.step for event in events(tmp_path / "model" / "eval_validation"))
    assert last >= 600, "the evaluator didn't wait for its interval"
    evaluated = told(tasks_dir / "evaluator-0.json")
    assert evaluated["step"] == last and 0 <= evaluated["accuracy"] <= 1 and evaluated["examples_per_second"] > 0
    assert told(tasks_dir / "ps-0.json")["device"] == evaluated["device"] == "CPU"
    for trainer in ("chief-0", "worker-0"):
        content = told(tasks_dir / f"{trainer}.json")
        assert content["job"] == "tiny" and content["device"] == "CPU" and 0 < content["step"] <= 602
        assert content["examples_per_second"] == pytest.approx(16 * content["steps_per_second"], rel=0.01)
        shown = {v.tag: v.simple_value for event in events(tmp_path / "model" / trainer) for v in event.summary.value}
        assert shown["examples_per_second"] == pytest.approx(content["examples_per_second"], rel=0.01)
        assert shown["staleness"] == pytest.approx(content["staleness"], abs=0.01) and shown["staleness"] < 600
    assert json.loads((tmp_path / "model" / "evaluator.json").read_text()) == {"evaluating": False}
    # All of them started again: each sees that the job is done.
    again = [start([*tiny, "--max-steps", "600"], cluster, kind, tmp_path) for kind in kinds]
    assert [task.wait(timeout=180) for task in again] == [0, 0, 0, 0]
    assert "nothing to train" in (tmp_path / "worker-0").read_text()


def test_a_chief_that_is_told_to_end_saves_first(tiny: list[str], tmp_path: Path) -> None:
    cluster = addresses(ps=1, chief=1, worker=1)
    arguments = [*tiny, "--max-steps", "100000", "--save-checkpoints-steps", "100000"]
    tasks = [start(arguments, cluster, name, tmp_path) for name in ("ps-0", "chief-0")]
    try:
        wait_for_line(r"step [5-9]\d of", tasks[1], tmp_path / "chief-0")
        tasks[1].terminate()
        assert tasks[1].wait(timeout=30) == 0
    finally:
        for task in tasks:
            task.kill()
    log = (tmp_path / "chief-0").read_text()
    assert "saving a checkpoint first" in log and "goes on from its last checkpoint" in log
    assert (checkpoints.latest_step(str(tmp_path / "model")) or 0) >= 50
    assert not (tmp_path / "model" / "result.json").exists()


def test_with_a_ps_that_only_seems_to_serve_a_trainer_ends_to_be_started_again(tiny: list[str], tmp_path: Path) -> None:
    cluster = addresses(ps=1, chief=1)
    with socket.create_server(("127.0.0.1", int(cluster["ps"][0].split(":")[1]))):
        chief = start([*tiny, "--watchdog-start-secs", "6"], cluster, "chief-0", tmp_path)
        try:
            assert chief.wait(timeout=180) == 75, (tmp_path / "chief-0").read_text()
        finally:
            chief.kill()
    assert "is a ps gone" in (tmp_path / "chief-0").read_text()
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and told["state"] == "running"


def test_who_fails_for_good_ends_the_job_for_all(tiny: list[str], tmp_path: Path) -> None:
    """As systemd does it by OnFailure=, here for a ps that its unit has given up."""
    cluster = addresses(ps=2, chief=1)
    arguments = [*tiny, "--max-steps", "100000"]
    tasks = {name: start(arguments, cluster, name, tmp_path) for name in ("ps-0", "ps-1", "chief-0")}
    try:
        wait_for_line(r"step \d+ of", tasks["chief-0"], tmp_path / "chief-0")
        tasks.pop("ps-1").kill()
        assert failure.main([*arguments, "--cluster", json.dumps(cluster), "--task", "ps-1"]) == 0
        assert {name: task.wait(timeout=30) for name, task in tasks.items()} == {"ps-0": 0, "chief-0": 2}
        told = progress.read(tmp_path / "progress" / "train.json")
        assert told is not None and told["state"] == "failed"
        assert told["message"] == "ps-1 has failed again and again: see journalctl -u training@ps-1 on its host."
        assert told["done"] > 0, "how far it has come is still to be seen"
        assert list((tmp_path).rglob("progress/ps-0.started")), "the store waits for its log"
        # What ended an earlier start isn't this one's end.
        tasks["ps-0"] = start(arguments, cluster, "ps-0", tmp_path)
        wait_for_line("serves at", tasks["ps-0"], tmp_path / "ps-0")
        with pytest.raises(subprocess.TimeoutExpired):
            tasks["ps-0"].wait(timeout=3 * train.DONE_POLL_SECS)
    finally:
        for task in tasks.values():
            task.kill()


def test_who_is_needed_is_given_up_when_hdfs_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = addresses(ps=1, chief=1, worker=1)
    boot = tmp_path / "boot"
    boot.write_text("one")
    monkeypatch.setattr(peers, "BOOT", boot)

    def starts(task: str, *more: str) -> int:
        options = ["--reach-secs=0", f"--tasks-dir={tmp_path}", f"--progress={tmp_path}/train.json", *more]
        nowhere = [f"--{key}-dir=hdfs://127.0.0.1:1/{key}" for key in ("data", "model")]
        return train.main([*nowhere, *options, f"--cluster={json.dumps(cluster)}", f"--task={task}"])

    assert [starts("chief-0") for _ in range(4)] == [75] * 4, "it may come back soon"
    assert not told(tmp_path / "chief-0.json")["waited"]
    monkeypatch.setattr(attempts, "PATIENCE_SECS", 0)
    assert [starts("worker-0") for _ in range(4)] == [75] * 4
    boot.write_text("two")
    assert [starts("chief-0") for _ in range(3)] == [75, 2, 75], "who has mended it has as many attempts again"
    assert starts("chief-0") == 2 and told(tmp_path / "chief-0.json")["waited"], "the others keep what was learned"
    message = told(tmp_path / "train.json")["message"]
    assert re.fullmatch(r"hdfs://127.0.0.1:1 doesn't answer \(.*\), 2 times since the same checkpoint\.", message)
    assert [starts("worker-0", "--sync=true") for _ in range(2)][-1] == 2
    monkeypatch.setattr(peers.Watch, "away", True)
    assert [starts("chief-0") for _ in range(4)] == [75] * 4, "a host that is away is another matter"


@pytest.mark.parametrize(
    ("task", "sync", "ends"),
    [
        ("ps", False, True), ("chief", False, True), ("worker", False, False), ("worker", True, True),
        ("evaluator", True, False),
    ],
)  # fmt: skip
def test_without_whom_a_job_cannot_go_on(task: str, sync: bool, ends: bool) -> None:
    assert failure.ends_job(Task(task, 0, {}), sync) == ends


def test_the_model_is_stored_after_an_evaluator_that_begins_late(tiny: list[str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    config = load([*tiny, "--evaluator", "true", "--program", "digits.py"])
    hdfs.write_json(str(model / "model.json"), {})
    outcome.announce_evaluator(config)
    assert told(model / "evaluator.json") == {"evaluating": True} and outcome.evaluating(config)
    outcome.write_evaluating(config, False)
    outcome.announce_evaluator(config)  # by a chief that was started again
    assert told(model / "evaluator.json") == {"evaluating": False} and outcome.evaluating(config) is False
    hdfs.write_json(str(model / "job-done.json"), {"global_step": 6})  # done before, with fewer steps
    outcome.announce_evaluator(config)
    assert told(model / "evaluator.json") == {"evaluating": True}


def test_a_chief_that_waited_in_vain_leaves_the_others_what_they_learned(tiny: list[str], tmp_path: Path) -> None:
    cluster = json.dumps({"ps": ["a:1"], "chief": ["b:1"], "worker": ["c:1"]})
    arguments = [*tiny, f"--tasks-dir={tmp_path}", "--sync=true", f"--cluster={cluster}"]
    for task, others_are_told in (("chief-0", False), ("worker-0", True)):
        progress.TaskFile(str(tmp_path), "tiny", task).update(problem="HDFS is full.", waited=True)
        assert failure.main([*arguments, f"--task={task}"]) == 0
        assert bool(outcome.failed(str(tmp_path / "model"))) == others_are_told
        if task == "chief-0":
            assert told(tmp_path / "progress" / "train.json")["message"] == "HDFS is full."


def test_a_failure_from_before_a_ps_looks_for_the_first_time_ends_it(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tiny)
    outcome.write_failed(config, Task("chief", 0, {}), "No module named 'x'.")
    began = time.time()
    assert train._wait_for_end(config, began - 5) == "No module named 'x'."
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"{seconds} s"))
    with pytest.raises(pytest.fail.Exception, match=f"{train.DONE_POLL_SECS} s"):
        train._wait_for_end(config, began + 5)


@pytest.mark.parametrize("type_", ["worker", "evaluator"])
def test_a_task_that_waits_in_vain_ends_whatever_hdfs_says_of_its_files(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    """The store has closed the event file of a worker that began when all was done: to close it is an error then."""

    def refuse(*_: object) -> None:
        raise RuntimeError("events.out.tfevents.1.worker-1; Unknown error 255")

    left: list[int] = []
    for module, name, value in (
        (train, "_wait_for_end", lambda *_: ""), (train, "LEAVE_AFTER_SECS", 0), (train, "_close_events", refuse),
        (outcome, "write_evaluating", refuse), (watchdog, "leave", left.append),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    cluster = {"ps": ["127.0.0.1:1"], "chief": ["127.0.0.1:2"], "worker": ["127.0.0.1:3"]}
    run = train.TaskRun(load(tiny), Task(type_, 0, cluster))
    with pytest.raises(RuntimeError):
        run._leave_after_end()
    run.close()
    assert left == [0]


def test_why_a_task_has_failed(tiny: list[str], tmp_path: Path) -> None:
    told, tasks = tmp_path / "progress" / "train.json", tmp_path / "tasks"
    cluster = json.dumps({"ps": ["a:1"], "chief": ["b:1"]})
    arguments = [*tiny, "--tasks-dir", str(tasks), "--cluster", cluster, "--task", "chief-0"]
    progress.TaskFile(str(tasks), "tiny", "chief-0").update(problem="ValueError: no.")
    progress.Progress(told, "train", 15, "steps").update(7)
    assert failure.main(arguments) == 0
    assert (outcome.failed(str(tmp_path / "model")) or {})["message"] == "ValueError: no."
    content = progress.read(told)
    assert content is not None and (content["state"], content["done"]) == ("failed", 7)
    assert (progress.read(tmp_path / "model" / "progress" / "train.json") or {})["message"] == "ValueError: no."
