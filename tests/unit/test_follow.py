"""The action follow: what it makes of a host's answers, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

from plugins.action import follow

RUNNING = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}
ENDED = RUNNING | {"ActiveState": "inactive", "SubState": "dead"}
BROKEN = RUNNING | {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "NRestarts": "3"}
AGAIN = RUNNING | {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "NRestarts": "1"}
MISSING = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"}


def progress(done: float = 120, state: str = "running", **more: Any) -> dict[str, Any]:
    values = {"phase": "train", "state": state, "done": done, "total": 400, "unit": "steps", "rate": 471.9}
    values |= {"rate_unit": "examples/s", "eta": 45.4, "detail": {"loss": 1.9312, "accuracy": 0.25, "more": 1}}
    return values | {"message": ""} | more


def answer(unit: dict[str, str], content: dict[str, Any] | None = None) -> str:
    """What a host prints, through a terminal."""
    text = "".join(f"{key}={value}\n" for key, value in unit.items()) + "\n"
    return (text + (json.dumps(content) if content else "")).replace("\n", "\r\n")


def test_parse() -> None:
    look = follow.parse(answer(RUNNING, progress()))
    assert look.unit["SubState"] == "running"
    assert look.progress == progress()
    assert follow.parse(answer(AGAIN)).restarts == 1
    assert follow.parse(answer(RUNNING) + '{"phase": "tr').progress is None
    assert follow.parse("") == follow.Look({}, None)


@pytest.mark.parametrize(
    ("unit", "content", "verdict"),
    [
        (RUNNING, progress(), "running"),
        (RUNNING, progress(400, "done"), "running"),  # of the job before, or about to end
        (AGAIN, progress(state="failed"), "running"),
        (ENDED, progress(400, "done"), "done"),
        (ENDED, progress(), "off"),
        (ENDED, None, "off"),
        (RUNNING | {"SubState": "exited"}, None, "done"),
        (BROKEN, progress(), "failed"),
        (MISSING, progress(400, "done"), "missing"),
    ],
)
def test_judge(unit: dict[str, str], content: dict[str, Any] | None, verdict: str) -> None:
    assert follow.judge(follow.Look(unit, content)) == verdict


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (progress(), "train  120/400 steps  472 examples/s  loss 1.93  accuracy 0.25  0:45 left"),
        (progress(400, "done", detail={}, rate=None, message="trained"), "train  400/400 steps  trained"),
        (progress(0, total=0, detail={}, rate=None, eta=None, message="starting"), "train  starting"),
        (
            progress(13e6, total=178.4e6, unit="bytes", rate=130e6, rate_unit="bytes/s", detail={}, eta=3725.0),
            "train  13/178 MB  130 MB/s  1:02:05 left",
        ),
        (None, "train  nothing to see yet"),
    ],
)
def test_describe(content: dict[str, Any] | None, line: str) -> None:
    assert follow.describe(follow.Look(RUNNING, content), "train") == line


def test_why() -> None:
    exited = "u.service: Main process exited, code=exited, status=1/FAILURE"
    journal = [
        "Trace",
        "  x",
        "KeyError: 'a'",
        exited,
        "u.service: Failed with result 'exit-code'.",
        "Started u.service.",
    ]
    assert follow.why(journal, "u.service") == "KeyError: 'a' (code=exited, status=1/FAILURE)"
    assert follow.why([exited], "u.service") == "code=exited, status=1/FAILURE"
    assert follow.why([], "u.service") == "see its journal"


class Host:
    """A host that answers as scripted, and a clock that only sleep moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: list[str | None], journal: str = "") -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.answers: Iterator[str | None] = iter(answers)
        self.last: str | None = None
        self.journal = journal
        monkeypatch.setattr(follow.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(follow.time, "sleep", self.sleep)
        monkeypatch.setattr(follow.display, "display", self.lines.append)
        self.action = follow.ActionModule.__new__(follow.ActionModule)
        self.action._connection = self
        self.action._low_level_execute_command = self.execute

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def reset(self) -> None:
        pass

    def execute(self, command: str, sudoable: bool) -> dict[str, Any]:
        if "journalctl" in command:
            return {"rc": 0, "stdout": self.journal}
        self.last = next(self.answers, self.last)
        if self.last is None:
            raise AnsibleConnectionFailure("gone")
        return {"rc": 0, "stdout": self.last}

    def follow(self, **options: Any) -> dict[str, Any]:
        options = {"unit": "u.service", "progress": "/p", "title": "train", "interval": 5, "timeout": 600} | options
        result: dict[str, Any] = self.action._follow(options, "chief-0", "")
        return result


def test_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done = answer(ENDED, progress(400, "done", message="trained 400 steps"))
    looks = [answer(RUNNING, progress()), answer(RUNNING, progress()), answer(AGAIN, progress()), done]
    host = Host(monkeypatch, looks, "step 10\nu.service: Main process exited, code=killed, status=9/KILL\n")
    result = host.follow()
    assert result["msg"] == "trained 400 steps"
    assert (result["changed"], result["progress"]["done"], result["seconds"]) == (False, 400, 15)
    assert len(host.lines) == 4  # heading, running (once), restart, done
    assert host.lines[2] == "u.service ended early and was started again: code=killed, status=9/KILL"


def test_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, [answer(BROKEN, progress(state="failed", message="No manifest."))], "one\ntwo\n")
    result = host.follow()
    assert result["failed"]
    assert result["msg"].startswith("u.service failed (exit-code, 3 restarts): No manifest.\n  one\n  two\n")
    assert "journalctl -u u.service` on chief-0" in result["msg"]


def test_stopped_or_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not run" in Host(monkeypatch, [answer(ENDED)]).follow()["msg"]
    # About to start:
    assert "msg" in Host(monkeypatch, [answer(ENDED), answer(RUNNING), answer(ENDED, progress(1, "done"))]).follow()
    assert "has no unit" in Host(monkeypatch, [answer(MISSING)]).follow()["msg"]


def test_transient_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, [answer(RUNNING, progress()), answer(MISSING, progress(400, "done"))])
    assert "failed" not in host.follow()


def test_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Host(monkeypatch, [answer(RUNNING, progress())]).follow(timeout=60)
    assert result["failed"]
    assert result["msg"].startswith("u.service was not done after 1:00. It goes on by itself")


def test_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    there, done = answer(RUNNING, progress()), answer(ENDED, progress(400, "done"))
    host = Host(monkeypatch, [there, *[None] * 10, there, done])
    assert "failed" not in host.follow()
    assert sum("connection lost" in line for line in host.lines) == 1
    host = Host(monkeypatch, [there, None])
    assert "has not answered for 5 minutes" in host.follow(timeout=9999)["msg"]
    assert 300 < host.now < 330


def test_a_long_job_is_told_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [answer(RUNNING, progress(step)) for step in range(1440)]  # two hours
    host = Host(monkeypatch, [*looks, answer(ENDED, progress(1440, "done"))])
    host.follow(timeout=9999)
    assert 100 < len(host.lines) < 500
