"""Tells a job's other tasks that it has failed for good: systemd runs it when it won't start a task again (OnFailure=).

Without a word, parameter servers would serve for ever, and workers train what nobody saves.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from flotilla.job.cluster import Task, task_from, tf_config
from flotilla.job.config import TrainConfig, load
from flotilla.job.errors import ProgramError
from flotilla.loop import outcome
from flotilla.supervision import progress
from flotilla.supervision.progress import TaskReport

RECENT_SECS = 60  # what a task said earlier is not why it has failed now

_log = logging.getLogger("flotilla")


def report(config: TrainConfig, message: str) -> None:
    """Have this host's progress say that the job has failed, and copy that to HDFS."""
    content = progress.read(config.progress)
    if content:
        content.update({"state": "failed", "eta": None, "message": message, "updated": time.time()})
        progress.write_json(config.progress, content)
    else:
        progress.Progress(config.progress, "train", config.max_steps, "steps").fail(message)
    progress.HdfsCopier(config.progress, config.model_dir).stop()


def ends_job(task: Task, sync: bool) -> bool:
    """Whether a job can't go on without this task."""
    return task.type in ("ps", "chief") or (sync and task.type == "worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Say why --task has failed, where the job can't go on without it; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load(argv)
        task = task_from({"TF_CONFIG": tf_config(config.cluster, config.task)})
        if not ends_job(task, config.sync):
            return 0
        message = reason(config, task)
        if task.leads and config.progress:
            report(config, message)
        if task.leads and _own(config, task).get("waited"):
            # Who hears nothing keeps what was learned, and site.yml goes on with it.
            _log.info("Told nobody else: %s", message)
            return 0
        outcome.write_failed(config, task, message)
        _log.info("Told all tasks: %s", message)
    except ProgramError as error:
        _log.error("%s", error)
        return error.code
    return 0


def reason(config: TrainConfig, task: Task) -> str:
    """Return why a task on this host has failed, as well as it is known."""
    content = progress.read(config.progress) if config.progress else None
    if content and content["state"] == "failed":
        return str(content["message"])
    if problem := _own(config, task).get("problem"):
        return str(problem)
    return f"{task.name} has failed again and again: see journalctl -u training@{task.name} on its host."


def _own(config: TrainConfig, task: Task) -> TaskReport:
    """Return what a task on this host has reported just now; nothing where that was earlier."""
    own = progress.read_task(config.tasks_dir, task.name)
    return own if time.time() - own.get("updated", 0) < RECENT_SECS else {}


if __name__ == "__main__":
    sys.exit(main())
