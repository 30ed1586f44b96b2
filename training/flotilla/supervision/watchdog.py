"""Ends a trainer whose global step stands still: TensorFlow never notices a ps that is gone or frozen."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from flotilla.job.errors import Temporary

STOOD_STILL = Temporary.code

_log = logging.getLogger(__name__)


def leave(code: int) -> None:
    """End the process at once: with a frozen ps, an orderly end would wait for ever."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def beat(seconds: float | None = None) -> None:
    """Tell systemd, where it waits for that (WatchdogSec=), that this process runs; a frozen one tells nothing.

    With `seconds`, have it wait no longer than that from now on.
    """
    address, microseconds = os.environ.get("NOTIFY_SOCKET"), os.environ.get("WATCHDOG_USEC")
    if not (address and microseconds):
        return
    every = (seconds or int(microseconds) / 1e6) / 4
    words = f"WATCHDOG_USEC={seconds * 1e6:.0f}\nWATCHDOG=1" if seconds else "WATCHDOG=1"
    address = address.replace("@", "\0", 1)

    def tell() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            while True:
                with contextlib.suppress(OSError):
                    notify.sendto(words.encode(), address)
                time.sleep(every)

    threading.Thread(target=tell, name="beat", daemon=True).start()


class Watchdog:
    """Calls on_stall when nothing has moved for `seconds`, or for `start_seconds` before the first.

    Not while it is `excused`: then something else decides.
    """

    def __init__(
        self,
        seconds: float,
        start_seconds: float,
        on_stall: Callable[[str], None],
        poll: float = 1.0,
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._seconds, self._start_seconds, self._on_stall, self._poll = (
            seconds,
            start_seconds,
            on_stall,
            poll,
        )
        self._excused = excused
        self._usual = 0.0  # seconds that the last step took
        self._last: str | None = None
        self._since = time.monotonic()
        self._bound = start_seconds
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def moved(self, position: str) -> None:
        """Say where the work is; another position than the last one is a sign of life."""
        if position != self._last:
            if self._last is not None:
                self._bound, self._usual = self._seconds, time.monotonic() - self._since
            self._last, self._since = position, time.monotonic()

    def rest(self) -> None:
        """Allow the long time again, as for the work after the last step."""
        self._last, self._since, self._bound = None, time.monotonic(), self._start_seconds

    def pause(self) -> None:
        """Allow any time until the next rest() or moved()."""
        self._last, self._bound = None, math.inf

    def hurry(self, seconds: float) -> None:
        """Allow no more than that, or what three steps take, from now until the next step.

        What the present one waited for was lost and is back, and TensorFlow doesn't repeat what it had asked for.
        """
        if self._last is not None:
            self._since, self._bound = time.monotonic(), min(self._bound, max(seconds, 3 * self._usual))

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll):
            stood = time.monotonic() - self._since
            if stood > self._bound and not self._excused():
                where = "before the first step" if self._last is None else f"at {self._last}"
                self._on_stall(f"Nothing moved for {stood:.0f} s ({where}): is a ps gone, or HDFS?")
                return
