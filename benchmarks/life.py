#!/usr/bin/env python3
"""Measures the life of a fleet in the lab, and writes benchmarks/life.md.

    .venv/bin/python benchmarks/life.py          (root; half an hour; no lab may run)

Every figure is one run on the machine named in the result. Downloads are cached (run scripts/quickstart once before),
except for the first quickstart, for which this machine keeps its Debian packages only.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import boto3

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from harness import make_network, upload, user_environment, user_runs, wait_until  # noqa: E402

INVENTORY = ("-i", "tests/life/inventory", "-e", "training_batch_size=128")
STEP = re.compile(r"train +([1-9]\d*)/\d+ steps")


def seconds(*command: str) -> float:
    """Run a command as a user would; returns its duration in seconds."""
    begin = time.monotonic()
    user_runs(*command, seconds=1800)
    return time.monotonic() - begin


def three_instances(folder: Path) -> tuple[float, float]:
    """Launch three instances by the API; returns (seconds until ssh and cloud-init are through, MB resident a node)."""
    network = make_network(boto3.Session(profile_name="flotilla-lab"), folder, "10.93.0.0/24")
    begin = time.monotonic()
    ids = network.launch(3)
    for instance in ids:
        network.reachable(instance)
    taken = time.monotonic() - begin
    status = user_runs("scripts/lab", "status").stdout
    memory = [int(m) for m in re.findall(r"(\d+) MB$", status, re.MULTILINE)[1:]]
    network.ec2.terminate_instances(InstanceIds=ids)
    wait_until(lambda: network.states(ids) == {"terminated"}, 30, "terminated")
    return taken, max(memory)


def site() -> tuple[float, float, str]:
    """Run site.yml; returns (seconds to the first global step that is shown, seconds in all, its summary)."""
    begin, first, lines = time.monotonic(), 0.0, []
    process = subprocess.Popen(
        ["ansible-playbook", *INVENTORY, "site.yml"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env={**user_environment(), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        lines.append(line)
        if not first and STEP.search(line):
            first = time.monotonic() - begin
    if process.wait():
        sys.exit("".join(lines[-40:]))
    text = "".join(lines)
    return first, time.monotonic() - begin, text[text.index("TIME") :].split("NEXT")[0].rstrip()


def quickstart() -> tuple[float, float]:
    """Run scripts/quickstart in a clean clone with an empty home, and again; returns both durations in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        home, clone = Path(folder, "home"), Path(folder, "flotilla")
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        # How npm reaches its registry is the machine's business, not what is measured.
        settings = {"HOME": str(home), "NPM_CONFIG_USERCONFIG": str(Path.home() / ".npmrc")}
        taken = []
        for _ in range(2):
            begin = time.monotonic()
            subprocess.run(
                ["scripts/quickstart"], cwd=clone, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, check=True
            )
            taken.append(time.monotonic() - begin)
        subprocess.run(["scripts/lab", "down", "--purge"], cwd=clone, env={**os.environ, **settings}, check=True)
    return taken[0], taken[1]


def page(title: str, script: str, rows: list[tuple[str, str, str]]) -> list[str]:
    """Return the lines of a page: what was measured where, with its aim."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return [
        f"# {title}",
        "",
        f"One run of `benchmarks/{script}.py`, {datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores "
        f"({model.group(1) if model else platform.machine()}), Linux "
        f"{platform.release().split('-')[0]}, downloads cached.",
        "",
        "| | measured | aim |",
        "|---|---|---|",
        *[f"| {what} | {figure} | {'≤ ' + aim if aim else ''} |" for what, figure, aim in rows],
    ]


def main() -> None:
    """Measure, and write the table."""
    rows: list[tuple[str, str, str]] = []
    user_runs("scripts/lab", "down", check=False)
    images = Path("/var/lib/flotilla-lab/images")
    subprocess.run(["sudo", "rm", "-rf", str(images)] if os.geteuid() else ["rm", "-rf", str(images)], check=True)
    rows.append(("lab up, image to be built", f"{seconds('scripts/lab', 'up'):.0f} s", "60 s"))
    user_runs("scripts/lab", "down")
    rows.append(("lab up, image there", f"{seconds('scripts/lab', 'up'):.1f} s", "3 s"))
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    taken, memory = three_instances(folder)
    rows.append(("3 instances requested → ssh-ready, cloud-init done", f"{taken:.1f} s", "5 s"))
    rows.append(("resident memory of a node before HDFS", f"{memory} MB", "150 MB"))
    upload("cifar10")
    first, whole, summary = site()
    rows.append(("site.yml → first global step (3 nodes)", f"{first:.0f} s", "180 s"))
    rows.append(("site.yml, 100 steps, model stored", f"{whole:.0f} s", ""))
    rows.append(("second site.yml", f"{seconds('ansible-playbook', *INVENTORY, 'site.yml'):.0f} s", "60 s"))
    destroy = seconds("ansible-playbook", *INVENTORY, "playbooks/destroy.yml")
    rows.append(("destroy, verified empty", f"{destroy:.0f} s", "20 s"))
    user_runs("scripts/lab", "down", "--purge")
    first, again = quickstart()
    rows.append(("quickstart, 400 steps, clean clone, empty home", f"{first / 60:.1f} min", "12 min"))
    rows.append(("quickstart again", f"{again / 60:.1f} min", ""))
    text = [*page("The life of a fleet in the lab, measured", "life", rows), "", "```", summary, "```", ""]
    (ROOT / "benchmarks/life.md").write_text("\n".join(text))
    print("\n".join(text))
    print(json.dumps({what: figure for what, figure, _ in rows}, ensure_ascii=False))


if __name__ == "__main__":
    main()
