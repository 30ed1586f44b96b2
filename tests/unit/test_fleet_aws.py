"""Preflight, instances and inventory of a fleet, against moto."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible_collections.flotilla.kit.plugins.inventory.fleet import InventoryModule
from ansible_collections.flotilla.kit.plugins.module_utils import access_policy, aws, prices, quotas
from ansible_collections.flotilla.kit.plugins.modules.fleet_instances import Fleet, reconcile_fleet
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.ec2.models.instances import InstanceBackend

REGION = "us-east-1"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)
POLICY = json.dumps(access_policy.policy("s3://data/cifar10/", "s3://models/out/"))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty region with an image, a data set and a bucket for models."""
    monkeypatch.setenv("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setattr(Fleet, "wait_ssh", lambda self, running: None)
    # moto has no Price List API, and no quotas of EC2.
    more = {"GB": 0.08 / 730, "address": 0.005}
    monkeypatch.setattr(prices, "look_up", lambda _, region, types: {**dict.fromkeys(types, 0.0832), **more})
    monkeypatch.setattr(quotas, "look_up", lambda *_: {})
    session = boto3.session.Session
    shared = session()  # reading EC2's description anew for each client takes longer than all else here
    monkeypatch.setattr(
        aws.boto3.session,
        "Session",
        lambda profile_name=None, **more: session(profile_name=profile_name, **more) if profile_name else shared,
    )
    # moto hands out a subnet's addresses from a generator, which two launches at once break; the lab has the same lock.
    lock, run_instances = threading.Lock(), InstanceBackend.run_instances

    def one_at_a_time(*arguments: Any, **options: Any) -> Any:
        with lock:
            return run_instances(*arguments, **options)

    monkeypatch.setattr(InstanceBackend, "run_instances", one_at_a_time)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="data")
        s3.create_bucket(Bucket="models")
        kinds = {"size": 5, "records": 1, "sha256": "0" * 64, "crc32c": "0" * 8}
        files = [{"path": f"{split}-0.tfrecord", "split": split, **kinds} for split in ("train", "validation", "eval")]
        features = {"image": {"dtype": "uint8", "shape": [3, 32, 32]}, "label": {"dtype": "int64", "classes": 10}}
        manifest = {"format": "flotilla-dataset/1", "name": "cifar10", "features": features, "files": files}
        for file in files:
            s3.put_object(Bucket="data", Key=f"cifar10/{file['path']}", Body=b"12345")
        s3.put_object(Bucket="data", Key="cifar10/manifest.json", Body=json.dumps(manifest))
        yield


@pytest.fixture
def image(cloud: None) -> str:
    """An image of Debian 12."""
    answer = boto3.client("ec2").register_image(
        Name="debian-12-amd64-test",
        Architecture="x86_64",
        RootDeviceName="/dev/xvda",
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}],
    )
    return str(answer["ImageId"])


@pytest.fixture
def variables(image: str) -> dict[str, Any]:
    """What the role gives fleet_preflight for a small fleet."""
    small = {"count": 1, "instance_type": "t3.large"}
    return {
        "region": REGION,
        "profile": "",
        "name": "demo",
        "launcher": "ansible",
        "owner": "",
        "adopt": False,
        "groups": {"ps": small, "chief": small, "worker": {**small, "count": 2}},
        "expiry_hours": 4,
        "ssh_sources": ["203.0.113.7"],
        "ssh_open_to_world": False,
        "checkip_url": "http://127.0.0.1:9/",
        "ssh_key": "",
        "boundary": "",
        "vpc_id": "",
        "subnet_id": "",
        "vpc_cidr": "10.77.0.0/16",
        "zone": "",
        "max_hosts": 20,
        "max_cost": 25,
        "unknown_prices": False,
        "dataset_source": "s3://data/cifar10/",
        "requester_pays": False,
        "signature": "",
        "model_target": "s3://models/out/",
        "reads": {},
        "writes": {},
        "program": "",
        "batch_size": 0,
        "local_data": False,
        "accelerator": "auto",
        "images": {"cpu": image, "gpu": image, "gpu_plain": image},
        "volume_size": 20,
        "public_addresses": True,
    }


def problems(variables: dict[str, Any], **changes: Any) -> list[str]:
    """What fleet_preflight finds wrong with changed variables."""
    preflight = Preflight({**variables, **changes})
    try:
        preflight.run()
    except aws.FleetError as error:
        preflight.problems.append(str(error))
    return preflight.problems


def test_preflight_returns_what_the_launch_needs(variables: dict[str, Any], image: str) -> None:
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == [] and preflight.warnings == []
    result = preflight.result
    dataset = result["dataset"]
    assert {key: dataset[key] for key in ("name", "files", "bytes", "records")} == {
        "name": "cifar10", "files": 3, "bytes": 15, "records": 3
    }  # fmt: skip
    assert dataset["says"] == [
        "The data set s3://data/cifar10/ is cifar10, by its manifest: 3 objects, 15 B, of 5 B each.",
        "It fills 0% of HDFS, which keeps 3 copies.",
    ]
    assert result["ssh_sources"] == ["203.0.113.7/32"]
    assert (result["hosts"], result["running"]) == (4, 0)
    assert result["owner"] and result["zone"].startswith(REGION)
    assert result["groups"]["worker"] == {
        "count": 2,
        "instance_type": "t3.large",
        "image": "",
        "image_id": image,
        "root_device": "/dev/sda1",  # moto doesn't keep the image's own
        "ssh_user": "admin",
        "volume_size": 20,
        "gpus": 0,
        "gpu": "",
        "tasks": 1,
    }
    assert result["plan"][-2].split() == ["in", "all", "4", "0.362"]
    assert round(result["hourly"], 3) == 0.362
    assert boto3.client("s3").list_objects_v2(Bucket="models")["KeyCount"] == 0
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket="models")


# What TensorFlow 2.15 has written of a model with the signatures serving_default and text, without its graph
MODEL = base64.b64decode(
    "EtMBCg8iBXNlcnZlKgYyLjE1LjEqYwoPc2VydmluZ19kZWZhdWx0ElAKJgoFaW1hZ2USHRAEGhkSCwj///////////8BEgIICBICCAgSAggDEi"
    "YKDXByb2JhYmlsaXRpZXMSFRABGhESCwj///////////8BEgIIAyo4ChVfX3NhdmVkX21vZGVsX2luaXRfb3ASHxIdChVfX3NhdmVkX21vZGVs"
    "X2luaXRfb3ASBBoCGAEqIQoEdGV4dBIZCgwKBHRleHQSBBAHGgASCQoBbhIEEAMaAA=="
)


@pytest.mark.parametrize(
    ("folder", "content", "signature", "said"),
    [
        ("", MODEL, "", "(serving_default, of TensorFlow 2.15.1) takes image: uint8 [?, 8, 8, 3], and gives "
         "probabilities: float32 [?, 3]."),
        ("saved_model/", MODEL, "text", "(text, of TensorFlow 2.15.1) takes text: text [], and gives n: int32 []."),
        ("", MODEL.replace(b"serving_default", b"serving_defaulx"), "", "has the signatures serving_defaulx, text: "),
        ("", MODEL, "images", "has no signature 'images' (infer_signature): there are serving_default, text."),
        ("", MODEL[:-1], "", "is no SavedModel, or a part of one"),
        ("", b"\x89PNG\r\n", "", "is no SavedModel, or a part of one"),
        ("", b"", "", "is no SavedModel, or a part of one"),
    ],
)  # fmt: skip
def test_preflight_says_what_a_model_takes(
    variables: dict[str, Any], folder: str, content: bytes, signature: str, said: str
) -> None:
    boto3.client("s3").put_object(Bucket="data", Key=f"m/{folder}saved_model.pb", Body=content)
    preflight = Preflight({**variables, "reads": {"infer_model": "s3://data/m/"}, "signature": signature})
    preflight.run()
    (found,) = preflight.problems or preflight.result["model"]
    assert said in found and "s3://data/m/" in found


def test_preflight_without_permission_to_ask_for_prices(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> None:
        raise aws.FleetError("The credentials may not look up prices.")

    monkeypatch.setattr(prices, "look_up", denied)
    (problem,) = problems(variables)
    assert "The price of t3.large, gp3 volumes, public addresses isn't known (The credentials may not" in problem
    assert "fleet_unknown_prices" in problem
    preflight = Preflight({**variables, "unknown_prices": True})
    preflight.run()
    assert preflight.problems == []
    assert preflight.warnings == ["The prices are unknown. The credentials may not look up prices."]
    assert preflight.result["plan"][-2].split() == ["in", "all", "4", "?"]
    assert preflight.result["hourly"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_source": "s3://not-there/cifar10/"}, ["bucket not-there of dataset_source isn't there"]),
        ({"dataset_source": "s3://data/mnist/"}, ["There is nothing in s3://data/mnist/"]),
        ({"model_target": "s3://not-there/out/"}, ["bucket not-there of store_target isn't there"]),
        ({"writes": {"infer_target": "s3://not-there/out/"}}, ["bucket not-there of infer_target isn't there"]),
        ({"reads": {"infer_source": "s3://not-there/out/"}}, ["bucket not-there of infer_source isn't there"]),
        ({"reads": {"infer_source": "s3://data/photos/"}}, ["There is nothing in s3://data/photos/ (infer_source)"]),
        ({"reads": {"infer_model": "s3://data/cifar10/"}}, ["holds no saved_model.pb", "SavedModel's folder"]),
        ({"program": "s3://not-there/a.zip"}, ["no object a.zip in the bucket not-there", "upload the program there"]),
        ({"program": "s3://data/programs/a.zip"}, ["no object programs/a.zip in the bucket data", "training_program"]),
        ({"program": "s3://data/programs/a.rar"}, ["s3://data/programs/a.rar", "write it as s3://"]),
        ({"vpc_id": "vpc-1", "subnet_id": "subnet-1"}, ["subnet-1 isn't there"]),
        ({"ssh_sources": []}, ["http://127.0.0.1:9/", "fleet_ssh_sources"]),
        ({"accelerator": "gpu"}, ["chief and worker has no GPU"]),
        ({"profile": "nobody"}, ["profile nobody isn't in"]),
        ({"images": {"cpu": "/no/such/parameter"}}, ["/no/such/parameter", "isn't an SSM parameter"]),
        ({"images": {"cpu": ""}}, ["The image (none)", "isn't an image's id"]),
        ({"images": {"cpu": "ami-00000000000000000"}}, ["isn't there in us-east-1"]),
    ],
)
def test_preflight_refuses(variables: dict[str, Any], changes: dict[str, Any], words: list[str]) -> None:
    found = problems(variables, **changes)
    assert len(found) == 1, found
    assert all(word in found[0] for word in words), found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("t3.larg", "doesn't exist in us-east-1: did you mean t3.large"),
        ("p2.xlarge", "can't use: take g4dn"),
        ("g6f.xlarge", "part of a GPU"),
        ("gr6f.4xlarge", "part of a GPU"),
        ("m7g.large", "arm64"),
    ],
)
def test_preflight_refuses_types(variables: dict[str, Any], kind: str, words: str) -> None:
    variables["groups"]["worker"] = {"count": 1, "instance_type": kind}
    found = problems(variables)
    assert len(found) == 1 and words in found[0], found


def test_preflight_gives_each_gpu_a_task(variables: dict[str, Any]) -> None:
    variables["groups"] = {
        "ps": {"count": 1, "instance_type": "g4dn.12xlarge"},
        "chief": {"count": 1, "instance_type": "g4dn.12xlarge", "tasks": 2},
        "worker": {"count": 1, "instance_type": "g4dn.12xlarge"},
    }
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == []
    assert {name: group["tasks"] for name, group in preflight.result["groups"].items()} == {
        "ps": 1,
        "chief": 2,
        "worker": 4,
    }
    (warning,) = [text for text in preflight.warnings if "GPUs" in text]
    assert "fleet_groups.chief" in warning and "4 GPUs, of which training uses 2" in warning
    variables["groups"]["chief"]["tasks"] = 5
    assert "tasks is 5, but g4dn.12xlarge has 4 GPUs" in problems(variables)[0]


def test_preflight_warns_of_tasks_without_memory(variables: dict[str, Any]) -> None:
    variables["groups"]["worker"] = {"count": 1, "instance_type": "c5.2xlarge", "tasks": 8}
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == [] and preflight.warnings == []
    variables["groups"]["worker"] = {"count": 1, "instance_type": "t3.small", "tasks": 2}
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == []
    assert "2048 MiB of memory, too little for HDFS and 2 tasks of TensorFlow" in preflight.warnings[0]


def test_preflight_looks_at_a_program_in_s3(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    variables["program"] = "s3://code/programs/digits.tar.gz"
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="code")
    s3.put_object(Bucket="code", Key="programs/digits.tar.gz", Body=bytes(20_000_001))
    assert problems(variables) == [
        "training_program s3://code/programs/digits.tar.gz is larger than 20 MB: data belong into dataset_source."
    ]
    s3.put_object(Bucket="code", Key="programs/digits.tar.gz", Body=bytes(20_000_000))
    preflight = Preflight(variables)
    preflight.run()
    assert preflight.problems == []
    allowed = [one["Resource"] for one in preflight.result["policy"]["Statement"] if one["Sid"] == "Program"]
    assert allowed == [["arn:aws:s3:::code/programs/digits.tar.gz"]]

    def deny(model: Any, **_: Any) -> Any:
        error = {"Error": {"Code": "403", "Message": "Forbidden"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return type("Answer", (), {"status_code": 403}), error

    client = aws.Aws.client

    def denied(self: Any, service: str) -> Any:
        made = client(self, service)
        if service == "s3":
            made.meta.events.register("before-call.s3.HeadObject", deny)
        return made

    monkeypatch.setattr(aws.Aws, "client", denied)
    (found,) = problems(variables)
    assert "object programs/digits.tar.gz in the bucket code" in found and "s3:GetObject" in found


def test_the_boundary_is_found_by_its_name(variables: dict[str, Any]) -> None:
    def found(**changes: Any) -> tuple[str, list[str]]:
        preflight = Preflight({**variables, **changes})
        preflight.run()
        return preflight.result["boundary"], preflight.problems

    assert found() == ("", [])
    assert "fleet_boundary mine isn't a policy of this account" in found(boundary="mine")[1][0]
    most = POLICY.replace("data/cifar10/", "data/").replace("models/out/", "models/")
    made = boto3.client("iam").create_policy(PolicyName="flotilla-boundary", PolicyDocument=most)
    arn = made["Policy"]["Arn"]
    assert found() == (arn, []) == found(boundary="flotilla-boundary") == found(boundary=arn)
    other = boto3.client("iam").create_policy(PolicyName="other", PolicyDocument=most.replace("models", "others"))
    (problem,) = found(boundary="other")[1]
    assert "couldn't use arn:aws:s3:::models/out/*, arn:aws:s3:::models, as their boundary" in problem
    assert other["Policy"]["Arn"] in problem


def test_a_folder_of_anybodys(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manifest: listed, judged and shown as it is, for a program of one's own."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="lake")
    folder = {"dataset_source": "s3://lake/my pictures/größe 100%", "program": "train.py"}
    for key, body in {"": b"", "cat/1.jpg": b"12", "dog/a b.jpg": b"x" * 1500}.items():
        s3.put_object(Bucket="lake", Key=f"my pictures/größe 100%/{key}", Body=body)
    preflight = Preflight({**variables, **folder})
    preflight.run()
    assert preflight.problems == []
    said = preflight.result["dataset"]
    assert (said["files"], said["bytes"], said["name"]) == (2, 1502, "größe 100%")
    assert said["says"][0] == (
        "The data set s3://lake/my pictures/größe 100% is taken as it is, without a manifest: 2 objects, 1.5 kB, of "
        "2 B to 1.5 kB each; 1 empty objects that stand for folders are left out."
    )
    read, listing = preflight.result["policy"]["Statement"][:2]
    assert read["Resource"] == ["arn:aws:s3:::lake/my pictures/größe 100%/*"]
    assert listing["Condition"]["StringLike"]["s3:prefix"] == [
        "my pictures/größe 100%/*",
        "my pictures/größe 100%",
    ]

    (problem,) = problems(variables, **{**folder, "program": ""})
    assert "has no manifest.json of the kit's, and the built-in network can't know" in problem
    (problem,) = problems(variables, **{**folder, "dataset_source": "s3://lake/my pictures/größe 100%/cat/1.jpg"})
    assert "there is 'my pictures/größe 100%/cat/1.jpg', and dataset_source names a folder" in problem
    s3.put_object(Bucket="lake", Key="my pictures/größe 100%/manifest.json", Body=b'{"name": "a web app"}')
    preflight = Preflight({**variables, **folder})
    preflight.run()
    assert preflight.problems == [] and preflight.result["dataset"]["files"] == 3, "it is a file like any other"
    assert problems(variables, **{**folder, "dataset_source": "s3://lake"}) == [], "a whole bucket may be read"


def test_whose_bucket_and_whose_keys(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., Any] = aws.Aws.client
    asked: list[dict[str, Any]] = []
    key = "arn:aws:kms:us-east-1:111122223333:key/1"

    def others(self: Any, service: str) -> Any:
        client = make(self, service)
        if service != "s3" or isinstance(client, Others):
            return client
        return Others(client)

    class Others:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            return getattr(self._client, name)

        def head_bucket(self, **request: Any) -> Any:
            if "ExpectedBucketOwner" in request:
                raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")
            return self._client.head_bucket(**request)

        def head_object(self, **request: Any) -> Any:
            asked.append(request)
            return {**self._client.head_object(**request), "SSEKMSKeyId": key}

        def create_multipart_upload(self, **request: Any) -> Any:
            # What AWS answers, and moto doesn't, where the bucket has a key by default.
            return {**self._client.create_multipart_upload(**request), "SSEKMSKeyId": f"{key}-{request['Bucket']}"}

    monkeypatch.setattr(aws.Aws, "client", others)
    further = {"reads": {"infer_source": "s3://data/cifar10/"}, "writes": {"infer_target": "s3://models/predictions/"}}
    preflight = Preflight({**variables, **further, "requester_pays": True})
    preflight.run()
    assert preflight.problems == []
    assert any("is another account's" in text for text in preflight.warnings)
    assert all(request["RequestPayer"] == "requester" for request in asked) and asked
    decrypt, write = ["kms:Decrypt"], ["kms:GenerateDataKey", "kms:Decrypt"]
    for policy in (preflight.result["policy"], preflight.result["folders_policy"]):
        keys = [(one["Action"], one["Resource"]) for one in policy["Statement"] if one["Action"][0].startswith("kms:")]
        assert keys == [(decrypt, [key]), (write, [f"{key}-models"])]


def test_preflight_compares_manifest_and_objects(variables: dict[str, Any]) -> None:
    boto3.client("s3").put_object(Bucket="data", Key="cifar10/train-0.tfrecord", Body=b"1234")
    assert "another size" in problems(variables)[0]
    boto3.client("s3").delete_object(Bucket="data", Key="cifar10/train-0.tfrecord")
    assert "train-0.tfrecord isn't there" in problems(variables)[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [("InvalidClientTokenId", "AWS refuses the credentials of"), ("ExpiredToken", "have expired")],
)
def test_wrong_credentials(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    def refuse(self: Any, service: str) -> Any:
        class Client:
            def get_caller_identity(self) -> None:
                raise ClientError({"Error": {"Code": code, "Message": "The token is invalid."}}, "GetCallerIdentity")

        return Client()

    monkeypatch.setattr(aws.Aws, "client", refuse)
    found = problems(variables)
    assert len(found) == 1 and words in found[0] and code in found[0], found


def test_a_folder_that_may_not_be_written(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., Any] = aws.Aws.client

    def refusing(self: Any, service: str) -> Any:
        client = make(self, service)
        if service == "s3":

            def deny(**request: Any) -> None:
                raise ClientError(
                    {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "CreateMultipartUpload"
                )

            client.create_multipart_upload = deny
        return client

    monkeypatch.setattr(aws.Aws, "client", refusing)
    found = problems(variables)
    assert len(found) == 1 and "may not write to s3://models/out/ (store_target)" in found[0], found


def test_no_credentials(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "No usable AWS credentials" in problems(variables)[0]


def lead_out(vpc: str) -> None:
    """Give a VPC a way to the internet, which moto's default one hasn't, unlike AWS's."""
    ec2 = boto3.client("ec2")
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)


def test_existing_network(variables: dict[str, Any]) -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/28", AvailabilityZone="us-east-1c")["Subnet"]["SubnetId"]
    lead_out(vpc)
    preflight = Preflight({**variables, "vpc_id": vpc, "subnet_id": subnet})
    preflight.run()
    assert preflight.problems == [] and preflight.result["zone"] == "us-east-1c"
    assert "belongs to" in problems(variables, vpc_id=other, subnet_id=subnet)[0]
    variables["groups"]["worker"]["count"] = 12
    assert "free addresses for 14 hosts" in problems(variables, vpc_id=vpc, subnet_id=subnet)[0]


class Raised:
    """A fleet's network and access, and its instances as fleet_instances makes them."""

    def __init__(self, variables: dict[str, Any]) -> None:
        """Make what the role makes before the instances."""
        self.variables = variables
        self.ec2, self.iam = boto3.client("ec2"), boto3.client("iam")
        tags = [{"Key": "flotilla-fleet", "Value": "demo"}]

        def tagged(kind: str) -> list[dict[str, Any]]:
            return [{"ResourceType": kind, "Tags": tags}]

        self.vpc = self.ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=tagged("vpc"))["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(
            VpcId=self.vpc,
            CidrBlock="10.77.0.0/16",
            AvailabilityZone=f"{REGION}a",
            TagSpecifications=tagged("subnet"),
        )["Subnet"]["SubnetId"]
        gateway = self.ec2.create_internet_gateway(TagSpecifications=tagged("internet-gateway"))
        self.ec2.attach_internet_gateway(
            VpcId=self.vpc, InternetGatewayId=gateway["InternetGateway"]["InternetGatewayId"]
        )
        table = self.ec2.create_route_table(VpcId=self.vpc, TagSpecifications=tagged("route-table"))["RouteTable"]
        self.ec2.associate_route_table(RouteTableId=table["RouteTableId"], SubnetId=self.subnet)
        self.ec2.create_vpc_endpoint(
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{REGION}.s3",
            VpcEndpointType="Gateway",
            RouteTableIds=[table["RouteTableId"]],
            TagSpecifications=tagged("vpc-endpoint"),
        )
        self.group = self.ec2.create_security_group(
            GroupName="nodes", Description="nodes", VpcId=self.vpc, TagSpecifications=tagged("security-group")
        )["GroupId"]
        self.ec2.create_key_pair(KeyName="flotilla-demo", TagSpecifications=tagged("key-pair"))
        name = f"flotilla-demo-{REGION}"
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST, Tags=tags)
        self.iam.put_role_policy(RoleName=name, PolicyName="storage", PolicyDocument=POLICY)
        self.iam.create_instance_profile(InstanceProfileName=name, Tags=tags)
        self.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def fleet(self, **counts: int) -> Fleet:
        """The fleet as fleet_instances sees it, with other counts."""
        groups = {name: dict(group) for name, group in self.variables["groups"].items()}
        for name, count in counts.items():
            groups[name]["count"] = count
        preflight = Preflight({**self.variables, "groups": groups})
        preflight.run()
        assert preflight.problems == []
        return Fleet(
            {
                "region": REGION,
                "profile": "",
                "name": "demo",
                "groups": preflight.result["groups"],
                "tags": {
                    "flotilla-fleet": "demo",
                    "flotilla-owner": preflight.result["owner"],
                    "flotilla-expires": preflight.result["expires"],
                },
                "subnet_id": self.subnet,
                "security_group_id": self.group,
                "key_name": "flotilla-demo",
                "instance_profile": f"flotilla-demo-{REGION}",
                "public_addresses": True,
                "user_data": "#cloud-config",
                "timeout": 10,
            }
        )

    def up(self, dry: bool = False, **counts: int) -> dict[str, Any]:
        """Run fleet_instances."""
        return reconcile_fleet(self.fleet(**counts), dry)

    def live(self) -> dict[str, str]:
        """The live instances: name and id. Fails when a name is there twice."""
        found = self.ec2.describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        )["Reservations"]
        pairs = [(aws.tags_of(one)["Name"], one["InstanceId"]) for r in found for one in r["Instances"]]
        assert len(dict(pairs)) == len(pairs)
        return dict(sorted(pairs))


@pytest.fixture
def raised(variables: dict[str, Any]) -> Raised:
    """A fleet whose instances are still to be launched."""
    return Raised(variables)


def test_launch_and_nothing_the_second_time(raised: Raised) -> None:
    first = raised.up()
    assert first["changed"] and sorted(first["launched"]) == ["chief-0", "ps-0", "worker-0", "worker-1"]
    assert [one["name"] for one in first["instances"]] == ["ps-0", "chief-0", "worker-0", "worker-1"]
    before = raised.live()
    second = raised.up()
    assert not second["changed"] and raised.live() == before

    one = raised.ec2.describe_instances(InstanceIds=[before["demo-worker-1"]])["Reservations"][0]["Instances"][0]
    tags = aws.tags_of(one)
    assert (tags["flotilla-group"], tags["flotilla-index"], tags["flotilla-ssh-user"]) == ("worker", "1", "admin")
    volume = raised.ec2.describe_volumes(VolumeIds=[one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"][0]
    assert (volume["VolumeType"], volume["Size"], volume["Encrypted"]) == ("gp3", 20, True)
    assert aws.tags_of(volume)["flotilla-group"] == "worker"
    assert one["MetadataOptions"]["HttpTokens"] == "required"
    shutdown = raised.ec2.describe_instance_attribute(
        InstanceId=one["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert shutdown["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_check_mode_launches_nothing(raised: Raised) -> None:
    answer = raised.up(dry=True)
    assert answer["changed"] and len(answer["launched"]) == 4
    assert raised.live() == {}


def test_a_killed_launch_is_finished_without_doubles(raised: Raised) -> None:
    fleet = raised.fleet()
    fleet.launch("worker", 1, [])
    fleet.launch("ps", 0, [])
    before = raised.live()
    assert sorted(raised.up()["launched"]) == ["chief-0", "worker-0"]
    after = raised.live()
    assert len(after) == 4 and before.items() <= after.items()


def test_shrink_regrow_and_a_host_that_went(raised: Raised) -> None:
    raised.up()
    first = raised.live()
    assert [name.split()[0] for name in raised.up(worker=1)["terminated"]] == ["worker-1"]
    raised.ec2.terminate_instances(InstanceIds=[first["demo-chief-0"]])
    assert sorted(raised.up()["launched"]) == ["chief-0", "worker-1"]
    last = raised.live()
    assert list(last) == list(first)
    assert {name for name in first if first[name] != last[name]} == {"demo-chief-0", "demo-worker-1"}


def test_each_host_has_a_schedule_that_ends_it(raised: Raised) -> None:
    def up(dry: bool = False, **counts: int) -> dict[str, Any]:
        fleet = raised.fleet(**counts)
        fleet.p["schedule_role"] = f"arn:aws:iam::123456789012:role/flotilla-demo-{REGION}-expiry"
        return reconcile_fleet(fleet, dry)

    def scheduled() -> set[str]:
        found = boto3.client("scheduler").list_schedules(GroupName="flotilla-demo")["Schedules"]
        return {one["Name"] for one in found}

    up(worker=1)
    assert scheduled() == set(raised.live().values())
    assert up(dry=True, worker=1)["changed"] is False
    up(worker=0)
    assert scheduled() == set(raised.live().values()) and len(scheduled()) == 2
    assert up(worker=0)["changed"] is False
    assert raised.up(worker=0)["scheduled"] == ["flotilla-demo"], "left out later, none ends a host at an old expiry"


def test_a_stopped_host_is_started(raised: Raised) -> None:
    raised.up()
    before = raised.live()
    raised.ec2.stop_instances(InstanceIds=[before["demo-ps-0"]])
    assert raised.up()["started"] == ["ps-0"]
    assert raised.live() == before


def test_a_later_expiry_reaches_the_tags(raised: Raised) -> None:
    raised.up()
    raised.variables["expiry_hours"] = 8
    assert len(raised.up()["retagged"]) == 4
    assert not raised.up()["changed"]


def test_anothers_fleet_is_gone_on_with_only_when_one_says_so(raised: Raised) -> None:
    raised.variables["owner"] = "ada"
    raised.up()
    assert not raised.up()["changed"]
    raised.variables["owner"] = ""
    assert "is ada's, and you are moto" in problems(raised.variables)[0] and len(problems(raised.variables)) == 1
    raised.variables["adopt"] = True
    assert not raised.up()["changed"]
    raised.variables["owner"] = "grace"
    assert len(raised.up()["retagged"]) == 4


def inventory_of(folder: Path, **variables: Any) -> InventoryData:
    """The inventory that the plugin makes from a folder with these variables."""
    (folder / "group_vars").mkdir()
    (folder / "group_vars/all.yml").write_text(json.dumps(variables))
    file = folder / "fleet.yml"
    file.write_text("plugin: flotilla.kit.fleet\n")
    data, plugin = InventoryData(), InventoryModule()
    plugin._load_name = plugin._original_path = "flotilla.kit.fleet"
    assert plugin.verify_file(str(file)) and not plugin.verify_file(str(folder / "group_vars/all.yml"))
    plugin.parse(data, DataLoader(), str(file))
    return data


def test_inventory(raised: Raised, tmp_path: Path) -> None:
    raised.up()
    data = inventory_of(tmp_path, fleet_name="demo", fleet_region=REGION, fleet_ssh_key="~/key")
    members = {name: [host.name for host in data.groups[name].get_hosts()] for name in data.groups}
    assert members["worker"] == ["worker-0", "worker-1"]
    assert sorted(members["fleet"]) == ["chief-0", "ps-0", "worker-0", "worker-1"] and members["evaluator"] == []
    found = data.hosts["ps-0"].vars
    assert found["private_ip_address"].startswith("10.77.") and found["ansible_host"] != found["private_ip_address"]
    assert found["ansible_user"] == "admin" and found["instance_type"] == "t3.large"
    assert found["ansible_ssh_private_key_file"] == f"{os.environ['HOME']}/key"
    assert f"HostKeyAlias={found['instance_id']}" in found["ansible_ssh_common_args"]
    assert found["fleet_expires"].endswith("Z")


def test_another_number_of_tasks_reaches_the_hosts_that_run(raised: Raised, tmp_path: Path) -> None:
    raised.up()
    raised.variables["groups"]["worker"]["tasks"] = 2
    assert raised.up(dry=True)["retagged"] == raised.up()["retagged"] == ["worker-0", "worker-1"]
    assert not raised.up()["changed"]
    data = inventory_of(tmp_path, fleet_name="demo", fleet_region=REGION)
    tasks = {name: host.vars["fleet_tasks"] for name, host in data.hosts.items()}
    assert tasks == {"ps-0": 1, "chief-0": 1, "worker-0": 2, "worker-1": 2}


def test_variables_beside_the_inventory_are_templates(raised: Raised, tmp_path: Path) -> None:
    raised.up()
    data = inventory_of(tmp_path, fleet_name="{{ short }}mo", short="de", fleet_region=REGION)
    assert "ps-0" in data.hosts


def test_inventory_of_no_fleet_is_empty(cloud: None, tmp_path: Path) -> None:
    data = inventory_of(tmp_path, fleet_name="demo")
    assert set(data.groups) >= {"ps", "chief", "worker", "evaluator", "fleet"} and not data.hosts


def test_inventory_says_why_it_can_not(cloud: None, tmp_path: Path) -> None:
    with pytest.raises(AnsibleParserError, match="profile nobody isn't in"):
        inventory_of(tmp_path, fleet_name="demo", fleet_profile="nobody")


@pytest.mark.parametrize("region", ["US-EAST-1", "us-east-1a", ""])
def test_inventory_takes_no_other_word_for_a_region(tmp_path: Path, region: str) -> None:
    with pytest.raises(AnsibleParserError, match=f"fleet_region '{region}' isn't a region's name"):
        inventory_of(tmp_path, fleet_region=region)
