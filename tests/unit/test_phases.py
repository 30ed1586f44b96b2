"""What whoever waits sees: callback phases, alone and in real runs in a pipe and on a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.callback import phases
from ansible_collections.flotilla.kit.plugins.plugin_utils import interruption, terminal

from tests.support.commands import ROOT, kill_family, user_environment, wait_until

LIFE = """
- name: Provision | Network, access and instances
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Show the plan
      ansible.builtin.debug:
        msg: "group  hosts\\nps         1"
    - name: Make something
      ansible.builtin.command: echo made
      changed_when: true
- name: Provision | Wait for the nodes
  hosts: ps
  gather_facts: false
  tasks:
    - name: Is it there
      ansible.builtin.command: sh -c "echo out; echo words of the error >&2; exit 3"
      register: answer
      until: answer is success
      retries: 1
      delay: 0
      ignore_errors: true
    - name: Warn
      flotilla.kit.check_variables:
        judge: typed
      when: false
    - name: Write a file
      ansible.builtin.copy:
        dest: "{{ folder }}/file"
        content: "new words\\n"
        mode: "0644"
- name: HDFS | NameNode and DataNodes
  hosts: fleet
  gather_facts: false
  tasks:
    - name: Nothing to say
      ansible.builtin.command: echo unheard
      changed_when: false
    - name: Ask
      ansible.builtin.debug:
        msg: [one, two]
- name: Evaluator | On a host of its own
  hosts: evaluator
  gather_facts: false
  tasks:
    - name: Nobody
      ansible.builtin.debug:
- name: Store | The chief's model to S3
  hosts: chief
  gather_facts: false
  tasks:
    - name: Refuse
      ansible.builtin.assert:
        that: ansible_check_mode
        fail_msg: >-
          The bucket flotilla-nowhere of store_target is not there, which is told in a sentence that is longer than the
          eighty columns at which Ansible would have broken it: make the bucket, or name another one.
        quiet: true
"""
PLAIN = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: A playbook of somebody else's
"""
FOLLOW = """
- name: Node | Names
  hosts: chief
  gather_facts: false
  tasks:
    - name: Nothing
      ansible.builtin.command: echo
- name: Train | Follow the chief
  hosts: chief
  gather_facts: false
  tasks:
    - name: Wait until the job is done
      flotilla.kit.follow:
        title: train
        unit: training@chief-0.service
        progress: "{{ folder }}/train.json"
        interval: 0.2
"""
SYSTEMCTL = "#!/bin/sh\nprintf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nNRestarts=0\\n'\n"
INVENTORY = {
    "fleet": {
        "children": {
            name: {"hosts": {f"{name}-0": {"ansible_connection": "local", "fleet_expires": "2099-01-01T00:00:00Z"}}}
            for name in ("ps", "chief")
        }
    }
}


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the command of ansible-playbook, for a playbook's text."""
    (tmp_path / "hosts.yml").write_text(json.dumps(INVENTORY))

    def make(text: str, *arguments: str) -> list[str]:
        (tmp_path / "play.yml").write_text(text)
        given = {"folder": str(tmp_path), "ansible_python_interpreter": sys.executable}
        hosts = ["-i", str(tmp_path / "hosts.yml"), "-e", json.dumps(given)]
        return ["ansible-playbook", *hosts, *arguments, str(tmp_path / "play.yml")]

    return make


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment, with a systemctl that says of each unit that it runs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "train.json").write_text(
        '{"phase": "train", "state": "running", "done": 7, "total": 9, "unit": "steps"}'
    )
    given = user_environment()
    given.pop("PYTHONUNBUFFERED", None)
    return given | {"PATH": f"{tmp_path}/bin:{given['PATH']}", "ANSIBLE_INVENTORY_ENABLED": "yaml"}


class Run:
    """A command whose output is read while it runs, through a pipe or a terminal of 60 columns."""

    def __init__(self, command: list[str], environment: dict[str, str], terminal: bool) -> None:
        self._text = b""
        reads, writes = pty.openpty() if terminal else os.pipe()
        self.keyboard = reads
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment | {"COLUMNS": "60"}, start_new_session=terminal,
            stdin=writes if terminal else subprocess.DEVNULL, stdout=writes, stderr=writes,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,  # that ^C comes through
        )  # fmt: skip
        os.close(writes)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self.keyboard, 65536):
                self._text += piece
        except OSError:  # so ends a terminal
            return

    @property
    def text(self) -> str:
        return self._text.decode().replace("\r\n", "\n")

    def until(self, words: str) -> None:
        wait_until(lambda: words in self.text or self.process.poll() is not None, 60, f"it says {words!r}")
        assert words in self.text, self.text

    def end(self) -> int:
        """Wait for its end; returns the exit status."""
        try:
            self.process.wait(60)
        finally:
            kill_family(self.process.pid)
        self._reader.join(5)
        os.close(self.keyboard)
        return self.process.returncode


def screen(text: str) -> list[str]:
    """What stands on a terminal after all of that, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [line.rpartition("\r\x1b[K")[2].rstrip() for line in text.split("\n")]


def timeless(text: str) -> str:
    return re.sub(r"\d+:\d\d\b", "T", text)


def test_a_line_a_phase_in_a_pipe(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    run = Run(command(LIFE), environment, terminal=False)
    run.until("1/4 provision  Network, access and instances …\ngroup  hosts\nps         1\n")
    assert run.process.poll() is None, "it is said at once, not at the end"
    assert run.end() == 2
    said = timeless(run.text)
    where = re.escape(str(Path(command(LIFE)[-1])))
    assert re.fullmatch(
        "1/4 provision  Network, access and instances …\n"
        "group  hosts\nps         1\n"
        rf"ignored: ps-0 failed in 'Is it there' \({where}:\d+\):\n"
        r"  (The command exited with a )?non-zero return code\.?\n"  # the sentence is ansible-core 2.21's
        r"(  \S.*\n)*  rc: 3\n  stdout:\n    out\n  stderr:\n    words of the error\n"
        "1/4 provision  … T\n"
        "2/4 hdfs       NameNode and DataNodes …\n"
        "(ps-0:\n  one\n  two\nchief-0:\n  one\n  two\n|chief-0:\n  one\n  two\nps-0:\n  one\n  two\n)"
        "2/4 hdfs       … T\n"
        "3/4 evaluator  On a host of its own … no hosts\n"
        "4/4 store      The chief's model to S3 …\n"
        rf"fatal: chief-0 failed in 'Refuse' \({where}:\d+\):\n"
        "  The bucket flotilla-nowhere .* or name another one.\n"
        r"(  \S.*\n)+"
        "4/4 store      … failed after T\n"
        "\nTIME            min:s\n"
        r"(.*\n)*"
        "\nNEXT\n  the same command again goes on where this one stopped\n",
        said.replace("[WARNING]: Could not match supplied host pattern, ignoring: evaluator\n", ""),
    ), said


def test_a_line_a_phase_on_a_terminal(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    text = LIFE.replace("ansible.builtin.command: echo made", "ansible.builtin.command: sleep 2.5")
    run = Run(command(text), environment, terminal=True)
    run.until("  Make s")
    assert run.end() == 2
    shown = [timeless(line) for line in screen(run.text)]
    assert [line for line in shown if re.match(r"\d/4", line)] == [
        "1/4 provision  Network, access and instances … T",
        "2/4 hdfs       NameNode and DataNodes … T",
        "3/4 evaluator  On a host of its own … no hosts",
        "4/4 store      The chief's model to S3 … failed after T",
    ]
    assert shown.index("ps         1") < shown.index("1/4 provision  Network, access and instances … T")
    assert max(map(len, re.findall(r"\r\x1b\[K(\d/4[^\r\n]*)", run.text))) == 59, "a line that were broken would stay"


def test_check_says_what_would_change_and_diff_how(
    command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    run = Run(command(LIFE, "--check", "--diff"), environment, terminal=False)
    assert run.end() == 0
    assert "  would change  Write a file  (ps-0)\n" in run.text
    assert "ps-0: Write a file\n" in run.text and "\n+new words\n" in run.text
    assert not (tmp_path / "file").exists()


def test_verbose_is_ansibles_own(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    run = Run(command(LIFE, "-v"), environment, terminal=False)
    assert run.end() == 2
    assert re.search(r"^PLAY RECAP \*+\nchief-0 +: ok=2 +changed=0 .* failed=1", run.text, re.MULTILINE)
    assert "TASK [Nothing to say] ***" in run.text and "1/4" not in run.text
    assert "TIME            min:s" in run.text


def test_another_playbook_is_shown_by_ansible(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    run = Run(command(PLAIN), environment, terminal=False)
    assert run.end() == 0
    assert "PLAY RECAP ***" in run.text and "TIME" not in run.text


def test_listing_tasks_shows_no_phase(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    run = Run(command(LIFE, "--list-tasks"), environment, terminal=False)
    assert run.end() == 0
    assert "Make something" in run.text and "1/4" not in run.text


@pytest.mark.parametrize(
    ("terminal", "options", "status"), [(True, (), 99), (False, (), -signal.SIGTERM), (True, ("-v",), 99)]
)
def test_last_words_of_a_real_run(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    terminal: bool,
    options: tuple[str, ...],
    status: int,
) -> None:
    run = Run(command(FOLLOW, *options), environment, terminal)
    run.until("train  7/9 steps")
    if terminal:
        os.write(run.keyboard, b"\x03")
    else:
        run.process.terminate()
    assert run.end() == status
    shown = screen(run.text)
    end = "\n".join(shown[shown.index("INTERRUPTED") :])
    hosts = os.path.relpath(command(FOLLOW)[2], ROOT)
    assert "The training goes on by itself on the hosts, and the chief stores the model when it is done." in end
    assert re.search(r"Every host powers itself off, and is gone, in \d+:\d\d h at the latest \(2099-01-01T", end)
    for line in (
        rf"scripts/watch -i {hosts}  +what each task does, live",
        rf"ansible-playbook -i {hosts} playbooks/stop.yml  +ends the training, with a checkpoint",
        "the same command again  +goes on where this one stopped",
        rf"ansible-playbook -i {hosts} playbooks/destroy.yml  +ends all of it, now",
    ):
        assert re.search(f"^  {line}$", end, re.MULTILINE), end
    if not options:
        assert re.search(r"^2/2 train  .*… interrupted after \d:\d\d$", "\n".join(shown), re.MULTILINE)
    assert not re.search(r"^\d/2", end, re.MULTILINE), "nothing is drawn after the last words"


# The words alone

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGAIN = "the same command again"


def words(**state: Any) -> tuple[str, list[str]]:
    """The last words in one line, and the commands."""
    calm = {"check": False, "making": False, "baking": False, "destroying": False, "follows": "", "expires": ""}
    said, following = interruption.describe(**(calm | state), now=NOW, command=lambda what: what)
    return " ".join(said), [command for command, _why in following]


LATER = "2026-01-01T02:05:00Z"


@pytest.mark.parametrize(
    ("state", "said", "following"),
    [
        ({}, "^Nothing was made or changed.$", []),
        ({"check": True, "expires": LATER}, "^Nothing was made or changed.$", []),
        ({"making": True}, "^What was made so far stays. Hosts that were launched power", [AGAIN, "destroy"]),
        ({"expires": LATER}, r"^The fleet stays .* in 2:05 h at the latest \(2026", [AGAIN, "destroy"]),
        ({"expires": "2025-01-01T00:00:00Z"}, "^The fleet stays as it is now; units .* go on.$", [AGAIN, "destroy"]),
        ({"follows": "stage", "expires": LATER}, "^What was followed goes on .*: stage. Every", [AGAIN, "destroy"]),
        (
            {"follows": "train", "expires": LATER},
            "^The training goes on .* stores the model",
            ["watch", "stop", AGAIN, "destroy"],
        ),
        (
            {"follows": "store", "expires": LATER},
            "^The chief goes on storing",
            ["watch", AGAIN, "destroy"],
        ),
        (
            {"making": True, "baking": True, "destroying": True},
            "^The host that was to become the image powers",
            [AGAIN],
        ),
        ({"destroying": True, "expires": LATER}, "^What isn't deleted yet is still there", [AGAIN]),
    ],
)
def test_last_words_say_what_is_true(state: dict[str, Any], said: str, following: list[str]) -> None:
    found = words(**state)
    assert re.search(said, found[0]) and found[1] == following


def task(action: str, check: bool = False, **args: Any) -> Any:
    return SimpleNamespace(action=action, args=args, check_mode=check, loop=None, get_name=lambda: f"fleet : {action}")


def result(of: Any, **said: Any) -> Any:
    return SimpleNamespace(_task=of, _result=said, _host=SimpleNamespace(get_name=lambda: "localhost"))


@pytest.fixture
def callback() -> phases.CallbackModule:
    """A callback in the midst of a run, whose line is written into a buffer; a pipe's."""
    made = phases.CallbackModule()
    made.line = terminal.Line(threading.RLock(), io.StringIO())
    made._display = SimpleNamespace(
        display=lambda text, **_: print(text, file=terminal.Above(made.line.stream, made.line))
    )
    made.phases = [("Provision", "Network"), ("HDFS", "NameNode and DataNodes")]
    made.number, made.word, made.since = 1, "Provision", time.monotonic()
    return made


def test_something_is_made_once_the_plan_was_judged(callback: phases.CallbackModule) -> None:
    callback._task_began(task("ansible.builtin.stat"))
    preflight = task("flotilla.kit.fleet_preflight")
    callback._task_began(preflight)
    assert not callback.making
    callback.v2_runner_on_ok(result(preflight))
    callback._task_began(task("ansible.builtin.debug"))
    assert not callback.making
    callback._task_began(task("amazon.aws.ec2_vpc_net", check=True))
    assert not callback.making
    callback._task_began(task("amazon.aws.ec2_vpc_net"))
    assert callback.making


@pytest.mark.parametrize(
    ("state", "check", "destroying"), [("absent", False, True), ("absent", True, False), ("present", False, False)]
)
def test_destroying_is_deleting(callback: phases.CallbackModule, state: str, check: bool, destroying: bool) -> None:
    callback._task_began(task("flotilla.kit.fleet_resources", check, state=state))
    assert callback.destroying is destroying


@pytest.mark.parametrize(
    ("word", "title", "follows"),
    [("Train", "stage", "train"), ("Store", "store", "store"), ("Stage", "stage", "stage")],
)
def test_what_is_followed(callback: phases.CallbackModule, word: str, title: str, follows: str) -> None:
    callback.word = word
    callback._task_began(task("flotilla.kit.follow", unit="{{ __dataset_unit }}", title=title))
    assert callback.follows == follows
    callback._task_began(task("ansible.builtin.command"))
    assert callback.follows == ""


def test_baking_makes_no_fleet(callback: phases.CallbackModule) -> None:
    callback._task_began(task("flotilla.kit.fleet_image", state="listed"))
    assert not callback.baking
    callback._task_began(task("flotilla.kit.fleet_image", state="begun"))
    assert callback.baking and not callback.making


def test_a_long_silence_is_broken_in_a_pipe(callback: phases.CallbackModule) -> None:
    assert callback.line
    callback._task_began(task("ansible.builtin.command"))
    callback.v2_runner_on_start(SimpleNamespace(get_name=lambda: "ps-0", get_vars=dict), None)
    begin = callback.since = callback.line.spoken = time.monotonic()
    callback.tick(begin + 29)
    assert callback.line.stream.getvalue() == "1/2 provision  Network …"
    callback.tick(begin + 31)
    assert callback.line.stream.getvalue().endswith("Network …\n1/2 provision  0:31  ansible.builtin.command  (ps-0)\n")
    callback._task_began(task("flotilla.kit.follow", unit="training@chief-0.service"))
    callback.line.spoken = begin
    before = callback.line.stream.getvalue()
    callback.tick(begin + 90)
    assert callback.line.stream.getvalue() == before, "who follows speaks himself"


def test_a_phase_that_nothing_interrupts_is_one_line_in_a_pipe(callback: phases.CallbackModule) -> None:
    assert callback.line
    callback._task_began(task("ansible.builtin.command"))
    callback._finish()
    assert callback.line.stream.getvalue() == "1/2 provision  Network … 0:00\n"


def test_commands_name_this_fleet(callback: phases.CallbackModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(phases.context, "CLIARGS", {"inventory": [str(ROOT / "inventories/aws"), "a,"]})
    callback.extra = {"fleet_name": "other", "training_max_steps": 5}
    assert callback._command("destroy") == (
        "ansible-playbook -i inventories/aws -i a, playbooks/destroy.yml -e fleet_name=other"
    )
    assert callback._command("watch") == "scripts/watch -i inventories/aws -i a,"
