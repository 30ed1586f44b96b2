"""What a job says of itself on HDFS: that it is done, that it has failed for good, that its evaluator still evaluates.

Each is a file of the model directory. The chief writes job-done.json and result.json, the first task that has failed
for good writes job-failed.json, chief and evaluator write evaluator.json.
"""

from __future__ import annotations

import time
from typing import TypedDict

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.storage import hdfs

DONE = "job-done.json"
FAILED = "job-failed.json"
EVALUATOR = "evaluator.json"
RESULT = "result.json"


class Failure(TypedDict):
    """The content of job-failed.json."""

    task: str  # as worker-1
    message: str  # a sentence: why, and what to do
    at: float  # seconds since the epoch


def done(model_dir: str) -> dict[str, object] | None:
    """Return the content of job-done.json, None where there is none; raise hdfs.Unreachable."""
    return hdfs.read_json(hdfs.join(model_dir, DONE))


def finished(config: TrainConfig) -> dict[str, object] | None:
    """Return what job-done.json says where the job has made all its steps, else None; raise hdfs.Unreachable.

    How many steps a program makes, its arguments say. Where minutes have ended it before (loop/budget.py), it is done
    for a job of so many minutes.
    """
    found = done(config.model_dir)
    if found is None or found.get("program", "built-in") != config.program_name:
        return None
    if config.program:
        same, whole = found.get("arguments") == config.program_arguments(), not found.get("minutes")
    else:
        same, whole = True, int(str(found.get("global_step", -1))) >= config.max_steps
    return found if same and (whole or found.get("minutes") == config.minutes > 0) else None


def write_done(config: TrainConfig, content: dict[str, object]) -> None:
    """Say on HDFS that the job is done."""
    hdfs.write_json(hdfs.join(config.model_dir, DONE), content)


def failed(model_dir: str) -> dict[str, object] | None:
    """Return a Failure, as the last task that has failed for good wrote it, or None; raise hdfs.Unreachable."""
    return hdfs.read_json(hdfs.join(model_dir, FAILED))


def write_failed(config: TrainConfig, task: Task, message: str) -> None:
    """Say on HDFS that the job has failed for good; HDFS is asked for up to config.reach_secs."""
    content = Failure(task=task.name, message=message, at=time.time())
    hdfs.retry(lambda: hdfs.write_json(hdfs.join(config.model_dir, FAILED), content), config.reach_secs)


def evaluating(config: TrainConfig) -> bool | None:
    """Return whether the evaluator's events are still to come; None where nobody has said so."""
    found = (hdfs.read_json(hdfs.join(config.model_dir, EVALUATOR)) or {}).get("evaluating")
    return None if found is None else bool(found)


def write_evaluating(config: TrainConfig, running: bool) -> None:
    """Tell the store whether the evaluator's events are still to come."""
    hdfs.write_json(hdfs.join(config.model_dir, EVALUATOR), {"evaluating": running})


def announce_evaluator(config: TrainConfig) -> None:
    """Have the store wait for an evaluator that is still to begin: a short job may be done by then."""
    # What an evaluator has said is of this training, unless that has been done before with fewer steps.
    if evaluating(config) is None or done(config.model_dir):
        write_evaluating(config, True)
