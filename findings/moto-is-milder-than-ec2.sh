#!/usr/bin/env bash
# moto 5.2.5 as a stand-in for EC2: what a test against it can't show.
#
# A good guess: it answers as EC2 documents it, which refuses to delete a security group or a subnet that an instance
# is in (DependencyViolation), makes no second instance for a repeated client token, lets no dry run change anything
# (DryRunOperation), and knows the filter client-token.
# Seen: group and subnet are deleted under the running instance; the second RunInstances of a token launches another
# instance; CreateVpc with DryRun makes the VPC; the filter isn't implemented. An order of removal, an idempotent launch
# and a dry run that are wrong pass every test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[ec2]==5.2.5' boto3==1.44.8 botocore==1.44.8
AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none "$folder/venv/bin/python" - <<'PYTHON'
import boto3
import moto

with moto.mock_aws():
    ec2 = boto3.client("ec2", region_name="us-east-1")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="hosts", Description="hosts", VpcId=vpc)["GroupId"]
    image = ec2.describe_images()["Images"][0]["ImageId"]

    def run():
        launched = ec2.run_instances(
            ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, ClientToken="once", SubnetId=subnet,
            SecurityGroupIds=[group],
        )
        return launched["Instances"][0]["InstanceId"]

    ids = {run(), run()}
    ec2.delete_security_group(GroupId=group)
    ec2.delete_subnet(SubnetId=subnet)
    before = len(ec2.describe_vpcs()["Vpcs"])
    ec2.create_vpc(CidrBlock="10.1.0.0/16", DryRun=True)
    made = len(ec2.describe_vpcs()["Vpcs"]) - before
    states = {i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]}
    try:
        ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["once"]}])
        known = True
    except Exception as error:
        known = "client-token" not in str(error)
    print("moto", moto.__version__)
    print("instances of one client token:", len(ids), "- states after group and subnet were deleted:", states)
    print("VPCs that a dry run made:", made, "- filter client-token known:", known)
    assert (len(ids), states, made, known) == (2, {"running"}, 1, False)
PYTHON
