"""The end on SIGTERM: with a checkpoint, or with the word that there is none."""

from __future__ import annotations

import threading

import pytest

from flotilla.supervision import termination


@pytest.mark.parametrize("in_time", [True, False])
def test_what_is_said_at_the_end(monkeypatch: pytest.MonkeyPatch, in_time: bool) -> None:
    said: list[bool] = []
    left: list[int] = []
    saved = threading.Event()
    monkeypatch.setattr(termination, "requested", threading.Event())
    monkeypatch.setattr(termination, "saved", saved)
    monkeypatch.setattr(termination, "on_end", said.append)
    monkeypatch.setattr(termination, "CLOSE_SECS", 0)
    monkeypatch.setattr(termination, "_grace_secs", 0.01)
    monkeypatch.setattr(termination.signal, "sigwait", lambda signals: None)
    monkeypatch.setattr(termination.watchdog, "leave", left.append)
    if in_time:
        saved.set()
    termination._wait()
    assert (said, left) == ([in_time], [0])
    # Nobody asked for time: before the training has begun, say. Nothing is lost then.
    termination.grace(0)
    termination._wait()
    assert (said, left) == ([in_time, True], [0, 0])
    monkeypatch.setattr(termination, "ON_END_SECS", 0.1)
    monkeypatch.setattr(termination, "on_end", lambda saved: threading.Event().wait(60))  # HDFS doesn't answer
    termination._wait()
    assert left == [0, 0, 0]
