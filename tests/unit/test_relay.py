"""The long line of benchmarks/relay.py: it delays both ways, and doesn't throttle."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.commands import ROOT

DELAY = 0.1
LENGTH = 20_000_000


@pytest.fixture
def port() -> Iterator[int]:
    """A server that sends back what it gets, for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                while piece := connection.recv(1 << 16):
                    connection.sendall(piece)

        threading.Thread(target=echo, daemon=True).start()
        yield server.getsockname()[1]


def relay(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "benchmarks/relay.py"), str(DELAY), "127.0.0.1", str(port)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_each_round_trip_takes_both_delays(port: int) -> None:
    with relay(port) as line:
        assert line.stdin and line.stdout
        for number in range(3):
            begin = time.monotonic()
            line.stdin.write(b"x")
            line.stdin.flush()
            assert line.stdout.read(1) == b"x"
            taken = time.monotonic() - begin
            assert taken >= 2 * DELAY, number
            assert number == 0 or taken < 2 * DELAY + 0.5, "only the first one waits for the connection"
        line.stdin.close()
        assert line.stdout.read() == b""
    assert line.returncode == 0


def test_many_bytes_are_on_their_way_at_once(port: int) -> None:
    begin = time.monotonic()
    with relay(port) as line:
        back, _ = line.communicate(bytes(LENGTH), timeout=60)
    # One piece after the other, of 64 kB, would take a minute.
    assert back == bytes(LENGTH)
    assert time.monotonic() - begin < 20


def test_a_host_that_is_not_there_ends_it_with_a_sentence(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with relay(free) as line:
        _, said = line.communicate(timeout=60)
    assert line.returncode == 1
    assert b"relay: Connection refused" in said
