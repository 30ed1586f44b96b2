"""Which sweep runs: a file on the lead's host says it to the lead, and a row of the fleet's database to all workers.

So whoever may write that file, the playbook or the page, begins a sweep and ends it, without any right over units.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import psycopg
from psycopg import sql

from flotilla.job.errors import BadInput
from flotilla.supervision.progress import write_json
from flotilla.sweep.database import PATIENCE_SECS, Database
from flotilla.sweep.settings import SweepConfig, load_config

FILE = "sweep.json"
TABLE = ".table"  # the folder of the table as numbers: no file of the user's is called so
NAME = "flotilla"  # of the fleet's database; each sweep has one of its own beside it
_TABLE = "CREATE TABLE IF NOT EXISTS running (one boolean PRIMARY KEY DEFAULT true CHECK (one), sweep jsonb NOT NULL)"


def now(folder: Path) -> SweepConfig | None:
    """Return the sweep that is to run, as the lead's folder says it."""
    try:
        return load_config(folder / FILE)
    except BadInput:
        if not (folder / FILE).exists():
            return None
        raise


def begin(folder: Path, config: SweepConfig) -> None:
    """Have the lead run a sweep: systemd starts it when the file changes."""
    write_json(folder / FILE, dataclasses.asdict(config))


def stop(folder: Path) -> None:
    """Have the lead end, after it has copied what is done."""
    (folder / FILE).unlink(missing_ok=True)


def end(folder: Path, config: SweepConfig) -> None:
    """Have no boot begin a sweep again that is over, unless another one is to run."""
    if now(folder) == config:
        stop(folder)


def directory(folder: Path, text: str, digest: str, target: str) -> tuple[str, Path]:
    """Return a sweep's id and the folder of its files, which is made; `digest` is of its table where that is a file."""
    name = hashlib.sha256(f"{text}{digest}{target.rstrip('/')}".encode()).hexdigest()[:12]
    found = folder / "sweeps" / name
    found.mkdir(parents=True, exist_ok=True)
    return name, found


@dataclasses.dataclass(frozen=True)
class Running:
    """What a worker has to know of the sweep that runs."""

    database: str
    name: str  # of the sweep's file
    files: dict[str, str]  # the texts of that file and of the network's that it names
    shared: str
    trial_secs: float

    def put(self, folder: Path) -> SweepConfig:
        """Write the files to a folder of this host, of a sweep's own."""
        here = folder / "sweeps" / self.database.removeprefix("sweep_")
        here.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            path = here / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                part = path.with_name(f".{name}.{os.getpid()}")
                part.write_text(text, encoding="utf-8")
                part.replace(path)
        return SweepConfig(
            sweep=str(here / self.name), table=str(here / TABLE), shared=self.shared, database=self.database,
            trial_secs=self.trial_secs,
        )  # fmt: skip


class Control(Database):
    """The fleet's database, which has one row: the sweep that runs."""

    def __init__(self, patience: float = PATIENCE_SECS) -> None:
        super().__init__(f"dbname={NAME}", patience)

    def make(self, name: str) -> None:
        """Make the table, and a sweep's database, where they are missing."""

        def create(connection: psycopg.Connection) -> None:
            connection.execute(_TABLE)
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                words = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
                connection.execute(words.format(sql.Identifier(name)))

        self.ask(create)

    def say(self, running: Running) -> None:
        """Have all workers train this sweep's networks."""
        row = json.dumps(dataclasses.asdict(running))
        words = "INSERT INTO running (sweep) VALUES (%s) ON CONFLICT (one) DO UPDATE SET sweep = EXCLUDED.sweep"
        self.ask(lambda connection: connection.execute(words, (row,)))

    def clear(self) -> None:
        """Have all workers wait for another one; before the first sweep there is no table."""
        self.ask(lambda connection: connection.execute(f"{_TABLE}; DELETE FROM running"))

    def running(self) -> Running | None:
        """Return the sweep that runs."""

        def find(connection: psycopg.Connection) -> dict[str, object] | None:
            if connection.execute("SELECT to_regclass('running')").fetchone() == (None,):
                return None
            row = connection.execute("SELECT sweep FROM running").fetchone()
            return row[0] if row else None

        found = self.ask(find)
        return Running(**found) if found else None  # type: ignore[arg-type]  # as `say` wrote it
