#!/usr/bin/env python3
"""Measures training on lab hosts with equal shares of the processors, and writes docs/benchmarks.md with its plots.

    .venv/bin/python -m benchmarks.training           (root; an hour; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.training MNIST     (or ResNet-44: only this part)

The set-ups are those of the tables 3.3, 3.4 and 3.5 of the thesis that this kit follows, and of the speed-up that
"Distributed systems for neural networks" gives for its MNIST program.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.faults import on, put, raise_fleet, reported
from tests.support.commands import user_runs
from tests.support.fleet import INVENTORY
from tests.support.lab import limit, upload

matplotlib.use("svg")
from matplotlib import pyplot

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/benchmarks.md"
PLOTS = ROOT / "docs/images"
JOB = "/etc/flotilla/job.json"
KIT = "-m flotilla.train"  # what Python runs
PS = "ps-0"
TRAINERS = ("chief-0", "worker-0", "worker-1")  # each on the host of its name
SHARE = (os.cpu_count() or 1) / 5  # processors that a host has: four hosts, and something for everything else
REPEATS = 3
SETTLE_SECS = 10
MEASURE_SECS = 45
GROUP = {"instance_type": "t3.large"}
FLEET = {
    "fleet_groups": {
        "ps": {**GROUP, "count": 1},
        "chief": {**GROUP, "count": 1},
        "worker": {**GROUP, "count": len(TRAINERS) - 1},
        "evaluator": {"enabled": False},
    },
    "training_max_steps": 10_000_000,
    "store_mirror_minutes": 0,
}
PROGRAMS = {
    "ResNet-44": {"job": "resnet", "training_batch_size": 128},
    "MNIST": {
        "job": "mnist",
        "training_batch_size": 128,
        "dataset_source": "s3://flotilla-test/mnist/",
        "training_program": "training/programs/mnist.py",
        "training_arguments": ["--data-dir", "{data_dir}", "--model-dir", "{model_dir}", "--max-steps", "{max_steps}"],
    },
}
LOG_EVERY_STEPS = {"ResNet-44": 5, "MNIST": 100}


@dataclasses.dataclass(frozen=True)
class SetUp:
    """Who trains what, and how."""

    program: str
    trainers: int  # 0: one process, without a parameter server
    scheme: str = "estimator"
    sync: bool = False
    ps: float = 1.0  # the parameter server's part of a host's share
    source: str = ""  # what the source measured

    @property
    def name(self) -> str:
        """How the tables call it."""
        who = f"1 ps + {self.trainers}" if self.trainers else "one process"
        how = [who, "sync" if self.sync else "async" if self.trainers > 1 else ""]
        size = f"ps with {self.ps:g} of a share" if self.ps != 1 else ""
        return ", ".join(filter(None, [*how, "MonitoredTrainingSession" if self.scheme == "session" else "", size]))


SET_UPS = [
    SetUp("ResNet-44", 0, source="0.44 step/s, 54.9 examples/s (4 cores); 0.18, 25.1 (a virtual machine)"),
    SetUp("ResNet-44", 1),
    SetUp("ResNet-44", 2, source="7.68 ± 2.95 step/s, 1259 examples/s (2 K80)"),
    SetUp("ResNet-44", 3, source="10.04 ± 5.59 step/s, 2755 ± 765 examples/s (3 K80)"),
    SetUp("ResNet-44", 3, ps=0.25),
    SetUp("ResNet-44", 3, sync=True, source="3.26 ± 1.14 step/s, 485 ± 67 examples/s (3 K80)"),
    SetUp("ResNet-44", 3, scheme="session"),
    SetUp("ResNet-44", 3, scheme="session", sync=True),
    SetUp("MNIST", 1),
    SetUp("MNIST", 2),
    SetUp("MNIST", 3, source="4.6 times as fast on 6 GPUs as on one"),
]


@dataclasses.dataclass(frozen=True)
class Figures:
    """What some runs of a set-up have shown: global steps a second and examples a second, of each run."""

    steps: list[float]
    examples: list[float]


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean and standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def everywhere(command: str) -> None:
    """Run a command as root on every host, on all at once."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: on(name, command), (PS, *TRAINERS)))


def stop() -> None:
    """End all that trains, at once."""
    everywhere(
        "for unit in $(systemctl list-units --plain --no-legend 'training@*' alone.service | cut -d' ' -f1); do "
        "systemctl kill --signal=KILL $unit; systemctl stop $unit; systemctl reset-failed $unit; done 2>/dev/null; true"
    )


def prepare(program: str) -> dict[str, Any]:
    """Have the fleet train a program once; returns its job, as the hosts have it."""
    raise_fleet({**FLEET, **PROGRAMS[program]})
    stop()
    return {**json.loads(on("chief-0", f"cat {JOB}")), "log_every_steps": LOG_EVERY_STEPS[program]}


def measure(job: dict[str, Any], trainers: Sequence[str], shares: dict[str, float], program: str = KIT) -> float:
    """Train a job for a while, some hosts having a share of the processors only; returns global steps a second.

    Without checkpoints: how many of them fall into the while would be chance.
    """
    job = {**job, "model_dir": f"{job['model_dir']}-{time.time():.0f}", "save_checkpoints_steps": 10**9}
    units = start(job, trainers, program)
    began = time.time()
    try:
        while not all(reported(host, unit, began) for host, unit in units.items()):
            if time.time() - began > 300:
                raise RuntimeError(f"not everybody of {', '.join(trainers)} trains")
            time.sleep(2)
        for host, share in shares.items():
            limit(host, share)
        time.sleep(SETTLE_SECS)
        begin = time.time()
        time.sleep(MEASURE_SECS)
        for host, unit in units.items():
            state = on(host, f"systemctl show --property=ActiveState,NRestarts {unit}").split()
            if sorted(state) != ["ActiveState=active", "NRestarts=0"] or not reported(host, unit, begin):
                raise RuntimeError(f"{unit} on {host} hasn't trained all the time: {' '.join(state)}")
        (first, low), *_, (last, high) = reported(trainers[0], units[trainers[0]], begin)
    finally:
        for host in shares:
            limit(host, 0)
        stop()
        on(PS, f"sudo -u flotilla hdfs dfs -rm -r -f -skipTrash {job['model_dir']}")
    return (high - low) / (last - first)


def start(job: dict[str, Any], trainers: Sequence[str], program: str = KIT) -> dict[str, str]:
    """Start a job's parameter server and trainers, or one process where it has no cluster; returns their units."""
    everywhere(f"echo {shlex.quote(json.dumps(job))} > {JOB}; rm -f {job['done_file']}")
    if job["cluster"]:
        for name in (PS, *trainers):
            on(name, f"systemctl start training@{name}")
        return {name: f"training@{name}" for name in trainers}
    environment = "--property=EnvironmentFile=/etc/hadoop/client.env --setenv=HOME=/var/lib/flotilla"
    on(
        trainers[0],
        f"systemd-run --quiet --collect --unit=alone --uid=flotilla --nice=10 {environment} "
        f"/opt/tensorflow/bin/python {program} --config {JOB}",
    )
    return {trainers[0]: "alone"}


def try_out(set_up: SetUp, job: dict[str, Any]) -> float:
    """Run a set-up for a while; returns its global steps a second, of all trainers."""
    trainers = TRAINERS[: max(1, set_up.trainers)]
    cluster = {**job["cluster"], "worker": job["cluster"]["worker"][: len(trainers) - 1]}
    job = {**job, "scheme": set_up.scheme, "sync": set_up.sync, "cluster": cluster if set_up.trainers else {}}
    shares = {**dict.fromkeys(TRAINERS, SHARE), PS: SHARE * set_up.ps}
    return measure(job, trainers, shares)


def table(results: dict[SetUp, Figures]) -> str:
    """Return the results as Markdown."""
    lines = ["| | global step/s | examples/s | efficiency | the source |", "|---|---|---|---|---|"]
    for set_up, figures in results.items():
        rate = f"{efficiency(set_up, results):.2f}" if set_up.trainers else ""
        cells = [set_up.name, spread(figures.steps, 2), spread(figures.examples, 1), rate, set_up.source]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def efficiency(set_up: SetUp, results: dict[SetUp, Figures]) -> float:
    """Return examples/s of n trainers over n times those of one: one process, or one trainer where there is none."""
    one = next(figures for other, figures in results.items() if other.trainers <= 1)
    trainers = max(1, set_up.trainers)
    return statistics.mean(results[set_up].examples) / trainers / statistics.mean(one.examples)


def plot(program: str, results: dict[SetUp, Figures]) -> list[Path]:
    """Draw examples/s of the set-ups, and the speed-up over trainers; returns the files."""
    pyplot.rcParams.update({"svg.hashsalt": "flotilla", "font.size": 11, "axes.spines.top": False})
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.45 * len(results)), layout="constrained")
    axes.barh(
        [set_up.name for set_up in results],
        [statistics.mean(figures.examples) for figures in results.values()],
        xerr=[statistics.stdev(figures.examples) for figures in results.values()],
        color="#4c78a8", capsize=3,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel(f"examples/s ({program})")
    files = [PLOTS / f"set-ups-{program.lower()}.svg", PLOTS / f"speed-up-{program.lower()}.svg"]
    figure.savefig(files[0], metadata={"Date": None})

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    line = [s for s in results if s.trainers and (s.scheme, s.sync, s.ps) == ("estimator", False, 1)]
    base = statistics.mean(results[line[0]].examples)
    axes.errorbar(
        [s.trainers for s in line],
        [statistics.mean(results[s].examples) / base for s in line],
        yerr=[statistics.stdev(results[s].examples) / base for s in line],
        label=program, color="#4c78a8", marker="o", capsize=3,
    )  # fmt: skip
    axes.plot([1, len(TRAINERS)], [1, len(TRAINERS)], color="grey", linestyle=":", label="ideal")
    axes.set(xlabel="trainers, beside one parameter server", ylabel="times as many examples/s as one")
    axes.set_xticks(range(1, len(TRAINERS) + 1))
    axes.legend(frameon=False)
    figure.savefig(files[1], metadata={"Date": None})
    return files


def run(program: str) -> dict[SetUp, Figures]:
    """Run a program's set-ups in turns, in rounds: a machine isn't as fast in one hour as in the next."""
    upload({"ResNet-44": "cifar10", "MNIST": "mnist"}[program])
    print(f"{program}: the fleet …", flush=True)
    job = prepare(program)
    results = {set_up: Figures([], []) for set_up in SET_UPS if set_up.program == program}
    for _round in range(REPEATS):
        for set_up, figures in results.items():
            rate = try_out(set_up, job)
            figures.steps.append(rate)
            figures.examples.append(rate * job["batch_size"] * (set_up.trainers if set_up.sync else 1))
            print(f"{program}, {set_up.name}: {rate:.2f} step/s", flush=True)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Raise a fleet, run every set-up, and write each program's table and plots as soon as they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", choices=PROGRAMS, help="measure this only")
    program = parser.parse_args(argv).program
    user_runs("scripts/lab", "up", seconds=300)
    for name in [program] if program else PROGRAMS:
        results = run(name)
        print(table(results))
        bars, speed_up = (f"images/{file.name}" for file in plot(name, results))
        text = (
            f"\n{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores; a host has {SHARE:g} of them; means and "
            f"standard deviations of {REPEATS} runs of {MEASURE_SECS} s each, without checkpoints:\n\n"
            f"{table(results)}\n\n![Examples a second of each set-up]({bars})\n\n"
            f"![How many times as fast two and three trainers are]({speed_up})\n\n"
        )
        put(PAGE, (f"<!-- made by benchmarks/training.py {name} -->\n", "<!-- end -->\n"), text)
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    user_runs("scripts/lab", "down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
