"""Who is needed, who is there, and what happens when somebody isn't for too long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from flotilla import peers
from flotilla.cluster import Task

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


def test_only_who_is_gone_for_long_is_lost(address: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "EVERY_SECS", 0.05)
    where, server = address
    lost, back, said = threading.Event(), threading.Event(), []

    def on_lost(peer: peers.Peer, message: str) -> None:
        said.append((peer.name, message))
        lost.set()

    peers.watch([peers.Peer("ps-0", where, True)], back.set, on_lost, 1)
    assert not lost.wait(2) and not back.is_set()
    server.close()
    time.sleep(0.3)
    with socket.create_server(("127.0.0.1", int(where.split(":")[1]))):
        assert back.wait(5) and not lost.wait(1.5)
    assert lost.wait(5)
    assert said[0][0] == "ps-0" and f"ps-0 ({where}) hasn't answered" in said[0][1]
