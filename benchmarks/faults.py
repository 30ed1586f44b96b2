#!/usr/bin/env python3
"""Strikes a training fleet in the lab with every fault, and writes docs/faults.md: what happened, for how long.

    .venv/bin/python benchmarks/faults.py          (root; an hour; no lab may run)
    .venv/bin/python benchmarks/faults.py ps       (only faults with this word in their name; writes nothing)

Who trained when is read from the trainers' journals. tests/life/test_faults.py runs some of these faults, too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/life")]

from fleet import host  # noqa: E402

INTERVAL = 200  # steps between two checkpoints, the kit's default
BACK_SECS = 60  # after the cause is gone somebody has to train again
AFTER_SECS = 45  # in which what can be done without has to be done without
OVER_SECS = 300  # what can't be survived has ended by then, with a sentence
TASKS = ("ps-0", "chief-0", "worker-0", "evaluator-0")  # each on the host of its name
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
    says: tuple[str, str] | None = None  # a host, and a command whose last line says what is wrong


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fault did."""

    fault: str
    still: float  # seconds without a step of anybody
    back: float | None  # the same after the cause's end; None: nobody trained any more
    lost: int  # steps
    restarts: dict[str, int]  # by task
    words: str = ""  # what somebody said

    @property
    def problem(self) -> str:
        """Say which bound is broken; nothing where none is."""
        if self.back is None:
            return f"nobody trained {OVER_SECS} s later"
        if self.back > BACK_SECS:
            return f"nobody trained for {self.back:.0f} s after the cause was gone"
        # Each trainer may have a step of its own under way.
        return f"{self.lost} steps were lost" if self.lost > INTERVAL + len(TRAINERS) else ""


def on(name: str, command: str) -> str:
    """Run a shell command as root on a host."""
    return str(host(name).check_output("sudo sh -c %s", command))


def signal(task: str, name: str) -> Callable[[], object]:
    """Return what sends a signal to a task's processes."""
    return functools.partial(on, task, f"systemctl kill --signal={name} training@{task}")


def cut(name: str, seconds: float, then: str = "true") -> None:
    """Cut a host's network for so long, without a word to those that it is connected to."""
    chains = (f"chain {hook} {{ type filter hook {hook} priority -300; policy drop; }}" for hook in ("input", "output"))
    rules = f"table inet cut {{ {' '.join(chains)} }}"
    script = f"sleep 1; echo '{rules}' | nft -f -; {then}; sleep {seconds}; nft delete table inet cut"
    on(name, f"systemd-run --quiet --collect sh -c {shlex.quote(script)}")


def everywhere(command: str) -> None:
    for name in TASKS:
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


def on_small_disk(name: str, folder: str, unit: str, free: int) -> None:
    """Put a folder on a disk of its own, with so many MB to spare; once."""
    on(
        name,
        f"mountpoint -q {folder} && exit; systemctl stop {unit}; size=$(du -sm {folder} | cut -f1); "
        f"mv {folder} {folder}.there; mkdir {folder}; mount -t tmpfs -o size=$((size + {free}))m tmpfs {folder}; "
        f"chown --reference={folder}.there {folder}; chmod --reference={folder}.there {folder}; "
        f"cp -a {folder}.there/. {folder}; rm -r {folder}.there; systemctl start {unit}",
    )


DATA = "/var/lib/hadoop/data"
FILL = "dd if=/dev/zero of=%s/fill bs=1M 2>/dev/null; true"


def fill_hdfs() -> None:
    everywhere(FILL % DATA)


def empty_hdfs() -> None:
    everywhere(f"rm {DATA}/fill")


def small_disks() -> None:
    """Give every DataNode a disk of its own that can be filled."""
    for name in TASKS:
        on_small_disk(name, DATA, "hadoop-datanode", 200)


def fill_chief() -> None:
    on("chief-0", (FILL % DATA) + ";" + (FILL % "/var/lib/flotilla"))


def empty_chief() -> None:
    on("chief-0", f"rm {DATA}/fill /var/lib/flotilla/fill")


KILL_WHILE_SAVING = """
import subprocess, time
from flotilla import config, hdfs
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
    on("worker-0", f"echo '# other' >> {PACKAGE}/errors.py; systemctl restart training@worker-0")


def same_version() -> None:
    on("worker-0", f"sed -i '$d' {PACKAGE}/errors.py; systemctl restart training@worker-0")


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
    Fault(
        "a DataNode gone for good",
        functools.partial(
            on, "worker-0", "systemctl kill --signal=KILL hadoop-datanode; systemctl stop hadoop-datanode"
        ),
        after=unit("start", "hadoop-datanode", "worker-0"),
    ),
    Fault("HDFS full for 60 s", fill_hdfs, 60, empty_hdfs, before=small_disks),
    Fault("the chief's disk full for 60 s", fill_chief, 60, empty_chief, before=small_disks),
    Fault(
        "worker-0 has another version of the program",
        other_version,
        seconds=30,
        after=same_version,
        says=("worker-0", "journalctl --unit=training@worker-0 --grep='has version' --lines=1 --output=cat --no-pager"),
    ),
    Fault("the clock of worker-0 an hour ahead", other_clock, after=same_clock),
]


def steps(since: float) -> list[tuple[float, int, str]]:
    """Return what the trainers have reported, in the order of time: when, which global step, and who."""
    found = []
    for trainer in TRAINERS:
        journal = on(trainer, f"journalctl --unit=training@{trainer} --since=@{since:.0f} --output=json --no-pager")
        for line in journal.splitlines():
            entry = json.loads(line)
            if match := STEP.match(str(entry.get("MESSAGE"))):
                found.append((int(entry["__REALTIME_TIMESTAMP"]) / 1e6, int(match[1]), trainer))
    return sorted(found)


def restarts() -> dict[str, int]:
    """Return how often systemd has started each task again."""
    return {task: int(on(task, f"systemctl show --property=NRestarts --value training@{task}")) for task in TASKS}


def lost(numbers: Sequence[int]) -> int:
    """Return by how many steps a training went back at most."""
    return max(
        (most - number for most, number in zip(itertools.accumulate(numbers, max), numbers, strict=True)), default=0
    )


def wait_until_all_train(since: float, seconds: float) -> bool:
    """Wait until every trainer has made steps since then; return whether they have."""
    end = time.monotonic() + seconds
    while {trainer for _, _, trainer in steps(since)} != set(TRAINERS):
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def run(fault: Fault) -> Outcome:
    """Strike a fleet that trains, and watch it until all train again, for no longer than OVER_SECS."""
    if fault.before:
        fault.before()
    began = time.time()
    if not wait_until_all_train(began, OVER_SECS):
        raise RuntimeError(f"before '{fault.name}' not everybody trains")
    before, struck = restarts(), time.time()
    fault.strike()
    time.sleep(fault.seconds)
    if fault.mend:
        fault.mend()
    gone = time.time() if fault.mend else struck
    # What stops nobody at once is noticed later: a frozen worker, say.
    time.sleep(10)
    if fault.after:
        time.sleep(AFTER_SECS)
    words = "".join(on(*fault.says).strip().splitlines()[-1:]) if fault.says else ""
    watched = time.time()
    if fault.after:
        fault.after()
    wait_until_all_train(time.time(), OVER_SECS)
    found, after = steps(began), restarts()
    times = [when for when, _, _ in found if when <= watched or not fault.after]
    stood = [(a, b) for a, b in itertools.pairwise(times) if b > struck]
    return Outcome(
        fault.name,
        max((b - a for a, b in stood), default=0.0),
        max((b - max(a, gone) for a, b in stood if b > gone), default=None),
        lost([step for _, step, _ in found]),
        {task: after[task] - before[task] for task in TASKS if after[task] > before[task]},
        words,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="of a fault's name")
    options = parser.parse_args(argv)
    for fault in FAULTS:
        if options.word in fault.name:
            outcome = run(fault)
            print(outcome, outcome.problem, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
