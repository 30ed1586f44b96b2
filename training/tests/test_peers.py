"""Who is needed, who is there, and what happens when somebody isn't for too long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla.job.cluster import Task
from flotilla.supervision import peers

CLUSTER = {"ps": ["a:1", "b:1"], "chief": ["c:1"], "worker": ["d:1", "e:1"]}


@pytest.fixture
def address() -> Iterator[tuple[str, socket.socket]]:
    """An address at which a server listens until its socket is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}", server


@pytest.mark.parametrize(
    ("task", "sync", "names"),
    [
        (Task("chief", 0, CLUSTER), False, ["ps-0", "ps-1"]),
        (Task("chief", 0, CLUSTER), True, ["ps-0", "ps-1", "worker-0", "worker-1"]),
        (Task("worker", 1, CLUSTER), True, ["chief-0", "ps-0", "ps-1"]),
        (Task("ps", 0, CLUSTER), False, ["chief-0"]),
        (Task("evaluator", 0, CLUSTER), False, ["chief-0"]),
        (Task(), False, []),
    ],
)
def test_who_is_needed(task: Task, sync: bool, names: list[str]) -> None:
    assert [peer.name for peer in peers.needed(task, sync)] == names


def test_a_host_that_refuses_is_there_but_a_server_that_has_to_listen_is_not(
    address: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, server = address
    assert peers.answers(peers.Peer("ps-0", where, True))
    server.close()
    assert not peers.answers(peers.Peer("ps-0", where, True))
    assert peers.answers(peers.Peer("chief-0", where, False))
    assert not peers.answers(peers.Peer("chief-0", "nowhere.invalid:2222", False))

    def silence(address: object, seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silence)
    assert not peers.answers(peers.Peer("chief-0", where, False))


class Told:
    """What a watch has told."""

    def __init__(self) -> None:
        self.lost, self.back, self.said = threading.Event(), threading.Event(), list[tuple[str, str]]()

    def on_lost(self, peer: peers.Peer, message: str) -> None:
        self.said.append((peer.name, message))
        self.lost.set()


def test_only_who_is_gone_for_long_is_lost(address: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "EVERY_SECS", 0.05)
    where, server = address
    told = Told()
    watch = peers.Watch([peers.Peer("ps-0", where, True)], told.on_lost, seconds=1)
    watch.on_back = told.back.set
    assert not told.lost.wait(2) and not told.back.is_set() and not watch.away
    server.close()
    time.sleep(0.3)
    assert watch.away
    with socket.create_server(("127.0.0.1", int(where.split(":")[1]))):
        assert told.back.wait(5) and not told.lost.wait(1.5) and not watch.away
    assert told.lost.wait(5)
    assert told.said[0][0] == "ps-0" and f"ps-0 ({where}) hasn't answered" in told.said[0][1]
    watch.stop()
    time.sleep(0.2)
    told.lost.clear()
    assert not told.lost.wait(1.5), "nobody is needed any more"


def test_a_restart_is_no_new_beginning_but_a_boot_is(
    address: tuple[str, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "EVERY_SECS", 0.05)
    where, server = address
    needed, memory = [peers.Peer("ps-0", where, True)], tmp_path / "worker-0.heard"

    def lost_within(seconds: float) -> bool:
        told = Told()
        watch = peers.Watch(needed, told.on_lost, memory, 3, 60)
        lost = told.lost.wait(seconds)
        watch.stop()
        time.sleep(0.2)
        return lost

    assert not lost_within(0.5)
    server.close()
    assert not lost_within(2)
    assert lost_within(20), "it has been away since before the restart"
    assert not lost_within(2), "what was said once isn't said again at once"
    monkeypatch.setattr(peers, "AT_ONCE_SECS", 0)
    assert not lost_within(2), "after a stop everybody may take time to start"
    assert lost_within(4)
    monkeypatch.setattr(peers, "BOOT", tmp_path / "another")
    assert not lost_within(4), "after a boot all have more time"
