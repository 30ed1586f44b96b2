"""A training that has some minutes: how many steps it makes, who knows it, and when it is done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_program import job
from test_train import addresses, result, start

from flotilla import train
from flotilla.job import config
from flotilla.loop import budget, checkpoints, hooks, outcome
from flotilla.storage import hdfs
from flotilla.supervision import progress


def paced(seconds: float, a_step: float, slow: int = 0) -> tuple[int, float, float]:
    """What a pace finds, and after how many seconds: of steps that take so long, the first ones ten times as long."""
    pace, now = budget.Pace(seconds), 1000.0
    for step in range(1, 10_000):
        if found := pace.last_step(now, step):
            return *found, now - 1000
        now += a_step * (10 if step <= slow else 1)
    raise AssertionError("nothing was found")


@pytest.mark.parametrize(
    ("seconds", "a_step", "slow", "steps", "after"),
    [
        (120, 0.5, 0, 241, 24),
        (120, 1.3, 0, 93, 24),
        (120, 0.5, 2, 222, 24),  # the steps before half of the measuring don't count
        (7200, 0.5, 0, 14401, 60),
        (120, 20, 0, 6, 60),  # not enough steps for a good measure, but half of the time is over
        (120, 90, 0, 2, 180),  # one step is most of it
    ],
)
def test_as_many_steps_as_fit(seconds: float, a_step: float, slow: int, steps: int, after: float) -> None:
    last, rate, when = paced(seconds, a_step, slow)
    assert last == pytest.approx(steps, abs=2) and rate == pytest.approx(1 / a_step)
    assert when == pytest.approx(after, abs=a_step + 1)
    assert (last - 1 - 9 * slow) * a_step <= max(seconds, when)


def test_a_restored_checkpoint_begins_the_measuring_anew() -> None:
    pace = budget.Pace(120)
    for now in range(20):
        assert pace.last_step(now, 100 + now) is None
    for now in range(20, 44):
        assert pace.last_step(now, now) is None
    found = pace.last_step(44, 44)
    assert found is not None and found[0] == 44 + 96


def test_a_sentence_says_how_many_and_why() -> None:
    assert budget.sentence(2, 93, 400, 99.2, "examples/s") == "at 99.2 examples/s, 93 of 400 steps fit into 2 minutes"
    assert (
        budget.sentence(1.5, 400, 400, 999.5, "examples/s") == "at 999.5 examples/s, all 400 steps fit into 1.5 minutes"
    )
    assert budget.sentence(1, 93, 0, 0.81, "steps/s") == "at 0.81 steps/s, 93 steps fit into 1 minute"


def limited(tmp_path: Path, minutes: float, max_steps: int = 400, program: str = "", **more: Any) -> config.TrainConfig:
    return config.TrainConfig(
        data_dir="data", model_dir=str(tmp_path), minutes=minutes, max_steps=max_steps, program=program, **more
    )


def test_what_the_leading_trainer_finds_is_known_to_the_others_and_after_a_restart(tmp_path: Path) -> None:
    of = lambda minutes, max_steps=400: budget.Budget(limited(tmp_path, minutes, max_steps))  # noqa: E731
    first, other = of(2), of(2)
    other.look()
    assert not other.known and not other.passed(93) and other.passed(400)
    first.set(93)
    other.look()
    assert other.known and other.last_step == 93 and other.passed(93) and not other.passed(92)
    for another in (of(3), of(2, 800)):  # a job with more minutes, or more steps, begins anew
        another.look()
        assert another.last_step is None
    without = of(0)
    without.look()
    assert without.known and without.last_step is None and without.passed(400) and not without.passed(93)


def test_others_hear_of_it_while_they_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "POLL_SECS", 0.01)
    other = budget.Budget(limited(tmp_path, 2))
    real, asked = hdfs.read_json, []

    def read(path: str) -> Any:
        asked.append(path)
        if len(asked) == 2:
            raise hdfs.Unreachable("HDFS is away.")
        return real(path)

    monkeypatch.setattr(hdfs, "read_json", read)
    other.wait()
    while len(asked) < 3:
        assert not other.known
    budget.Budget(limited(tmp_path, 2)).set(93)
    deadline = 1000
    while not other.known and deadline:
        deadline -= 1
        hooks.time.sleep(0.01)
    assert other.last_step == 93


@pytest.mark.parametrize(
    ("done", "minutes", "max_steps", "finished"),
    [
        ({"global_step": 93, "minutes": 2}, 2, 400, True),
        ({"global_step": 93, "minutes": 2}, 3, 400, False),
        ({"global_step": 93, "minutes": 2}, 0, 400, False),
        ({"global_step": 93, "minutes": 2}, 0, 90, True),
        ({"global_step": 400}, 2, 400, True),
        ({"global_step": 400}, 2, 800, False),
        ({"global_step": 400}, 0, 800, False),
    ],
)
def test_a_job_is_done_with_its_minutes(
    tmp_path: Path, done: dict[str, Any], minutes: float, max_steps: int, finished: bool
) -> None:
    (tmp_path / "job-done.json").write_text(json.dumps(done))
    assert (outcome.finished(limited(tmp_path, minutes, max_steps)) is not None) == finished


@pytest.mark.parametrize(
    ("done", "minutes", "finished"), [({}, 2, True), ({"minutes": 2}, 2, True), ({"minutes": 2}, 0, False)]
)
def test_a_program_is_done_with_its_minutes(
    tmp_path: Path, done: dict[str, Any], minutes: float, finished: bool
) -> None:
    done = {"global_step": 93, "program": "mine/main.py", "arguments": ["--x"], **done}
    (tmp_path / "job-done.json").write_text(json.dumps(done))
    for arguments, same in ((("--x",), True), (("--y",), False)):
        found = outcome.finished(limited(tmp_path, minutes, program="/p/mine/main.py", arguments=arguments))
        assert (found is not None) == (finished and same)


def test_the_hook_finds_the_step_says_it_and_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = 0.0
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now)
    told = progress.Progress(tmp_path / "train.json", "train", 400, "steps")
    report = hooks.ReportHook({}, 400, 128, 10, told)
    report._writer = None
    limit = budget.Budget(limited(tmp_path, 2))
    own = hooks.BudgetHook(limit, 2, report, leads=True)
    own._step = "step"
    stopped: list[int] = []
    content: dict[int, dict[str, Any]] = {}
    for step in range(1, 400):
        values = SimpleNamespace(results=[step, {}])
        report.after_run(None, values)
        session = SimpleNamespace(run=lambda _, now=step: now)
        context = SimpleNamespace(session=session, request_stop=lambda now=step: stopped.append(now))
        own.after_run(context, SimpleNamespace(results=step))
        content[step] = progress.read(tmp_path / "train.json") or {}
        if stopped:
            break
        now += 1.3
    assert stopped == [93] and limit.ended
    news = "at 98.46 examples/s, 93 of 400 steps fit into 2 minutes"
    assert news in caplog.text and "of 93, 98.46 examples/s" in caplog.text
    said = [step for step, one in content.items() if one["message"] == news]
    assert said and said[-1] - said[0] >= 10, "for some reports, so that who follows sees it"
    assert content[93]["message"] == "" and content[93]["total"] == 93


def test_one_process_ends_in_time_and_goes_on_with_more(
    tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tiny = [*tiny, "--max-steps", "100000", "--save-checkpoints-steps", "100000"]
    assert train.main([*tiny, "--minutes", "0.1"]) == 0
    (last,) = re.findall(r"examples/s, (\d+) of 100000 steps fit into 0.1 minutes", caplog.text)
    found = result(tmp_path)
    assert found["global_step"] == int(last) and found["config"]["minutes"] == 0.1
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and (told["state"], told["done"], told["total"]) == ("done", int(last), int(last))
    assert json.loads((tmp_path / "model" / "job-done.json").read_text())["minutes"] == 0.1
    assert checkpoints.latest_step(str(tmp_path / "model")) == int(last)
    assert train.main([*tiny, "--minutes", "0.1"]) == 0
    assert result(tmp_path) == found, "it is done"
    assert train.main([*tiny, "--minutes", "0.05"]) == 0
    assert result(tmp_path)["global_step"] > int(last), "other minutes are others"
    # All its steps fit, and no minutes end it.
    before = result(tmp_path)["global_step"]
    assert train.main([*tiny, "--minutes", "5", "--max-steps", str(before + 20)]) == 0
    assert result(tmp_path)["global_step"] == before + 20
    assert "minutes" not in json.loads((tmp_path / "model" / "job-done.json").read_text())


@pytest.mark.parametrize(("scheme", "sync"), [("estimator", "false"), ("session", "true")])
def test_a_cluster_ends_in_time_with_all_its_tasks(tiny: list[str], tmp_path: Path, scheme: str, sync: str) -> None:
    cluster = addresses(ps=1, chief=1, worker=1)
    options = {"max-steps": "100000", "minutes": "0.25", "scheme": scheme, "sync": sync, "eval-interval-secs": "600"}
    arguments = [*tiny, *(f"--{key}={value}" for key, value in options.items())]
    names = ("ps-0", "chief-0", "worker-0", "evaluator-0")
    tasks = {name: start(arguments, cluster, name, tmp_path) for name in names}
    try:
        codes = {name: task.wait(timeout=200) for name, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.kill()
    logs = {name: (tmp_path / name).read_text() for name in names}
    assert codes == dict.fromkeys(names, 0), logs
    (last,) = re.findall(r"examples/s, (\d+) of 100000 steps fit into 0.25 minutes", logs["chief-0"])
    assert int(last) <= result(tmp_path)["global_step"] <= int(last) + 2
    assert "has done its part" in logs["worker-0"] and "The job is done: worker-0 ends" not in logs["worker-0"]
    assert f" of {last}, " in logs["worker-0"], "it knew it, too"


def test_a_program_ends_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    entry = tmp_path / "main.py"
    entry.write_text("""
import time
import tensorflow as tf
v1 = tf.compat.v1
with tf.Graph().as_default():
    step = v1.assign_add(v1.train.create_global_step(), 1)
    with v1.train.MonitoredTrainingSession() as session:
        while not session.should_stop():
            session.run(step)
            time.sleep(0.01)
""")
    arguments = job(entry, tmp_path, "none", "", "--minutes=0.05")
    assert train.main(arguments) == 0
    (last,) = re.findall(r" steps/s, (\d+) steps fit into 0.05 minutes", caplog.text)
    assert result(tmp_path)["global_step"] == int(last) and 50 < int(last) < 400
    assert train.main(arguments) == 0 and "nothing to train" in caplog.text
