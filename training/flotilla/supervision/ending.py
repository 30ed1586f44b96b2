"""Ends the process on SIGTERM, at once or after the grace that it asked for: a chief saves a checkpoint first."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from flotilla.supervision import watchdog

FAREWELL_SECS = 10
CLOSE_SECS = 3  # for the rest, where a session's close can take half a minute

asked = threading.Event()  # set when the process has been told to end
saved = threading.Event()  # set when there is a checkpoint since then
farewell: Callable[[bool], None] | None = None  # says whether it has been saved
_grace_secs = 0.0
_log = logging.getLogger(__name__)


def heed() -> None:
    """Wait for SIGTERM from now on. Call it before any thread starts: one of them could take the signal instead.

    A thread waits for it, since a handler would run when the main thread is back from TensorFlow: with a ps that is
    gone, never.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # A program's own processes are ended by this signal, as multiprocessing does it.
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}))
    threading.Thread(target=_wait, name="ending", daemon=True).start()


def grace(seconds: float) -> None:
    """Have that long between SIGTERM and the end."""
    global _grace_secs
    _grace_secs = seconds


def _wait() -> None:
    signal.sigwait({signal.SIGTERM})
    asked.set()
    try:
        if _grace_secs:
            _log.info("Told to end: saving a checkpoint first.")
            if saved.wait(_grace_secs):
                time.sleep(CLOSE_SECS)
            else:
                _log.warning("No checkpoint within %.0f s: ending without.", _grace_secs)
            if farewell:
                farewell(saved.is_set())
        elif farewell:
            # Nothing has been trained since the last checkpoint; HDFS may be away, or TensorFlow still be loaded.
            told = threading.Thread(target=farewell, args=(True,), daemon=True)
            told.start()
            told.join(FAREWELL_SECS)
    finally:
        watchdog.leave(0)
