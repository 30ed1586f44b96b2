"""Logs in on a host of the fleet, with the connection that Ansible takes, or runs a command there."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import inventory


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Become ssh, or end with 2 where that can't be."""
    parser = argparse.ArgumentParser(prog="scripts/ssh", description=__doc__)
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("host", metavar="HOST", help="as the inventory calls it: ps-0, chief-0, worker-1 …")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run there, not a shell")
    options = parser.parse_args(argv)
    try:
        hosts = inventory.read(options.inventory)
        if options.host not in hosts:
            near = difflib.get_close_matches(options.host, hosts, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hosts)}."
            raise inventory.NoInventory(f"{options.inventory} has no host {options.host}: {hint}")
    except inventory.NoInventory as error:
        print(f"ssh: {error}", file=sys.stderr)
        sys.exit(2)
    terminal = sys.stdin.isatty() and not options.command
    command = inventory.ssh(options.host, hosts[options.host], terminal=terminal)
    os.execvp("ssh", [*command, *options.command])


if __name__ == "__main__":
    main()
