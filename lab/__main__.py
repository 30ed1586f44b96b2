"""`scripts/lab`: an AWS region on this machine."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import cgroups, hosts, im, image, network, weather
from .settings import (
    CACHE,
    ENDPOINT,
    IMAGES,
    LOG,
    NODES,
    OBJECTS,
    PROFILE,
    READY,
    REGION,
    RUN,
    SNAPSHOTS,
    STATE,
    Facts,
)  # fmt: skip
from .shell import LabError, run, said
from .untyped import Answer

TOOLS = {
    "mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nft": "nftables",
    "slirp4netns": "slirp4netns", "ip": "iproute2",
}  # fmt: skip
BEGIN, END = "# >>> flotilla lab: made by `scripts/lab up`, taken out by `scripts/lab down`", "# <<< flotilla lab"


def say(text: str) -> None:
    """Tell the user what happens; who doesn't listen any more, as in `lab up | head -1`, ends nothing."""
    with suppress(BrokenPipeError):
        print(text, flush=True)


def ready() -> Facts | None:
    """What the running region said of itself, or None where none runs."""
    facts: Facts | None = said(READY, "lab.region")
    return facts


@contextmanager
def exclusively() -> Iterator[None]:
    """One `up` or `down` at a time."""
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up() -> None:
    """Start the region, building its image first where there is none."""
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        raise LabError(f"the lab needs {' '.join(missing)}: run 'apt-get install {' '.join(missing)}', then again")
    with exclusively():
        facts = ready()
        if not facts:
            begin = time.monotonic()
            if (NODES.is_dir() and any(NODES.iterdir())) or OBJECTS.is_dir():
                say("a lab was here that didn't end by 'down': its hosts, images and buckets are deleted")
            sweep()
            image.build(say)
            facts = start()
            say(f"the lab is up ({time.monotonic() - begin:.1f} s)")
        else:
            say("the lab is up already")
        write_profile(facts)
    say(f"  endpoint  {ENDPOINT}   region {REGION}   profile {PROFILE} (in ~/.aws/config)")
    say("  next      scripts/lab status | ansible-playbook site.yml | scripts/lab down")


def start() -> Facts:
    """Start the daemon and wait until it answers.

    Raises:
        LabError: it ended, or does not answer within 30 s.
    """
    for folder in (STATE, NODES, OBJECTS, CACHE / "apt", CACHE / "uv"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))},
        "TMPDIR": str(OBJECTS),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # root's files in the user's checkout would be in the way
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
        "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1024 * 1024),
    }
    with LOG.open("wb") as output:
        daemon = subprocess.Popen(
            cgroups.joined("daemon", [sys.executable, "-m", "lab.region"]),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        facts = ready()
        if facts and facts["pid"] == daemon.pid:
            return facts
        if daemon.poll() is not None:
            break
        time.sleep(0.05)
    last = [line for line in LOG.read_text(errors="replace").splitlines() if line.strip()][-1:]
    sweep()
    raise LabError(f"the region did not start ({' '.join(last)}): see {LOG}")


def down(purge: bool) -> None:
    """End the region and everything of it."""
    with exclusively():
        facts = ready()
        nodes = len(list(NODES.iterdir())) if NODES.is_dir() else 0
        sweep()
        write_profile(None)
        if purge:
            shutil.rmtree(STATE, ignore_errors=True)
    kept = "" if purge else f"; kept for next time: the base image and the package cache in {STATE}"
    was = "the lab is down" if facts else "no lab was running; what was left of one is gone"
    say(f"{was}: {nodes} hosts, all images, buckets and objects, users and keys deleted{kept}")


def sweep() -> None:
    """Remove every trace of a lab, whatever state it was left in: processes, mounts, namespaces, groups, disks."""
    cgroups.kill()
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{STATE}/")), reverse=True):
        run("umount", "--lazy", mount)
    network.all_down()
    if NODES.is_dir():
        for folder in NODES.iterdir():
            hosts.keep_packages(folder)
            shutil.rmtree(folder)
    for folder in (SNAPSHOTS, OBJECTS):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(im.FOLDER, ignore_errors=True)
    for part in IMAGES.glob("*.part"):
        shutil.rmtree(part)
    for leftover in Path("/run/systemd/nspawn").glob("propagate/i-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    READY.unlink(missing_ok=True)
    weather.FILE.unlink(missing_ok=True)


def write_profile(facts: Facts | None) -> None:
    """Put the lab's profile into the user's ~/.aws/config, or take it out (`facts` None).

    Raises:
        LabError: the file has a profile of that name that isn't the lab's.
    """
    # scripts/lab sets it: behind sudo, HOME may be root's
    file = Path(os.environ["AWS_CONFIG_FILE"]).resolve()
    text = file.read_text() if file.exists() else ""
    # Nothing but the lab's own lines, whatever became of the marks.
    text = re.sub(rf"{re.escape(BEGIN)}\n(\[profile {PROFILE}\]\n(\w+ = .*\n)*)?({re.escape(END)}\n?)?", "", text)
    if facts:
        if f"[profile {PROFILE}]" in text:
            raise LabError(f"{file} has a profile {PROFILE} that the lab didn't make: rename it, then 'scripts/lab up'")
        lines = (
            BEGIN, f"[profile {PROFILE}]", f"region = {facts['region']}", f"endpoint_url = {facts['endpoint']}",
            f"aws_access_key_id = {facts['access_key']}", f"aws_secret_access_key = {facts['secret_key']}", END, "",
        )  # fmt: skip
        text = (text.rstrip("\n") + "\n" if text.strip() else "") + "\n".join(lines)
    if not facts and not text.strip():
        file.unlink(missing_ok=True)
        return
    if not file.parent.exists():
        file.parent.mkdir(mode=0o700, parents=True)
        os.chown(file.parent, *owner(file.parent.parent))
    part = file.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text)
    os.chown(part, *owner(file.parent))
    part.rename(file)


def owner(path: Path) -> tuple[int, int]:
    """Ids of a path's user and group."""
    status = path.stat()
    return status.st_uid, status.st_gid


def instances() -> list[Answer]:
    """The region's instances that aren't gone, as DescribeInstances gives them."""
    facts = ready()
    if not facts:
        raise LabError("no lab is running: start it with 'scripts/lab up'")
    if weather.away("ec2"):
        raise LabError("EC2 is away, as 'scripts/lab weather' has it: wait, or run 'scripts/lab weather clear'")
    import boto3

    ec2 = boto3.client(
        "ec2", region_name=facts["region"], endpoint_url=facts["endpoint"],
        aws_access_key_id=facts["access_key"], aws_secret_access_key=facts["secret_key"],
    )  # fmt: skip
    pages = ec2.get_paginator("describe_instances").paginate()
    found = [i for page in pages for r in page["Reservations"] for i in r["Instances"]]
    return [dict(i) for i in found if i["State"]["Name"] != "terminated"]


def name_of(instance: Answer) -> str:
    """An instance's Name tag."""
    return next((t["Value"] for t in instance.get("Tags", []) if t["Key"] == "Name"), "-")


def find(name: str) -> Answer:
    """The instance with an id, a Name tag, or an end of a Name tag: `ps-0`; `ps`, as the Infrastructure Manager names.

    Raises:
        LabError: there is none, or more than one.
    """
    every = instances()
    exact = [i for i in every if name in (i["InstanceId"], name_of(i))]
    found = exact or [i for i in every if name_of(i).endswith(f"-{name}") or name_of(i).startswith(f"{name}-")]
    if len(found) != 1:
        names = ", ".join(name_of(i) for i in (found or every)) or "none"
        raise LabError(f"{'more than one' if found else 'no'} instance called '{name}': there is {names}")
    return found[0]


def status() -> int:
    """Show what runs."""
    facts = ready()
    if not facts:
        say("no lab is running: start it with 'scripts/lab up'")
        return 3
    daemon = cgroups.resident_bytes("daemon") / 1e6
    say(f"the lab is up: {facts['endpoint']}, region {facts['region']}, image {facts['image']}, {daemon:.0f} MB")
    rows = [("INSTANCE", "NAME", "TYPE", "STATE", "PRIVATE", "PUBLIC", "MEMORY")]
    for i in instances():
        memory = f"{cgroups.resident_bytes('node-' + i['InstanceId']) / 1e6:.0f} MB"
        rows.append(
            (i["InstanceId"], name_of(i), i["InstanceType"], i["State"]["Name"], i.get("PrivateIpAddress", "-"),
             i.get("PublicIpAddress", "-"), memory)
        )  # fmt: skip
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows if len(rows) > 1 else []:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def leader(instance_id: str) -> int:
    """Process id of a host's PID 1.

    Raises:
        LabError: the host isn't running.
    """
    for pid in cgroups.pids(f"node-{instance_id}"):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
        if len(numbers) > 1 and numbers[-1] == "1":
            return pid
    raise LabError(f"the host of {instance_id} isn't running")


def cores(text: str) -> float:
    """How many processors a host may use, from the command line."""
    number = float(text)
    if number != 0 and not 0.05 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: give at least 0.05, or 0 for no limit")
    return number


def gibibytes(text: str) -> float:
    """How much memory a host may use, from the command line."""
    number = float(text)
    if number != 0 and not 0.25 <= number <= 65536:
        raise argparse.ArgumentTypeError(f"{text}: give at least 0.25, or 0 for no limit")
    return number


def megabits(text: str) -> float:
    """How much a host may send and receive a second, from the command line."""
    number = float(text)
    if number != 0 and not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: give at least 1, or 0 for no limit")
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="scripts/lab", description="An AWS region on this machine, whose hosts are systemd-nspawn containers."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verbs.add_parser("up", help="start it (twice is one lab)")
    verbs.add_parser("im", help="start the Infrastructure Manager against it (installed the first time)")
    verbs.add_parser("status", help="what runs, where, how much memory")
    ending = verbs.add_parser("down", help="end it: hosts, buckets, users; nothing is left running")
    ending.add_argument("--purge", action="store_true", help="delete the image and the package cache too")
    console = verbs.add_parser("console", help="what a host printed while booting")
    shell = verbs.add_parser("shell", help="root shell on a host, or a command there, without ssh")
    logs = verbs.add_parser("logs", help="the region's own log, or a host's journal")
    limit = verbs.add_parser(
        "limit", help="give a host less processors and memory, until it reboots, or a slower network"
    )
    for verb in (console, shell, limit):
        verb.add_argument("instance", help="id, name, or end of the name: i-…, demo-ps-0, ps-0")
    shell.add_argument("command", nargs=argparse.REMAINDER, help="what to run there (default: a shell)")
    limit.add_argument("cores", type=cores, help="how many it may use: 0.5; 0: all, the default")
    limit.add_argument(
        "memory", type=gibibytes, nargs="?", default=0.0, help="GiB that it may use: 1; 0: all, the default"
    )
    limit.add_argument(
        "network", type=megabits, nargs="?", default=0.0,
        help="Mbit/s that it may receive, and send: 512, as a t3.large for good; 0: no limit, the default",
    )  # fmt: skip
    logs.add_argument("instance", nargs="?", help="a host; without: the region")
    sky = verbs.add_parser(
        "weather", help="let the region behave as AWS does on a bad day: zones without capacity, an API that is away …",
        description=weather.HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sky.add_argument("words", nargs="*", help="one of these; without: what is set")
    return top


def main() -> int:
    """Carry a command out; returns the exit status."""
    arguments = parser().parse_args()
    if arguments.verb in ("console", "logs"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # lab logs | head
    if os.geteuid() != 0:
        raise LabError("the lab needs root: run scripts/lab, which uses sudo")
    os.umask(0o022)  # hosts inherit it; with a stricter one nobody but root could enter their /
    match arguments.verb:
        case "up":
            up()
        case "down":
            down(arguments.purge)
        case "im":
            facts = ready()
            if not facts:
                raise LabError("no lab is running: start it with 'scripts/lab up'")
            with exclusively():
                im.up(facts, say)
        case "status":
            return status()
        case "console":
            log = NODES / find(arguments.instance)["InstanceId"] / "console.log"
            print(log.read_text(errors="replace"), end="")
        case "weather":
            if not ready():
                raise LabError("no lab is running: start it with 'scripts/lab up'")
            say("\n".join(weather.command(arguments.words)))
        case "limit":
            found = find(arguments.instance)
            group = f"node-{found['InstanceId']}"
            cgroups.limit(group, arguments.cores)
            cgroups.limit_memory(group, arguments.memory)
            network.limit(found["VpcId"], found["InstanceId"], arguments.network)
        case "logs" if not arguments.instance:
            print(LOG.read_text(errors="replace"), end="")
        case _:
            pid = leader(find(arguments.instance)["InstanceId"])
            command = ["journalctl", "--no-pager"] if arguments.verb == "logs" else arguments.command
            enter = ["nsenter", f"--target={pid}", "--all"]
            clean = ["env", "-i", "HOME=/root", f"TERM={os.environ.get('TERM', 'dumb')}",
                     "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]  # fmt: skip
            os.chdir("/")
            os.execvp(enter[0], [*enter, *clean, "sh", "-c", 'cd && exec "$@"', "sh", *(command or ["bash", "-l"])])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, OSError) as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit("lab: interrupted; 'scripts/lab down' removes what is left")
