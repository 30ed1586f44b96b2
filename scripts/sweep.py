"""Opens a tunnel to the fleet's page of sweeps, to begin one there or to watch it, and prints the address.

playbooks/sweep.yml has the fleet serve it. Ctrl-C ends the tunnel, and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import board

PAGE = board.Page("Sweeps", "flotilla-sweep-page")


def main(argv: Sequence[str] | None = None) -> int:
    """Show the page until that is ended; return the exit status."""
    return board.by_tunnel("scripts/sweep", str(__doc__), PAGE, 8090, argv)


if __name__ == "__main__":
    sys.exit(main())
