"""Opens a tunnel to the fleet's TensorBoard, which shows its jobs side by side, and prints its address.

Of a fleet that is gone, give the folder of a stored model in S3, or one with several of them: their event files are
copied into a temporary folder, and TensorBoard runs here. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import inventory
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).parent.parent
ANSWER_SECS = 60  # for the first page


class NoBoard(Exception):
    """There is nothing to show, in one sentence."""


class Page(NamedTuple):
    """A page on ps-0."""

    title: str
    unit: str  # which serves it


BOARD = Page("TensorBoard", "flotilla-tensorboard")


def main(argv: Sequence[str] | None = None) -> int:
    """Show TensorBoard until it ends; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/tensorboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("-p", "--port", type=int, default=6006, help="of this machine (default: %(default)s)")
    parser.add_argument("--profile", help="AWS profile, for a folder in S3")
    parser.add_argument("--endpoint-url", help="for another S3 than AWS's")
    parser.add_argument("model", metavar="s3://BUCKET/…/MODEL/", nargs="?", help="of a fleet that is gone")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tunnel ends, too
    try:
        if taken(options.port):
            raise NoBoard(f"Port {options.port} of this machine is taken: choose another one with -p.")
        if not options.model:
            return until_it_ends(tunnel(options.inventory, {options.port: 6006}), BOARD, options.port, "the tunnel")
        with tempfile.TemporaryDirectory(prefix="tensorboard-") as folder:
            fetch(options.model, Path(folder), options.profile, options.endpoint_url)
            return until_it_ends(local(folder, options.port), BOARD, options.port, "TensorBoard")
    except KeyboardInterrupt:
        return 0
    except (NoBoard, inventory.NoInventory) as error:
        print(f"tensorboard: {error}", file=sys.stderr)
        return 2


def by_tunnel(
    prog: str,
    description: str,
    page: Page,
    port: int,
    argv: Sequence[str] | None,
    more: Callable[[], dict[int, int]] = dict,
) -> int:
    """Show a page of ps-0's port by a tunnel, with `more` ports, until that is ended; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("-p", "--port", type=int, default=port, help="of this machine (default: %(default)s)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tunnel ends, too
    try:
        if taken(options.port):
            raise NoBoard(f"Port {options.port} of this machine is taken: choose another one with -p.")
        return until_it_ends(
            tunnel(options.inventory, {options.port: port, **more()}), page, options.port, "the tunnel"
        )
    except KeyboardInterrupt:
        return 0
    except (NoBoard, inventory.NoInventory) as error:
        print(f"{prog.rpartition('/')[2]}: {error}", file=sys.stderr)
        return 2


def taken(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tunnel(name: str, ports: Mapping[int, int]) -> list[str]:
    """Return the command that opens the tunnel to ps-0, by ports of this machine; raise NoBoard or NoInventory."""
    hosts = inventory.read(name)
    if "ps-0" not in hosts:
        raise NoBoard(f"{name} has no ps-0 that runs: ansible-playbook -i {name} playbooks/status.yml shows more.")
    command = inventory.ssh("ps-0", hosts["ps-0"], "ExitOnForwardFailure=yes")
    through = [word for here, there in ports.items() for word in ("-L", f"127.0.0.1:{here}:127.0.0.1:{there}")]
    return [*command[:-1], "-N", *through, command[-1]]


def local(folder: str, port: int) -> list[str]:
    """Return the command that runs TensorBoard here."""
    program = [
        "-m",
        "tensorboard.main",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--logdir={folder}",
        "--load_fast=false",
    ]
    return [str(ROOT / ".venv-training/bin/python"), "-W", "ignore", *program]


def fetch(url: str, folder: Path, profile: str | None, endpoint: str | None) -> None:
    """Copy the event files below a folder in S3, those of a model without `events/`; raise NoBoard."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
    copied = 0
    try:
        client = boto3.Session(profile_name=profile).client("s3", endpoint_url=endpoint)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix):
            for entry in page.get("Contents", []):
                path = entry["Key"][len(prefix) :]
                if "tfevents" not in path.rpartition("/")[2]:
                    continue
                model, _events, run = ("/" + path).rpartition("/events/")
                to = (folder / model.strip("/") / run) if _events else folder / path
                if not to.resolve().is_relative_to(folder.resolve()):
                    continue
                to.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(parts.netloc, entry["Key"], str(to))
                copied += 1
    except (BotoCoreError, ClientError) as error:
        raise NoBoard(f"{url}: {error}") from error
    if not copied:
        raise NoBoard(f"{url} has no event files: is that the folder of a stored model?")
    print(f"{copied} event files from {url}")


def until_it_ends(command: Sequence[str], page: Page, port: int, what: str) -> int:
    """Run a command, print the address as soon as the page answers there, and wait for the command's end."""
    address, deadline, said = f"http://127.0.0.1:{port}/", time.monotonic() + ANSWER_SECS, False
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None and not said:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                said = True
                print(f"{page.title}: {address} (Ctrl-C ends {what})", flush=True)
            except OSError:
                if time.monotonic() > deadline:
                    raise NoBoard(
                        f"{page.title} doesn't answer at {address} after {ANSWER_SECS} s: "
                        f"scripts/ssh ps-0 systemctl status {page.unit} says more; before the first job, or sweep, "
                        "there is none."
                    ) from None
                time.sleep(0.5)
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
