"""The filters that describe the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.kit.plugins.filter.cluster import cluster, host_tasks


def fleet(*hosts: str, **fleet_groups: Any) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Groups and hostvars of an inventory with these hosts."""
    groups: dict[str, list[str]] = {}
    for host in hosts:
        groups.setdefault(host.rsplit("-", 1)[0], []).append(host)
    hostvars = {
        host: {
            "private_ip_address": f"10.77.0.{4 + n}",
            "ansible_host": f"198.51.100.{n}",
            "fleet_groups": fleet_groups,
        }
        for n, host in enumerate(hosts)
    }
    return groups, hostvars


def test_three_nodes() -> None:
    assert cluster(*fleet("ps-0", "chief-0", "worker-0")) == {
        "hosts": {
            "ps-0": {"address": "10.77.0.4", "group": "ps", "index": 0, "tasks": 1},
            "chief-0": {"address": "10.77.0.5", "group": "chief", "index": 0, "tasks": 1},
            "worker-0": {"address": "10.77.0.6", "group": "worker", "index": 0, "tasks": 1},
        },
        "names": {"ps-0": "ps-0", "chief-0": "chief-0", "worker-0": "worker-0"},
        "namenode": "ps-0",
        "datanodes": ["ps-0", "chief-0", "worker-0"],
        "tasks": {"ps": ["ps-0:2222"], "chief": ["chief-0:2222"], "worker": ["worker-0:2222"]},
        "evaluator": "ps-0",
    }


def test_order_is_by_number_not_by_text() -> None:
    description = cluster(*fleet("ps-0", "chief-0", *(f"worker-{n}" for n in (10, 2, 0, 1))))
    assert description["tasks"]["worker"] == [f"worker-{n}:2222" for n in (0, 1, 2, 10)]
    assert host_tasks(description, "worker-10")[0]["index"] == 3  # its place in TF_CONFIG's list


def test_no_worker_is_a_cluster() -> None:
    assert cluster(*fleet("ps-0", "chief-0"))["tasks"]["worker"] == []


def test_hosts_with_names_of_their_own() -> None:
    groups = {"ps": ["alpha"], "chief": ["beta"], "worker": ["gamma", "delta"]}
    hostvars = {host: {"ansible_host": f"{host}.example"} for group in groups.values() for host in group}
    description = cluster(groups, hostvars)
    assert description["tasks"]["worker"] == ["gamma:2222", "delta:2222"]
    assert description["hosts"]["delta"] == {"address": "delta.example", "group": "worker", "index": 1, "tasks": 1}


def test_hosts_of_the_infrastructure_manager() -> None:
    groups = {"ps": ["198.51.100.9_0"], "chief": ["198.51.100.1_1"], "worker": ["198.51.100.4_10", "198.51.100.5_2"]}
    hostvars = {
        host: {"ansible_host": host.split("_")[0], "IM_NODE_PRIVATE_IP": f"10.0.0.{number}", "IM_NODE_NUM": number}
        for group in groups.values()
        for host in group
        for number in [host.split("_")[1]]
    }
    description = cluster(groups, hostvars)
    assert description["names"]["198.51.100.4_10"] == "worker-10"
    assert description["tasks"]["worker"] == ["worker-2:2222", "worker-10:2222"]
    assert description["hosts"]["worker-10"] == {"address": "10.0.0.10", "group": "worker", "index": 10, "tasks": 1}
    assert description["namenode"] == "ps-0"
    # Its inventory knows no tags: the play does.
    description = cluster(groups, hostvars, {"chief": {"tasks": 1}, "worker": {"tasks": 2}})
    assert description["tasks"]["worker"] == ["worker-2:2222", "worker-2:2223", "worker-10:2222", "worker-10:2223"]
    assert [task["name"] for task in host_tasks(description, "worker-10")] == ["worker-2", "worker-3"]


@pytest.mark.parametrize(
    ("hosts", "evaluator", "options"),
    [
        (["ps-0", "ps-1", "chief-0"], "ps-0", {}),
        (["ps-0", "chief-0", "evaluator-0"], "evaluator-0", {}),
        (["ps-0", "chief-0"], None, {"evaluator": {"enabled": False}}),
        (["ps-0", "chief-0"], "ps-0", {"evaluator": {"count": 0}}),
    ],
)
def test_evaluator(hosts: list[str], evaluator: str | None, options: dict[str, Any]) -> None:
    description = cluster(*fleet(*hosts, **options))
    assert description["evaluator"] == evaluator
    assert description["datanodes"] == hosts
    running = [task["type"] for host in hosts for task in host_tasks(description, host)]
    assert running.count("evaluator") == (1 if evaluator else 0)


def test_host_tasks() -> None:
    description = cluster(*fleet("ps-0", "chief-0", "worker-0"))
    assert host_tasks(description, "ps-0") == [
        {"type": "ps", "index": 0, "name": "ps-0", "port": 2222},
        {"type": "evaluator", "index": 0, "name": "evaluator-0", "port": None},
    ]
    assert host_tasks(description, "worker-0") == [{"type": "worker", "index": 0, "name": "worker-0", "port": 2222}]


def test_hosts_with_several_tasks() -> None:
    groups, hostvars = fleet("ps-0", "chief-0", "worker-0", "worker-2")
    for host, tasks in {"ps-0": 4, "chief-0": 2, "worker-0": 3, "worker-2": "1"}.items():
        hostvars[host]["fleet_tasks"] = tasks
    description = cluster(groups, hostvars)
    assert description["tasks"] == {
        "ps": ["ps-0:2222"],
        "chief": ["chief-0:2222"],
        "worker": ["chief-0:2223", "worker-0:2222", "worker-0:2223", "worker-0:2224", "worker-2:2222"],
    }
    assert [host["tasks"] for host in description["hosts"].values()] == [1, 2, 3, 1]
    assert host_tasks(description, "chief-0") == [
        {"type": "chief", "index": 0, "name": "chief-0", "port": 2222},
        {"type": "worker", "index": 0, "name": "worker-0", "port": 2223},
    ]
    assert [(task["name"], task["port"]) for task in host_tasks(description, "worker-0")] == [
        ("worker-1", 2222),
        ("worker-2", 2223),
        ("worker-3", 2224),
    ]
    names = [task["name"] for host in description["hosts"] for task in host_tasks(description, host)]
    assert sorted(names) == ["chief-0", "evaluator-0", "ps-0", *(f"worker-{index}" for index in range(5))]


def test_a_host_that_runs_counts_more_than_the_settings() -> None:
    groups, hostvars = fleet("ps-0", "chief-0", "worker-0", chief={"tasks": 2}, worker={"tasks": 2})
    assert len(cluster(groups, hostvars)["tasks"]["worker"]) == 3
    hostvars["worker-0"]["fleet_tasks"] = 1
    assert cluster(groups, hostvars)["tasks"]["worker"] == ["chief-0:2223", "worker-0:2222"]


@pytest.mark.parametrize("tasks", [0, -1, "two", 1.5, ""])
def test_tasks_that_are_no_number(tasks: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=f"fleet_tasks of worker-0 is '{tasks}': set it to a whole number"):
        cluster(*fleet("ps-0", "chief-0", "worker-0", worker={"tasks": tasks}))


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (["chief-0"], "no host in group ps"),
        (["ps-0"], "0 hosts in group chief"),
        (["ps-0", "chief-0", "chief-1"], "2 hosts in group chief"),
    ],
)
def test_bad_clusters(hosts: list[str], words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        cluster(*fleet(*hosts))


def test_a_fleet_without_a_chief_on_purpose_has_no_tasks() -> None:
    description = cluster(*fleet("ps-0", "worker-0", chief={"count": "0"}))
    assert description["datanodes"] == ["ps-0", "worker-0"]
    assert (description["tasks"], description["evaluator"]) == ({"ps": [], "chief": [], "worker": []}, None)
    assert host_tasks(description, "worker-0") == []


def test_a_host_plays_one_part() -> None:
    with pytest.raises(AnsibleFilterError, match="in the groups ps and chief"):
        cluster({"ps": ["a"], "chief": ["a"]}, {"a": {}})


def test_unknown_host() -> None:
    with pytest.raises(AnsibleFilterError, match=r"worker-7 isn't in the cluster"):
        host_tasks(cluster(*fleet("ps-0", "chief-0")), "worker-7")
