"""A database of PostgreSQL by one connection that is made anew when it breaks.

A server that restarts delays, and loses nothing. The server and the user are libpq's (PGHOST, PGUSER, PGPASSFILE …).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from flotilla.job.errors import Temporary
from flotilla.storage import bounded

T = TypeVar("T")
PATIENCE_SECS = 600.0  # for a server that is away: a training that is done waits for it
ANSWER_SECS = 30.0  # a server that was stopped by a signal keeps its connections, and answers nothing
AGAIN_SECS = 1.0
_log = logging.getLogger(__name__)


class Database:
    """A connection, by which all that is asked may be asked twice: one that breaks doesn't say whether it was done."""

    def __init__(self, conninfo: str = "", patience: float = PATIENCE_SECS) -> None:
        self._conninfo, self._patience = conninfo, patience
        self._connection: psycopg.Connection | None = None

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def ask(self, ask: Callable[[psycopg.Connection], T]) -> T:
        """Return what is answered; raise Temporary where nothing is for so long as patience is."""
        end = time.monotonic() + self._patience
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)
                return bounded.within(ANSWER_SECS, functools.partial(ask, self._connection))
            except (psycopg.OperationalError, bounded.Late) as error:
                if not isinstance(error, bounded.Late):  # else it is still in use, by a thread that is left behind
                    self.close()
                self._connection = None
                why = str(error).strip().splitlines()[0].rstrip(".")
                if time.monotonic() > end:
                    raise Temporary(f"PostgreSQL doesn't answer: {why}.") from error
                _log.warning("PostgreSQL: %s. Asking again.", why)
                time.sleep(AGAIN_SECS)
