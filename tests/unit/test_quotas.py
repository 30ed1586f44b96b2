"""What the account may have, and launches that AWS judges without carrying them out."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
import test_fleet_aws
from ansible_collections.flotilla.kit.plugins.module_utils import aws, quotas
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from test_fleet_aws import REGION, problems
from test_plan import one

cloud, image, variables = test_fleet_aws.cloud, test_fleet_aws.image, test_fleet_aws.variables
raised = test_fleet_aws.raised
STANDARD, GPUS = "L-1216C47A", "L-DB2E81BA"
LOOK_UP = quotas.look_up
ASK = "--region us-east-1"


def allow(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Give the account quotas: standard, gpus, vpcs, gateways."""
    codes = {"standard": STANDARD, "gpus": GPUS, "vpcs": quotas.VPCS, "gateways": quotas.GATEWAYS}
    given = {codes[name]: quotas.Quota(f"quota of {name}", value) for name, value in values.items()}
    monkeypatch.setattr(
        quotas, "look_up", lambda _, asked: {code: quota for code, quota in given.items() if code in asked}
    )


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("m5.large", STANDARD),
        ("t3a.nano", STANDARD),
        ("im4gn.large", STANDARD),
        ("g4dn.xlarge", GPUS),
        ("gr6.4xlarge", GPUS),
        ("vt1.3xlarge", GPUS),
        ("p4d.24xlarge", "L-417A185B"),
        ("inf2.xlarge", "L-1945791B"),
        ("trn1.2xlarge", "L-2C3B7624"),
        ("x2idn.16xlarge", "L-7295265B"),
        ("u-6tb1.metal", "L-43DA4232"),
        ("u7i-12tb.224xlarge", "L-43DA4232"),
        ("hpc7a.96xlarge", "L-F7808C92"),
        ("dl1.24xlarge", "L-6E869C2A"),
        ("f1.2xlarge", "L-74FC7D96"),
        ("mac2.metal", ""),
        ("", ""),
    ],
)
def test_families(kind: str, code: str) -> None:
    assert quotas.of_type(kind) == code


def test_the_account_s_own_quota_then_aws_s_default() -> None:
    connection = aws.Aws(REGION)
    client = boto3.client("service-quotas", region_name=REGION)
    connection.client = lambda service: client  # type: ignore[method-assign]
    wanted = {"ServiceCode": "ec2", "QuotaCode": GPUS}
    answer = {"Quota": {"QuotaName": "Running On-Demand G and VT instances", "Value": 4.0}}
    with Stubber(client) as stub:
        stub.add_response("get_service_quota", answer, wanted)
        assert LOOK_UP(connection, [GPUS]) == {GPUS: ("Running On-Demand G and VT instances", 4.0)}
        stub.add_client_error("get_service_quota", "NoSuchResourceException")
        stub.add_response("get_aws_default_service_quota", answer, wanted)
        assert LOOK_UP(connection, [GPUS])[GPUS].value == 4
        # A region without such types knows no quota of them.
        stub.add_client_error("get_service_quota", "NoSuchResourceException")
        stub.add_client_error("get_aws_default_service_quota", "NoSuchResourceException")
        assert LOOK_UP(connection, [quotas.VPCS]) == {}
        stub.add_client_error("get_service_quota", "AccessDeniedException", "No.")
        with pytest.raises(
            aws.FleetError, match=r"may not read the account's quotas \(servicequotas:GetServiceQuota\)"
        ):
            LOOK_UP(connection, [GPUS])


def test_a_new_account_has_no_gpus() -> None:
    none = {GPUS: quotas.Quota("Running On-Demand G and VT instances", 0)}
    vcpus = {"g4dn.xlarge": 4, "g5.2xlarge": 8, "m5.large": 2}
    one(
        quotas.check_vcpus({"m5.large": 1, "g4dn.xlarge": 3, "g5.2xlarge": 1}, {"m5.large": 9}, vcpus, none, ASK),
        "20 vCPUs for 3 x g4dn.xlarge and 1 x g5.2xlarge",
        "may have 0 in this region ('Running On-Demand G and VT instances'), of which 0 are in use",
        "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA "
        "--desired-value 20 --region us-east-1",
        "Service Quotas console",
    )
    assert quotas.check_vcpus({"g4dn.xlarge": 0}, {"g4dn.xlarge": 2}, vcpus, none, ASK) == []


def test_what_runs_counts_and_what_is_there_of_the_fleet_is_not_needed_again(
    raised: test_fleet_aws.Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, standard=16)
    assert problems(raised.variables) == []
    image = raised.variables["images"]["cpu"]
    foreign = raised.ec2.run_instances(ImageId=image, InstanceType="c5.4xlarge", MinCount=1, MaxCount=1)["Instances"]
    one(problems(raised.variables), "8 vCPUs for 4 x t3.large", "of which 16 are in use", "--desired-value 24")
    raised.ec2.terminate_instances(InstanceIds=[foreign[0]["InstanceId"]])
    allow(monkeypatch, standard=8)
    raised.up()
    assert problems(raised.variables) == []
    # A stopped host has to be started again, and a host that goes makes room.
    raised.ec2.stop_instances(InstanceIds=[raised.live()["demo-ps-0"]])
    allow(monkeypatch, standard=7)
    one(problems(raised.variables), "2 vCPUs for 1 x t3.large", "of which 6 are in use")
    raised.variables["groups"]["worker"]["count"] = 1
    assert problems(raised.variables) == []
    # What is over the quota already isn't stopped by it.
    raised.ec2.start_instances(InstanceIds=[raised.live()["demo-ps-0"]])
    allow(monkeypatch, standard=1)
    assert problems(raised.variables) == []


def test_room_for_a_vpc(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ec2 = boto3.client("ec2")
    (default,) = ec2.describe_vpcs()["Vpcs"]
    allow(monkeypatch, vpcs=1, gateways=5)
    one(problems(variables), "may have 1 in this region ('quota of vpcs'), and there are 1", "fleet_subnet_id", ASK)
    assert problems(variables, launcher="im") == [], "it makes no network"
    test_fleet_aws.lead_out(default["VpcId"])
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    assert problems(variables, vpc_id=default["VpcId"], subnet_id=subnet) == []
    allow(monkeypatch, vpcs=2, gateways=0)
    one(problems(variables), "an internet gateway of its own", "L-A4707A72")
    tags = [{"Key": "flotilla-fleet", "Value": "demo"}]
    ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])
    assert problems(variables) == [], "it's there already"


def test_quotas_that_may_not_be_read_are_a_warning(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise aws.FleetError("The credentials may not read the account's quotas.")

    monkeypatch.setattr(quotas, "look_up", denied)
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == [] and len(preflight.warnings) == 1
    assert preflight.warnings[0].endswith("The credentials may not read the account's quotas.")


def rehearsed(code: str, message: str, status: int = 400) -> Preflight:
    """A preflight that had AWS judge a launch, which it answers with an error."""

    def run_instances(**request: Any) -> None:
        assert request["DryRun"] is True
        error: Any = {"Error": {"Code": code, "Message": message}}
        raise ClientError({**error, "ResponseMetadata": {"HTTPStatusCode": status}}, "RunInstances")

    preflight = Preflight({"name": "demo", "launcher": "ansible", "subnet_id": "", "public_addresses": True})
    group = {"instance_type": "t3.large", "image_id": "ami-1", "root_device": "/dev/xvda", "volume_size": 20}
    preflight.groups = {"worker": {**group, "count": 2, "ssh_user": "admin", "tasks": 1}}
    preflight.result = {"owner": "ada", "expires": "2026-11-28T20:00:00Z", "zone": "us-east-1a", "arn": "arn:aws:…/ada"}
    client = type("Client", (), {"run_instances": staticmethod(run_instances)})
    preflight.aws = type("Aws", (), {"client": lambda self, service: client})()
    preflight.check(preflight.rehearse("worker"))
    return preflight


DENIED = (
    "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ada is not authorized to "
    "perform: ec2:CreateTags on resource: arn:aws:ec2:us-east-1:123456789012:{}/* because no identity-based policy "
    "allows the ec2:CreateTags action. Encoded authorization failure message: AbCdEf"
)


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", []),
        ("VPCIdNotSpecified", "No default VPC for this user.", []),
        ("MissingInput", "No subnets found for the default VPC 'vpc-1'. Please specify a subnet.", []),
        ("Unsupported", "Your requested instance type (t3.large) is not supported in your requested Availability Zone "
         "(us-east-1e).", []),
        ("UnauthorizedOperation", DENIED.format("subnet"), []),
        ("UnauthorizedOperation", DENIED.format("instance"), ["have ec2:CreateTags added", "policy.json"]),
        ("UnauthorizedOperation", "You are not authorized to perform this operation.", ["have ec2:RunInstances added"]),
        ("OptInRequired", "In order to use this AWS Marketplace product you need to accept terms and subscribe.",
         ["accept the image's terms"]),
        ("InvalidBlockDeviceMapping", "Volume of size 8GB is smaller than snapshot 'snap-1', expect size>= 75GB",
         ["expect size>= 75GB (InvalidBlockDeviceMapping)"]),
    ],
)  # fmt: skip
def test_a_launch_is_rehearsed(code: str, message: str, words: list[str]) -> None:
    preflight = rehearsed(code, message)
    assert preflight.warnings == []
    if words:
        one(preflight.problems, *words)
        assert "AbCdEf" not in preflight.problems[0]
    else:
        assert preflight.problems == []


def test_vcpus_that_are_over_the_quota_are_one_problem(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "You have requested more vCPU capacity than your current vCPU limit of 0 allows."
    (said,) = rehearsed("VcpuLimitExceeded", words).problems
    assert "limit of 0 allows (VcpuLimitExceeded): ask AWS for a higher quota" in said
    monkeypatch.setattr(Preflight, "rehearse", lambda self, name: [said])
    assert problems(variables) == [said], "where the quotas aren't known"
    allow(monkeypatch, standard=0)
    one(problems(variables), "8 vCPUs for 4 x t3.large", "--desired-value 8")


def test_no_launch_is_rehearsed_with_a_disk_that_does_not_do(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preflight, "rehearse", lambda self, name: ["It was."])
    variables["groups"]["ps"] = {"count": 1, "instance_type": "t3.large", "volume_size": 1}
    one(problems(variables), "fleet_groups.ps.volume_size is 1 GiB")


def test_an_answer_that_says_nothing_of_the_launch_is_a_warning() -> None:
    preflight = rehearsed("RequestLimitExceeded", "Request limit exceeded.", 503)
    assert preflight.problems == []
    assert preflight.warnings == ["Whether AWS would launch worker as t3.large isn't known: Request limit exceeded."]


def test_each_type_and_image_is_rehearsed_once(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Preflight, "rehearse", lambda self, name: asked.append(name) or [f"{name} won't do."])
    variables["groups"]["worker"] = {"count": 2, "instance_type": "c5.xlarge"}
    assert problems(variables) == [f"{name} won't do." for name in asked]
    assert sorted(asked) == ["chief", "worker"], "a ps is launched as the chief is"


def test_the_rehearsal_is_the_launch(raised: test_fleet_aws.Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight = Preflight(raised.variables)
    preflight.run()
    rehearsed = preflight.request("ps")
    fleet, sent = raised.fleet(), {}
    fleet.p["tags"]["flotilla-expires"] = preflight.result["expires"]  # a second may have passed

    def launch(**request: Any) -> Any:
        sent.update(request)
        return {"Instances": [{"InstanceId": "i-1"}]}

    monkeypatch.setattr(fleet.ec2, "run_instances", launch)
    fleet.launch("ps", 0, [])
    assert set(rehearsed) <= set(sent)
    card = rehearsed.pop("NetworkInterfaces")[0]
    assert card.items() <= sent["NetworkInterfaces"][0].items() and card["SubnetId"] == raised.subnet
    assert rehearsed == {key: sent[key] for key in rehearsed}
    assert boto3.client("ec2").describe_instances()["Reservations"] == []
