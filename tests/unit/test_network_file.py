"""What a network's file decides of a fleet, and what it's held against before a host is made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import (
    dataset_manifest,
    fleet_groups,
    network_file,
    variables,
)
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight

ROOT = Path(__file__).parents[2]
LENET = str(ROOT / "networks/lenet.yml")
GROUPS = {name: {"count": 1, "instance_type": "t3.large"} for name in ("ps", "chief", "worker")}
RESNET = "network: {classes: 10, layers: [flatten, dense: 10]}\n"


def manifest(**features: Any) -> str:
    import json

    files = [
        {"path": split, "split": split, "size": 1, "records": 9, "crc32c": "0" * 8}
        for split in ("train", "validation", "eval")
    ]
    return json.dumps({"format": "flotilla-dataset/1", "name": "x", "files": files, "features": features})


def test_a_file_decides_what_groups_leave_out() -> None:
    facts, problems = network_file.judge(str(ROOT), LENET)
    assert facts and problems == []
    found = fleet_groups.filled({"worker": {"count": 4}}, facts["groups"])
    assert isinstance(found, dict) and found["worker"]["count"] == 4 and found["ps"]["count"] == 1
    assert fleet_groups.check_groups(found) == []
    said = network_file.say_decided(facts, {**GROUPS, "worker": {"count": 4}})
    assert said[0].startswith("Of ps fleet_groups sets instance_type t3.large (not ")
    assert said[-1] == "Of worker fleet_groups sets count 4 (not 2), which wins."
    assert any(line.startswith("Of worker it decides instance_type ") for line in said)
    assert fleet_groups.filled("ps", facts["groups"]) == "ps", "to be refused"


def test_groups_without_counts_are_of_a_network_only() -> None:
    half = {"ps": {"instance_type": "t3.large"}}
    assert fleet_groups.check_groups(half, partial=True) == []
    assert fleet_groups.check_groups(half) == ["fleet_groups.ps has no count: set how many hosts it has."]
    assert "unknown key 'cout'" in fleet_groups.check_groups({"ps": {"cout": 1}}, partial=True)[0]
    assert "count is '-1'" in "".join(fleet_groups.check_groups({"ps": {"count": "-1"}}, partial=True)).replace(
        "is -1", "is '-1'"
    )


def test_steps_and_batches_may_be_the_files() -> None:
    needed = {"job": "x", "training_scheme": "estimator", "training_sync": False}
    urls = {"dataset_source": "s3://data/x/", "store_target": "s3://models/x/"}
    assert variables.check_needed({**needed, **urls, "training_network": "n.yml"}) == []
    assert [line.split()[0] for line in variables.check_needed({**needed, **urls})] == [
        "training_max_steps",
        "training_batch_size",
    ]


@pytest.mark.parametrize(
    ("text", "data", "words"),
    [
        (
            "network:\n  classes: 10\n  layers: [dence: 1]\n",
            "",
            "line 3: network.layers 1 has no key dence: did you mean",
        ),
        (
            RESNET,
            manifest(image={"shape": [1, 8, 8], "dtype": "uint8"}, label={"classes": 3}),
            "the data set has 3 classes",
        ),
        (
            "network: {input: {columns: [age, size]}, classes: 2, layers: []}\n",
            manifest(age={"dtype": "float32"}, label={"classes": 2}),
            "doesn't describe the columns of the network's file and labels (see 'size'; there are the columns age)",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, data: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "n.yml"
    file.write_text(text)
    facts, (problem,) = network_file.judge(str(ROOT), str(file), data)
    assert facts is None and problem.startswith("training_network: ") and words in problem


def test_the_manifest_has_what_the_network_takes() -> None:
    text = manifest(age={"dtype": "float32"}, label={"classes": 2})
    assert dataset_manifest.check_manifest(text, "u", needed=["age", "label"])[1] == []
    assert "no features image and label, which the network needs" in dataset_manifest.check_manifest(text, "u")[1][0]


def test_memory() -> None:
    facts: Any = {"memory": 6 * 2**30, "batch_size": 128}
    assert network_file.check_memory(facts, "worker", "t3.large", 8192, 1) == []
    (problem,) = network_file.check_memory(facts, "worker", "t3.large", 8192, 2)
    assert "needs 12.9 GB, and fleet_groups.worker.instance_type t3.large has 8.6 GB of memory" in problem


def test_the_preflight_takes_what_the_file_decides(tmp_path: Path) -> None:
    file = tmp_path / "n.yml"
    file.write_text(RESNET + "fleet: {ps: {count: 3, instance_type: m5.large}}\n")
    parameters = {"root": str(ROOT), "network": str(file), "groups": {"worker": {"count": 1}}}
    preflight = Preflight(parameters)
    preflight.network_file()
    assert preflight.problems == [] and preflight.p["groups"]["ps"] == {"count": 3, "instance_type": "m5.large"}
    assert preflight.p["groups"]["worker"]["count"] == 1 and preflight.p["groups"]["chief"]["count"] == 1
    said = preflight.result["network"]
    assert "7,960 parameters" in said[0] and "Of ps it decides count 3 and instance_type m5.large." in said
    preflight = Preflight({**parameters, "network": str(tmp_path / "nowhere.yml")})
    preflight.network_file()
    assert "nowhere.yml can't be read" in preflight.problems[0]


def test_the_script_finds_files_from_where_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "n.yml").write_text(RESNET)
    done = subprocess.run(
        [ROOT / "scripts/network", "n.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "7,960 parameters" in done.stdout, done.stderr
    (tmp_path / "n.yml").write_text("network: 1\n")
    done = subprocess.run(
        [ROOT / "scripts/network", "n.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "n.yml, line 1: network is 1: write a mapping" in done.stderr
