#!/usr/bin/env python3
"""Measures one training process that has all of this machine's cores, and writes its part of docs/benchmarks.md.

    .venv/bin/python -m benchmarks.process          (root; 50 minutes; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.process speed    (or accuracy, or memory: only that)

What is compared runs in turns, in rounds, and the ratios are those within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.faults import on, put, reported
from benchmarks.training import KIT, PAGE, REPEATS, measure, prepare, spread, start, stop
from tests.support.commands import user_runs, wait_until
from tests.support.fleet import INVENTORY, host
from tests.support.lab import upload

ROOT = Path(__file__).parent.parent
CHIEF = "chief-0"
LOCAL = "/var/tmp/data"
BARE = "/var/tmp/bare.py"
ONE = "one process, data on HDFS, float32"
DISK = "its data on the local disk"
LOOP = "a tf.function in a loop instead of Estimator (bare.py)"
SERVED = "a chief with its parameter server"
HALF = "bfloat16"
SPEEDS: dict[str, tuple[dict[str, Any], str]] = {  # what differs from the fleet's job, and what Python runs
    ONE: ({"cluster": {}}, KIT),
    DISK: ({"cluster": {}, "data_dir": LOCAL}, KIT),
    LOOP: ({"cluster": {}}, BARE),
    SERVED: ({}, KIT),
    HALF: ({"cluster": {}, "precision": "bfloat16"}, KIT),
}
RATIOS = (
    ("Estimator, of the loop", ONE, LOOP, "≥ 0.95"),
    ("a chief with its parameter server, of one process", SERVED, ONE, "≥ 0.92"),
    ("data on HDFS, of the local disk", ONE, DISK, "≥ 0.98"),
    ("bfloat16, of float32", HALF, ONE, ""),
)
SEEDS = (1, 2)
ACCURACY = {"max_steps": 1000, "warmup_steps": 100, "learning_rate_epochs": [1.5, 2.5, 3.0]}
STEPS, SMALL = 10_000, {"batch_size": 8}


def speed(job: dict[str, Any]) -> str:
    """Compare examples/s."""
    on(CHIEF, f"rm -rf {LOCAL}; sudo -u flotilla hdfs dfs -get {job['data_dir']} {LOCAL}")
    host(CHIEF).check_output("printf %%s %s > %s", (ROOT / "benchmarks/bare.py").read_text(), BARE)
    found: dict[str, list[float]] = {name: [] for name in SPEEDS}
    for _round in range(REPEATS):
        for name, (changes, program) in SPEEDS.items():
            rate = measure({**job, **changes}, [CHIEF], {}, program) * job["batch_size"]
            found[name].append(rate)
            print(f"{name}: {rate:.1f} examples/s", flush=True)
    lines = [f"ResNet-44, batches of {job['batch_size']}; means and standard deviations of {REPEATS} runs:", ""]
    lines += ["| | examples/s |", "|---|---|"]
    lines += [f"| {name} | {spread(rates, 1)} |" for name, rates in found.items()]
    lines += ["", "| | ratio | aim |", "|---|---|---|"]
    for what, one, other, aim in RATIOS:
        ratios = [a / b for a, b in zip(found[one], found[other], strict=True)]
        lines.append(f"| {what} | {spread(ratios, 3)} | {aim} |")
    return "\n".join(lines)


def accuracy(job: dict[str, Any]) -> str:
    """Compare what short trainings in both precisions have learned."""
    lines = [f"After {ACCURACY['max_steps']} steps, of {len(SEEDS)} trainings each:", ""]
    lines += ["| | accuracy | loss |", "|---|---|---|"]
    for precision in ("float32", "bfloat16"):
        found = []
        for seed in SEEDS:
            folder = f"{job['model_dir']}-{precision}-{seed}-{time.time():.0f}"
            run = {"cluster": {}, "precision": precision, "seed": seed, "model_dir": folder}
            start({**job, **ACCURACY, **run}, [CHIEF])
            wait_until(lambda: on(CHIEF, "systemctl is-active alone; true").strip() != "active", 1200, "a model")
            result = json.loads(on(CHIEF, f"sudo -u flotilla hdfs dfs -cat {folder}/result.json"))
            found.append(result["metrics"])
            print(precision, seed, found[-1], flush=True)
        cells = (spread([each[key] for each in found], 3) for key in ("accuracy", "loss"))
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(job: dict[str, Any]) -> str:
    """Say how many megabytes a chief has resident, in the course of STEPS steps."""
    began = time.time()
    units = start({**job, **SMALL, "model_dir": f"{job['model_dir']}-{began:.0f}"}, [CHIEF])
    resident: dict[int, int] = {}
    program = on(CHIEF, f"systemctl show --property=MainPID --value {units[CHIEF]}").strip()
    while len(resident) < 10:
        time.sleep(5)
        on(CHIEF, f"test -e /proc/{program}")  # the first one, all the time
        step = max((step for _, step in reported(CHIEF, units[CHIEF], began)), default=0)
        if step >= STEPS * (len(resident) + 1) // 10:
            status = on(CHIEF, f"grep VmRSS /proc/{program}/status")
            resident[step] = int(status.split()[1]) // 1024
            print(f"step {step}: {resident[step]} MB", flush=True)
    stop()
    sizes = ", ".join(f"{size} MB at step {step}" for step, size in resident.items())
    return f"Memory of a chief that makes {STEPS} steps (batches of {SMALL['batch_size']}): {sizes}."


PARTS = {"speed": speed, "accuracy": accuracy, "memory": memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Raise a fleet, measure, and write each part of the page as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="measure this only")
    part = parser.parse_args(argv).part
    user_runs("scripts/lab", "up", seconds=300)
    upload("cifar10")
    job = prepare("ResNet-44")
    job["cluster"]["worker"] = []  # nobody starts them
    for name in [part] if part else PARTS:
        found = PARTS[name](job)
        print(found, flush=True)
        marks = (f"<!-- made by benchmarks/process.py {name} -->\n", "<!-- end -->\n")
        put(PAGE, marks, f"\n{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores. {found}\n\n")
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    user_runs("scripts/lab", "down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
