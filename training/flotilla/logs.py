"""Copies what a task has put into its host's journal to HDFS, from where the store takes it: systemd runs it whenever a
task ends, as root, who may read the journal."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from collections.abc import Sequence

from flotilla.job.config import TrainConfig, load
from flotilla.job.errors import ProgramError
from flotilla.storage import hdfs
from flotilla.supervision import progress

FOLDER = f"{progress.FOLDER}/logs"  # in the model directory
LIMIT = 20_000_000  # bytes of a task's journal, before they are compressed: its end
SECS = 20.0  # for all of it: a task that is started again waits for this

_log = logging.getLogger("flotilla")


def name(task: str) -> str:
    """Return the name of a task's log in FOLDER."""
    return f"{task}.log.gz"


def journal(task: str, since: float | None) -> bytes:
    """Return what systemd and the task itself have said of the task, UTF-8; since a time in Unix seconds."""
    # systemd's own words of a unit are the unit's for root alone.
    command = ["journalctl", f"--unit=training@{task}.service", "--output=short-iso", "--no-pager", "--quiet"]
    command += [f"--since=@{since:.0f}"] if since else []
    found = subprocess.run(command, capture_output=True, timeout=SECS, check=False).stdout
    return found if len(found) <= LIMIT else found[-LIMIT:].partition(b"\n")[2]


def publish(config: TrainConfig, task: str) -> None:
    """Copy a task's journal since the job began.

    Raises:
        hdfs.Unreachable: HDFS doesn't answer.
    """
    model = hdfs.read_json(hdfs.join(config.model_dir, "model.json")) or {}
    began = model.get("began")
    content = journal(task, began if isinstance(began, (int, float)) else None)
    if content:
        hdfs.write(hdfs.join(config.model_dir, FOLDER, name(task)), gzip.compress(content, 6, mtime=0))


def main(argv: Sequence[str] | None = None) -> int:
    """Copy the journal of --task; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load(argv)
        hdfs.within(SECS, lambda: publish(config, config.task))
    except (ProgramError, OSError, subprocess.TimeoutExpired) as error:
        _log.error("The journal of this task isn't stored: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
