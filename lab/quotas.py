"""Service Quotas, of which moto knows a few defaults, and what they stop.

https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/API_ServiceQuota.html
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.responses import ServiceQuotasResponse

from . import weather
from .judge import patch, refuse
from .settings import ACCOUNT, REGION
from .untyped import Answer, Moto


@dataclass(frozen=True)
class Quota:
    """A quota, and its value where the weather sets no other."""

    code: str
    service: str
    name: str
    default: float

    @property
    def value(self) -> float:
        return weather.quota(self.code, self.default)

    def described(self, default: bool = False) -> Answer:
        """The quota as the API gives it."""
        return {
            "ServiceCode": self.service, "ServiceName": SERVICES[self.service], "QuotaCode": self.code,
            "QuotaArn": f"arn:aws:servicequotas:{REGION}:{ACCOUNT}:{self.service}/{self.code}",
            "QuotaName": self.name, "Value": self.default if default else self.value, "Unit": "None",
            "Adjustable": True, "GlobalQuota": False,
        }  # fmt: skip


SERVICES = {"ec2": "Amazon Elastic Compute Cloud (Amazon EC2)", "vpc": "Amazon Virtual Private Cloud (Amazon VPC)"}
USUAL = "Standard (A, C, D, H, I, M, R, T, Z)"
VPCS = Quota("L-F678F1CE", "vpc", "VPCs per Region", 5)
GATEWAYS = Quota("L-A4707A72", "vpc", "Internet gateways per Region", 5)
# By bucket of vCPUs: its quotas on demand and spot.
BUCKETS = {
    "standard": (
        Quota("L-1216C47A", "ec2", f"Running On-Demand {USUAL} instances", 256),
        Quota("L-34B43A08", "ec2", f"All {USUAL} Spot Instance Requests", 256),
    ),
    "g": (
        Quota("L-DB2E81BA", "ec2", "Running On-Demand G and VT instances", 128),
        Quota("L-3819A6DF", "ec2", "All G and VT Spot Instance Requests", 128),
    ),
    "p": (
        Quota("L-417A185B", "ec2", "Running On-Demand P instances", 192),
        Quota("L-7212CCBC", "ec2", "All P4, P3 and P2 Spot Instance Requests", 192),
    ),
}
QUOTAS = (VPCS, GATEWAYS, *(one for pair in BUCKETS.values() for one in pair))


def bucket(instance_type: str) -> str:
    """The bucket of vCPUs that an instance type is counted in, or nothing where it has a quota that isn't here."""
    for name, families in (("g", "g|gr|vt"), ("p", "p"), ("standard", "a|c|d|h|i|im|is|m|r|t|z")):
        if re.match(rf"({families})\d", instance_type):
            return name
    return ""


def vcpus(instance_type: str) -> int:
    """How many vCPUs an instance type has."""
    return int(INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"])


def check_launch(backend: Moto, instance_type: str, count: int, spot: bool) -> None:
    """Refuse a launch that takes more vCPUs than the quota of its bucket has left."""
    kind = bucket(instance_type)
    if not kind:
        return
    quota = BUCKETS[kind][int(spot)]
    used = sum(
        vcpus(one.instance_type)
        for one in backend.all_instances()
        if one.state in ("pending", "running")
        and bucket(one.instance_type) == kind
        and (one.lifecycle == "spot") == spot
    )
    if used + count * vcpus(instance_type) <= quota.value:
        return
    if spot:
        refuse("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    refuse(
        "VcpuLimitExceeded",
        f"You have requested more vCPU capacity than your current vCPU limit of {quota.value:.0f} allows for the "
        "instance bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    )


def attach() -> None:
    """Have moto answer with these quotas."""

    def asked(self: ServiceQuotasResponse) -> tuple[list[Quota], str]:
        given = json.loads(self.body)
        found = [one for one in QUOTAS if one.service == given.get("ServiceCode")]
        if not found:
            raise NoSuchResource
        return found, str(given.get("QuotaCode"))

    def getting(default: bool) -> Moto:
        def get(self: ServiceQuotasResponse) -> str:
            found, code = asked(self)
            one = next((one for one in found if one.code == code), None)
            if not one:
                raise NoSuchResource
            return json.dumps({"Quota": one.described(default)})

        return get

    def listing(default: bool) -> Moto:
        def listed(self: ServiceQuotasResponse) -> str:
            return json.dumps({"Quotas": [one.described(default) for one in asked(self)[0]]})

        return listed

    patch(ServiceQuotasResponse, "get_service_quota", getting(False))
    patch(ServiceQuotasResponse, "get_aws_default_service_quota", getting(True))
    patch(ServiceQuotasResponse, "list_service_quotas", listing(False))
    patch(ServiceQuotasResponse, "list_aws_default_service_quotas", listing(True))
