#!/usr/bin/env bash
# moto 5.2.5, EC2: a VPC endpoint made without VpcEndpointType, as AWS's own guide makes one for S3.
#
# A good guess: it is a gateway, EC2's default, for moto's code says that it takes one for that and gives its route
# tables the route; so it is described and deleted as one that was asked for by name.
# Seen: described without a type; deleting it ends in an AttributeError, as does every later attempt, so that its route
# stays and its VPC can't be emptied. With VpcEndpointType="Gateway" both are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[ec2]==5.2.5' boto3==1.44.8 botocore==1.44.8
"$folder/venv/bin/python" - <<'PYTHON'
import boto3
from moto import mock_aws


def life(**kind):
    """Return the type that an endpoint is described with, and how deleting it ends."""
    with mock_aws():
        ec2 = boto3.client("ec2", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        request = {"VpcId": vpc, "ServiceName": "com.amazonaws.us-east-1.s3", "RouteTableIds": [table], **kind}
        made = ec2.create_vpc_endpoint(**request)["VpcEndpoint"]
        [found] = ec2.describe_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])["VpcEndpoints"]
        try:
            ec2.delete_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])
        except AttributeError as error:
            return found.get("VpcEndpointType"), str(error)
        return found.get("VpcEndpointType"), "deleted"


without, named = life(), life(VpcEndpointType="Gateway")
print("without a type:", without)
print("with Gateway:", named)
assert without == (None, "'NoneType' object has no attribute 'lower'")
assert named == ("Gateway", "deleted")
PYTHON
