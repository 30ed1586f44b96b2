"""Counts a task's failures since the same checkpoint, so that what fails again and again isn't started for ever."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import ProgramError
from flotilla.loop import checkpoints
from flotilla.storage import hdfs
from flotilla.supervision import peers, progress

ATTEMPTS = 3  # for what fails at each start, as a loss that is no number does
# Without a step, for what may come right by itself, as an HDFS that is full or away. Looked at when an attempt ends:
# HDFS's clients and a session's close can make one last 100 s, and the job has to have ended within 5 minutes.
PATIENCE_SECS = 120


def by_training(error: BaseException) -> bool:
    """Whether what failed may be in the variables by now, as a loss that is no number is: a file or a server isn't."""
    import tensorflow as tf

    if isinstance(error, ProgramError) and error.code == 1:  # of a program of somebody's
        return error.__cause__ is None or by_training(error.__cause__)
    if isinstance(error, tf.errors.OpError):
        return isinstance(error, tf.errors.InvalidArgumentError)  # of check_numerics, say
    return not isinstance(error, (ProgramError, OSError))


def count_failure(config: TrainConfig, task: Task, may_pass: bool) -> int:
    """Note that a task has failed; return how often since the same checkpoint, if that is too often, else 0.

    Args:
        may_pass: whether the reason may pass by itself; then time counts, else the number of attempts.
    """
    if not config.tasks_dir:
        return 0
    note = Path(config.tasks_dir) / f"{task.name}.failed"
    with contextlib.suppress(ProgramError, OSError):
        before = hdfs.read_json(str(note)) or {}
        step = hdfs.ask_briefly(lambda: checkpoints.latest_step(config.model_dir))
        now = {
            "model_dir": config.model_dir,
            "step": before.get("step") if step is None else step,  # None, too, where HDFS doesn't say
            "boot": peers.boot(),
        }
        count, since = int(str(before.get("count", 0))), float(str(before.get("since", 0)))
        if any(before.get(key) != value for key, value in now.items()):
            # It has trained until then, or an earlier process of it has.
            count, since = 0, progress.read_task(config.tasks_dir, task.name).get("updated", time.time())
        count += 1
        progress.write_json(note, {**now, "count": count, "since": since})
        enough = time.time() - since >= PATIENCE_SECS and count > 1 if may_pass else count >= ATTEMPTS
        if enough:
            note.unlink()  # somebody may mend it
            return count
    return 0
