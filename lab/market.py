"""What things cost: the Price List API, which moto hasn't, and the spot market, of which it has little.

The prices are AWS's of 2024 in us-east-1, for the types that fleets are made of; other types have none here.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

from flask import Flask
from moto.core.responses import ActionResult, BaseResponse
from moto.core.utils import convert_to_flask_response
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.responses.spot_instances import SpotInstances
from moto.ec2.utils import random_spot_request_id
from moto.moto_server.werkzeug_app import BackendRequest

from .settings import REGION
from .untyped import Answer, Moto, Request

# $/h of a family's `large`; its other sizes cost in proportion.
LARGE = {
    "t2": 0.0928, "t3": 0.0832, "t3a": 0.0752, "m5": 0.096, "m5d": 0.113, "m6i": 0.096, "m6a": 0.0864, "m7i": 0.1008,
    "m7a": 0.11592, "c5": 0.085, "c5d": 0.096, "c6i": 0.085, "c6a": 0.0765, "c7i": 0.08925, "r5": 0.126, "r6i": 0.126,
    "r7i": 0.1323, "i3": 0.156, "i4i": 0.172,
}  # fmt: skip
SIZES = {"nano": 1 / 16, "micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}
WITH_GPU = {
    "g4dn": {"xlarge": 0.526, "2xlarge": 0.752, "4xlarge": 1.204, "8xlarge": 2.176, "12xlarge": 3.912,
             "16xlarge": 4.352},
    "g5": {"xlarge": 1.006, "2xlarge": 1.212, "4xlarge": 1.624, "8xlarge": 2.448, "12xlarge": 5.672, "16xlarge": 4.096,
           "24xlarge": 8.144, "48xlarge": 16.288},
    "g6": {"xlarge": 0.8048, "2xlarge": 0.9776, "4xlarge": 1.3232, "8xlarge": 2.0144, "12xlarge": 4.6016,
           "16xlarge": 3.3968, "24xlarge": 6.6752, "48xlarge": 13.3504},
    "p3": {"2xlarge": 3.06, "8xlarge": 12.24, "16xlarge": 24.48},
    "p4d": {"24xlarge": 32.7726},
    "p5": {"48xlarge": 98.32},
}  # fmt: skip
GP3 = 0.08  # $ a GB and month
SNAPSHOT = 0.05  # the same
PUBLIC_IPV4 = 0.005  # $ an hour and address
SPOT = 0.35  # of the on-demand price


def on_demand(instance_type: str) -> float | None:
    """The price of an instance type in $/h, where it is known."""
    family, _, size = instance_type.partition(".")
    if family in WITH_GPU:
        return WITH_GPU[family].get(size)
    factor = SIZES.get(size)
    if many := re.fullmatch(r"(\d+)xlarge", size):
        factor = 2.0 * int(many[1])
    return LARGE[family] * factor if family in LARGE and factor else None


def spot(instance_type: str) -> float | None:
    """The spot price of an instance type in $/h, where it is known."""
    price = on_demand(instance_type)
    return None if price is None else price * SPOT


def products(service: str, filters: dict[str, str]) -> list[Answer]:
    """The products of a service that match all filters, as GetProducts describes them.

    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-the-aws-price-list-api.html
    """
    if service == "AmazonVPC":
        attributes = {"usagetype": "PublicIPv4:InUseAddress", "regionCode": REGION}
        found = [_product("", attributes, "Hrs", PUBLIC_IPV4)]
    elif service == "AmazonEC2":
        found = [
            _product("Storage", {"volumeApiName": "gp3", "regionCode": REGION}, "GB-Mo", GP3),
            _product("Storage Snapshot", {"usagetype": "EBS:SnapshotUsage", "regionCode": REGION}, "GB-Mo", SNAPSHOT),
        ]
        named = filters.get("instanceType", "")
        price = on_demand(named)
        if price is not None:
            attributes = {
                "instanceType": named, "regionCode": REGION, "operatingSystem": "Linux", "tenancy": "Shared",
                "preInstalledSw": "NA", "capacitystatus": "Used", "marketoption": "OnDemand",
                "usagetype": f"BoxUsage:{named}",
            }  # fmt: skip
            found.append(_product("Compute Instance", attributes, "Hrs", price))
    else:
        found = []
    return [
        one
        for one in found
        if all({**one["product"]["attributes"], "productFamily": one["product"]["productFamily"]}.get(k) == v
               for k, v in filters.items())
    ]  # fmt: skip


def _product(family: str, attributes: dict[str, str], unit: str, price: float) -> Answer:
    sku = re.sub(r"[^A-Z0-9]", "", attributes.get("usagetype", attributes.get("volumeApiName", "")).upper())
    dimension = {"unit": unit, "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": f"{price:.10f}"}}
    term = {"offerTermCode": "JRTCKXETXF", "sku": sku, "priceDimensions": {f"{sku}.JRTCKXETXF.6YS6EN2CT7": dimension}}
    return {
        "product": {"productFamily": family, "attributes": attributes, "sku": sku},
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}},
    }


class PriceListResponse(BaseResponse):
    """The Price List API in moto's manner: signature and permission are checked as for any service of its own."""

    def __init__(self) -> None:
        super().__init__(service_name="pricing")

    def get_products(self) -> ActionResult:
        """GetProducts; everything fits on one page."""
        filters = {one["Field"]: one["Value"] for one in self._get_param("Filters", [])}
        found = products(self._get_param("ServiceCode"), filters)
        return ActionResult({"FormatVersion": "aws_v1", "PriceList": [json.dumps(one) for one in found]})


def create_app() -> Flask:
    """What answers requests to the Price List API."""
    app = Flask("prices")
    app.request_class = BackendRequest
    app.add_url_rule("/", view_func=convert_to_flask_response(PriceListResponse.dispatch), methods=["POST"])
    return app


# ---------------------------------------------------------------- the spot market


def check_options(options: Request, instance_type: str) -> None:
    """Judge RunInstances' InstanceMarketOptions, as AWS does and moto doesn't; raise EC2ClientError."""
    kind = options.get("MarketType", "spot" if options else "")
    if kind not in ("", "spot"):
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{kind}' for InstanceMarketOptions.MarketType.")
    price, limit = spot(instance_type), options.get("SpotOptions", {}).get("MaxPrice")
    if limit and price is not None and float(limit) < price:
        raise EC2ClientError(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {limit} is lower than the minimum required Spot request fulfillment price "
            f"of {price:.4f}.",
        )


class FulfilledRequest(SpotInstanceRequest):
    """The one-time spot request that AWS makes by itself for an instance that RunInstances launched."""

    def __init__(self, instance: Instance) -> None:
        self.launched = instance
        super().__init__(
            instance.ec2_backend, random_spot_request_id(), "", str(instance.image_id), "one-time", None, None, None,
            None, str(instance.key_name), [g.id for g in instance.security_groups], None, instance.instance_type,
            None, None, None, False, str(instance.subnet_id), {}, None, "terminate",
        )  # fmt: skip

    def launch_instance(self) -> Instance:
        """Return the instance, which is there already."""
        return self.launched


def attach() -> None:
    """Teach moto the prices and rules of the spot market."""
    run_instances, stop_instances = InstanceResponse.run_instances, InstanceBackend.stop_instances
    history = SpotInstances.describe_spot_price_history

    def run_checked(self: InstanceResponse) -> ActionResult:
        options = self._get_param("InstanceMarketOptions", {})
        check_options(options, self._get_param("InstanceType", "m1.small"))
        return run_instances(self)

    def stop_checked(self: Moto, instance_ids: list[str]) -> Moto:
        for one in self.get_multi_instances_by_id(instance_ids):
            if one.lifecycle == "spot":
                raise EC2ClientError(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{one.id}' because it is associated with a one-time Spot "
                    "Instance request. You can only stop Spot Instances associated with persistent Spot Instance "
                    "requests.",
                )
        return stop_instances(self, instance_ids)

    def priced(self: SpotInstances) -> ActionResult:
        result = history(self)
        known = []
        for entry in result.result["SpotPriceHistory"]:  # type: ignore[index]
            price = spot(entry["InstanceType"])
            if price is not None:
                now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                known.append({**entry, "SpotPrice": f"{price:.6f}", "Timestamp": now})
        return ActionResult({"SpotPriceHistory": known})

    for owner, name, method in (
        (InstanceResponse, "run_instances", run_checked),
        (InstanceBackend, "stop_instances", stop_checked),
        (SpotInstances, "describe_spot_price_history", priced),
    ):
        setattr(owner, name, method)


def note_request(instance: Instance) -> None:
    """Note the request of a spot instance that RunInstances launched."""
    request = FulfilledRequest(instance)
    instance.ec2_backend.spot_instance_requests[request.id] = request
    setattr(instance, "spot_instance_request_id", request.id)  # noqa: B010
