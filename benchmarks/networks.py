#!/usr/bin/env python3
"""Trains Cuttlefish's networks on MNIST, alone and by clusters, and writes its part of docs/benchmarks.md.

    .venv/bin/python -m benchmarks.networks alone              (one process; 40 minutes)
    .venv/bin/python -m benchmarks.networks loopback           (clusters whose tasks are processes of this machine)
    .venv/bin/python -m benchmarks.networks lab                (root; on hosts of the lab; no lab may run)
    .venv/bin/python -m benchmarks.networks resnet             (ResNet-44 of its file and the built-in, in turns)
    .venv/bin/python -m benchmarks.networks page               (write the page of what networks.jsonl holds)

Each mode takes --network 50x3 and --seeds 3 for a part of it. What is there already isn't trained again: results are
kept in networks.jsonl, one a line. The table's rows are those of figures 4 and 5 of "Cuttlefish: A Library For Building
Distributed Neural Networks", with fewer epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/benchmarks.md"
RESULTS = Path(__file__).with_suffix(".jsonl")
MARKS = ("<!-- made by benchmarks/networks.py -->\n", "<!-- end -->\n")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flotilla"
LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")
SECONDS = 3600  # that a training may take
NOBODY = {"enabled": False}
RESNET_STEPS = 12  # of each
# Prints the seconds of each step of the built-in network, and of the file's
PAIR = """
import json, sys, time
import tensorflow as tf
from flotilla.job.cluster import Task
from flotilla.job.config import load
from flotilla.model import data, estimator, network

steps = []
for more in ([], ["--network", sys.argv[2]]):
    config = load(["--data-dir", sys.argv[1], "--model-dir", "/nowhere", "--max-steps", "1000", *more])
    with tf.Graph().as_default():
        dataset, design = network.designed(config)
        batches = data.training_batches(dataset, "train", config.batch_size, 1000, 1, config.augment)
        features, labels = tf.compat.v1.data.make_one_shot_iterator(batches).get_next()
        tf.compat.v1.train.create_global_step()
        spec = estimator.model_fn(features, labels, "train", config, dataset, design, Task(), None)
        session = tf.compat.v1.Session(config=estimator.session_config(Task()))
        session.run(tf.compat.v1.global_variables_initializer())
        steps.append((session, spec.train_op))
seconds = [[], []]
for number in range(2 + int(sys.argv[3])):
    for kept, (session, train) in list(zip(seconds, steps))[:: 1 - 2 * (number % 2)]:
        begin = time.perf_counter()
        session.run(train)
        kept.append(time.perf_counter() - begin)
print(json.dumps([kept[2:] for kept in seconds]))
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A network of the source, and what it measured there: one machine and distributed, in percent."""

    name: str
    seeds: int
    alone: str
    distributed: str
    aim: str


ROWS = {
    "5x3": Row("5 x 3, 20 epochs", 5, "88.61", "50.89", "≥ 84 (best)"),
    "50x3": Row("50 x 3, 15 epochs", 3, "95.82", "85.75", "≥ 96.5"),
    "500x4": Row("500 x 4, 5 epochs", 3, "94.99", "71.75", "≥ 97"),
    "2500": Row("2500, 2000, 1500, 1000, 500, 10 epochs", 3, "96.95", "-", "≥ 97.5"),
}


@dataclasses.dataclass(frozen=True)
class SetUp:
    """Who trains: no parameter server is one process."""

    ps: int = 0
    workers: int = 0  # beside the chief
    sync: bool = False

    @property
    def name(self) -> str:
        """How the table calls it."""
        if not self.ps:
            return "one process"
        return f"{self.ps} ps + {1 + self.workers}, {'sync' if self.sync else 'async'}"


ALONE = SetUp()
CLUSTERS = (SetUp(1, 1), SetUp(1, 1, True), SetUp(2, 2), SetUp(2, 2, True))


def processor() -> str:
    """Return this machine's processor, and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} cores of {model}"


def known() -> list[dict[str, Any]]:
    """Return the results so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def note(**result: Any) -> None:
    """Keep a result, with when and where."""
    line = {**result, "date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "processor": processor()}
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(result), flush=True)


def is_known(where: str, network: str, set_up: SetUp, seed: int) -> bool:
    wanted = {"where": where, "network": network, "set_up": dataclasses.asdict(set_up), "seed": seed}
    return any(wanted.items() <= result.items() for result in known())


def data_of(name: str) -> Path:
    """Return a known data set's folder, prepared where it isn't yet."""
    folder = CACHE / name / "tfrecord-4"
    subprocess.run(
        [sys.executable, "scripts/dataset.py", "prepare", name, "--output", str(folder)], cwd=ROOT, check=True
    )
    return folder


def addresses(set_up: SetUp) -> dict[str, list[str]]:
    """Return free addresses of loopback for each task."""
    sockets = [socket.socket() for _ in range(set_up.ps + 1 + set_up.workers)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return {"ps": found[: set_up.ps], "chief": found[set_up.ps : set_up.ps + 1], "worker": found[set_up.ps + 1 :]}


def train(arguments: Sequence[str], folder: Path, set_up: SetUp, python: str) -> dict[str, Any]:
    """Train once, by one process or by one a task; returns result.json, and the megabits a step over loopback."""
    command = [python, "-m", "flotilla.train", *arguments, "--model-dir", str(folder / "model")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'training'}:{os.environ.get('PYTHONPATH', '')}"}
    environment.pop("TF_CONFIG", None)
    tasks: dict[str, list[str]] = {"chief-0": command}
    if set_up.ps:
        cluster = addresses(set_up)
        command += ["--cluster", json.dumps(cluster), "--sync", str(set_up.sync).lower()]
        names = [f"{kind}-{number}" for kind in ("ps", "worker", "chief") for number in range(len(cluster[kind]))]
        tasks = {name: [*command, "--task", name] for name in names}
    before = int(LOOPBACK.read_text())
    running = {}
    for name, line in tasks.items():
        with (folder / f"{name}.log").open("wb") as log:
            running[name] = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
    try:
        code = running["chief-0"].wait(SECONDS)
        carried = int(LOOPBACK.read_text()) - before
        for name, process in running.items():
            code = code or process.wait(300)
            if code:
                raise RuntimeError(f"{name} ended with {code}: {(folder / f'{name}.log').read_text()[-2000:]}")
    finally:
        for process in running.values():
            process.kill()
    result: dict[str, Any] = json.loads((folder / "model/result.json").read_text())
    return {**result, "megabits_a_step": 8 * carried / 1e6 / result["global_step"] if set_up.ps else None}


def measure(where: str, network: str, set_up: SetUp, seed: int, python: str, data: Path) -> None:
    """Train a network, unless that has been done."""
    if is_known(where, network, set_up, seed):
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "--network", str(ROOT / f"networks/cuttlefish-{network}.yml"), "--data-dir", str(data), "--seed", str(seed),
            "--name", f"cuttlefish-{network}", "--save-checkpoints-steps", "2000", "--log-every-steps", "500",
        ]  # fmt: skip
        begin = time.time()
        result = train(arguments, Path(folder), set_up, python)
    note(
        where=where, network=network, set_up=dataclasses.asdict(set_up), seed=seed,
        seconds=round(time.time() - begin, 1),
        accuracy=result["metrics"]["accuracy"], steps=result["global_step"],
        examples_per_second=result["examples_per_second"], megabits_a_step=result["megabits_a_step"],
    )  # fmt: skip


def on_lab(network: str, set_up: SetUp, seed: int) -> None:
    """Train a network on hosts of the lab, a fleet for each set-up, and take the model's accuracy from S3."""
    from benchmarks.faults import on, raise_fleet
    from tests.support.commands import user_runs
    from tests.support.fleet import INVENTORY
    from tests.support.lab import upload

    if is_known("lab", network, set_up, seed):
        return
    user_runs("scripts/lab", "up", seconds=300)
    upload("mnist")
    group = {"instance_type": "t3.large"}
    groups = {"ps": set_up.ps, "chief": 1, "worker": set_up.workers}
    begin = time.time()
    raise_fleet(
        {
            "fleet_groups": {name: {**group, "count": count} for name, count in groups.items()} | {"evaluator": NOBODY},
            "dataset_source": "s3://flotilla-test/mnist/",
            "job": f"cuttlefish-{network}-{set_up.ps}-{set_up.workers}-{str(set_up.sync).lower()}-{seed}",
            "training_network": f"networks/cuttlefish-{network}.yml",
            "training_sync": set_up.sync,
            "training_max_steps": None,
            "training_batch_size": None,
            "training_minutes": 0,
        }
    )  # fmt: skip
    path = on(
        "chief-0", "python3 -c \"import json; print(json.load(open('/etc/flotilla/job.json'))['model_dir'])\""
    ).strip()
    result = json.loads(on("chief-0", f"sudo -u flotilla hdfs dfs -cat {path}/result.json"))
    note(
        where="lab", network=network, set_up=dataclasses.asdict(set_up), seed=seed,
        seconds=round(time.time() - begin, 1),
        accuracy=result["metrics"]["accuracy"], steps=result["global_step"],
        examples_per_second=result["examples_per_second"], megabits_a_step=None,
    )  # fmt: skip
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")


def resnet(python: str) -> None:
    """Compare a step of ResNet-44 from its file with one of the built-in: both in one process, in turns."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'training'}:{os.environ.get('PYTHONPATH', '')}"}
    command = [python, "-c", PAIR, str(data_of("cifar10")), str(ROOT / "networks/resnet44.yml"), str(RESNET_STEPS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    note(where="resnet", seconds=seconds, ratios=[a / b for a, b in zip(*seconds, strict=True)])


def cells() -> Iterator[str]:
    """Yield the table's lines."""
    heads = ["network", "set-up", "accuracy, % (mean; best)", "less one process, points", "seeds", "examples/s"]
    heads += ["the source, %", "aim"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    results = [result for result in known() if "set_up" in result]
    for key, row in ROWS.items():
        single = {r["seed"]: r["accuracy"] for r in results if r["network"] == key and not r["set_up"]["ps"]}
        for where, set_up in [("alone", ALONE), *((w, s) for w in ("loopback", "lab") for s in CLUSTERS)]:
            of = [
                r
                for r in results
                if (r["network"], r["where"], r["set_up"]) == (key, where, dataclasses.asdict(set_up))
            ]
            if not of:
                continue
            mean, best = statistics.mean(r["accuracy"] for r in of), max(r["accuracy"] for r in of)
            pairs = [100 * (r["accuracy"] - single[r["seed"]]) for r in of if set_up.ps and r["seed"] in single]
            less = f"{statistics.mean(pairs):+.2f}" if pairs else ""
            source, aim = (row.distributed, "≥ -1.0 point") if set_up.ps else (row.alone, row.aim)
            name = set_up.name + {"loopback": ", processes of one machine", "lab": ", hosts of the lab"}.get(where, "")
            rate = statistics.mean(r["examples_per_second"] for r in of)
            shown = f"{100 * mean:.2f}; {100 * best:.2f}"
            yield f"| {row.name} | {name} | {shown} | {less} | {len(of)} | {rate:,.0f} | {source} | {aim} |"


def described(network: str, servers: int) -> list[float]:
    """Return the megabits of a trainer's step that a network's file is said to need."""
    code = (
        "import sys; from flotilla.job import network_file\n"
        "print(*network_file.load(sys.argv[1]).design().traffic(int(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(ROOT / f"networks/cuttlefish-{network}.yml"), str(servers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "training")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def page() -> None:
    """Write the page's part."""
    from benchmarks.faults import put

    results = known()
    dates = sorted({result["date"] for result in results})
    where = sorted({result["processor"] for result in results})
    lines = [
        f"{' to '.join(sorted({dates[0], dates[-1]}))}; {'; '.join(where)}. Accuracy on MNIST's 10,000 test images:",
        "",
    ]
    lines += [*cells(), ""]
    carried = [result for result in results if result.get("megabits_a_step")]
    if carried:
        lines += ["Megabits of a trainer's step, over all parameter servers:", ""]
        lines += ["| network | ps | by its file | measured on loopback | ratio |", "|---|---|---|---|---|"]
        for network, servers in sorted({(r["network"], r["set_up"]["ps"]) for r in carried}):
            of = [
                r["megabits_a_step"] / (1 + r["set_up"]["workers"] * r["set_up"]["sync"])
                for r in carried
                if (r["network"], r["set_up"]["ps"], r["set_up"]["sync"]) == (network, servers, False)
            ]
            if of:
                said, found = sum(described(network, servers)), statistics.mean(of)
                lines.append(f"| {network} | {servers} | {said:.3g} | {found:.3g} | {said / found:.2f} |")
        lines.append("")
    for result in (result for result in results if result["where"] == "resnet"):
        built_in, of_file = map(min, result["seconds"])
        lines += [
            f"Examples/s of ResNet-44 from its file, of those of the built-in ({RESNET_STEPS} steps of each, in turns):"
            f" {built_in / of_file:.3f} by the fastest step, {statistics.median(result['ratios']):.3f} by the median "
            "ratio (aim: at least 0.97).",
            "",
        ]
    put(PAGE, MARKS, "\n" + "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what a mode asks for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["alone", "loopback", "lab", "resnet", "page"])
    parser.add_argument("--network", choices=ROWS, help="this one only")
    parser.add_argument("--set-up", type=int, choices=range(len(CLUSTERS)), help="this cluster of the list only")
    parser.add_argument("--seeds", type=int, help="so many, from 0 on")
    parser.add_argument("--python", default=str(ROOT / ".venv-training/bin/python"), help="the one that has TensorFlow")
    arguments = parser.parse_args(argv)
    if arguments.mode == "resnet":
        resnet(arguments.python)
    elif arguments.mode != "page":
        data = data_of("mnist")
        set_ups = CLUSTERS if arguments.set_up is None else CLUSTERS[arguments.set_up : arguments.set_up + 1]
        for network in [arguments.network] if arguments.network else ROWS:
            for seed in range(arguments.seeds or ROWS[network].seeds):
                for set_up in [ALONE] if arguments.mode == "alone" else set_ups:
                    if arguments.mode == "lab":
                        on_lab(network, set_up, seed)
                    else:
                        measure(arguments.mode, network, set_up, seed, arguments.python, data)
    page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
