"""A daemon that stands still is killed; one that is slow, or hasn't begun to answer, isn't."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT, wait_until

SPEC = importlib.util.spec_from_file_location("hadoop_watch", ROOT / "roles/hdfs/files/hadoop_watch.py")
assert SPEC and SPEC.loader
hadoop_watch = importlib.util.module_from_spec(SPEC)
sys.modules["hadoop_watch"] = hadoop_watch
SPEC.loader.exec_module(hadoop_watch)

# A daemon: it answers, until it is told (by a file) to sleep without answering, or to compute without end.
DAEMON = """
import http.server, os, sys, time
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while os.path.exists("hang"):
            time.sleep(0.5)
        while os.path.exists("compute"):
            pass
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
open("port.part", "w").write(str(server.server_port)); os.rename("port.part", "port")
server.serve_forever()
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A process that answers, and the watch over it, whose patience is a twentieth."""
    for name in ("ANSWER_SECS", "STOPPED_SECS", "SILENT_SECS", "BUSY_SECS"):
        monkeypatch.setattr(hadoop_watch, name, getattr(hadoop_watch, name) / 20)
    process = subprocess.Popen([sys.executable, "-c", DAEMON], cwd=tmp_path)
    try:
        wait_until((tmp_path / "port").exists, 20, "the daemon listens")
        watch = hadoop_watch.Watch(
            "x.service", f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/",
            pids_of=lambda unit: [process.pid], kill=lambda unit: process.kill(),
        )  # fmt: skip
        watch.process = process
        yield watch
    finally:
        process.kill()
        process.wait()


def looked_for(watch: Any, seconds: float) -> str:
    """What the watch says at last, within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reason := watch.look():
            return str(reason)
        time.sleep(0.1)
    return ""


def test_a_healthy_daemon_is_left_alone(daemon: Any) -> None:
    assert looked_for(daemon, 2) == "" and daemon.process.poll() is None


@pytest.mark.parametrize("answered", [True, False])
def test_a_stopped_daemon_is_killed(daemon: Any, answered: bool) -> None:
    if answered:
        assert daemon.look() == ""
    os.kill(daemon.process.pid, signal.SIGSTOP)
    assert "has been stopped by a signal" in looked_for(daemon, 10)
    assert daemon.process.wait(5) == -signal.SIGKILL


def test_a_hung_daemon_is_killed(daemon: Any, tmp_path: Path) -> None:
    assert daemon.look() == ""
    (tmp_path / "hang").touch()
    assert "though it had the processor" in looked_for(daemon, 10)
    assert daemon.process.wait(5) == -signal.SIGKILL


def test_one_that_has_never_answered_may_still_be_starting(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    assert looked_for(daemon, 2) == "" and daemon.process.poll() is None
    (tmp_path / "hang").unlink()


def test_one_that_computes_has_longer(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real, began = hadoop_watch.load, time.monotonic()
    # Beside other tests it would wait for the processor, too.
    monkeypatch.setattr(
        hadoop_watch, "load", lambda pids: dataclasses.replace(real(pids), waited=0.0, ran=time.monotonic() - began)
    )
    assert daemon.look() == ""
    (tmp_path / "compute").touch()
    silent = time.monotonic()
    assert "hasn't answered" in looked_for(daemon, 30)
    assert time.monotonic() - silent > hadoop_watch.BUSY_SECS
    assert "and computes: left alone" in capsys.readouterr().out


@pytest.mark.parametrize(("waited", "disk"), [(5.0, False), (0.0, True)])
def test_one_that_waits_its_turn_is_left_alone(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, waited: float, disk: bool
) -> None:
    """Even for long: another process wouldn't be faster."""
    assert daemon.look() == ""
    (tmp_path / "hang").touch()
    real = hadoop_watch.load

    def starved(pids: list[int]) -> Any:
        found = real(pids)
        found.waited, found.disk = found.waited + waited, disk
        return found

    monkeypatch.setattr(hadoop_watch, "load", starved)
    assert looked_for(daemon, 2) == "" and daemon.process.poll() is None
    assert f"waits for {'a disk' if disk else 'the processor'}: left alone" in capsys.readouterr().out
    (tmp_path / "hang").unlink()
    said = ""
    while "answers again" not in said:  # it has to get through what was asked meanwhile
        assert daemon.look() == ""
        said += capsys.readouterr().out


def test_waiting_for_the_processor_is_seen() -> None:
    """By two processes of which each wants the only processor that they may use."""
    processor = {min(os.sched_getaffinity(0))}
    burn = f"import os\nos.sched_setaffinity(0, {processor})\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    try:
        pids = [processes[0].pid]
        time.sleep(1)
        before = hadoop_watch.load(pids)
        time.sleep(2)
        after = hadoop_watch.load(pids)
        assert (after.waited - before.waited) / 2 > 0.3, "of the time, by half of it"
        assert not after.stopped
    finally:
        for process in processes:
            process.kill()
            process.wait()
