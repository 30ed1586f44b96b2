"""Ends a task whose job can't go on without a host that has gone: TensorFlow itself would wait for ever."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from flotilla.cluster import Task

LOST_SECS = 240.0
EVERY_SECS = 5.0
chief_lost = threading.Event()

_log = logging.getLogger(__name__)


class Peer(NamedTuple):
    """Another task, its address (host:port), and whether its server has to listen, or only its host to be there.

    A parameter server listens as soon as it runs; a chief has its data to look at first, for as long as it takes.
    """

    name: str
    address: str
    listens: bool


def needed(task: Task, sync: bool) -> list[Peer]:
    """Return the tasks without which this one would wait for ever."""
    cluster = task.cluster
    found = []
    if task.type != "chief":
        found += [Peer(f"chief-{n}", address, False) for n, address in enumerate(cluster.get("chief", []))]
    if task.type in ("chief", "worker"):
        found += [Peer(f"ps-{n}", address, True) for n, address in enumerate(cluster.get("ps", []))]
    if sync and task.leads:
        found += [Peer(f"worker-{n}", address, False) for n, address in enumerate(cluster.get("worker", []))]
    return found


def answers(peer: Peer, seconds: float = EVERY_SECS) -> bool:
    """Whether a task, or its host, is there."""
    host, port = peer.address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), seconds).close()
    except ConnectionRefusedError:
        return not peer.listens
    except OSError:
        return False
    return True


def watch(
    peers: list[Peer],
    on_back: Callable[[], None],
    on_lost: Callable[[Peer, str], None],
    seconds: float = LOST_SECS,
) -> None:
    """In a thread, call on_back when one of these tasks answers again after it didn't, and

    on_lost, with a sentence, for the first that hasn't answered for so long; then it ends.
    """

    def look() -> None:
        heard = dict.fromkeys(peers, time.monotonic())
        away: set[Peer] = set()
        while True:
            for peer in peers:
                now = time.monotonic()
                if answers(peer):
                    heard[peer] = now
                    if peer in away:
                        away.remove(peer)
                        on_back()
                    continue
                away.add(peer)
                if now - heard[peer] > seconds:
                    on_lost(
                        peer,
                        f"The job can't go on: {peer.name} ({peer.address}) hasn't answered for "
                        f"{seconds / 60:.0f} min. site.yml makes a new host where one is missing, and goes on from the "
                        "last checkpoint.",
                    )
                    return
            time.sleep(EVERY_SECS)

    if peers:
        threading.Thread(target=look, name="peers", daemon=True).start()
