#!/usr/bin/env python3
"""Measures staging against its two ends alone, on a fleet in the lab, and writes benchmarks/staging.md.

    .venv/bin/python -m benchmarks.staging              (root; half an hour; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.staging large hosts  (only these rows)

A row's seconds are of one run: S3's own read and HDFS's own write, of bytes from memory, by as many threads as staging
has, and then the staging between the two. The lab's S3 is a program in Python on the same processors as all hosts: the
ratios say what staging adds, the seconds nothing about AWS. So the bound of a row is the slower of the two ends, or the
processors' time that both of them need together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

import boto3
from moto import mock_aws

from benchmarks.life import machine
from tests.support.commands import user_runs
from tests.support.fleet import BUCKET, INVENTORY, host
from tests.support.lab import limit, upload

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "benchmarks/staging.md"
HOSTS = ("ps-0", "chief-0", "worker-0")
GROUPS = {"count": 1, "instance_type": "t3.large"}
OPTIONS = {
    "fleet_groups": {"ps": GROUPS, "chief": GROUPS, "worker": GROUPS, "evaluator": {"enabled": False}},
    "fleet_baked": "never",
}
PHASES = ("provision", "node", "hdfs", "tensorflow", "stage")
MB, KB = 1_000_000, 1_000
LARGE = [125 * MB] * 8
SMALL = [10 * KB] * 20_000
LARGER = [125 * MB] * 24
HUGE = 5_100 * MB
MANY = 100_000
STORE = "models/"  # in the bucket: store_target of the tests' inventory
WIRE = 512  # Mbit/s
SHARE = 0.4  # of a processor, for each of several hosts: together they have less than there is

# What a host runs, as the user of its tasks: one end alone, or both.
PROGRAM = """
import json, os, resource, shutil, sys, time
what, source, target, share, shares, copies = *sys.argv[1:4], *map(int, sys.argv[4:7])
if copies:
    conf = f"/tmp/conf-{os.getpid()}"
    shutil.copytree("/etc/hadoop", conf)
    site, of = open(conf + "/hdfs-site.xml").read(), "<name>dfs.replication</name><value>%d<"
    open(conf + "/hdfs-site.xml", "w").write(site.replace(of % 3, of % copies))
    os.environ["HADOOP_CONF_DIR"] = conf
from concurrent.futures import ThreadPoolExecutor
from flotilla import stage
from flotilla.storage.files import open_folder
from flotilla.storage.s3 import CHUNK, Prefix
prefix = Prefix(source)
data = stage.load(prefix)
mine = data.share(share, shares)
small = sum(entry.size for entry in mine) < stage.SMALL * len(mine)
pool = ThreadPoolExecutor(stage.MANY_THREADS if small else stage.THREADS)
began = time.monotonic()
if what == "read":
    list(pool.map(lambda entry: sum(map(len, prefix.stream(entry.path))), mine))
elif what == "write":
    folder, block = open_folder(target), os.urandom(CHUNK)
    parts = lambda size: [block] * (size // CHUNK) + [block[: size % CHUNK]]
    list(pool.map(lambda entry: folder.write(entry.path, parts(entry.size)), mine))
elif what == "begin":
    stage.check(prefix, stage.Target(target), begin=True)
else:
    stage.run(prefix, stage.Target(target), share, shares)
seconds = time.monotonic() - began
print(json.dumps({"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


class Result(TypedDict):
    """What a row has measured."""

    row: str
    figures: dict[str, float]  # seconds, bytes
    value: float  # what is compared with the aim
    at: str
    commit: str
    machine: str


@dataclass(frozen=True)
class Row:
    """A row of the page."""

    what: str
    aim: str
    measure: Callable[[boto3.Session], tuple[dict[str, float], float]]
    show: Callable[[dict[str, float]], str] | None = None  # the figures below the table, where they are many


def run(name: str, what: str, source: str, share: int = 0, shares: int = 1, copies: int = 0) -> dict[str, float]:
    """Run PROGRAM on a host, with so many copies of each block in the place of the fleet's (0).

    Returns its seconds, and the most memory that it had, in bytes.
    """
    there = host(name)
    unit = "systemctl show --value flotilla-stage --property"
    files = re.findall(r"^(\S+) \(ignore", there.check_output(f"{unit} EnvironmentFiles"), re.MULTILINE)
    properties = [f"--property=EnvironmentFile={file}" for file in files]
    properties += [f"--setenv={one}" for one in there.check_output(f"{unit} Environment").split()]
    properties += ["--property=User=flotilla", "--property=WorkingDirectory=/var/lib/flotilla"]
    command = ["sudo", "systemd-run", "--quiet", "--wait", "--pipe", "--collect", *properties]
    target = f"hdfs://ps-0:8020/datasets/{'alone' if what == 'write' else 'staged'}"
    command += ["/opt/tensorflow/bin/python", "-c", PROGRAM, what, source, target, *map(str, (share, shares, copies))]
    said = there.check_output(" ".join(["%s"] * len(command)), *command)
    return dict(json.loads(said.splitlines()[-1]))


def clean() -> None:
    """Delete what an earlier run has written to HDFS, and wait until the machine is at rest."""
    host("ps-0").check_output("sudo -u hdfs hdfs dfs -rm -r -f -skipTrash '/datasets/staged*' '/datasets/alone*'")
    before = -1.0
    while busy() - before > 0.5:  # DataNodes delete the blocks later
        before = busy()
        time.sleep(5)


def put(session: boto3.Session, name: str, sizes: Sequence[int]) -> str:
    """Put objects of these sizes into the lab's S3, where the hosts may read; returns their folder."""
    s3, name = session.client("s3"), f"{STORE}{name}"
    there = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/", MaxKeys=1).get("Contents")
    block = os.urandom(max(sizes))
    if not there:
        with ThreadPoolExecutor(8) as pool:
            numbered = enumerate(sizes)
            list(
                pool.map(
                    lambda one: s3.put_object(Bucket=BUCKET, Key=f"{name}/part-{one[0]:06}", Body=block[: one[1]]),
                    numbered,
                )
            )
    return f"s3://{BUCKET}/{name}/"


def busy() -> float:
    """Return the seconds that this machine's processors have worked since it began."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    return sum(int(fields[at]) for at in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def ends(session: boto3.Session, name: str, sizes: Sequence[int], mbit: float = 0) -> tuple[dict[str, float], float]:
    """Return the seconds of both ends alone and of the staging, and the bound's ÷ the staging's.

    The bound is the slower end, or, where that takes longer, what S3, the hosts and their HDFS need for both ends of
    the processors that they share here.
    """
    source = put(session, name, sizes)
    figures: dict[str, float] = {}
    try:
        for one in HOSTS:
            limit(one, 0, mbit=mbit)
        for what, said in (("read", "S3's read"), ("write", "HDFS's write"), ("stage", "staging")):
            clean()
            if what == "stage":
                run("chief-0", "begin", source)
            before = busy()
            figures[said] = run("chief-0", what, source)["seconds"]
            figures[f"processors, {said}"] = busy() - before
    finally:
        for one in HOSTS:
            limit(one, 0)
    figures["slower end"] = max(figures["S3's read"], figures["HDFS's write"])
    both = figures["processors, S3's read"] + figures["processors, HDFS's write"]
    figures["processors for both ends"] = both / (os.cpu_count() or 1)
    return figures, max(figures["slower end"], figures["processors for both ends"]) / figures["staging"]


def hosts(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds of one host and of three of equal shares of a processor, and the first ÷ the second.

    Of each block there is one copy: with three, each of three hosts stores every block, whoever copies it from S3.
    """
    source = put(session, "large", LARGE)
    try:
        for name in HOSTS:
            limit(name, SHARE)
        clean()
        run("chief-0", "begin", source)
        one = run("chief-0", "stage", source, copies=1)["seconds"]
        clean()
        run("chief-0", "begin", source)
        with ThreadPoolExecutor(len(HOSTS)) as pool:
            each = [pool.submit(run, name, "stage", source, index, len(HOSTS), 1) for index, name in enumerate(HOSTS)]
            three = max(one.result()["seconds"] for one in each)
    finally:
        for name in HOSTS:
            limit(name, 0)
    return {"one host": one, "three": three}, one / three


def memory(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the most memory that staging 1 GB and 3 GB took, means of three, and the second ÷ the first."""
    found = []
    for name, sizes in (("large", LARGE), ("larger", LARGER)):
        source, most = put(session, name, sizes), []
        for _time in range(3):
            clean()
            run("chief-0", "begin", source)
            most.append(run("chief-0", "stage", source)["memory"] / MB)
        found.append(sum(most) / len(most))
    return {"MB for 1 GB": found[0], "MB for 3 GB": found[1]}, found[1] / found[0]


def little(session: boto3.Session) -> tuple[dict[str, float], float]:
    """Stage and train on 3 GB on hosts of 1 GiB; return how many tasks and daemons were killed meanwhile."""
    options = {
        **OPTIONS, "dataset_source": copies(session),
        "job": "little", "training_max_steps": 400,
        "hdfs_namenode_heap_mb": 128, "hdfs_datanode_heap_mb": 128,  # as the role has it where there is 1 GiB
    }  # fmt: skip
    lenet = (ROOT / "networks/lenet.yml").read_text(encoding="utf-8")
    began = time.monotonic()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(lenet.replace("  input: {image: [28, 28, 1]}\n", ""))
            file.flush()
            grow({**options, "training_network": file.name}, ("provision",))
            for name in HOSTS:
                limit(name, 0, gib=1)
            grow({**options, "training_network": file.name}, ("hdfs", "stage", "train"))
        asked = "journalctl --quiet --output=cat --identifier=systemd --grep='status=9/KILL|oom-kill' | wc -l"
        killed = sum(int(host(name).check_output(f"sudo {asked}")) for name in HOSTS)
    finally:
        for name in HOSTS:
            limit(name, 0)
    return {"s": time.monotonic() - began}, float(killed)


def huge(_session: boto3.Session) -> tuple[dict[str, float], float]:
    """Upload one object that S3 takes in parts alone, and stage it; return its GB on HDFS."""
    source = f"s3://{BUCKET}/{STORE}huge/"
    clean()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "huge.bin").open("wb") as file:
            file.truncate(HUGE)
        user_runs("python", "scripts/dataset.py", "upload", folder, source, "--profile", "flotilla-lab")
    figures = {"s to upload": time.monotonic() - began}
    run("chief-0", "begin", source)
    figures["s to stage"] = run("chief-0", "stage", source)["seconds"]
    size = host("ps-0").check_output("sudo -u hdfs hdfs dfs -stat %b /datasets/staged/huge.bin")
    return figures, int(size) / 1e9


def copies(session: boto3.Session) -> str:
    """Put 20 copies of CIFAR-10's training part into the lab's S3, 3 GB; return their folder."""
    s3, to = session.client("s3"), "copies/"
    content = json.loads(s3.get_object(Bucket=BUCKET, Key="cifar10/manifest.json")["Body"].read())
    files = []
    for file in content["files"]:
        for number in range(20 if file["split"] == "train" else 1):
            files.append({**file, "path": f"{number:02}-{file['path']}"})
            source = {"Bucket": BUCKET, "Key": f"cifar10/{file['path']}"}
            s3.copy_object(Bucket=BUCKET, Key=f"{to}{files[-1]['path']}", CopySource=source)
    s3.put_object(Bucket=BUCKET, Key=f"{to}manifest.json", Body=json.dumps({**content, "files": files}).encode())
    return f"s3://{BUCKET}/{to}"


def listing(_session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the seconds of a bare listing of many objects, and with all that is judged of them, and their ratio."""
    sys.path.append(str(ROOT / "collections"))
    from ansible_collections.flotilla.kit.plugins.module_utils import dataset_manifest
    from moto.s3.models import s3_backends

    with mock_aws():
        s3 = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        s3.create_bucket(Bucket="many")
        backend = next(iter(s3_backends["123456789012"].values()))
        for number in range(MANY):
            backend.put_object("many", f"folder/{number:06}.jpg", b"x" * (number % 7 + 1))
        seconds = []
        for judge in (False, True):
            began = time.process_time()
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket="many", Prefix="folder/")
            found = [dict(one) for page in pages for one in page["Contents"]]
            if judge:
                judged, problems = dataset_manifest.check_objects(found, "folder/", "s3://many/folder/")
                assert judged and not problems and len(judged["sizes"]) == MANY
            seconds.append(time.process_time() - began)
    return {"listing": seconds[0], "listing and judging": seconds[1]}, seconds[1] / seconds[0]


ROWS = {
    "large": Row("1 GB in 8 objects: the bound ÷ staging", "≥ 0.9", lambda session: ends(session, "large", LARGE)),
    "wire": Row(
        f"the same, hosts' networks at {WIRE} Mbit/s, as a t3.large's for good", "≥ 0.9",
        lambda session: ends(session, "large", LARGE, WIRE),
    ),
    "small": Row(
        "20,000 objects of 10 KB: the bound ÷ staging", "≥ 0.8", lambda session: ends(session, "small", SMALL)
    ),
    "hosts": Row(f"1 GB by one host ÷ by three, each with {SHARE} of a processor, one copy", "≥ 2.5", hosts),
    "memory": Row("memory of staging 3 GB ÷ 1 GB", "1", memory),
    "little": Row("3 GB staged and trained on by hosts of 1 GiB: killed meanwhile", "0", little),
    "huge": Row("one object of 5.1 GB, uploaded and staged: GB on HDFS", "5.1", huge),
    "listing": Row("100,000 objects listed and judged ÷ listed", "≤ 1.5", listing),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure rows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="only these")
    chosen = parser.parse_args(argv).rows or list(ROWS)
    with fleet() if chosen != ["listing"] else contextlib.nullcontext(boto3.Session()) as session:
        measure(PAGE, "Staging", ROWS, chosen, session)
    return 0


def grow(options: Mapping[str, object], phases: Sequence[str] = PHASES) -> None:
    """Make a fleet as these options have it, up to the last of the phases."""
    for phase in phases:
        user_runs("ansible-playbook", "-i", INVENTORY, f"playbooks/{phase}.yml", "-e", json.dumps(options))


@contextlib.contextmanager
def fleet(phases: Sequence[str] = PHASES) -> Iterator[boto3.Session]:
    """A fleet of three hosts in the lab, with CIFAR-10 in its S3, and staged, as a session of its account."""
    user_runs("scripts/lab", "up")
    upload("cifar10")
    grow(OPTIONS, phases)
    yield boto3.Session(profile_name="flotilla-lab")
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    user_runs("scripts/lab", "down")


def measure(page: Path, title: str, rows: Mapping[str, Row], chosen: Sequence[str], session: boto3.Session) -> None:
    """Measure rows, one after the other, and write the page after each."""
    for name in chosen:
        figures, value = rows[name].measure(session)
        print(f"{name}: {value:.2f} {figures}", flush=True)
        keep(page, name, figures, value)
        write(page, title, rows)


def keep(page: Path, name: str, figures: dict[str, float], value: float) -> None:
    """Write down a row's result beside its page."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: Result = {
        "row": name,
        "figures": figures,
        "value": value,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": machine(),
    }
    with page.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def write(page: Path, title: str, rows: Mapping[str, Row]) -> None:
    """Write a page, of each row's last result."""
    lines = page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    results: list[Result] = [json.loads(line) for line in lines]
    last = {result["row"]: result for result in results}
    lines = [f"# {title}", "", f"Made by `python -m benchmarks.{page.stem}`, whose head says how.", ""]
    lines += ["| | aim | measured | of | on |", "|---|---|---|---|---|"]
    below = []
    for name, row in rows.items():
        if name in last:
            result = last[name]
            figures = ", ".join(f"{what} {value:.3g}" for what, value in result["figures"].items())
            if row.show:
                figures = "see below"
                below += ["", f"## {row.what}", "", row.show(result["figures"])]
            where = f"{result['at'][:10]}, {result['machine']}, {result['commit']}"
            lines.append(f"| {row.what} | {row.aim} | {result['value']:.2f} | {figures} | {where} |")
    page.write_text("\n".join([*lines, *below]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
