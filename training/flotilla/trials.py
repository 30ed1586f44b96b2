"""Trains the trials that are this worker's turn, one after the other, of the sweep that runs, or of the next one.

The server is libpq's (PGHOST, PGUSER, PGPASSFILE); which sweep runs stands in its database flotilla. A trial that fails
is a row with its reason, and the next one goes on. One that takes too long ends the process, which systemd starts
again; so do the sweep's end and some hundred architectures, since TensorFlow keeps some memory of each.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from flotilla.job.errors import ProgramError, Temporary, cause
from flotilla.supervision import watchdog
from flotilla.sweep import plan, queue, stored
from flotilla.sweep.control import Control, Running
from flotilla.sweep.ledger import DONE, EARLY, Ledger, Score
from flotilla.sweep.settings import SweepConfig

MOST_ARCHITECTURES = 300  # that a process trains
EARLIEST = 3  # epochs after which a trial may be hopeless
ASKED_SECS = 2.0  # between two looks for a sweep
ENDED_SECS = 5.0  # between two looks whether it has ended
_log = logging.getLogger(__name__)


class Worker:
    """A process that trains trials."""

    def __init__(self, config: SweepConfig, rows: Ledger, over: threading.Event) -> None:
        from flotilla.sweep.trial import Trainer  # TensorFlow, which a worker that waits needs not

        self._config, self._rows, self._over = config, rows, over
        self._sweep = plan.load(config.sweep)
        prepared = stored.bring(config.shared, Path(config.table))
        description = prepared.description
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # Half of the host's is the system's, HDFS's and PostgreSQL's. Few graphs: of deep networks each is large
        self._trainer = Trainer(prepared, most_graphs=2, most_bytes=memory // 2 // (os.cpu_count() or 1))
        self._columns = description["features"]
        self._classes = len(description["label"]["classes"])
        self._host = socket.gethostname()

    def trial(self, number: int) -> None:
        """Train a trial, unless it, or the sweep, has come to its end; write what came of it."""
        if self._over.is_set():
            return
        begun = self._rows.begin(number, self._host)
        if begun is None:
            return
        point, attempt = begun
        late = threading.Timer(self._config.trial_secs, self._give_up, (number, attempt))
        late.daemon = True
        late.start()
        try:
            network = plan.made(self._sweep, point, self._columns, self._classes)
            trained = self._trainer.train(
                network, plan.architecture_of(point), plan.seed_of(self._sweep, point), self._stop
            )
        except ProgramError as error:
            self._rows.fail(number, attempt, str(error))
        except Exception as error:
            _log.exception("trial %d failed", number)
            self._rows.fail(number, attempt, f"{type(error).__name__}: {cause(error)}")
        else:
            score = Score(
                EARLY if trained.early else DONE, trained.score, trained.accuracy, trained.rmse, trained.loss,
                trained.epochs, trained.seconds, trained.cpu_seconds, trained.parameters,
            )  # fmt: skip
            if not self._rows.end(number, attempt, score):
                _log.warning("Trial %d was given to another worker meanwhile: what this one found isn't kept.", number)
        finally:
            late.cancel()
        if self._trainer.architectures >= MOST_ARCHITECTURES:
            os.kill(os.getpid(), signal.SIGTERM)  # after this job

    def _stop(self, epoch: int, score: float) -> bool:
        return self._sweep.end_early and epoch >= EARLIEST and self._rows.hopeless(epoch, score)

    def _give_up(self, number: int, attempt: int) -> None:
        message = f"it took longer than {self._config.trial_secs:g} s (trial_secs) on {self._host}."
        try:
            Ledger(patience=30).fail(number, attempt, message)
        finally:
            watchdog.leave(Temporary.code)


def _end_with(control: Control, running: Running, over: threading.Event) -> None:
    """Have this process end after what it trains, when the sweep has ended: the next one begins anew."""
    with contextlib.suppress(Temporary):  # else the worker itself notices it
        while control.running() == running:
            control.close()  # a server has so many connections
            time.sleep(ENDED_SECS)
        over.set()
        while True:  # perhaps the queue doesn't listen yet
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(ENDED_SECS)


def main(argv: Sequence[str] | None = None) -> int:
    """Train until told to end, or the sweep has ended; return 0, or 2 and 75 as other programs do."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m flotilla.trials", description=__doc__)
    parser.add_argument("--folder", required=True, type=Path, help="for tables, one that all workers of a host share")
    args = parser.parse_args(argv)
    watchdog.beat()
    try:
        control = Control()
        while (running := control.running()) is None:
            time.sleep(ASKED_SECS)
        os.environ["PGDATABASE"] = running.database
        over = threading.Event()
        threading.Thread(target=_end_with, args=(control, running, over), daemon=True).start()
        worker = Worker(running.put(args.folder), Ledger(), over)
        # What the queue puts back after the first: another one mustn't end a training
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        queue.work(worker.trial)
    except ProgramError as error:
        print(f"flotilla.trials: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
