"""Prints what a fleet's tasks have said, by time, each line with its task; with -f also what they say from now on.

Tasks are called ps-0, chief-0, worker-1, evaluator-0 and so on; store is the one that stores the model, stage those
that copy the data set, infer the one that classifies inputs, sweep the one that leads a sweep. Without a TASK, all
training tasks, infer and sweep. Of a fleet that is gone, give the model's or the failed job's folder in S3.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import inventory
from botocore.exceptions import BotoCoreError, ClientError

LINES = 1000  # of each host, before those that follow
UNITS = {name: f"flotilla-{name}.service" for name in ("store", "stage", "mirror", "infer", "sweep")}


class Line(NamedTuple):
    """A line of a journal."""

    time: float  # seconds since the epoch
    task: str
    text: str

    def __str__(self) -> str:
        clock = datetime.datetime.fromtimestamp(self.time, datetime.timezone.utc).strftime("%H:%M:%S")
        return f"{clock} {self.task:<11} {self.text}"


class NoLog(Exception):
    """There is nothing to show, in one sentence."""


def unit(task: str) -> str:
    """Return the pattern of a task's units."""
    return UNITS.get(task, f"training@{task}.service")


def task(unit: str) -> str:
    """Return what a unit is called here."""
    named = {unit: name for name, unit in UNITS.items()}
    return named.get(unit) or unit.removeprefix("training@").removesuffix(".service")


def parse(raw: str) -> Line | None:
    """Read a line of `journalctl --output=json`; None where it is of no unit."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    # What systemd itself says of a unit has UNIT; what the unit's own processes say has _SYSTEMD_UNIT.
    name = entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or ""
    message = entry.get("MESSAGE") or ""
    if isinstance(message, list):  # bytes that aren't printable text
        message = bytes(message).decode(errors="replace")
    return Line(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, task(str(name)), str(message).rstrip())


def asks(tasks: Sequence[str], *options: str) -> str:
    """Return the command that asks a host's journal."""
    command = ["sudo", "-n", "journalctl", "--output=json", "--no-pager", "--quiet", *options]
    command.append("--output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT")
    return shlex.join([*command, *(f"--unit={unit(task)}" for task in tasks or ["*", "infer", "sweep"])])


def show(hosts: Mapping[str, Mapping[str, object]], tasks: Sequence[str], lines: int, follow: bool) -> None:
    """Print what the hosts' journals have, and with `follow` what comes; raise NoLog where there is nothing."""
    commands = {
        name: [*inventory.ssh(name, its, "BatchMode=yes"), asks(tasks, f"--lines={lines}")]
        for name, its in hosts.items()
    }
    processes = {
        name: subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for name, command in commands.items()
    }
    found: list[Line] = []
    last: dict[str, float] = {}
    silent = []
    for name, process in processes.items():
        out, said = process.communicate()
        its = list(filter(None, map(parse, out.splitlines())))
        last[name] = max((line.time for line in its), default=0.0)
        found += its
        if process.returncode == 255:  # ssh's own
            silent.append(f"{name}: {(said.strip().splitlines() or ['no answer'])[-1]}")
    for line in sorted(found)[-lines:]:
        print(line)
    for problem in silent:
        print(f"logs: {problem}", file=sys.stderr)
    if not found and not follow:
        raise NoLog(
            f"No host has a word of {', '.join(tasks) or 'any task'}: scripts/watch shows which tasks there are."
        )
    sys.stdout.flush()
    if follow:
        _follow(hosts, tasks, last)


def _follow(hosts: Mapping[str, Mapping[str, object]], tasks: Sequence[str], last: Mapping[str, float]) -> None:
    """Print what comes after each host's last line, until all connections have ended."""

    def listen(name: str) -> None:
        since = asks(tasks, "--follow", f"--since=@{int(last[name])}", "--lines=all")
        command = [*inventory.ssh(name, hosts[name], "BatchMode=yes"), since]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        ) as process:
            assert process.stdout
            for raw in process.stdout:
                if (line := parse(raw)) and line.time > last[name]:
                    print(line, flush=True)

    threads = [threading.Thread(target=listen, args=(name,), daemon=True) for name in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stored(url: str, tasks: Sequence[str], profile: str | None, endpoint: str | None) -> Iterator[str]:
    """Yield the lines of the logs in a model's folder in S3, each with its task; raise NoLog."""
    parts = urlsplit(url)
    prefix = "/".join(filter(None, [parts.path.strip("/"), "logs/"]))
    try:
        client = boto3.Session(profile_name=profile).client("s3", endpoint_url=endpoint)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        there = {key[len(prefix) :].removesuffix(".log.gz"): key for key in keys if key.endswith(".log.gz")}
        if missing := [task for task in tasks or there or [""] if task not in there]:
            have = f"there are {', '.join(sorted(there))}" if there else "is that the folder of a model?"
            raise NoLog(f"s3://{parts.netloc}/{prefix} has no log{' of ' * bool(missing[0])}{missing[0]}: {have}")
        for name in tasks or sorted(there):
            content = client.get_object(Bucket=parts.netloc, Key=there[name])["Body"].read()
            for line in gzip.decompress(content).decode(errors="replace").splitlines():
                yield f"{name:<11} {line}"
    except (BotoCoreError, ClientError) as error:
        raise NoLog(f"{url}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lines; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/logs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what the tasks say from now on")
    parser.add_argument("-n", "--lines", type=int, default=LINES, help="the last so many (default: %(default)s)")
    parser.add_argument("--profile", help="AWS profile, for a folder in S3")
    parser.add_argument("--endpoint-url", help="for another S3 than AWS's")
    parser.add_argument("tasks", metavar="TASK", nargs="*", help="or s3://BUCKET/…/MODEL/, and then TASKs")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in `scripts/logs | head`
    try:
        if options.tasks and options.tasks[0].startswith("s3://"):
            url, *tasks = options.tasks
            for line in stored(url, tasks, options.profile, options.endpoint_url):
                print(line)
        else:
            show(inventory.read(options.inventory), options.tasks, options.lines, options.follow)
    except KeyboardInterrupt:
        return 130
    except (NoLog, inventory.NoInventory) as error:
        print(f"logs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
