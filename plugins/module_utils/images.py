# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The images that hosts start from, bare ones and baked ones: what is there, what fits, what it costs.

A baked image holds all that the roles install. It is known by its tag ``flotilla-image``, the digest of all that
decides it (module_utils/recipe.py). It is the caller's account's own, belongs to no fleet, and its snapshots carry the
same tags.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import aws, prices, recipe, reconcile, untyped


class _Image(TypedDict):
    id: str  # ami-…
    name: str
    kind: str  # cpu or gpu
    digest: str  # of all that decides what is in it
    kit: str  # the version of the collection that made it
    base: str  # the id of the bare image that it was made of
    owner: str  # who made it, as a tag
    builder: str  # the id of the instance that it was made of
    state: str  # available, pending, or one of FAILED
    reason: str  # of that state, in AWS's words; often empty
    architecture: str  # x86_64
    root_device: str  # such as /dev/xvda
    size: int  # of all its disks, in GiB
    snapshots: list[str]  # their ids
    created: datetime.datetime  # in UTC


class Image(_Image, total=False):
    """A baked image, as far as it matters here."""

    users: list[str]  # the fleets, or instances without one, that were launched from it and are there
    problem: str  # why no host can be launched from it; empty where one can


TAG = "flotilla-image"
KINDS = ("cpu", "gpu")
# Seconds that a host saves which needs no downloads: measured in the lab, with all of them cached on its machine.
SAVES = 50
OLD = 30  # days after which an image lacks too many of its system's updates
BUILDER = re.compile(r"image-(?:cpu|gpu)-[0-9a-f]{6}")  # how builders, fleets of one host, are called
FAILED = ("failed", "error", "invalid")
ORPHANED = datetime.timedelta(hours=1)  # a snapshot that is older is none of an image that is just being made
IN_USE = 60  # seconds for which AWS may not know yet that an image is gone whose snapshot is to be deleted
TAGGED = [{"Name": "tag-key", "Values": [TAG]}]

# The open kernel driver of AWS's deep-learning image wants Turing or newer.
CLOSED_DRIVER_GPUS = {"M60", "V100"}


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def image_kind(gpu: str, accelerator: str) -> str:
    """Say which of the images cpu, gpu or gpu_plain (no driver in it yet) a host gets."""
    if not gpu or accelerator == "cpu":
        return "cpu"
    return "gpu_plain" if gpu in CLOSED_DRIVER_GPUS else "gpu"


def judge_system(source: str, image: untyped.Answer) -> tuple[str, str]:
    """Return the user that an image's cloud-init makes, and a reason where the system isn't supported.

    All there is to judge by are the names of the image and of its SSM parameter; both may say nothing.
    """
    words = f"{source} {image.get('Name', '')} {image.get('Description', '')}".lower()
    if "ubuntu" in words or "canonical" in words:
        version = re.search(r"\b[12]\d\.(04|10)\b", words)
        return "ubuntu", "" if version is None or version[0] == "22.04" else f"is Ubuntu {version[0]}"
    if "debian" in words:
        version = re.search(r"debian[-/ ](?:release/)?(\d+)", words)
        return "admin", "" if version is None or version[1] == "12" else f"is Debian {version[1]}"
    return "", "is neither Debian nor Ubuntu by its name"


def kit_version(root: Path) -> str:
    """Return the collection's version, from its folder: as it lies in git, or as ansible-galaxy has installed it."""
    galaxy, manifest = root / "galaxy.yml", root / "MANIFEST.json"
    if galaxy.is_file():
        found = re.search(r"^version: *(\S+)", galaxy.read_text(), re.MULTILINE)
        if found:
            return found[1]
    elif manifest.is_file():
        return str(json.loads(manifest.read_text())["collection_info"]["version"])
    raise aws.FleetError(f"{root} isn't the collection's folder: it has no galaxy.yml and no MANIFEST.json.")


def simplify(image: untyped.Answer) -> Image:
    """Reduce what DescribeImages says to what is needed here; size in GiB, created as datetime in UTC."""
    tags = aws.tags_of(image)
    disks = [disk["Ebs"] for disk in image.get("BlockDeviceMappings", []) if "Ebs" in disk]
    created = datetime.datetime.strptime(image["CreationDate"][:19], "%Y-%m-%dT%H:%M:%S")
    return {
        "id": image["ImageId"],
        "name": image.get("Name", ""),
        "kind": tags.get("flotilla-kind", ""),
        "digest": tags.get(TAG, ""),
        "kit": tags.get("flotilla-kit", ""),
        "base": tags.get("flotilla-base", ""),
        "owner": tags.get("flotilla-owner", ""),
        "builder": tags.get("flotilla-builder", ""),
        "state": image.get("State", "available"),
        "reason": image.get("StateReason", {}).get("Message", ""),
        "architecture": image.get("Architecture", ""),
        "root_device": image.get("RootDeviceName") or "/dev/xvda",
        "size": sum(int(disk.get("VolumeSize", 0)) for disk in disks),
        "snapshots": [disk["SnapshotId"] for disk in disks if "SnapshotId" in disk],
        "created": created.replace(tzinfo=datetime.timezone.utc),
    }


def own(cloud: aws.Aws) -> list[Image]:
    """List the account's images of this kit, newest first."""
    found = cloud.pages("list the baked images", "ec2", "describe_images", "Images", Owners=["self"], Filters=TAGGED)
    return sorted(map(simplify, found), key=lambda one: (one["created"], one["id"]), reverse=True)


def snapshots_of(cloud: aws.Aws, images: list[Image]) -> dict[str, untyped.Answer]:
    """Return the snapshots of images that are there, by id."""
    ids = sorted({snapshot for image in images for snapshot in image["snapshots"]})
    named = [{"Name": "snapshot-id", "Values": ids}]  # a filter: asked by ids, AWS fails where one isn't there
    if not ids:
        return {}
    found = cloud.pages("list the images' snapshots", "ec2", "describe_snapshots", "Snapshots", Filters=named)
    return {one["SnapshotId"]: one for one in found}


def problem(image: Image, snapshots: dict[str, untyped.Answer]) -> str:
    """Say why no host can be launched from an image; empty where one can."""
    if image["state"] != "available":
        return f"is {image['state']}"
    if image["architecture"] != "x86_64":
        return f"is for {image['architecture'] or 'an unknown architecture'}"
    lacking = [one for one in image["snapshots"] if snapshots.get(one, {}).get("State") != "completed"]
    if lacking or not image["snapshots"]:
        return f"lacks its snapshot {lacking[0]}" if lacking else "has no snapshot"
    return ""


def digest(root: str, kind: str, base: str, distribution: str) -> str:
    """Return the digest that an image of a kind has which is made of a base image's id by the collection in root."""
    try:
        return recipe.image_digest(Path(root), kind, base, distribution)
    except OSError as error:
        raise aws.FleetError(f"The collection's files can't be read ({error}): restore its folder.") from error


def resolve(cloud: aws.Aws, source: str) -> str:
    """Return the id of an image that was given by it or by the name of an SSM parameter."""
    if source.startswith("/"):
        answer = cloud.call("look up the image's SSM parameter", "ssm", "get_parameters", Names=[source])
        source = next((one["Value"] for one in answer["Parameters"]), source)
    if not source.startswith("ami-"):
        raise aws.FleetError(
            f"The image {source or '(none)'} isn't an image's id, nor an SSM parameter in {cloud.region}: correct "
            "fleet_image_cpu or fleet_image_gpu."
        )
    return source


def age(image: Image, at: datetime.datetime) -> str:
    """Say how old an image is."""
    minutes = max(int((at - image["created"]).total_seconds() // 60), 0)
    if minutes < 120:
        return f"{minutes} min old"
    return f"{minutes // 60} h old" if minutes < 48 * 60 else f"{minutes // 1440} days old"


def say_taken(kind: str, groups: list[str], image: Image, at: datetime.datetime) -> str:
    """Say in the plan which image hosts start from."""
    old = (at - image["created"]).days >= OLD
    hint = (
        ": 'ansible-playbook playbooks/image.yml -e fleet_bake_force=true' makes one with today's updates"
        if old
        else ""
    )
    return f"{_hosts(kind, groups)} from the baked image {image['name']} ({image['id']}, {age(image, at)}){hint}."


def say_bare(kind: str, groups: dict[str, str], others: list[Image], at: datetime.datetime) -> str:
    """Say in the plan that hosts start from the bare image, and what baking would save.

    ``groups`` are instance types by group, ``others`` images of other digests.
    """
    why = ""
    if others:
        why = f", as the baked {others[0]['name']} ({age(others[0], at)}) is of other roles or of another bare image"
    how = f"'ansible-playbook playbooks/image.yml{_option(kind, groups)}' once makes an image"
    return f"{_hosts(kind, groups)} from the bare image{why}: {how}, and hosts then start about {SAVES} s sooner."


def say_lacking(kind: str, groups: dict[str, str], others: list[Image], at: datetime.datetime) -> str:
    """Say that a fleet that shall start from baked images can't."""
    if kind not in KINDS:
        return (
            f"fleet_baked is always, but {', '.join(groups)} have GPUs whose driver is installed on the host, and of "
            "such no image is made: set fleet_baked to auto, or take other GPUs."
        )
    there = f"; {others[0]['name']} ({age(others[0], at)}) is of other roles or of another bare image" if others else ""
    return (
        f"fleet_baked is always, but there is no baked image that fits {', '.join(groups)}{there}: "
        f"'ansible-playbook playbooks/image.yml{_option(kind, groups)}' makes one, or set fleet_baked to auto."
    )


def _option(kind: str, groups: dict[str, str]) -> str:
    one = next(iter(groups.values()))  # an image for GPUs is baked on a host that has one
    return "" if kind == "cpu" else f" -e fleet_bake_kind={kind} -e fleet_bake_instance_type={one}"


def _hosts(kind: str, groups: Iterable[str]) -> str:
    return (
        f"Hosts without GPU ({', '.join(groups)}) start" if kind == "cpu" else f"GPU hosts ({', '.join(groups)}) start"
    )


def users(cloud: aws.Aws, images: list[Image]) -> dict[str, list[str]]:
    """Return by image's id the fleets, or ids of instances without one, that were launched from it and are there."""
    if not images:
        return {}
    found = cloud.pages(
        "list the images' instances",
        "ec2",
        "describe_instances",
        "Reservations",
        Filters=[
            {"Name": "image-id", "Values": [one["id"] for one in images]},
            {"Name": "instance-state-name", "Values": list(reconcile.LIVE)},
        ],
    )
    by: dict[str, set[str]] = {}
    for one in (instance for reservation in found for instance in reservation["Instances"]):
        fleet = aws.tags_of(one).get("flotilla-fleet") or one["InstanceId"]
        by.setdefault(one["ImageId"], set()).add(fleet)
    return {image: sorted(fleets) for image, fleets in by.items()}


def monthly(cloud: aws.Aws) -> float | None:
    """Return the $ a month of a GB of a snapshot; None where that isn't known."""
    try:
        return prices.snapshot(cloud, cloud.region)
    except aws.FleetError:
        return None


def cost(images: list[Image], price: float | None) -> str:
    """Say what images cost a month: of a snapshot AWS counts what is written, which is the volume at most."""
    return "$?" if price is None else f"${sum(one['size'] for one in images) * price:.2f}"


def summary(images: list[Image], price: float | None) -> str:
    """Say what is there and costs; empty where there is none."""
    if not images:
        return ""
    what = f"{len(images)} baked image{'s' if len(images) > 1 else ''}"
    stays = "stay on purpose" if len(images) > 1 else "stays on purpose"
    return f"{what} {stays}, for {cost(images, price)} a month at most: playbooks/images.yml lists and removes"


def table(images: list[Image], price: float | None, at: datetime.datetime) -> list[str]:
    """Return the images as lines: name, id, age, size, $ a month at most, owner, who uses it, what is wrong with it."""
    rows = [("image", "id", "age", "size", "$/month", "owner", "used by")]
    for one in images:
        by = ", ".join(one["users"]) or "-"
        wrong = f" ({one['problem']})" if one["problem"] else ""
        dollars = cost([one], price).lstrip("$")
        years = age(one, at).removesuffix(" old")
        rows.append((one["name"], one["id"], years, f"{one['size']} GB", dollars, one["owner"], by + wrong))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:{'<<>>><<'[column]}{widths[column]}}" for column, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def superfluous(images: list[Image], keep: int, owners: set[str] | None) -> list[Image]:
    """Return the images to remove: of each kind all but the newest that can be used, and those that are in use.

    Of others than ``owners`` (None: anybody) none goes. One that can't be used goes, unless it is still being made.
    """
    mine = [one for one in images if owners is None or one["owner"] in owners]
    kept = {
        one["id"]
        for kind in {one["kind"] for one in mine}
        for one in [one for one in mine if one["kind"] == kind and not one["problem"]][:keep]
    }
    return [one for one in mine if one["id"] not in kept and not one["users"] and one["state"] != "pending"]


def orphans(cloud: aws.Aws, images: list[Image], owners: set[str] | None, at: datetime.datetime) -> list[str]:
    """Return the ids of snapshots whose image is gone, as one whose removal was interrupted leaves them."""
    found = cloud.pages(
        "list the images' snapshots", "ec2", "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=TAGGED
    )
    held = {snapshot for image in images for snapshot in image["snapshots"]}
    return [
        one["SnapshotId"]
        for one in found
        if one["SnapshotId"] not in held
        and at - one["StartTime"] > ORPHANED
        and (owners is None or aws.tags_of(one).get("flotilla-owner", "") in owners)
    ]


def remove(cloud: aws.Aws, image: Image) -> None:
    """Deregister an image, and delete its snapshots; what is gone already is what was wanted."""
    try:
        cloud.call(f"deregister {image['name']}", "ec2", "deregister_image", ImageId=image["id"])
    except aws.FleetError as error:
        if not aws.code(error.__cause__ or error).startswith(("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")):
            raise
    for snapshot in image["snapshots"]:
        delete_snapshot(cloud, snapshot)


def delete_snapshot(cloud: aws.Aws, snapshot: str) -> None:
    """Delete a snapshot, as soon as AWS knows that its image is gone."""
    deadline = time.monotonic() + IN_USE
    while True:
        try:
            cloud.call(f"delete the snapshot {snapshot}", "ec2", "delete_snapshot", SnapshotId=snapshot)
        except aws.FleetError as error:
            code = aws.code(error.__cause__ or error)
            if code == "InvalidSnapshot.NotFound":
                return
            if code != "InvalidSnapshot.InUse" or time.monotonic() > deadline:
                raise
            time.sleep(2)
        else:
            return
