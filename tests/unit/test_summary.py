"""What stands at the end of a run, by callback summary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.callback.summary import CallbackModule


@pytest.mark.parametrize(
    ("action", "advised"),
    [
        ("ansible.builtin.command", True),
        ("flotilla.kit.check_variables", False),
        ("flotilla.kit.fleet_preflight", False),
    ],
)
def test_what_was_refused_is_not_to_be_repeated(action: str, advised: bool) -> None:
    summary, said = CallbackModule(), list[str]()
    summary._display: Any = SimpleNamespace(display=said.append)
    summary.v2_playbook_on_play_start(SimpleNamespace(get_name=lambda: "Provision | Network"))
    summary.v2_runner_on_failed(SimpleNamespace(_task=SimpleNamespace(action=action)))
    summary.v2_playbook_on_stats(SimpleNamespace(custom={}, failures={"localhost": 1}, dark={}))
    assert ("  the same command again goes on where this one stopped" in said) is advised
