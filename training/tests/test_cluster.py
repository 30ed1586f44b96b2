"""TF_CONFIG: who this process is, and one sentence for what can't be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flotilla.job.cluster import Task, task_from, tf_config
from flotilla.job.errors import BadInput

CLUSTER = {"ps": ["p:2222"], "chief": ["c:2222"], "worker": ["w:2222", "v:2222"]}


def read(cluster: Any, kind: Any, index: Any) -> Task:
    return task_from({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})})


def test_alone() -> None:
    for environ in ({}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}):
        task = task_from(environ)
        assert (task.name, task.leads, task.device_filters) == ("local-0", True, [])


def test_tasks() -> None:
    chief, worker = read(CLUSTER, "chief", 0), read(CLUSTER, "worker", 1)
    assert (chief.name, chief.leads, chief.device_filters) == ("chief-0", True, ["/job:ps", "/job:chief"])
    assert (worker.name, worker.leads) == ("worker-1", False)
    assert worker.device_filters == ["/job:ps", "/job:worker/task:1"]
    assert read(CLUSTER, "evaluator", 0).device_filters == []
    assert read(CLUSTER, "ps", 0).cluster == CLUSTER
    assert task_from({"TF_CONFIG": tf_config(CLUSTER, "worker-1")}) == worker


@pytest.mark.parametrize("name", ["worker", "worker-", "worker-x", "-1", "worker-1 "])
def test_names_that_no_task_has(name: str) -> None:
    with pytest.raises(BadInput, match="task is"):
        tf_config(CLUSTER, name)


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "words"),
    [
        (None, "ps", 0, "lacks"),
        (CLUSTER, "ps", "x", "lacks"),
        (CLUSTER, "worker", 2, "task is worker 2"),
        (CLUSTER, "evaluator", 1, "task is evaluator 1"),
        (CLUSTER, "worker", -1, "task is worker -1"),
        (CLUSTER, "master", 0, "task.type is 'master'"),
        ({**CLUSTER, "evaluator": ["e:1"]}, "ps", 0, "only chief, worker and ps"),
        ({"chief": ["c:1"]}, "chief", 0, "at least one ps"),
        ({"ps": ["p:1"], "worker": ["c:1"]}, "worker", 0, "exactly one chief"),
        ({"ps": ["p:1"], "chief": ["c:1", "d:1"]}, "chief", 0, "exactly one chief"),
    ],
)
def test_what_can_not_be_a_cluster(cluster: Any, kind: Any, index: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(cluster, kind, index)


def test_no_json() -> None:
    with pytest.raises(BadInput, match="isn't JSON"):
        task_from({"TF_CONFIG": "{"})
