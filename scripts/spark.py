"""Opens a tunnel to the pages of Spark's Master and of the job that runs, and prints the address. Ctrl-C ends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import board

MASTER = board.Page("Spark's Master, which links to the job's page", "spark-master")
JOB = 4040  # the port of a job's page


def main(argv: Sequence[str] | None = None) -> int:
    """Show the pages until that is ended; return the exit status."""
    return board.by_tunnel("scripts/spark", str(__doc__), MASTER, 8080, argv, job)


def job() -> dict[int, int]:
    """Return the port of a job's page, where this machine's is free."""
    if board.taken(JOB):
        return {}
    print(f"A running job: http://127.0.0.1:{JOB}/")
    return {JOB: JOB}


if __name__ == "__main__":
    sys.exit(main())
