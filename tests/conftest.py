"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.commands import user_runs
from tests.support.lab import only_lab, upload

ON_THE_LAB = ("tests/lab/", "tests/roles/", "tests/life/")


TOGETHER = ("tests/unit/test_radl.py",)  # files whose tests share what takes long to make


class LabInOneProcess(LoadScopeScheduling):
    """The lab is one: its tests follow one another in one process, the others run in another beside it.

    Not by xdist_group, which does nothing under pytest 9.2: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ON_THE_LAB):
            return "lab"
        return next((file for file in TOGETHER if nodeid.startswith(file)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LabInOneProcess:
    return LabInOneProcess(config, log)


def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    """Refuse at once, not after minutes, where somebody's lab is in the way."""
    if any(name.startswith(ON_THE_LAB) for name in ids):
        only_lab()


@pytest.fixture(scope="session")
def lab() -> Iterator[boto3.Session]:
    """A running lab, as a session of its administrator; it ends with the tests."""
    only_lab()
    user_runs("scripts/lab", "up", seconds=300)
    yield boto3.Session(profile_name="flotilla-lab")
    user_runs("scripts/lab", "down", seconds=120)


@pytest.fixture(scope="session")
def dataset(lab: boto3.Session) -> boto3.Session:
    """Real CIFAR-10 in the lab's S3, where the tests' inventory expects it."""
    upload("cifar10")
    return lab
