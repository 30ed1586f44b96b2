#!/usr/bin/env python3
"""Measures a fleet's life in the lab, in turn with an earlier build on this machine, and writes benchmarks/life.md.

    .venv/bin/python -m benchmarks.life                      (root; an evening; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.life --row second-site    (only this row, and the scenario that it needs)
    .venv/bin/python -m benchmarks.life --page               (only the page, of what has been measured)

Each figure is kept in benchmarks/life.jsonl as soon as it is there; a run that was cut off goes on where it was. Delete
that file to begin anew. The earlier build is a clone of its commit with a Python environment of its own. Downloads are
cached (by a first fleet that isn't measured), except for the first quickstart, which finds Debian's packages only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3

from tests.support.commands import kill_family, user_runs, wait_until
from tests.support.lab import make_network

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "benchmarks/life.md"
RESULTS = PAGE.with_suffix(".jsonl")
OLD = "6e4f695"  # what the ratios are to
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flotilla"
DELAY = 0.05  # seconds each way to a host that is far away
LONG = {"training_max_steps": 1_000_000, "store_mirror_minutes": 0}  # a training that goes on
SHORT = {"training_max_steps": 50}
GROUP = {"count": 1, "instance_type": "c5.xlarge"}
FOUR = {"ps": {**GROUP, "instance_type": "t3.large"}, "chief": GROUP, "worker": {**GROUP, "count": 2}}
MANY: dict[str, dict[str, Any]] = {
    "ps": {**GROUP, "count": 24},
    "chief": GROUP,
    "worker": {**GROUP, "count": 7},
    "evaluator": {"enabled": False},
}
TRAINERS = 8
THIRTY = {"ps": {**GROUP, "count": 28}, "chief": GROUP, "worker": GROUP}
LARGE = {"fleet_name": "large", "fleet_max_hosts": 32, "fleet_max_cost": 1000}
TOLD = re.compile(r"train +[1-9]\d*/\d+ steps")  # what site.yml shows of a training
# What a trainer reports, after ten global steps at least: their rate, and so when they began.
REPORT = re.compile(r"^(\d+\.\d+) \S+ \S+: step \d+ of \d+, ([\d.]+(?:e\+\d+)?) examples/s", re.MULTILINE)
REPORTED_STEPS = 10
BATCH = 128
SERVED = "git+git://198.18.0.1/flotilla,HEAD"  # a checkout's commits, by the git server of `scripts/lab im`
IM_GROUPS = {
    "ps": {"count": 1, "instance_type": "c5.4xlarge"},  # the Infrastructure Manager's master, too
    "chief": {"count": 1, "instance_type": "t3.large"},
    "worker": {"count": 1, "instance_type": "t3.large"},
}


@dataclass(frozen=True)
class Build:
    """A checkout with its Python environment."""

    name: str  # old or new
    root: Path

    @property
    def bakes(self) -> bool:
        return (self.root / "playbooks/image.yml").exists()

    @property
    def commit(self) -> str:
        return self.run("git", "rev-parse", "--short=7", "HEAD").strip()

    def environment(self, **more: str) -> dict[str, str]:
        """What a user has who has put this build's .venv/bin into PATH, and set nothing of AWS or Ansible."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "ANSIBLE_"))}
        path = (f"{self.root}/.venv/bin", f"{self.root}/.venv-im/bin", environment["PATH"], "/usr/sbin:/sbin")
        environment["PATH"] = ":".join(path)
        return {**environment, "PYTHONUNBUFFERED": "1", **more}

    def run(self, *command: str, seconds: float = 1800, check: bool = True) -> str:
        """Run a command as a user would; returns its output. Where it fails, the measuring ends."""
        done = subprocess.run(command, cwd=self.root, env=self.environment(), text=True, timeout=seconds,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        if check and done.returncode:
            raise Failed(f"{self.name}: {shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done.stdout

    def timed(self, *command: str, seconds: float = 1800) -> float:
        """Run a command; returns its duration in seconds."""
        begin = time.monotonic()
        self.run(*command, seconds=seconds)
        return time.monotonic() - begin

    def playbook(self, *arguments: str, **variables: Any) -> tuple[str, ...]:
        """Return the command that runs a playbook with variables, on bare images if nothing else is said."""
        variables = {"fleet_baked": "never", "training_minutes": 0, **variables}
        files = ("roles/fleet/meta/argument_specs.yml", "playbooks/vars/variables.yml")
        known = "".join((self.root / file).read_text() for file in files if (self.root / file).exists())
        for name in ("fleet_baked", "fleet_max_hosts", "fleet_max_cost", "training_minutes"):
            if name not in known:  # to the earlier build
                variables.pop(name, None)
        return ("ansible-playbook", *arguments, "-e", json.dumps(variables))

    def ssh(self, host: str) -> list[str]:
        """Return the command that runs another one on one of the fleet's hosts."""
        its = json.loads(self.run("ansible-inventory", "--host", host))
        return [
            "ssh", "-q", *shlex.split(its["ansible_ssh_common_args"]), "-i", its["ansible_ssh_private_key_file"],
            f"{its['ansible_user']}@{its['ansible_host']}",
        ]  # fmt: skip


class Failed(Exception):
    """Something that is measured doesn't work."""


@contextlib.contextmanager
def lab(build: Build) -> Iterator[None]:
    """A build's lab with the data set in its S3."""
    build.run("scripts/lab", "up", seconds=300)
    try:
        build.run(
            "python", "scripts/dataset.py", "upload", "cifar10", "s3://flotilla-data/cifar10/",
            "--profile", "flotilla-lab", "--create-bucket",
        )  # fmt: skip
        yield
    finally:
        build.run("scripts/lab", "down")


@contextlib.contextmanager
def training(build: Build, far: bool = False, **variables: Any) -> Iterator[float]:
    """Have site.yml begin a training that goes on; gives when it was begun, as soon as it shows steps."""
    more = {}
    if far:
        line = f"{sys.executable} -IS {ROOT}/benchmarks/relay.py {DELAY} %h %p"
        more["ANSIBLE_SSH_EXTRA_ARGS"] = f"-o ProxyCommand={shlex.quote(line)}"
    begin, lines = time.time(), []
    process = subprocess.Popen(
        build.playbook("site.yml", **LONG, **variables), cwd=build.root, text=True, env=build.environment(**more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    try:
        for line in process.stdout:
            lines.append(line)
            if TOLD.search(line):
                break
        else:
            raise Failed(f"{build.name}: site.yml has ended without a step:\n{''.join(lines[-60:])}")
        yield begin
    finally:
        kill_family(process.pid)
        process.wait()


def first_step(journal: Callable[[], str], since: float) -> float:
    """Return when a trainer made its first step (Unix time), from its journal."""
    found: list[float] = []

    def reported() -> bool:
        for when, rate in REPORT.findall(journal()):
            began = float(when) - REPORTED_STEPS * BATCH / float(rate)
            if began > since:
                found.append(began)
        return bool(found)

    wait_until(reported, 600, "the trainer reports")
    return found[0]


def journal(build: Build, task: str) -> Callable[[], str]:
    """Return what reads a task's journal on the host of its name."""
    command = [*build.ssh(task), f"sudo journalctl --output=short-unix --unit=training@{task}"]
    return lambda: build.run(*command, check=False)


# The scenarios: each yields rows of the table as soon as they are measured.

Figures = Generator[tuple[str, float], None, None]


def bare(build: Build) -> Figures:
    """A fleet on bare images, from nothing to nothing."""
    with lab(build):
        begin = time.time()
        build.run(*build.playbook("site.yml", **SHORT))
        yield "first-bare", first_step(journal(build, "chief-0"), begin) - begin
        yield "second-site", build.timed(*build.playbook("site.yml", **SHORT))
        yield "destroy-3", build.timed("ansible-playbook", "playbooks/destroy.yml")


def baked(build: Build) -> Figures:
    """An image, a fleet from it, a worker more; and the same with hosts that are far away."""
    with lab(build):
        yield "image", build.timed("ansible-playbook", "playbooks/image.yml")
        image: dict[str, Any] = {"fleet_baked": "always"}
        with training(build, **image) as begin:
            yield "first-baked", first_step(journal(build, "chief-0"), begin) - begin
        with training(build, fleet_groups=FOUR, **image) as begin:
            yield "worker", first_step(journal(build, "worker-1"), begin) - begin
        build.run("ansible-playbook", "playbooks/destroy.yml")
        with training(build, far=True, job="far", **image) as begin:
            yield "first-far", first_step(journal(build, "chief-0"), begin) - begin


def thirty(build: Build) -> Figures:
    """Thirty hosts that end."""
    with lab(build):
        build.run(*build.playbook("playbooks/provision.yml", fleet_groups=THIRTY, **LARGE))
        yield "destroy-30", build.timed(*build.playbook("playbooks/destroy.yml", **LARGE))


def many(build: Build) -> Figures:
    """As many hosts as the kit is tried with: what they cost the controller, in its processors' seconds."""
    with lab(build):
        if build.bakes:
            build.run("ansible-playbook", "playbooks/image.yml")
        options: dict[str, Any] = {"fleet_baked": "always"} if build.bakes else {}
        options |= {**LARGE, "fleet_groups": MANY, "training_batch_size": 8, "training_max_steps": 400}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        build.run(*build.playbook("site.yml", **options), seconds=3600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        hosts = sum(group.get("count", 0) for group in MANY.values())
        name = ("-e", f"fleet_name={LARGE['fleet_name']}")
        report = build.run("ansible", *name, "ps-0", "--become", "-a", "sudo -u hdfs hdfs dfsadmin -report -live")
        trained = build.run(
            "ansible", *name, "chief:worker", "--become", "-m", "ansible.builtin.shell",
            "-a", "journalctl --unit='training@*' | awk '/ examples.s/ {told++} END {print told + 0}'",
        )  # fmt: skip
        reports = [int(count) for count in re.findall(r"^(\d+)$", trained, re.MULTILINE)]
        if f"Live datanodes ({hosts})" not in report or len(reports) != TRAINERS or not all(reports):
            raise Failed(f"{build.name}: not all {hosts} hosts hold data, or not all trained:\n{report}\n{trained}")
        yield "many", used / hosts


def im(build: Build) -> Figures:
    """An infrastructure of the Infrastructure Manager's, and a worker more."""
    with lab(build), tempfile.TemporaryDirectory() as folder:
        build.run("scripts/lab", "im", seconds=300)
        options = {}
        if build.bakes:
            build.run("ansible-playbook", "playbooks/image.yml")
            options = {"fleet_baked": "always"}
        radl = Path(folder, "im.radl")
        job = {"job": "im", **LONG, "fleet_groups": IM_GROUPS, "radl_file": str(radl), "radl_collection": SERVED}
        build.run(*build.playbook("playbooks/radl.yml", **job, **options))

        def client(command: str, check: bool = True) -> str:
            return build.run("sh", "-c", f"im_client {command}", check=check)

        def configured() -> None:
            state = "pending"
            while state in ("pending", "running", "unknown"):
                time.sleep(3)
                found = re.search(r"infrastructure is in state: (\w+)", client(f"getstate {infrastructure}", False))
                state = found[1] if found else "unknown"
            if state != "configured":
                raise Failed(f"{build.name}: {state}: {client(f'getcontmsg {infrastructure}', False)[-6000:]}")

        begin = time.time()
        created = client(f"create {radl} < {radl.with_suffix('.password')}")
        (infrastructure,) = re.findall(r"with ID: (\S+)", created)
        configured()
        yield "im-create", time.time() - begin
        begin = time.time()
        client(f"addresource {infrastructure} radl/worker.radl")
        configured()
        log = shlex.quote("sudo journalctl --output=short-unix --unit=training@worker-1")
        yield "im-worker", first_step(lambda: client(f"sshvm {infrastructure} 3 0 {log}"), begin) - begin


def quickstart(build: Build) -> Figures:
    """scripts/quickstart in a clean clone with an empty home and nothing of the lab's, and again."""
    build.run("scripts/lab", "down", "--purge")
    with tempfile.TemporaryDirectory() as folder:
        home, clone = Path(folder, "home"), Path(folder, "flotilla")
        home.mkdir()
        build.run("git", "clone", "--quiet", str(build.root), str(clone))
        # How npm reaches its registry is the machine's business, not what is measured.
        settings = {"HOME": str(home), "NPM_CONFIG_USERCONFIG": str(Path.home() / ".npmrc")}
        fresh = Build(build.name, clone)
        try:
            for row in ("quickstart", "quickstart-again"):
                yield (
                    row,
                    fresh.timed("env", *(f"{key}={value}" for key, value in settings.items()), "scripts/quickstart"),
                )
        finally:
            fresh.run("env", f"HOME={home}", "scripts/lab", "down", "--purge")


def region(build: Build) -> Figures:
    """The lab itself."""
    user_runs("scripts/lab", "down", check=False)
    subprocess.run(["rm", "-rf", "/var/lib/flotilla-lab/images"], check=True)
    yield "lab-image", build.timed("scripts/lab", "up")
    build.run("scripts/lab", "down")
    yield "lab", build.timed("scripts/lab", "up")
    try:
        with tempfile.TemporaryDirectory() as folder:
            network = make_network(boto3.Session(profile_name="flotilla-lab"), Path(folder), "10.93.0.0/24")
            begin = time.monotonic()
            ids = network.launch(3)
            for instance in ids:
                network.reachable(instance)
            yield "lab-hosts", time.monotonic() - begin
            status = user_runs("scripts/lab", "status").stdout
            yield "lab-memory", max(int(size) for size in re.findall(r"(\d+) MB$", status, re.MULTILINE)[1:])
    finally:
        build.run("scripts/lab", "down")


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    key: str
    text: str
    scenario: Callable[[Build], Figures]
    ratio: float | None = None  # the aim, to the earlier build
    aim: float | None = None  # in the row's unit
    unit: str = "s"
    to: tuple[str, str] | None = None  # build and row that the ratio is to, where it isn't the earlier build's own
    old: bool | None = None  # whether the earlier build is measured; None: where the aim is a ratio to it

    @property
    def base(self) -> tuple[str, str]:
        return self.to or ("old", self.key)

    def builds(self) -> list[str]:
        """Which builds this row is measured on."""
        both = self.old if self.old is not None else self.ratio is not None and self.base == ("old", self.key)
        return ["old", "new"] if both else ["new"]


ROWS = [
    Row("first-baked", "`site.yml` → first global step, baked", baked, 0.28, 60, to=("old", "first-bare")),
    Row("first-bare", "… bare", bare, 0.55, 120),
    Row(
        "first-far",
        "… baked, 100 ms round trip to the hosts; the ratio is to the first line",
        baked,
        1.5,
        90,
        to=("new", "first-baked"),
    ),
    Row("second-site", "second `site.yml`", bare, 0.5, 30),
    Row("worker", "a worker more: `site.yml`, baked → its first step", baked, None, 45),
    Row("im-worker", "a worker more: the Infrastructure Manager's addresource → its first step", im, 0.3, 120),
    Row("im-create", "the Infrastructure Manager's create → configured", im, 0.5, 120),
    Row("destroy-3", "`destroy.yml`, 3 hosts, verified empty", bare, None, 15, old=True),
    Row("destroy-30", "… 30 hosts", thirty, None, 30, old=True),
    Row("image", "`image.yml`, one image", baked, None, 150),
    Row("quickstart", "quickstart, clean clone, nothing installed", quickstart, 0.7, 6, "min"),
    Row("quickstart-again", "… again", quickstart, None, 45, old=True),
    Row("many", "32 hosts, all of them DataNodes, 8 trainers: the controller's processors, a host", many, 0.4),
    Row("lab-image", "`scripts/lab up`, image to be built", region, None, 60),
    Row("lab", "… image there", region, None, 3),
    Row("lab-hosts", "3 instances requested → ssh-ready, cloud-init done", region, None, 5),
    Row("lab-memory", "resident memory of a host before HDFS", region, None, 150, "MB"),
]


class Results:
    """What has been measured: a line of JSON a figure, in a file that outlives the run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._found = [json.loads(line) for line in lines]

    def add(self, build: Build, row: str, round_: int, value: float) -> None:
        """Keep a figure, in seconds or MB."""
        found = {"build": build.name, "row": row, "round": round_, "value": round(value, 2), "commit": build.commit}
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._found.append({**found, "at": at, "machine": machine()})
        with self._file.open("a") as file:
            file.write(json.dumps(self._found[-1]) + "\n")

    def of(self, build: str, row: str) -> dict[int, float]:
        """Return a row's figures by round."""
        return {one["round"]: one["value"] for one in self._found if (one["build"], one["row"]) == (build, row)}

    def all(self, build: str) -> dict[str, dict[int, float]]:
        """Return the figures of all its rows."""
        return {row: self.of(build, row) for row in dict.fromkeys(one["row"] for one in self._found)}

    def seen(self, what: str) -> list[str]:
        """Return the commits that were measured beside the earlier build, or the machines, in order."""
        return list(dict.fromkeys(one[what] for one in self._found if one["build"] == "new"))


def earlier() -> Build:
    """Return the earlier build: a clone of its commit, outside the checkout, with a Python environment of its own."""
    build = Build("old", CACHE / f"builds/{OLD}")
    if not build.root.exists():
        build.root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(build.root)], check=True)
        build.run("git", "checkout", "--quiet", OLD)
    build.run("scripts/environment")
    return build


def measure(rows: Sequence[Row], rounds: int, results: Results) -> None:
    """Run the scenarios that give these rows, in turn by both builds, as often as isn't done yet."""
    builds = [Build("new", ROOT)]
    if any("old" in row.builds() for row in rows):
        builds.insert(0, earlier())
    for round_ in range(1, rounds + 1):
        for scenario in dict.fromkeys(row.scenario for row in rows):
            for build in builds:
                wanted = {row.key for row in rows if row.scenario == scenario and build.name in row.builds()}
                wanted -= {key for key in wanted if round_ in results.of(build.name, key)}
                if not wanted:
                    continue
                figures = scenario(build)
                for key, value in figures:
                    print(f"{round_} {build.name:4} {key:18} {value:8.1f}", flush=True)
                    if round_ not in results.of(build.name, key):
                        results.add(build, key, round_, value)
                    wanted.discard(key)
                    if not wanted:
                        figures.close()  # the rest of the scenario isn't asked for


def warm_up(results: Results) -> None:
    """Have each build raise a fleet once, so that its downloads are there."""
    for build in (earlier(), Build("new", ROOT)):
        if not results.of(build.name, "warm-up"):
            with lab(build):
                results.add(build, "warm-up", 0, build.timed(*build.playbook("site.yml", **SHORT)))


def table(rows: Sequence[Row], results: Results) -> list[str]:
    """Return the table: medians, and the median of the ratios of each round's two figures."""
    lines = [f"| | {OLD} | now | ratio | aim |", "|---|---|---|---|---|"]
    for row in rows:
        new = results.of("new", row.key)
        old = results.of(*row.base)
        ratios = [new[one] / old[one] for one in sorted(new.keys() & old.keys()) if old[one]]
        aims = [f"≤ {row.ratio:g}" if row.ratio else ""]
        aims += [f"{'about' if row.ratio else '≤'} {row.aim:g} {row.unit}"] if row.aim else []
        before = results.of("old", row.key) or (old if row.base[0] == "old" else {})
        cells = [row.text, middle(before, row.unit), middle(new, row.unit)]
        cells += [f"{statistics.median(ratios):.2f}" if ratios else "", ", ".join(filter(None, aims))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def middle(figures: dict[int, float], unit: str) -> str:
    """Return the median, and the least and the most."""
    values = [value / 60 if unit == "min" else value for value in figures.values()]
    if not values:
        return ""

    def short(value: float) -> str:
        return f"{value:.1f}" if value < 10 else f"{value:.0f}"

    low, high = short(min(values)), short(max(values))
    return f"{short(statistics.median(values))} {unit}" + (f" ({low} to {high})" if low != high else "")


def machine() -> str:
    """Say on what it was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({name}), Linux {platform.release().split('-')[0]}"


def page(results: Results) -> str:
    """Return the page."""
    rows = [row for row in ROWS if results.of("new", row.key)]
    rounds = max(len(results.of("new", row.key)) for row in rows)
    medians = f"Medians of up to {rounds} runs, with the least and the most" if rounds > 1 else "One run each"
    head = (
        f"`benchmarks/life.py`, {' and '.join(results.seen('machine'))}, downloads cached. {medians}, in turn with the "
        f"build of commit {OLD} on the same machine; a ratio is the median of the rounds' ratios. Measured at "
        f"{', '.join(results.seen('commit'))}."
    )
    end = (
        "Three hosts (ps, chief, worker) train ResNet-44 on CIFAR-10 if nothing else is said. A first step is when the "
        "chief, or the new worker, has begun to train, by its journal. Hosts that are far away are reached through "
        "`benchmarks/relay.py`, which holds every byte of SSH for 50 ms each way. Of 32 hosts 24 are parameter "
        "servers, one is the chief, and 7 are workers. How long the tests take: [tests.md](tests.md). How fast it "
        "trains: [docs/benchmarks.md](../docs/benchmarks.md)."
    )
    texts = [textwrap.fill(text, 120, break_on_hyphens=False) for text in (head, end)]
    return "\n\n".join([
        "# The life of a fleet in the lab, measured", texts[0], "\n".join(table(rows, results)), texts[1] + "\n",
    ])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page after each round's part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--row", action="append", choices=[row.key for row in ROWS], help="measure this row only; again for more"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    results = Results(RESULTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab ends, too
    try:
        if not options.page:
            rows = [row for row in ROWS if not options.row or row.key in options.row]
            if any(row.scenario not in (region, quickstart) for row in rows):
                warm_up(results)
            measure([row for row in rows if row.scenario != quickstart], options.rounds, results)
            measure([row for row in rows if row.scenario == quickstart], options.rounds, results)  # forgets downloads
    except Failed as error:
        sys.exit(str(error))
    finally:
        print("\n".join(table(ROWS, results)))
    PAGE.write_text(page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
