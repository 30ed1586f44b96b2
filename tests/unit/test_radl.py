"""The RADL files: made by playbooks/radl.yml and nothing else, and such as the Infrastructure Manager takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import ROOT, user_runs

VARIANTS: dict[str, dict[str, Any]] = {
    "infrastructure": {},
    "cpu": {
        "fleet_groups": {
            "ps": {"count": 1, "instance_type": "m5.large"},
            "chief": {"count": 1, "instance_type": "c5.2xlarge"},
            "worker": {"count": 3, "instance_type": "c5.2xlarge"},
        }
    },
    "gpus": {
        "fleet_groups": {
            "ps": {"count": 1, "instance_type": "m5.large"},
            "chief": {"count": 1, "instance_type": "g4dn.12xlarge", "tasks": 4},
            "worker": {"count": 2, "instance_type": "g4dn.12xlarge", "tasks": 4},
        }
    },
    "existing-vpc": {"fleet_vpc_id": "vpc-0123456789abcdef0", "fleet_subnet_id": "subnet-0123456789abcdef0"},
}
# The Infrastructure Manager's own parser, in its own environment.
PARSE = """
import json, sys
from radl import radl_parse
radl = radl_parse.parse_radl(sys.argv[1])
radl.check()
print(json.dumps({
    "systems": [s.name for s in radl.systems],
    "configures": {c.name: c.recipes for c in radl.configures},
    "items": [[i.system, i.configure, i.num, i.get_ctxt_tool()] for i in (radl.contextualize.items or {}).values()],
    "deploys": {d.id: d.vm_number for d in radl.deploys},
    # The server opens to the world whatever port has no source.
    "open": [[p.get_remote_cidr(), p.get_local_port()] for n in radl.networks for p in n.getOutPorts() or []],
}))
"""


def parsed(file: Path) -> dict[str, Any]:
    return dict(json.loads(user_runs(str(ROOT / ".venv-im/bin/python"), "-c", PARSE, str(file)).stdout))


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A variant's name, and its file as the playbook makes it now."""
    file = tmp_path_factory.mktemp("radl") / f"{request.param}.radl"
    extra = {"fleet_name": "demo", **VARIANTS[request.param], "radl_example": True, "radl_file": str(file)}
    user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", json.dumps(extra),
    )  # fmt: skip
    return request.param, file


def test_the_example_is_what_the_playbook_makes(variant: tuple[str, Path]) -> None:
    name, file = variant
    assert file.read_text() == (ROOT / f"radl/{name}.radl").read_text(), f"write it anew: see {__file__}"


def test_settings_of_hdfs_reach_the_hosts(tmp_path: Path) -> None:
    given = {"hdfs_site": {"dfs.datanode.du.reserved": 10737418240}, "hdfs_replication": 2, "hdfs_datanode_heap_mb": 0}
    extra = {"fleet_name": "demo", "radl_example": True, "radl_file": str(tmp_path / "hdfs.radl"), **given}
    user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", json.dumps(extra),
    )  # fmt: skip
    (play,) = yaml.safe_load(parsed(tmp_path / "hdfs.radl")["configures"]["host"])
    set_ = {name: value for name, value in play["vars"].items() if name in given}
    assert set_ == {name: given[name] for name in ("hdfs_site", "hdfs_replication")}, "0 is the default"


def test_the_infrastructure_manager_takes_it(variant: tuple[str, Path]) -> None:
    radl, text = parsed(variant[1]), variant[1].read_text()
    assert set(radl["systems"]) <= {"ps", "chief", "worker", "evaluator"}, "systems are called as our groups"
    assert radl["deploys"].keys() == set(radl["systems"]) and radl["deploys"]["chief"] == 1
    listed = re.findall(r"system (\w+) configure (\w+)", text[text.index("contextualize") :])
    assert len(set(listed)) == len(listed) == len(radl["items"]), "a pair that stands twice loses its first step"
    assert {configure for _, configure in listed} == set(radl["configures"])
    assert "ansible.modules." not in text
    for name, recipe in radl["configures"].items():
        plays = yaml.safe_load(recipe)
        if name == "boot":
            assert "git" in plays["packages"], "ansible-galaxy fetches the collection with it"
            continue
        for play in plays:
            assert not {"hosts", "become", "gather_facts"} & set(play), f"{name}: the server writes these itself"
    assert radl["open"] == [["0.0.0.0/0", 22]], "nothing but SSH is open, here to the world"


def test_a_collection_that_is_not_there_is_missed_in_a_sentence(tmp_path: Path) -> None:
    recipe = parsed(ROOT / "radl/infrastructure.radl")["configures"]["collection"]
    (file,) = re.findall(r"'(/.+)' is file", recipe)
    (play,) = yaml.safe_load(recipe.replace(file, str(tmp_path / "fleet.yml")))
    playbook = tmp_path / "collection.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, **play}]))
    run = "ansible-playbook", "-i", "localhost,", str(playbook)
    assert "im_client reconfigure ID FILE" in user_runs(*run, check=False).stdout
    (tmp_path / "fleet.yml").touch()
    user_runs(*run)


def test_a_collection_that_nobody_has_named_is_refused(tmp_path: Path) -> None:
    """Before AWS is asked: for that there are no credentials here."""
    file = tmp_path / "demo.radl"
    buckets = {"dataset_source": "s3://mine/cifar10/", "store_target": "s3://mine/models/"}
    done = user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", json.dumps({"fleet_name": "demo", "radl_file": str(file), **buckets}), check=False,
    )  # fmt: skip
    # Ansible wraps what it prints.
    assert "radl_collection is still git+https://CHANGE-ME/flotilla," in " ".join(done.stdout.split()), done.stdout
    assert done.returncode != 0 and not file.exists() and not file.with_suffix(".password").exists()


def test_one_worker_more() -> None:
    radl = parsed(ROOT / "radl/worker.radl")
    assert (radl["systems"], radl["deploys"], radl["open"]) == (["worker"], {"worker": 1}, [])


def test_what_must_come_first_does(variant: tuple[str, Path]) -> None:
    radl = parsed(variant[1])
    items = [(system, configure, step) for system, configure, step, tool in radl["items"] if step]
    steps: dict[str, list[int]] = {}
    for _, configure, step in items:
        steps.setdefault(configure, []).append(step)
    # The NameNode's host has Hadoop before it installs anything else, and the others wait for it, not for ever.
    (play,) = yaml.safe_load(radl["configures"]["host"])
    roles = [(task["ansible.builtin.include_role"]["name"], task.get("when")) for task in play["tasks"]]
    kit = "flotilla.kit."
    assert roles == [
        (f"{kit}node", None),
        (f"{kit}hdfs", "fleet_host == fleet_cluster.namenode"),
        (f"{kit}tensorflow", None),
        (f"{kit}training", None),
        (f"{kit}hdfs", "fleet_host != fleet_cluster.namenode"),
    ]
    assert 300 <= play["vars"]["hdfs_handout_timeout"] <= 900
    # Between hosts a step is the only barrier.
    for first, then in [("host", "dataset"), ("dataset", "verify"), ("verify", "training"), ("store", "training")]:
        assert max(steps[first]) < min(steps[then]), f"{first} is done everywhere before {then} begins anywhere"
    # Where settings have changed, the chief saves a checkpoint before the parameter servers are started again.
    (chief,) = [step for system, configure, step in items if (system, configure) == ("chief", "training")]
    assert all(step > chief for system, configure, step in items if configure == "training" and system != "chief")
    # Each host refuses another job before it takes anything over from it.
    (single,) = [name for name, recipe in radl["configures"].items() if "tasks_from: single" in recipe]
    assert {system for system, configure, _ in items if configure == single} == set(radl["systems"])
    assert max(steps[single]) < min(steps["store"] + steps["training"])
    # On a host the blocks of a step run in the order of the file.
    for host in {system for system, _, _ in items}:
        mine = sorted(
            (step, number, configure) for number, (system, configure, step) in enumerate(items) if system == host
        )
        order = [configure for _, _, configure in mine]
        # That the collection is missing is said before anything needs it, where IM installs it.
        assert order[: order.index("host") + 1] == ["collection"] * (host == "ps") + ["credentials", "host"], host
        assert order.index("host") < order.index("dataset"), host
