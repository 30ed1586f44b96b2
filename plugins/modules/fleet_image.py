#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_image."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_image
short_description: Make, list and remove the images that hosts start from
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - An image holds what the roles install, and is known by its tag C(flotilla-image), a digest of all that decides it;
    its snapshots carry the same tags. Images belong to no fleet, and outlive them.
  - They are private, and encrypted as the volume of the host that they are made of.
  - With O(state=begun) it says whether the image is needed, and how the host is called that it is to be made of
    (the builder, a fleet of one host); takes away what failed; and names the builders of interrupted runs that have
    expired. With O(state=present) it makes the image of that host, which EC2 restarts for it, and waits a while until
    it is available. With O(state=listed) it lists, with O(state=pruned) it removes all of the caller's but the newest.
  - The role C(flotilla.kit.fleet) calls it, from its entry points C(builder) and C(image).
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet.region
options:
  state:
    description: What to do.
    type: str
    choices: [begun, present, listed, pruned]
    required: true
  kind:
    description: What kind of host the image is for; needed to make one.
    type: str
    choices: [cpu, gpu]
  base:
    description: "The image that the builder starts from, an ami-… or the name of an SSM parameter; needed with
      O(state=begun)."
    type: str
    default: ""
  distribution:
    description: Hadoop's distribution, C(hdfs_distribution), which is part of the digest.
    type: str
    default: slim
  root:
    description: The collection's folder, whose files the digest is of; needed to make an image.
    type: path
  force:
    description: Whether an image is made anew where there is one.
    type: bool
    default: false
  instance_id:
    description: The builder; needed with O(state=present).
    type: str
    default: ""
  digest:
    description: The digest that O(state=begun) returned; needed with O(state=present), which refuses if it isn't so any
      more, as the collection was changed meanwhile.
    type: str
    default: ""
  owner:
    description: Who the image belongs to, as the tag C(flotilla-owner); empty means the caller's name in AWS.
    type: str
    default: ""
  tags:
    description: Tags of the image and its snapshots beside the kit's own, with O(state=present).
    type: dict
    default: {}
  adopt:
    description: Whether images whose owner is somebody else are removed, too.
    type: bool
    default: false
  keep:
    description: With O(state=pruned), how many images of each kind stay, the newest ones; one that a host was launched
      from always stays.
    type: int
    default: 2
  wait:
    description: With O(state=present), seconds to wait for the image before its progress is returned.
    type: int
    default: 10
attributes:
  check_mode:
    description: Says what would be made or removed.
    support: full
"""

EXAMPLES = r"""
# The role has these two entry points around what makes the builder an image's source:
- name: Raise the builder, where the image isn't there yet
  ansible.builtin.include_role:
    name: flotilla.kit.fleet
    tasks_from: builder # registers fleet_bake; adds the host "builder" in the group "builder"
  vars:
    fleet_bake_kind: cpu

# … install and seal on the host "builder" in plays of their own, which have nothing to do where there is none …

- name: Make the image of it, wait for it, and remove the builder
  ansible.builtin.include_role:
    name: flotilla.kit.fleet
    tasks_from: image # waits for it, where it is still being made; registers fleet_image_made

- name: Remove the builder where something has failed
  ansible.builtin.include_role:
    name: flotilla.kit.fleet
    tasks_from: unbuild

# What they are made of:
- name: Look whether the image is needed
  flotilla.kit.fleet_image:
    region: us-east-1
    state: begun
    kind: cpu
    base: /aws/service/debian/release/12/latest/amd64
    root: "{{ playbook_dir | dirname }}"
  register: begun

- name: Make the image
  flotilla.kit.fleet_image:
    region: us-east-1
    state: present
    kind: cpu
    root: "{{ playbook_dir | dirname }}"
    instance_id: i-0123456789abcdef0
    digest: "{{ begun.digest }}"
  register: made
  until: made is failed or made.image.state == 'available'
  retries: 120
  delay: 0

- name: List the images
  flotilla.kit.fleet_image:
    region: us-east-1
    state: listed
"""

RETURN = r"""
needed:
  description: Whether the image is to be made; in other states than begun, false.
  returned: success
  type: bool
digest:
  description: What decides the image, 16 hex digits.
  returned: when state is begun or present
  type: str
builder:
  description: The name of the fleet of one host that the image is to be made of.
  returned: when state is begun
  type: str
base_image:
  description: The id of the image that the builder starts from.
  returned: when state is begun
  type: str
expired:
  description: The builders (fleets' names) of the caller's earlier runs whose expiry is over and of which something is
    left.
  returned: when state is begun
  type: list
  elements: str
image:
  description: The image that is there or was made, with id, name, kind, digest, state, progress and size (GiB); empty
    where it is to be made.
  returned: when state is begun or present
  type: dict
images:
  description: All images, newest first, each with id, name, kind, digest, kit, owner, base, state, created, size (GiB,
    at most what is paid for), snapshots, users (fleets whose hosts were launched from it) and, where it can't be used,
    problem.
  returned: when state is listed or pruned
  type: list
  elements: dict
removed:
  description: Names of the images, and ids of the snapshots, that were removed (in check mode, would be).
  returned: success
  type: list
  elements: str
lines:
  description: The images as lines of a table.
  returned: when state is listed or pruned
  type: list
  elements: str
summary:
  description: How many images there are and what they cost a month at most, in words; empty where there is none.
  returned: when state is listed or pruned
  type: str
"""

import secrets
import time
from pathlib import Path

from ansible_collections.flotilla.kit.plugins.module_utils import aws, images, naming, untyped


class Baker:
    """Makes, lists and removes images, for one caller."""

    def __init__(self, parameters: untyped.Parameters, dry: bool) -> None:
        """Keep the module's parameters, and find out who calls."""
        self.p = parameters
        self.dry = dry
        self.aws = aws.Aws(parameters["region"], parameters["profile"])
        me = self.aws.call("ask who the caller is", "sts", "get_caller_identity")
        self.caller = naming.caller_name(me["Arn"])
        self.owner = parameters["owner"] or self.caller
        self.owners = None if parameters["adopt"] else {self.owner, self.caller}
        self.removed: list[str] = []

    def digest(self, base: str) -> str:
        """Return the digest of an image of this kind made from a base image's id."""
        return images.digest(self.p["root"], self.p["kind"], base, self.p["distribution"])

    def discard(self, found: list[images.Image]) -> None:
        """Remove images."""
        for one in found:
            if not self.dry:
                images.remove(self.aws, one)
            self.removed.append(one["name"] or one["id"])

    def begun(self) -> untyped.Result:
        """Say whether the image is needed, and clear away what failed before."""
        base = images.resolve(self.aws, self.p["base"])
        digest = self.digest(base)
        there = images.own(self.aws)
        snapshots = images.snapshots_of(self.aws, there)
        self.discard([one for one in there if one["state"] in images.FAILED and self.is_mine(one)])
        usable = [
            one
            for one in there
            if (one["kind"], one["digest"]) == (self.p["kind"], digest)
            and (one["state"] == "pending" or not images.problem(one, snapshots))
        ]
        needed = self.p["force"] or not usable
        return {
            "changed": bool(self.removed),
            "needed": needed,
            "digest": digest,
            "builder": f"image-{self.p['kind']}-{secrets.token_hex(3)}",
            "base_image": base,
            "expired": self.expired(),
            "image": {} if needed else self.shown(usable[0]),
        }

    def is_mine(self, image: images.Image) -> bool:
        """Whether the caller may remove an image."""
        return self.owners is None or image["owner"] in self.owners

    def expired(self) -> list[str]:
        """Name the caller's builders of interrupted runs, of which the host is gone by itself and the rest isn't."""
        tags: list[dict[str, str]] = []
        for what, method, key in (
            ("VPCs", "describe_vpcs", "Vpcs"),
            ("security groups", "describe_security_groups", "SecurityGroups"),
        ):
            tagged = [{"Name": "tag-key", "Values": ["flotilla-fleet"]}]
            tags += map(aws.tags_of, self.aws.pages(f"list builders' {what}", "ec2", method, key, Filters=tagged))
        at = images.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return sorted(
            {
                one["flotilla-fleet"]
                for one in tags
                if images.BUILDER.fullmatch(one["flotilla-fleet"])
                and "" < one.get("flotilla-expires", "") < at
                and (self.owners is None or one.get("flotilla-owner", "") in self.owners)
            }
        )

    def present(self) -> untyped.Result:
        """Make the image, or find it, and wait a while for it."""
        image = self.find()
        changed = image is None
        if image is None:
            base = self.judge_builder()
            if self.dry:
                return {"changed": True, "needed": False, "digest": self.p["digest"], "image": {}}
            self.create(base)
        deadline = time.monotonic() + self.p["wait"]
        while True:
            image = self.find()
            if image is not None and image["state"] in images.FAILED:
                if not self.dry and self.is_mine(image):
                    images.remove(self.aws, image)
                raise aws.FleetError(
                    f"AWS could not make the image {image['name']} ({image['reason'] or 'it gives no reason'}): "
                    "run the same command again."
                )
            if (image is not None and image["state"] != "pending") or time.monotonic() > deadline:
                break
            time.sleep(1)
        shown = self.shown(image) if image else {"state": "pending", "progress": "0%"}
        return {"changed": changed, "needed": False, "digest": self.p["digest"], "image": shown}

    def find(self) -> images.Image | None:
        """Find the image that was made of the builder, or without one, the newest with the digest."""
        builder, digest = self.p["instance_id"], self.p["digest"]
        found = [one for one in images.own(self.aws) if (one["kind"], one["digest"]) == (self.p["kind"], digest)]
        if not builder and not found:
            raise aws.FleetError(f"There is no image of the digest {digest} any more: run the same command again.")
        return next((one for one in found if not builder or one["builder"] == builder), None)

    def judge_builder(self) -> str:
        """Return the id of the image that the builder was launched from; refuses one that is gone or of other roles."""
        builder = self.p["instance_id"]
        named = [{"Name": "instance-id", "Values": [builder]}]
        found = self.aws.pages("look up the builder", "ec2", "describe_instances", "Reservations", Filters=named)
        instances = [one for reservation in found for one in reservation["Instances"]]
        state = instances[0]["State"]["Name"] if instances else "gone"
        if state not in ("running", "stopped"):
            raise aws.FleetError(
                f"The builder {builder} is {state}, by its expiry or by somebody's hand, and no image can be made of "
                "it: run the same command again."
            )
        base = str(instances[0]["ImageId"])
        if self.digest(base) != self.p["digest"]:
            raise aws.FleetError(
                "The roles were changed while the image was baked, and it would be neither of the old nor of the new: "
                "run the same command again."
            )
        return base

    def create(self, base: str) -> None:
        """Have EC2 restart the builder and make the image of it, so that nothing is written meanwhile."""
        p = self.p
        tags = {
            **(p.get("tags") or {}),
            images.TAG: p["digest"],
            "flotilla-kind": p["kind"],
            "flotilla-owner": self.owner,
            "flotilla-kit": images.kit_version(Path(p["root"])),
            "flotilla-base": base,
            "flotilla-builder": p["instance_id"],
            "Name": f"flotilla-{p['kind']}-{p['digest']}",
        }
        tagged = [{"ResourceType": kind, "Tags": aws.tag_list(tags)} for kind in ("image", "snapshot")]
        while True:
            name = f"{tags['Name']}-{images.now():%Y%m%dT%H%M%S}"
            try:
                self.aws.call(
                    f"make an image of the builder {p['instance_id']}",
                    "ec2",
                    "create_image",
                    InstanceId=p["instance_id"],
                    Name=name,
                    Description=f"Host of Flotilla with all that its roles install ({p['kind']})",
                    TagSpecifications=tagged,
                )
            except aws.FleetError as error:
                if error.__cause__ is None or aws.code(error.__cause__) != "InvalidAMIName.Duplicate":
                    raise
                # The first answer was lost, or somebody else's image is of the same second.
                if self.find():
                    return
                time.sleep(1)
            else:
                return

    def shown(self, image: images.Image) -> untyped.Result:
        """Return of an image what is of interest, with the progress of its snapshots in words."""
        found = images.snapshots_of(self.aws, [image])
        progress = min((one.get("Progress") or "0%" for one in found.values()), default="0%", key=_percent)
        return {
            "id": image["id"],
            "name": image["name"],
            "kind": image["kind"],
            "digest": image["digest"],
            "state": image["state"],
            "size": image["size"],
            "progress": "100%" if image["state"] == "available" else progress,
        }

    def listed(self, keep: int | None) -> untyped.Result:
        """List all images; with ``keep`` remove the caller's that are too many."""
        at = images.now()
        there = self.look()
        if keep is not None:
            self.discard(images.superfluous(there, keep, self.owners))
            for snapshot in images.orphans(self.aws, images.own(self.aws), self.owners, at):
                if not self.dry:
                    images.delete_snapshot(self.aws, snapshot)
                self.removed.append(snapshot)
            there = there if self.dry else self.look()
        price = images.monthly(self.aws) if there else None
        return {
            "changed": bool(self.removed),
            "needed": False,
            "images": [{**one, "created": one["created"].strftime("%Y-%m-%dT%H:%M:%SZ")} for one in there],
            "lines": images.table(there, price, at) if there else ["There are no baked images."],
            "summary": images.summary(there, price),
        }

    def look(self) -> list[images.Image]:
        """List all images, with their users and what is wrong with them."""
        there = images.own(self.aws)
        snapshots, users = images.snapshots_of(self.aws, there), images.users(self.aws, there)
        return [{**one, "users": users.get(one["id"], []), "problem": images.problem(one, snapshots)} for one in there]


def _percent(text: str) -> int:
    return int(text.rstrip("%") or 0)


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "state": {"type": "str", "choices": ["begun", "present", "listed", "pruned"], "required": True},
            "kind": {"type": "str", "choices": list(images.KINDS)},
            "base": {"type": "str", "default": ""},
            "distribution": {"type": "str", "default": "slim"},
            "root": {"type": "path"},
            "force": {"type": "bool", "default": False},
            "instance_id": {"type": "str", "default": ""},
            "digest": {"type": "str", "default": ""},
            "owner": {"type": "str", "default": ""},
            "tags": {"type": "dict", "default": {}},
            "adopt": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 2},
            "wait": {"type": "int", "default": 10},
        },
        required_if=[("state", "begun", ("kind", "root", "base")), ("state", "present", ("kind", "root", "digest"))],
    )
    state = module.params["state"]
    if module.params["keep"] < 0:
        module.fail_json(msg=f"images_keep is {module.params['keep']}: set it to how many images of each kind stay.")
    try:
        baker = Baker(module.params, module.check_mode)
        if state == "begun":
            answer = baker.begun()
        elif state == "present":
            answer = baker.present()
        else:
            answer = baker.listed(module.params["keep"] if state == "pruned" else None)
    except aws.FleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(removed=baker.removed, **answer)


if __name__ == "__main__":
    main()
