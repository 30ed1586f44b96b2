# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's last look: what quotas, rights and the caps allow."""

from __future__ import annotations

import concurrent.futures
import datetime
import re
import time
from collections import Counter

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    fleet_groups,
    launch,
    prices,
    quotas,
    untyped,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings

# What AWS answers to a rehearsed launch that it would carry out, or where only the network isn't there yet.
LAUNCHES = {"DryRunOperation", "DefaultVpcDoesNotExist", "MissingInput", "VPCIdNotSpecified"}
# What the launch itself gets over, or says better.
LATER = {"InsufficientFreeAddressesInSubnet", "InsufficientInstanceCapacity"}
REMEDIES = {
    "OptInRequired": "accept the image's terms in the AWS Marketplace, or set another image",
    "PendingVerification": "wait until AWS has verified the account, or ask AWS's support",
    "VcpuLimitExceeded": "ask AWS for a higher quota, or take fewer or other instances",
}


class Limits(findings.Findings):
    """Quotas, rights and costs: all that is asked side by side."""

    def allowed(self) -> None:
        """Hold the fleet against the account's quotas and rights, and the caps: all that is asked side by side."""
        for service in ("ec2", "pricing", "service-quotas"):
            self.aws.client(service)  # making a client isn't safe in several threads, using it is
        missing = self.missing()
        launches = {
            (group["instance_type"], group["image_id"]): name for name, group in self.groups.items() if missing[name]
        }
        # Whoever can't reach the quotas or the prices is told so, and goes on.
        with self.aws.until(time.monotonic() + 30), concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(self.within_quotas),
                pool.submit(self.costs),
                *(pool.submit(self.rehearse, name) for name in launches.values()),
            ]
        found = [future.result() for future in asked]
        for problems in found:
            # Where the quotas could be read, they say it better.
            self.check([text for text in problems if not (found[0] and "(VcpuLimitExceeded)" in text)])

    def within_quotas(self) -> list[str]:
        """Hold what is missing of the fleet against the quotas; where they may not be read, that is a warning."""
        # A stopped host counts for nothing until it is started again.
        on = [one for one in self.kept if one["state"] in ("pending", "running")]
        there = Counter(one["group"] for one in on)
        needed: Counter[str] = Counter()
        for name, group in self.groups.items():
            needed[group["instance_type"]] += max(group["count"] - there[name], 0)
        network = self.p["launcher"] == "ansible" and not self.p["vpc_id"] and not self.own_vpc
        codes = sorted({quotas.of_type(name) for name in needed if needed[name]} - {""})
        codes += [quotas.VPCS, quotas.GATEWAYS] if network else []
        if not codes:
            return []
        more = f"--region {self.p['region']}" + (f" --profile {self.p['profile']}" if self.p["profile"] else "")
        try:
            found = quotas.look_up(self.aws, codes)
            problems = []
            if any(code in quotas.FAMILIES for code in found):
                running, vcpus = self.running()
                problems += quotas.check_vcpus(needed, running, vcpus, found, more)
            if network:
                problems += quotas.check_network(self.networks(), found, more)
            return problems
        except aws.FleetError as error:
            self.warnings.append(f"Whether the account's quotas are enough isn't known. {error}")
            return []

    def running(self) -> tuple[Counter[str], dict[str, int]]:
        """Return the on-demand instances of the account that count and stay, by type, and the vCPUs of all types."""
        found = self.aws.pages(
            "list the account's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}],
        )
        types = Counter(
            str(one["InstanceType"])
            for reservation in found
            for one in reservation["Instances"]
            # Spot instances and capacity blocks have quotas of their own.
            if not one.get("InstanceLifecycle") and one["InstanceId"] not in self.ended
        )
        infos = dict(self.infos)
        others = sorted(set(types) - set(infos))
        for first in range(0, len(others), 100):  # a filter takes 200 values
            more = self.aws.pages(
                "describe the instance types",
                "ec2",
                "describe_instance_types",
                "InstanceTypes",
                Filters=[{"Name": "instance-type", "Values": others[first : first + 100]}],
            )
            infos.update({info["InstanceType"]: info for info in more})
        return types, {name: int(info["VCpuInfo"]["DefaultVCpus"]) for name, info in infos.items()}

    def networks(self) -> dict[str, int]:
        """Return how many VPCs and internet gateways the account has in the region."""
        vpcs = self.aws.pages("list the account's VPCs", "ec2", "describe_vpcs", "Vpcs")
        gateways = self.aws.pages(
            "list the account's internet gateways", "ec2", "describe_internet_gateways", "InternetGateways"
        )
        return {quotas.VPCS: len(vpcs), quotas.GATEWAYS: len(gateways)}

    def request(self, name: str) -> untyped.Request:
        """Return RunInstances' request for a host of a group, as far as it's known before anything is made."""
        group = self.groups[name]
        common = {
            **self.tags,
            "flotilla-fleet": self.p["name"],
            "flotilla-owner": self.result["owner"],
            "flotilla-expires": self.result["expires"],
        }
        tags, tagged = launch.host_tags(self.p["name"], (name, 0), group, common), launch.TAGGED
        if self.p["launcher"] == "im":
            # The Infrastructure Manager gives these, and only to instances.
            tags = {key: tags[key] for key in (*self.tags, "flotilla-fleet", "flotilla-group", "flotilla-expires")}
            tagged = ("instance",)
        request = launch.request(group, tags, tagged)
        subnet = self.p["subnet_id"] or self.subnets.get(self.result["zone"], {}).get("SubnetId")
        if subnet:
            request["NetworkInterfaces"] = [launch.interface(subnet, self.p["public_addresses"])]
        return request

    def rehearse(self, name: str) -> list[str]:
        """Have AWS judge the launch of a group's host without carrying it out.

        Without a subnet AWS judges the default one, where what it says of networks isn't of interest.
        """
        kind = self.groups[name]["instance_type"]
        try:
            self.aws.client("ec2").run_instances(DryRun=True, **self.request(name))
        except Exception as error:
            code, words = aws.code(error), aws.message(error)
            if code in LAUNCHES | LATER or "Availability Zone" in words:
                return []
            if code in aws.DENIED_CODES:
                if re.search(r":(key-pair|security-group|subnet|vpc)/", words):  # these aren't the fleet's yet
                    return []
                action = re.search(r"not authorized to perform: (\S+)", words)
                return [
                    f"{self.result['arn']} may not launch {name} as {kind} ({words}): have "
                    f"{action[1] if action else 'ec2:RunInstances'} added, as in roles/fleet/files/policy.json."
                ]
            if getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500:
                remedy = REMEDIES.get(code, f"correct fleet_groups.{name} or its image, or ask AWS's support")
                return [f"AWS would refuse to launch {name} as {kind}: {words} ({code}): {remedy}."]
            self.warnings.append(f"Whether AWS would launch {name} as {kind} isn't known: {words}.")
        return []

    def costs(self) -> list[str]:
        """Say what the fleet is made of and costs, and hold it against the cap; what isn't known counts as more."""
        known: dict[str, float] = {}
        public, cap = self.p["public_addresses"], fleet_groups.amount(self.p["max_cost"]) or 0.0
        types = sorted({group["instance_type"] for group in self.groups.values()})
        why, remedy = f"AWS's price list has none for {self.p['region']}", "take types that have a price"
        try:
            known = prices.look_up(self.aws, self.p["region"], types)
        except aws.FleetError as error:
            if self.p["unknown_prices"]:
                self.warnings.append(f"The prices are unknown. {error}")
            denied = error.__cause__ is not None and aws.code(error.__cause__) in aws.DENIED_CODES
            why = "you may not ask for it, pricing:GetProducts" if denied else aws.message(error.__cause__ or error)
            remedy = "have that permission added" if denied else "try again"
        hourly = {name: prices.host_price(group, known, public) for name, group in self.groups.items()}
        expires = datetime.datetime.strptime(self.result["expires"], "%Y-%m-%dT%H:%M:%SZ")
        left = expires.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.now(datetime.timezone.utc)
        costs = [price * self.groups[name]["count"] for name, price in hourly.items() if price is not None]
        self.result["hourly"] = sum(costs) if len(costs) == len(hourly) else None
        self.result["plan"] = prices.table(self.groups, hourly, left, self.result["running"])
        problems: list[str] = prices.check_cost(self.groups, known, public, left, cap)
        unknown = prices.unknown(self.groups, known, public)
        if unknown and not self.p["unknown_prices"]:
            problems.append(
                f"The price of {', '.join(unknown)} isn't known ({why}), and counts as more than fleet_max_cost "
                f"(${cap:g}): {remedy}, or set fleet_unknown_prices to true to go on without."
            )
        return problems
