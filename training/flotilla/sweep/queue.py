"""The queue of a sweep's trials: procrastinate's, in the database that holds their rows.

A job is some trials of one architecture that are trained one after the other. A worker that ends or stands still loses
its job to another one; a trial that has come to its end isn't trained again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import procrastinate
from procrastinate.jobs import Job

from flotilla.sweep.ledger import Ledger

QUEUE = "trials"
BEAT_SECS = 5.0  # between two signs of life of a worker
LOST_SECS = 45.0  # without one; a server that is restarted takes some seconds
MOST_TRIALS = 8  # of a job
_BATCH = 1000  # jobs that are added at once

app = procrastinate.App(connector=procrastinate.PsycopgConnector(min_size=1, max_size=2, timeout=120))


@app.task(name=QUEUE, queue=QUEUE, pass_context=True)  # type: ignore[untyped-decorator]
def train(context: procrastinate.JobContext, numbers: list[int]) -> None:
    """Train some trials, by what the worker was given."""
    for number in numbers:
        context.additional_context[QUEUE](number)


def work(trial: Callable[[int], None], forever: bool = True) -> None:
    """Call `trial` for each trial that is this worker's turn, until the process is told to end by SIGTERM or SIGINT.

    Without `forever` it ends when nothing waits. What is being trained is trained to its end.
    """
    app.run_worker(
        queues=[QUEUE], wait=forever, additional_context={QUEUE: trial}, update_heartbeat_interval=BEAT_SECS,
        stalled_worker_timeout=LOST_SECS, listen_notify=False, fetch_job_polling_interval=1.0,
    )  # fmt: skip


def jobs(trials: Iterable[tuple[int, str]]) -> Iterator[list[int]]:
    """Yield the trials of each job, of numbers and architectures in order."""
    for _architecture, group in itertools.groupby(trials, key=lambda one: one[1]):
        numbers = [number for number, _same in group]
        yield from (numbers[first : first + MOST_TRIALS] for first in range(0, len(numbers), MOST_TRIALS))


def make() -> None:
    """Make the queue's tables where they are missing."""

    async def _make() -> None:
        async with app.open_async():
            if not await app.check_connection_async():  # which looks for the tables
                await app.schema_manager.apply_schema_async()

    asyncio.run(_make())


def fill(ledger: Ledger) -> int:
    """Add jobs for all trials that are open and that no job has; return how many jobs."""

    async def _fill(found: Sequence[tuple[int, str]]) -> int:
        async with app.open_async():
            known = {
                number
                for status in ("todo", "doing")
                for job in await app.job_manager.list_jobs_async(queue=QUEUE, status=status)
                for number in job.task_kwargs["numbers"]
            }
            new = list(jobs(one for one in found if one[0] not in known))
            for first in range(0, len(new), _BATCH):
                await train.batch_defer_async(*({"numbers": numbers} for numbers in new[first : first + _BATCH]))
            if len(new) >= _BATCH:  # else PostgreSQL takes the table for an empty one: a job costs ten times as much
                await app.connector.execute_query_async("ANALYZE procrastinate_jobs")
            return len(new)

    return asyncio.run(_fill(ledger.open()))


def workers() -> int:
    """Return how many workers there are."""

    async def _workers() -> int:
        async with app.open_async():
            found = await app.connector.execute_query_one_async(
                "SELECT count(*) AS count FROM procrastinate_workers WHERE last_heartbeat > now() - %(secs)s * "
                "interval '1 second'",
                secs=LOST_SECS,
            )
            return int(found["count"])

    return asyncio.run(_workers())


def reap(ledger: Ledger) -> int:
    """Give the jobs of workers that are lost to others, each of whose trials is tried once more; return how many."""

    async def _stalled() -> list[Job]:
        async with app.open_async():
            found = await app.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=LOST_SECS)
            return list(found)

    async def _again(stalled: Sequence[Job]) -> None:
        async with app.open_async():
            for job in stalled:
                await app.job_manager.retry_job(job)

    if ledger.server_since() < LOST_SECS:  # all were silent while it was away
        return 0
    stalled = asyncio.run(_stalled())
    for job in stalled:
        for number in job.task_kwargs["numbers"]:
            ledger.give_up(number)
    if stalled:
        asyncio.run(_again(stalled))
    return len(stalled)
