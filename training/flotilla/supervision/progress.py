"""Progress files: how a node program tells Ansible and a human how far it is, and their copies on HDFS."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from flotilla.job.errors import ProgramError
from flotilla.storage import hdfs, jsons

FOLDER = "progress"  # in the model directory, for the copies
COPY_SECS = 10.0

_log = logging.getLogger(__name__)


class Report(TypedDict):
    """A progress file: how far a phase is."""

    phase: str  # stage, train, store or mirror
    state: str  # running, done, failed or stopped
    done: float  # of total, in unit
    total: float  # 0 where nobody knows
    unit: str  # steps, bytes, objects
    rate: float | None  # of late, in rate_unit
    rate_unit: str | None  # as examples/s
    eta: float | None  # seconds left
    detail: dict[str, float | str]  # loss, accuracy and the like
    message: str  # a sentence: what is waited for, what went wrong
    updated: float  # seconds since the epoch


class TaskReport(TypedDict, total=False):
    """What a task says of itself; what it knows nothing of is left out."""

    job: str
    task: str  # as worker-1
    device: str  # as `CPU` or `GPU 0 T4`
    step: int  # the last global step that it saw, or evaluated
    steps_per_second: float  # of its own
    examples_per_second: float
    staleness: float  # how many steps others made during one of its own
    accuracy: float  # of an evaluation, as all metrics that a program has
    loss: float
    warning: str  # empty when it is over
    problem: str  # why it ended
    waited: bool  # whether what may pass by itself didn't
    updated: float  # seconds since the epoch


def write_json(path: str | Path, value: object) -> None:
    """Write value to a local file, so that a reader sees the old or the new content, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_text(jsons.dumps(value) + "\n", encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path) -> Report | None:
    """Return a progress file's content; None where there is no file or it isn't one."""
    try:
        return parse(Path(path).read_bytes())
    except OSError:
        return None


def parse(content: bytes) -> Report | None:
    """Return what a progress file's bytes say; None where they are no such thing."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    if not isinstance(value, dict) or "phase" not in value:
        return None
    report: Report = value  # type: ignore[assignment]  # as Progress wrote it
    return report


def read_task(folder: str, task: str) -> TaskReport:
    """Return what a task of this host has said in its TaskFile; nothing where that can't be read."""
    path = _task_file(folder, task)
    try:
        value = json.loads(path.read_bytes()) if path else None
    except (OSError, ValueError):
        return {}
    report: TaskReport = value if isinstance(value, dict) else {}  # type: ignore[assignment]  # as TaskFile wrote it
    return report


def _task_file(folder: str, task: str) -> Path | None:
    return Path(folder) / f"{task}.json" if folder else None


class _File:
    """A file of the latest news, or none; one that can't be written is said once and is no reason to stop."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = Path(path) if path else None
        self._warned = False

    def write(self, content: Report | TaskReport) -> None:
        if self._path is None:
            return
        content["updated"] = time.time()
        try:
            write_json(self._path, content)
        except OSError as error:
            if not self._warned:
                _log.warning("The progress file %s can't be written: %s", self._path, error)
                self._warned = True


class TaskFile:
    """What one task does itself, in a file of its name; nothing without a folder."""

    def __init__(self, folder: str, job: str, task: str) -> None:
        self._file = _File(_task_file(folder, task))
        self._lock = threading.Lock()
        self._content: TaskReport = {"job": job, "task": task}

    def update(self, **values: float | str | bool | None) -> None:
        """Add to what the task has said before, or replace it."""
        with self._lock:
            self._content.update(values)  # type: ignore[typeddict-item]  # keys of a TaskReport
            self._file.write(self._content)


class Progress:
    """One phase's progress, written to a file at every call; safe to call from several threads.

    Without a path it does nothing. The time left comes from the pace of the last updates, so that a
    resumed job is judged fairly.
    """

    def __init__(self, path: str | Path | None, phase: str, total: float, unit: str, done: float = 0) -> None:
        self._file = _File(path)
        self._lock = threading.Lock()
        self._pace: deque[tuple[float, float]] = deque(maxlen=30)
        self._warning = ""
        self._content: Report = {
            "phase": phase,
            "state": "running",
            "done": done,
            "total": total,
            "unit": unit,
            "rate": None,
            "rate_unit": None,
            "eta": None,
            "detail": {},
            "message": "starting",
            "updated": time.time(),
        }
        with self._lock:
            self._file.write(self._content)

    def update(
        self,
        done: float,
        rate: float | None = None,
        rate_unit: str | None = None,
        message: str = "",
        detail: Mapping[str, float | str] | None = None,
    ) -> None:
        """Say that `done` of the total is done; `detail` is added to what was said before."""
        with self._lock:
            self._pace.append((time.monotonic(), done))
            message = message or self._warning
            self._content.update(
                {"done": done, "rate": rate, "rate_unit": rate_unit, "message": message, "eta": self._eta()}
            )
            self._content["detail"].update(detail or {})
            self._file.write(self._content)

    def expect(self, total: float) -> None:
        """Say how much there is to do, where it wasn't known at first."""
        with self._lock:
            self._content["total"] = total

    def say(self, message: str) -> None:
        """Say in words what happens; how much is done stays as it was."""
        with self._lock:
            self._content["message"] = message
            self._file.write(self._content)

    def warn(self, sentence: str) -> None:
        """Say a sentence wherever nothing else is said, from now on; an empty one takes it back."""
        with self._lock:
            if self._content["message"] in ("", self._warning) and sentence != self._warning:
                self._content["message"] = sentence
                self._file.write(self._content)
            self._warning = sentence

    def finish(self, message: str = "", detail: Mapping[str, float | str] | None = None, done: float = 0) -> None:
        """Say that the phase ended well; the last rate stays. `done` counts where nobody knew the total."""
        with self._lock:
            total = self._content["total"] or max(done, self._content["done"])
            self._content.update({"state": "done", "done": total, "total": total, "eta": 0.0, "message": message})
            self._content["detail"].update(detail or {})
            self._file.write(self._content)

    def fail(self, message: str, done: float = 0) -> None:
        """Say that the phase ended badly, in one sentence; `done` counts where less was done."""
        with self._lock:
            done = max(done, self._content["done"])
            self._content.update({"state": "failed", "done": done, "eta": None, "message": message})
            self._file.write(self._content)

    def stop(self, message: str, done: float) -> None:
        """Say that the phase was told to end, in one sentence; so much of it is kept."""
        with self._lock:
            self._content.update({"state": "stopped", "done": done, "rate": None, "eta": None, "message": message})
            self._file.write(self._content)

    def _eta(self) -> float | None:
        (first_time, first), (last_time, last) = self._pace[0], self._pace[-1]
        if last <= first or last_time <= first_time or not self._content["total"]:
            return None
        left = max(0.0, float(self._content["total"]) - last)
        return round(left * (last_time - first_time) / (last - first), 1)


def about(seconds: float) -> str:
    """Return a time that is estimated, in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class HdfsCopier:
    """Copies a progress file to HDFS, to the model directory, again and again: any node can say how far the job is.

    It does so in a thread of its own: an HDFS that doesn't answer holds nobody up. What can't be copied now is copied
    later, or never. Without a path it does nothing.
    """

    def __init__(self, path: str, model_dir: str) -> None:
        self._path, self._model_dir = path, model_dir
        self._copied = b""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copy-progress", daemon=True)
        if path:
            self._thread.start()

    def stop(self, seconds: float = 5) -> None:
        """Copy the latest content, and end; give up after so many seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.wait(COPY_SECS):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        with contextlib.suppress(OSError, ProgramError):
            content = Path(self._path).read_bytes()
            if content != self._copied:
                hdfs.write(hdfs.join(self._model_dir, FOLDER, Path(self._path).name), content)
                self._copied = content
