"""The RADL of a fleet that infers alone: what its hosts are told to do, and that the Infrastructure Manager does it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_radl import parsed

from tests.support.commands import ROOT, user_runs

FOLDERS = {
    "infer_model": "s3://CHANGE-ME/models/cifar10/",
    "infer_source": "s3://CHANGE-ME/photos/",
    "infer_target": "s3://CHANGE-ME/predictions/",
}
GROUPS: dict[str, dict[str, Any]] = {
    "ps": {"count": 1, "instance_type": "m5.large"},
    "chief": {"count": 0},
    "worker": {"count": 7, "instance_type": "c5.2xlarge"},
}
PROGRAM = "def prepare(data):\n    return {'{{ text }}': \"it's\"}  # not a template\n"
# What the Infrastructure Manager makes of a block: its own head, and the recipe (IM/ConfManager.py)
MERGE = r"""
import pathlib, sys
from IM.ansible_utils import merge_recipes
head = '---\n- hosts: "{{IM_HOST}}"\n  gather_facts: False\n'
print(merge_recipes(head, pathlib.Path(sys.argv[1]).read_text()))
"""
# In the place of the kit's: they write down who was called, and with what.
ROLES = {
    "spark/tasks/main.yml": """
- ansible.builtin.set_fact: {spark_capacity: "{{ 2 if spark_host == spark_master else 3 }}"}
- ansible.builtin.shell: echo "spark {{ spark_host }} {{ spark_master }} {{ ansible_play_hosts_all | length }}" >> LOG
""",
    "infer/tasks/place.yml": """
- ansible.builtin.shell: echo "place {{ fleet_host }} {{ text | hash('sha256') }}" >> LOG
  vars: {text: "{{ lookup('ansible.builtin.file', infer_program, rstrip=False) }}"}
""",
    "infer/tasks/check.yml": """
- ansible.builtin.shell: echo "check {{ fleet_host }} {{ infer_tasks }} {{ infer_top }}" >> LOG
""",
    "infer/tasks/begin.yml": """
- ansible.builtin.shell: echo "begin {{ fleet_host }} {{ infer_host }} {{ infer_event_log }}" >> LOG
""",
}


def write(file: Path, check: bool = True, **extra: Any) -> str:
    """Have the playbook write an example; return what it prints."""
    given = {"fleet_name": "demo", "radl_example": True, "radl_file": str(file), "fleet_groups": GROUPS, **extra}
    output = user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", json.dumps(given), check=check,
    ).stdout  # fmt: skip
    return " ".join(output.split())


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as the playbook makes it now."""
    file = tmp_path_factory.mktemp("radl") / "inference.radl"
    write(file, **FOLDERS)
    return file


def test_the_example_is_what_the_playbook_makes(example: Path) -> None:
    assert example.read_text() == (ROOT / "radl/inference.radl").read_text(), f"write it anew: see {__file__}"


def test_the_infrastructure_manager_takes_it(example: Path) -> None:
    radl = parsed(example)
    assert radl["systems"] == ["ps", "worker"] and radl["deploys"] == {"ps": 1, "worker": 7}
    assert {configure for _, configure, _, _ in radl["items"]} == set(radl["configures"])
    assert radl["open"] == [["0.0.0.0/0", 22]]
    for words in ("dataset_source", "store_target", "training_max_steps", "tensorboard", "system chief"):
        assert words not in example.read_text()
    for name, recipe in radl["configures"].items():
        for play in yaml.safe_load(recipe) if name != "boot" else []:
            assert not {"become", "gather_facts"} & set(play) and ("hosts" in play) == (name == "inference")
            if "fleet_cluster" in recipe:
                assert play["vars"]["fleet_groups"]["chief"] == {"count": 0}, name


def test_what_must_come_first_does(example: Path) -> None:
    radl = parsed(example)
    steps = [(step, system, configure) for system, configure, step, tool in radl["items"] if step]
    assert sorted(steps) == [
        (1, "ps", "collection"),
        (1, "ps", "credentials"), (1, "ps", "host"), (1, "worker", "credentials"), (1, "worker", "host"),
        (2, "ps", "tensorflow"), (2, "worker", "tensorflow"),
        (3, "ps", "inference"),
    ]  # fmt: skip
    # On a host the blocks of a step run in the order of the file.
    for host in ("ps", "worker"):
        order = [configure for _, system, configure in steps if system == host]
        assert order.index("credentials") < order.index("host")
    assert roles(radl, "tensorflow") == ["tensorflow", "spark package", "tensorflow judge"]
    assert roles(radl, "inference") == ["spark", "infer check", "infer begin"]


def roles(radl: dict[str, Any], block: str) -> list[str]:
    (play,) = yaml.safe_load(radl["configures"][block])
    included = [task.get("ansible.builtin.include_role") for task in play["tasks"]]
    return [
        f"{role['name'].removeprefix('flotilla.kit.')} {role.get('tasks_from', '')}".strip()
        for role in included
        if role
    ]


def test_all_who_use_s3_have_the_credentials(example: Path) -> None:
    (play,) = yaml.safe_load(parsed(example)["configures"]["inference"])
    files = ["/etc/hadoop/client.env", "/etc/flotilla/aws.env", "-/etc/flotilla/credentials.env"]
    assert play["vars"]["spark_environment_files"] == play["vars"]["infer_environment_files"] == files


def test_what_is_set_of_the_roles_reaches_the_hosts(tmp_path: Path) -> None:
    given = {
        "infer_labels": ["a cat", "it's"], "infer_most_broken": 0, "infer_whole_output": False, "infer_files": "*.png",
        "spark_tasks": 2, "infer_signature": "",
    }  # fmt: skip
    write(tmp_path / "set.radl", **FOLDERS, **given)
    (play,) = yaml.safe_load(parsed(tmp_path / "set.radl")["configures"]["inference"])
    set_ = {name: play["vars"][name] for name in given if name in play["vars"]}
    assert set_ == {name: value for name, value in given.items() if name != "infer_signature"}
    assert "infer_top" not in play["vars"] and "infer_program" not in play["vars"]


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("missing", [[*FOLDERS], ["infer_source"]])
def test_a_fleet_with_nothing_to_do_is_refused(missing: list[str], example: bool, tmp_path: Path) -> None:
    given = {name: url for name, url in FOLDERS.items() if name not in missing}
    output = write(tmp_path / "no.radl", check=False, **given, radl_example=example)
    verb = "are" if len(missing) > 1 else "is"
    assert f"inference alone (fleet_groups.chief.count is 0), but {', '.join(missing)} {verb} missing" in output
    assert "isn't set" not in output and not (tmp_path / "no.radl").exists()


def test_folders_that_nobody_has_named_are_refused(tmp_path: Path) -> None:
    output = write(tmp_path / "no.radl", check=False, **FOLDERS, radl_example=False)
    assert "infer_target is still s3://CHANGE-ME/predictions/" in output
    assert "dataset_source" not in output and "store_target" not in output, "of a training nothing is demanded"


@pytest.mark.parametrize(("name", "words"), [("no.py", "no such file"), ("it's.py", "the file's name may have")])
def test_a_python_file_that_cannot_be_sent_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "it's.py").write_text(PROGRAM)
    output = write(tmp_path / "no.radl", check=False, **FOLDERS, infer_program=str(tmp_path / name))
    assert words in output and not (tmp_path / "no.radl").exists()


def test_a_chief_with_a_type_and_no_host_is_left_out(tmp_path: Path) -> None:
    groups = {**GROUPS, "chief": {"count": "0", "instance_type": "g4dn.xlarge"}}
    write(tmp_path / "type.radl", **FOLDERS, fleet_groups=groups)
    assert parsed(tmp_path / "type.radl")["systems"] == ["ps", "worker"]


class Hosts:
    """Two parameter servers and two workers, all of them this machine, and the block as the server runs it on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.began = folder / "log", folder / "began"
        kit = folder / "ansible_collections/flotilla/kit"
        kit.mkdir(parents=True)
        for name in ("plugins", "playbooks", "meta", "galaxy.yml"):
            (kit / name).symlink_to(ROOT / name)
        for name, tasks in ROLES.items():
            (kit / "roles" / name).parent.mkdir(parents=True, exist_ok=True)
            (kit / "roles" / name).write_text(tasks.replace("LOG", str(self.log)))
        (folder / "settings").mkdir()
        (folder / "settings/credentials.env").touch()
        systemctl = folder / "bin/systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(
            f'#!/bin/sh\ncase $1 in show) cat {self.began} ;; restart) echo "restart $2" >> {self.log} ;; esac\n'
        )
        systemctl.chmod(0o755)
        self._inventory()
        self._playbook()

    def _inventory(self) -> None:
        groups: dict[str, dict[str, Any]] = {}
        for number, group in enumerate(("ps", "ps", "worker", "worker")):
            its = {"IM_NODE_NUM": str(number), "IM_NODE_PRIVATE_IP": f"10.0.0.{number}", "ansible_connection": "local"}
            for name in (group, "allnowindows"):
                groups.setdefault(name, {"hosts": {}})["hosts"][f"198.51.100.{number}_{number}"] = its
        python = {"ansible_python_interpreter": sys.executable}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": python, "children": groups}}))

    def _playbook(self) -> None:
        program = self.folder / "mine.py"
        program.write_text(PROGRAM)
        radl = self.folder / "mine.radl"
        write(radl, **FOLDERS, infer_program=str(program), infer_top=3)
        recipe = parsed(radl)["configures"]["inference"]
        program.unlink()  # the hosts haven't got it
        (derived,) = re.findall(r'vars_files: "(.+)"', recipe)
        for there, here in (
            (derived, str(ROOT / "playbooks/vars/fleet.yml")),
            ("/opt/flotilla-infer", str(self.folder / "opt")),
            ("find /etc/flotilla", f"find {self.folder}/settings"),
        ):
            assert there in recipe
            recipe = recipe.replace(there, here)
        (self.folder / "recipe").write_text(recipe)
        merged = user_runs(str(ROOT / ".venv-im/bin/python"), "-c", MERGE, str(self.folder / "recipe")).stdout
        (self.folder / "play.yml").write_text(merged)

    def run(self, number: int, began: str = "now") -> list[str]:
        """Run what the server runs for a host; return what was done, in its order."""
        self.began.write_text(began)
        self.log.write_text("")
        user_runs(
            "env", f"ANSIBLE_COLLECTIONS_PATH={self.folder}", "ANSIBLE_INVENTORY_ENABLED=yaml",
            f"PATH={self.folder}/bin:{ROOT}/.venv/bin:{os.environ['PATH']}",
            "ansible-playbook", "-i", str(self.folder / "hosts.yml"), "-e", f"IM_HOST=198.51.100.{number}_{number}",
            str(self.folder / "play.yml"),
        )  # fmt: skip
        return self.log.read_text().splitlines()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    return Hosts(tmp_path_factory.mktemp("im"))


def test_the_server_runs_it_over_all_hosts(hosts: Hosts) -> None:
    done = hosts.run(0)
    names = ["ps-0", "ps-1", "worker-2", "worker-3"]
    checksum = hashlib.sha256(PROGRAM.encode()).hexdigest()
    assert sorted(done[:4]) == [f"spark {name} ps-0 4" for name in names], "in one play, so that all have one secret"
    assert sorted(done[4:8]) == [f"place {name} {checksum}" for name in names]
    assert done[8:] == ["check ps-0 11 3", "begin ps-0 ps-0 hdfs://ps-0:8020/user/flotilla/spark"]


def test_the_second_parameter_server_does_not_do_it_again(hosts: Hosts) -> None:
    assert hosts.run(1) == []


def test_what_has_older_credentials_is_restarted(hosts: Hosts) -> None:
    done = hosts.run(0, "Tue 2020-11-24 02:10:44 UTC")
    restarted = [line for line in done if line.startswith("restart")]
    assert sorted(restarted) == ["restart flotilla-infer.service"] * 4 + ["restart spark-worker.service"] * 4
    assert done[:8] == restarted, "before Spark is asked whether it is there"
