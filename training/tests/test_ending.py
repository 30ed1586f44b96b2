"""The end on SIGTERM: with a checkpoint, or with the word that there is none."""

from __future__ import annotations

import threading

import pytest

from flotilla.supervision import ending


@pytest.mark.parametrize("in_time", [True, False])
def test_what_is_said_at_the_end(monkeypatch: pytest.MonkeyPatch, in_time: bool) -> None:
    said: list[bool] = []
    left: list[int] = []
    saved = threading.Event()
    monkeypatch.setattr(ending, "asked", threading.Event())
    monkeypatch.setattr(ending, "saved", saved)
    monkeypatch.setattr(ending, "farewell", said.append)
    monkeypatch.setattr(ending, "CLOSE_SECS", 0)
    monkeypatch.setattr(ending, "_grace_secs", 0.01)
    monkeypatch.setattr(ending.signal, "sigwait", lambda signals: None)
    monkeypatch.setattr(ending.watchdog, "leave", left.append)
    if in_time:
        saved.set()
    ending._wait()
    assert (said, left) == ([in_time], [0])
    # Nobody asked for time: before the training has begun, say. Nothing is lost then.
    ending.grace(0)
    ending._wait()
    assert (said, left) == ([in_time, True], [0, 0])
    monkeypatch.setattr(ending, "FAREWELL_SECS", 0.1)
    monkeypatch.setattr(ending, "farewell", lambda saved: threading.Event().wait(60))  # HDFS doesn't answer
    ending._wait()
    assert left == [0, 0, 0]
