#!/usr/bin/env python3
"""Strikes a fleet in the lab that infers with every fault, and writes its table in docs/faults.md.

    .venv/bin/python -m benchmarks.inference_faults                  (root; three quarters of an hour)
    .venv/bin/python -m benchmarks.inference_faults driver NameNode  (only faults with one of these in their names)

Each fault has a job of its own, over 240 photos on HDFS, six at a time, each of which takes 0.3 s. After it the rows
are held against the photos: whatever has happened, each has one. The table's first row is a job that nothing happens
to.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from benchmarks.faults import KILL, STOP, TABLE, cut, lose, on, put
from benchmarks.staging import HOSTS, OPTIONS, PHASES, grow
from tests.support.commands import ROOT, kill_family, user_environment, user_runs
from tests.support.fleet import BUCKET, INVENTORY
from tests.support.lab import upload

MARKS = ("<!-- made by benchmarks/inference_faults.py -->\n", "<!-- end of inference -->\n")
HEAD = """
| fault | started again by systemd | no new row for | its time ÷ a job's without a fault | broken photos | | on |
|---|---|---|---|---|---|---|
"""
PHOTOS = 240
OVER_SECS = 400  # whatever has happened, the job has ended by then
UNITS = ("flotilla-infer", "spark-master", "spark-worker", "hadoop-namenode", "hadoop-datanode")
STATE = "/var/lib/flotilla"
HDFS = "hdfs://ps-0:8020/user/flotilla/faults"
SPARK = "/opt/spark/lib"
USER = (
    "systemd-run --quiet --wait --pipe --collect --uid=flotilla --setenv=HOME=/tmp --setenv=TF_CPP_MIN_LOG_LEVEL=3 "
    "--property=EnvironmentFile=/etc/hadoop/client.env --property=EnvironmentFile=/etc/flotilla/aws.env"
)

# Tells the brightest colour. One photo has another size, which the user's function may know.
MAKE = """
import sys, tempfile
from pathlib import Path
import numpy as np, tensorflow as tf
from flotilla.storage.files import open_folder
target, photos = open_folder(sys.argv[1]), int(sys.argv[2])

class Brightest(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, name="image")])
    def colour(self, image):
        logits = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]) / 10
        return {"probabilities": tf.nn.softmax(logits)}

with tempfile.TemporaryDirectory() as folder:
    module = Brightest()
    tf.saved_model.save(module, folder, {"serving_default": module.colour})
    for file in Path(folder).rglob("*"):
        if file.is_file():
            target.write(f"model/{file.relative_to(folder).as_posix()}", [file.read_bytes()])
for number in range(photos):
    colour = np.array([200 if number % 3 == one else 10 for one in range(3)], np.uint8)
    photo = np.broadcast_to(colour, (16, 17 if number == photos - 1 else 16, 3))
    target.write(f"photos/{number % 3}/{number:03}.png", [tf.io.encode_png(photo).numpy()])
"""

READ = """
import io, json, sys
import pyarrow.parquet as pq
from flotilla.storage.s3 import Prefix
stored = Prefix(sys.argv[1])
told = json.loads(stored.read("manifest.json"))
rows = [row for one in told["files"] if one["path"].endswith(".parquet")
        for row in pq.ParquetFile(io.BytesIO(stored.read(one["path"]))).read(use_threads=False).to_pylist()]
wrong = [row["path"] for row in rows if not row["error"] and str(row["class"]) != row["label"]]
print(json.dumps({"rows": len(rows), "photos": len({row["path"] for row in rows}), "told": told["rows"],
                  "wrong": wrong, "broken": [row["path"] for row in rows if row["error"]]}))
"""

# Prints the time at which there are more rows than before, and how many; until a phase, as infer, has ended, or for so
# long.
WATCH = f"""
import json, subprocess, sys, time
end, most, phase = time.monotonic() + {OVER_SECS}, -1, sys.argv[1]
while time.monotonic() < end:
    try:
        told = json.load(open(f"{STATE}/progress/{{phase}}.json"))
    except (OSError, ValueError):
        told = {{}}
    if told.get("done", 0) > most:
        most = told.get("done", 0)
        print(time.time(), int(most), flush=True)
    ask = ["systemctl", "is-active", f"flotilla-{{phase}}"]
    state = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    if state in ("failed", "inactive"):
        print(time.time(), state, told.get("message", ""), flush=True)
        break
    time.sleep(0.3)
"""


@dataclass(frozen=True)
class Fault:
    """What is done to a fleet that infers."""

    name: str
    strike: Callable[[], object]
    seconds: float = 0  # that the cause lasts
    mend: Callable[[], object] | None = None  # ends the cause, where that isn't the fleet's own affair
    broken: int = 0  # photos that have an error for a row
    watched: bool = False  # begun by infer.yml, which is killed then


@dataclass(frozen=True)
class Outcome:
    """What a fault did."""

    fault: str
    still: float  # seconds without a new row, at most, from the strike on
    seconds: float  # the whole job
    restarts: dict[str, int]  # by unit and host
    broken: int
    words: str  # what is wrong; nothing where all is right


def kill(pattern: str, name: str = "KILL", which: str = "newest", host: str = "chief-0") -> Callable[[], object]:
    """Return what sends a signal to one of the processes of a host; the pattern doesn't match the shell's own."""
    return functools.partial(on, host, f"pkill --signal {name} --full --{which} '[{pattern[0]}]{pattern[1:]}'")


def unit(signal: str, name: str, host: str) -> Callable[[], object]:
    return functools.partial(on, host, f"{signal} {name}")


def on_all(command: str) -> None:
    for name in HOSTS:
        on(name, command)


def fill() -> None:
    """Leave the Worker's temporary folder no room: its own is in a namespace of its own."""
    inside = "nsenter --mount --target $(systemctl show --property=MainPID --value spark-worker)"
    on("chief-0", f"{inside} mount -t tmpfs -o size=4k,mode=1777 tmpfs /tmp")
    on("chief-0", f"{inside} sh -c 'cat /dev/zero > /tmp/fill; true'")


def empty() -> None:
    on("chief-0", "nsenter --mount --target $(systemctl show --property=MainPID --value spark-worker) umount -l /tmp")


def no_s3(seconds: float) -> None:
    """Drop what the hosts send to S3, without a word, for so long; SSH and HDFS stay."""
    url = on("ps-0", "sed -n 's/^AWS_ENDPOINT_URL=//p' /etc/flotilla/aws.env").strip().strip('"')
    place, _, port = url.rpartition("//")[2].rstrip("/").rpartition(":")
    chain = f"chain out {{ type filter hook output priority -300; ip daddr {place} tcp dport {port} drop; }}"
    on_all(
        f"echo 'table inet away {{ {chain} }}' | nft --file - && systemd-run --quiet --collect --on-active={seconds} "
        "nft delete table inet away"
    )
    time.sleep(seconds)


def kill_while_finishing() -> None:
    """Kill the driver when all rows are there, and it reads them back and writes page, HDF5 and manifest."""
    on(
        "ps-0",
        f"while ! grep -q 'reading all back' {STATE}/progress/infer.json; do sleep 0.01; done; {KILL} flotilla-infer",
    )


def break_environment() -> None:
    """Take a package away from a host's Python, and have that begin anew."""
    on(
        "worker-0",
        f"cd {SPARK}/python3*/site-packages && mv pyarrow pyarrow.away; pkill --signal KILL --full '[p]yspark.daemon'",
    )


def mend_environment() -> None:
    on("worker-0", f"cd {SPARK}/python3*/site-packages && mv pyarrow.away pyarrow")


def nothing() -> None:
    pass


FAULTS = [
    Fault("nothing", nothing),
    Fault("a task's Python process killed (SIGKILL)", kill("pyspark.daemon")),
    Fault("a task's Python process frozen (SIGSTOP)", kill("pyspark.daemon", "STOP")),
    Fault("an executor killed (SIGKILL)", kill("CoarseGrainedExecutorBackend", "KILL", "oldest")),
    Fault("an executor frozen (SIGSTOP)", kill("CoarseGrainedExecutorBackend", "STOP", "oldest")),
    Fault("a Worker with all that it runs killed (SIGKILL)", unit(KILL, "spark-worker", "chief-0")),
    Fault("a Worker with all that it runs frozen (SIGSTOP)", unit(STOP, "spark-worker", "chief-0")),
    Fault("the Master killed (SIGKILL)", unit(KILL, "spark-master", "ps-0")),
    Fault("the Master frozen (SIGSTOP)", unit(STOP, "spark-master", "ps-0")),
    Fault("the driver killed (SIGKILL)", unit(KILL, "flotilla-infer", "ps-0")),
    Fault("the driver frozen (SIGSTOP)", unit(STOP, "flotilla-infer", "ps-0")),
    Fault("the driver's Java killed (SIGKILL)", kill("pyspark-shell", "KILL", "oldest", "ps-0")),
    Fault("the driver's Java frozen (SIGSTOP)", kill("pyspark-shell", "STOP", "oldest", "ps-0")),
    Fault("the driver killed while it reads all back and writes the page", kill_while_finishing),
    Fault("the NameNode killed (SIGKILL)", unit(KILL, "hadoop-namenode", "ps-0")),
    Fault("the NameNode frozen (SIGSTOP)", unit(STOP, "hadoop-namenode", "ps-0")),
    Fault("a DataNode killed (SIGKILL)", unit(KILL, "hadoop-datanode", "chief-0")),
    Fault("a DataNode frozen (SIGSTOP)", unit(STOP, "hadoop-datanode", "chief-0")),
    Fault("the network of a host cut for 60 s", functools.partial(cut, "chief-0", 60), 61),
    Fault("S3 away for 60 s", functools.partial(no_s3, 60)),
    Fault("no room for a host's temporary files, for 60 s", fill, 60, empty),
    Fault("a package gone from a host's Python", break_environment, 0, mend_environment),
    Fault(
        "the user's function hangs on one photo (infer_item_secs: 5)",
        functools.partial(on_all, "touch /run/hang"),
        mend=functools.partial(on_all, "rm /run/hang"),
        broken=1,
    ),
    Fault(
        "a host ten times as slow as the others",
        functools.partial(on, "chief-0", "touch /run/slow"),
        mend=functools.partial(on, "chief-0", "rm /run/slow"),
    ),
    Fault("infer.yml killed, and nobody watches", nothing, watched=True),
    Fault("a host gone for good", functools.partial(lose, "worker-0")),
]


def raise_fleet() -> None:
    """Raise a fleet with Spark, the photos on HDFS, and a first job's settings."""
    user_runs("scripts/lab", "up")
    upload("cifar10")
    grow(OPTIONS, PHASES)


def job(target: str) -> dict[str, object]:
    return {
        "infer_model": f"{HDFS}/model", "infer_source": f"{HDFS}/photos", "infer_target": target, "infer_hdf5": True,
        "infer_program": str(ROOT / "benchmarks/cases/slow_photos.py"), "infer_item_secs": 5, **OPTIONS,
    }  # fmt: skip


def begin(target: str, watched: bool) -> None:
    """Begin a job: by infer.yml, which is killed when it follows, or with an earlier one's settings."""
    if not watched:
        on(
            "ps-0",
            f'sed -i \'s|"target": "[^"]*"|"target": "{target}"|\' /etc/flotilla/infer.json; '
            f"rm -f {STATE}/infer.done {STATE}/progress/infer.json; "
            "systemctl reset-failed flotilla-infer; systemctl restart flotilla-infer",
        )
        return
    process = subprocess.Popen(
        ["ansible-playbook", "-i", INVENTORY, "playbooks/infer.yml", "-e", json.dumps(job(target))],
        cwd=ROOT, text=True, env={**user_environment(), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if "starting Spark" in line:
            break
    else:
        raise RuntimeError("".join(said[-20:]))
    kill_family(process.pid)
    process.wait()


def restarts(units: Sequence[str]) -> dict[str, int]:
    """Return how often systemd has started each unit of each host again."""
    found = {}
    for name in HOSTS:
        shown = on(name, f"for u in {' '.join(units)}; do systemctl show --property=NRestarts --value $u; done").split()
        found.update({f"{one} of {name}": int(count) for one, count in zip(units, shown, strict=True)})
    return found


def read(target: str) -> dict[str, object]:
    """Return what the stored predictions hold."""
    said = on("ps-0", f"{USER} /opt/spark/bin/python -c '{READ}' {target}")
    return dict(json.loads(said.splitlines()[-1]))


def strike(phase: str, fault: Fault, after: int) -> tuple[float, float, str]:
    """Strike when so many rows are done, and watch a phase to its end.

    Return the seconds without a new row, at most; when it ended; and why it didn't.
    """
    with subprocess.Popen(
        ["scripts/ssh", "-i", INVENTORY, "ps-0", "--", "sudo", "python3", "-u", "-", phase],
        cwd=ROOT, text=True, env=user_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as watching:  # fmt: skip
        assert watching.stdin and watching.stdout
        watching.stdin.write(WATCH)
        watching.stdin.close()
        rows: list[tuple[float, int]] = []
        struck, ended, state, words = 0.0, 0.0, "", ""
        for line in watching.stdout:
            when, found, *said = line.strip().split(" ", 2)
            if not found.isdigit():
                ended, state, words = float(when), found, " ".join(said)
                break
            rows.append((float(when), int(found)))
            if not struck and int(found) >= after:
                struck = time.time()
                fault.strike()
                time.sleep(fault.seconds)
                if fault.mend and fault.seconds:
                    fault.mend()
    if fault.mend and not fault.seconds:
        fault.mend()
    times = [when for when, _ in rows if when >= struck]
    stood = max((b - a for a, b in zip([struck, *times], [*times, ended], strict=False)), default=0.0)
    return stood, ended, "" if state == "inactive" else words or "it hasn't ended"


def run(fault: Fault) -> Outcome:
    """Begin a job, strike when a quarter is done, and watch it to its end."""
    # In the models' folder, to which the fleet may write whatever infer_target was.
    target = f"s3://{BUCKET}/models/fault-{time.time():.0f}/"
    last = fault is FAULTS[-1]
    begin(target, fault.watched)
    began = time.time()
    before = {} if last else restarts(UNITS)
    stood, ended, words = strike("infer", fault, PHOTOS // 4)
    if words:
        return Outcome(fault.name, 0, 0, {}, 0, words)
    after = {} if last else restarts(UNITS)
    there = read(target)
    right = {"rows": PHOTOS, "photos": PHOTOS, "told": PHOTOS, "wrong": []}
    wrong = {key: there[key] for key, value in right.items() if there[key] != value}
    broken = there["broken"]
    assert isinstance(broken, list)
    if len(broken) != fault.broken:
        wrong["broken"] = broken[:3]
    again = {name: after[name] - before[name] for name in after if after[name] > before[name]}
    return Outcome(fault.name, stood, ended - began, again, len(broken), json.dumps(wrong) if wrong else "")


def row(outcome: Outcome, usual: float) -> str:
    """Return an outcome as a line of the table."""
    again = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in outcome.restarts.items()) or "-"
    ratio = f"{outcome.seconds / usual:.1f}" if usual and outcome.seconds else "-"
    wrong = f" **{outcome.words}**" if outcome.words else ""
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return f"| {outcome.fault} | {again} | {outcome.still:.0f} s | {ratio} | {outcome.broken} |{wrong} | {today} |"


def write(new: str, faults: Sequence[Fault], marks: tuple[str, str], head: str) -> None:
    """Put a row in its place in the table between two marks."""
    text = TABLE.read_text().partition(marks[0])[2].partition(marks[1])[0]
    rows = {line.split(" | ")[0]: line for line in [*text.splitlines(), new] if line.startswith("| ")}
    found = [rows[name] for fault in faults if (name := f"| {fault.name}") in rows]
    put(TABLE, marks, head + "\n".join(found) + "\n\n")


def strike_all(faults: Sequence[Fault], run: Callable[[Fault], Outcome], write: Callable[[str], object]) -> int:
    """Run with each fault, the first of which is none, and write its row; return 1 where something was wrong."""
    usual, problems = 0.0, 0
    for fault in faults:
        print(f"{fault.name} …", flush=True)
        outcome = run(fault)
        usual = usual or outcome.seconds
        problems += bool(outcome.words)
        line = row(outcome, usual)
        print(line, flush=True)
        write(line)
    return int(problems > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Raise a fleet, strike it, and write the table; return 1 where a row is missing or there is one too many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=[""], metavar="WORD", help="only faults with it in their names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet for the next run")
    options = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS[1:] if any(word in fault.name for word in options.words)]
    if not chosen:
        parser.error(f"no fault has any of {options.words} in its name")
    raise_fleet()
    on("ps-0", f"{USER} /opt/tensorflow/bin/python -c '{MAKE}' {HDFS} {PHOTOS}")
    user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/infer.yml", "-e",
              json.dumps(job(f"s3://{BUCKET}/models/first-{time.time():.0f}/")))  # fmt: skip
    problems = strike_all([FAULTS[0], *chosen], run, functools.partial(write, faults=FAULTS, marks=MARKS, head=HEAD))
    if not options.keep:
        user_runs("ansible-playbook", "-i", INVENTORY, "playbooks/destroy.yml")
        user_runs("scripts/lab", "down")
    return problems


if __name__ == "__main__":
    sys.exit(main())
