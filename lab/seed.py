"""What an empty region has: images and their parameters, the default VPC's way out, an administrator."""

from __future__ import annotations

import json
from datetime import datetime, timezone

from moto import settings as moto_settings
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.iam.models import iam_backends
from moto.ssm.models import Parameter, ssm_backends

from .images import CATALOGUE
from .settings import ACCOUNT, REGION


def seed() -> tuple[str, str]:
    """Put the images, their parameters, a gateway of the default VPC and an administrator into the empty region.

    Returns:
        The administrator's access key id and secret.
    """
    ec2, ssm = ec2_backends[ACCOUNT][REGION], ssm_backends[ACCOUNT][REGION]
    for entry in CATALOGUE:
        ec2.amis[entry.ami] = Ami(
            ec2,
            entry.ami,
            name=entry.name,
            description=entry.name,
            owner_id=entry.owner,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture="x86_64",
            root_device_type="ebs",
            root_device_name=entry.root_device,
            hypervisor="xen",
            region_name=f"{REGION}a",
        )
        for name in entry.parameters:
            ssm._parameters[name].append(
                Parameter(  # type: ignore[abstract]
                    account_id=ACCOUNT,
                    name=name,
                    value=entry.ami,
                    parameter_type="String",
                    description="",
                    allowed_pattern=None,
                    keyid=None,
                    last_modified_date=datetime.now(timezone.utc),
                    version=1,
                    data_type="aws:ec2:image",
                )
            )
    # A region's default VPC leads to the internet; moto's has no gateway.
    # https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
    default = next(vpc for vpc in ec2.vpcs.values() if vpc.is_default)
    table = next(t for t in ec2.route_tables.values() if t.vpc_id == default.id)
    gateway = ec2.create_internet_gateway()
    ec2.attach_internet_gateway(gateway.id, default.id)
    ec2.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
    iam = iam_backends[ACCOUNT]["aws"]
    iam.create_user(REGION, "lab-admin")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy("lab-admin", "administrator", json.dumps(everything))
    key = iam.create_access_key("lab-admin")
    # From here on every request must be signed by a key that the region's IAM knows, and be allowed by a policy.
    moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    return key.access_key_id, key.secret_access_key
