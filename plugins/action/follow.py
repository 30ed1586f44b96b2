# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action follow: shows a unit's progress until it has ended. Documented in plugins/modules/follow.py."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.flotilla.kit.plugins.module_utils import untyped

display = Display()

PATIENCE = 300  # seconds without connection
GRACE = 15  # seconds in which a unit that is off may still be about to start
JOURNAL_LINES = 15


class Progress(TypedDict, total=False):
    """What a program on a host says of its work, in the file that training/flotilla/supervision/progress.py writes."""

    phase: str  # stage, train, store or mirror
    state: str  # running, done, failed or stopped
    done: float  # how much of total
    total: float
    unit: str  # what is counted: bytes, steps, objects
    rate: float
    rate_unit: str  # such as bytes/s
    eta: float  # seconds
    message: str  # a sentence
    detail: dict[str, object]  # such as loss and accuracy


class Options(TypedDict):
    """The action's options."""

    unit: str
    progress: str | None  # the path of its progress file
    title: str | None
    interval: float  # seconds between looks
    timeout: float  # seconds


class Look(NamedTuple):
    """One look at the host: the unit's properties, and the progress file's content where there is one."""

    unit: Mapping[str, str]
    progress: Progress | None

    @property
    def restarts(self) -> int:
        return int(self.unit.get("NRestarts") or 0)


def command(unit: str, progress: str | None) -> str:
    """Return the shell command of a look; the unit first, so that its end is never older than the progress."""
    properties = "LoadState,ActiveState,SubState,Result,NRestarts"
    text = f"SYSTEMD_COLORS=0 systemctl show --no-pager --property={properties} -- {shlex.quote(unit)}; echo"
    return f"{text}; cat -- {shlex.quote(progress)} 2>/dev/null; true" if progress else text


def parse(output: str) -> Look:
    """Read what the command printed; a file that isn't there, or isn't JSON, is no progress."""
    head, _dummy, tail = output.replace("\r\n", "\n").partition("\n\n")
    unit = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    try:
        progress: Progress | None = json.loads(tail)
    except ValueError:
        progress = None
    return Look(unit, progress if isinstance(progress, dict) else None)


def judge(look: Look) -> str:
    """Return running, done, failed, off (ended without being done, or not yet started) or missing."""
    active, state = look.unit.get("ActiveState"), (look.progress or {}).get("state")
    if look.unit.get("LoadState") == "not-found":
        return "missing"
    if active == "failed":
        return "failed"
    if active == "inactive" or (active == "active" and look.unit.get("SubState") == "exited"):
        return "done" if state == "done" or (active == "active" and look.progress is None) else "off"
    return "running"


def describe(look: Look, title: str | None) -> str:
    """Say in one line how far the work is: `train  120/400 steps  472 examples/s  loss 1.93  0:45 left`."""
    progress = look.progress or {}
    parts = [title or str(progress.get("phase") or look.unit.get("Id") or "")]
    if look.progress is None:
        parts.append("nothing to see yet")
    else:
        parts.append(_amount(progress.get("done"), progress.get("total"), str(progress.get("unit") or "")))
        if progress.get("rate") is not None:
            parts.append(_rate(progress["rate"], str(progress.get("rate_unit") or "")))
        detail = list((progress.get("detail") or {}).items())[:2]
        parts += [f"{key} {_number(value)}" for key, value in detail if isinstance(value, (int, float, str))]
        if progress.get("state") == "running" and progress.get("eta") is not None:
            parts.append(f"{clock(progress['eta'])} left")
        if progress.get("message"):
            parts.append(str(progress["message"]))
    return "  ".join(part for part in parts if part)


def why(journal: list[str], unit: str) -> str:
    """Find in a unit's journal how its program ended the last time, and what it said before."""
    mark = f"{unit}: Main process exited, "
    ends = [number for number, line in enumerate(journal) if line.startswith(mark)]
    if not ends:
        return "see its journal"
    end = journal[ends[-1]].removeprefix(mark)
    said = journal[ends[-1] - 1] if ends[-1] and "code=exited" in end else ""
    return f"{said} ({end})" if said else end


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.{0 if value >= 1e7 else 1}f}"


def _amount(done: object, total: object, unit: str) -> str:
    if not isinstance(done, (int, float)) or not isinstance(total, (int, float)) or not total:
        return ""
    if unit == "bytes":
        return f"{_megabytes(done)}/{_megabytes(total)} MB"
    return f"{_number(done)}/{_number(total)} {unit}"


def _rate(rate: float, unit: str) -> str:
    if unit in ("bytes/s", "B/s"):
        return f"{_megabytes(rate)} MB/s"
    return f"{_number(rate)} {unit}"


class ActionModule(ActionBase):
    """Looks every few seconds, with nothing but a shell on the other side."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: untyped.Variables | None = None) -> untyped.Result:
        task_vars = task_vars or {}
        result: untyped.Result = super().run(tmp, task_vars)
        _dummy, options = self.validate_argument_spec(
            {
                "unit": {"type": "str", "required": True},
                "progress": {"type": "path"},
                "title": {"type": "str"},
                "interval": {"type": "float", "default": 5.0},
                "timeout": {"type": "float", "default": 14400.0},
            }
        )
        if self._task.check_mode:
            return result | {"skipped": True, "msg": "nothing runs in check mode, so there is nothing to follow"}
        hosts = task_vars.get("ansible_play_hosts") or []
        host = str(task_vars.get("inventory_hostname", ""))
        prefix = f"{host}: " if len(hosts) > 1 else ""
        return result | self._follow(options, host, prefix)

    def _follow(self, options: Options, host: str, prefix: str) -> untyped.Result:
        unit, title = options["unit"], options["title"]
        where = f"`journalctl -u {unit}` on {host}"
        started = reached = time.monotonic()
        off_since: float | None = None
        lost = ran = False
        shown, shown_at, shown_state = "", started, ""
        look = Look({}, None)
        while True:
            now = time.monotonic()
            seen = self._look(options)
            if seen is None:
                if time.monotonic() - reached > PATIENCE:
                    return self._end(
                        look,
                        started,
                        f"{host} has not answered for {PATIENCE // 60} minutes. {unit} doesn't need this connection: "
                        "run the same command again once the host can be reached.",
                    )
                if not lost:
                    display.display(f"{prefix}{title or unit}  connection lost, {unit} goes on; trying again")
                    lost = True
            else:
                if look.unit and seen.restarts > look.restarts:
                    reason = why(self._journal(unit, 30), unit)
                    display.display(f"{prefix}{unit} ended early and was started again: {reason}")
                look, reached, lost = seen, time.monotonic(), False
                verdict, line = judge(look), describe(look, title)
                ran = ran or verdict == "running"
                if verdict == "missing" and ran:  # a transient unit is gone when it has ended well
                    verdict = "done" if (look.progress or {}).get("state") == "done" else "off"
                # Fewer lines the longer it takes, but none of a new state is left out.
                state = f"{verdict} {(look.progress or {}).get('message')}"
                due = now - shown_at >= (now - started) / 60
                if line != shown and (due or state != shown_state or verdict == "done"):
                    if not shown and verdict == "running":
                        display.display(f"{prefix}{unit} runs by itself: interrupt this, and it goes on.")
                    display.display(prefix + line)
                    shown, shown_at, shown_state = line, now, state
                if verdict == "done":
                    return self._end(look, started)
                if verdict == "missing":
                    return self._end(look, started, f"{host} has no unit {unit}: it was not installed there.")
                if verdict == "failed":
                    return self._end(look, started, self._failure(look, unit, where))
                off_since = (off_since or now) if verdict == "off" else None
                if off_since and now - off_since >= GRACE:
                    message = (
                        f"{unit} on {host} does not run, and its work is not done: start it again, or see {where}."
                    )
                    return self._end(look, started, message)
            if time.monotonic() - started >= options["timeout"]:
                message = f"{unit} was not done after {clock(options['timeout'])}. It goes on by itself: see {where}, "
                return self._end(look, started, message + "or run the same command again to go on following.")
            time.sleep(options["interval"])

    def _look(self, options: Options) -> Look | None:
        """Return what there is to see on the host, None where it can't be reached."""
        output = self._remote(command(options["unit"], options["progress"]))
        return None if output is None else parse(output)

    def _failure(self, look: Look, unit: str, where: str) -> str:
        progress = look.progress or {}
        reason = progress.get("message") if progress.get("state") == "failed" else None
        text = f"{unit} failed ({look.unit.get('Result')}, {look.restarts} restarts): "
        text += f"{reason or 'see the lines below'}\n"
        text += "".join(f"  {line}\n" for line in self._journal(unit, JOURNAL_LINES))
        return f"{text}More: scripts/logs, or {where}. When the cause is gone, run the same command again."

    def _journal(self, unit: str, lines: int) -> list[str]:
        text = f"SYSTEMD_COLORS=0 journalctl --unit={shlex.quote(unit)} --lines={lines} --no-pager --output=cat"
        return (self._remote(text) or "").splitlines()

    def _remote(self, text: str) -> str | None:
        try:
            done = self._low_level_execute_command(text, sudoable=True)
        except AnsibleConnectionFailure as error:
            display.vv(str(error))
            self._connection.reset()
            return None
        return done["stdout"] if done["rc"] == 0 else None

    @staticmethod
    def _end(look: Look, started: float, failure: str | None = None) -> untyped.Result:
        result: untyped.Result = {
            "changed": False,
            "restarts": look.restarts,
            "seconds": round(time.monotonic() - started, 1),
        }
        if look.progress is not None:
            result["progress"] = dict(look.progress)
        if failure:
            return result | {"failed": True, "msg": failure}
        return result | {"msg": str((look.progress or {}).get("message") or "done")}
