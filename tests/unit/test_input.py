"""Bad input is one sentence before a host is touched: variables' names, kinds and values, the locale, the checkout."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.flotilla.kit.plugins.action.check_variables import known, written
from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    dataset_manifest,
    fleet_groups,
    networking,
    regions,
    variables,
)
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.support.commands import ROOT, user_environment, user_runs

GOOD = {
    "fleet_name": "demo",
    "fleet_groups": {
        "ps": {"count": 1, "instance_type": "t3.large"},
        "chief": {"count": 1, "instance_type": "t3.large"},
        "worker": {"count": 1, "instance_type": "t3.large"},
    },
    "dataset_source": "s3://bucket/data/",
    "store_target": "s3://bucket/models/",
    "job": "cifar10",
    "training_max_steps": 400,
    "training_batch_size": 128,
    "training_scheme": "estimator",
    "training_sync": False,
}


def said(problems: list[str], *words: str) -> None:
    """There is one problem, a sentence with these words."""
    assert len(problems) == 1, problems
    assert all(word in problems[0] for word in words), problems
    assert problems[0][-1] in ".?" and "\n" not in problems[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("traning_max_steps", "did you mean training_max_steps?"),
        ("training-max-steps", "did you mean training_max_steps?"),
        ("Job", "did you mean job?"),
        ("flet_name", "did you mean fleet_name?"),
        ("datset_source", "did you mean dataset_source?"),
        ("node_expire", "did you mean node_expires?"),
        ("fleet_colour_scheme", "don't begin with fleet_"),
    ],
)
def test_a_variable_that_nobody_knows(name: str, words: str) -> None:
    for names, typed in (([name], []), ([], [name])):
        said(variables.check_names(names, typed, known()), f"There is no variable {name}", words)


def test_a_name_without_its_prefix_is_a_slip_where_it_is_typed() -> None:
    said(variables.check_names(["region"], ["region"], known()), "did you mean fleet_region?")
    assert variables.check_names(["region", "node_exporter_port", "_mine", "ansible_user"], [], known()) == []


def test_every_variable_that_there_is_is_known() -> None:
    files = [ROOT / "inventories" / kind / "group_vars/all.yml" for kind in ("aws", "lab")]
    names = {name for file in files for name in yaml.safe_load(file.read_text())}
    names |= {name for file in files for name in re.findall(r"^# ([a-z]+_\w+): ", file.read_text(), re.MULTILINE)}
    names |= {
        name for file in ROOT.glob("roles/*/defaults/main.yml") for name in yaml.safe_load(file.read_text()) or {}
    }
    (play,) = yaml.safe_load((ROOT / "playbooks/radl.yml").read_text())
    names |= {name for name in play["vars"] if not name.startswith(("_", "ansible_"))}
    assert {"hdfs_replication", "hdfs_namenode", "training_job", "radl_collection", "fleet_tags"} < names | set(known())
    assert names - set(known()) == set()


def test_every_playbook_looks_first() -> None:
    for file in sorted((ROOT / "playbooks").glob("*.yml")):
        first = yaml.safe_load(file.read_text())[0]
        tasks = [*first.get("pre_tasks", []), *first.get("tasks", [])]
        assert "flotilla.kit.check_variables" in tasks[0], file.name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hdfs_replication", "three", ["'three'", "whole number"]),
        ("hdfs_replication", True, ["whole number"]),
        ("hdfs_replication", 2.5, ["whole number"]),
        ("hdfs_namenode_heap_mb", "1g", ["'1g'", "whole number"]),
        ("hdfs_datanode_heap_mb", -1, ["-1", "from 0 on"]),
        ("fleet_timeout", -1, ["-1", "from 0 on"]),
        ("fleet_public_addresses", "perhaps", ["'perhaps'", "true or false"]),
        ("fleet_accelerator", "tpu", ["'tpu'", "auto, cpu or gpu"]),
        ("training_scheme", "keras", ["estimator or session"]),
        ("training_precision", "half", ["float32, bfloat16 or auto"]),
        ("training_program", ["main.py"], ["give text"]),
        ("training_program", {"file": "main.py"}, ["give text"]),
        ("fleet_owner", True, ["truth value", "quotes"]),
        ("hdfs_site", "x", ["which is text", "a mapping"]),
        ("training_arguments", "--lr 1", ["which is text", "a list"]),
        ("training_environment_files", {"a": 1}, ["a list"]),
        ("store_mirror_minutes", "ten", ["'ten'", "number of minutes"]),
        ("store_mirror_minutes", -5, ["number of minutes"]),
        ("store_mirror_minutes", 1e9, ["at most 10080"]),
        ("training_minutes", "two", ["'two'", "number of minutes", "0 for all training_max_steps"]),
        ("training_minutes", -2, ["number of minutes"]),
        ("training_minutes", True, ["number of minutes"]),
        ("training_minutes", 1e9, ["at most 10080"]),
        ("training_max_steps", "1e9", ["'1e9'", "whole number of steps"]),
        ("training_max_steps", 1e9, ["whole number of steps"]),
        ("training_max_steps", -1, ["at least 1"]),
        ("training_max_steps", 10**30, ["at most"]),
        ("training_batch_size", 0, ["images, at least 1"]),
        ("training_watchdog_secs", 2, ["'2'", "whole number of seconds, at least 5"]),
        ("training_environment", "A=1", ["training_environment", "mapping"]),
        ("training_environment", {"A-B": "1"}, ["'A-B'", "letters, digits and underscores"]),
        ("training_environment", {"AWS_PROFILE": "1"}, ["sets AWS_PROFILE", "leave it out"]),
        ("training_environment", {"TF_CONFIG": "{}"}, ["sets TF_CONFIG"]),
        ("training_environment", {"A": ["x"]}, ["training_environment.A is no text"]),
        ("fleet_expiry_hours", "4h", ["'4h'", "number of hours"]),
        ("fleet_expiry_hours", True, ["number of hours"]),
        ("fleet_volume_size", 10**6, ["at most 16384"]),
        ("fleet_groups", "ps chief", ["mapping"]),
        ("fleet_region", "us-east-1 ", ["isn't a region's name"]),
        ("fleet_name", "größe", ["fleet_name"]),
        ("fleet_ssh_key", "", ["is empty", "name a private key's file"]),
        ("fleet_ssh_sources", None, ["is empty", "leave it out"]),
        ("fleet_ssh_key", None, ["is empty"]),
        ("fleet_groups", None, ["is empty"]),
        ("fleet_schedule", None, ["is empty"]),
        ("fleet_tags", None, ["is empty"]),
        ("fleet_tags", "team=blue", ["which is text", "a mapping"]),
        ("fleet_tags", {"cost-center": 1234}, ["the value 1234", "quotes"]),
        ("fleet_tags", {"on": True}, ["the value True", "quotes"]),
        ("fleet_tags", {True: "on"}, ["the key True", "quotes"]),
        ("fleet_tags", {"": "x"}, ["a key of 0 characters", "1 to 127"]),
        ("fleet_tags", {"k" * 128: "x"}, ["a key of 128 characters", "1 to 127"]),
        ("fleet_tags", {"k": "v" * 257}, ["a value of 257 characters", "0 to 256"]),
        ("fleet_tags", {"k": "a,b"}, ["the value 'a,b'", "letters, digits, spaces"]),
        ("fleet_tags", {"Name": "x"}, ["the key Name", "the kit's own"]),
        ("fleet_tags", {"Flotilla-Fleet": "x"}, ["the key Flotilla-Fleet", "the kit's own"]),
        ("fleet_tags", {"AWS:x": "x"}, ["the key AWS:x", "AWS's"]),
        ("fleet_tags", {"Team": "a", "team": "a"}, ["Team and team", "IAM"]),
        ("fleet_tags", {str(number): "x" for number in range(42)}, ["42 tags", "at most 41"]),
        ("training_program", None, ["is empty"]),
        ("fleet_vpc_id", None, ["is empty"]),
        ("fleet_endpoint_url", "banana", ["isn't a server's address"]),
    ],
)
def test_a_value_of_the_wrong_kind(name: str, value: Any, words: list[str]) -> None:
    said(variables.check_values({name: value}, known()), name, *words)


def test_good_values() -> None:
    more = {
        "hdfs_replication": "2",
        "fleet_profile": None,
        "fleet_ssh_sources": "10.0.0.1",
        "store_mirror_minutes": "0.5",
        "training_minutes": "2.5",
    }
    assert variables.check_values(GOOD | more, known()) + variables.check_needed(GOOD) == []


def test_synchronous_training_takes_two() -> None:
    alone = {**GOOD["fleet_groups"], "worker": {"count": 0}}  # type: ignore[dict-item]
    changed = GOOD | {"training_sync": "yes"}
    assert variables.check_values(changed, known()) == []
    said(variables.check_values(changed | {"fleet_groups": alone}, known()), "the chief trains alone")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_source": ""}, ["dataset_source is empty"]),
        ({"store_target": None}, ["store_target is empty"]),
        ({"dataset_source": "s3://CHANGE-ME/cifar10/"}, ["dataset_source is still", "CHANGE-ME"]),
        ({"store_target": "s3://bucket"}, ["store_target", "no folder"]),
        ({"store_target": "s3://bucket/my models/"}, ["other characters"]),
        ({"store_target": "s3://bucket/models/ "}, ["has a space, // or .. in it"]),
        ({"store_target": "s3://bucket//models/"}, ["has a space, // or .. in it"]),
        ({"store_target": "s3://bucket/data/../models"}, ["has a space, // or .. in it"]),
        ({"store_target": "s3://bucket/möbel/"}, ["other characters"]),
        ({"store_target": "s3://bucket/data"}, ["the same folder"]),
        ({"store_target": "s3://bucket/data/models/"}, ["inside"]),
        ({"store_target": "s3://bucket/dat", "dataset_source": "s3://bucket/dat/a/"}, ["a folder around"]),
        ({"job": None}, ["job isn't set"]),
        ({"training_max_steps": None}, ["training_max_steps isn't set"]),
    ],
)
def test_what_a_training_needs(changes: dict[str, Any], words: list[str]) -> None:
    said(variables.check_needed(GOOD | changes), *words)


INFERENCE = {"infer_model": "s3://abc/models/x/", "infer_source": "s3://abc/photos/", "infer_target": "s3://abc/out/"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"infer_model": "hdfs://ps-0:8020/jobs/x/model", "infer_most_broken": 0.5}, []),
        ({"infer_model": ""}, ["infer_model isn't set: give it on the command line"]),
        ({"infer_source": "s3://CHANGE-ME/x/"}, ["infer_source is still"]),
        ({"infer_source": "photos"}, ["infer_source"]),
        ({"infer_target": "s3://bucket"}, ["infer_target", "no folder"]),
        ({"infer_target": "hdfs://ps-0:8020/out"}, ["infer_target"]),
        ({"infer_target": "s3://abc/photos/out/"}, ["infer_target s3://abc/photos/out/ is inside infer_source"]),
        ({"infer_program": "no/such.py"}, ["infer_program is no/such.py: there is no such file"]),
        ({"infer_most_broken": 10}, ["give a share from 0 to 1"]),
    ],
)
def test_what_an_inference_needs(changes: dict[str, Any], words: list[str]) -> None:
    problems = variables.check_inference(INFERENCE | changes)
    assert bool(problems) == bool(words)
    if words:
        said(problems, *words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sweep": "sweeps/iris.yml"}, []),
        ({}, []),
        ({"store_target": ""}, ["store_target isn't set: give the folder in S3 for what sweeps store"]),
        ({"sweep": "no/such.yml"}, ["sweep is no/such.yml: there is no such file"]),
        ({"sweep": "sweeps/iris.yml", "sweep_target": "s3://bucket"}, ["sweep_target", "no folder"]),
    ],
)
def test_what_a_sweep_needs(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], words: list[str]) -> None:
    monkeypatch.setenv("PWD", str(Path(__file__).parents[2]))
    problems = variables.check_sweep({"store_target": "s3://bucket/models/", **values})
    assert bool(problems) == bool(words)
    if words:
        said(problems, *words)


def test_folders_beside_one_another() -> None:
    for target in ("s3://bucket/data2/", "s3://other/data/"):
        assert variables.check_needed(GOOD | {"store_target": target}) == []


@pytest.mark.parametrize("job", ["a", "2024_11_28", "0123", "yes", "1e3", "null", 20261127])
def test_a_job_may_be_called(job: Any) -> None:
    assert variables.check_job(job, str(job)) == []


@pytest.mark.parametrize("job", [True, False, 1.5, "True", "a/b", "a b", "a\n", "ä", "a\t", "", "-a", "a" * 65, [1]])
def test_a_job_may_not_be_called(job: Any) -> None:
    said(variables.check_job(job), "job")


@pytest.mark.parametrize("text", ["2024_11_28", "0123", "0x1F", "1:30"])
def test_a_job_that_yaml_has_changed_is_found_out(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.context.CLIARGS", {"extra_vars": ()})
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(f"job: {text}\n")
    value = yaml.safe_load(f"job: {text}")["job"]
    assert isinstance(value, int) and written("job", str(tmp_path)) == text
    said(variables.check_job(value, written("job", str(tmp_path))), text, "in quotes")
    # What is typed comes first, and as key=value nothing is changed.
    for typed, found in ((f'{{"job": {text}}}', text), ("job=x", None), ("other=1", text), ('{"job": 5}', "5")):
        monkeypatch.setattr("ansible.context.CLIARGS", {"extra_vars": (typed,)})
        assert written("job", str(tmp_path)) == found


@pytest.mark.parametrize("source", ["3.0.0.0/8", "203.0.0.0/15", "0.0.0.0/0", "0.0.0.0/8", "::/0", "2600::/31"])
def test_a_network_as_wide_as_the_world(source: str) -> None:
    said(networking.check_sources([source], False), source, "opens SSH to the world", "fleet_ssh_open_to_world")
    assert networking.check_sources([source], True) == []


@pytest.mark.parametrize(
    "source", ["203.0.0.0/16", "203.0.113.7", "10.0.0.0/8", "172.16.0.0/12", "2001:db8::/32", "fd00::/8"]
)
def test_a_network_that_may_use_ssh(source: str) -> None:
    assert networking.check_sources([source], False) == []


@pytest.mark.parametrize(
    "url", ["", "http://198.18.0.1:5000", "https://s3.example.org/", "http://[::1]:5000", "http://moto"]
)
def test_an_endpoint(url: str) -> None:
    assert regions.check_endpoint(url) == []


@pytest.mark.parametrize(
    "url",
    [
        "banana",
        "s3://x",
        "http://",
        "http://a/b",
        "http://a:70000",
        "http://a:0",
        "http://a'b",
        "http://a b",
        "http://a\n",
    ],
)
def test_no_endpoint(url: str) -> None:
    said(regions.check_endpoint(url), "fleet_endpoint_url")


def test_a_batch_larger_than_the_data_set() -> None:
    files = [{"split": "train", "records": 60}, {"split": "train", "records": 40}, {"split": "eval", "records": 900}]
    assert (
        dataset_manifest.check_batch(100, {"files": files}, "s3://b/d/")
        == dataset_manifest.check_batch(0, {"files": []}, "")
        == []
    )
    said(dataset_manifest.check_batch(101, {"files": files}, "s3://b/d/"), "training_batch_size is 101", "100 examples")


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"enabled": "no"}, ["enabled is 'no'", "true or false"]),
        ({"count": 1, "instance_type": "t3 large"}, ["instance_type is 't3 large'"]),
        ({"count": 1, "instance_type": "t3.large", "image": "ami'"}, ["image"]),
        ({"count": 1, "instance_type": "t3.large", "ssh_user": "a b"}, ["ssh_user is 'a b'"]),
    ],
)
def test_a_group_that_can_not_be(group: dict[str, Any], words: list[str]) -> None:
    groups = {**GOOD["fleet_groups"], "evaluator": group}  # type: ignore[dict-item]
    said(fleet_groups.check_groups(groups), "fleet_groups.evaluator", *words)


def test_a_web_page_is_no_message() -> None:
    page = "<!doctype html>\n<html lang=en><title>500 Internal Server Error</title></html>"
    assert aws.message(ClientError({"Error": {"Message": page}}, "X")) == "the answer is a web page"
    assert aws.message(ValueError(f"invalid XML received:\nb'{page}'")) == "invalid XML received"
    assert aws.message(ValueError("a < b.")) == "a < b"


def test_what_only_aws_can_read_is_no_message() -> None:
    words = "You are not authorized to perform this operation. Encoded authorization failure message: AbCd"
    error = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": words}}, "CreateVpc")  # type: ignore[typeddict-item]
    assert aws.message(error) == "You are not authorized to perform this operation"


@pytest.mark.parametrize(
    ("region", "words"), [("mars-east-1", "isn't a region of AWS"), ("us-east-7", "did you mean us-east-")]
)
def test_a_region_that_is_not_there(region: str, words: str) -> None:
    """Whatever is asked, the sentence is about the region; AWS's own answer comes first where there is one."""
    connection = aws.Aws(region, attempts=1)
    said([connection.why(EndpointConnectionError(endpoint_url="https://ec2"), "list the instances")], region, words)
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "X")
    said([connection.why(denied, "list the instances")], "may not list the instances")
    said([aws.Aws("us-east-1").why(EndpointConnectionError(endpoint_url="https://ec2"), "look")], "doesn't answer")


def plays(tmp_path: Path, playbook: str, *options: str) -> str:
    """What a playbook prints, run for hosts that nobody reaches; it must end with an error."""
    inventory = tmp_path / "hosts.yml"
    hosts = {f"{group}-0": {"ansible_host": "192.0.2.1"} for group in ("ps", "chief", "worker")}
    children = {name.removesuffix("-0"): {"hosts": {name: its}} for name, its in hosts.items()}
    inventory.write_text(json.dumps({"all": {"vars": GOOD, "children": {"fleet": {"children": children}}}}))
    environment = {**user_environment(), "ANSIBLE_INVENTORY_ENABLED": "yaml", "ANSIBLE_TIMEOUT": "3"}
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), playbook, *options],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("playbook", "options", "words"),
    [
        ("playbooks/hdfs.yml", ["-e", "hdfs_replicaton=2"], "did you mean hdfs_replication?"),
        ("playbooks/stage.yml", ["-e", "dataset_source="], "dataset_source is empty"),
        ("playbooks/train.yml", ["-e", '{"job": 0123, "training_batch_size": 1}'], "job is written 0123"),
        ("playbooks/stop.yml", ["-e", "training_max_steps 100"], "sets no variable"),
    ],
)
def test_a_playbook_by_itself(playbook: str, options: list[str], words: str, tmp_path: Path) -> None:
    output = plays(tmp_path, playbook, *options)
    assert words in output and "couldn't be reached" not in output


def test_a_right_variable_goes_through(tmp_path: Path) -> None:
    options = ["-e", '{"hdfs_replication": 2, "job": 20261127, "mine": 1}', "-e", "training_precision=auto"]
    assert "couldn't be reached" in plays(tmp_path, "playbooks/stage.yml", *options)


def test_a_locale_that_is_not_there(tmp_path: Path) -> None:
    """The environment's programs, and those that the scripts start, take C.UTF-8."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    subprocess.run(["bash", "-c", f". scripts/common.sh; start_well '{folder}'"], cwd=ROOT, check=True)
    ask = (
        "import locale, os; locale.setlocale(locale.LC_ALL, ''); print(os.environ.get('LC_ALL'), locale.getlocale()[1])"
    )
    plain = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k != "LANG"}
    for change in ({"LC_ALL": "xx_YY.UTF-8"}, {"LANG": "xx_YY.UTF-8"}, {"LC_ALL": "C"}, {"LC_TIME": "xx_YY.UTF-8"}):
        done = subprocess.run([folder / "bin/python", "-c", ask], env=plain | change, capture_output=True, text=True)
        assert done.stdout.split() == ["C.UTF-8", "UTF-8"], done.stderr
    done = subprocess.run(
        [folder / "bin/python", "-c", ask], env=plain | {"LANG": "C.UTF-8"}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["None", "UTF-8"], "a locale that is there stays"
    done = subprocess.run(
        ["bash", "-c", ". scripts/common.sh; echo $LC_ALL"], cwd=ROOT, env=plain | {"LC_ALL": "xx_YY.UTF-8"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "C.UTF-8\n"


def test_a_checkout_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").touch()
    (tmp_path / "ansible-playbook").write_text(f"exec(open({str(ROOT / 'scripts/start.py')!r}).read()); print('runs')")
    run = [sys.executable, str(tmp_path / "ansible-playbook")]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, text=True).stdout == "runs\n"
    tmp_path.chmod(tmp_path.stat().st_mode | stat.S_IWOTH)
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and f"chmod o-w '{tmp_path}'" in done.stderr and done.stdout == ""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/common.sh").write_text((ROOT / "scripts/common.sh").read_text())
    done = subprocess.run(["bash", "-c", f". '{tmp_path}/scripts/common.sh'"], capture_output=True, text=True)
    assert done.returncode == 1 and f"chmod o-w '{tmp_path}'" in done.stderr


def test_radl_holds_values_as_text() -> None:
    """In what becomes YAML on the hosts, each value is JSON, a whole number, or true or false."""
    text = (ROOT / "playbooks/templates/infrastructure.radl.j2").read_text()
    blocks = text[text.index("configure collection") : text.index("deploy ")]
    values = re.findall(r"(?<!')\[\[ (.+?) \]\]", blocks)  # 'PATH' is file: of what check_variables and radl.yml allow
    assert len(values) > 30
    bare = [
        one for one in values if not re.search(r"\| (to_json|int|bool \| lower|ansible\.builtin\.vault\(\w+\))$", one)
    ]
    assert bare == []


@pytest.mark.parametrize(("option", "name"), [("job=2024_11_28", "2024_11_28"), ('{"job": 20261127}', "20261127")])
def test_radl_holds_a_job_as_it_is_called(option: str, name: str, tmp_path: Path) -> None:
    """Read as the Infrastructure Manager and its Ansible read it."""
    file = tmp_path / "job.radl"
    user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", "fleet_name=demo", "-e", "radl_example=true", "-e", f"radl_file={file}", "-e", option,
    )  # fmt: skip
    ask = (
        "import json, sys; from radl import radl_parse\n"
        "print(json.dumps([one.recipes for one in radl_parse.parse_radl(sys.argv[1]).configures]))"
    )
    recipes = json.loads(user_runs(str(ROOT / ".venv-im/bin/python"), "-c", ask, str(file)).stdout)
    found = [play for recipe in recipes for play in yaml.safe_load(recipe) if isinstance(play, dict)]
    assert [play["vars"]["job"] for play in found if "job" in play.get("vars", {})] == [name] * 2
    assert f'{{name: "{name}", max_steps: 60000}}' in file.read_text()


@pytest.mark.parametrize("change", [{"radl_collection": "git+https://x'y,v1"}, {"fleet_endpoint_url": "http://x'y"}])
def test_radl_refuses_a_quote(change: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "quote.radl"
    done = user_runs(
        "ansible-playbook", "-i", "localhost,", "-e", "@inventories/aws/group_vars/all.yml", "playbooks/radl.yml",
        "-e", json.dumps({"fleet_name": "demo", "radl_example": True, "radl_file": str(file), **change}), check=False,
    )  # fmt: skip
    assert done.returncode != 0 and next(iter(change)) + " " in done.stdout and not file.exists()
