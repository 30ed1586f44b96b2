"""Copies a progress file into the job's folder on HDFS again and again, so that any node can say how far the job is."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from flotilla.job.errors import ProgramError
from flotilla.storage import hdfs

EVERY_SECS = 10.0
FOLDER = "progress"  # in the model directory


class Publisher:
    """Copies in a thread of its own, so that an HDFS that doesn't answer holds nobody up.

    Without a path it does nothing. What can't be copied now is copied later, or never: it is only told.
    """

    def __init__(self, path: str, model_dir: str) -> None:
        self._path, self._model_dir = path, model_dir
        self._copied = b""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        if path:
            self._thread.start()

    def stop(self, seconds: float = 5) -> None:
        """Copy what was told last, and end; give up after so many seconds."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ending.wait(EVERY_SECS):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        with contextlib.suppress(OSError, ProgramError):
            content = Path(self._path).read_bytes()
            if content != self._copied:
                hdfs.write(hdfs.join(self._model_dir, FOLDER, Path(self._path).name), content)
                self._copied = content
