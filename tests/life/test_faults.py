"""What a fleet survives: killed controllers, killed daemons, corrupted data, a refusing S3. In the order of a life.

This fleet has a host of its own for the evaluator.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
import pytest

from benchmarks.faults import FAULTS, OVER_SECS, TASKS, TRAINERS, run, wait_for
from tests.support.commands import kill_family, user_runs, wait_until
from tests.support.fleet import (
    BUCKET,
    CIFAR10,
    INVENTORY,
    host,
    killed_at,
    killed_when,
    left,
    manifest,
    playbook,
    running,
    variables,
    watch,
)
from tests.support.lab import living

pytestmark = pytest.mark.usefixtures("image")
STEPS = 80
GROUPS = {name: {"count": 1, "instance_type": "t3.large"} for name in ("ps", "chief", "worker", "evaluator")}
# The training is the one from before Estimators, in step; tests/life/test_life.py has the other one.
JOB = {
    "job": "faults",
    "training_max_steps": STEPS,
    "training_batch_size": 32,
    "training_scheme": "session",
    "training_sync": True,
}
ENDLESS = {"job": "endless", "training_max_steps": 1_000_000, "training_scheme": "estimator", "training_sync": False}
OPTIONS = ("-e", json.dumps({"fleet_groups": GROUPS, **JOB}))
UNATTENDED = ("-e", "fleet_name=unattended")
HOSTS = ["test-chief-0", "test-evaluator-0", "test-ps-0", "test-worker-0"]
OBJECT = "cifar10/train-00001-of-00004.tfrecord"


def hosts(region: boto3.Session) -> list[str]:
    """Names of the living instances."""
    found = region.client("ec2").describe_instances(InstanceIds=living(region))["Reservations"]
    return sorted(t["Value"] for r in found for i in r["Instances"] for t in i["Tags"] if t["Key"] == "Name")


@contextlib.contextmanager
def uploads_refused(region: boto3.Session) -> Iterator[None]:
    """S3 takes nothing from the nodes for a while."""
    iam = region.client("iam")
    role = "flotilla-test-us-east-1"  # the nodes'; that of the schedules has its name and more
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"}]}
    iam.put_role_policy(RoleName=role, PolicyName="deny", PolicyDocument=json.dumps(deny))
    try:
        yield
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="deny")


def test_controller_killed_while_provisioning(region: boto3.Session, before: list[str], tmp_path: Path) -> None:
    killed_at(tmp_path, "Make key pair", "playbooks/provision.yml", "-v", *OPTIONS)
    assert left(region) != before
    killed_when(lambda: living(region) != [], tmp_path, "playbooks/provision.yml", *OPTIONS)
    playbook("playbooks/provision.yml", *OPTIONS)
    assert hosts(region) == HOSTS
    vpcs = region.client("ec2").describe_vpcs(Filters=[{"Name": "tag:flotilla-fleet", "Values": ["test"]}])["Vpcs"]
    assert len(vpcs) == 1
    for phase in ("node", "hdfs", "tensorflow"):
        playbook(f"playbooks/{phase}.yml", *OPTIONS)


def test_hosts_that_nobody_sets_up(region: boto3.Session) -> None:
    """They end at their expiry, too, while the next tests run: test_hosts_are_gone_by_themselves_at_their_expiry."""
    playbook("playbooks/provision.yml", *UNATTENDED, "-e", "fleet_baked=never", "-e", "fleet_expiry_hours=0.02")  # 72 s
    assert "unattended-ps-0" in hosts(region)


def test_corrupted_object_stops_before_training(region: boto3.Session) -> None:
    s3 = region.client("s3")
    good = s3.get_object(Bucket=BUCKET, Key=OBJECT)["Body"].read()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=OBJECT, Body=bytes(bad))
    try:
        done = user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/stage.yml", *OPTIONS, check=False)
    finally:
        s3.put_object(Bucket=BUCKET, Key=OBJECT, Body=good)
    assert done.returncode != 0
    assert Path(OBJECT).name in done.stdout
    listing = host("ps-0").check_output(f"sudo -u flotilla hdfs dfs -ls {CIFAR10} {CIFAR10}.staging")
    assert "failed.json" in listing and "verified.json" not in listing
    assert Path(OBJECT).name not in listing


def test_datanode_and_controller_killed_while_staging(region: boto3.Session, tmp_path: Path) -> None:
    with running(tmp_path, "playbooks/stage.yml", *OPTIONS) as (process, output):
        wait_until(lambda: "stage  " in output() or process.poll() is not None, 120, "staging")
        host("worker-0").run("sudo systemctl kill --signal=SIGKILL hadoop-datanode")
        kill_family(process.pid)
    playbook("playbooks/stage.yml", *OPTIONS)
    host("ps-0").check_output(f"sudo -u flotilla hdfs dfs -ls {CIFAR10}.staging/verified.json")
    wait_until(lambda: host("worker-0").service("hadoop-datanode").is_running, 30, "the DataNode is back")
    for file in manifest(region, "cifar10/manifest.json")["files"]:
        command = f"sudo -u flotilla hdfs dfs -cat {CIFAR10}/{file['path']} | sha256sum"
        assert host("chief-0").check_output(command).split()[0] == file["sha256"], file["path"]


def test_bucket_that_may_not_be_written_stops_before_training(region: boto3.Session) -> None:
    with uploads_refused(region):
        done = user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/train.yml", *OPTIONS, check=False)
    assert done.returncode != 0
    assert "s3://flotilla-test/models/" in done.stdout
    assert not host("chief-0").service("training@chief-0").is_running


def test_training_survives_controller_and_worker_and_a_refusing_s3(region: boto3.Session, tmp_path: Path) -> None:
    killed_at(tmp_path, f"/{STEPS} steps", "playbooks/train.yml", *OPTIONS)
    # In step, the others wait for it now: on a fast machine the job would be done while we look.
    host("worker-0").run("sudo systemctl kill --signal=SIGKILL training@worker-0")
    assert host("evaluator-0").service("training@evaluator-0").is_running
    assert not host("ps-0").service("training@evaluator-0").is_running
    another = playbook("playbooks/train.yml", *OPTIONS, "-e", "job=another", check=False)
    assert f"The job faults ({STEPS} steps) is running, and another" in another
    chief = host("chief-0")
    with uploads_refused(region):
        wait_until(lambda: chief.file("/var/lib/flotilla/chief.done").exists, 300, "the chief has finished by itself")
        assert int(host("worker-0").check_output("systemctl show -P NRestarts training@worker-0")) >= 1
        time.sleep(10)
        assert not chief.file("/var/lib/flotilla/store.done").exists
        with pytest.raises(region.client("s3").exceptions.NoSuchKey):
            manifest(region, "models/faults/manifest.json")
    assert "s3://flotilla-test/models/faults/" in playbook("playbooks/store.yml", *OPTIONS)
    assert manifest(region, "models/faults/manifest.json")["global_step"] >= STEPS
    assert hosts(region) == HOSTS


def endless(tmp_path: Path) -> None:
    """Begin a training that doesn't end by itself, or go on with it; nobody watches then."""
    killed_at(tmp_path, "/1000000 steps", "playbooks/train.yml", *OPTIONS, "-e", json.dumps(ENDLESS))


# benchmarks/faults.py tries all of them.
@pytest.mark.parametrize("name", ["chief-0 killed (SIGKILL)", "NameNode frozen (SIGSTOP)"])
def test_fault_is_survived(region: boto3.Session, tmp_path: Path, name: str) -> None:
    endless(tmp_path)
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    outcome = run(fault)
    assert outcome.problem(OVER_SECS) == ""  # how soon is for the benchmark
    if name.startswith("NameNode"):
        said = host("ps-0").check_output("sudo journalctl --unit=hadoop-watch --output=cat")
        assert "hadoop-namenode.service has been stopped by a signal for" in said
    else:
        assert outcome.restarts
    # A trainer that was started again doesn't know its speed at once.

    def calm() -> bool:
        seen = watch("--once")
        tasks = {task["task"]: task for task in seen["tasks"]}
        return (
            bool(seen["examples_per_second"] and seen["state"] == "training" and seen["hdfs"])
            and {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(TASKS, "running")
            and all(tasks[name]["staleness"] is not None for name in ("chief-0", "worker-0"))
        )

    wait_until(calm, 60, "watch shows that all train, and how fast")


def test_what_fails_for_good_ends_the_job_for_all(region: boto3.Session, tmp_path: Path) -> None:
    chief = host("chief-0")
    chief.check_output('sudo sed -i \'s/"batch_size": [0-9]*/"batch_size": 1000000/\' /etc/flotilla/job.json')
    chief.check_output("sudo systemctl restart training@chief-0")
    tasks = {name: host(name).service(f"training@{name}") for name in TASKS}
    wait_until(lambda: not any(task.is_running for task in tasks.values()), 120, "all tasks have ended")
    seen = watch("--once", code=1)
    assert seen["state"] == "failed" and "batch_size is 1000000, but the split 'train' has" in seen["message"]
    endless(tmp_path)  # with the settings as they were
    assert wait_for(TRAINERS, time.time()) == (), "all train again"


def test_stop_saves_a_checkpoint_first(region: boto3.Session) -> None:
    output = " ".join(playbook("playbooks/stop.yml", *OPTIONS).split())  # Ansible has wrapped it
    assert re.search(r"train: stopped, (\d+) of \d+ steps, .*with a checkpoint of step \1", output)
    assert not host("ps-0").service("training@ps-0").is_running
    assert watch("--once", code=1)["state"] == "stopped"


def test_a_training_that_hdfs_has_lost_goes_on_from_the_mirror(region: boto3.Session, tmp_path: Path) -> None:
    chief = host("chief-0")
    chief.check_output("sudo systemctl start flotilla-mirror")
    said = chief.check_output("sudo journalctl --unit=flotilla-mirror --output=cat")
    assert "mirror: done" in chief.check_output("flotilla-status --here")
    step = re.findall(r"step (\d+) is at s3://flotilla-test/models/endless/mirror/test/", said)[-1]
    chief.check_output("sudo -u flotilla hdfs dfs -rm -r -skipTrash /jobs/endless")
    endless(tmp_path)
    journal = "sudo journalctl --unit=training@chief-0 --output=cat"
    wait_until(lambda: f"going on from step {step}, as " in chief.check_output(journal), 120, "the chief goes on")
    playbook("playbooks/stop.yml", *OPTIONS)


def test_hosts_are_gone_by_themselves_at_their_expiry(region: boto3.Session) -> None:
    """Without controller and credentials: the host's own timer powers it off, which terminates it."""
    instance = variables("worker-0")["instance_id"]
    ends = (datetime.now(timezone.utc) + timedelta(seconds=45)).strftime("%Y-%m-%dT%H:%M:%SZ")
    region.client("ec2").create_tags(Resources=[instance], Tags=[{"Key": "flotilla-expires", "Value": ends}])
    playbook("playbooks/node.yml", *OPTIONS, "--limit", "worker-0")
    others = [name for name in HOSTS if name != "test-worker-0"]
    wait_until(lambda: hosts(region) == others, 120, "the host has terminated itself, and those that nobody has set up")
    playbook("playbooks/destroy.yml", *UNATTENDED)


def test_destroy_interrupted_and_run_again(region: boto3.Session, before: list[str], tmp_path: Path) -> None:
    instances = len(living(region))
    killed_when(lambda: len(living(region)) < instances, tmp_path, "playbooks/destroy.yml")
    playbook("playbooks/destroy.yml")
    assert left(region) == before
