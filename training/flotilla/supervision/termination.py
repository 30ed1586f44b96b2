"""Ends the process on SIGTERM, at once or after the grace that it requested for: a chief saves a checkpoint first."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from flotilla.supervision import watchdog

ON_END_SECS = 10
CLOSE_SECS = 3  # for the rest, where a session's close can take half a minute

requested = threading.Event()  # set when the process has been told to end
saved = threading.Event()  # set when there is a checkpoint since then
on_end: Callable[[bool], None] | None = None  # says whether it has been saved
_grace_secs = 0.0
_log = logging.getLogger(__name__)


def handle_sigterm() -> None:
    """Wait for SIGTERM from now on. Call it before any thread starts: one of them could take the signal instead.

    A thread waits for it, since a handler would run when the main thread is back from TensorFlow: with a ps that is
    gone, never.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # A program's own processes are ended by this signal, as multiprocessing does it.
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}))
    threading.Thread(target=_wait, name="termination", daemon=True).start()


def grace(seconds: float) -> None:
    """Have that long between SIGTERM and the end."""
    global _grace_secs
    _grace_secs = seconds


def _wait() -> None:
    signal.sigwait({signal.SIGTERM})
    requested.set()
    try:
        if _grace_secs:
            _log.info("Told to end: saving a checkpoint first.")
            if saved.wait(_grace_secs):
                time.sleep(CLOSE_SECS)
            else:
                _log.warning("No checkpoint within %.0f s: ending without.", _grace_secs)
            if on_end:
                on_end(saved.is_set())
        elif on_end:
            # Nothing has been trained since the last checkpoint; HDFS may be away, or TensorFlow still be loaded.
            saying = threading.Thread(target=on_end, args=(True,), daemon=True)
            saying.start()
            saying.join(ON_END_SECS)
    finally:
        watchdog.leave(0)
