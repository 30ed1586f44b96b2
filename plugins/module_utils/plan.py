# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a fleet may be, and what has to be done to make it so: logic without any call to AWS.

Functions named ``check_*`` return the problems that they find, each as one sentence for the user.
"""

from __future__ import annotations

import datetime
import difflib
import fnmatch
import hashlib
import ipaddress
import json
import math
import re
from typing import Any

GROUPS = ("ps", "chief", "worker", "evaluator")
TRAINERS = ("chief", "worker")
GROUP_KEYS = {"count", "image", "instance_type", "ssh_user", "volume_size"}
MORE_KEYS = {"chief": {"tasks"}, "worker": {"tasks"}, "evaluator": {"enabled"}}
LIVE = ("pending", "running", "stopping", "stopped")
MAX_EXPIRY_HOURS = 168
LAST_SPLIT = 24  # the smallest network that is split among the zones: an eighth of a /24 holds 27 hosts
GIB = 2**30

# The wheel of TensorFlow 2.15.1 carries code for compute capability 5.0 to 8.0 and PTX that runs up to 9.0.
USABLE_GPUS = {"M60", "V100", "T4", "A10G", "A100", "L4", "L40S", "H100", "H200"}
USABLE_FAMILIES = "g4dn, g5, g6, p3, p4d or p5"
# The open kernel driver of AWS's deep-learning image wants Turing or newer.
CLOSED_DRIVER_GPUS = {"M60", "V100"}

# Retired families that a region may not even name any more.
OLD_GPU_FAMILIES = {"cg1": "M2050", "g2": "K520", "p2": "K80"}

# The widest networks that may use SSH, by IP version: a /16 is a large university's, wider ones are providers'
# (3.0.0.0/8 is Amazon's own); an IPv6 /32 is a provider's, of which a customer gets a /48. Private ones aren't judged.
WIDEST = {4: 16, 6: 32}
PRIVATE = [ipaddress.ip_network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]

# GiB that system, Hadoop, TensorFlow, logs and checkpoints need beside the data.
BASE_DISK = 10
BASE_DISK_GPU = 25

PROGRAM_LIMIT = 20_000_000  # bytes, as for a program of the controller (roles/training/files/pack.py)


def check_name(name: str) -> list[str]:
    """A fleet's name goes into host names, S3 prefixes, IAM names and tags."""
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", name):
        return []
    if name in ("", "True", "False", "None"):  # what was made of yes, no, on, off, true, false, null
        return [f"fleet_name is {name or 'empty'}: give a name, in quotes where YAML takes it for a truth value."]
    return [
        f"fleet_name '{name}' can't be part of host names and tags: take 1 to 32 lower-case letters, digits and "
        "hyphens that begin with a letter and don't end with a hyphen."
    ]


# Who calls, and whose a fleet is

# Session names that programs make up anew each time: SDKs' defaults, instances' and tasks' ids.
_MADE_UP = re.compile(
    r"(botocore-session|aws-go-sdk|aws-sdk-\w+|awscli-session)\b.*|i-[0-9a-f]{8,17}|\d+|.*\d{9,}.*|.*[0-9a-f]{16,}.*"
    r"|.*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-.*",
    re.IGNORECASE,
)


def caller_name(arn: str) -> str:
    """Return who a caller is, as a tag, from an ARN of GetCallerIdentity; the same on each run.

    A role's session is called after whoever took the role, as with single sign-on, or else after the role.
    """
    kind, *path = arn.split(":", 5)[-1].split("/")
    name = path[-1] if path else kind
    if kind == "assumed-role" and len(path) > 1 and _MADE_UP.fullmatch(name):
        name = path[0]
    return re.sub(r"[^\w .:/=+@-]", "-", name)  # IAM's names may have a comma, its tags none


def default_name(arn: str) -> str:
    """Return the name of a caller's fleet where none is given: of the caller's name what check_name allows."""
    name = caller_name(arn)
    text = re.sub(r"[^a-z0-9]+", "-", (name.split("@")[0] or name).lower()).strip("-")
    if not re.match(r"[a-z]", text):
        text = f"fleet-{text}"
    return text[:32].strip("-")


def check_theirs(name: str, owners: set[str], me: str, adopt: bool) -> list[str]:
    """A fleet of somebody else's stays as it is; ``owners`` are its resources' tags flotilla-owner."""
    theirs = sorted(owner for owner in owners if owner and owner != me)
    if adopt or not theirs:
        return []
    return [
        f"The fleet {name} is {' and '.join(theirs)}'s, and you are {me}: set fleet_name to another name, "
        f"or fleet_adopt to true if you mean to change or destroy this one."
    ]


# Input


def check_region(region: str) -> list[str]:
    """A region's name has a known shape; whether it is there shows when it is asked."""
    if re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+", region):
        return []
    return [f"fleet_region '{region}' isn't a region's name: set it to one such as us-east-1."]


def check_owner(owner: str) -> list[str]:
    """The owner is a tag's value; an empty one is filled in with the caller's name."""
    if re.fullmatch(r"[\w .:/=+@-]{0,256}", owner):
        return []
    return [f"fleet_owner '{owner}' can't be a tag: take letters, digits, spaces and . : / = + - _ @ only."]


def whole(value: Any) -> int | None:
    """Return a count that was given as number or text, or None when it isn't a whole number."""
    if isinstance(value, bool):
        return None
    text = str(value).strip()
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else None


def check_groups(groups: Any, alone: bool = False) -> list[str]:
    """Counts, types and sizes of the groups, as far as they can be judged without AWS; ``alone`` takes a chief only."""
    if not isinstance(groups, dict):
        return ["fleet_groups must be a mapping of ps, chief and worker to a count and an instance_type each."]
    problems = []
    for name, group in groups.items():
        if name not in GROUPS:
            near = difflib.get_close_matches(str(name), GROUPS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(GROUPS)}."
            problems.append(f"fleet_groups has an unknown group '{name}': {hint}")
            continue
        if not isinstance(group, dict):
            problems.append(f"fleet_groups.{name} must have a count and an instance_type.")
            continue
        known = GROUP_KEYS | MORE_KEYS.get(name, set())
        for key in group:
            if key == "tasks" and name not in TRAINERS:
                problems.append(
                    f"fleet_groups.{name}.tasks is set, but only hosts of chief and worker hold several tasks: "
                    "leave it out."
                )
            elif key not in known:
                problems.append(
                    f"fleet_groups.{name} has an unknown key '{key}': known are {', '.join(sorted(known))}."
                )
        problems += _check_group(str(name), group)
    if problems:
        return problems
    if _count(groups, "ps") < 1 and not alone:
        problems.append("The fleet has no parameter server: set fleet_groups.ps.count to 1 or more.")
    if _count(groups, "chief") != 1:
        found = _count(groups, "chief")
        problems.append(
            f"The fleet has {'no chief' if found == 0 else f'{found} chiefs'}, but a training has exactly one: "
            "set fleet_groups.chief.count to 1."
        )
    if _count(groups, "evaluator") > 1:
        problems.append("A training has at most one evaluator: set fleet_groups.evaluator.count to 0 or 1.")
    return problems


def _check_group(name: str, group: dict[str, Any]) -> list[str]:
    problems = []
    if not isinstance(group.get("enabled", True), bool):
        problems.append(f"fleet_groups.{name}.enabled is '{group['enabled']}': set it to true or false.")
    if name == "evaluator" and set(group) <= {"enabled"}:
        return problems
    count = whole(group.get("count"))
    if count and not group.get("enabled", True):
        problems.append(
            f"fleet_groups.{name} has a host, but enabled is false: set its count to 0, or leave enabled out."
        )
    if count is None:
        shown = group.get("count")
        problems.append(
            f"fleet_groups.{name} has no count: set how many hosts it has."
            if shown is None
            else f"fleet_groups.{name}.count is '{shown}': set it to a whole number of hosts."
        )
    elif count < 0:
        problems.append(f"fleet_groups.{name}.count is {count}: a number of hosts can't be negative.")
    elif count > 0 and not str(group.get("instance_type") or "").strip():
        problems.append(f"fleet_groups.{name} has no instance_type: set one, for example t3.large.")
    for key in ("instance_type", "image"):
        if not re.fullmatch(r"[A-Za-z0-9._/-]*", str(group.get(key) or "").strip()):
            problems.append(f"fleet_groups.{name}.{key} is '{group[key]}': take letters, digits and . _ / - only.")
    user = group.get("ssh_user") or "admin"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", str(user)):
        problems.append(f"fleet_groups.{name}.ssh_user is '{user}': give a user's name, or leave it out.")
    size = group.get("volume_size")
    if size is not None and (whole(size) is None or not 1 <= (whole(size) or 0) <= 16384):
        problems.append(
            f"fleet_groups.{name}.volume_size is '{size}': set it to whole GiB, 1 to 16384, or leave it out."
        )
    tasks = group.get("tasks")
    if tasks is not None and name in TRAINERS and (whole(tasks) or 0) < 1:
        problems.append(
            f"fleet_groups.{name}.tasks is '{tasks}': set it to a whole number of at least 1, "
            "or leave it out for one task a GPU."
        )
    return problems


def _count(groups: dict[str, Any], name: str) -> int:
    return whole((groups.get(name) or {}).get("count", 0)) or 0


def wanted_groups(groups: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups that have hosts, in order, with whole numbers and plain text."""
    wanted = {}
    for name in GROUPS:
        if _count(groups, name) > 0:
            group = groups[name]
            wanted[name] = {
                "count": _count(groups, name),
                "instance_type": str(group["instance_type"]).strip(),
                "image": str(group.get("image") or ""),
                "ssh_user": str(group.get("ssh_user") or ""),
                "volume_size": whole(group.get("volume_size")) or 0,
                "tasks": whole(group.get("tasks")) or 0,
            }
    return wanted


def check_expiry(hours: Any) -> list[str]:
    """The expiry is in hours from the launch."""
    try:
        number = float(str(hours))  # not true, which Python takes for 1
    except ValueError:
        return [f"fleet_expiry_hours is '{hours}': set it to a number of hours, for example 4."]
    if number <= 0 or math.isnan(number):
        return [f"fleet_expiry_hours is {hours}, so the fleet's expiry lies in the past: set it to more than 0."]
    if number > MAX_EXPIRY_HOURS:
        return [f"fleet_expiry_hours is {hours}: set it to at most {MAX_EXPIRY_HOURS} (a week)."]
    return []


def check_sources(sources: list[Any], open_to_world: bool) -> list[str]:
    """Addresses that may use SSH; what is wider than one organisation's network (WIDEST) is the world."""
    problems = []
    for source in sources:
        try:
            network = ipaddress.ip_network(str(source).strip(), strict=False)
        except ValueError:
            problems.append(f"fleet_ssh_sources has '{source}': give addresses or networks such as 203.0.113.7/32.")
            continue
        private = any(network.version == own.version and network.subnet_of(own) for own in PRIVATE)  # type: ignore[arg-type]
        if network.prefixlen < WIDEST[network.version] and not private and not open_to_world:
            problems.append(
                f"fleet_ssh_sources has {source}, which opens SSH to the world: name your own address, a network of "
                f"/{WIDEST[network.version]} at most, or set fleet_ssh_open_to_world: true if you mean it."
            )
    return problems


def check_versions(sources: list[Any]) -> list[str]:
    """Hosts are called by their IPv4 addresses, which nobody reaches from an IPv6 one."""
    if not sources or any(ipaddress.ip_network(one).version == 4 for one in networks(sources)):
        return []
    return [
        f"fleet_ssh_sources has IPv6 only ({', '.join(map(str, sources))}), and hosts have IPv4 addresses: add the "
        "IPv4 address that SSH comes from."
    ]


def check_endpoint(url: str) -> list[str]:
    """What the hosts call instead of AWS: nothing, or the address of a server."""
    match = re.fullmatch(r"https?://(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?/?", url)
    if not url or (match and 0 < int(match[1] or 80) < 65536):
        return []
    return [
        f"fleet_endpoint_url {url!r} isn't a server's address: write it as http://host:port, or leave it empty for AWS."
    ]


def networks(sources: list[Any]) -> list[str]:
    """Return sources in CIDR form, without doubles."""
    return list(dict.fromkeys(str(ipaddress.ip_network(str(source).strip(), strict=False)) for source in sources))


def check_network(vpc_id: str, subnet_id: str, cidr: str, hosts: int) -> list[str]:
    """Either an existing VPC with a subnet of it, or a CIDR with room for the hosts."""
    if bool(vpc_id) != bool(subnet_id):
        given, missing = ("fleet_vpc_id", "fleet_subnet_id") if vpc_id else ("fleet_subnet_id", "fleet_vpc_id")
        return [f"{given} is set but {missing} isn't: set both to use an existing network, or neither for an own one."]
    if vpc_id:
        return []
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError:
        return [f"fleet_vpc_cidr '{cidr}' isn't a network: give one such as 10.77.0.0/16."]
    if network.version != 4 or not 16 <= network.prefixlen <= 28:
        return [f"fleet_vpc_cidr {cidr} can't be a VPC: take an IPv4 network from /16 to /28."]
    if network.is_loopback or network.is_link_local or network.is_multicast or network.is_reserved:
        return [f"fleet_vpc_cidr {cidr} can't be a VPC, as AWS keeps that network: take one such as 10.77.0.0/16."]
    part = zone_part(cidr, "a")
    room = ipaddress.ip_network(part).num_addresses - 5  # AWS keeps five of every subnet
    if room < hosts:
        where = cidr if part == cidr else f"{cidr}, of which a zone gets an eighth,"
        return [f"fleet_vpc_cidr {where} has {room} addresses for {hosts} hosts: take a larger network."]
    return []


def zone_part(cidr: str, zone: str) -> str:
    """Return the part of a fleet's own network that a zone gets, by its letter; empty where there is none.

    It depends on nothing else, so that it never changes. A network too small to be split is one zone's.
    """
    network = ipaddress.ip_network(cidr)
    if network.prefixlen > LAST_SPLIT:
        return cidr
    index = "abcdefgh".find(zone[-1])
    return str(list(network.subnets(3))[index]) if index >= 0 else ""


def check_zone(zone: str, region: str) -> list[str]:
    """A zone's name is its region's and a letter; Local Zones have not all that a fleet needs."""
    if not zone or re.fullmatch(re.escape(region) + "[a-z]", zone):
        return []
    return [f"fleet_zone '{zone}' isn't a zone of {region}: set it to one such as {region}a, or leave it empty."]


def amount(value: Any) -> float | None:
    """Return a number above 0 that was given as number or text, or None when it isn't one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not math.isfinite(number) or number <= 0 else number


def check_caps(max_hosts: Any, max_cost: Any) -> list[str]:
    """The caps are numbers; there is always one."""
    problems = []
    if (whole(max_hosts) or 0) < 1:
        problems.append(f"fleet_max_hosts is '{max_hosts}': set it to a whole number of hosts, at least 1.")
    if amount(max_cost) is None:
        problems.append(f"fleet_max_cost is '{max_cost}': set it to a number of dollars above 0, for example 25.")
    return problems


def check_hosts(groups: dict[str, dict[str, Any]], max_hosts: Any) -> list[str]:
    """One digit too many is found out here."""
    hosts, most = sum(group["count"] for group in groups.values()), whole(max_hosts)
    if most is None or most < 1 or hosts <= most:
        return []
    counts = ", ".join(f"{group['count']} {name}" for name, group in groups.items())
    return [
        f"The fleet has {hosts} hosts ({counts}), but fleet_max_hosts is {most}: correct the counts in fleet_groups, "
        f"or set fleet_max_hosts to {hosts} if you mean it."
    ]


def check_addresses(public: bool, vpc_id: str, sources: list[Any]) -> list[str]:
    """Hosts without public addresses need a network with other ways in and out, and a known way to them."""
    if public or (vpc_id and sources):
        return []
    if not vpc_id:
        return [
            "fleet_public_addresses is false, but the fleet's own VPC has no other way out: "
            "set fleet_vpc_id and fleet_subnet_id to a network with one, or fleet_public_addresses to true."
        ]
    return [
        "fleet_public_addresses is false, so SSH doesn't come from this machine's address on the internet: "
        "set fleet_ssh_sources to the network that it comes from."
    ]


def check_launcher(name: str, launcher: str, instances: list[dict[str, Any]]) -> list[str]:
    """A fleet has one launcher: the Infrastructure Manager gives its instances no index."""
    ours = [one for one in instances if one["index"] is not None]
    if launcher == "im" and ours:
        return [
            f"the fleet {name} is there already, with {len(ours)} instances that site.yml has launched: "
            "remove it by playbooks/destroy.yml, or set fleet_name to another name."
        ]
    if launcher == "ansible" and len(ours) < len(instances):
        return [
            f"the fleet {name} is there already, with {len(instances) - len(ours)} instances of the Infrastructure "
            "Manager's: remove it by im_client destroy, or set fleet_name to another name."
        ]
    return []


def check_shrink(terminated: list[dict[str, Any]]) -> list[str]:
    """HDFS keeps three copies: of the hosts that run, two may go without loss before it has made new ones."""
    going = [f"{one['group']}-{one['index']}" for one in terminated if one["state"] == "running"]
    if len(going) < 3:
        return []
    return [
        f"{', '.join(going)} would go at once, and with them perhaps all copies of a file in HDFS: "
        "take away two at a time and wait a quarter of an hour in between, or destroy the fleet and begin anew."
    ]


def split_s3(url: str) -> tuple[str, str]:
    """Return bucket and prefix (ending in a slash, or empty) of an s3:// address; raises ValueError."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url.strip())
    if not match:
        raise ValueError(url)
    prefix = (match[2] or "").strip("/")
    return match[1], prefix + "/" if prefix else ""


def check_s3(url: str, variable: str) -> list[str]:
    """An address in S3 has a bucket and a folder: the nodes may use that folder and nothing else."""
    if not url:
        return []
    try:
        prefix = split_s3(url)[1]
    except ValueError:
        return [f"{variable} '{url}' isn't an address in S3: write it as s3://bucket/folder/."]
    if not prefix:
        return [
            f"{variable} {url} has no folder, which would open the whole bucket to the nodes: write s3://bucket/folder/."
        ]
    if not re.fullmatch(r"([A-Za-z0-9._=@+-]+/)+", prefix):
        return [f"{variable} {url} has a folder with other characters than letters, digits and . _ = @ + -: rename it."]
    # Hosts take it as it is written, so nothing is made good here.
    if url != url.strip() or "//" in url[5:] or {".", ".."} & set(prefix.split("/")):
        return [f"{variable} {url!r} has a space, // or .. in it: write it as s3://bucket/folder/."]
    return []


def check_apart(dataset: str, target: str) -> list[str]:
    """The nodes write to one of two folders in S3 and only read the other, so neither is in the other."""
    (from_bucket, source), (to_bucket, models) = split_s3(dataset), split_s3(target)
    if from_bucket != to_bucket or not (source.startswith(models) or models.startswith(source)):
        return []
    how = "the same folder as" if source == models else "inside" if models.startswith(source) else "a folder around"
    return [
        f"store_target {target} is {how} dataset_source {dataset}, so models would be written among the data: "
        "take a folder beside it."
    ]


def check_batch(batch: int, manifest: dict[str, Any], url: str) -> list[str]:
    """Each trainer fills its batches from the whole of the split that is trained on; batch 0 isn't judged."""
    records = sum(entry["records"] for entry in manifest["files"] if entry["split"] == "train")
    if batch <= records:
        return []
    return [
        f"training_batch_size is {batch}, but the data set {url} has {records} examples to train on: "
        f"set it to at most {records}."
    ]


def split_program(url: str) -> tuple[str, str]:
    """Return bucket and key of a program in S3; raises ValueError where it's none that hosts could unpack."""
    match = re.fullmatch(
        r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[\w.=@+-]+/)*[\w.=@+-]+\.(?:tar\.gz|tgz|zip|py))", url, re.ASCII
    )
    if not match:
        raise ValueError(url)
    return match[1], match[2]


def check_program(program: str) -> list[str]:
    """A program in S3 is one object, of a kind that hosts can unpack; others aren't of interest here."""
    if not program.startswith("s3://"):
        return []
    try:
        split_program(program)
    except ValueError:
        return [
            f"training_program '{program}' isn't a program in S3: write it as s3://bucket/path/program.tar.gz "
            "(or .tgz, .zip, .py), with letters, digits and . _ = @ + - only."
        ]
    return []


def check_accelerator(accelerator: str, gpus: dict[str, int]) -> list[str]:
    """``gpu`` needs a GPU in every group that trains; gpus counts them per host of a group."""
    without = [group for group in TRAINERS if group in gpus and not gpus[group]]
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


def check_type(group: str, name: str, info: dict[str, Any]) -> list[str]:
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


def gpus_of(info: dict[str, Any]) -> tuple[int, str]:
    """Return number and name of an instance type's GPUs."""
    gpus = info.get("GpuInfo", {}).get("Gpus", [])
    return sum(gpu.get("Count", 0) for gpu in gpus), gpus[0].get("Name", "") if gpus else ""


def pick_tasks(group: str, wanted: int, name: str, info: dict[str, Any], accelerator: str) -> tuple[int, list[str]]:
    """Choose how many training tasks a host holds: as many as wanted, else one a GPU, else one.

    Each needs a GPU of its own, or where training doesn't use GPUs a vCPU.
    """
    gpus = gpus_of(info)[0] if group in TRAINERS and accelerator != "cpu" else 0
    most, unit = (gpus, "GPUs") if gpus else (int(info["VCpuInfo"]["DefaultVCpus"]), "vCPUs")
    if wanted > most:
        return 0, [
            f"fleet_groups.{group}.tasks is {wanted}, but {name} has {most} {unit}, and each task needs one: "
            f"set it to at most {most}, or take a larger instance type."
        ]
    return wanted or gpus or 1, []


def image_kind(gpu: str, accelerator: str) -> str:
    """Say which of the images cpu, gpu or gpu_plain (no driver in it yet) a host gets."""
    if not gpu or accelerator == "cpu":
        return "cpu"
    return "gpu_plain" if gpu in CLOSED_DRIVER_GPUS else "gpu"


def judge_system(source: str, image: dict[str, Any]) -> tuple[str, str]:
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


def unknown_region(region: str, known: list[str]) -> list[str]:
    """Say which region may have been meant, when boto3 doesn't know this one."""
    if region in known:
        return []
    near = difflib.get_close_matches(region, known, 2, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "set it to one such as us-east-1."
    return [f"fleet_region {region} isn't a region of AWS: {hint}"]


def near_types(name: str, known: list[str]) -> str:
    """Return a hint with the instance types whose names are nearest."""
    near = difflib.get_close_matches(name.lower(), known, 3, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else "look up the region's types."


# What may bind a fleet to a zone, how that is said, and what to do for another one.
BOUND = {
    "subnet": ("where fleet_subnet_id is", "take a subnet in"),
    "instances": ("where the fleet's instances are", "destroy the fleet first, for one in"),
    "zone": ("which is fleet_zone", "set that to"),
}


def pick_zones(
    types: set[str], offers: list[dict[str, Any]], bound: tuple[str, str] = ("", ""), first: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Return the zones that offer all types, best first: those of ``first``, then in the order of their names.

    ``bound`` is a key of BOUND and the only zone that may be taken.
    """
    zones: dict[str, set[str]] = {}
    for offer in offers:
        zones.setdefault(offer["Location"], set()).add(offer["InstanceType"])
    full = sorted(zone for zone, offered in zones.items() if types <= offered)
    full.sort(key=lambda zone: zone not in first)
    why, only = bound
    if only in full:
        return [only], []
    if only:
        missing = ", ".join(sorted(types - zones.get(only, set())))
        said, remedy = BOUND[why]
        elsewhere = f"{remedy} {' or '.join(full)}, or take another type" if full else "take another type"
        return [], [f"{only}, {said}, doesn't offer {missing}: {elsewhere}."]
    if full:
        return full, []
    return [], [f"No availability zone offers {', '.join(sorted(types))} together: take types that one zone has."]


def place_zones(zones: list[str], cidr: str, there: dict[str, str]) -> list[dict[str, str]]:
    """Return the zones that have room in the fleet's own network, each with its subnet's network.

    ``there`` has the fleet's subnets of an earlier run, zone and network, which are taken as they are.
    """
    placed, taken = [], {zone: ipaddress.ip_network(network) for zone, network in there.items()}
    for zone in zones:
        part = there.get(zone) or zone_part(cidr, zone)
        network = ipaddress.ip_network(part) if part else None
        if network and not any(network.overlaps(other) for name, other in taken.items() if name != zone):
            placed.append({"name": zone, "cidr": part})
            taken[zone] = network
    return placed


def check_manifest(text: str, url: str) -> tuple[dict[str, Any], list[str]]:
    """Parse a data set's manifest; returns it with the problems found."""
    hint = "upload the data set again with its manifest."
    try:
        manifest = json.loads(text)
    except ValueError:
        return {}, [f"The manifest {url} isn't JSON: {hint}"]
    if not isinstance(manifest, dict) or manifest.get("format") != "flotilla-dataset/1":
        found = manifest.get("format") if isinstance(manifest, dict) else None
        return {}, [f"The manifest {url} has the format '{found}' instead of 'flotilla-dataset/1': {hint}"]
    files = manifest.get("files")
    if not isinstance(files, list) or not files:
        return {}, [f"The manifest {url} lists no files: {hint}"]
    kinds = {"path": str, "split": str, "sha256": str, "crc32c": str, "size": int, "records": int}
    for number, entry in enumerate(files):
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                return {}, [f"The manifest {url} has no {key} in its file {number}: {hint}"]
    for split in ("train", "validation", "eval"):
        if not any(entry["split"] == split for entry in files):
            return {}, [f"The manifest {url} has no file of the split '{split}': {hint}"]
    if not isinstance(manifest.get("name"), str) or not isinstance(manifest.get("features"), dict):
        return {}, [f"The manifest {url} has no name or no features: {hint}"]
    return manifest, []


def check_objects(manifest: dict[str, Any], sizes: dict[str, int], url: str) -> list[str]:
    """Compare a manifest with the objects (path below the folder: size) that are there."""
    missing = [entry["path"] for entry in manifest["files"] if entry["path"] not in sizes]
    wrong = [
        entry["path"] for entry in manifest["files"] if entry["path"] in sizes and sizes[entry["path"]] != entry["size"]
    ]
    problems = []
    for names, what in ((missing, "isn't there"), (wrong, "has another size than the manifest says")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            problems.append(f"The data set {url} doesn't match its manifest, {names[0]}{more} {what}: upload it again.")
    return problems


def disk_need(total: int, nodes: int, gpu: bool, local_disk: int) -> int:
    """Return the GiB that a node's volume needs: the base, and its share of the replicated data (in bytes).

    Replication is min(3, nodes). Local NVMe disks (local_disk, in GiB) hold the data where they are large enough, but
    on GPU hosts AWS's image has taken them for itself.
    """
    share = total * min(3, nodes) / max(nodes, 1) * 1.2 / GIB
    base = BASE_DISK_GPU if gpu else BASE_DISK
    return base if local_disk >= share and not gpu else base + math.ceil(share)


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


def expiry(
    hours: float, now: datetime.datetime, launches: list[datetime.datetime], tagged: list[str]
) -> tuple[str, list[str]]:
    """Return when the fleet ends (ISO 8601, UTC): its first launch plus the hours.

    A tag from an earlier run stays when it means the same within a quarter of an hour, so that nothing changes
    on the second run.
    """
    wanted = min(launches, default=now) + datetime.timedelta(hours=hours)
    if wanted <= now:
        return "", [
            f"The fleet was launched more than fleet_expiry_hours ({hours:g}) ago, so its expiry lies in the past: "
            "raise fleet_expiry_hours, or destroy the fleet."
        ]
    for text in sorted(tagged, reverse=True):
        try:
            was = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
        except ValueError:
            continue
        if launches and abs(was - wanted) < datetime.timedelta(minutes=15):
            return text, []
    return wanted.strftime("%Y-%m-%dT%H:%M:%SZ"), []


def policy(dataset: str, model: str, program: str = "", partition: str = "aws") -> dict[str, Any]:
    """Return the access policy of the nodes, and no more than they need.

    They read the data set's folder, read and write the model's, and read the program's object, where it is in S3.
    """
    statements: list[dict[str, Any]] = []
    for name, url, actions in (
        ("Dataset", dataset, ["s3:GetObject"]),
        ("Model", model, ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]),
    ):
        if not url:
            continue
        bucket, prefix = split_s3(url)
        statements.append(
            {
                "Sid": name,
                "Effect": "Allow",
                "Action": actions,
                "Resource": [f"arn:{partition}:s3:::{bucket}/{prefix}*"],
            }
        )
        statements.append(
            {
                "Sid": f"List{name}",
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:{partition}:s3:::{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*", prefix.rstrip("/")]}},
            }
        )
    if program.startswith("s3://"):
        resource = f"arn:{partition}:s3:::{'/'.join(split_program(program))}"
        statements.append({"Sid": "Program", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [resource]})
    return {"Version": "2012-10-17", "Statement": statements}


def check_boundary(arn: str, most: dict[str, Any], policy: dict[str, Any]) -> list[str]:
    """Hold the nodes' access policy against the boundary's document: what that doesn't name they can't use."""
    statements = most["Statement"] if isinstance(most["Statement"], list) else [most["Statement"]]
    allowed: list[str] = []
    for one in statements:
        if one["Effect"] == "Allow":
            named = one.get("Resource", "*")  # of NotResource nothing is known here
            allowed += [named] if isinstance(named, str) else named
    wanted = [resource for one in policy["Statement"] for resource in one["Resource"]]
    missing = [
        resource for resource in wanted if not any(fnmatch.fnmatchcase(resource, pattern) for pattern in allowed)
    ]
    if not missing:
        return []
    return [
        f"The fleet's hosts couldn't use {', '.join(dict.fromkeys(missing))}, as their boundary {arn} doesn't name it: "
        "have it added there (roles/fleet/files/boundary.json), or take the bucket that is in it."
    ]


def reconcile(groups: dict[str, dict[str, Any]], instances: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the wanted groups with the fleet's instances: each index of a group exists exactly once.

    An instance is {id, group, index, state, launched, type, …}. Returns ``launch`` [(group, index)], ``keep``,
    ``start`` (stopped ones) and ``terminate`` (instances above the count, of no group, or there twice).
    """
    live = sorted((one for one in instances if one["state"] in LIVE), key=lambda one: (one["launched"], one["id"]))
    slots: dict[tuple[str, int], dict[str, Any]] = {}
    terminate = []
    for one in live:
        slot = (one["group"], one["index"])
        wanted = one["index"] is not None and one["index"] < groups.get(one["group"], {"count": 0})["count"]
        if not wanted:
            terminate.append(one)
        elif slot not in slots:
            slots[slot] = one
        elif slots[slot]["state"] not in ("pending", "running") and one["state"] in ("pending", "running"):
            terminate.append(slots[slot])
            slots[slot] = one
        else:
            terminate.append(one)
    every = [(name, index) for name in GROUPS if name in groups for index in range(groups[name]["count"])]
    return {
        "launch": [slot for slot in every if slot not in slots],
        "keep": [slots[slot] for slot in every if slot in slots],
        "start": [slots[slot] for slot in every if slot in slots and slots[slot]["state"] in ("stopping", "stopped")],
        "terminate": sorted(terminate, key=lambda one: (one["group"], -1 if one["index"] is None else -one["index"])),
    }


def check_swaps(groups: dict[str, dict[str, Any]], kept: list[dict[str, Any]]) -> list[str]:
    """A running host keeps its type: it holds data."""
    problems = []
    for one in kept:
        wanted = groups[one["group"]]["instance_type"]
        if one["type"] != wanted:
            problems.append(
                f"{one['group']}-{one['index']} runs as {one['type']}, but fleet_groups.{one['group']}.instance_type "
                f"is {wanted}: destroy the fleet first, or set the type back."
            )
    return problems


def client_token(fleet: str, group: str, index: int, place: str, before: list[str]) -> str:
    """Return RunInstances' idempotence token of a slot: the same again until an instance was there and went.

    ``place`` is what a launch is bound to (subnet and security group); ``before`` are the slot's former instances.
    """
    text = "/".join([fleet, group, str(index), place, *sorted(before)])
    return "flotilla-" + hashlib.sha256(text.encode()).hexdigest()[:48]


def simplify(instance: dict[str, Any]) -> dict[str, Any]:
    """Reduce what DescribeInstances says to what is needed here.

    LaunchTime is the last start; since the first launch the root volume and the first network interface are attached.
    """
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    attached = [
        *(mapping.get("Ebs", {}).get("AttachTime") for mapping in instance.get("BlockDeviceMappings", [])),
        *(card.get("Attachment", {}).get("AttachTime") for card in instance.get("NetworkInterfaces", [])),
    ]
    return {
        "id": instance["InstanceId"],
        "group": tags.get("flotilla-group", ""),
        "index": whole(tags.get("flotilla-index", "")),
        "state": instance["State"]["Name"],
        "launched": min([instance["LaunchTime"], *filter(None, attached)]),
        "type": instance["InstanceType"],
        "public": instance.get("PublicIpAddress", ""),
        "private": instance.get("PrivateIpAddress", ""),
        "reason": instance.get("StateReason", {}).get("Message", ""),
        "tags": tags,
        "attached": [
            *(mapping["Ebs"]["VolumeId"] for mapping in instance.get("BlockDeviceMappings", []) if "Ebs" in mapping),
            *(card["NetworkInterfaceId"] for card in instance.get("NetworkInterfaces", [])),
        ],
    }
