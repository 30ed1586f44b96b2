"""roles/hdfs/vars/main.yml: the heaps of the daemons, by the host's memory or as given."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.support.commands import ROOT


def hdfs(memory: int, **given: Any) -> dict[str, Any]:
    """The heaps of a host with so much memory, and what the role says is wrong with them."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for folder in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROOT / f"roles/hdfs/{folder}/main.yml"), trusted_as_template=True)
    names = {"hdfs_host": "ps-0", "hdfs_namenode": "ps-0", "hdfs_datanodes": ["ps-0"]}
    facts = {"memtotal_mb": memory, "architecture": "x86_64", "distribution": "Debian", "distribution_version": "12"}
    templar = Templar(loader=loader, variables={**variables, **names, "ansible_facts": facts, **given})
    heaps = templar.template([variables[f"__hdfs_{daemon}_heap"] for daemon in ("namenode", "datanode")])
    checks = [check for check in variables["__hdfs_checks"] if "heap" in check["so"]]
    return {
        "heaps": [int(heap) for heap in heaps],
        "wrong": [templar.template(check["so"]) for check in checks if templar.template(check["wrong"])],
    }


@pytest.mark.parametrize(("memory", "heaps"), [(2048, [128, 128]), (16384, [512, 256]), (262144, [1024, 512])])
def test_heaps_by_the_memory(memory: int, heaps: list[int]) -> None:
    assert hdfs(memory) == {"heaps": heaps, "wrong": []}


def test_heaps_as_given() -> None:
    given = {"hdfs_namenode_heap_mb": "64", "hdfs_datanode_heap_mb": 2000}
    assert hdfs(2048, **given) == {"heaps": [64, 2000], "wrong": []}


@pytest.mark.parametrize("daemon", ["namenode", "datanode"])
@pytest.mark.parametrize("heap", [63, 2048])
def test_a_heap_that_can_not_be(daemon: str, heap: int) -> None:
    name = f"hdfs_{daemon}_heap_mb"
    (wrong,) = hdfs(2048, **{name: heap})["wrong"]
    assert f"{name} is {heap}, and ps-0 has 2048 MB of memory" in wrong


def test_a_heap_counts_where_its_daemon_is() -> None:
    assert hdfs(2048, hdfs_host="ps-1", hdfs_datanodes=["ps-1"], hdfs_namenode_heap_mb=9999)["wrong"] == []
