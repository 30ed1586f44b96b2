"""What a fleet may be, and what has to be done to make it so."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import (
    access_policy,
    dataset_manifest,
    fleet_groups,
    images,
    lifetime,
    naming,
    networking,
    reconcile,
    regions,
    s3_urls,
    sizing,
    variables,
)

from tests.support.commands import ROOT

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.timezone.utc)
SMALL = {"count": 1, "instance_type": "t3.large"}
MANIFESTS = json.loads((ROOT / "tests/support/manifests.json").read_text())
LISTINGS = json.loads((ROOT / "tests/support/listings.json").read_text())
FEATURES = MANIFESTS["good"]["features"]


def groups(**changes: Any) -> dict[str, Any]:
    """The groups of a small fleet, changed; None leaves a group out."""
    every = {"ps": SMALL, "chief": SMALL, "worker": {**SMALL, "count": 2}, **changes}
    return {name: group for name, group in every.items() if group is not None}


def one(problems: list[str], *words: str) -> None:
    """There is one problem, a sentence with these words."""
    assert len(problems) == 1, problems
    for word in words:
        assert word in problems[0]
    assert problems[0][-1] in ".?" and "\n" not in problems[0]


@pytest.mark.parametrize("name", ["a", "demo", "my-fleet-2", "a" * 32])
def test_good_names(name: str) -> None:
    assert naming.check_name(name) == []


@pytest.mark.parametrize("name", ["", "Demo", "2fast", "-a", "a-", "a_b", "a.b", "a" * 33, "ä"])
def test_bad_names(name: str) -> None:
    one(naming.check_name(name), "fleet_name")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (groups(ps=None), ["no parameter server"]),
        (groups(ps={**SMALL, "count": 0}), ["no parameter server"]),
        (groups(chief=None), ["no chief"]),
        (groups(chief={**SMALL, "count": 2}), ["2 chiefs"]),
        (groups(chief={"count": 0}, evaluator=SMALL), ["an evaluator, but no chief"]),
        (groups(worker={**SMALL, "count": -1}), ["worker", "negative"]),
        (groups(worker={**SMALL, "count": "two"}), ["worker", "'two'"]),
        (groups(worker={**SMALL, "count": 1.5}), ["worker", "1.5"]),
        (groups(worker={**SMALL, "count": True}), ["worker", "True"]),
        (groups(worker={"instance_type": "t3.large"}), ["worker has no count"]),
        (groups(worker={"count": 1}), ["worker has no instance_type"]),
        (groups(worker=3), ["worker must have"]),
        (groups(workers=SMALL), ["'workers'", "did you mean worker?"]),
        (groups(worker={**SMALL, "type": "x"}), ["'type'"]),
        (groups(worker={**SMALL, "volume_size": "big"}), ["volume_size", "'big'"]),
        (groups(evaluator={**SMALL, "count": 2}), ["at most one evaluator"]),
        (groups(worker={**SMALL, "tasks": 0}), ["worker.tasks is '0'", "at least 1"]),
        (groups(chief={**SMALL, "tasks": "many"}), ["chief.tasks is 'many'"]),
        (groups(worker={**SMALL, "tasks": 1.5}), ["worker.tasks is '1.5'"]),
        (groups(ps={**SMALL, "tasks": 2}), ["ps.tasks", "only hosts of chief and worker"]),
        (groups(evaluator={**SMALL, "tasks": 2}), ["evaluator.tasks", "only hosts of chief and worker"]),
        ([1], ["mapping"]),
    ],
)
def test_bad_groups(wanted: Any, words: list[str]) -> None:
    one(fleet_groups.check_groups(wanted), *words)


def test_a_fleet_for_inference_alone_has_no_chief() -> None:
    wanted = groups(chief={"count": "0"})
    assert fleet_groups.check_groups(wanted) == []
    assert list(fleet_groups.wanted_groups(wanted)) == ["ps", "worker"]
    one(variables.check_needed({"fleet_groups": wanted}), "no chief to train", "inference.yml")


def test_good_groups() -> None:
    wanted = groups(worker={"count": "0"}, evaluator={"enabled": False})
    assert fleet_groups.check_groups(wanted) == []
    assert {name: group["count"] for name, group in fleet_groups.wanted_groups(wanted).items()} == {"ps": 1, "chief": 1}


@pytest.mark.parametrize(
    ("hours", "word"), [(0, "past"), (-1, "past"), ("soon", "number"), (169, "168"), (None, "number"), ("nan", "past")]
)
def test_bad_expiry(hours: Any, word: str) -> None:
    one(lifetime.check_expiry(hours), word)


def test_expiry_counts_from_the_first_launch_and_stays() -> None:
    assert lifetime.expiry(4, NOW, [], []) == ("2026-11-21T16:00:00Z", [])
    # The second run, a minute later: the launch came some seconds after the tag was computed.
    launch = NOW + datetime.timedelta(seconds=40)
    assert (
        lifetime.expiry(4, NOW + datetime.timedelta(minutes=1), [launch], ["2026-11-21T16:00:00Z"])[0]
        == "2026-11-21T16:00:00Z"
    )
    # More hours move it.
    assert lifetime.expiry(6, NOW, [NOW], ["2026-11-21T16:00:00Z"])[0] == "2026-11-21T18:00:00Z"
    # A tag that is left over from an earlier fleet of that name doesn't count.
    assert lifetime.expiry(4, NOW, [], ["2026-11-21T16:05:00Z"])[0] == "2026-11-21T16:00:00Z"
    one(lifetime.expiry(4, NOW, [NOW - datetime.timedelta(hours=5)], [])[1], "past")


def test_a_stop_and_start_is_no_first_launch() -> None:
    first, later = NOW - datetime.timedelta(hours=3), NOW - datetime.timedelta(minutes=1)
    instance = {
        "InstanceId": "i-1",
        "InstanceType": "t3.large",
        "State": {"Name": "running"},
        "LaunchTime": later,  # AWS says the last start
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeId": "vol-1", "AttachTime": first}}],
        "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "Attachment": {"AttachTime": first}}],
    }
    launched = reconcile.simplify(instance)["launched"]
    assert lifetime.expiry(4, NOW, [launched], ["2026-11-21T13:00:00Z"]) == ("2026-11-21T13:00:00Z", [])
    one(lifetime.expiry(2, NOW, [launched], [])[1], "past")
    assert reconcile.simplify({**instance, "BlockDeviceMappings": [], "NetworkInterfaces": []})["launched"] == later


@pytest.mark.parametrize("source", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "10.0.0.1/0"])
def test_the_world_wants_a_yes(source: str) -> None:
    one(networking.check_sources([source], False), "fleet_ssh_open_to_world")
    assert networking.check_sources([source], True) == []


def test_sources() -> None:
    assert networking.check_sources(["203.0.113.7", "10.0.0.0/8", "2001:db8::/32"], False) == []
    assert networking.cidrs(["203.0.113.7", "203.0.113.7/32", "10.1.2.3/8"]) == ["203.0.113.7/32", "10.0.0.0/8"]
    one(networking.check_sources(["home"], False), "'home'")
    one(networking.check_ip_versions(["2001:db8::1", "2001:db8:1::/48"]), "IPv6 only", "add the IPv4 address")
    assert networking.check_ip_versions(["2001:db8::1", "203.0.113.7"]) == networking.check_ip_versions([]) == []


@pytest.mark.parametrize(
    ("vpc", "subnet", "cidr", "hosts", "words"),
    [
        ("vpc-1", "", "", 3, ["fleet_subnet_id isn't"]),
        ("", "subnet-1", "", 3, ["fleet_vpc_id isn't"]),
        ("", "", "10.77.0.0", 3, ["10.77.0.0"]),
        ("", "", "10.77.0.1/16", 3, ["isn't a network"]),
        ("", "", "10.0.0.0/8", 3, ["/16 to /28"]),
        ("", "", "127.0.0.0/16", 3, ["AWS keeps that network"]),
        ("", "", "169.254.0.0/16", 3, ["AWS keeps that network"]),
        ("", "", "10.77.0.0/28", 12, ["11 addresses for 12 hosts"]),
    ],
)
def test_bad_networks(vpc: str, subnet: str, cidr: str, hosts: int, words: list[str]) -> None:
    one(networking.check_network(vpc, subnet, cidr, hosts), *words)


def test_s3() -> None:
    assert s3_urls.split_folder("s3://bucket/a/b") == ("bucket", "a/b/")
    assert s3_urls.split_folder("s3://bucket//a/") == ("bucket", "a/")
    assert s3_urls.check_folder("s3://bucket/a/", "x") == []
    one(s3_urls.check_folder("s3://CHANGE-ME/a/", "dataset_source"), "dataset_source")
    one(s3_urls.check_folder("bucket/a/", "x"), "s3://bucket/folder/")
    one(s3_urls.check_folder("s3://bucket/", "x"), "no folder")
    one(s3_urls.check_folder("s3://bucket/a*/", "x"), "other characters")
    one(s3_urls.check_folder("s3://bucket/my data/", "x"), "other characters")
    one(s3_urls.check_folder("s3://bucket/a//b/", "x"), "other characters")


def test_addresses() -> None:
    assert networking.check_addresses(True, "", []) == []
    assert networking.check_addresses(False, "vpc-1", ["10.0.0.0/24"]) == []
    one(networking.check_addresses(False, "", ["10.0.0.0/24"]), "fleet_vpc_id")
    one(networking.check_addresses(False, "vpc-1", []), "fleet_ssh_sources")


def test_shrinking() -> None:
    hosts = [{"group": "worker", "index": n, "state": "running"} for n in range(3)]
    assert reconcile.check_shrink(hosts[:2]) == []
    assert reconcile.check_shrink([*hosts[:2], {**hosts[2], "state": "stopped"}]) == []
    one(reconcile.check_shrink(hosts), "worker-0, worker-1, worker-2", "two at a time")


def test_a_fleet_has_one_launcher() -> None:
    ours, theirs = [{"group": "ps", "index": 0}], [{"group": "ps", "index": None}]
    for launcher, own, other in [("ansible", ours, theirs), ("im", theirs, ours)]:
        assert reconcile.check_launcher("demo", launcher, []) == reconcile.check_launcher("demo", launcher, own) == []
        one(reconcile.check_launcher("demo", launcher, other), "the fleet demo is there already", "fleet_name")


def test_types() -> None:
    x86 = {"ProcessorInfo": {"SupportedArchitectures": ["x86_64"]}}

    def gpu(maker: str, name: str) -> dict[str, Any]:
        return {**x86, "GpuInfo": {"Gpus": [{"Manufacturer": maker, "Name": name, "Count": 4}]}}

    assert sizing.check_type("ps", "t3.large", x86) == []
    assert sizing.check_type("worker", "g5.12xlarge", gpu("NVIDIA", "A10G")) == []
    assert sizing.gpus_of(gpu("NVIDIA", "A10G")) == (4, "A10G")
    one(sizing.check_type("worker", "g4ad.xlarge", gpu("AMD", "Radeon Pro V520")), "AMD", "g4dn, g5, g6, p3, p4d or p5")
    one(sizing.check_type("worker", "p6-b200.48xlarge", gpu("NVIDIA", "B200")), "B200")
    # As AWS describes g6f.2xlarge, and as a botocore does that is older than such types
    part = {"Manufacturer": "NVIDIA", "Name": "L4", "Count": 0, "LogicalGpuCount": 1, "GpuPartitionSize": 0.25}
    for described in (part, {key: part[key] for key in ("Manufacturer", "Name", "Count")}):
        info = {**x86, "GpuInfo": {"Gpus": [described]}}
        one(sizing.check_type("chief", "g6f.2xlarge", info), "g6f.2xlarge has a part of a GPU (NVIDIA L4)", "g6")
    one(sizing.check_family("worker", "p2.xlarge"), "K80", "g4dn")
    arm = {"ProcessorInfo": {"SupportedArchitectures": ["arm64"]}}
    one(sizing.check_type("ps", "m7g.large", arm), "arm64", "tensorflow-io")
    one(sizing.check_accelerator("gpu", {"ps": 1, "chief": 0, "worker": 0}), "chief and worker has no GPU")
    one(sizing.check_accelerator("gpu", {"ps": 0, "chief": 0, "worker": 1}), "chief has no GPU")
    assert sizing.check_accelerator("gpu", {"ps": 0, "chief": 1}) == []
    assert sizing.check_accelerator("auto", {"ps": 0, "chief": 0}) == []
    assert [images.image_kind(*args) for args in (("", "auto"), ("T4", "auto"), ("T4", "cpu"), ("V100", "gpu"))] == [
        "cpu",
        "gpu",
        "cpu",
        "gpu_plain",
    ]


def test_tasks() -> None:
    cpu: dict[str, Any] = {"VCpuInfo": {"DefaultVCpus": 8}}
    gpu = {**cpu, "GpuInfo": {"Gpus": [{"Manufacturer": "NVIDIA", "Name": "T4", "Count": 4}]}}
    for group, wanted, info, accelerator, tasks in [
        ("worker", 0, cpu, "auto", 1),
        ("worker", 8, cpu, "auto", 8),
        ("chief", 0, gpu, "auto", 4),
        ("chief", 1, gpu, "gpu", 1),
        ("chief", 0, gpu, "cpu", 1),
        ("chief", 8, gpu, "cpu", 8),
        ("ps", 0, gpu, "auto", 1),
    ]:
        assert sizing.pick_tasks(group, wanted, "x", info, accelerator) == (tasks, [])
    one(sizing.pick_tasks("worker", 5, "g4dn.12xlarge", gpu, "auto")[1], "tasks is 5", "g4dn.12xlarge has 4 GPUs")
    one(sizing.pick_tasks("worker", 9, "c5.2xlarge", cpu, "auto")[1], "tasks is 9", "c5.2xlarge has 8 vCPUs")


@pytest.mark.parametrize(
    ("source", "name", "user", "words"),
    [
        ("/aws/service/debian/release/12/latest/amd64", "debian-12-amd64-20261101", "admin", ""),
        ("/aws/service/canonical/ubuntu/server/22.04/x", "ubuntu-jammy-22.04-amd64-server", "ubuntu", ""),
        ("ami-1", "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101", "ubuntu", ""),
        ("ami-1", "ubuntu/images/hvm-ssd/ubuntu-xenial-16.04-amd64-server", "ubuntu", "16.04"),
        ("ami-1", "debian-11-amd64-20240101", "admin", "Debian 11"),
        ("ami-1", "al2023-ami-2023.5", "", "neither Debian nor Ubuntu"),
    ],
)
def test_systems(source: str, name: str, user: str, words: str) -> None:
    found, reason = images.judge_system(source, {"Name": name})
    assert found == user
    assert words in reason and bool(words) == bool(reason)


def test_manifest() -> None:
    file = {"path": "a", "split": "train", "size": 3, "records": 1, "sha256": "0" * 64, "crc32c": "0" * 8}
    others = [{**file, "path": split, "split": split} for split in ("validation", "eval")]
    good = {"format": "flotilla-dataset/1", "name": "x", "features": FEATURES, "files": [file, *others]}
    manifest, problems = dataset_manifest.check_manifest(json.dumps(good), "s3://b/manifest.json")
    assert problems == []
    sizes = {"a": 3, "validation": 3, "eval": 3, "more": 1}
    assert dataset_manifest.compare(manifest, sizes, "s3://b/") == []
    one(dataset_manifest.compare(manifest, {}, "s3://b/"), "a (and 2 more) isn't there")
    one(dataset_manifest.compare(manifest, {**sizes, "a": 4}, "s3://b/"), "another size")
    for text, word in (
        ("{", "JSON"),
        ("[]", "format"),
        (json.dumps({**good, "format": "x/1"}), "'x/1'"),
        (json.dumps({**good, "files": []}), "no files"),
        (json.dumps({**good, "files": [{"path": "a"}]}), "no crc32c in its file 0"),
        (json.dumps({**good, "files": [file, {**file, "records": "many"}]}), "the records 'many' in its file 1"),
        (json.dumps({**good, "files": others}), "'train'"),
        (json.dumps({**good, "files": [file]}), "'validation'"),
        (json.dumps({**good, "name": 7}), "no name"),
        (json.dumps({**good, "features": {}}), "no features image and label, which the network needs"),
    ):
        one(dataset_manifest.check_manifest(text, "s3://b/manifest.json")[1], word)
    only = json.dumps({**good, "files": [file, others[1]]})
    one(dataset_manifest.check_manifest(only, "s3://b/manifest.json")[1], "'validation'")
    assert dataset_manifest.check_manifest(only, "s3://b/manifest.json", ())[1] == [], "a program may want no more"


def test_a_folder_is_a_data_set_as_it_is() -> None:
    found, problems = dataset_manifest.check_objects(LISTINGS["good"], "d/", "s3://b/d/")
    assert problems == [] and found
    assert found["version"] == LISTINGS["version"], "as on hosts"
    assert (sorted(found["sizes"]), found["folders"]) == ([0, 1, 2, 3, 7], 2)
    for what, objects in LISTINGS["bad"].items():
        found, problems = dataset_manifest.check_objects(objects, "d/", "s3://b/d/")
        assert found is None and len(problems) == 1, what
    names = [{"Key": f"d/{number}:", "Size": 1, "ETag": ""} for number in range(5)]
    _, problems = dataset_manifest.check_objects(names, "d/", "s3://b/d/")
    one(problems, "not to be staged, as HDFS has no names with a colon: rename it, or name a folder without it: '0:'")
    assert problems[0].endswith("'2:' and 2 more.")
    two = [names[0], {"Key": "d/x", "Size": 1, "ETag": "", "StorageClass": "GLACIER"}]
    assert len(dataset_manifest.check_objects(two, "d/", "s3://b/d/")[1]) == 2, "each kind of problem is told"


def manifest_problems(manifest: object) -> list[str]:
    return dataset_manifest.check_manifest(json.dumps(manifest), "s3://b/manifest.json")[1]


def test_manifests_are_judged_as_on_hosts() -> None:
    good = MANIFESTS["good"]
    assert manifest_problems(good) == []
    for what, change in MANIFESTS["bad"].items():
        assert len(manifest_problems({**good, **change})) == 1, what
    for what, change in MANIFESTS["bad files"].items():
        files = [{**good["files"][0], **change}, *good["files"][1:]]
        assert len(manifest_problems({**good, "files": files})) == 1, what


def test_disks() -> None:
    assert sizing.disk_need(0, 3, gpu=False, local_disk=0) == 10
    assert sizing.disk_need(100 * sizing.GIB, 3, gpu=False, local_disk=0) == 130
    assert sizing.disk_need(100 * sizing.GIB, 10, gpu=False, local_disk=0) == 46
    assert sizing.disk_need(100 * sizing.GIB, 2, gpu=False, local_disk=900) == 10
    assert sizing.disk_need(100 * sizing.GIB, 2, gpu=True, local_disk=900) == 145
    assert sizing.pick_disk("ps", 0, 10, 8, 20, gpu=False) == (20, [])
    assert sizing.pick_disk("ps", 0, 130, 8, 20, gpu=False) == (130, [])
    assert sizing.pick_disk("ps", 0, 10, 75, 20, gpu=False) == (75, [])
    assert sizing.pick_disk("ps", 0, 25, 75, 20, gpu=True) == (100, [])
    assert sizing.pick_disk("ps", 15, 10, 8, 20, gpu=False) == (15, [])
    one(sizing.pick_disk("ps", 50, 130, 8, 20, gpu=False)[1], "50 GiB", "need 130")


def test_policy_is_the_least() -> None:
    statements = access_policy.policy("s3://data/cifar10/", "s3://models/out/")["Statement"]
    by_name = {statement["Sid"]: statement for statement in statements}
    assert by_name["Dataset"]["Action"] == ["s3:GetObject"]
    assert by_name["Dataset"]["Resource"] == ["arn:aws:s3:::data/cifar10/*"]
    assert by_name["Model"]["Resource"] == ["arn:aws:s3:::models/out/*"]
    assert not any("Delete" in action or "*" in action for one in statements for action in one["Action"])
    for name in ("ListDataset", "ListModel"):
        assert by_name[name]["Action"] == ["s3:ListBucket"]
        assert "s3:prefix" in by_name[name]["Condition"]["StringLike"]
    assert access_policy.policy("", "")["Statement"] == []


@pytest.mark.parametrize("program", ["", "training/programs/digits.py", "git+https://example.org/s3://x.zip"])
def test_policy_is_the_same_for_programs_elsewhere(program: str) -> None:
    assert access_policy.policy("s3://data/a/", "s3://models/b/", program) == access_policy.policy(
        "s3://data/a/", "s3://models/b/"
    )


def test_policy_allows_a_programs_object_and_no_other() -> None:
    statements = access_policy.policy("s3://data/a/", "s3://models/b/", "s3://code/programs/digits.tar.gz", "aws-cn")[
        "Statement"
    ]
    (program,) = [one for one in statements if "code" in str(one)]
    assert program["Action"] == ["s3:GetObject"]
    assert program["Resource"] == ["arn:aws-cn:s3:::code/programs/digits.tar.gz"]


@pytest.mark.parametrize("kind", ["tar.gz", "tgz", "zip", "py"])
def test_programs_in_s3(kind: str) -> None:
    for key in (f"digits.{kind}", f"a/b=c/digits-1.2+x.{kind}"):
        assert s3_urls.check_program(f"s3://code/{key}") == []
        assert s3_urls.split_program(f"s3://code/{key}") == ("code", key)


@pytest.mark.parametrize(
    "url",
    [
        "s3://code",
        "s3://code/",
        "s3://code/digits",
        "s3://code/digits.rar",
        "s3://code/digits.tar",
        "s3://code/.tar.gz",
        "s3://code/digits.zip/",
        "s3://code//digits.zip",
        "s3://code/*.zip",  # a policy would open more than one object
        "s3://code/${aws:username}.zip",
        "s3://code/my program.zip",
        "s3://Code/digits.zip",
        "s3:///digits.zip",
    ],
)
def test_bad_programs_in_s3(url: str) -> None:
    one(s3_urls.check_program(url), url, "s3://bucket/path/program.tar.gz")


def instance(group: str, index: int | None, state: str = "running", **more: Any) -> dict[str, Any]:
    """An instance as reconcile() sees it."""
    identity = f"i-{group}{index}"
    return {"id": identity, "group": group, "index": index, "state": state, "launched": NOW, "type": "t3.large", **more}


def todo(wanted: dict[str, Any], *instances: dict[str, Any]) -> dict[str, list[Any]]:
    """What reconcile() says, with instances shown by their ids."""
    answer = reconcile.compare(fleet_groups.wanted_groups(wanted), list(instances))
    return {key: [item["id"] if isinstance(item, dict) else item for item in items] for key, items in answer.items()}


def test_reconcile_from_nothing() -> None:
    assert todo(groups()) == {
        "launch": [("ps", 0), ("chief", 0), ("worker", 0), ("worker", 1)],
        "keep": [],
        "start": [],
        "terminate": [],
    }


def test_reconcile_fills_the_gap_and_shrinks_from_the_top() -> None:
    there = [instance("ps", 0), instance("chief", 0), *(instance("worker", n) for n in (1, 2, 3))]
    assert todo(groups(), *there) == {
        "launch": [("worker", 0)],
        "keep": ["i-ps0", "i-chief0", "i-worker1"],
        "start": [],
        "terminate": ["i-worker3", "i-worker2"],
    }


def test_reconcile_doubles_strangers_and_states() -> None:
    later = NOW + datetime.timedelta(seconds=5)
    there = [
        instance("ps", 0, "terminated"),
        instance("ps", 0, "stopped", id="i-asleep"),
        instance("chief", 0, launched=later, id="i-late"),
        instance("chief", 0, "pending", id="i-first"),
        instance("worker", 0, "shutting-down"),
        instance("worker", 1, "stopped", id="i-old"),
        instance("worker", 1, launched=later, id="i-new"),
        instance("", None, id="i-stranger"),
    ]
    assert todo(groups(), *there) == {
        "launch": [("worker", 0)],
        "keep": ["i-asleep", "i-first", "i-new"],
        "start": ["i-asleep"],
        "terminate": ["i-stranger", "i-late", "i-old"],
    }


def test_a_running_host_keeps_its_type() -> None:
    wanted = fleet_groups.wanted_groups(groups(ps={"count": 1, "instance_type": "m5.large"}))
    one(reconcile.check_swaps(wanted, [instance("ps", 0), instance("chief", 0)]), "ps-0 runs as t3.large", "m5.large")


def test_client_token() -> None:
    first = reconcile.client_token("demo", "worker", 0, "subnet-1", [])
    assert first == reconcile.client_token("demo", "worker", 0, "subnet-1", [])
    assert len(first) <= 64  # AWS's limit
    others = {
        reconcile.client_token("demo", "worker", 1, "subnet-1", []),
        reconcile.client_token("demo", "worker", 0, "subnet-1", ["i-1"]),
        reconcile.client_token("demo", "worker", 0, "subnet-2", []),
        reconcile.client_token("demo2", "worker", 0, "subnet-1", []),
    }
    assert len(others | {first}) == 5


def test_hints() -> None:
    assert sizing.near_types("t3.larg", ["t3.large", "p4d.24xlarge"]) == "did you mean t3.large?"
    one(regions.unknown_region("us-east1", ["us-east-1", "eu-west-1"]), "did you mean us-east-1")
    assert regions.unknown_region("eu-west-1", ["eu-west-1"]) == []
    one(regions.check_region("the moon"), "the moon")
