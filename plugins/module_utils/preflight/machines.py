# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's look at what hosts are made of: instance types and their zones, images, disks."""

from __future__ import annotations

import re

from ansible_collections.flotilla.kit.plugins.module_utils import (
    fleet_groups,
    images,
    network_file,
    networking,
    sizing,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings


class Machines(findings.Findings):
    """Instance types, zones, images and disks."""

    def network_file(self) -> None:
        """Judge the network's file, where there is one, and have it decide what the groups leave out."""
        if not self.p.get("network"):
            return
        self.facts, problems = network_file.judge(self.p["root"], self.p["network"])
        self.check(problems)
        if self.facts:
            self.result["network"] = [
                *self.facts["says"],
                *network_file.say_decided(self.facts, self.p["groups"]),
            ]
            self.p = {**self.p, "groups": fleet_groups.filled(self.p["groups"], self.facts["groups"])}

    def types(self) -> None:
        """Judge the instance types, and choose the zones that offer them all."""
        old = {
            name
            for name, group in self.groups.items()
            if not self.check(sizing.check_family(name, group["instance_type"]))
        }
        names = {group["instance_type"] for name, group in self.groups.items() if name not in old}
        if not names:
            return
        infos = self.infos = {
            info["InstanceType"]: info
            for info in self.aws.pages(
                "describe the instance types",
                "ec2",
                "describe_instance_types",
                "InstanceTypes",
                Filters=[{"Name": "instance-type", "Values": sorted(names)}],
            )
        }
        known: list[str] = []
        if names - set(infos):
            offers = self.aws.pages(
                "list the region's instance types",
                "ec2",
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                LocationType="region",
            )
            known = sorted(offer["InstanceType"] for offer in offers)
        for name, group in self.groups.items():
            wanted = group["instance_type"]
            if name in old:
                continue
            if wanted not in infos:
                self.problems.append(
                    f"fleet_groups.{name}.instance_type {wanted} doesn't exist in {self.p['region']}: "
                    + sizing.near_types(wanted, known)
                )
                continue
            self.check(sizing.check_type(name, wanted, infos[wanted]))
            group["gpus"], group["gpu"] = sizing.gpus_of(infos[wanted])
            group["local_disk"] = infos[wanted].get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0)
            group["tasks"], problems = sizing.pick_tasks(
                name, group["tasks"], wanted, infos[wanted], self.p["accelerator"]
            )
            self.check(problems)
            if name in fleet_groups.TRAINERS and self.p["accelerator"] != "cpu" and group["tasks"] < group["gpus"]:
                self.warnings.append(
                    f"fleet_groups.{name}.instance_type {wanted} has {group['gpus']} GPUs, of which training uses "
                    f"{group['tasks']}: leave tasks out to use all."
                )
            memory = infos[wanted].get("MemoryInfo", {}).get("SizeInMiB", 0)
            if self.facts and name in fleet_groups.TRAINERS:
                self.check(network_file.check_memory(self.facts, name, wanted, memory, group["tasks"]))
            if memory < 1024 * (1 + group["tasks"]):
                tasks = "TensorFlow" if group["tasks"] == 1 else f"{group['tasks']} tasks of TensorFlow"
                self.warnings.append(
                    f"fleet_groups.{name}.instance_type {wanted} has {memory} MiB of memory, "
                    f"too little for HDFS and {tasks} together: {2 + 2 * group['tasks']} GiB or more do."
                )
        if self.problems:
            return
        self.check(
            sizing.check_accelerator(
                self.p["accelerator"], {name: group["gpus"] for name, group in self.groups.items()}
            )
        )
        offers = self.aws.pages(
            "list the zones that offer the instance types",
            "ec2",
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": sorted(names)}],
        )
        # Local Zones (us-west-2-lax-1a) have not all that a fleet needs.
        offers = [offer for offer in offers if re.fullmatch(self.p["region"] + "[a-z]", offer["Location"])]
        zones, problems = networking.pick_zones(names, offers, self.bound, tuple(self.subnets))
        if self.check(problems):
            self.place(zones)

    def place(self, zones: list[str]) -> None:
        """Say what network each zone's subnet gets."""
        if self.p["vpc_id"]:
            placed = [networking.Zone(name=zone, cidr="") for zone in zones]
        else:
            there = {zone: str(subnet["CidrBlock"]) for zone, subnet in self.subnets.items()}
            placed = networking.place_zones(zones, self.p["vpc_cidr"], there)
        if not placed:
            self.problems.append(
                f"fleet_vpc_cidr {self.p['vpc_cidr']} has no room for a subnet in {' or '.join(zones)}"
                + (f", as the fleet's in {' and '.join(sorted(self.subnets))} take it" if self.subnets else "")
                + ": destroy the fleet first, take a larger network, or another fleet_zone."
            )
            return
        self.result.update(zones=placed, zone=placed[0]["name"])

    def images(self) -> None:
        """Find the groups' images and the users that they make."""
        sources = {
            name: group["image"] or self.p["images"][images.image_kind(group["gpu"], self.p["accelerator"])]
            for name, group in self.groups.items()
        }
        parameters = sorted({source for source in sources.values() if source.startswith("/")})
        values: dict[str, str] = {}
        if parameters:
            answer = self.aws.call("look up the images' SSM parameters", "ssm", "get_parameters", Names=parameters)
            values = {one["Name"]: one["Value"] for one in answer["Parameters"]}
        # One problem an image, not one a group.
        users: dict[str, list[str]] = {}
        for name, source in sources.items():
            users.setdefault(source, []).append(name)
        for source, names in users.items():
            image_id = values.get(source, source)
            if not image_id.startswith("ami-"):
                self.problems.append(
                    f"The image {source or '(none)'} of {', '.join(names)} "
                    + (
                        f"isn't an SSM parameter in {self.p['region']}: "
                        if source.startswith("/")
                        else "isn't an image's id: "
                    )
                    + f"set fleet_groups.{names[0]}.image to an ami-… of Debian 12 or Ubuntu 22.04."
                )
            for name in names:
                self.groups[name]["image_id"] = image_id
        if self.problems:
            return
        self.describe_images(users)
        if not self.problems:
            self.bake()

    def describe_images(self, users: dict[str, list[str]]) -> None:
        """Judge the bare images; ``users`` are the groups of each, by what names it."""
        found = {
            image["ImageId"]: image
            for image in self.aws.pages(
                "describe the images",
                "ec2",
                "describe_images",
                "Images",
                Filters=[{"Name": "image-id", "Values": sorted({one["image_id"] for one in self.groups.values()})}],
            )
        }
        for source, names in users.items():
            image_id = self.groups[names[0]]["image_id"]
            image = found.get(image_id)
            where = f"The image {image_id} of {', '.join(names)}"
            hint = f"set fleet_groups.{names[0]}.image to one of Debian 12 or Ubuntu 22.04 for x86_64."
            if image is None:
                self.problems.append(f"{where} isn't there in {self.p['region']}: {hint}")
                continue
            system = image.get("Platform") or image.get("Architecture", "x86_64")
            if system != "x86_64":
                self.problems.append(f"{where} is for {system}: {hint}")
                continue
            device = image.get("RootDeviceName") or "/dev/xvda"
            sizes = [
                mapping["Ebs"].get("VolumeSize", 0)
                for mapping in image.get("BlockDeviceMappings", [])
                if mapping.get("DeviceName") == device and "Ebs" in mapping
            ]
            user, reason = images.judge_system(source, image)
            if reason and not all(self.groups[name]["ssh_user"] for name in names):
                self.problems.append(
                    f"{where} ('{image.get('Name', '')}') {reason}: {hint[:-1]}, or ssh_user too if you know better."
                )
            for name in names:
                group = self.groups[name]
                group["root_device"], group["image_size"] = device, max(sizes, default=0)
                group["ssh_user"] = group["ssh_user"] or user

    def bake(self) -> None:
        """Take the newest baked image that fits in a bare one's place, where one is wanted."""
        self.result.update(baked={}, starts=[])
        wanted = self.p.get("baked", "never")
        kinds: dict[tuple[str, str], list[str]] = {}
        for name, group in self.groups.items():
            if group["image"]:  # chosen on purpose
                continue
            kinds.setdefault((images.image_kind(group["gpu"], self.p["accelerator"]), group["image_id"]), []).append(
                name
            )
        if wanted == "never":
            return
        there = images.own(self.aws)
        snapshots = images.snapshots_of(self.aws, there)
        missing, at = self.missing(), images.now()
        for (kind, bare), names in kinds.items():
            ofkind = [one for one in there if one["kind"] == kind]
            digest = images.digest(self.p["root"], kind, bare, self.p["distribution"]) if kind in images.KINDS else ""
            same = [one for one in ofkind if one["digest"] == digest]
            image = next((one for one in same if not images.problem(one, snapshots)), None)
            for one in same[: same.index(image)] if image else same:
                self.warnings.append(
                    f"The baked image {one['name']} ({one['id']}) isn't used, as it {images.problem(one, snapshots)}: "
                    "playbooks/images.yml with images_keep removes it, once it isn't being made any more."
                )
            small = [name for name in names if image and 0 < self.groups[name]["volume_size"] < image["size"]]
            self.check(
                [
                    f"fleet_groups.{name}.volume_size is {self.groups[name]['volume_size']} GiB, but the baked image "
                    f"{image['name']} has {image['size']}: set it to that, or fleet_baked to never."
                    for name in small
                    if image
                ]
            )
            if image:
                for name in names:
                    self.baked[name] = image
                    self.groups[name]["image_id"] = image["id"]
                    self.groups[name]["root_device"] = image["root_device"]
            new = {name: self.groups[name]["instance_type"] for name in names if missing[name]}
            if not new:
                continue
            if image:
                self.result["starts"].append(images.say_taken(kind, list(new), image, at))
            elif wanted == "always":
                self.problems.append(images.say_lacking(kind, new, ofkind, at))
            elif kind in images.KINDS:
                self.result["starts"].append(images.say_bare(kind, new, ofkind, at))
        self.result["baked"] = {name: {"id": one["id"], "name": one["name"]} for name, one in self.baked.items()}

    def disks(self) -> bool:
        """Choose the volumes' sizes; false when one that is wanted doesn't do."""
        found: list[str] = []
        total, hosts, room = self.result.get("dataset", {}).get("bytes", 0), self.result["hosts"], 0
        copy = total if self.p["local_data"] else 0
        for name, group in self.groups.items():
            gpu = images.image_kind(group["gpu"], self.p["accelerator"]) != "cpu" or self.p.get("builder") == "gpu"
            local = group.pop("local_disk")
            need = sizing.disk_need(total, hosts, gpu, local, copy)
            size, problems = sizing.pick_disk(
                name, group["volume_size"], need, group.pop("image_size"), self.p["volume_size"], gpu
            )
            group["volume_size"] = max(size, self.baked[name]["size"]) if size and name in self.baked else size
            room += group["count"] * sizing.disk_room(group["volume_size"], gpu, local, copy)
            found += problems
        if total and room:
            copies = min(3, hosts)
            self.result["dataset"]["says"].append(
                f"It fills {total * copies / room:.0%} of HDFS, which keeps {copies} copies."
                if copies > 1
                else f"It fills {total / room:.0%} of HDFS."
            )
        return self.check(found)
