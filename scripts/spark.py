"""Opens a tunnel to the pages of Spark's Master and of the job that runs, and prints the address. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import board
import inventory

MASTER = board.Page("Spark's Master, which links to the job's page", "spark-master")
JOB = 4040  # the port of a job's page


def main(argv: Sequence[str] | None = None) -> int:
    """Show the pages until that is ended; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/spark", description=__doc__)
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("-p", "--port", type=int, default=8080, help="of this machine (default: %(default)s)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tunnel ends, too
    try:
        if board.taken(options.port):
            raise board.NoBoard(f"Port {options.port} of this machine is taken: choose another one with -p.")
        ports = {options.port: 8080}
        if not board.taken(JOB):
            ports[JOB] = JOB
            print(f"A running job: http://127.0.0.1:{JOB}/")
        return board.until_it_ends(board.tunnel(options.inventory, ports), MASTER, options.port, "the tunnel")
    except KeyboardInterrupt:
        return 0
    except (board.NoBoard, inventory.NoInventory) as error:
        print(f"spark: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
