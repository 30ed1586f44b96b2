# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a fleet costs: on-demand prices from AWS's Price List API, and the plan as a table.

https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-the-aws-price-list-api.html
"""

from __future__ import annotations

import datetime
import json
import math

from ansible_collections.flotilla.kit.plugins.module_utils import aws, fleet_groups

HOURS_A_MONTH = 730  # as AWS counts for volumes


def look_up(connection: aws.Aws, region: str, types: list[str]) -> dict[str, float]:
    """Return the $ an hour of each type, of a ``GB`` of a gp3 volume, and of a public ``address``, where known.

    Raises FleetError where the prices may not be asked for.
    """
    linux = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
    asked = [(name, "AmazonEC2", {"instanceType": name, **linux}, "") for name in types]
    asked.append(("GB", "AmazonEC2", {"volumeApiName": "gp3", "productFamily": "Storage"}, ""))
    # The usage type begins with the region's billing code.
    asked.append(("address", "AmazonVPC", {}, "PublicIPv4:InUseAddress"))
    found = {}
    for name, service, filters, usage in asked:
        products = connection.pages(
            "look up prices (pricing:GetProducts)",
            "pricing",
            "get_products",
            "PriceList",
            ServiceCode=service,
            Filters=[
                {"Type": "TERM_MATCH", "Field": field, "Value": value}
                for field, value in {"regionCode": region, **filters}.items()
            ],
        )
        price = on_demand(products, usage)
        if price is not None:
            found[name] = price / HOURS_A_MONTH if name == "GB" else price
    return found


def snapshot(connection: aws.Aws, region: str) -> float | None:
    """Return the $ a month of a GB of a snapshot, where known. Raises FleetError where that may not be asked for."""
    filters = {"regionCode": region, "productFamily": "Storage Snapshot"}
    products = connection.pages(
        "look up prices (pricing:GetProducts)",
        "pricing",
        "get_products",
        "PriceList",
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in filters.items()],
    )
    return on_demand(products, "EBS:SnapshotUsage")


def on_demand(products: list[str], usage: str = "") -> float | None:
    """Return the $ a unit of the first product (JSON) that has a price and whose usage type ends in ``usage``."""
    for text in products:
        product = json.loads(text)
        if not str(product["product"]["attributes"].get("usagetype", "")).endswith(usage):
            continue
        for term in product["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                price = float(dimension["pricePerUnit"].get("USD", 0))
                if price > 0:
                    return price
    return None


def host_price(group: fleet_groups.Group, prices: dict[str, float], public: bool) -> float | None:
    """Return the $ an hour of a host of a group with its volume and its public address; None when one isn't known."""
    try:
        price = prices[group["instance_type"]] + prices["GB"] * int(group["volume_size"])
        return price + prices["address"] if public else price
    except KeyError:
        return None


def unknown(groups: dict[str, fleet_groups.Group], prices: dict[str, float], public: bool) -> list[str]:
    """Return of what the price isn't known."""
    names = sorted({group["instance_type"] for group in groups.values()} - set(prices))
    return [
        *names,
        *(["gp3 volumes"] if "GB" not in prices else []),
        *(["public addresses"] if public and "address" not in prices else []),
    ]


def check_cost(
    groups: dict[str, fleet_groups.Group], prices: dict[str, float], public: bool, left: datetime.timedelta, cap: float
) -> list[str]:
    """Whether the fleet's costs until its expiry, as far as prices are known, stay within the cap in $."""
    known = {"GB": 0.0, "address": 0.0, **{group["instance_type"]: 0.0 for group in groups.values()}, **prices}
    hourly = sum((host_price(group, known, public) or 0.0) * group["count"] for group in groups.values())
    hours = left.total_seconds() / 3600
    total = hourly * hours
    if total <= cap:
        return []
    least = "at least " if unknown(groups, prices, public) else ""
    return [
        f"The fleet costs {least}${hourly:,.2f} an hour, which is ${total:,.2f} in the {hours:.1f} hours until its "
        f"expiry, but fleet_max_cost is ${cap:g}: take fewer or smaller hosts or a smaller fleet_expiry_hours, "
        f"or set fleet_max_cost to {math.ceil(total)} if you mean it."
    ]


def table(
    groups: dict[str, fleet_groups.Group], hourly: dict[str, float | None], left: datetime.timedelta, running: int
) -> list[str]:
    """Return the plan's lines: what each group has and costs an hour, and the fleet's costs until its expiry.

    ``hourly`` is the price of a group's host, ``left`` the time until the expiry, ``running`` how many hosts are there.
    """
    rows = [("group", "hosts", "instance type", "GPUs", "tasks", "volume", "$/h")]
    total: float | None = 0.0
    for name, group in groups.items():
        price = hourly[name]
        cost = None if price is None else price * group["count"]
        total = None if cost is None or total is None else total + cost
        gpus = f"{group['gpus']} {group['gpu']}" if group["gpus"] else "-"
        count, tasks, volume = str(group["count"]), str(group["tasks"]), f"{group['volume_size']} GB"
        rows.append((name, count, group["instance_type"], gpus, tasks, volume, _dollars(cost)))
    rows.append(("in all", str(sum(group["count"] for group in groups.values())), "", "", "", "", _dollars(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:{'<><<>>>'[column]}{widths[column]}}" for column, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    hours = left.total_seconds() / 3600
    end = f"Every host powers itself off in {hours:.1f} h at the latest"
    if total is not None:
        end += f"; until then it's ${total * hours:.2f} on demand, without taxes, traffic and what lies in S3"
    there = f"{running} of the hosts are there already. " if running else ""
    return [*lines, f"{there}{end}."]


def _dollars(price: float | None) -> str:
    return "?" if price is None else f"{price:.3f}"
