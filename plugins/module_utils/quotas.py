# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an account may have in a region: Service Quotas, and what of a fleet is over them.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html (vCPUs by family)
https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html (VPCs and internet gateways)
"""

from __future__ import annotations

import concurrent.futures
import re
from typing import NamedTuple

from ansible_collections.flotilla.kit.plugins.module_utils import aws

# Which families' vCPUs a quota of EC2 counts: what stands in an instance type before its first digit.
FAMILIES = {
    "L-1216C47A": ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"),
    "L-DB2E81BA": ("g", "gr", "vt"),
    "L-417A185B": ("p",),
    "L-6E869C2A": ("dl",),
    "L-74FC7D96": ("f",),
    "L-F7808C92": ("hpc",),
    "L-43DA4232": ("u",),
    "L-1945791B": ("inf",),
    "L-2C3B7624": ("trn",),
    "L-7295265B": ("x",),
}
VPCS, GATEWAYS = "L-F678F1CE", "L-A4707A72"


class Quota(NamedTuple):
    """A quota as AWS calls it, and how much it allows."""

    name: str
    value: float


def of_type(instance_type: str) -> str:
    """Return the code of the quota that an instance type's vCPUs count for, or an empty string."""
    family = re.match("[a-z]+", instance_type)
    return next((code for code, families in FAMILIES.items() if family and family[0] in families), "")


def look_up(connection: aws.Aws, codes: list[str]) -> dict[str, Quota]:
    """Return the account's quotas by code; one that AWS doesn't have in this region is left out.

    Raises FleetError where they may not be asked for.
    """
    connection.client("service-quotas")  # making a client isn't safe in several threads, using it is
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(codes, pool.map(lambda code: _quota(connection, code), codes), strict=True))
    return {code: quota for code, quota in found.items() if quota}


def _quota(connection: aws.Aws, code: str) -> Quota | None:
    service = "ec2" if code in FAMILIES else "vpc"
    # Only what differs from AWS's default is the account's own.
    for method in ("get_service_quota", "get_aws_default_service_quota"):
        action = "servicequotas:Get" + ("ServiceQuota" if method == "get_service_quota" else "AWSDefaultServiceQuota")
        try:
            answer = connection.call(
                f"read the account's quotas ({action})", "service-quotas", method, ServiceCode=service, QuotaCode=code
            )
        except aws.FleetError as error:
            if error.__cause__ is None or aws.code(error.__cause__) != "NoSuchResourceException":
                raise
        else:
            return Quota(answer["Quota"]["QuotaName"], float(answer["Quota"]["Value"]))
    return None


def check_vcpus(
    needed: dict[str, int], running: dict[str, int], vcpus: dict[str, int], found: dict[str, Quota], more: str
) -> list[str]:
    """Whether the quotas allow what is to be launched beside what runs in the account.

    ``needed`` and ``running`` are how many instances of a type, ``vcpus`` what each type has, ``more`` what the
    command that asks for more needs beside quota and value.
    """
    problems = []
    for code, quota in found.items():
        types = sorted(name for name in needed if needed[name] and of_type(name) == code)
        wanted = sum(needed[name] * vcpus[name] for name in types)
        used = sum(number * vcpus.get(name, 0) for name, number in running.items() if of_type(name) == code)
        if wanted and used + wanted > quota.value:
            problems.append(
                f"The fleet needs {wanted} vCPUs for {_listed(needed, types)}, but the account may have "
                f"{quota.value:g} in this region ('{quota.name}'), of which {used} are in use: "
                f"{_ask(code, used + wanted, more)}, or take fewer or other instances."
            )
    return problems


def check_network(there: dict[str, int], found: dict[str, Quota], more: str) -> list[str]:
    """Whether the region has room for one VPC and one internet gateway more; ``there`` counts those that are there."""
    problems = []
    for code, what in ((VPCS, "VPC"), (GATEWAYS, "internet gateway")):
        if code in found and there[code] + 1 > found[code].value:
            problems.append(
                f"The fleet needs {'a' if code == VPCS else 'an'} {what} of its own, but the account may have "
                f"{found[code].value:g} in this region ('{found[code].name}'), and there are {there[code]}: delete one "
                "that nobody needs, set fleet_vpc_id and fleet_subnet_id to use a network that is there, or "
                f"{_ask(code, there[code] + 1, more)}."
            )
    return problems


def _listed(needed: dict[str, int], types: list[str]) -> str:
    return " and ".join(f"{needed[name]} x {name}" for name in types)


def _ask(code: str, value: int, more: str) -> str:
    service = "ec2" if code in FAMILIES else "vpc"
    return (
        "ask AWS for more in the Service Quotas console or by 'aws service-quotas request-service-quota-increase "
        f"--service-code {service} --quota-code {code} --desired-value {value} {more}'"
    )
