"""Fixtures of the tests that raise a fleet."""

from __future__ import annotations

import boto3
import pytest
from fleet import address, left, living
from harness import wait_until


@pytest.fixture(scope="module")
def region(dataset: boto3.Session) -> boto3.Session:
    """A region without any instance, and with the data set."""
    if ids := living(dataset):
        dataset.client("ec2").terminate_instances(InstanceIds=ids)
        wait_until(lambda: not living(dataset), 30, "no instances")
    address.cache_clear()
    return dataset


@pytest.fixture(scope="module")
def before(region: boto3.Session) -> list[str]:
    """What was in the region before the fleet."""
    return left(region)
