# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which instance types do, how many training tasks a host holds, and how large its disk is."""

from __future__ import annotations

import difflib
import math

from ansible_collections.flotilla.kit.plugins.module_utils import fleet_groups, untyped

GIB = 2**30
# The wheel of TensorFlow 2.15.1 carries code for compute capability 5.0 to 8.0 and PTX that runs up to 9.0.
USABLE_GPUS = {"M60", "V100", "T4", "A10G", "A100", "L4", "L40S", "H100", "H200"}
USABLE_FAMILIES = "g4dn, g5, g6, p3, p4d or p5"
# Retired families that a region may not even name any more.
OLD_GPU_FAMILIES = {"cg1": "M2050", "g2": "K520", "p2": "K80"}
# GiB that system, Hadoop, TensorFlow, logs and checkpoints need beside the data.
BASE_DISK = 10
BASE_DISK_GPU = 25


def check_accelerator(accelerator: str, gpus: dict[str, int]) -> list[str]:
    """``gpu`` needs a GPU in every group that trains; gpus counts them per host of a group."""
    without = [group for group in fleet_groups.TRAINERS if group in gpus and not gpus[group]]
    if accelerator == "gpu" and without:
        return [
            f"fleet_accelerator is gpu, but the instance type of {' and '.join(without)} has no GPU: "
            f"take one of {USABLE_FAMILIES}, or set fleet_accelerator to auto."
        ]
    return []


def check_family(group: str, name: str) -> list[str]:
    """Refuse the retired GPU families by name."""
    gpu = OLD_GPU_FAMILIES.get(name.split(".")[0])
    return [_unusable(group, name, f"NVIDIA {gpu}")] if gpu else []


def _unusable(group: str, name: str, gpu: str) -> str:
    return (
        f"fleet_groups.{group}.instance_type {name} has a GPU ({gpu}) that TensorFlow 2.15 can't use: "
        f"take {USABLE_FAMILIES}."
    )


def check_type(group: str, name: str, info: untyped.Answer) -> list[str]:
    """Whether TensorFlow 2.15.1 and tensorflow-io run on an instance type, from DescribeInstanceTypes."""
    architectures = info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    if "x86_64" not in architectures:
        return [
            f"fleet_groups.{group}.instance_type {name} is {'/'.join(architectures) or 'of an unknown architecture'}, "
            "for which tensorflow-io has no build: take an x86_64 type, e.g. m7i.large instead of m7g.large."
        ]
    for gpu in info.get("GpuInfo", {}).get("Gpus", []):
        maker, model = gpu.get("Manufacturer", ""), gpu.get("Name", "")
        # Of g6f and gr6f AWS says Count 0, and an older botocore doesn't know GpuPartitionSize.
        if gpu.get("GpuPartitionSize", 1) < 1 or gpu.get("Count") == 0:
            return [
                f"fleet_groups.{group}.instance_type {name} has a part of a GPU ({maker} {model}), which needs "
                f"NVIDIA's GRID driver, and AWS's deep-learning images have the other: take {USABLE_FAMILIES}."
            ]
        if maker.upper() != "NVIDIA" or model.split("-")[0] not in USABLE_GPUS:
            return [_unusable(group, name, f"{maker} {model}")]
    return []


def gpus_of(info: untyped.Answer) -> tuple[int, str]:
    """Return number and name of an instance type's GPUs."""
    gpus = info.get("GpuInfo", {}).get("Gpus", [])
    return sum(gpu.get("Count", 0) for gpu in gpus), gpus[0].get("Name", "") if gpus else ""


def pick_tasks(group: str, wanted: int, name: str, info: untyped.Answer, accelerator: str) -> tuple[int, list[str]]:
    """Choose how many training tasks a host holds: as many as wanted, else one a GPU, else one.

    Each needs a GPU of its own, or where training doesn't use GPUs a vCPU.
    """
    gpus = gpus_of(info)[0] if group in fleet_groups.TRAINERS and accelerator != "cpu" else 0
    most, unit = (gpus, "GPUs") if gpus else (int(info["VCpuInfo"]["DefaultVCpus"]), "vCPUs")
    if wanted > most:
        return 0, [
            f"fleet_groups.{group}.tasks is {wanted}, but {name} has {most} {unit}, and each task needs one: "
            f"set it to at most {most}, or take a larger instance type."
        ]
    return wanted or gpus or 1, []


def near_types(name: str, known: list[str]) -> str:
    """Return a hint with the instance types whose names are nearest."""
    near = difflib.get_close_matches(name.lower(), known, 3, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else "look up the region's types."


def disk_need(total: int, nodes: int, gpu: bool, local_disk: int, copy: int = 0) -> int:
    """Return the GiB that a node's volume needs: the base, its share of the replicated data, and a copy (in bytes).

    Replication is min(3, nodes). Local NVMe disks (local_disk, in GiB) hold the data where they are large enough, but
    on GPU hosts AWS's image has taken them for itself.
    """
    share = total * min(3, nodes) / max(nodes, 1) * 1.2 / GIB
    base = (BASE_DISK_GPU if gpu else BASE_DISK) + math.ceil(copy / GIB)
    return base if local_disk >= share and not gpu else base + math.ceil(share)


def disk_room(volume: int, gpu: bool, local_disk: int, copy: int = 0) -> int:
    """Return the bytes that a host has for HDFS, on its local disks or its volume, whose sizes are given in GiB."""
    beside = volume - (BASE_DISK_GPU if gpu else BASE_DISK) - math.ceil(copy / GIB)
    return max(local_disk if not gpu else 0, beside, 0) * GIB


def pick_disk(group: str, wanted: int, need: int, image: int, default: int, gpu: bool) -> tuple[int, list[str]]:
    """Choose a volume's size in GiB: as wanted when that is enough, else the default or what is needed.

    Drivers and libraries fill a GPU image to the brim; a plain image is nearly empty.
    """
    least = need + image if gpu else max(need, image)
    if wanted and wanted < least:
        return 0, [
            f"fleet_groups.{group}.volume_size is {wanted} GiB, but image and data need {least}: "
            f"set it to {least} or more, or leave it out."
        ]
    return wanted or max(least, default), []
