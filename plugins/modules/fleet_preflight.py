#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_preflight
short_description: Check everything about a fleet before anything is touched
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Judges a fleet's variables, looks up in AWS what they name, and fails with one sentence a problem.
  - Changes nothing. Writing to the model's folder is proved by an upload that is begun and aborted, launching by
    requests that AWS judges and doesn't carry out.
  - Holds the fleet against the account's quotas, and what it costs until its expiry against O(max_cost).
  - Returns what the launch needs, such as images, volume sizes, the availability zones and the nodes' access policy,
    and a plan with prices.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet
options:
  owner:
    description: Who the fleet belongs to, as a tag; empty means the caller's name.
    type: str
    default: ""
  tags:
    description: The user's own tags of everything that is made.
    type: dict
    default: {}
  adopt:
    description: Whether to go on with a fleet of that name that is somebody else's.
    type: bool
    default: false
  launcher:
    description: Who launches the instances, this collection or the Infrastructure Manager; both can't under one name.
    type: str
    choices: [ansible, im]
    default: ansible
  groups:
    description: Mapping of C(ps), C(chief), C(worker) and C(evaluator) to their count, instance type, and more.
    type: raw
    required: true
  expiry_hours:
    description: Hours from the launch until every node powers itself off.
    type: raw
    required: true
  ssh_sources:
    description: Networks that may use SSH; empty means the caller's own address, asked at O(checkip_url).
    type: list
    elements: str
    default: []
  ssh_open_to_world:
    description: Whether O(ssh_sources) may be the whole world.
    type: bool
    default: false
  checkip_url:
    description: An address that answers with the caller's public address.
    type: str
    default: https://checkip.amazonaws.com
  boundary:
    description: The permissions boundary of the fleet's roles, by name or ARN; empty means C(flotilla-boundary), where
      the account has a policy of that name, else none.
    type: str
    default: ""
  ssh_key:
    description: The private key on this machine that opens the nodes; it may be missing. Empty means none is needed.
    type: path
    default: ""
  vpc_id:
    description: An existing VPC; empty means an own one.
    type: str
    default: ""
  subnet_id:
    description: A subnet of the existing VPC.
    type: str
    default: ""
  vpc_cidr:
    description: The network of an own VPC.
    type: str
    default: 10.77.0.0/16
  zone:
    description: The only availability zone that may be taken; empty means any that offers all instance types.
    type: str
    default: ""
  max_hosts:
    description: More hosts than this are refused.
    type: raw
    default: 20
  max_cost:
    description: A fleet that costs more $ until its expiry, on demand, is refused.
    type: raw
    default: 25
  unknown_prices:
    description: Whether a price that AWS doesn't tell counts as nothing, instead of as more than O(max_cost).
    type: bool
    default: false
  dataset_source:
    description: The data set's folder in S3.
    type: str
    default: ""
  requester_pays:
    description: Whether this account pays for what the data set's bucket, another account's, gives.
    type: bool
    default: false
  model_target:
    description: The folder in S3 that models are written to.
    type: str
    default: ""
  reads:
    description: Further folders in S3 that nodes read, by the variable that names each.
    type: dict
    default: {}
  signature:
    description: The signature of the SavedModel in O(reads) that is called; without one the model's own is.
    type: str
    default: ""
  writes:
    description: Further folders in S3 that nodes write, by the variable that names each.
    type: dict
    default: {}
  program:
    description: The user's own program; where it is an object in S3, that is looked at, and nodes may read it.
    type: str
    default: ""
  network:
    description:
      - A network's YAML file, which is held against the data set and the instance types' memory. What O(groups) leaves
        out, it decides.
      - With it, O(root) is needed.
    type: path
    default: ""
  batch_size:
    description: Examples a batch, of which the data set must have one at least to train on; 0 means not judged.
    type: int
    default: 0
  local_data:
    description: Whether each node has the data set as files on its disk, too, beside HDFS.
    type: bool
    default: false
  accelerator:
    description: What TensorFlow shall compute on.
    type: str
    choices: [auto, cpu, gpu]
    default: auto
  images:
    description: The image (V(ami-…) or name of an SSM parameter) of hosts without GPU, with GPU, and with a GPU whose
      driver is still to be installed.
    type: dict
    required: true
    suboptions:
      cpu:
        description: Image of hosts without GPU.
        type: str
        required: true
      gpu:
        description: Image of hosts with GPU, driver included.
        type: str
        required: true
      gpu_plain:
        description: Image of hosts whose GPU the driver in the GPU image is too new for.
        type: str
        required: true
  baked:
    description: Whether hosts start from images that C(playbooks/image.yml) has made, V(auto) where one fits, V(always)
      or the fleet is refused, V(never).
    type: str
    choices: [auto, always, never]
    default: never
  distribution:
    description: Hadoop's distribution, which is part of what decides whether a baked image fits.
    type: str
    default: slim
  root:
    description: The collection's folder, whose files decide whether a baked image fits; needed unless O(baked=never).
    type: path
  builder:
    description: The kind of image that the fleet, one host in the group chief, is there to make; empty means that it is
      there to train.
    type: str
    choices: ["", cpu, gpu]
    default: ""
  volume_size:
    description: The least size of a volume in GiB where a group names none.
    type: int
    default: 20
  public_addresses:
    description: Whether the nodes get public addresses, which cost money.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Check the fleet
  flotilla.kit.fleet_preflight:
    region: us-east-1
    name: demo
    groups:
      ps: {count: 1, instance_type: t3.large}
      chief: {count: 1, instance_type: t3.large}
      worker: {count: 2, instance_type: g5.xlarge}
    expiry_hours: 4
    dataset_source: s3://example/cifar10/
    model_target: s3://example/models/
    images:
      cpu: /aws/service/debian/release/12/latest/amd64
      gpu: /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id
      gpu_plain: /aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id
  register: preflight
"""

RETURN = r"""
account:
  description: The caller's account.
  returned: success
  type: str
arn:
  description: Who the caller is.
  returned: success
  type: str
owner:
  description: The owner's tag.
  returned: success
  type: str
boundary:
  description: The ARN of the roles' permissions boundary; empty means none.
  returned: success
  type: str
public_key:
  description: The public key of O(ssh_key); empty where that is missing.
  returned: success
  type: str
replace_key_pair:
  description: Whether EC2 has the fleet's key pair with another key, which no node was launched with.
  returned: success
  type: bool
expires:
  description: When the nodes power themselves off, ISO 8601 in UTC.
  returned: success
  type: str
zone:
  description: The best of the availability zones.
  returned: success
  type: str
zones:
  description: The availability zones that offer all instance types, best first, each with its name and the network
    (cidr) of its subnet in the fleet's own VPC, which is empty in an existing one.
  returned: success
  type: list
  elements: dict
ssh_sources:
  description: The networks that may use SSH.
  returned: success
  type: list
  elements: str
groups:
  description: The groups with count, instance_type, image_id, root_device, ssh_user, volume_size, gpus, gpu, and tasks
    (how many training tasks a host holds) each.
  returned: success
  type: dict
hosts:
  description: How many hosts the fleet has.
  returned: success
  type: int
running:
  description: How many of them are there already.
  returned: success
  type: int
network:
  description: What the plan says of the network's file, as sentences.
  returned: success
  type: list
  elements: str
model:
  description: What a SavedModel in O(reads) takes and gives, as sentences.
  returned: when it was looked at
  type: list
  elements: str
dataset:
  description: Name, files, bytes and records of the data set, its version (a digest of all that is said of its
    files), and what the plan says of it; empty when none was given.
  returned: success
  type: dict
baked:
  description: The baked images that hosts start from, by group, each with id and name.
  returned: success
  type: dict
starts:
  description: What images the missing hosts start from, as sentences.
  returned: success
  type: list
  elements: str
plan:
  description: What the fleet is made of and costs on demand, as lines of a table; a question mark is an unknown price.
  returned: success
  type: list
  elements: str
hourly:
  description: What all hosts cost an hour on demand, in $; none where a price isn't known.
  returned: success
  type: float
folders_policy:
  description: What nodes may do in O(reads) and O(writes).
  returned: always
  type: dict
policy:
  description: The nodes' access policy.
  returned: success
  type: dict
"""


from ansible_collections.flotilla.kit.plugins.module_utils import (
    access_policy,
    aws,
    fleet_groups,
    images,
    lifetime,
    naming,
    networking,
    regions,
    s3_urls,
    variables,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import account, limits, machines, network, storage


class Preflight(account.Account, network.Network, machines.Machines, storage.Storage, limits.Limits):
    """All look-ups, in their order."""

    def variables(self) -> None:
        """Judge what can be judged without AWS."""
        self.check(regions.check_region(self.p["region"]))
        self.check(naming.check_name(self.p["name"]))
        self.check(naming.check_owner(self.p["owner"]))
        self.check(variables.check_tags(self.tags))
        self.network_file()
        if self.check(fleet_groups.check_groups(self.p["groups"], bool(self.p.get("builder")))):
            self.groups = fleet_groups.wanted_groups(self.p["groups"])
        self.check(lifetime.check_expiry(self.p["expiry_hours"]))
        if self.check(networking.check_sources(self.p["ssh_sources"], self.p["ssh_open_to_world"])):
            self.check(networking.check_ip_versions(self.p["ssh_sources"]))
        self.result["hosts"] = sum(group["count"] for group in self.groups.values())
        self.check(
            networking.check_network(self.p["vpc_id"], self.p["subnet_id"], self.p["vpc_cidr"], self.result["hosts"])
        )
        self.check(networking.check_zone(self.p["zone"], self.p["region"]))
        self.check(fleet_groups.check_caps(self.p["max_hosts"], self.p["max_cost"]))
        self.check(fleet_groups.check_hosts(self.groups, self.p["max_hosts"]))
        self.check(networking.check_addresses(self.p["public_addresses"], self.p["vpc_id"], self.p["ssh_sources"]))
        self.check(s3_urls.check_source(self.p["dataset_source"], "dataset_source"))
        self.check(s3_urls.check_folder(self.p["model_target"], "store_target"))
        if not self.problems and self.p["dataset_source"] and self.p["model_target"]:
            self.check(s3_urls.check_apart(self.p["dataset_source"], self.p["model_target"]))
        for variable, url in self.p["reads"].items():
            self.check(s3_urls.check_source(url, variable))
        for variable, url in self.p["writes"].items():
            self.check(s3_urls.check_folder(url, variable))
        self.check(s3_urls.check_program(self.p["program"]))
        self.ssh_key()

    def run(self) -> None:
        """Check everything; stop where the rest would make no sense."""
        self.variables()
        if self.problems:
            return
        # Few attempts: this is where a wrong endpoint or network shows.
        self.aws = aws.Aws(self.p["region"], self.p["profile"], attempts=3)
        try:
            self.caller()
            self.boundary()
            self.fleet()
        except aws.FleetError:
            if self.check(regions.unknown_region(self.p["region"], self.aws.regions())):
                raise
            return
        self.network()
        self.types()
        if not self.problems:
            self.images()
        settled = not self.problems
        self.dataset()
        self.folders()
        self.program()
        if settled:
            self.ways_out()
        if settled and self.disks():
            self.allowed()
        self.sources()
        partition = self.result["arn"].split(":")[1]
        self.result["policy"] = access_policy.policy(
            self.p["dataset_source"],
            self.p["model_target"],
            self.p["program"],
            partition,
            [*self.result["dataset"].pop("keys", []), *self.program_keys],
            self.model_keys,
        )
        reads, writes = list(self.p["reads"].values()), list(self.p["writes"].values())
        self.result["folders_policy"] = access_policy.policy(
            "", "", "", partition, self.read_keys, self.written_keys, reads, writes
        )
        if self.boundary_policy:
            for policy in (self.result["policy"], self.result["folders_policy"]):
                self.check(access_policy.check_boundary(self.result["boundary"], self.boundary_policy, policy))
        self.result["groups"] = self.groups


def main() -> None:
    """Run the module."""
    module = aws.Module(
        argument_spec={
            "name": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
            "tags": {"type": "dict", "default": {}},
            "adopt": {"type": "bool", "default": False},
            "launcher": {"type": "str", "choices": ["ansible", "im"], "default": "ansible"},
            "groups": {"type": "raw", "required": True},
            "expiry_hours": {"type": "raw", "required": True},
            "ssh_sources": {"type": "list", "elements": "str", "default": []},
            "ssh_open_to_world": {"type": "bool", "default": False},
            "checkip_url": {"type": "str", "default": "https://checkip.amazonaws.com"},
            "boundary": {"type": "str", "default": ""},
            "ssh_key": {"type": "path", "default": ""},
            "vpc_id": {"type": "str", "default": ""},
            "subnet_id": {"type": "str", "default": ""},
            "vpc_cidr": {"type": "str", "default": "10.77.0.0/16"},
            "zone": {"type": "str", "default": ""},
            "max_hosts": {"type": "raw", "default": 20},
            "max_cost": {"type": "raw", "default": 25},
            "unknown_prices": {"type": "bool", "default": False},
            "dataset_source": {"type": "str", "default": ""},
            "requester_pays": {"type": "bool", "default": False},
            "signature": {"type": "str", "default": ""},
            "model_target": {"type": "str", "default": ""},
            "reads": {"type": "dict", "default": {}},
            "writes": {"type": "dict", "default": {}},
            "program": {"type": "str", "default": ""},
            "network": {"type": "path", "default": ""},
            "batch_size": {"type": "int", "default": 0},
            "local_data": {"type": "bool", "default": False},
            "accelerator": {"type": "str", "choices": ["auto", "cpu", "gpu"], "default": "auto"},
            "images": {
                "type": "dict",
                "required": True,
                "options": {kind: {"type": "str", "required": True} for kind in ("cpu", "gpu", "gpu_plain")},
            },
            "baked": {"type": "str", "choices": ["auto", "always", "never"], "default": "never"},
            "distribution": {"type": "str", "default": "slim"},
            "root": {"type": "path"},
            "builder": {"type": "str", "choices": ["", *images.KINDS], "default": ""},
            "volume_size": {"type": "int", "default": 20},
            "public_addresses": {"type": "bool", "default": True},
        },
        required_if=[("baked", "auto", ("root",)), ("baked", "always", ("root",))],
    )
    preflight = Preflight(module.params)
    try:
        preflight.run()
    except aws.FleetError as error:
        preflight.problems.append(str(error))
    for text in preflight.warnings:
        module.warn(text)
    if preflight.problems:
        # The same fault may show in several places, e.g. an unreadable bucket that is both source and target.
        problems = list(dict.fromkeys(preflight.problems))
        module.fail_json(msg="\n".join(problems))
    module.exit_json(changed=False, **preflight.result)


if __name__ == "__main__":
    main()
