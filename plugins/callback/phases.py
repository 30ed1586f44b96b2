# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Callback plugin phases: a line for each phase of a run; when interrupted, what goes on and what to type next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: phases
type: stdout
short_description: Shows a run as a line a phase
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - A phase is the first word of a play's name, as in C(HDFS | NameNode and DataNodes); plays that follow one another
    with the same word are one phase.
  - The line says which of how many phases runs, for how long, and on a terminal its present task. Plans, messages,
    progress, warnings, what C(--check) would change, differences and failures stand above it.
  - With C(-v), and for playbooks without such names, the output is that of P(ansible.builtin.default#callback).
  - Interrupted by C(Ctrl-C) or C(SIGTERM), it ends with what goes on by itself, and what to type next.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout_callback in ansible.cfg
"""

import atexit
import contextlib
import datetime
import functools
import itertools
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TextIO

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.flotilla.kit.plugins.callback.summary import minutes
from ansible_collections.flotilla.kit.plugins.plugin_utils import interruption, terminal

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats
    from ansible.executor.task_result import TaskResult
    from ansible.inventory.host import Host
    from ansible.playbook import Playbook
    from ansible.playbook.included_file import IncludedFile
    from ansible.playbook.play import Play
    from ansible.playbook.task import Task

    Handler = Callable[[int, FrameType | None], object]

P = ParamSpec("P")

SILENCE = 30  # seconds after which something is said where there is no terminal
DEBUG = ("debug", "ansible.builtin.debug")
FOLLOW = "flotilla.kit.follow"
IMAGE = "flotilla.kit.fleet_image"
PREFLIGHT = "flotilla.kit.fleet_preflight"
RESOURCES = "flotilla.kit.fleet_resources"
KNOWN = {"changed", "failed", "msg", "unreachable", "exception", "warnings", "deprecations", "stdout", "stderr",
         "module_stdout", "module_stderr", "stdout_lines", "stderr_lines", "start", "end", "delta", "results",
         "ansible_facts", "skipped", "skip_reason"}  # fmt: skip
PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
WATCH = PLAYBOOKS.parent / "scripts/watch"


def phase(name: str) -> tuple[str, str]:
    """Return the phase that a play belongs to, and what the play does."""
    word, _dummy, text = name.partition("|")
    return word.strip(), text.strip()


def message(value: object, dump: Callable[[object], str]) -> str:
    """Return what a task says, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    return dump(value) if isinstance(value, dict) else str(value)


def brief(method: Callable[Concatenate[CallbackModule, P], None]) -> Callable[Concatenate[CallbackModule, P], None]:
    """A method that is Ansible's own where Ansible's own output is wanted."""

    @functools.wraps(method)
    def chosen(self: CallbackModule, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.line:
            method(self, *args, **kwargs)
        else:
            getattr(Default, method.__name__)(self, *args, **kwargs)

    return chosen


class CallbackModule(Default):
    """Follows the phases, and shows them."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "flotilla.kit.phases"

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[tuple[str, str]] = []  # word, text
        self.number, self.word, self.since = 0, "", 0.0  # the present phase
        self.shown = self.unmatched = False  # whether its line has begun; whether a play of it had no hosts
        self.task, self.action = "", ""
        self.working: dict[str, None] = {}  # the hosts that the present task isn't over on, in order
        self.changes: dict[str, list[str]] = {}
        self.line: terminal.Line | None = None
        self.streams: tuple[TextIO, TextIO] | None = None
        self.over = threading.Event()
        self.ticker: threading.Thread | None = None
        self.judged = self.making = self.baking = self.destroying = False
        self.follows, self.expires = "", ""
        self.extra: dict[str, object] = {}
        self.pid, self.handled = os.getpid(), False

    # The run

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        """The playbook is read: which phases there will be."""
        super().v2_playbook_on_start(playbook)  # says something with -vv only
        names = [play.get_name() for play in playbook.get_plays()]
        groups = itertools.groupby((phase(name) for name in names), key=lambda one: one[0])
        self.phases = [next(plays) for _word, plays in groups] if any("|" in name for name in names) else []
        self.number, self.word = 0, ""
        if self.phases and not self.handled:
            self.handled = True
            for signum in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(signum)
                signal.signal(signum, functools.partial(self._interrupted, before))  # type: ignore[arg-type]
        if self.phases and self._display.verbosity == 0:
            self._begin()

    def v2_playbook_on_play_start(self, play: Play) -> None:
        """A play begins, and with it perhaps a phase."""
        word = phase(play.get_name())[0]
        if self.phases and word != self.word:
            self._finish()
            self.number, self.word, self.since = self.number + 1, word, time.monotonic()
        self.unmatched, self.task, self.working = False, "", {}
        self.extra = dict(play.get_variable_manager().extra_vars) if self.phases else {}
        if self.line:
            self._play = play
        else:
            super().v2_playbook_on_play_start(play)

    @brief
    def v2_playbook_on_no_hosts_matched(self) -> None:
        """A play for hosts that aren't there, as in check mode before there is a fleet."""
        self.unmatched = True

    @brief
    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Every host has failed, each with its own message."""

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:
        """A task begins."""
        self._task_began(task)
        if not self.line:
            super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_handler_task_start(self, task: Task) -> None:
        """A handler begins."""
        self._task_began(task)
        if not self.line:
            super().v2_playbook_on_handler_task_start(task)

    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        """A task begins on a host."""
        self.working[host.get_name()] = None
        if expires := host.get_vars().get("fleet_expires"):
            self.expires = max(self.expires, str(expires))
        if not self.line:
            super().v2_runner_on_start(host, task)

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """The run is over."""
        self._finish(failed=any(stats.failures.values()) or any(stats.dark.values()))
        if self.line:
            self._close()
        else:
            super().v2_playbook_on_stats(stats)

    # What tasks come to

    def v2_runner_on_ok(self, result: TaskResult) -> None:
        """Messages are shown, and in check mode what would change."""
        self._ended(result)
        self.judged = self.judged or result._task.action == PREFLIGHT
        if not self.line:
            super().v2_runner_on_ok(result)
            return
        self._handle_warnings(result._result)
        if not result._task.loop:
            self._say(result)
        if result._result.get("changed") and result._task.check_mode:
            self.changes.setdefault(self.task, []).append(result._host.get_name())

    @brief
    def v2_runner_item_on_ok(self, result: TaskResult) -> None:
        """As v2_runner_on_ok, for each of a loop."""
        self._handle_warnings(result._result)
        self._say(result)

    def v2_runner_on_skipped(self, result: TaskResult) -> None:
        """Nothing to show."""
        self._ended(result)
        if not self.line:
            super().v2_runner_on_skipped(result)

    def v2_runner_on_failed(self, result: TaskResult, ignore_errors: bool = False) -> None:
        """A failure is shown in full; one of a loop has been, each for itself."""
        self._ended(result)
        if not self.line:
            super().v2_runner_on_failed(result, ignore_errors)
        elif not (result._task.loop and "results" in result._result):
            self._fail(result, "failed", ignore_errors)

    @brief
    def v2_runner_item_on_failed(self, result: TaskResult) -> None:
        """As v2_runner_on_failed, for each of a loop."""
        self._fail(result, f"failed, at {self._get_item_label(result._result)}", bool(result._task.ignore_errors))

    def v2_runner_on_unreachable(self, result: TaskResult) -> None:
        """A host that can't be reached."""
        self._ended(result)
        if self.line:
            self._fail(result, "couldn't be reached", bool(result._task.ignore_unreachable))
        else:
            super().v2_runner_on_unreachable(result)

    @brief
    def v2_runner_item_on_skipped(self, result: TaskResult) -> None:
        """Nothing to show."""

    @brief
    def v2_runner_retry(self, result: TaskResult) -> None:
        """Waiting is what the task does; the terminal shows for how long."""

    @brief
    def v2_playbook_on_include(self, included_file: IncludedFile) -> None:
        """Nothing to show."""

    @brief
    def v2_on_file_diff(self, result: TaskResult) -> None:
        """What --diff shows, with its task and host."""
        for one in result._result.get("results") or [result._result]:
            if one.get("diff") and one.get("changed") and (text := self._get_diff(one["diff"])):
                self._display.display(f"{result._host.get_name()}: {self.task}", color=C.COLOR_CHANGED)
                self._display.display(text)

    # How it is shown

    def head(self) -> str:
        """`3/7 hdfs        NameNode and DataNodes`."""
        width = max(len(word) for word, _text in self.phases)
        return f"{self.number}/{len(self.phases)} {self.word.lower():<{width}}"

    def tick(self, now: float) -> None:
        """Draw the present phase's line, or break a long silence where there is no terminal."""
        line = self.line
        if not line or not self.shown or self.action.endswith("pause"):
            return
        with line.lock:
            if self.over.is_set():
                return
            text, spent = f"{self.head()}  {self.phases[self.number - 1][1]} …", minutes(now - self.since)
            if line.terminal:
                line.draw(f"{text} {spent}  {self.task}")
            elif now - line.spoken >= SILENCE and self.action != FOLLOW:  # which speaks for itself
                hosts = f"  ({', '.join(self.working)})" if self.working else ""
                self._display.display(f"{self.head()}  {spent}  {self.task}{hosts}")

    def _task_began(self, task: Task) -> None:
        self._show_changes()
        self.task, self.action, self.working = task.get_name().split(" : ")[-1].strip(), str(task.action), {}
        # The unit is a template here, the title isn't. What trains has been started before the data set is followed.
        title = "train" if self.word.lower() == "train" else str(task.args.get("title") or "a unit")
        self.follows = title if task.action == FOLLOW else ""
        if not task.check_mode:
            self.baking = self.baking or (task.action == IMAGE and task.args.get("state") in ("begun", "present"))
            self.making = self.making or (self.judged and task.action not in DEBUG)
            self.destroying = task.action == RESOURCES and task.args.get("state") == "absent"
        if self.line and not self.shown:
            self.shown = True
            self.line.draw(f"{self.head()}  {self.phases[self.number - 1][1]} …")

    def _ended(self, result: TaskResult) -> None:
        self.working.pop(result._host.get_name(), None)

    def _say(self, result: TaskResult) -> None:
        """Show what a debug task says."""
        if result._task.action not in DEBUG:
            return
        rest = {key: value for key, value in result._result.items() if key not in KNOWN and key[0] != "_"}
        said = result._result.get("msg", rest)
        text = message(said, lambda value: self._dump_results(value).strip("\n"))
        name = result._host.get_name()
        if name != "localhost":
            text = f"{name}:\n{textwrap.indent(text, '  ')}"
        self._display.display(text)

    def _fail(self, result: TaskResult, how: str, ignored: bool) -> None:
        """Show a failure: where, what it says, and all else that it gives."""
        said, task = result._result, result._task
        self._handle_warnings(said)
        path = str(task.get_path() or "")
        where = os.path.relpath(path) if path.startswith(f"{Path.cwd()}/") else path
        prefix = "ignored: " if ignored else "fatal: "
        lines = [f"{prefix}{self.host_label(result)} {how} in '{self.task}' ({where}):"]
        lines.append(textwrap.indent(str(said.get("msg", said.get("censored", "without a message"))).strip(), "  "))
        rest = {key: value for key, value in said.items() if key not in KNOWN and key[0] != "_" and key != "censored"}
        rest = self._dump_results(rest, serialize=False) if rest else {}
        if rest:
            lines.append(textwrap.indent(textwrap.dedent(self._dump_results(rest)).strip(), "  "))
        for key in ("stdout", "stderr", "module_stdout", "module_stderr"):
            if text := str(said.get(key) or "").strip():
                lines.append(f"  {key}:\n{textwrap.indent(text, '    ')}")
        self._display.display("\n".join(lines), color=C.COLOR_WARN if ignored else C.COLOR_ERROR)

    def _show_changes(self) -> None:
        for task, hosts in self.changes.items():
            names = "" if hosts == ["localhost"] else f"  ({', '.join(hosts)})"
            self._display.display(f"  would change  {task}{names}", color=C.COLOR_CHANGED)
        self.changes = {}

    def _finish(self, how: str = "", failed: bool = False) -> None:
        """The present phase is over."""
        line = self.line
        if not line or not self.number:
            return
        self._show_changes()
        text, spent = self.phases[self.number - 1][1], minutes(time.monotonic() - self.since)
        with line.lock:
            if self.shown:
                end = f"failed after {spent}" if failed else f"{how}{spent}"
                begun = f"{self.head()}  {text} …"
                line.draw(f"{begun} {end}" if line.terminal or line.here else f"{self.head()}  … {end}")
                line.end()
            elif self.unmatched:
                line.draw(f"{self.head()}  {text} … no hosts")
                line.end()
            self.shown = False

    def _begin(self) -> None:
        """Take over the terminal, or the pipe."""
        self.line, self.streams = terminal.Line(self._display._lock, sys.stdout), (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = terminal.Above(sys.stdout, self.line), terminal.Above(sys.stderr, self.line)
        self.over = threading.Event()
        self.ticker = threading.Thread(target=self._tick, args=(self.over,), daemon=True)
        self.ticker.start()
        atexit.register(self._close)

    def _tick(self, over: threading.Event) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more
            while not over.wait(1):
                self.tick(time.monotonic())

    def _close(self) -> None:
        """Give the terminal back."""
        self.over.set()
        if self.ticker and self.ticker is not threading.current_thread():
            self.ticker.join(2)
        if self.line:
            self.line.away()
        if self.streams:
            sys.stdout, sys.stderr = self.streams
        self.ticker = self.line = self.streams = None
        atexit.unregister(self._close)

    # The end that wasn't planned

    def _interrupted(self, before: Handler, signum: int, frame: FrameType | None) -> None:
        """Ctrl-C or SIGTERM: say what goes on, then do as Ansible does."""
        if os.getpid() == self.pid and self.number:
            self.over.set()
            self._finish("interrupted after ")
            self._describe_interruption()
            sys.stdout.flush()
        before(signum, frame)

    def _describe_interruption(self) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        said, following = interruption.describe(
            check=bool(context.CLIARGS.get("check")),
            making=self.making,
            baking=self.baking,
            destroying=self.destroying,
            follows=self.follows,
            expires=self.expires,
            now=now,
            command=self._command,
        )
        lines = ["", "INTERRUPTED", *[f"  {one}" for one in said]]
        if following:
            width = max(len(command) for command, _why in following)
            lines += ["", "NEXT", *[f"  {command:<{width}}  {why}" for command, why in following]]
        for one in lines:
            self._display.display(one)

    def _command(self, what: str) -> str:
        """Return the command of a playbook, or of scripts/watch, for this fleet and from this folder."""
        given: Iterable[str] = context.CLIARGS.get("inventory") or []
        inventory = " ".join(f"-i {os.path.relpath(one) if Path(one).exists() else one}" for one in given)
        if what == "watch":
            return f"{os.path.relpath(WATCH)} {inventory}".strip()
        names = ("fleet_name", "fleet_region", "fleet_profile")
        extra = [f"-e {name}={self.extra[name]}" for name in names if name in self.extra]
        return " ".join(
            part for part in ["ansible-playbook", inventory, os.path.relpath(PLAYBOOKS / f"{what}.yml"), *extra] if part
        )
