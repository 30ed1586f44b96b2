#!/usr/bin/env python3
"""Measures inference on a fleet in the lab, and writes benchmarks/inference.md.

    .venv/bin/python -m benchmarks.inference              (root; half an hour; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.inference resnet first  (only these rows)

What Spark costs is told in processor seconds, which other work on the machine changes least: those of the tasks' Python
(time.process_time, once the model is loaded and was called) and of Java's threads in the executors (Spark's
executorCpuTime, which leaves Python out altogether; the thesis took it for the whole), against those of a loop on one
of the hosts that knows nothing of the kit, and reads, decodes and classifies the same objects, with one thread, too. As
many of these loops run at once as Spark has tasks, each on its share: more processes than processors cost each of them
time.

Executors scale on hosts of one task each that all have the same share of the processors. A run's time is from when all
its executors have done their first task, which loads TensorFlow and the model, to the last task's end, and for as many
tasks as there are. Runs of 1, 2 and 4 executors are side by side, and that of 8 has the machine for itself: processors
that share a core or memory are slower when all have work, which would else be taken for Spark's doing.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from matplotlib import pyplot

from benchmarks.staging import GROUPS, HOSTS, OPTIONS, PHASES, Row, fleet, grow, measure
from benchmarks.training import PLOTS, limit
from tests.support.fleet import BUCKET, INVENTORY, host, manifest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "benchmarks/inference.md"
PYTHON = ROOT / ".venv-training/bin/python"
PHOTOS = 150  # of 1024 x 768, as the thesis has them
BATCH = 32
TASKS = 6  # of the fleet: two on each of three hosts
FIGURES = ("elapsedTime", "executorRunTime", "executorCpuTime", "executorDeserializeTime", "jvmGcTime")
SHAPES = {  # executors a host x processors of each: Spark's settings
    "2 x 1": {"spark.executor.cores": 1},
    "1 x 1": {"spark.executor.cores": 1, "spark.cores.max": len(HOSTS)},
}
MADE = "models/inference"  # below the models' folder, which hosts may read and write from the beginning
BEGAN = f"{time.time():.0f}"  # in the names of what is stored: an earlier run's isn't this one's
TARGETS, EVENTS = f"models/predictions-{BEGAN}", f"hdfs://ps-0:8020/user/flotilla/spark-{BEGAN}"
RAISED = PHASES[: PHASES.index("stage")]  # what inference needs
EXECUTORS = (1, 2, 4, 8)
SCALING_HOSTS = ("chief-0", *(f"worker-{number}" for number in range(max(EXECUTORS) - 1)))  # the driver's is ps-0
SHARE = (os.cpu_count() or 1) / 10  # processors that each of them has, and something for driver and S3
FILES, EACH = 96, 120  # TFRecord files, each of which is a task, and their images

# Writes the models and the photos of the rows: made from two that scikit-learn ships, each a crop of its own.
MAKE = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from PIL import Image
folder, images, (photos, files, each) = Path(sys.argv[1]), Path(sys.argv[2]), map(int, sys.argv[3:])
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
(folder / "records").mkdir()
rng = np.random.default_rng(1)

def crop(number, height, width):
    whole = np.asarray(Image.open(images / ("china.jpg", "flower.jpg")[number % 2]))
    top, left = rng.integers(0, 420 - height), rng.integers(0, 620 - width)
    return Image.fromarray(whole[top:top + height, left:left + width])

for number in range(photos):
    crop(number, 380, 560).resize((1024, 768)).save(folder / f"photos/{number:04}.tif")
for file in range(files):
    with tf.io.TFRecordWriter(str(folder / f"records/{file:04}.tfrecord")) as writer:
        for number in range(each):
            raw = tf.train.BytesList(value=[tf.io.encode_png(np.asarray(crop(number, 32, 32))).numpy()])
            features = tf.train.Features(feature={"image": tf.train.Feature(bytes_list=raw)})
            writer.write(tf.train.Example(features=features).SerializeToString())
"""

# Prints where a host has a model, which it copies there if need be.
FETCH = """
import sys
from flotilla.inference import saved_model
print(saved_model.fetch(saved_model.locate(sys.argv[1]), "/var/lib/flotilla/models"))
"""

# What a host runs beside: nothing of the kit's. Prints the processor seconds, of Python and all its threads.
BARE = """
import io, json, sys, time
import boto3, numpy as np, tensorflow as tf
from PIL import Image
model, bucket, prefix, (batch, mine, all_) = *sys.argv[1:4], map(int, sys.argv[4:7])
s3 = boto3.client("s3")
call = tf.saved_model.load(model).signatures["serving_default"]
keys = [one["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for one in page["Contents"] if one["Key"].endswith((".tif", ".tfrecord"))]
photos = keys[0].endswith(".tif")
keys = keys[mine::all_] if photos else keys
read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()

def pictures():
    for key in keys:
        if photos:
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

count, began = 0, time.process_time()
for some in batches():
    if not count:  # the first call compiles
        first = time.process_time()
        call(image=tf.constant(some[:1]))
        began += time.process_time() - first
    call(image=tf.constant(some))["probabilities"].numpy().argmax(axis=1)
    count += len(some)
print(json.dumps({"cpu": time.process_time() - began, "count": count}))
"""


@dataclass(frozen=True)
class Work:
    """A model, and a folder of images for it."""

    name: str
    model: str
    source: str
    files: str = "*"

    @property
    def where(self) -> dict[str, str]:
        """The keys of a job's configuration that say so."""
        model, source = f"s3://{BUCKET}/{MADE}/{self.model}/", f"s3://{BUCKET}/{self.source}/"
        return {"model": model, "source": source, "files": self.files}


INCEPTION = Work("Inception v3", "inception", f"{MADE}/photos")
RESNET = Work("ResNet-44", "resnet", "cifar10", "eval-*")
RECORDS = Work("ResNet-44", "resnet", f"{MADE}/records")


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
        counts = map(str, (PHOTOS, FILES, EACH))
        subprocess.run([PYTHON, "-c", MAKE, folder, images, *counts], check=True, cwd=ROOT / "training")
        for file in Path(folder).rglob("*"):
            where = file.relative_to(folder).as_posix()
            if file.is_file() and not where.startswith("job/"):
                s3.upload_file(str(file), BUCKET, f"{MADE}/{where}")


def job(work: Work, name: str) -> dict[str, object]:
    """The variables of infer.yml."""
    where = {**work.where, "target": f"s3://{BUCKET}/{TARGETS}/{name}/", "batch": BATCH}
    return {**OPTIONS, **{f"infer_{name}": value for name, value in where.items()}}


@functools.cache
def raise_spark() -> None:
    """Have Spark on the fleet, once for all rows."""
    grow(job(RESNET, "first"), ["infer"])


def fetch(work: Work, names: Sequence[str] = HOSTS) -> str:
    """Have a work's model on these hosts, in the place of another one; returns its folder there."""
    with ThreadPoolExecutor(len(names)) as pool:
        arguments = ("/opt/spark/bin/python", "-c", FETCH, work.where["model"])
        folder, *_same = pool.map(lambda name: on(name, *arguments), names)
    return folder.strip()


def submit(session: boto3.Session, work: Work, name: str, settings: Mapping[str, object]) -> dict[str, Any]:
    """Run what infer.yml's unit runs, with further settings of Spark's; returns the predictions' manifest."""
    config = {
        **json.loads(host("ps-0").check_output("sudo cat /etc/flotilla/infer.json")), **work.where,
        "target": f"s3://{BUCKET}/{TARGETS}/{name}/", "event_log": f"{EVENTS}/{name}",
        "progress": "", "done_file": "",
    }  # fmt: skip
    settings = {**settings, "spark.eventLog.compress": "false"}
    arguments = " ".join(f"--conf {setting}={value}" for setting, value in settings.items())
    environment = ["SPARK_HOME=/opt/spark/home", "SPARK_CONF_DIR=/etc/spark", "SPARK_LOCAL_IP=127.0.0.1"]
    environment += [f"PYSPARK_SUBMIT_ARGS={arguments} pyspark-shell"]
    run = 'echo "$0" | /opt/spark/bin/python -m flotilla.infer run --config -'
    on("ps-0", "env", *environment, "sh", "-c", run, json.dumps(config))
    return manifest(session, f"{TARGETS}/{name}/manifest.json")


@functools.cache
def usual(session: boto3.Session, work: Work) -> dict[str, Any]:
    """Run a work as the kit does, once for all rows; returns the predictions' manifest."""
    raise_spark()
    fetch(work)
    return submit(session, work, f"{work.model}-usual", {})


def efficiency(session: boto3.Session, work: Work) -> tuple[dict[str, float], float]:
    """Return the processor seconds of 1,000 images through Spark and in a bare loop, and the second ÷ the first."""
    found = usual(session, work)
    folder, prefix = fetch(work), f"{work.source}/{work.files}".rstrip("*")

    def loop(number: int) -> dict[str, float]:
        shares = (str(BATCH), str(number), str(TASKS))
        name = HOSTS[number % len(HOSTS)]
        said = on(name, "/opt/spark/bin/python", "-c", BARE, folder, BUCKET, prefix, *shares)
        return dict(json.loads(said.splitlines()[-1]))

    with ThreadPoolExecutor(TASKS) as pool:
        loops = list(pool.map(loop, range(TASKS)))
    bare = {key: sum(one[key] for one in loops) for key in ("cpu", "count")}
    assert bare["count"] == found["rows"], (bare["count"], found["rows"])
    python, java = found["seconds_of_tasks"]["cpu"], found["seconds_of_spark"]["executorCpuTime"]
    figures = {
        "Python": 1000 * python / found["rows"], "Java": 1000 * java / found["rows"],
        "bare loop": 1000 * bare["cpu"] / bare["count"],
        "seconds of load and first call, once a task": found["seconds_of_tasks"]["load"] / TASKS,
    }  # fmt: skip
    return figures, figures["bare loop"] / (figures["Python"] + figures["Java"])


def shapes(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return Spark's figures of both works by how many executors a host has, and the kit's time ÷ the least."""
    figures: dict[str, float] = {}
    ratios = []
    for work in (INCEPTION, RESNET):
        found = {"1 x 2": usual(session, work)["seconds_of_spark"]}
        fetch(work)
        for shape, settings in SHAPES.items():
            name = f"{work.model}-{shape}".replace(" ", "")
            found[shape] = submit(session, work, name, settings)["seconds_of_spark"]
        ratios.append(found["1 x 2"]["elapsedTime"] / min(one["elapsedTime"] for one in found.values()))
        figures |= {f"{work.name}, {shape}: {name}": one[name] for shape, one in found.items() for name in FIGURES}
    return figures, max(ratios)


def show_shapes(figures: Mapping[str, float]) -> str:
    """Return Spark's figures as a table, a row for each work and shape."""
    lines = [f"| executors a host x tasks of each | {' | '.join(FIGURES)} |", f"|---{'|---:' * len(FIGURES)}|"]
    for row in dict.fromkeys(name.partition(":")[0] for name in figures):
        cells = (f"{figures[f'{row}: {name}']:.1f}" for name in FIGURES)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def scaling(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds of some numbers of executors, and the speed-up of the most ÷ the ideal one."""
    groups = {**OPTIONS["fleet_groups"], "worker": {**GROUPS, "count": max(EXECUTORS) - 1}}
    grow({**job(RECORDS, "wide"), "fleet_groups": groups, "spark_tasks": 1}, [*RAISED, "infer"])
    fetch(RECORDS, SCALING_HOSTS)
    host("ps-0").check_output("sudo systemctl stop spark-worker")  # the drivers have it for themselves
    for name in SCALING_HOSTS:
        limit(name, SHARE)

    def run(executors: int) -> float:
        name = f"scaling-{executors}"
        submit(session, RECORDS, name, {"spark.cores.max": executors})
        return passed(on("ps-0", "hdfs", "dfs", "-cat", f"{EVENTS}/{name}/*/events*"), executors)

    with ThreadPoolExecutor() as pool:
        seconds = [*pool.map(run, EXECUTORS[:-1]), run(EXECUTORS[-1])]
    return dict(zip(map(str, EXECUTORS), seconds, strict=True)), seconds[0] / seconds[-1] / EXECUTORS[-1]


def tasks_of(log: str) -> list[dict[str, Any]]:
    """Return the tasks that were done, by Spark's event log."""
    ended = [one["Task Info"] for one in map(json.loads, log.splitlines()) if one["Event"] == "SparkListenerTaskEnd"]
    return [one for one in ended if not one["Failed"] and not one["Killed"]]


def passed(log: str, executors: int) -> float:
    """Return the seconds that a run's tasks take once all executors have done one, by Spark's event log."""
    tasks = sorted((one["Finish Time"], one["Launch Time"], one["Executor ID"]) for one in tasks_of(log))
    first: dict[str, int] = {}
    for end, _begin, executor in tasks:
        first.setdefault(executor, end)
    assert len(first) == executors, first
    ready, last = max(first.values()), tasks[-1][0]
    done = sum(min(1, (end - ready) / (end - begin)) for end, begin, _executor in tasks if end > ready)
    return float((last - ready) / 1000 / done * len(tasks))


def show_scaling(figures: Mapping[str, float]) -> str:
    """Draw how much faster more executors are; return the picture, and the numbers as a table."""
    executors, one = [int(name) for name in figures], next(iter(figures.values()))
    faster = [one / seconds for seconds in figures.values()]
    pyplot.rcParams.update({"svg.hashsalt": "flotilla", "font.size": 11, "axes.spines.top": False})
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(executors, faster, label=RECORDS.name, color="#4c78a8", marker="o")
    axes.plot(executors, executors, color="grey", linestyle=":", label="ideal")
    axes.set(xlabel="executors of equal shares", ylabel="times as many images/s as one")
    axes.set_xticks(executors)
    axes.legend(frameon=False)
    figure.savefig(PLOTS / "speed-up-inference.svg", metadata={"Date": None})
    pyplot.close(figure)
    lines = ["| executors | seconds | times as fast | ÷ ideal |", "|---:|---:|---:|---:|"]
    for count, seconds, speed_up in zip(executors, figures.values(), faster, strict=True):
        lines.append(f"| {count} | {seconds:.1f} | {speed_up:.2f} | {speed_up / count:.2f} |")
    lines += ["", "![How many times as fast more executors are](../docs/images/speed-up-inference.svg)"]
    return "\n".join(lines)


WATCHED = {"worker's host": "chief-0", "Master's host": "ps-0"}
# Python's daemon is a child of Java's; its own children, the tasks, hold TensorFlow.
PSS = """
java=$(pgrep -f org.apache.spark)
for one in $(pgrep -f pyspark.daemon); do
  parent=$(ps -o ppid= -p $one | tr -d ' ')
  case $(ps -o comm= -p $parent) in java) java="$java $one" ;; esac
done
for one in $java; do cat /proc/$one/smaps_rollup; done 2>/dev/null | awk '/^Pss:/ {sum += $2} END {print sum + 0}'
"""


@functools.cache
def watched(session: boto3.Session) -> dict[str, float]:
    """Run infer.yml over CIFAR-10 on a fleet that has Spark.

    Returns the seconds from its start to the first part of the predictions, and then the most MB (PSS) of Spark's Java
    and Python's daemon on a worker's host and on the Master's.
    """
    raise_spark()
    s3, most = session.client("s3"), dict.fromkeys(("seconds", *WATCHED), 0.0)
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", INVENTORY, "playbooks/infer.yml"]
    command += ["-e", json.dumps(job(RESNET, "watched"))]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{TARGETS}/watched/parts/").get("Contents"):
                most["seconds"] = most["seconds"] or time.monotonic() - began
                for what, name in WATCHED.items():
                    kilobytes = float(host(name).check_output("sudo bash -c %s", PSS))
                    most[what] = max(most[what], kilobytes * 1024 / 1e6)
            time.sleep(0.5)
    assert process.returncode == 0
    return most


def memory(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the MB of Spark's Java and Python's daemon, and those on the Master's host again."""
    most = {what: watched(session)[what] for what in WATCHED}
    return most, most["Master's host"]


def first(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds until the first predictions."""
    return {}, watched(session)["seconds"]


def more(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds from the start of a Worker in the middle of a job to the end of its host's first task."""
    raise_spark()
    fetch(RESNET)
    there, s3 = host("worker-0"), session.client("s3")
    there.check_output("sudo systemctl stop spark-worker")
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(submit, session, RESNET, "more", {})
        while not s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{TARGETS}/more/parts/").get("Contents"):
            time.sleep(0.5)
            assert not whole.done()
        began = float(there.check_output("date +%s.%N; sudo systemctl start spark-worker"))
        whole.result()
    ended = tasks_of(on("ps-0", "hdfs", "dfs", "-cat", f"{EVENTS}/more/*/events*"))
    mine = [one["Finish Time"] / 1000 for one in ended if one["Host"] == "worker-0"]
    return {"of its tasks": len(mine), "of all": len(ended)}, min(mine) - began


ROWS = {
    "inception": Row(
        f"Inception v3, {PHOTOS} TIFFs of 1024 x 768: images a processor second through Spark ÷ in a bare loop",
        "≥ 0.95",
        lambda session: efficiency(session, INCEPTION),
    ),
    "resnet": Row(
        "ResNet-44, 10,000 images of 32 x 32 from TFRecord files: the same",
        "≥ 0.88",
        lambda session: efficiency(session, RESNET),
    ),
    "first": Row("infer.yml on a running fleet of 3 hosts, start → first predictions, seconds", "≤ 60", first),
    "memory": Row(
        "PSS of Spark's Java and Python's daemon, Master's host (aim of a worker's: 600), MB", "≤ 900", memory
    ),
    "more": Row("A Worker more in the middle of a job: its unit's start → its first rows, seconds", "≤ 60", more),
    "shapes": Row(
        "Seconds by executors a host x tasks of each: elapsedTime of 1 x 2, as the kit has it, ÷ the least",
        "1",
        shapes,
        show_shapes,
    ),
    "scaling": Row(
        f"{FILES * EACH:,} images of 32 x 32 by 1 to 8 executors, each with {SHARE:.2g} of a processor: speed-up ÷ 8",
        "≥ 0.9",
        scaling,
        show_scaling,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure rows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="only these")
    chosen = parser.parse_args(argv).rows or ROWS
    with fleet(RAISED) as session:
        make(session)
        measure(PAGE, "Inference", ROWS, [row for row in ROWS if row in chosen], session)  # scaling last: it adds hosts
    return 0


if __name__ == "__main__":
    sys.exit(main())
