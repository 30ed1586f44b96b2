#!/usr/bin/env python3
"""Strikes a training fleet in the lab with every fault, and writes docs/faults.md: what happened, for how long.

    .venv/bin/python -m benchmarks.faults                   (root; an hour and a half)
    .venv/bin/python -m benchmarks.faults ps-1 synchronous    (only faults with one of these in their names)
    .venv/bin/python -m benchmarks.faults --keep ps-1       (the fleet stays, and is there for the next run)

Each fault's row is written when it has happened; those of other faults stay.

Who trained when is read from the trainers' journals. tests/life/test_faults.py runs some of these faults, too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import boto3

from tests.support.commands import kill_family, user_environment, user_runs
from tests.support.fleet import INVENTORY, address, host, variables
from tests.support.lab import limit, upload

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs/faults.md"
MARKS = ("<!-- made by benchmarks/faults.py -->\n", "<!-- end -->\n")
HEAD = """
The last run of each, {cores} cores for all hosts:

| fault | started again by systemd | nobody trained for | … after the cause was gone | steps lost | | on |
|---|---|---|---|---|---|---|
"""
INTERVAL = 200  # steps between two checkpoints, the kit's default
BACK_SECS = 60  # after the cause is gone somebody has to train again
AFTER_SECS = 75  # in which what can be done without has to be done without: more than BACK_SECS
OVER_SECS = 300  # what can't be survived has ended by then, with a sentence
OPTIONS = {
    "fleet_groups": {
        group: {"count": count, "instance_type": "t3.large"}
        for group, count in (("ps", 2), ("chief", 1), ("worker", 1), ("evaluator", 1))
    },
    "job": "faults",
    "training_max_steps": 1_000_000,
    "training_batch_size": 16,
}
SYNC = {**OPTIONS, "job": "faults-sync", "training_sync": True}
TASKS = ("ps-0", "chief-0", "worker-0", "evaluator-0")  # each on the host of its name
HOSTS = (*TASKS, "ps-1")  # the NameNode is on ps-0
TRAINERS = ("chief-0", "worker-0")
STEP = re.compile(r"step (\d+) of ")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a fleet that trains."""

    name: str
    strike: Callable[[], object]
    seconds: float = 0  # that the cause lasts
    mend: Callable[[], object] | None = None  # ends the cause, where that isn't the fleet's own affair
    after: Callable[[], object] | None = None  # puts the fleet right again, when it has shown that it trains without
    before: Callable[[], object] | None = None  # prepares what is struck
    ends: str = ""  # the job, and this host's flotilla-status says why
    says: tuple[str, str] | None = None  # else: a host, and a command whose last line says what is wrong
    replaced: str = ""  # the host whose successor's task ends the cause
    mirrored: bool = False  # what is lost is what the mirror in S3 doesn't have


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fault did."""

    fault: str
    still: float  # seconds without a step of anybody
    back: float | None  # the same after the cause's end; None: nobody trained any more
    lost: int  # steps
    restarts: dict[str, int]  # by task
    words: str | None = None  # what somebody said who has to say something
    over: float | None = None  # seconds until the job was given up with these words
    silent: tuple[str, ...] = ()  # tasks that did nothing any more at the end
    kept: int | None = None  # steps, of a training whose HDFS was lost

    def problem(self, back_secs: float = BACK_SECS) -> str:
        """Say which bound is broken; nothing where none is."""
        if self.over is not None and self.over > OVER_SECS:
            return "the job neither went on nor ended"
        if self.words == "":
            return "nobody said why"
        if self.back is None:
            return f"nobody trained {OVER_SECS} s later"
        if self.over is None and self.back > back_secs:
            return f"nobody trained for {self.back:.0f} s after the cause was gone"
        if self.silent:
            return f"nothing more of {', '.join(self.silent)}"
        if self.kept is not None:
            return "" if self.kept >= INTERVAL else "nothing of the training was kept"
        # Each trainer may have a step of its own under way.
        return f"{self.lost} steps were lost" if self.lost > INTERVAL + len(TRAINERS) else ""


def on(name: str, command: str) -> str:
    """Run a shell command as root on a host."""
    return str(host(name).check_output("sudo sh -c %s", command))


def signal(task: str, name: str) -> Callable[[], object]:
    """Return what sends a signal to a task's processes."""
    return functools.partial(on, task, f"systemctl kill --signal={name} training@{task}")


def raise_fleet(options: Mapping[str, object] = OPTIONS) -> None:
    """Make what is missing of the fleet, and return when it trains; nobody watches then."""
    process = subprocess.Popen(
        ["ansible-playbook", "-i", INVENTORY, "site.yml", "-e", json.dumps(options)], cwd=ROOT, text=True,
        env={**user_environment(), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = []
    try:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if re.search(r"train +[1-9]\d*/", line):
                break
        else:
            raise RuntimeError("site.yml failed:\n" + "".join(lines[-40:]))
    finally:
        kill_family(process.pid)
        process.wait()
    address.cache_clear()


def lose(name: str) -> None:
    """Have a host's power fail for good: who is connected to it hears nothing any more."""
    cut(name, 60, "sleep 2; systemctl poweroff --force --force")


def cut(name: str, seconds: float, then: str = "true") -> None:
    """Cut a host's network for so long, without a word to those that it is connected to."""
    chains = (
        f"chain {hook} {{ type filter hook {hook} priority -300; policy drop; }};" for hook in ("input", "output")
    )
    rules = f"echo 'table inet cut {{ {' '.join(chains)} }}' | nft"
    on(name, f"{rules} --check --file -")
    script = f"sleep 1; {rules} --file -; {then}; sleep {seconds}; nft delete table inet cut"
    on(name, f"systemd-run --quiet --collect sh -c {shlex.quote(script)}")


def everywhere(command: str) -> None:
    for name in HOSTS:
        on(name, command)


def power_cycle() -> None:
    """Reboot all hosts at once, as after a power failure; returns when they are back."""
    everywhere("systemd-run --quiet --collect --on-active=8 --timer-property=AccuracySec=100ms reboot -ff")
    time.sleep(10)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            everywhere("systemctl is-active sshd || systemctl is-active ssh")
            return
        time.sleep(1)
    raise RuntimeError("the hosts aren't back")


STOP = "systemctl kill --signal=STOP"
KILL = "systemctl kill --signal=KILL"
BEGAN = "stat --format=%Y /proc/1"  # when a host of the lab has booted


def kill_writers() -> None:
    """Kill those who write events and checkpoints, with a DataNode that they write to."""
    on("worker-0", f"{KILL} hadoop-datanode training@worker-0")
    on("chief-0", f"{KILL} training@chief-0")


def reboot(name: str) -> None:
    """Have AWS reboot a host; returns when it is back."""
    began = on(name, BEGAN)
    instance = variables(name)["instance_id"]
    boto3.Session(profile_name="flotilla-lab").client("ec2").reboot_instances(InstanceIds=[instance])
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            if on(name, BEGAN) != began:
                return
        time.sleep(1)
    raise RuntimeError(f"{name} isn't back")


DATA = "/var/lib/hadoop/data"
STATE = "/var/lib/flotilla"


def quota(verb: str) -> Callable[[], object]:
    """Limit what the jobs' folder may hold, or not: the lab's hosts share one disk, which can't be filled."""
    return functools.partial(on, "ps-0", f"sudo -u hdfs hdfs dfsadmin -{verb} /jobs")


def small_disk() -> None:
    """Give the chief's DataNode a disk of its own that can be filled, once."""
    # HDFS takes a file only where there is room for whole blocks, of 128 MB, of all that write, and leaves 1 GiB free.
    on(
        "chief-0",
        f"mountpoint -q {DATA} && exit; systemctl stop hadoop-datanode; size=$(du -sm {DATA} | cut -f1); "
        f"mv {DATA} {DATA}.there; mkdir {DATA}; mount -t tmpfs -o size=$((size + 2300))m tmpfs {DATA}; "
        f"chown --reference={DATA}.there {DATA}; chmod --reference={DATA}.there {DATA}; "
        f"cp -a {DATA}.there/. {DATA}; rm -r {DATA}.there; systemctl start hadoop-datanode",
    )
    time.sleep(10)


def fill_chief() -> None:
    on("chief-0", f"mountpoint -q {STATE} || mount -t tmpfs -o size=8m,mode=755 tmpfs {STATE}")
    on("chief-0", f"mkdir -p {STATE}/progress {STATE}/tasks; chown -R flotilla: {STATE}")
    for folder in (DATA, STATE):
        on("chief-0", f"dd if=/dev/zero of={folder}/fill bs=1M 2>&1 | grep 'No space left'")


def empty_chief() -> None:
    on("chief-0", f"rm {DATA}/fill {STATE}/fill")


KILL_WHILE_SAVING = """
import subprocess, time
from flotilla.job import config
from flotilla.storage import hdfs
folder = config.load(["--config", "/etc/flotilla/job.json"]).model_dir
there = hdfs.names(folder)
while not any("model.ckpt-" in name for name in hdfs.names(folder) - there):
    pass
subprocess.run(["systemctl", "kill", "--signal=KILL", "training@chief-0"], check=True)
"""


def kill_while_saving() -> None:
    program = shlex.quote(KILL_WHILE_SAVING)
    on("chief-0", f". /etc/hadoop/client.env; /opt/tensorflow/bin/python -c {program}")


def other_version() -> None:
    on("worker-0", f"echo '# other' >> {PACKAGE}/job/errors.py; systemctl restart training@worker-0")


def same_version() -> None:
    on("worker-0", f"sed -i '$d' {PACKAGE}/job/errors.py; systemctl restart training@worker-0")


PACKAGE = "$(/opt/tensorflow/bin/python -c 'import flotilla; print(flotilla.__path__[0])')"
FAKE = r"[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME=+1h\n"
CLOCKED = ("hadoop-datanode", "training@worker-0")


def other_clock() -> None:
    """Have the worker's host be an hour ahead: its task and its DataNode, since hosts in the lab share a clock."""
    on("worker-0", "command -v faketime || apt-get install --yes --quiet faketime")
    for unit in CLOCKED:
        folder = f"/run/systemd/system/{unit}.service.d"
        on("worker-0", f"mkdir -p {folder}; printf '{FAKE}' > {folder}/clock.conf")
    on("worker-0", f"systemctl daemon-reload; systemctl restart {' '.join(CLOCKED)}")


def same_clock() -> None:
    on("worker-0", "rm /run/systemd/system/*.service.d/clock.conf")
    on("worker-0", f"systemctl daemon-reload; systemctl restart {' '.join(CLOCKED)}")


def anew() -> None:
    """Raise the fleet from nothing: without the NameNode's host there is nothing to go on with but S3."""
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
    raise_fleet()


def synchronous() -> None:
    """Have the same fleet train synchronously."""
    if f'"{SYNC["job"]}"' in on("chief-0", "cat /etc/flotilla/job.json"):
        return
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/stop.yml")
    raise_fleet(SYNC)


def synchronous_again() -> None:
    if there("worker-0"):
        same_version()
    raise_fleet(SYNC)


def mended(mend: Callable[[], object]) -> None:
    """End a cause that a job was given up for, and go on with the job."""
    mend()
    raise_fleet()


def unit(verb: str, name: str, where: str) -> Callable[[], object]:
    return functools.partial(on, where, f"systemctl {verb} {name}")


FAULTS = [
    *(Fault(f"{task} killed (SIGKILL)", signal(task, "KILL")) for task in TASKS),
    *(Fault(f"{task} frozen (SIGSTOP)", signal(task, "STOP")) for task in TASKS),
    Fault("chief-0 killed while it saves a checkpoint", kill_while_saving),
    *(Fault(f"network of {name} cut for 60 s", functools.partial(cut, name, 60), 61) for name in TASKS),
    Fault("all hosts power-cycled at once", power_cycle),
    Fault(
        "NameNode down for 60 s", unit("stop", "hadoop-namenode", "ps-0"), 60, unit("start", "hadoop-namenode", "ps-0")
    ),
    # hadoop-watch takes no daemon for frozen that only waits for a processor
    Fault(
        "ps-0 with 5 % of a processor for 10 minutes",
        functools.partial(limit, "ps-0", 0.05),
        600,
        functools.partial(limit, "ps-0", 0),
        says=(
            "ps-0",
            "echo $(journalctl --quiet --unit=hadoop-watch --since=-11min | wc -l) words of hadoop-watch",
        ),
    ),
    Fault("NameNode frozen (SIGSTOP)", functools.partial(on, "ps-0", f"{STOP} hadoop-namenode")),
    # Of two copies of each block, trainers on the same host write the first one there, others the second.
    *(
        Fault(f"the DataNode of {name} frozen (SIGSTOP)", functools.partial(on, name, f"{STOP} hadoop-datanode"))
        for name in ("worker-0", "ps-1")
    ),
    Fault("both trainers and the DataNode of worker-0 killed (SIGKILL)", kill_writers),
    *(Fault(f"{name} rebooted by AWS's API", functools.partial(reboot, name)) for name in HOSTS),
    Fault(
        "a DataNode gone for good",
        functools.partial(
            on, "worker-0", "systemctl kill --signal=KILL hadoop-datanode; systemctl stop hadoop-datanode"
        ),
        after=unit("start", "hadoop-datanode", "worker-0"),
    ),
    Fault("HDFS full (a quota) for 60 s", quota("setSpaceQuota 1"), 60, quota("clrSpaceQuota")),
    Fault(
        "HDFS full (a quota) for good",
        quota("setSpaceQuota 1"),
        ends="chief-0",
        after=functools.partial(mended, quota("clrSpaceQuota")),
    ),
    Fault(
        "NameNode down for good",
        unit("stop", "hadoop-namenode", "ps-0"),
        ends="chief-0",
        after=functools.partial(mended, unit("start", "hadoop-namenode", "ps-0")),
    ),
    Fault("the chief's disk full for 60 s", fill_chief, 60, empty_chief, before=small_disk),
    Fault(
        "worker-0 has another version of the program",
        other_version,
        seconds=130,  # for two minutes it waits for the chief to have it, too
        after=same_version,
        says=("worker-0", "journalctl --unit=training@worker-0 --grep='has version' --lines=1 --output=cat --no-pager"),
    ),
    Fault("the clock of worker-0 an hour ahead", other_clock, after=same_clock),
    *(
        Fault(
            f"the host of {name} gone, replaced by site.yml",
            functools.partial(lose, name),
            mend=raise_fleet,
            replaced=name,
        )
        for name in ("ps-1", "chief-0", "worker-0", "evaluator-0")
    ),
    *(
        Fault(f"the host of {name} gone for good", functools.partial(lose, name), after=raise_fleet)
        for name in ("worker-0", "evaluator-0")
    ),
    *(
        Fault(
            f"the host of {name} gone for good",
            functools.partial(lose, name),
            ends=teller,
            after=raise_fleet,
        )
        for name, teller in (("ps-1", "chief-0"), ("chief-0", "ps-0"))
    ),
    Fault(
        "the host of ps-0, with the NameNode, gone for good; destroy.yml, then site.yml",
        functools.partial(lose, "ps-0"),
        ends="chief-0",
        after=anew,
        mirrored=True,
    ),
    Fault(
        "synchronous: worker-0 has another version of the program",
        other_version,
        ends="chief-0",
        after=synchronous_again,
        before=synchronous,
    ),
    Fault(
        "synchronous: the host of worker-0 gone for good",
        functools.partial(lose, "worker-0"),
        ends="chief-0",
        after=synchronous_again,
        before=synchronous,
    ),
]


def there(name: str) -> bool:
    """Whether the region has this host running."""
    filters = [{"Name": "tag:Name", "Values": [f"test-{name}"]}, {"Name": "instance-state-name", "Values": ["running"]}]
    ec2 = boto3.Session(profile_name="flotilla-lab").client("ec2")
    return bool(ec2.describe_instances(Filters=filters)["Reservations"])


def reported(name: str, unit: str, since: float) -> list[tuple[float, int]]:
    """Return what a trainer's unit on a host has reported: when, and which global step."""
    journal = on(name, f"journalctl --unit={unit} --since=@{since:.0f} --output=json --no-pager")
    entries = map(json.loads, journal.splitlines())
    return [
        (int(entry["__REALTIME_TIMESTAMP"]) / 1e6, int(match[1]))
        for entry in entries
        if (match := STEP.match(str(entry.get("MESSAGE"))))
    ]


def steps(since: float) -> list[tuple[float, int, str]]:
    """Return what the trainers have reported, in the order of time: when, which global step, and who."""
    return sorted(
        (when, step, trainer)
        for trainer in filter(there, TRAINERS)
        for when, step in reported(trainer, f"training@{trainer}", since)
    )


def restarts() -> dict[str, int]:
    """Return how often systemd has started each task again."""
    return {
        task: int(on(task, f"systemctl show --property=NRestarts --value training@{task}"))
        for task in filter(there, TASKS)
    }


def began_on(name: str) -> float:
    """Return when a new host's task has begun."""
    journal = on(name, f"journalctl --unit=training@{name} --output=json --no-pager | head -1")
    return int(json.loads(journal)["__REALTIME_TIMESTAMP"]) / 1e6


def lost(numbers: Sequence[int]) -> int:
    """Return by how many steps at most the numbers of one trainer went back."""
    return max(
        (most - number for most, number in zip(itertools.accumulate(numbers, max), numbers, strict=True)), default=0
    )


def wait_for(tasks: Sequence[str], since: float, seconds: float = OVER_SECS) -> tuple[str, ...]:
    """Wait until all these tasks have told of work done since then; return those that haven't."""
    end = time.monotonic() + seconds
    while (silent := tuple(task for task in tasks if told(task) < since)) and time.monotonic() < end:
        time.sleep(1)
    return silent


def told(task: str) -> float:
    """Return when a trainer or evaluator has last told of its work, by its host's clock: its own may be off."""
    file = f"{STATE}/tasks/{task}.json"
    return float(on(task, f"stat --format=%.Y {file} || echo 0")) if there(task) else 0.0


def given_up(name: str, since: float) -> float:
    """Return after how many seconds a host's status says that the job has failed."""
    while time.time() - since <= OVER_SECS + 5 and "train: failed" not in on(name, "flotilla-status --here"):
        time.sleep(1)
    return time.time() - since


def run(fault: Fault) -> Outcome:
    """Strike a fleet that trains, and watch it until all work again, for no longer than OVER_SECS."""
    if fault.before:
        fault.before()
    began = time.time()
    if silent := wait_for(TRAINERS, began):
        raise RuntimeError(f"before '{fault.name}' nothing is heard of {', '.join(silent)}")
    before, struck, seen = restarts(), time.time(), steps(began)
    fault.strike()
    time.sleep(fault.seconds)
    if fault.mend:
        fault.mend()
    gone = began_on(fault.replaced) if fault.replaced else struck if fault.after else time.time()
    # What stops nobody at once is noticed later: a frozen worker, say.
    time.sleep(10)
    if fault.after and not fault.ends:
        time.sleep(AFTER_SECS)
    over = given_up(fault.ends, struck) if fault.ends else None
    says = (fault.ends, "flotilla-status --here | grep ^train") if fault.ends else fault.says
    words = "".join(on(*says).strip().splitlines()[-1:]) if says else None
    watched = time.time()
    seen += steps(began)  # a host that goes takes its journal along
    if fault.after:
        fault.after()
    # The evaluator tells something once a minute.
    silent = wait_for([*TRAINERS, *(["evaluator-0"] if "evaluator-0" in fault.name else [])], time.time())
    found, after = sorted({*seen, *steps(began)}), restarts()
    times = [when for when, _, _ in found if when <= watched or not fault.after]
    if fault.after and not fault.ends:
        times.append(watched)
    went_back = max(lost([step for _, step, who in found if who == trainer]) for trainer in TRAINERS)
    stood = [(a, b) for a, b in itertools.pairwise(times) if b > struck]
    return Outcome(
        fault.name,
        max((b - a for a, b in stood), default=0.0),
        max((b - max(a, gone) for a, b in stood if b > gone), default=None),
        went_back,
        {task: after[task] - before.get(task, 0) for task in after if after[task] > before.get(task, 0)},
        words,
        over,
        silent,
        max(step for _, step, _ in seen) - went_back if fault.mirrored else None,
    )


def row(outcome: Outcome) -> str:
    """Return an outcome as a line of the table."""
    again = ", ".join(f"{task} x{count}" if count > 1 else task for task, count in outcome.restarts.items()) or "-"
    if outcome.over is None:
        still, back = f"{outcome.still:.0f} s", "-" if outcome.back is None else f"{outcome.back:.0f} s"
    else:
        still, back = "-", f"given up after {outcome.over:.0f} s"
    said = f' "{outcome.words}"' if outcome.words else ""
    wrong = f" **{outcome.problem()}**" if outcome.problem() else ""
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return f"| {outcome.fault} | {again} | {still} | {back} | {outcome.lost} |{said}{wrong} | {today} |"


def write(new: str) -> None:
    """Put a row in its place in the table."""
    rows = {line.split(" | ")[0]: line for line in [*TABLE.read_text().splitlines(), new] if line.startswith("| ")}
    found = [rows[name] for fault in FAULTS if (name := f"| {fault.name}") in rows]
    put(TABLE, MARKS, HEAD.format(cores=os.cpu_count()) + "\n".join(found) + "\n\n")


def put(page: Path, marks: tuple[str, str], text: str) -> None:
    """Write a page anew between its two marks."""
    head, _, tail = page.read_text().partition(marks[0])
    page.write_text(f"{head}{marks[0]}{text}{marks[1]}{tail.partition(marks[1])[2]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Raise a fleet, strike it, and write the table; return 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=[""], metavar="WORD", help="only faults with it in their names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet for the next run")
    options = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS if any(word in fault.name for word in options.words)]
    if not chosen:
        parser.error(f"no fault has any of {options.words} in its name")
    user_runs("scripts/lab", "up")
    upload("cifar10")
    raise_fleet()
    outcomes = []
    for fault in chosen:
        print(f"{fault.name} …", flush=True)
        outcomes.append(run(fault))
        line = row(outcomes[-1])
        print(line, flush=True)
        write(line)
    if not options.keep:
        user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
        user_runs("scripts/lab", "down")
    return int(any(outcome.problem() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
