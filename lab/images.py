"""The machine images that the region offers, and the public SSM parameters that name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineImage:
    """A public image as AWS lists it; all of them boot the lab's own Debian 12 (see docs/lab.md)."""

    ami: str
    name: str
    owner: str
    default_user: str
    parameters: tuple[str, ...]
    root_device: str


CATALOGUE = (
    MachineImage(
        ami="ami-0deb12000000000a1",
        name="debian-12-amd64-lab",
        owner="136693071363",
        default_user="admin",
        parameters=("/aws/service/debian/release/12/latest/amd64",),
        root_device="/dev/xvda",
    ),
    MachineImage(
        ami="ami-0d1ba5e00000000b2",
        name="Ubuntu 22.04, with and without the GPU driver (the lab's stand-in: Debian 12, user ubuntu)",
        owner="898082745236",
        default_user="ubuntu",
        parameters=("/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",),
        root_device="/dev/sda1",
    ),
)
