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
    expired. With O(state=present) it makes the image of that host, which EC2 restarts for it, and waits a while until it
    is available. With O(state=listed) it lists, with O(state=pruned) it removes all of the caller's but the newest ones.
  - The role C(flotilla.kit.fleet) calls it, from its entry points C(builder) and C(image).
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
options:
  region:
    description: The AWS region.
    type: str
    required: true
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
    tasks_from: image # nothing to do where the image was there; registers fleet_baked_image

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
