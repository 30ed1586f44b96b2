# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that turn the inventory into the cluster's description, so that no role knows a group's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.kit.plugins.module_utils import untyped
from ansible_collections.flotilla.kit.plugins.module_utils.fleet_groups import GROUPS, trains, whole

TASK_TYPES = ("ps", "chief", "worker")
PORT = 2222


class Host(TypedDict):
    """A host of the cluster."""

    address: str  # in the cluster's network
    group: str  # ps, chief, worker or evaluator
    index: int  # its number in the group
    tasks: int  # how many training tasks it holds


class Cluster(TypedDict):
    """The cluster's description, as roles get it."""

    hosts: dict[str, Host]
    names: dict[str, str]  # of the inventory's hosts, as they are called in the cluster
    namenode: str  # the host that has it
    datanodes: list[str]
    tasks: dict[str, list[str]]  # by type, the addresses host:port in the order of TF_CONFIG
    evaluator: str | None  # the host that has it


class Task(TypedDict):
    """A training task of a host."""

    type: str  # ps, chief, worker or evaluator
    index: int  # among those of its type
    name: str  # such as worker-1
    port: int | None  # the evaluator has none


def _index(group: str, host: str) -> int | None:
    """Return the number in a host name like ``worker-3`` of that group, or None."""
    match = re.fullmatch(re.escape(group) + r"-(\d+)", host)
    return int(match[1]) if match else None


def _members(group: str, hosts: list[str]) -> list[tuple[int, str]]:
    """Return (index, host) of a group's hosts in order; hosts with names of their own are counted through."""
    indices = {host: _index(group, host) for host in hosts}
    if None in indices.values():
        return list(enumerate(hosts))
    return sorted((index, host) for host, index in indices.items() if index is not None)


def _trainers(host: str, fleet_tasks: object) -> int:
    """Return how many tasks a host of chief or worker holds, from its variable fleet_tasks or its group's settings."""
    tasks = 1 if fleet_tasks is None else whole(fleet_tasks)
    if tasks is None or tasks < 1:
        raise AnsibleFilterError(f"fleet_tasks of {host} is '{fleet_tasks}': set it to a whole number of at least 1")
    return tasks


def cluster(
    groups: Mapping[str, Sequence[str]],
    hostvars: Mapping[str, untyped.Variables],
    fleet_groups: Mapping[str, untyped.Parameters] | None = None,
) -> Cluster:
    """Describe the cluster that an inventory's groups ps, chief, worker and evaluator form.

    A task's index is its place in the list, as TF_CONFIG wants it. Where hosts hold several, the first on the chief's
    host is the chief, and all others are workers, host by host: those of the chief's host first. The Infrastructure
    Manager calls its hosts by address and number, 198.51.100.7_2; here they have the names that it gives them in the
    network: worker-2. ``fleet_groups`` are the groups' settings; without them the hosts' variable is read. Where they
    set the chief's count to 0, as for a fleet that infers alone, there are no tasks.
    Raises AnsibleFilterError when there is no parameter server or not exactly one chief.
    """
    # Once each: Ansible collects all of a host's variables anew whenever it is asked for them.
    found = {str(host): (group, hostvars[host]) for group in GROUPS for host in groups.get(group) or []}
    names = {
        host: f"{group}-{its['IM_NODE_NUM']}" if "IM_NODE_NUM" in its else host for host, (group, its) in found.items()
    }
    variables = {names[host]: its for host, (_group, its) in found.items()}
    members = {group: _members(group, [names[str(host)] for host in groups.get(group) or []]) for group in GROUPS}
    if not members["ps"]:
        raise AnsibleFilterError(
            "the inventory has no host in group ps, so nobody can hold the parameters: "
            "raise the fleet first, or put one host into group ps"
        )
    namenode = members["ps"][0][1]
    wanted = fleet_groups or variables[namenode].get("fleet_groups") or {}
    training = bool(members["chief"]) or trains(wanted)
    if training and len(members["chief"]) != 1:
        raise AnsibleFilterError(
            f"the inventory has {len(members['chief'])} hosts in group chief, but a training has exactly one chief: "
            "leave one host in group chief"
        )

    hosts: dict[str, Host] = {}
    for group in GROUPS:
        for index, host in members[group]:
            if host in hosts:
                raise AnsibleFilterError(
                    f"host {host} is in the groups {hosts[host]['group']} and {group}, but has one part to play: "
                    "leave it in one of them"
                )
            keys = ("private_ip_address", "IM_NODE_PRIVATE_IP", "ansible_host")
            address = next(filter(None, map(variables[host].get, keys)), host)
            hosts[host] = {"address": str(address), "group": group, "index": index, "tasks": 1}

    trainers = []
    for group in ("chief", "worker"):
        for _dummy, host in members[group]:
            # What the fleet was made with counts, not what its variables say by now.
            its = variables[host].get("fleet_tasks", (wanted.get(group) or {}).get("tasks"))
            hosts[host]["tasks"] = _trainers(host, its)
            trainers += [f"{host}:{PORT + slot}" for slot in range(hosts[host]["tasks"])]
    evaluator: str | None = members["evaluator"][0][1] if members["evaluator"] else namenode
    if not training or not (wanted.get("evaluator") or {}).get("enabled", True):
        evaluator = None
    tasks = {
        "ps": [f"{host}:{PORT}" for _dummy, host in members["ps"]],
        "chief": trainers[:1],
        "worker": trainers[1:],
    }
    return {
        "hosts": hosts,
        "names": names,
        "namenode": namenode,
        "datanodes": list(hosts),
        "tasks": tasks if training else {kind: [] for kind in tasks},
        "evaluator": evaluator,
    }


def host_tasks(description: Cluster, host: str) -> list[Task]:
    """List the training tasks that one host of the cluster runs."""
    if host not in description["hosts"]:
        raise AnsibleFilterError(
            f"host {host} isn't in the cluster's description, which has {', '.join(description['hosts'])}"
        )
    tasks: list[Task] = []
    for kind in TASK_TYPES:
        for index, address in enumerate(description["tasks"].get(kind, [])):
            name, port = address.rsplit(":", 1)
            if name == host:
                tasks.append({"type": kind, "index": index, "name": f"{kind}-{index}", "port": int(port)})
    if description["evaluator"] == host:
        tasks.append({"type": "evaluator", "index": 0, "name": "evaluator-0", "port": None})
    return tasks


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"cluster": cluster, "host_tasks": host_tasks, "trains": trains}
