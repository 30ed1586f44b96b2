"""Fixtures of the tests that raise a fleet."""

from __future__ import annotations

import boto3
import pytest

from tests.support.commands import wait_until
from tests.support.fleet import Image, address, baked, left, playbook
from tests.support.lab import living


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


@pytest.fixture(scope="session")
def image(dataset: boto3.Session) -> Image:
    """The image of CPU hosts, baked once: tests/life/test_image.py is about it, others start from it."""
    there = left(dataset)
    said = playbook("playbooks/image.yml", "-v")
    (made,) = baked(dataset)
    return Image(made, said, there, left(dataset))
