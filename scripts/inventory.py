"""A fleet's hosts as the inventory names them, and how to reach them by SSH: for the scripts beside it."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

OPTIONS = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=ERROR")


class InventoryGroup(TypedDict, total=False):
    """A group of what `ansible-inventory --list` prints."""

    hosts: list[str]
    children: list[str]
    hostvars: dict[str, dict[str, object]]  # by host; of _meta alone, which is no group


Inventory = Mapping[str, InventoryGroup]


class NoInventory(Exception):
    """The inventory can't be read, or hasn't what is asked for, in one sentence."""


def read(inventory: str) -> dict[str, dict[str, object]]:
    """Return the variables of an inventory's hosts; raise NoInventory where there are none."""
    program = Path(sys.executable).with_name("ansible-inventory")
    done = subprocess.run([program, "-i", inventory, "--list"], capture_output=True, text=True, check=False)
    found = hosts(parse(inventory, done.returncode, done.stdout, done.stderr))
    if not found:
        raise NoInventory(f"{inventory} lists no running host.")
    return found


def parse(inventory: str, status: int, out: str | bytes, error: str) -> Inventory:
    """Return what `ansible-inventory --list` has printed, or raise NoInventory with its last word."""
    if status == 0:
        with contextlib.suppress(ValueError, LookupError):
            listed: Inventory = json.loads(out, object_hook=unmarked)
            hosts(listed)
            return listed
    said = error.strip().splitlines() or ["it isn't JSON"]
    raise NoInventory(f"The inventory {inventory} can't be read: {said[-1]}")


def hosts(listed: Inventory) -> dict[str, dict[str, object]]:
    """Return the variables of the hosts of the group fleet, or of all hosts without one."""
    variables = listed["_meta"]["hostvars"]
    names = sorted(set(_members(listed, "fleet") or _members(listed, "all")))
    return {name: variables.get(name, {}) for name in names}


def unmarked(found: dict[str, object]) -> object:
    """Return a text that `ansible-inventory --list` marks as one that isn't to be templated, and all else as it is."""
    return found.get("__ansible_unsafe", found)


def _members(listed: Inventory, group: str) -> list[str]:
    entry: InventoryGroup = listed.get(group, {})
    return [*entry.get("hosts", []), *(name for child in entry.get("children", []) for name in _members(listed, child))]


def ssh(name: str, variables: Mapping[str, object], *options: str, terminal: bool = False) -> list[str]:
    """Return the command that reaches a host, with the connection that Ansible would take, for a command to be added.

    Args:
        name: as the inventory calls the host.
        variables: what the inventory says of it.
        options: of ssh, as KEY=VALUE.
        terminal: whether somebody types there.
    """
    command = ["ssh", *([] if terminal else ["-T"]), "-S", "none"]
    command += [part for option in (*OPTIONS, *options) for part in ("-o", option)]
    for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        command += shlex.split(str(variables.get(key) or ""))
    if key_file := variables.get("ansible_ssh_private_key_file"):
        command += ["-i", str(Path(str(key_file)).expanduser())]
    if port := variables.get("ansible_port"):
        command += ["-p", str(port)]
    if user := variables.get("ansible_user"):
        command += ["-l", str(user)]
    return [*command, str(variables.get("ansible_host") or name)]
