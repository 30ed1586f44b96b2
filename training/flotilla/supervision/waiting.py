"""Waits, when a job begins, for HDFS and the data set, which may still be on their way while tasks load TensorFlow.

Only then: a task that has begun and is started again finds both, or says at once what is wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput
from flotilla.storage import hdfs, manifest
from flotilla.supervision.progress import write_json

HDFS_SECS = 600.0  # so long at most for HDFS, which nothing else has to be fetched for
POLL_SECS = 1.0


def due(config: TrainConfig, task: Task) -> bool:
    """Whether this task has to wait: it may, and hasn't yet been through it in this job."""
    if not config.wait_secs:
        return False
    note = _note(config, task)
    try:
        return note is None or json.loads(note.read_text(encoding="utf-8")) != _of(config)
    except (OSError, ValueError):
        return True


def over(config: TrainConfig, task: Task) -> None:
    """Note that this task needn't wait again in this job."""
    if note := _note(config, task):
        write_json(note, _of(config))


def for_hdfs(config: TrainConfig, say: Callable[[str], None]) -> None:
    """Return as soon as HDFS answers; raise BadInput when patience is over."""
    seconds = min(config.wait_secs, HDFS_SECS)
    end = time.monotonic() + seconds
    while True:
        try:
            hdfs.read(hdfs.join(config.model_dir, "checkpoint"))
            return
        except hdfs.Unreachable as error:
            if time.monotonic() >= end:
                raise BadInput(
                    f"Waited {_minutes(seconds)} for HDFS in vain: {error} See journalctl -u hadoop-namenode on its "
                    "host, and run the same command again."
                ) from error
            say(f"waits for HDFS: {error}")
        time.sleep(POLL_SECS)


def for_data(config: TrainConfig, say: Callable[[str], None]) -> None:
    """Return as soon as the data set is there, verified; raise BadInput when staging has failed or patience is over."""
    end = time.monotonic() + config.wait_secs
    missing = f"the data set {config.data_dir} to be staged and verified"
    while True:
        try:
            if hdfs.read(hdfs.join(manifest.notes(config.data_dir), manifest.VERIFIED)) is not None:
                return
            if failed := hdfs.read_json(hdfs.join(manifest.notes(config.data_dir), manifest.FAILED)):
                raise BadInput(f"The data set wasn't staged: {failed.get('message')}")
            reason = ""
        except hdfs.Unreachable as error:
            reason = f" {error}"
        if time.monotonic() >= end:
            raise BadInput(
                f"Waited {_minutes(config.wait_secs)} in vain for {missing}.{reason} See journalctl -u flotilla-stage "
                "on all hosts, and run the same command again."
            )
        say(f"waits for {missing}{f':{reason}' if reason else ''}")
        time.sleep(POLL_SECS)


def _note(config: TrainConfig, task: Task) -> Path | None:
    return Path(config.tasks_dir) / f"{task.name}.begun" if config.tasks_dir else None


def _of(config: TrainConfig) -> dict[str, str]:
    return {"model_dir": config.model_dir, "data_dir": config.data_dir}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
