"""Machine images and snapshots as EC2 has them: names, states, encryption, tags, who owns and who uses what.

moto makes every image of 15 GiB, unencrypted and available at once, and tags no snapshot.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html
"""

from __future__ import annotations

import copy
import re
from typing import Protocol

from moto.core.responses import ActionResult
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.utils import random_ami_id

from .judge import patch, refuse, rule
from .untyped import Answer, Moto, Request

BASE_GIB = 8  # of Debian's and the deep-learning images' root volumes, as far as the lab goes
NAME = r"[a-zA-Z0-9()\[\] ./\-'@_]{3,128}"


class Keeper(Protocol):
    """Keeps the disks behind snapshots."""

    def take(self, image: Ami, instance: Instance, reboot: bool) -> None:
        """Make a disk of an instance's; the image is `pending` until it is there."""

    def copy(self, image: Ami, source: Ami) -> None:
        """Give an image the disk of another."""


keeper: Keeper | None = None  # the lab's; without one, as in unit tests, images are records only


# ---------------------------------------------------------------- what EC2 refuses


@rule("ec2:CreateImage", "ec2:RegisterImage", "ec2:CopyImage")
def _name(call: Moto, request: Request) -> None:
    name = request.get("Name") or ""
    if not re.fullmatch(NAME, name):
        refuse(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', "
            "'-', '/' and '_'",
        )
    for one in call.ec2_backend.amis.values():
        if one.name == name and one.owner_id == call.current_account:
            refuse("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {one.id}")


@rule("ec2:CreateImage")
def _source(call: Moto, request: Request) -> None:
    instance = call.ec2_backend.get_instance(request.get("InstanceId"))
    if instance.state not in ("running", "stopping", "stopped"):
        refuse(
            "InvalidParameterValue",
            f"Invalid value '{instance.id}' for instanceId. Instance is not in state 'running' or 'stopping' or "
            "'stopped'",
        )
    for one in request.get("BlockDeviceMappings") or []:
        disk = one.get("Ebs") or {}
        if one.get("DeviceName") in instance.block_device_mapping and set(disk) - {"DeleteOnTermination"}:
            refuse(
                "InvalidBlockDeviceMapping",
                f"Only DeleteOnTermination can be changed for the existing device {one['DeviceName']}: an image has "
                "the size and the encryption of its instance's volume.",
            )


def _want_image(call: Moto, identity: Moto) -> None:
    if identity not in call.ec2_backend.amis:
        refuse("InvalidAMIID.NotFound", f"The image id '[{identity}]' does not exist")


def _want_snapshot(call: Moto, identity: str) -> None:
    if identity not in call.ec2_backend.snapshots:
        refuse("InvalidSnapshot.NotFound", f"The snapshot '{identity}' does not exist.")


@rule("ec2:CopyImage")
def _copied(call: Moto, request: Request) -> None:
    source = request.get("SourceImageId")
    if source not in call.ec2_backend.amis or request.get("SourceRegion") != call.region:
        refuse("InvalidAMIID.NotFound", f"The image id '[{source}]' does not exist")
    if call.ec2_backend.amis[source].state != "available":
        refuse("InvalidAMIID.Unavailable", f"The image ID '{source}' is not available")


@rule("ec2:DeregisterImage", "ec2:ModifyImageAttribute")
def _own_image(call: Moto, request: Request) -> None:
    image = call.ec2_backend.amis.get(request.get("ImageId"))
    if image and image.owner_id != call.current_account:
        refuse("AuthFailure", f"Not authorized for image:{image.id}")


@rule("ec2:DescribeSnapshots", "ec2:DeleteSnapshot", "ec2:CopySnapshot")
def _snapshots(call: Moto, request: Request) -> None:
    single = [request[name] for name in ("SnapshotId", "SourceSnapshotId") if request.get(name)]
    for one in request.get("SnapshotIds") or single:
        _want_snapshot(call, one)


@rule("ec2:DeleteSnapshot")
def _in_use(call: Moto, request: Request) -> None:
    for image in users(call.ec2_backend, str(request.get("SnapshotId"))):
        refuse("InvalidSnapshot.InUse", f"The snapshot {request['SnapshotId']} is currently in use by {image.id}")


@rule("ec2:CreateTags")
def _tags_of_nothing(call: Moto, request: Request) -> None:
    for one in request.get("Resources") or []:
        if one.startswith("ami-"):
            _want_image(call, one)
        elif one.startswith("snap-"):
            _want_snapshot(call, one)


@rule("ec2:RunInstances")
def _launched(call: Moto, request: Request) -> None:
    image = call.ec2_backend.amis.get(request.get("ImageId"))
    if not image:
        return
    if image.state != "available":
        refuse("InvalidAMIID.Unavailable", f"AMI '{image.id}' is {image.state}, and cannot be run")
    snapshot = image.ebs_snapshot
    _want_snapshot(call, snapshot.id)
    for one in request.get("BlockDeviceMappings") or []:
        if one.get("DeviceName") != image.root_device_name or "NoDevice" in one:
            continue
        disk = one.setdefault("Ebs", {})
        disk.setdefault("SnapshotId", snapshot.id)
        disk.setdefault("VolumeSize", snapshot.volume_size)
        disk.setdefault("VolumeType", snapshot.volume.volume_type)
        disk.setdefault("DeleteOnTermination", True)
        if int(disk["VolumeSize"]) < snapshot.volume_size:
            refuse(
                "InvalidBlockDeviceMapping",
                f"Volume of size {disk['VolumeSize']}GB is smaller than snapshot '{disk['SnapshotId']}', expect size>= "
                f"{snapshot.volume_size}GB",
            )


def users(backend: Moto, snapshot_id: str) -> list[Ami]:
    """The registered images whose root is a snapshot."""
    return [image for image in backend.amis.values() if image.ebs_snapshot.id == snapshot_id]


# ---------------------------------------------------------------- what EC2 makes


def attach() -> None:
    """Let images have the size, encryption and tags that EC2 gives them."""
    make, filter_value, defaults = Ami.__init__, Ami.get_filter_value, Instance.setup_defaults
    register, deregister = AmisResponse.register_image, AmisResponse.deregister_image
    describe = ElasticBlockStore.describe_snapshots

    def made(self: Ami, *arguments: Moto, **options: Moto) -> None:
        make(self, *arguments, **options)
        self.ebs_snapshot.volume.size = BASE_GIB

    def filtered(self: Ami, filter_name: str, method_name: str | None = None) -> Moto:
        if filter_name == "block-device-mapping.snapshot-id":
            return self.ebs_snapshot.id
        return filter_value(self, filter_name, method_name)

    def with_root(self: Instance) -> None:
        image = self.ec2_backend.amis.get(self.image_id)
        if not image or image.ebs_snapshot.id not in self.ec2_backend.snapshots:
            defaults(self)
            return
        snapshot = image.ebs_snapshot
        volume = self.ec2_backend.create_volume(
            size=snapshot.volume_size,
            zone_name=self.availability_zone,
            snapshot_id=snapshot.id,
            volume_type=snapshot.volume.volume_type,
        )
        self.ec2_backend.attach_volume(volume.id, self.id, image.root_device_name, True)

    def registered(self: Moto) -> ActionResult:
        answer = register(self)
        image = self.ec2_backend.amis[_result(answer)["ImageId"]]
        image.architecture = self._get_param("Architecture") or image.architecture
        image.root_device_name = self._get_param("RootDeviceName") or image.root_device_name
        image.root_device_type = "ebs"
        image.add_tags(_tags(self, "image"))
        for one in self._get_param("BlockDeviceMappings", []):
            snapshot = self.ec2_backend.snapshots.get((one.get("Ebs") or {}).get("SnapshotId"))
            if snapshot and one.get("DeviceName") == image.root_device_name:
                del self.ec2_backend.snapshots[image.ebs_snapshot.id]
                image.ebs_snapshot = snapshot
        return answer

    def deregistered(self: Moto) -> ActionResult:
        backend, image = self.ec2_backend, self.ec2_backend.amis.get(self._get_param("ImageId"))
        answer = deregister(self)
        if not self._get_bool_param("DeleteAssociatedSnapshots", False):
            return answer
        snapshot = image.ebs_snapshot.id
        code = "skipped" if users(backend, snapshot) else "success"
        if code == "success":
            backend.snapshots.pop(snapshot, None)
        results = [{"SnapshotId": snapshot, "ReturnCode": code}]
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def described(self: Moto) -> ActionResult:
        answer = describe(self)
        owners = {self.current_account if one == "self" else one for one in self._get_param("OwnerIds", [])}
        found = [one for one in _result(answer)["Snapshots"] if not owners or one.owner_id in owners]
        return ActionResult({"Snapshots": found})

    patch(Ami, "__init__", made)
    patch(Ami, "get_filter_value", filtered)
    patch(Ami, "block_device_mappings", property(_mappings))
    patch(Instance, "setup_defaults", with_root)
    patch(AmisResponse, "create_image", _create)
    patch(AmisResponse, "copy_image", _copy)
    patch(AmisResponse, "register_image", registered)
    patch(AmisResponse, "deregister_image", deregistered)
    patch(ElasticBlockStore, "describe_snapshots", described)


def _mappings(self: Ami) -> list[Answer]:
    snapshot = self.ebs_snapshot
    disk = {"SnapshotId": snapshot.id, "VolumeSize": snapshot.volume_size, "DeleteOnTermination": True,
            "VolumeType": snapshot.volume.volume_type, "Encrypted": snapshot.encrypted}  # fmt: skip
    return [{"DeviceName": self.root_device_name, "Ebs": disk}]


def _result(answer: ActionResult) -> Answer:
    found = answer.result
    assert isinstance(found, dict)
    return found


def _tags(call: Moto, kind: str) -> dict[str, str]:
    """The tags that a request gives to a kind of what it makes."""
    found = [one for one in call._get_param("TagSpecifications", []) if one.get("ResourceType") == kind]
    return {tag["Key"]: tag.get("Value", "") for one in found for tag in one.get("Tags") or []}


def _root(instance: Instance) -> Moto:
    """An instance's root volume."""
    devices = instance.block_device_mapping
    device = devices.get(instance.root_device_name) or next(iter(devices.values()))
    return instance.ec2_backend.volumes[device.volume_id]


def _make(call: Moto, volume: Moto, source: str, description: str, **facts: Moto) -> Ami:
    """An image whose snapshot is of a volume, with the tags that the request gives to both."""
    identity, backend = random_ami_id(), call.ec2_backend
    image = Ami(
        backend, identity, name=call._get_param("Name"), description=call._get_param("Description", ""),
        root_device_type="ebs", hypervisor="xen", snapshot_description=description.format(image=identity), **facts,
    )  # fmt: skip
    setattr(image, "source_image_id", source)  # noqa: B010 (moto doesn't have it)
    image.image_location = f"{call.current_account}/{image.name}"
    image.creation_date = image.creation_date.replace(microsecond=0)
    snapshot = image.ebs_snapshot
    snapshot.volume = copy.copy(volume)  # as it is now, whatever becomes of it
    snapshot.encrypted, snapshot.kms_key_id = volume.encrypted, volume.kms_key_id
    image.add_tags(_tags(call, "image"))
    snapshot.add_tags(_tags(call, "snapshot"))
    backend.amis[identity] = image
    return image


def _create(self: Moto) -> ActionResult:
    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    description = f"Created by CreateImage({instance.id}) for {{image}}"
    image = _make(
        self,
        _root(instance),
        instance.image_id,
        description,
        instance=instance,
        root_device_name=instance.root_device_name,
    )
    if keeper:
        keeper.take(image, instance, reboot=not self._get_bool_param("NoReboot", False))
    return ActionResult({"ImageId": image.id})


def _copy(self: Moto) -> ActionResult:
    source = self.ec2_backend.amis[self._get_param("SourceImageId")]
    volume = copy.copy(source.ebs_snapshot.volume)
    volume.encrypted = source.ebs_snapshot.encrypted
    if self._get_bool_param("Encrypted", False):
        volume.encrypted = True
    description = f"Copied for DestinationAmi {{image}} from SourceAmi {source.id}"
    image = _make(self, volume, source.id, description, source_ami=source, root_device_name=source.root_device_name)
    if self._get_bool_param("CopyImageTags", False):
        own = {tag["key"]: tag["value"] for tag in source.get_tags() if not tag["key"].startswith("aws:")}
        image.add_tags({**own, **_tags(self, "image")})
    if keeper:
        keeper.copy(image, source)
    return ActionResult({"ImageId": image.id})
