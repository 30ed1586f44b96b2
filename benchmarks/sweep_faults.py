#!/usr/bin/env python3
"""Strikes a fleet in the lab that sweeps with every fault, and writes its table in docs/faults.md.

    .venv/bin/python -m benchmarks.sweep_faults                    (root; half an hour)
    .venv/bin/python -m benchmarks.sweep_faults worker PostgreSQL  (only faults with one of these in their names)

Each fault has a sweep of its own, 120 networks over 2,000 rows. After it the stored rows are held against the sweep:
whatever has happened, each network has one. The table's first row is a sweep that nothing happens to.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import boto3
import numpy as np

from benchmarks.faults import KILL, STOP, cut, lose, on
from benchmarks.inference_faults import STATE, Fault, Outcome, nothing, restarts, strike, strike_all, unit, write
from benchmarks.staging import OPTIONS, grow
from tests.support.commands import user_runs
from tests.support.fleet import BUCKET, INVENTORY
from tests.support.lab import upload

MARKS = ("<!-- made by benchmarks/sweep_faults.py -->\n", "<!-- end of sweeps -->\n")
HEAD = """
| fault | started again by systemd | no new row for | its time ÷ a sweep's without a fault | failed networks | | on |
|---|---|---|---|---|---|---|
"""
NETWORKS = 120
PHASES = ("provision", "node", "hdfs", "tensorflow")
UNITS = ("flotilla-sweep", "flotilla-trials@0", "flotilla-trials@1", "hadoop-namenode", "hadoop-datanode")
SWEEP = f"""
data: table.csv
label: kind
trials: {NETWORKS}
epochs: 20
best: 1
vary:
  layers: [1, 2, 3]
  nodes: {{from: 8, to: 64}}
"""
# Begins the first sweep anew with another target, as the page does.
BEGIN = f"""
import dataclasses, pathlib, shutil, sys
from flotilla.sweep import control
from flotilla.sweep.settings import load_config
folder, target = pathlib.Path("{STATE}"), sys.argv[1]
first = next(one for one in folder.glob("sweeps/*/sweep.json") if (one.parent / "table.csv").exists())
text = (first.parent / "faults.yml").read_text().replace("trials: {NETWORKS}", f"trials: {{sys.argv[2]}}")
name, here = control.directory(folder, text, "", target)
(here / "faults.yml").write_text(text)
shutil.copy(first.parent / "table.csv", here)
config = load_config(first)
control.begin(folder, dataclasses.replace(
    config, sweep=str(here / "faults.yml"), table=str(here / "table"), target=target, database=f"sweep_{{name}}",
    shared=config.shared.rpartition("/")[0] + "/" + name,
))
"""
POSTGRES = "postgresql@15-main"


def away() -> None:
    """Have PostgreSQL's host ask nobody for so long: it is stopped by a signal, and goes on."""
    on("ps-0", f"{STOP} {POSTGRES}")
    time.sleep(60)
    on("ps-0", f"systemctl kill --signal=CONT {POSTGRES}")


def killed() -> None:
    on("ps-0", f"{KILL} {POSTGRES}; sleep 5; systemctl restart {POSTGRES}")


def fill() -> None:
    """Leave PostgreSQL's disk no room, by a small one in its place."""
    folder = "/var/lib/postgresql/15/main"
    on(
        "ps-0",
        f"systemctl stop {POSTGRES}; cp -a {folder} {folder}.there; mount -t tmpfs -o size=$(($(du -sm {folder} | "
        f"cut -f1) + 24))m,mode=700,uid=$(id -u postgres),gid=$(id -g postgres) tmpfs {folder}; "
        f"cp -a {folder}.there/. {folder}; systemctl start {POSTGRES}; "
        f"sudo -u postgres sh -c 'cat /dev/zero > {folder}/fill' 2>/dev/null; true",
    )


def empty() -> None:
    on("ps-0", "rm /var/lib/postgresql/15/main/fill")


FAULTS = [
    Fault("nothing", nothing),
    Fault("a worker killed (SIGKILL)", unit(KILL, "flotilla-trials@0", "chief-0")),
    Fault("a worker frozen (SIGSTOP)", unit(STOP, "flotilla-trials@0", "chief-0")),
    Fault("the lead killed (SIGKILL)", unit(KILL, "flotilla-sweep", "ps-0")),
    Fault("the lead frozen (SIGSTOP)", unit(STOP, "flotilla-sweep", "ps-0")),
    Fault("PostgreSQL killed (SIGKILL), and started again", killed),
    Fault("PostgreSQL frozen (SIGSTOP) for 60 s", away),
    Fault("PostgreSQL's disk full for 60 s", fill, 60, empty),
    Fault("the NameNode frozen (SIGSTOP)", unit(STOP, "hadoop-namenode", "ps-0")),
    Fault("the network of a worker's host cut for 60 s", functools.partial(cut, "chief-0", 60), 61),
    Fault("a worker's host gone for good", functools.partial(lose, "worker-0")),
]


def begin(target: str, networks: int = NETWORKS) -> None:
    """Have the fleet begin a sweep like the first one, into a target of its own."""
    python = f"sudo -u flotilla /opt/sweep/bin/python -c '{BEGIN}' {target} {networks}"
    on(
        "ps-0",
        f"rm -f {STATE}/sweep.done {STATE}/progress/sweep.json; {python}; sleep 1; systemctl is-active flotilla-sweep",
    )


def stored(target: str, session: boto3.Session) -> list[dict[str, str]]:
    """Return the rows of a sweep that is done."""
    key = target.removeprefix(f"s3://{BUCKET}/") + "trials.csv"
    body = session.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"]
    return list(csv.DictReader(io.TextIOWrapper(body, encoding="utf-8")))


def run(fault: Fault, session: boto3.Session) -> Outcome:
    """Begin a sweep, strike when a quarter is done, and watch it to its end."""
    target = f"s3://{BUCKET}/models/sweeps/fault-{time.time():.0f}/"
    last = fault is FAULTS[-1]
    before = {} if last else restarts(UNITS)
    began = time.time()
    begin(target)
    stood, ended, words = strike("sweep", fault, NETWORKS // 4)
    if words:
        return Outcome(fault.name, 0, 0, {}, 0, words)
    after = {} if last else restarts(UNITS)
    rows = stored(target, session)
    failed = sum(one["state"] == "failed" for one in rows)
    numbers = sorted(int(one["number"]) for one in rows)
    wrong = "" if numbers == list(range(NETWORKS)) else f"{len(rows)} rows of {NETWORKS}"
    again = {name: after[name] - before[name] for name in after if after[name] > before[name]}
    return Outcome(fault.name, stood, ended - began, again, failed, wrong)


def main(argv: Sequence[str] | None = None) -> int:
    """Raise a fleet, strike it, and write the table; return 1 where a row is missing or there is one too many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=[""], metavar="WORD", help="only faults with it in their names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet for the next run")
    options = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS[1:] if any(word in fault.name for word in options.words)]
    if not chosen:
        parser.error(f"no fault has any of {options.words} in its name")
    raise_fleet(OPTIONS)
    session = boto3.Session(profile_name="flotilla-lab")
    told = functools.partial(write, faults=FAULTS, marks=MARKS, head=HEAD)
    problems = strike_all([FAULTS[0], *chosen], functools.partial(run, session=session), told)
    if not options.keep:
        user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
        user_runs("scripts/lab", "down")
    return problems


def raise_fleet(options: Mapping[str, object]) -> None:
    """Make a fleet that has done a first sweep."""
    user_runs("scripts/lab", "up")
    upload("cifar10")
    grow(options, PHASES)
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(1)
        rows = generator.normal(size=(2000, 10)).round(4)
        kinds = np.where(rows[:, 0] * rows[:, 1] + rows[:, 2] > 0, "a", "b")
        lines = [",".join([*map(str, row), kind]) for row, kind in zip(rows, kinds, strict=True)]
        head = ",".join([*(f"c{number}" for number in range(10)), "kind"])
        (Path(folder) / "table.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
        (Path(folder) / "faults.yml").write_text(SWEEP, encoding="utf-8")
        user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/sweep.yml", "-e",
                  json.dumps({**options, "sweep": f"{folder}/faults.yml"}))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
