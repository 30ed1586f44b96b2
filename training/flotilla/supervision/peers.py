"""Ends a task whose job can't go on without a host that has gone: TensorFlow itself would wait for ever."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flotilla.job.cluster import Task
from flotilla.supervision.progress import write_json

LOST_SECS = 240.0
NEVER_SEEN_SECS = 1800.0  # hosts that were stopped may come back one by one
EVERY_SECS = 5.0
AT_ONCE_SECS = 60.0  # in which systemd has started a task again
BOOT = Path("/proc/sys/kernel/random/boot_id")
chief_lost = threading.Event()


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


class Watch:
    """Looks for other tasks again and again, in a thread.

    Args:
        peers: whom to look for.
        on_lost: called with the first that hasn't answered for so long, and a sentence; where it returns, all goes on.
        memory: file that tells the next process of this task, until the next boot, who was heard when.
    """

    def __init__(
        self,
        peers: list[Peer],
        on_lost: Callable[[Peer, str], None],
        memory: Path | None = None,
        seconds: float = LOST_SECS,
        never_seen_seconds: float = NEVER_SEEN_SECS,
    ) -> None:
        self.on_back: Callable[[], None] = lambda: None  # a server that was away answers again
        self._peers, self._on_lost, self._memory = peers, on_lost, memory
        self._seconds, self._never_seen_seconds = seconds, never_seen_seconds
        self._heard: set[str] = set()  # since the host has booted
        self._away: dict[str, float] = {}  # since when, by the clock that all processes have in common until a boot
        self._ended = threading.Event()
        if peers:
            self._remember()
            threading.Thread(target=self._look, name="peers", daemon=True).start()

    @property
    def away(self) -> bool:
        """Whether somebody didn't answer when last asked."""
        return bool(self._away)

    def stop(self) -> None:
        """Need nobody any more."""
        self._ended.set()
        self._away = {}

    def _look(self) -> None:
        while not self._ended.wait(EVERY_SECS):
            for peer in self._peers:
                if answers(peer):
                    self._heard.add(peer.name)
                    if self._away.pop(peer.name, None) is not None and peer.listens:
                        self.on_back()
                    continue
                since = self._away.setdefault(peer.name, time.monotonic())
                bound = self._seconds if peer.name in self._heard else self._never_seen_seconds
                if time.monotonic() - since > bound and not self._ended.is_set():
                    self._away.pop(peer.name, None)
                    self._note()
                    # The first ps has its host in common with the NameNode.
                    advice = (
                        "HDFS was on its host: playbooks/destroy.yml, then site.yml go on from the mirror in S3."
                        if peer.name == "ps-0"
                        else "site.yml makes a new host where one is missing, and goes on from the last checkpoint."
                    )
                    self._on_lost(
                        peer,
                        f"The job can't go on: {peer.name} ({peer.address}) hasn't answered for {bound / 60:.0f} min. "
                        f"{advice}",
                    )
            self._note()

    def _note(self) -> None:
        if self._memory:
            content = {"boot": boot(), "at": time.monotonic(), "heard": sorted(self._heard), "away": self._away}
            with contextlib.suppress(OSError):
                write_json(self._memory, content)

    def _remember(self) -> None:
        content = None
        if self._memory:
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(self._memory.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("boot") == boot():
            self._heard = set(content["heard"])
            if time.monotonic() - content["at"] < AT_ONCE_SECS:  # not after a stop
                self._away = dict(content["away"])


def boot() -> str:
    """Return what tells one boot of this host from another."""
    with contextlib.suppress(OSError):
        return BOOT.read_text(encoding="ascii").strip()
    return ""
