# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What EC2 is asked for to launch a host: by fleet_instances in earnest, by fleet_preflight as a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.flotilla.kit.plugins.module_utils import aws, fleet_groups, reconcile, untyped

TAGGED: tuple[str, ...] = ("instance", "volume", "network-interface")


def host_tags(fleet: str, slot: reconcile.Slot, group: fleet_groups.Group, common: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of one slot's instance, volume and network interface; ``common`` are those of the whole fleet."""
    name, index = slot
    return {
        **common,
        "Name": f"{fleet}-{name}-{index}",
        "flotilla-group": name,
        "flotilla-index": str(index),
        "flotilla-ssh-user": group["ssh_user"],
        "flotilla-tasks": str(group["tasks"]),
        "flotilla-gpus": str(group.get("gpus", 0)),
    }


def request(group: fleet_groups.Group, tags: dict[str, str], tagged: Sequence[str] = TAGGED) -> untyped.Request:
    """Return RunInstances' request for a host of a group, without its network, key pair, profile and user data."""
    return {
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": group["image_id"],
        "InstanceType": group["instance_type"],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": group["root_device"],
                "Ebs": {
                    "VolumeSize": group["volume_size"],
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": aws.tag_list(tags)} for kind in tagged],
    }


def interface(subnet: str, public: bool) -> untyped.Request:
    """Return the request's network interface; ``public`` is whether it gets a public address."""
    return {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": public, "DeleteOnTermination": True}
