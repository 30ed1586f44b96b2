"""The watchdog ends what stands still, and nothing else."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flotilla.supervision import watchdog
from flotilla.supervision.watchdog import Watchdog


def started(seconds: float, start_seconds: float) -> tuple[Watchdog, list[str]]:
    said: list[str] = []
    dog = Watchdog(seconds, start_seconds, said.append, poll=0.02)
    dog.start()
    return dog, said


def test_it_barks_when_the_step_stands_still() -> None:
    dog, said = started(0.2, 5)
    for step in range(3):
        dog.moved(f"step {step}")
        time.sleep(0.05)
    assert not said
    for _ in range(20):
        dog.moved("step 2")
        time.sleep(0.02)
    assert len(said) == 1 and "(at step 2)" in said[0]


def test_the_first_step_has_longer() -> None:
    dog, said = started(0.1, 0.6)
    time.sleep(0.3)
    dog.moved("step 7")
    time.sleep(0.3)
    assert not said
    time.sleep(0.6)
    assert len(said) == 1
    _, said = started(0.1, 0.2)
    time.sleep(0.4)
    assert len(said) == 1 and "before the first step" in said[0]


def test_rest_and_stop() -> None:
    dog, said = started(0.1, 10)
    dog.moved("step 1")
    dog.moved("step 2")
    dog.rest()
    time.sleep(0.3)
    assert not said
    dog.moved("step 3")
    dog.moved("step 4")
    dog.stop()
    time.sleep(0.3)
    assert not said


def test_leaving_does_not_wait_for_threads() -> None:
    code = (
        "import threading, time; from flotilla import watchdog; print('said')\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "watchdog.Watchdog(9, 0.1, lambda m: watchdog.leave(watchdog.STOOD_STILL), poll=0.02).start()\n"
        "time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=20, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (75, "said\n")


def test_a_step_that_waited_for_what_was_lost_has_no_long_time() -> None:
    dog, said = started(5, 5)
    dog.hurry(0.1)
    time.sleep(0.3)
    assert not said, "before the first step others decide"
    dog.moved("step 1")
    dog.hurry(0.2)
    dog.moved("step 2")
    time.sleep(0.4)
    assert not said
    dog.hurry(0.1)
    time.sleep(0.3)
    assert len(said) == 1


def test_it_waits_while_something_else_decides() -> None:
    said: list[str] = []
    away = [True]
    dog = Watchdog(0.1, 0.1, said.append, poll=0.02, excused=lambda: away[0])
    dog.start()
    time.sleep(0.4)
    assert not said
    away[0] = False
    time.sleep(0.2)
    assert len(said) == 1


def test_it_tells_systemd_that_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        watchdog.beat()  # systemd doesn't ask for it
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        watchdog.beat()
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        watchdog.beat(30)
        assert b"WATCHDOG_USEC=30000000\nWATCHDOG=1" in [systemd.recv(100) for _ in range(3)]
