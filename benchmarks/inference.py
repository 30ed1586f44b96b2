#!/usr/bin/env python3
"""Measures inference on a fleet in the lab, and writes benchmarks/inference.md.

    .venv/bin/python -m benchmarks.inference              (root; half an hour; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.inference resnet first  (only these rows)

What Spark costs is told in processor seconds, which other work on the machine changes least: those of the tasks' Python
(time.process_time, once the model is loaded) and of Java's threads in the executors (Spark's executorCpuTime, which
leaves Python out altogether; the thesis took it for the whole), against those of a loop on one of the hosts that knows
nothing of the kit, and reads, decodes and classifies the same objects, with one thread, too. As many of these loops run
at once as Spark has tasks, each on its share: more processes than processors cost each of them time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from benchmarks.staging import HOSTS, OPTIONS, Row, fleet, measure
from tests.support.commands import user_runs
from tests.support.fleet import BUCKET, INVENTORY, host, manifest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "benchmarks/inference.md"
PYTHON = ROOT / ".venv-training/bin/python"
PHOTOS = 150  # of 1024 x 768, as the thesis has them
BATCH = 32
TASKS = 6  # of the fleet: two on each of three hosts
FIGURES = ("executorRunTime", "executorCpuTime", "executorDeserializeTime", "jvmGcTime")

# Writes the models and the photos of the rows: made from two that scikit-learn ships, each a crop of its own.
MAKE = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from PIL import Image
folder, photos, images = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
network = tf.keras.applications.InceptionV3(weights=None)
call = tf.function(lambda image: {"probabilities": network(image)})
wanted = tf.TensorSpec([None, 299, 299, 3], tf.float32, name="image")
tf.saved_model.save(network, str(folder / "inception"), {"serving_default": call.get_concrete_function(wanted)})
from flotilla.job.cluster import Task
from flotilla.job.config import load
from flotilla.job.design import resnet
from flotilla.model import data, estimator
config = load(["--data-dir", "x", "--model-dir", str(folder / "job")])
dataset = data.DataSet("cifar10", (32, 32, 3), 10, {}, {"train": 50000})
network = estimator.build(config, dataset, resnet(44, dataset.shape, 10), Task(), 1)
zeros = {"image": np.zeros([8, 32, 32, 3], np.uint8)}, np.zeros([8], np.int64)
network.train(lambda: tf.data.Dataset.from_tensors(zeros), steps=1)
network.export_saved_model(str(folder / "resnet"), lambda: estimator.serving_input(dataset))
(folder / "photos").mkdir()
rng = np.random.default_rng(1)
for number in range(photos):
    whole = np.asarray(Image.open(images / ("china.jpg", "flower.jpg")[number % 2]))
    top, left = rng.integers(0, 40), rng.integers(0, 60)
    picture = Image.fromarray(whole[top:top + 380, left:left + 560]).resize((1024, 768))
    picture.save(folder / f"photos/{number:04}.tif")
"""

# What a host runs beside: nothing of the kit's. Prints the processor seconds, of Python and all its threads.
BARE = """
import io, json, sys, time
import boto3, numpy as np, tensorflow as tf
from PIL import Image
model, bucket, prefix, kind, (batch, mine, all_) = *sys.argv[1:5], map(int, sys.argv[5:8])
s3 = boto3.client("s3")
call = tf.saved_model.load(model).signatures["serving_default"]
keys = [one["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for one in page["Contents"] if one["Key"].endswith((".tif", ".tfrecord"))]
keys = keys[mine::all_] if kind == "tif" else keys
read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()

def pictures():
    for key in keys:
        if kind == "tif":
            picture = Image.open(io.BytesIO(read(key))).convert("RGB").resize((299, 299), Image.Resampling.BILINEAR)
            yield np.asarray(picture, np.float32) / 255
            continue
        file = f"/tmp/bare-{mine}.tfrecord"
        open(file, "wb").write(read(key))
        features = {"image": tf.io.FixedLenFeature([], tf.string)}
        for record in tf.data.TFRecordDataset(file).shard(all_, mine).batch(batch):
            planes = tf.io.decode_raw(tf.io.parse_example(record, features)["image"], tf.uint8)
            yield from tf.transpose(tf.reshape(planes, [-1, 3, 32, 32]), [0, 2, 3, 1]).numpy()

def batches():
    some = []
    for picture in pictures():
        some.append(picture)
        if len(some) == batch:
            yield np.stack(some)
            some = []
    if some:
        yield np.stack(some)

count, began = 0, None
for some in batches():
    if began is None:  # the first one loads and compiles
        call(image=tf.constant(some))
        began, first = time.process_time(), time.monotonic()
    call(image=tf.constant(some))["probabilities"].numpy().argmax(axis=1)
    count += len(some)
print(json.dumps({"cpu": time.process_time() - began, "wall": time.monotonic() - first, "count": count}))
"""


def on(name: str, *command: str) -> str:
    """Run a command as the tasks' user, in their environment, on a host; returns what it prints."""
    properties = ["--uid=flotilla", "--setenv=HOME=/tmp", "--setenv=TF_CPP_MIN_LOG_LEVEL=3"]
    properties += ["--setenv=TF_NUM_INTRAOP_THREADS=1", "--setenv=TF_NUM_INTEROP_THREADS=1"]
    properties += [f"--property=EnvironmentFile={file}" for file in ("/etc/hadoop/client.env", "/etc/flotilla/aws.env")]
    whole = ["sudo", "systemd-run", "--quiet", "--wait", "--pipe", "--collect", *properties, *command]
    return host(name).check_output(" ".join(["%s"] * len(whole)), *whole)


def make(session: boto3.Session) -> None:
    """Put models and photos into the lab's S3."""
    s3 = session.client("s3")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as package:
        install = '. scripts/common.sh; prepare_uv >&2; "$uv" pip install --quiet --no-deps --target "$1" "$2"'
        subprocess.run(["bash", "-c", install, "-", package, "scikit-learn==1.5.2"], check=True, cwd=ROOT)
        images = f"{package}/sklearn/datasets/images"
        subprocess.run([PYTHON, "-c", MAKE, folder, str(PHOTOS), images], check=True, cwd=ROOT / "training")
        for file in Path(folder).rglob("*"):
            where = file.relative_to(folder).as_posix()
            if file.is_file() and not where.startswith("job/"):
                s3.upload_file(str(file), BUCKET, f"inference/{where}")


def infer(session: boto3.Session, name: str, model: str, source: str, **more: object) -> dict[str, Any]:
    """Run infer.yml; returns the predictions' manifest."""
    where = {"infer_model": f"s3://{BUCKET}/inference/{model}/", "infer_source": f"s3://{BUCKET}/{source}/"}
    job = {**where, "infer_target": f"s3://{BUCKET}/predictions/{name}/", "infer_batch": BATCH, **OPTIONS, **more}
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/infer.yml", "-e", json.dumps(job))
    return manifest(session, f"predictions/{name}/manifest.json")


def efficiency(
    session: boto3.Session, model: str, source: str, kind: str, **more: object
) -> tuple[dict[str, float], float]:
    """Return the processor seconds of 1,000 images through Spark and in a bare loop, and the second ÷ the first."""
    found = infer(session, f"{model}-{time.time():.0f}", model, source, **more)
    prefix = f"{source}/{more.get('infer_files', '')}".rstrip("*")

    def loop(number: int) -> dict[str, float]:
        name = HOSTS[number % len(HOSTS)]
        (folder,) = on(name, "sh", "-c", "ls -d /var/lib/flotilla/models/*/").split()
        inside = on(name, "find", folder, "-name", "saved_model.pb").rsplit("/", 1)[0]
        shares = (str(BATCH), str(number), str(TASKS))
        said = on(name, "/opt/spark/bin/python", "-c", BARE, inside, BUCKET, prefix, kind, *shares)
        return dict(json.loads(said.splitlines()[-1]))

    with ThreadPoolExecutor(TASKS) as pool:
        loops = list(pool.map(loop, range(TASKS)))
    bare = {key: sum(one[key] for one in loops) for key in ("cpu", "count")}
    assert bare["count"] == found["rows"], (bare["count"], found["rows"])
    python, java = found["seconds_of_tasks"]["cpu"], found["seconds_of_spark"]["executorCpuTime"]
    figures = {
        "Python": 1000 * python / found["rows"], "Java": 1000 * java / found["rows"],
        "bare loop": 1000 * bare["cpu"] / bare["count"],
        **{f"Spark's {name}": found["seconds_of_spark"][name] for name in FIGURES},
    }  # fmt: skip
    return figures, figures["bare loop"] / (figures["Python"] + figures["Java"])


@contextlib.contextmanager
def inferring(session: boto3.Session, name: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], bool]]]:
    """Run infer.yml over the photos beside this; gives its process, and whether a part of the predictions is there."""
    target, s3 = f"predictions/{name}-{time.time():.0f}/", session.client("s3")
    job = {
        "infer_model": f"s3://{BUCKET}/inference/inception/", "infer_source": f"s3://{BUCKET}/inference/photos/",
        "infer_target": f"s3://{BUCKET}/{target}", "infer_batch": BATCH, **OPTIONS,
    }  # fmt: skip
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", INVENTORY, "playbooks/infer.yml", "-e", json.dumps(job)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        yield process, lambda: bool(s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{target}parts/").get("Contents"))


def first(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds from the start of infer.yml on a fleet that has Spark to the first part of the predictions."""
    began = time.monotonic()
    with inferring(session, "first") as (process, begun):
        while not begun():
            assert process.poll() in (None, 0)
            time.sleep(0.2)
        seconds = time.monotonic() - began
    return {"seconds": seconds}, seconds


# Python's daemon is a child of Java's; its own children, the tasks, hold TensorFlow.
PSS = """
java=$(pgrep -f org.apache.spark)
for one in $(pgrep -f pyspark.daemon); do
  parent=$(ps -o ppid= -p $one | tr -d ' ')
  case $(ps -o comm= -p $parent) in java) java="$java $one" ;; esac
done
for one in $java; do cat /proc/$one/smaps_rollup; done 2>/dev/null | awk '/^Pss:/ {sum += $2} END {print sum + 0}'
"""


def memory(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the MB (PSS) of Spark's Java and Python's daemon in a job, on a worker's host and on the Master's."""
    most = {"worker's host": 0.0, "Master's host": 0.0}
    with inferring(session, "memory") as (process, begun):
        while process.poll() is None:
            if begun():
                for what, name in (("worker's host", "chief-0"), ("Master's host", "ps-0")):
                    kilobytes = float(host(name).check_output("sudo bash -c %s", PSS))
                    most[what] = max(most[what], kilobytes * 1024 / 1e6)
            time.sleep(1)
    return most, most["Master's host"]


ROWS = {
    "inception": Row(
        f"Inception v3, {PHOTOS} TIFFs of 1024 x 768: images a processor second through Spark ÷ in a bare loop",
        "≥ 0.95",
        lambda session: efficiency(session, "inception", "inference/photos", "tif"),
    ),
    "resnet": Row(
        "ResNet-44, 10,000 images of 32 x 32 from TFRecord files: the same",
        "≥ 0.88",
        lambda session: efficiency(session, "resnet", "cifar10", "tfrecord", infer_files="eval-*"),
    ),
    "first": Row("infer.yml on a running fleet of 3 hosts, start → first predictions, seconds", "≤ 60", first),
    "memory": Row(
        "PSS of Spark's Java and Python's daemon, Master's host (aim of a worker's: 600), MB", "≤ 900", memory
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure rows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="only these")
    chosen = parser.parse_args(argv).rows or list(ROWS)
    with fleet() as session:
        make(session)
        measure(PAGE, "Inference", ROWS, chosen, session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
