"""Leads a sweep: prepares the table, has workers train the networks (flotilla.trials), and stores what comes of them.

The trials are rows of PostgreSQL, whose server is libpq's (PGHOST, PGUSER, PGPASSFILE), and a copy of them goes to S3
every two minutes. Started again, on this fleet or on another one, a sweep goes on with what is left. A sweep ends when
its configuration is deleted, too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import flotilla
from flotilla.job.errors import BadInput, ProgramError, Temporary
from flotilla.storage import jsons, objects
from flotilla.storage.files import open_folder
from flotilla.storage.s3 import Prefix
from flotilla.supervision import watchdog
from flotilla.supervision.progress import Progress, about, write_json
from flotilla.sweep import columns, control, ledger, numbers, plan, queue, stored, table
from flotilla.sweep.control import Control, Running
from flotilla.sweep.ledger import Ledger
from flotilla.sweep.plan import Sweep
from flotilla.sweep.settings import SweepConfig, load_config

if TYPE_CHECKING:
    from flotilla.sweep.sampler import Sampler

T = TypeVar("T")
PHASE = "sweep"
FORMAT = "flotilla-sweep/1"
COPY = "sweep/trials.dump"  # of the rows, in the target
BEGUN = "sweep/sweep.json"  # the target's first object
MANIFEST = "manifest.json"
EVERY_SECS = 2.0
LOOK_SECS = 10.0  # between two looks for lost workers
TRIED_SECS = 60.0  # that the estimate may take
TRIED = 5  # networks that it is made of
FED = 4  # networks that wait for each worker, where a sampler makes them
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """It was told to end."""


def apart(ask: Callable[[], T]) -> T:
    """Ask in a process of its own, which takes a table's memory, and TensorFlow's, with it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(ask).result()
        except BrokenProcessPool as error:
            raise Temporary("The process that has the table ended: has this host too little memory?") from error


def fetch(sweep: Sweep, folder: Path) -> Path:
    """Copy a sweep's table to a folder, unless it is on this host; raise BadInput where it isn't there."""
    above, _slash, name = sweep.data.rpartition("/")
    if not sweep.data.startswith(("s3://", "hdfs://")):
        beside = Path(sweep.document.name).parent
        for here in (beside / sweep.data, beside / name):  # on a fleet it lies beside the sweep's file
            if here.is_file():
                return here
        raise sweep.document.wrong(
            ("data",), f"there is no file {beside / sweep.data} (data): correct it, or name one in S3."
        )
    found = folder / name
    read = Prefix(above).stream(name) if sweep.data.startswith("s3://") else open_folder(above).read(name)
    try:
        with found.open("wb") as file:
            file.writelines(read)
    except FileNotFoundError as error:
        raise sweep.document.wrong(("data",), f"there is no {sweep.data} (data): correct it, or upload it.") from error
    return found


def prepare(path: str, shared: str) -> list[str]:
    """Judge a sweep's table, and put it into a shared folder as numbers; return what is known of it, for people."""
    sweep = plan.load(path)
    with tempfile.TemporaryDirectory() as work:
        judged, digest = judge(sweep, Path(work))
        stored.put(shared, numbers.prepare(judged, sweep.seed, sweep.split), digest)
        return columns.says(judged)


def tried(path: str) -> tuple[list[str], float, str]:
    """Judge a sweep's table, and train some of its networks.

    Return what is known of the table, for people; seconds a network; and the table's digest.
    """
    from flotilla.sweep.trial import Trainer

    sweep = plan.load(path)
    with tempfile.TemporaryDirectory() as work:
        judged, digest = judge(sweep, Path(work))
        found = numbers.prepare(judged, sweep.seed, sweep.split)
    if sweep.how == plan.TPE:
        from flotilla.sweep.sampler import Sampler

        points = list(Sampler(sweep).propose(0, TRIED))
    else:
        points = list(plan.points(sweep))[:: max(1, plan.count(sweep) // TRIED)]
    trainer, began = Trainer(found), time.monotonic()
    spent: list[float] = []
    for point in points[:TRIED]:
        if spent and time.monotonic() > began + TRIED_SECS:
            break
        network = plan.made(sweep, point, found.description["features"], len(judged.label.classes))
        before = time.monotonic()
        with contextlib.suppress(ProgramError):  # a row of its own, later
            trainer.train(network, plan.architecture_of(point), plan.seed_of(sweep, point))
        spent.append(time.monotonic() - before)
    return columns.says(judged), sum(spent) / len(spent), digest


def check(config: SweepConfig, slots: int, hourly: float) -> dict[str, object]:
    """Say what would be done, and how long it takes with so many workers; write nothing.

    `hourly` is what the fleet costs, in $.
    """
    sweep = plan.load(config.sweep)
    target = Prefix(config.target)
    said, secs, digest = apart(functools.partial(tried, config.sweep))
    done = claim(target, plan.identity_of(sweep, digest), write=False)
    target.prove_writable(BEGUN)
    seconds = plan.count(sweep) * secs / max(1, slots)
    cost = f", in which the fleet costs ${max(0.01, seconds / 3600 * hourly):,.2f}" if hourly else ""
    workers = f"{slots} worker{'s' if slots > 1 else ''}"
    lines = [
        *said, "", *plan.says(sweep, plan.count(sweep)),
        f"By some of them ({secs:.2g} s a network) it takes {workers} about {about(seconds)}{cost}.",
    ]  # fmt: skip
    return {"says": lines, "done": done, "seconds": round(seconds, 1), "networks": plan.count(sweep)}


def claim(target: Prefix, identity: str, write: bool = True) -> bool:
    """Have a target be a sweep's; raise BadInput where it is something else's; return whether all is stored there."""
    mine = jsons.dumps({"format": FORMAT, "identity": identity}).encode()
    try:
        old = target.read(BEGUN)
    except FileNotFoundError:
        if some := next((one.path for one in target.objects() if one.path.strip("/")), ""):
            raise BadInput(
                f"{target.url()} (sweep_target) has {some}, and no sweep: name a folder of its own."
            ) from None
        if write:
            target.put(BEGUN, mine, if_absent=True)
        return False
    if old != mine:
        raise BadInput(
            f"{target.url()} (sweep_target) holds another sweep, of other data or other networks: name another folder."
        )
    with contextlib.suppress(FileNotFoundError):
        target.head(MANIFEST)
        return True
    return False


def judge(sweep: Sweep, work: Path) -> tuple[columns.Judged, str]:
    """Look through a sweep's table; return what is known, and the file's digest; raise BadInput."""
    name = sweep.data.rpartition("/")[2]
    file = fetch(sweep, work)
    found = table.read(file, name, work)
    judged = columns.judge(found, sweep.label, sweep.task, sweep.columns, sweep.categories)
    first = next(iter(plan.points(sweep))) if sweep.how != plan.TPE else None
    if first:  # that a network fits the table
        plan.made(sweep, first, (), len(judged.label.classes))
    return judged, table.digest(file)


class Lead:
    """A sweep that runs."""

    def __init__(self, config: SweepConfig, wanted: Callable[[], bool] = lambda: True) -> None:
        self._config, self._wanted = config, wanted
        self._sweep = plan.load(config.sweep)
        self._target = Prefix(config.target, refused=Temporary)
        self._control, self._rows = Control(), Ledger()
        self._told_to_end = threading.Event()
        self.progress = Progress(config.progress, PHASE, plan.count(self._sweep), "networks")
        self._begun = False  # there is something to copy
        self._copied = 0.0
        self._looked = 0.0
        self._ended_then = 0  # networks, at the last look
        self.ended = 0  # networks
        self._heard = 0.0  # until when a sampler has heard what trials have reached
        self._since: tuple[float, int] | None = None

    def end(self, number: int, frame: FrameType | None) -> None:
        """Hear that it is to end: what is done stays."""
        self._told_to_end.set()

    def run(self) -> dict[str, object]:
        """Do all of it; raise ProgramError or Stopped."""
        if not (digest := stored.digest_of(self._config.shared)):
            self.progress.say("preparing the table")
            print(
                "\n".join(apart(functools.partial(prepare, self._config.sweep, self._config.shared))), file=sys.stderr
            )
            digest = stored.digest_of(self._config.shared)
        self._ask_whether_wanted()
        identity = plan.identity_of(self._sweep, digest)
        if claim(self._target, identity):
            content: dict[str, object] = json.loads(self._target.read(MANIFEST))
            self.progress.finish(f"all was stored before in {self._target.url()}")
            return content
        self._begin(identity)
        self._ask_whether_wanted()
        sampler = self._sampler()
        while True:
            if time.monotonic() > self._looked + LOOK_SECS:
                self._looked = time.monotonic()
                if lost := queue.reap(self._rows):
                    _log.warning("%d jobs of workers that are gone are given to others.", lost)
                if self.ended == self._ended_then:  # perhaps a worker couldn't write what came of its last ones
                    queue.fill(self._rows)
                self._ended_then = self.ended
            counts = self._rows.counts()
            if sampler:
                counts = self._feed(sampler, counts)
            self._tell(counts)
            self._ask_whether_wanted()
            if not (counts.get(ledger.WAITING, 0) + counts.get(ledger.RUNNING, 0)):
                break
            if time.monotonic() > self._copied + self._config.mirror_secs:
                self._copy()
            self._told_to_end.wait(EVERY_SECS)
        self._control.clear()
        self._copy()
        return self._finish()

    def _ask_whether_wanted(self) -> None:
        """Where it is to end, copy what is done and raise Stopped."""
        if self._told_to_end.is_set() or not self._wanted():
            self._control.clear()
            if not self._begun:
                raise Stopped
            try:
                self._copy()
            except Temporary as error:
                raise Stopped(f"What was done in the last minutes is on this fleet alone: {error}") from error
            raise Stopped

    def _begin(self, identity: str) -> None:
        config, sweep, rows = self._config, self._sweep, self._rows
        self._control.make(config.database)
        found = self._control.running()
        if found and found.database != config.database:  # of a lead that couldn't say that it ended
            self._control.clear()
        os.environ["PGDATABASE"] = config.database
        if rows.is_empty():
            self._restore()
        rows.make()
        queue.make()
        if rows.about(ledger.IDENTITY) not in (None, identity):
            raise BadInput(f"The database {config.database} holds another sweep: name another target (sweep_target).")
        rows.note(ledger.IDENTITY, identity)
        if sweep.how != plan.TPE:
            rows.add(list(plan.points(sweep)))
        queue.fill(rows)
        here = Path(config.sweep)
        files = {
            Path(name).name: Path(name).read_text(encoding="utf-8")
            for name in (sweep.document.name, sweep.base_lines.name)
        }
        self._begun = True
        self._control.say(Running(config.database, here.name, files, config.shared, config.trial_secs))

    def _restore(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            copy = self._target.read(COPY)
            self.progress.say("taking over what an earlier fleet has done")
            _postgres("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", "--dbname=", given=copy)

    def _copy(self) -> None:
        """Copy the rows and the queue to S3."""
        self._target.put(COPY, _postgres("pg_dump", "--format=custom", "--compress=1"))
        self._copied = time.monotonic()

    def _sampler(self) -> Sampler | None:
        if self._sweep.how != plan.TPE:
            return None
        from flotilla.sweep.sampler import Sampler

        sampler = Sampler(self._sweep)
        sampler.learn(self._rows.trials())
        return sampler

    def _feed(self, sampler: Sampler, counts: dict[str, int]) -> dict[str, int]:
        """Have some networks wait, as long as some are left."""
        there, waiting = sum(counts.values()), counts.get(ledger.WAITING, 0)
        wanted = min(plan.count(self._sweep) - there, FED * max(1, queue.workers()) - waiting)
        if wanted <= 0:
            return counts
        new = self._rows.ended(self._heard)
        self._heard = max([one.ended or 0.0 for one in new], default=self._heard)
        sampler.learn(new)
        self._rows.add(sampler.propose(there, wanted))
        queue.fill(self._rows)
        return self._rows.counts()

    def _tell(self, counts: dict[str, int]) -> None:
        ended = self.ended = sum(counts.get(state, 0) for state in (ledger.DONE, ledger.EARLY, ledger.FAILED))
        now = time.monotonic()
        self._since = self._since or (now, ended)
        passed = now - self._since[0]
        rate = 60 * (ended - self._since[1]) / passed if passed > EVERY_SECS else None
        detail: dict[str, float | str] = {
            state: counts[state] for state in (ledger.EARLY, ledger.FAILED) if counts.get(state)
        }
        if best := self._rows.best(1):
            detail["best"] = round(best[0].score or 0.0, 4)
        self.progress.update(ended, rate, "networks/min" if rate else None, "", detail)

    def _finish(self) -> dict[str, object]:
        """Store what came of it; return the manifest."""
        config = self._config
        self.progress.say("training the best again, for their models")
        stored.bring(config.shared, Path(config.table))
        with tempfile.TemporaryDirectory() as work:
            apart(functools.partial(_make, config.sweep, config.table, work))
            self.progress.say("storing tables, pictures and models")
            there = open_folder(work)
            items = [objects.from_file(path, there, path) for path in sorted(there.sizes())]
            for item in items:
                objects.upload(self._target, item.path, item)
            for item in items:
                objects.compare(self._target, item.path, item)
            best = self._rows.best(1)
            content: dict[str, object] = {
                "format": FORMAT, "identity": self._rows.about(ledger.IDENTITY), "target": config.target,
                "counts": self._rows.counts(), "best": best[0]._asdict() if best else None,
                "versions": {"flotilla": flotilla.__version__}, "files": [item.entry() for item in items],
            }  # fmt: skip
            self._target.put(MANIFEST, jsons.dumps(content, indent=2).encode() + b"\n")
        self.progress.finish(f"the networks are in {self._target.url()}")
        return content


def _make(path: str, table: str, folder: str) -> None:
    from flotilla.sweep import outcome  # TensorFlow, which the lead itself needs not

    outcome.make(path, table, folder)


def _postgres(*command: str, given: bytes = b"") -> bytes:
    """Run a program of PostgreSQL's; return what it says."""
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it ended"]
        wrong = next((line for line in lines if "error:" in line), lines[-1])
        raise Temporary(f"{command[0]}: {wrong.partition('error: ')[2] or wrong}.")
    return done.stdout


def _run(path: Path) -> dict[str, object]:
    watchdog.beat()
    config = control.now(path.parent)
    if not config:  # it was stopped while no lead ran
        control.Control().clear()
        return {"stopped": True}
    try:
        lead = Lead(config, wanted=lambda: control.now(path.parent) == config)
    except ProgramError:
        control.end(path.parent, config)
        raise
    signal.signal(signal.SIGTERM, lead.end)
    try:
        outcome = lead.run()
    except Stopped as error:
        lead.progress.stop(str(error) or "the same command goes on from here", lead.ended)
        if control.now(path.parent) not in (None, config):
            raise Temporary("Another sweep begins.") from None  # by the unit's next start
        return {"stopped": True}
    except Temporary as error:  # the unit is started again, so this isn't the end
        lead.progress.say(f"{error} Trying again; what is done stays.")
        raise
    except ProgramError as error:
        lead.progress.fail(str(error))
        control.end(path.parent, config)
        raise
    if config.done_file:
        write_json(config.done_file, outcome)
    control.end(path.parent, config)
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flotilla.sweeper", description=__doc__)
    parser.add_argument("command", choices=["check", "run"], help="judge everything and say what it is, or do it")
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="of check: how many workers there are")
    parser.add_argument("--hourly", type=float, default=0, metavar="$", help="of check: what the fleet costs an hour")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    try:
        path = Path(args.config)
        outcome = check(load_config(path), args.slots, args.hourly) if args.command == "check" else _run(path)
    except ProgramError as error:
        print(f"flotilla.sweeper: {error}", file=sys.stderr)
        return error.code
    print(jsons.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
