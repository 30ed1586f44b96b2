"""The module files, by itself and as a task: what it keeps, what it says, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.modules import files

from tests.support.commands import ROOT, user_environment

ENTRY = {name: spec.get("default") for name, spec in files.SUBOPTIONS.items()}


class Module:
    """What Keeper needs of Ansible's module."""

    def __init__(self, check: bool) -> None:
        self.check_mode = check

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr


def keep(*entries: dict[str, Any], check: bool = False) -> list[str]:
    keeper = files.Keeper(Module(check))
    for entry in entries:
        keeper.keep({**ENTRY, **{key: str(value) for key, value in entry.items()}})
    return keeper.changed


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_all_of_it_and_nothing_the_second_time(tmp_path: Path) -> None:
    folder, file, link, old = tmp_path / "a/b", tmp_path / "c/file", tmp_path / "link", tmp_path / "old"
    (old / "more").mkdir(parents=True)
    entries = [
        {"path": folder, "state": "directory", "mode": "0700"},
        {"path": file, "content": "text\n", "mode": "0600"},
        {"path": link, "state": "link", "target": "/nowhere/yet"},
        {"path": old, "state": "absent"},
    ]
    before = sorted(tmp_path.rglob("*"))
    assert keep(*entries, check=True) == [str(entry["path"]) for entry in entries]
    assert sorted(tmp_path.rglob("*")) == before, "check mode changes nothing"
    assert keep(*entries) == [str(entry["path"]) for entry in entries]
    assert mode(folder) == 0o700 and mode(file) == 0o600 and file.read_text() == "text\n"
    assert str(link.readlink()) == "/nowhere/yet" and not old.exists()
    assert keep(*entries) == [] == keep(*entries, check=True)


@pytest.mark.parametrize("state", ["file", "directory"])
def test_a_mode_that_was_changed_is_set_right(tmp_path: Path, state: str) -> None:
    entry = {"path": tmp_path / "it", "state": state, "content": "x", "mode": "0750"}
    keep(entry)
    (tmp_path / "it").chmod(0o777)
    assert keep(entry, check=True) == [str(tmp_path / "it")] and mode(tmp_path / "it") == 0o777
    assert keep(entry) == [str(tmp_path / "it")] and mode(tmp_path / "it") == 0o750


def test_a_link_in_the_way_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "path"
    target.write_text("of somebody")
    path.symlink_to(target)
    keep({"path": path, "content": "mine"})
    assert not path.is_symlink() and path.read_text() == "mine" and target.read_text() == "of somebody"


def test_what_is_found_wrong_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("good\n")
    entry = {"path": path, "content": "bad\n", "validate": "grep -q good %s"}
    with pytest.raises(files.Problem, match=f"{path} would be wrong, and is left as it was"):
        keep(entry)
    assert path.read_text() == "good\n" and list(tmp_path.iterdir()) == [path]
    assert keep({**entry, "content": "also good\n"}) == [str(path)]


@pytest.mark.parametrize(
    ("there", "entry", "words"),
    [
        ("directory", {"content": "x"}, "is a directory, and is to be a file"),
        ("directory", {"state": "link", "target": "x"}, "is a directory, and is to be a link"),
        ("file", {"state": "directory"}, "is a file, and is to be a directory"),
        ("file", {"content": "x", "owner": "nobody-of-that-name"}, "there is no user nobody-of-that-name"),
    ],
)
def test_refused(tmp_path: Path, there: str, entry: dict[str, Any], words: str) -> None:
    path = tmp_path / "it"
    path.mkdir() if there == "directory" else path.write_text("kept")
    with pytest.raises(files.Problem, match=words):
        keep({"path": path, **entry})
    assert path.is_dir() if there == "directory" else path.read_text() == "kept"


def test_check_mode_knows_that_the_user_comes_later(tmp_path: Path) -> None:
    entry = {"path": tmp_path / "it", "content": "x", "owner": "nobody-of-that-name"}
    assert keep(entry, check=True) == [str(tmp_path / "it")]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    keeper = files.Keeper(Module(check=False))
    for name, rights in (("open", "0644"), ("secret", "0600")):
        keeper.keep({**ENTRY, "path": str(tmp_path / name), "content": f"{name} words", "mode": rights})
    assert "open words" in json.dumps(keeper.diffs) and "secret words" not in json.dumps(keeper.diffs)
    keeper.keep({**ENTRY, "path": str(tmp_path / "secret"), "content": "public now", "mode": "0644"})
    assert "secret words" not in json.dumps(keeper.diffs)


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {fleet: demo}
  tasks:
    - name: Keep
      flotilla.kit.files:
        files: "{{ entries }}"
      register: kept
    - name: Say
      ansible.builtin.copy:
        content: "{{ kept.changed_paths | to_json }}"
        dest: said
      check_mode: false
"""


def play(folder: Path, entries: list[dict[str, Any]], *options: str) -> str:
    (folder / "play.yml").write_text(PLAY)
    (folder / "entries.json").write_text(json.dumps({"entries": entries}))
    environment = {**user_environment(), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}
    environment.update(ANSIBLE_LOCALHOST_WARNING="false", ANSIBLE_PYTHON_INTERPRETER=sys.executable)
    return subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-e", f"@{folder}/entries.json", "play.yml", "--diff", *options],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ).stdout  # fmt: skip


def test_a_task_renders_templates_and_reads_files(tmp_path: Path) -> None:
    unit = "{{ ansible_managed | comment }}\n[Unit]\nDescription={{ fleet }} {{ what }}\n"
    for name, text in (("templates/unit.j2", unit), ("files/plain", "{{ left as it is }}\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    entries: list[dict[str, Any]] = [
        {"path": f"{out}/unit", "template": "unit.j2", "vars": {"what": "now"}},
        {"path": f"{out}/plain", "src": "plain"},
        {"path": f"{out}/settings.json", "content": {"b": [1], "a": True}},
        {"path": f"{out}/never", "content": "", "when": False},
    ]
    said = play(tmp_path, entries, "--check")
    assert "changed=2" in said and not out.exists(), said
    assert "+Description=demo now" in said, "the difference is shown"
    said = play(tmp_path, entries)
    assert (out / "unit").read_text() == "#\n# Ansible managed\n#\n[Unit]\nDescription=demo now\n", said
    assert (out / "plain").read_text() == "{{ left as it is }}\n"
    assert (out / "settings.json").read_text() == '{\n    "a": true,\n    "b": [\n        1\n    ]\n}\n'
    assert not (out / "never").exists()
    assert json.loads((tmp_path / "said").read_text()) == [entry["path"] for entry in entries[:3]]
    (out / "plain").write_text("by hand")
    play(tmp_path, entries)
    assert json.loads((tmp_path / "said").read_text()) == [f"{out}/plain"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "/tmp/x"}, "/tmp/x needs exactly one of content, template and src"),
        ({"path": "/tmp/x", "content": "", "src": "plain"}, "/tmp/x needs exactly one of content, template and src"),
        ({"path": "/tmp/x", "state": "link"}, "/tmp/x needs the target that it is to lead to"),
        ({"path": "/tmp/x", "state": "absent", "content": "x"}, "/tmp/x is to be absent, and has no content"),
        ({"path": "/tmp/x", "template": "missing.j2"}, "missing.j2"),
    ],
)
def test_a_task_that_is_wrong_says_so(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    said = " ".join(play(tmp_path, [entry]).split())
    assert words in said and "failed=1" in said
