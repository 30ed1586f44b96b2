"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from harness import only_lab, user_runs


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse at once, not after minutes, where somebody's lab is in the way."""
    if any("lab" in getattr(item, "fixturenames", ()) for item in session.items):
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
    user_runs(
        "python", "scripts/cifar10.py", "upload", "s3://flotilla-test/cifar10/",
        "--profile", "flotilla-lab", "--create-bucket",
    )  # fmt: skip
    return lab
