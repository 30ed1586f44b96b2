"""The trials of a sweep in PostgreSQL, a row a set of parameters, which outlive whoever trains them.

Who trains what is decided by the queue (sweep/queue.py) in the same database.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg.rows import class_row

from flotilla.sweep.database import Database
from flotilla.sweep.plan import Point, architecture_of
from flotilla.sweep.values import Scalar

MOST_TRIES = 2  # a trial whose worker has ended is tried once more
HOPELESS_AFTER = 10  # trials that have come as far; of fewer, the median says little
RECENT = 200  # of those, the last ones
IDENTITY = "identity"  # the note that says which sweep it is
WAITING, RUNNING, DONE, EARLY, FAILED = "waiting", "running", "done", "ended early", "failed"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key text PRIMARY KEY, value jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
  number integer PRIMARY KEY,
  identity text NOT NULL UNIQUE,       -- of its parameters
  architecture text NOT NULL,          -- trials of the same one are trained by one graph
  parameters jsonb NOT NULL,
  state text NOT NULL DEFAULT 'waiting',
  tries smallint NOT NULL DEFAULT 0,
  host text NOT NULL DEFAULT '',
  started timestamptz,
  ended timestamptz,
  score double precision,              -- what is maximized: accuracy, or R2
  accuracy double precision,
  rmse double precision,
  loss double precision,
  epochs double precision[] NOT NULL DEFAULT '{}',  -- the score after each
  seconds double precision,
  cpu_seconds double precision,
  parameters_count bigint,
  error text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS trials_open ON trials (state) WHERE state IN ('waiting', 'running');
CREATE INDEX IF NOT EXISTS trials_ended ON trials (ended) WHERE ended IS NOT NULL;
CREATE INDEX IF NOT EXISTS trials_best ON trials (score DESC NULLS LAST, parameters_count, number);
"""


class Score(NamedTuple):
    """What came of a trial."""

    state: str  # done, or ended early
    score: float
    accuracy: float | None
    rmse: float | None
    loss: float | None
    epochs: Sequence[float]
    seconds: float
    cpu_seconds: float
    parameters_count: int


class Trial(NamedTuple):
    """A row, as it is now."""

    number: int
    identity: str
    parameters: dict[str, Scalar]
    state: str
    tries: int
    host: str
    started: float | None  # Unix time
    ended: float | None
    score: float | None
    accuracy: float | None
    rmse: float | None
    loss: float | None
    epochs: list[float]
    seconds: float | None
    cpu_seconds: float | None
    parameters_count: int | None
    error: str


_COLUMNS = ", ".join(
    f"extract(epoch FROM {name})::float8 AS {name}" if name in ("started", "ended") else name for name in Trial._fields
)


class Ledger(Database):
    """The table."""

    def is_empty(self) -> bool:
        """Whether the database has no table yet."""
        row = self.ask(lambda c: c.execute("SELECT to_regclass('trials')").fetchone())
        return not row or row[0] is None

    def make(self) -> None:
        """Make the tables where they are missing."""
        self.ask(lambda connection: connection.execute(_SCHEMA))

    def about(self, key: str) -> object:
        """Return a note about the sweep, or None."""
        row = self.ask(lambda c: c.execute("SELECT value FROM about WHERE key = %s", (key,)).fetchone())
        return row[0] if row else None

    def note(self, key: str, value: object) -> None:
        """Write a note about the sweep, JSON, over one of the same key."""
        words = "INSERT INTO about VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        self.ask(lambda c: c.execute(words, (key, json.dumps(value))))

    def add(self, points: Sequence[Point]) -> None:
        """Add trials that wait; those that are there stay as they are."""

        def copy(connection: psycopg.Connection) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("CREATE TEMPORARY TABLE fresh (LIKE trials INCLUDING DEFAULTS) ON COMMIT DROP")
                with cursor.copy("COPY fresh (number, identity, architecture, parameters) FROM STDIN") as rows:
                    for one in points:
                        rows.write_row(
                            (one.number, one.identity, architecture_of(one), json.dumps(dict(one.parameters)))
                        )
                cursor.execute("INSERT INTO trials SELECT * FROM fresh ON CONFLICT DO NOTHING")

        self.ask(copy)

    def begin(self, number: int, host: str) -> tuple[Point, int] | None:
        """Return a trial that begins, and which try it is; None where it has come to its end."""
        row = self.ask(
            lambda c: c.execute(
                "UPDATE trials SET state = 'running', tries = tries + 1, host = %s, started = now(), error = '' "
                "WHERE number = %s AND state IN ('waiting', 'running') RETURNING identity, parameters, tries",
                (host, number),
            ).fetchone()
        )
        return (Point(number, row[0], row[1]), row[2]) if row else None

    def end(self, number: int, attempt: int, score: Score) -> bool:
        """Write what came of a trial; return False where it wasn't this try that ran."""
        names = score._fields
        return self._set(
            number, attempt, [f"{name} = %s" for name in names], [*score[:5], list(score.epochs), *score[6:]]
        )

    def fail(self, number: int, attempt: int, error: str) -> bool:
        """Write why a trial has failed, as `end`."""
        return self._set(number, attempt, ["state = 'failed'", "error = %s"], [error])

    def give_up(self, number: int) -> None:
        """Have a trial that was lost too often be one that failed; one that was lost once waits again."""
        self.ask(
            lambda c: c.execute(
                "UPDATE trials SET state = CASE WHEN tries < %s THEN 'waiting' ELSE 'failed' END, "
                "ended = CASE WHEN tries < %s THEN NULL ELSE now() END, "
                "error = CASE WHEN tries < %s THEN '' ELSE 'its worker ended or stood still ' || tries || ' times, "
                "the last time on ' || host || ': too little memory?' END WHERE number = %s AND state = 'running'",
                (MOST_TRIES, MOST_TRIES, MOST_TRIES, number),
            )
        )

    def hopeless(self, epoch: int, score: float) -> bool:
        """Whether a trial's score after an epoch (from 1 on) is below the median of others' after as many.

        The median stopping rule of D. Golovin et al., "Google Vizier" (KDD 2017), over the last trials that ended.
        """
        row = self.ask(
            lambda c: c.execute(
                "SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY at) FROM (SELECT epochs[%s] AS at FROM "
                "trials WHERE ended IS NOT NULL AND cardinality(epochs) >= %s ORDER BY ended DESC LIMIT %s) AS recent",
                (epoch, epoch, RECENT),
            ).fetchone()
        )
        return bool(row and row[0] >= HOPELESS_AFTER and score < row[1])

    def counts(self) -> dict[str, int]:
        """Return how many trials there are in each state."""
        return dict(self.ask(lambda c: c.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall()))

    def open(self) -> list[tuple[int, str]]:
        """Return number and architecture of the trials that wait or run, in order."""
        words = "SELECT number, architecture FROM trials WHERE state IN ('waiting', 'running') ORDER BY number"
        return [(row[0], row[1]) for row in self.ask(lambda c: c.execute(words).fetchall())]

    def trials(self) -> Iterator[Trial]:
        """Yield all rows, in order."""
        return iter(self._rows("ORDER BY number", ()))

    def ended(self, since: float) -> list[Trial]:
        """Return the rows of trials that have ended since then (Unix time), in the order in which they did."""
        return self._rows("WHERE ended >= to_timestamp(%s) ORDER BY ended, number", (since,))

    def best(self, count: int) -> list[Trial]:
        """Return the best that are done; of the same score first the smaller, then the earlier ones."""
        return self._rows("WHERE state = 'done' ORDER BY score DESC, parameters_count, number LIMIT %s", (count,))

    def server_since(self) -> float:
        """Return how many seconds the server has been up: nobody could say that he lives before."""
        row = self.ask(lambda c: c.execute("SELECT extract(epoch FROM now() - pg_postmaster_start_time())").fetchone())
        return float(row[0]) if row else 0.0

    def _rows(self, rest: str, values: Sequence[object]) -> list[Trial]:
        def read(connection: psycopg.Connection) -> list[Trial]:
            with connection.cursor(row_factory=class_row(Trial)) as cursor:
                found: list[Trial] = cursor.execute(f"SELECT {_COLUMNS} FROM trials {rest}", values).fetchall()
                return found

        return self.ask(read)

    def _set(self, number: int, attempt: int, settings: Sequence[str], values: Sequence[object]) -> bool:
        words = (
            f"UPDATE trials SET {', '.join(settings)}, ended = now() WHERE number = %s AND tries = %s "
            "AND state = 'running'"
        )
        return bool(self.ask(lambda c: c.execute(words, (*values, number, attempt)).rowcount))
