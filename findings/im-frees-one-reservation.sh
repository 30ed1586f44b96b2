#!/usr/bin/env bash
# The Infrastructure Manager (IM 2.0.0), EC2: its security group at the end of an infrastructure of three hosts, each launched
# by a RunInstances of its own, as IM launches hosts of different systems.
#
# A good guess: before it deletes the group, it moves all hosts that are still shutting down to the VPC's default group, or
# waits until they have ended; EC2 refuses to delete a group that a host is in: DependencyViolation.
# Seen: it asks which hosts are in the group, and moves those of the answer's first reservation alone; then it deletes the
# group at once. Where hosts need more than a moment to end, `im_client destroy` fails so, and has to be typed again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check IM==2.0.0 'moto[ec2]==5.2.5' boto3==1.44.8 botocore==1.44.8
cd "$folder"
AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none AWS_DEFAULT_REGION=us-east-1 venv/bin/python - <<'PYTHON'
import logging
from importlib import metadata

import boto3
from IM.CloudInfo import CloudInfo
from IM.connectors.EC2 import EC2CloudConnector
from IM.InfrastructureInfo import InfrastructureInfo
from IM.VirtualMachine import VirtualMachine
from moto import mock_aws
from radl import radl_parse

logging.disable(logging.CRITICAL)
RADL = """
network public (outbound = 'yes')
system node (net_interface.0.connection = 'public' and disk.0.os.name = 'linux')
deploy node 3
"""
with mock_aws():
    ec2 = boto3.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    # As IM itself makes it
    group = ec2.create_security_group(GroupName="im-one", Description="Security group created by the IM", VpcId=vpc)["GroupId"]
    launch = {"ImageId": ec2.describe_images()["Images"][0]["ImageId"], "MinCount": 1, "MaxCount": 1, "SecurityGroupIds": [group]}
    hosts = [ec2.run_instances(**launch)["Instances"][0]["InstanceId"] for _ in range(3)]

    infrastructure, cloud = InfrastructureInfo(), CloudInfo()
    infrastructure.id, infrastructure.radl = "one", radl_parse.parse_radl(RADL)
    cloud.type = "EC2"
    last = VirtualMachine(infrastructure, f"us-east-1;{hosts[-1]}", cloud, infrastructure.radl, infrastructure.radl)
    asked = []
    ec2.meta.events.register("before-parameter-build.ec2.*", lambda model, **_: asked.append(model.name))
    EC2CloudConnector(cloud, infrastructure).delete_security_groups(ec2, last)

ends = [name for name in asked if not name.startswith("Describe")]
print("IM", metadata.version("IM"), "- hosts in the group:", len(hosts), "- calls:", ", ".join(ends))
assert len(hosts) == 3 and ends == ["ModifyInstanceAttribute", "RevokeSecurityGroupIngress", "DeleteSecurityGroup"]
PYTHON
