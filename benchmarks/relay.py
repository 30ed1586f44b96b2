#!/usr/bin/env python3
"""A long line to a host: an SSH connection whose every byte arrives some seconds later, each way.

    ssh -o 'ProxyCommand=benchmarks/relay.py 0.05 %h %p' HOST       (a round trip of 100 ms)

It delays and doesn't throttle: what was sent together arrives together.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable


def carry(receive: Callable[[int], bytes], send: Callable[[bytes], object], delay: float) -> None:
    """Pass on what comes in, each piece when it has been here for so many seconds, until there is no more."""
    line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        piece = b"-"
        while piece:
            piece = receive(1 << 16)
            line.put((time.monotonic() + delay, piece))

    threading.Thread(target=take, daemon=True).start()
    while True:
        due, piece = line.get()
        time.sleep(max(0.0, due - time.monotonic()))
        if not piece:
            return
        send(piece)


def write_all(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def main(delay: float, host: str, port: int) -> None:
    """Connect stdin and stdout to a host, until that closes the connection."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.settimeout(None)
        time.sleep(2 * delay)  # TCP's own greeting

        def outwards() -> None:
            with contextlib.suppress(OSError):  # the host has gone: the other direction sees it, too
                carry(lambda size: os.read(0, size), connection.sendall, delay)
                connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=outwards, daemon=True).start()
        carry(connection.recv, write_all, delay)


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except OSError as error:  # as ssh says it, who shows this as its own
        sys.exit(f"relay: {error.strerror or error}")
