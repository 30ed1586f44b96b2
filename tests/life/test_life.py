"""The whole life of a fleet on hosts of the lab: from nothing, by the README's commands, to nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from benchmarks import programs
from tests.support.browser import chromium, look
from tests.support.commands import ROOT, user_runs, wait_until
from tests.support.fleet import (
    BUCKET,
    CIFAR10,
    INVENTORY,
    SERVED,
    host,
    left,
    manifest,
    on_hdfs,
    playbook,
    variables,
    watch,
)
from tests.support.lab import upload

PREDICT = """
import json, os, sys, tempfile
import boto3, numpy as np, tensorflow as tf
bucket, prefix = sys.argv[1:]
s3 = boto3.client("s3")
folder = tempfile.mkdtemp()
for file in json.load(s3.get_object(Bucket=bucket, Key=prefix + "manifest.json")["Body"])["files"]:
    path = os.path.join(folder, file["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    s3.download_file(bucket, prefix + file["path"], path)
model = tf.saved_model.load(os.path.join(folder, "saved_model"))
name = "eval-00000-of-00001.tfrecord"
s3.download_file(bucket, "cifar10/" + name, os.path.join(folder, name))
features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
right = total = 0
for batch in tf.data.TFRecordDataset(os.path.join(folder, name)).batch(1000).take(2):
    rows = tf.io.parse_example(batch, features)
    images = tf.reshape(tf.io.decode_raw(rows["image"], tf.uint8), [-1, 3, 32, 32])
    classes = model.signatures["serving_default"](image=tf.transpose(images, [0, 2, 3, 1]))["class"]
    right += int(np.sum(classes.numpy() == rows["label"].numpy()))
    total += len(classes)
print(json.dumps({"accuracy": right / total}))
"""

MODEL = "cifar10/model"  # the run of the job
CARDS = {  # what TensorBoard shows of a training, and the runs that each card is about
    "accuracy": {MODEL, f"{MODEL}/eval_eval", f"{MODEL}/eval_validation"},
    "examples_per_second": {MODEL, f"{MODEL}/chief-0", f"{MODEL}/worker-0", f"{MODEL}/worker-1"},
    "global_step_per_second": {MODEL},
    "learning_rate": {MODEL},
    "loss": {MODEL, f"{MODEL}/eval_eval", f"{MODEL}/eval_validation"},
    "staleness": {f"{MODEL}/chief-0", f"{MODEL}/worker-0", f"{MODEL}/worker-1"},
}


INFER = {  # of a model that an earlier fleet has left on HDFS
    "infer_model": "hdfs://ps-0:8020/jobs/earlier/model",
    "infer_source": f"s3://{BUCKET}/cifar10/",
    "infer_target": f"s3://{BUCKET}/predictions/none/",
}


@pytest.mark.parametrize("life", [("site.yml",), ("inference.yml", "-e", json.dumps(INFER))])
def test_check_mode_works_from_nothing(life: tuple[str, ...], region: boto3.Session, before: list[str]) -> None:
    output = playbook(*life, "--check", "-v")
    assert "failed=0" in output
    assert re.search(r"in all +3 +0\.\d{3}$", output, re.MULTILINE), "a plan with prices"
    assert left(region) == before


BAD = {
    "no ps": ({"fleet_groups": {"chief": {"count": 1, "instance_type": "t3.large"}}}, "ps"),
    "no chief": ({"fleet_groups": {"ps": {"count": 1, "instance_type": "t3.large"}}}, "chief"),
    "no such type": (
        {"fleet_groups": {g: {"count": 1, "instance_type": "t9.huge"} for g in ("ps", "chief")}}, "t9.huge",
    ),
    "GPU too old": (
        {"fleet_groups": {g: {"count": 1, "instance_type": "p2.xlarge"} for g in ("ps", "chief")}}, "g4dn",
    ),
    "no such bucket": ({"dataset_source": "s3://flotilla-nowhere/cifar10/"}, "flotilla-nowhere"),
    "no data": ({"dataset_source": "s3://flotilla-test/nothing/"}, "There is nothing in s3://flotilla-test/nothing/"),
    "the folder above": ({"dataset_source": "s3://flotilla-test/cifar10/.."}, "has a // or .."),
    "model bucket missing": ({"store_target": "s3://flotilla-nowhere/models/"}, "flotilla-nowhere"),
    "open to the world": ({"fleet_ssh_sources": ["0.0.0.0/0"]}, "0.0.0.0/0"),
    "expired": ({"fleet_expiry_hours": -1}, "expiry"),
    "bad name": ({"fleet_name": "My_Fleet!"}, "My_Fleet!"),
    "wrong credentials": ({"fleet_profile": "nobody"}, "nobody"),
    "GPU build without a GPU": ({"fleet_accelerator": "gpu"}, "chief and worker has no GPU"),
    "no way in": ({"fleet_public_addresses": False}, "fleet_vpc_id"),
    "evaluator off and on": (
        {"fleet_groups": {g: {"count": 1, "instance_type": "t3.large"} for g in ("ps", "chief")}
         | {"evaluator": {"count": 1, "instance_type": "t3.large", "enabled": False}}}, "enabled is false",
    ),
    "steps not a number": ({"training_max_steps": "60k"}, "60k"),
    "no such program": ({"training_program": "nowhere/train.py"}, "there is no"),
    "program without an entry": ({"training_program": "training"}, "has no Python file main.py"),
    "no such program object": ({"training_program": "s3://flotilla-test/nothing.tar.gz"}, "There is no object"),
    "no program's kind": ({"training_program": "s3://flotilla-test/program.rar"}, "program.rar"),
    "arguments that are no list": ({"training_arguments": ["--steps", {"x": 3}]}, "give a list of words"),
    "batch larger than the data": ({"training_batch_size": 10**6}, "examples to train on"),
    "unknown variable": ({"traning_max_steps": 100}, "did you mean training_max_steps?"),
    "model among the data": ({"store_target": "s3://flotilla-test/cifar10/models/"}, "among the data"),
    "VPC without subnet": ({"fleet_vpc_id": "vpc-0123456789abcdef0"}, "fleet_subnet_id"),
    "disk too small": (
        {"fleet_groups": {g: {"count": 1, "instance_type": "t3.large", "volume_size": 1} for g in ("ps", "chief")}},
        "volume_size",
    ),
}  # fmt: skip


def refused(change: dict[str, object]) -> str:
    """Run site.yml with changed variables, which it must refuse; returns what it says."""
    done = user_runs("ansible-playbook", "-i", INVENTORY, "site.yml", "-e", json.dumps(change), check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def refusals(region: boto3.Session, before: list[str]) -> dict[str, str]:
    """What site.yml says to each bad input; two at a time, for each asks and makes nothing."""
    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(BAD, pool.map(refused, [change for change, _ in BAD.values()]), strict=True))
    assert left(region) == before
    return said


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence(refusals: dict[str, str], case: str) -> None:
    assert BAD[case][1] in refusals[case]


def test_manifest_without_its_objects_is_refused(region: boto3.Session, before: list[str]) -> None:
    source = {"Bucket": BUCKET, "Key": "cifar10/manifest.json"}
    region.client("s3").copy_object(Bucket=BUCKET, Key="broken/manifest.json", CopySource=source)
    assert "doesn't match its manifest" in refused({"dataset_source": f"s3://{BUCKET}/broken/"})
    assert left(region) == before


def test_other_systems_are_refused(region: boto3.Session, before: list[str]) -> None:
    image = region.client("ec2").register_image(Name="ubuntu-noble-24.04-amd64-server", RootDeviceName="/dev/sda1")
    group = {"count": 1, "instance_type": "t3.large", "image": image["ImageId"]}
    assert "is Ubuntu 24.04" in refused({"fleet_groups": {"ps": group, "chief": group}})
    assert left(region) == before


def configuration(session: boto3.Session, folder: Path, access: str, secret: str) -> str:
    """An AWS configuration in which the inventory's profile has other credentials; as a setting of the environment."""
    file = folder / "config"
    file.write_text(
        f"[profile {session.profile_name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        f"endpoint_url = {session.client('sts').meta.endpoint_url}\n"
    )
    return f"AWS_CONFIG_FILE={file}"


def make_user(session: boto3.Session, name: str, policy: dict[str, Any]) -> tuple[str, str]:
    """A user with a policy; returns the ids of its key."""
    iam = session.client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="access", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def refused_to(setting: str) -> str:
    """Run site.yml with other credentials, which it must refuse; returns what it says."""
    done = user_runs("env", setting, "ansible-playbook", "-i", INVENTORY, "site.yml", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout


def test_wrong_secret_key_is_refused(region: boto3.Session, before: list[str], tmp_path: Path) -> None:
    right = region.get_credentials()
    assert right and right.access_key and right.secret_key
    output = refused_to(configuration(region, tmp_path, right.access_key, right.secret_key[::-1]))
    assert "AWS refuses the credentials of profile flotilla-lab" in output
    assert left(region) == before


def test_bucket_that_may_not_be_read_is_refused(region: boto3.Session, before: list[str], tmp_path: Path) -> None:
    policy = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:*", "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]},
    ]
    key = make_user(region, "stranger", {"Version": "2012-10-17", "Statement": policy})
    output = refused_to(configuration(region, tmp_path, *key))
    assert f"The bucket {BUCKET} of dataset_source may not be read by" in output
    assert left(region) == before


@pytest.fixture(scope="module")
def engineer(region: boto3.Session, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The AWS configuration of a user who has the managed policies of role fleet's README, and no more."""
    iam = region.client("iam")
    arns = {}
    for name in ("policy", "boundary"):
        text = (ROOT / f"roles/fleet/files/{name}.json").read_text().replace("YOUR-BUCKET", BUCKET)
        arns[name] = iam.create_policy(PolicyName=f"flotilla-{name}", PolicyDocument=text)["Policy"]["Arn"]
    iam.create_user(UserName="engineer")
    iam.attach_user_policy(UserName="engineer", PolicyArn=arns["policy"])
    key = iam.create_access_key(UserName="engineer")["AccessKey"]
    return configuration(region, tmp_path_factory.mktemp("engineer"), key["AccessKeyId"], key["SecretAccessKey"])


@pytest.fixture(scope="module")
def life(region: boto3.Session, before: list[str], engineer: str) -> str:
    """site.yml from nothing to the stored model; gives its output."""
    playbook("playbooks/images.yml", "-e", "images_keep=0")  # of other tests
    return user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "site.yml").stdout


PHASES = ("provision", "node", "hdfs", "tensorflow", "stage", "train", "store")


def test_run_shows_progress_and_ends_with_a_summary(life: str) -> None:
    assert re.search(r"train +\d+/100 steps +\d+ examples/s", life)
    assert re.search(r"in all +3 +0\.\d{3}$", life, re.MULTILINE), "the plan, with prices"
    for number, phase in enumerate(PHASES, 1):
        assert re.search(rf"^{number}/7 {phase} .*… \d+:\d\d$", life, re.MULTILINE), phase
    assert "TASK [" not in life and "FAILED - RETRYING" not in life
    summary = life[life.index("min:s") :]
    for phase in PHASES:
        assert re.search(rf"{phase} +\d+:\d\d", summary), phase
    assert "s3://flotilla-test/models/cifar10/" in summary
    assert "playbooks/destroy.yml" in summary


def test_second_run_changes_nothing(life: str, engineer: str) -> None:
    output = user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "site.yml", "-v").stdout
    recap = dict(re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", output, re.MULTILINE))
    assert recap == {"localhost": "0", "ps-0": "0", "chief-0": "0", "worker-0": "0"}


def test_watch_ends_with_the_job(life: str) -> None:
    seen = watch()
    assert seen["state"] == "done" and seen["step"] >= 100
    assert seen["store"]["state"] == "done" and seen["expires_in"] > 0


def test_hdfs_is_healthy(life: str) -> None:
    report = host("ps-0").check_output("sudo -u hdfs hdfs fsck /")
    assert "is HEALTHY" in report
    assert re.search(r"Number of data-nodes:\s+3", report)


def test_data_in_hdfs_equals_the_source_byte_for_byte(life: str, region: boto3.Session) -> None:
    for file in manifest(region, "cifar10/manifest.json")["files"]:
        command = f"sudo -u flotilla hdfs dfs -cat {CIFAR10}/{file['path']} | sha256sum"
        assert host("chief-0").check_output(command).split()[0] == file["sha256"], file["path"]


def test_units_are_as_they_should_be(life: str) -> None:
    for name in ("ps-0", "chief-0", "worker-0"):
        node = host(name)
        assert node.service("hadoop-datanode").is_running
        assert node.service("flotilla-expiry.timer").is_running
        assert node.service("nftables").is_running
        assert node.check_output("systemctl is-system-running") == "running"
    assert host("ps-0").service("hadoop-namenode").is_running
    assert host("ps-0").service("flotilla-tensorboard").is_running
    for name, task in (("ps-0", "ps-0"), ("chief-0", "chief-0"), ("worker-0", "worker-0"), ("worker-0", "worker-1")):
        assert not host(name).service(f"training@{task}").is_running, "the job is done: its tasks have ended"


def test_ports_are_open_inside_and_closed_outside(life: str) -> None:
    node, other = host("ps-0"), host("worker-0")
    address = node.check_output("hostname -I").split()[0]
    public = variables("ps-0")["ansible_host"]
    for port in (8020, 9866, 9880):
        probe = f"timeout 3 bash -c '</dev/tcp/{address}/{port}'"
        assert other.run(probe).rc == 0, f"{port} from another node"
        outside = subprocess.run(["timeout", "2", "bash", "-c", f"</dev/tcp/{public}/{port}"], capture_output=True)
        assert outside.returncode != 0, f"{port} from outside"
    for port in (9870, 9864, 6006):
        assert node.run(f"timeout 3 bash -c '</dev/tcp/127.0.0.1/{port}'").rc == 0, f"{port} on loopback"
        assert other.run(f"timeout 3 bash -c '</dev/tcp/{address}/{port}'").rc != 0, f"{port} from another node"


def test_tensorboard_shows_the_training_in_a_browser_through_the_tunnel(life: str, tmp_path: Path) -> None:
    tunnel = subprocess.Popen(["scripts/tensorboard", "-i", INVENTORY, "-p", "16006"], cwd=ROOT)
    try:
        with chromium(tmp_path / "profile") as page:
            shown = look(page, "http://127.0.0.1:16006/", CARDS, 120)
            page.save_screenshot(tmp_path / "tensorboard.png")
            assert shown == CARDS
    finally:
        tunnel.terminate()
        tunnel.wait()


def test_model_in_s3_matches_its_manifest(life: str, region: boto3.Session) -> None:
    s3 = region.client("s3")
    stored = manifest(region, "models/cifar10/manifest.json")
    assert stored["global_step"] >= 100
    assert stored["metrics"]["accuracy"] > 0.12
    paths = [file["path"] for file in stored["files"]]
    for needed in ("saved_model/saved_model.pb", "checkpoint/checkpoint", "result.json"):
        assert needed in paths
    assert any(path.startswith("events/eval_validation/") for path in paths)
    assert all(file["size"] for file in stored["files"])
    for file in stored["files"]:
        body = s3.get_object(Bucket=BUCKET, Key=f"models/cifar10/{file['path']}")["Body"].read()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (file["size"], file["sha256"]), file["path"]


def test_model_predicts_real_images(life: str, region: boto3.Session) -> None:
    program = base64.b64encode(PREDICT.encode()).decode()
    command = (
        f"echo {program} | base64 -d > /tmp/predict.py && sudo -u flotilla sh -c 'set -a; . /etc/flotilla/aws.env; "
        f"TF_CPP_MIN_LOG_LEVEL=3 /opt/tensorflow/bin/python /tmp/predict.py {BUCKET} models/cifar10/'"
    )
    answer = json.loads(host("chief-0").check_output(command).splitlines()[-1])
    assert abs(answer["accuracy"] - manifest(region, "models/cifar10/manifest.json")["metrics"]["accuracy"]) < 0.05


def test_nodes_may_do_nothing_else_in_s3(life: str) -> None:
    program = (
        "import boto3; s3 = boto3.client('s3'); s3.put_object(Bucket='flotilla-test', Key='cifar10/evil', Body=b'')"
    )
    done = host("worker-0").run(
        f'sudo -u flotilla sh -c "set -a; . /etc/flotilla/aws.env; /opt/tensorflow/bin/python -c \\"{program}\\""'
    )
    assert "AccessDenied" in done.stderr


FOLDER = f"s3://{BUCKET}/any/my digits 100%"


def as_it_is(region: boto3.Session) -> set[str]:
    """Make a folder as somebody has it, without a manifest and with names as they come; returns its files."""
    s3, files = region.client("s3"), {"notes/a b%20+[x]*{y}?#größe$.txt", ".hidden", "empty"}
    for path in files:
        s3.put_object(Bucket=BUCKET, Key=f"any/my digits 100%/{path}", Body=b"" if path == "empty" else path.encode())
    s3.put_object(Bucket=BUCKET, Key="any/my digits 100%/notes/", Body=b"")
    for file in manifest(region, "mnist/manifest.json")["files"]:
        source = {"Bucket": BUCKET, "Key": f"mnist/{file['path']}"}
        s3.copy_object(Bucket=BUCKET, Key=f"any/my digits 100%/{file['path']}", CopySource=source)
        files.add(file["path"])
    return files


DIGITS = {
    "job": "digits",
    "training_max_steps": 150,
    "dataset_source": FOLDER,
    "training_arguments": ["--data-dir", "{data_dir}", "--model-dir", "{model_dir}", "--max-steps", "{max_steps}"],
}


def test_another_program_on_other_data_is_the_next_job(life: str, region: boto3.Session, engineer: str) -> None:
    """A plain Estimator program on MNIST, from git, on the fleet that has trained the kit's own network."""
    user_runs("scripts/lab", "im", seconds=300)  # for its git server, which has this checkout's commits
    upload("mnist")
    files = as_it_is(region)
    program = {
        "training_program": SERVED,
        "training_entry": "training/programs/digits.py",
    }
    first = manifest(region, "models/cifar10/manifest.json")
    output = run_job("site.yml", engineer, program)
    assert re.search(r"The data set .*my digits 100% is taken as it is, without a manifest: \d+ objects", output)
    assert re.search(r"train +150/150 steps", output)
    there = host("ps-0").check_output(f"sudo -u flotilla env LC_ALL=C.UTF-8 hdfs dfs -ls -R -C {on_hdfs(FOLDER)}")
    found = {line.removeprefix(f"{on_hdfs(FOLDER)}/") for line in there.splitlines()}
    assert found == files | {"notes"}, "the data set's files, and nothing of the kit's"
    stored = manifest(region, "models/digits/manifest.json")
    assert stored["global_step"] >= 150 and stored["metrics"]["accuracy"] > 0.8
    assert "saved_model/saved_model.pb" in [file["path"] for file in stored["files"]]
    assert manifest(region, "models/cifar10/manifest.json") == first
    assert host("ps-0").check_output("systemctl is-system-running") == "running"


def run_job(which: str, engineer: str, program: dict[str, Any]) -> str:
    return user_runs(
        "env", engineer, "ansible-playbook", "-i", INVENTORY, which, "-v", "-e", json.dumps(DIGITS | program)
    ).stdout


def test_the_same_program_from_elsewhere_is_the_same_job(
    life: str, region: boto3.Session, engineer: str, tmp_path: Path
) -> None:
    """The hosts fetch it from S3 with the role that site.yml gives them, or get it from here, and find the job done."""
    with tarfile.open(tmp_path / "programs.tar.gz", "w:gz") as archive:
        archive.add(ROOT / "training/programs", "programs")
    region.client("s3").upload_file(str(tmp_path / "programs.tar.gz"), BUCKET, "programs/programs.tar.gz")
    stored = manifest(region, "models/digits/manifest.json")
    nodes = ("ps-0", "chief-0", "worker-0")
    for which, program, changed in (
        ("site.yml", f"s3://{BUCKET}/programs/programs.tar.gz", True),
        ("playbooks/train.yml", f"s3://{BUCKET}/programs/programs.tar.gz", False),
        ("playbooks/train.yml", "training/programs", True),
        ("playbooks/train.yml", "training/programs", False),
    ):
        output = run_job(which, engineer, {"training_program": program, "training_entry": "digits.py"})
        recap = dict(re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", output, re.MULTILINE))
        assert set(recap) == ({*nodes, "localhost"} if which == "site.yml" else {*nodes})
        assert all((count != "0") is changed for count in recap.values()), (program, recap)
        for name in nodes:
            entry = json.loads(host(name).check_output("cat /etc/flotilla/job.json"))["program"]
            assert entry.endswith("/programs/digits.py") and host(name).file(entry).mode == 0o644, "of root"
    assert manifest(region, "models/digits/manifest.json") == stored


STRANGERS = """
import argparse, csv, glob, os
import tensorflow as tf

parser = argparse.ArgumentParser()
for name in ("--data", "--model", "--steps", "--shift"):
    parser.add_argument(name)
given = parser.parse_args()
words = open("words/digits.txt").read().split()  # beside the program
files = sorted(glob.glob(os.path.join(given.data, "train-*")))  # by Python's own means
assert os.environ["GREETING"] == SAID


def batches():
    def decode(records):
        spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_example(records, spec)
        image = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), [-1, 784])
        return {"image": tf.cast(image, tf.float32) / 255}, found["label"] + int(given.shift)

    return tf.data.TFRecordDataset(files).shuffle(1000).repeat().batch(50).map(decode)


class History(tf.estimator.SessionRunHook):
    def after_run(self, context, values):
        with open("history.csv", "a") as file:
            csv.writer(file).writerow(words)


image = tf.feature_column.numeric_column("image", shape=[784])
classifier = tf.estimator.DNNClassifier([20], [image], n_classes=10, model_dir=given.model)
train = tf.estimator.TrainSpec(batches, max_steps=int(given.steps), hooks=[History()])
tf.estimator.train_and_evaluate(classifier, train, tf.estimator.EvalSpec(lambda: batches().take(10), throttle_secs=0))
"""


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The variables of somebody's own program: it reads and writes files as if it were on a laptop."""
    folder, greeting = tmp_path_factory.mktemp("strangers") / "my model", 'say "$HOME" \\ `now`'
    (folder / "words").mkdir(parents=True)
    (folder / "words/digits.txt").write_text("zero one")
    (folder / "main.py").write_text(STRANGERS.replace("SAID", repr(greeting)))
    arguments = ["--data", "{local_data_dir}", "--model", "{model_dir}", "--steps", "{max_steps}", "--shift"]
    return {
        "dataset_source": FOLDER, "training_max_steps": 60, "training_program": str(folder),
        "training_arguments": [*arguments, 0], "training_environment": {"GREETING": greeting},
    }  # fmt: skip


def test_a_strangers_program_runs_as_on_a_laptop(
    life: str, region: boto3.Session, engineer: str, strangers: dict[str, Any]
) -> None:
    output = run_job("playbooks/train.yml", engineer, {"job": "strangers", **strangers})
    user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "playbooks/store.yml")
    stored = manifest(region, "models/strangers/manifest.json")
    assert stored["global_step"] >= 60 and stored["versions"]["program"]
    assert stored["variables"]["training_program"] == "my model" and "`now`" not in output + json.dumps(stored)
    paths = {file["path"] for file in stored["files"]}
    assert "files/local/chief-0/history.csv" in paths
    tasks = {"ps-0", "chief-0", "worker-0", "worker-1", "evaluator-0"}
    assert {f"logs/{task}.log.gz" for task in tasks} <= paths
    said = user_runs("scripts/logs", "--profile", "flotilla-lab", f"s3://{BUCKET}/models/strangers/", "chief-0").stdout
    assert "chief-0     " in said and "has done its part" in said
    here = user_runs("scripts/logs", "-i", INVENTORY, "worker-1").stdout
    assert re.search(r"^\d\d:\d\d:\d\d worker-1 +worker-1 has done its part", here, re.MULTILINE)
    kept = user_runs("scripts/ssh", "-i", INVENTORY, "chief-0", "ls /var/lib/flotilla/data").stdout
    assert kept.split() == [Path(on_hdfs(FOLDER)).name]
    assert host("chief-0").file("/etc/flotilla/program.env").mode == 0o600


# benchmarks/programs.py tries all; training/tests/test_program.py has Keras models.
@pytest.mark.parametrize("name", ["classic", "own_operations"])
def test_programs_as_people_write_them_train(life: str, region: boto3.Session, engineer: str, name: str) -> None:
    (case,) = [case for case in programs.TRAINS if case.name == name]
    job = {
        "job": name, "training_max_steps": 30, "training_program": str(case.path), "training_entry": case.start,
        "training_arguments": list(case.arguments),
    }  # fmt: skip
    run_job("playbooks/train.yml", engineer, job)
    user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "playbooks/store.yml")
    assert manifest(region, f"models/{name}/manifest.json")["global_step"] >= 30


def test_a_programs_error_is_said_with_its_cause_and_its_logs_are_stored(
    life: str, region: boto3.Session, engineer: str, strangers: dict[str, Any]
) -> None:
    wrong = {"job": "shifted", **strangers, "training_arguments": [*strangers["training_arguments"][:-1], 1]}
    command = ["ansible-playbook", "-i", INVENTORY, "playbooks/train.yml"]
    began = time.time()
    done = user_runs("env", engineer, *command, "-e", json.dumps(wrong), check=False)
    said = " ".join(done.stdout.split())
    assert (
        done.returncode and "line 33: InvalidArgumentError: assertion failed: [Labels must be <= n_classes - 1]" in said
    )
    assert time.time() - began < 200

    def logs() -> set[str]:
        found = region.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="models/shifted/logs/")
        return {Path(entry["Key"]).name for entry in found.get("Contents", [])}

    wait_until(lambda: {"job-failed.json", "chief-0.log.gz", "ps-0.log.gz"} <= logs(), 240, "the logs are in S3")
    user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "playbooks/stop.yml")


def test_a_network_that_is_a_file_trains(life: str, region: boto3.Session, engineer: str) -> None:
    job = {
        "job": "file", "dataset_source": f"s3://{BUCKET}/mnist/", "training_network": "networks/mnist-128-64.yml",
        "training_max_steps": 40,
    }  # fmt: skip
    phases = "fleet,dataset,training,store"
    command = ["ansible-playbook", "-i", INVENTORY, "site.yml", "--tags", phases, "-e", json.dumps(job)]
    user_runs("env", engineer, *command)
    stored = manifest(region, "models/file/manifest.json")
    assert stored["global_step"] >= 40 and stored["variables"]["training_network"] == "mnist-128-64.yml"
    assert {"network.yml", "saved_model/saved_model.pb"} <= {file["path"] for file in stored["files"]}


def test_a_stored_model_is_applied_to_every_image(life: str, region: boto3.Session, engineer: str) -> None:
    """What Spark makes of the test split is what the evaluation of the training made of it."""
    job = {
        "infer_model": f"s3://{BUCKET}/models/file/", "infer_source": f"s3://{BUCKET}/mnist/", "infer_files": "eval-*",
        "infer_target": f"s3://{BUCKET}/predictions/file/",
    }  # fmt: skip
    command = ["ansible-playbook", "-i", INVENTORY, "playbooks/infer.yml", "-e", json.dumps(job)]
    said = " ".join(user_runs("env", engineer, *command).stdout.split())
    found, stored = manifest(region, "predictions/file/manifest.json"), manifest(region, "models/file/manifest.json")
    assert found["rows"] == found["labelled"] > 0 == found["broken"] and found["model"]["job"] == "file"
    assert abs(found["accuracy"] - stored["metrics"]["accuracy"]) <= 1.5 / found["rows"]
    assert "takes 28 x 28 grey images as image, uint8" in said and f"{found['accuracy']:.4f} of" in said


def test_a_job_that_is_refused_changes_nothing(life: str, engineer: str, tmp_path: Path) -> None:
    nowhere, large = tmp_path / "nowhere", {"training_batch_size": 100_000}
    nowhere.mkdir()
    (nowhere / "main.py").write_text("import tensorflow\n")
    (nowhere / "requirements.txt").write_text("no-such-package-as-this==9.9\n")
    files = "sha256sum /etc/flotilla/*.json /etc/systemd/system/*.service /etc/systemd/system/*.timer"
    before = [host(name).check_output(files) for name in ("chief-0", "worker-0")]
    for change, words in (
        (DIGITS | {"training_program": str(nowhere)}, "The requirements.txt of training_program can't be met"),
        ({"job": "large"} | large, "batch_size is 100000, but the split 'train' has"),
    ):
        command = ["ansible-playbook", "-i", INVENTORY, "playbooks/train.yml", "-e", json.dumps(change)]
        done = user_runs("env", engineer, *command, check=False)
        # Ansible wraps what it prints.
        assert done.returncode != 0 and words in " ".join(done.stdout.split()), done.stdout
    assert [host(name).check_output(files) for name in ("chief-0", "worker-0")] == before


def test_the_policy_is_enough_for_the_infrastructure_manager_too(
    region: boto3.Session, life: str, engineer: str, tmp_path: Path
) -> None:
    there, other = left(region), "fleet_name=other"
    version = f"radl_collection=git+https://example.com/flotilla,{'0' * 40}"
    command = ["env", engineer, "ansible-playbook", "-i", INVENTORY]
    user_runs(*command, "playbooks/radl.yml", "-e", other, "-e", version, "-e", f"radl_file={tmp_path / 'other.radl'}")
    assert (tmp_path / "other.radl").exists()
    user_runs(*command, "playbooks/destroy.yml", "-e", other)
    assert left(region) == there


def test_destroy_leaves_nothing(life: str, region: boto3.Session, before: list[str], engineer: str) -> None:
    user_runs("env", engineer, "ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    assert left(region) == before
    assert manifest(region, "models/cifar10/manifest.json")["job"] == "cifar10"
    assert "changed=0" in playbook("playbooks/destroy.yml", "-v")


def test_ssh_key_and_known_hosts_of_the_fleet_are_tidy() -> None:
    assert not (Path.home() / ".cache/flotilla/fleets/test").exists()
