# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Callback plugin summary: how long each phase took, what came out, and what to type next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: summary
type: aggregate
short_description: Ends a run with the minutes of each phase, the result, and the next commands
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - A phase is the first word of a play's name, as in C(HDFS | NameNode and DataNodes).
  - The result and the next commands are what plays hand over by M(ansible.builtin.set_stats) as C(flotilla_result)
    (a mapping) and C(flotilla_next) (a list).
"""

import time
from typing import TYPE_CHECKING

from ansible.plugins.callback import CallbackBase

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats
    from ansible.executor.task_result import TaskResult
    from ansible.playbook.play import Play

CHECKS = ("flotilla.kit.check_variables", "flotilla.kit.fleet_preflight")


def minutes(seconds: float) -> str:
    """`m:ss`, for people."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class CallbackModule(CallbackBase):
    """Prints the summary when the run is over."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "flotilla.kit.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.phases: dict[str, float] = {}
        self.current = ""
        self.refused = False
        self.since = time.monotonic()

    def _turn(self, phase: str) -> None:
        now = time.monotonic()
        if self.current:
            self.phases[self.current] = self.phases.get(self.current, 0.0) + now - self.since
        self.current, self.since = phase, now

    def v2_playbook_on_play_start(self, play: Play) -> None:
        """A play begins, and with it perhaps a phase."""
        name = play.get_name()
        self._turn(name.split("|")[0].strip() if "|" in name else "")

    def v2_runner_on_failed(self, result: TaskResult, ignore_errors: bool = False) -> None:
        """What was refused before it began isn't gone on with by the same words."""
        self.refused = self.refused or result._task.action in CHECKS

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """The run is over."""
        self._turn("")
        if not self.phases:
            return
        custom = stats.custom.get("_run", {})
        lines = ["", "TIME".ljust(16) + "min:s"]
        lines += [f"  {name.lower():<14}{minutes(seconds):>5}" for name, seconds in self.phases.items()]
        lines.append(f"  {'in all':<14}{minutes(sum(self.phases.values())):>5}")
        result = custom.get("flotilla_result") or {}
        if result:
            width = max(len(key) for key in result)
            lines += ["", "RESULT", *[f"  {key.ljust(width)}  {value}" for key, value in result.items()]]
        following = custom.get("flotilla_next") or []
        failed = any(stats.failures.values()) or any(stats.dark.values())
        if failed and not self.refused:
            following = ["the same command again goes on where this one stopped", *following]
        if following:
            lines += ["", "NEXT", *[f"  {command}" for command in following]]
        for line in lines:
            self._display.display(line)
