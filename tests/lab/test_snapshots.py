"""Images in the lab are disks that other hosts boot from, and a host without a way out reaches S3 at most."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from tests.support.commands import as_root, user_runs, wait_until
from tests.support.lab import HOST, Network, delete_network, make_network

LAYERS = "/var/lib/flotilla-lab/snapshots"
DIGEST = [{"Key": "flotilla-image", "Value": "abc"}]
CLOSED: list[Any] = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
# What a host reaches: an object in S3, another service, this machine as one of the internet; and the lab's packages.
ASK = """
import json, os, socket, sys, urllib.error, urllib.request
socket.setdefaulttimeout(2)
def ask(name, call):
    try:
        print(name, call())
    except OSError as error:
        print(name, "no:", "timed out" in str(error) or error)
def another_service():
    scope = "Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/sts/aws4_request"
    text = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=x"
    request = urllib.request.Request("http://198.18.0.1:5000/", b"Action=GetCallerIdentity&Version=2011-06-15",
                                     {"Authorization": text})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
ask("s3", lambda: urllib.request.urlopen(urllib.request.Request(**json.loads(sys.argv[1]))).read().decode())
ask("sts", another_service)
ask("internet", lambda: urllib.request.urlopen(sys.argv[2]).read().decode())
print("cached", len(os.listdir("/var/cache/uv")), len([n for n in os.listdir("/var/cache/apt/archives") if "_" in n]))
"""
ALONE = """\
s3 hello
sts no: True
internet no: True
"""


@pytest.fixture(scope="module")
def network(lab: boto3.Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    made = make_network(lab, tmp_path_factory.mktemp("network"), "10.94.0.0/24", "snapshots")
    yield made
    delete_network(lab, made)


def boot(network: Network, **options: Any) -> tuple[str, float]:
    """Launch a host; returns it and the seconds until it was ready."""
    begin = time.monotonic()
    [instance] = network.launch(**options)
    network.reachable(instance)
    return instance, time.monotonic() - begin


def end(network: Network, *instances: str) -> None:
    """End hosts, for good."""
    network.ec2.terminate_instances(InstanceIds=list(instances))
    wait_until(lambda: network.states(list(instances)) == {"terminated"}, 30, "terminated")


def bake(network: Network, instance: str, name: str, **options: Any) -> tuple[str, str]:
    """Make an image of a host; returns it and its snapshot when it is available."""
    tags: Any = [{"ResourceType": kind, "Tags": DIGEST} for kind in ("image", "snapshot")]
    image = network.ec2.create_image(InstanceId=instance, Name=name, TagSpecifications=tags, **options)["ImageId"]

    def state() -> str:
        return network.ec2.describe_images(ImageIds=[image])["Images"][0]["State"]

    assert state() == "pending"
    with pytest.raises(ClientError, match=r"InvalidAMIID.Unavailable.*is pending"):
        network.launch(ImageId=image)
    wait_until(lambda: state() != "pending", 60, "the image is made")
    found = network.ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (found["State"], found["Tags"], found["Public"]) == ("available", DIGEST, False)
    return image, found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]


def identity(network: Network, instance: str) -> list[str]:
    """What tells a host from others: machine-id, its instance as cloud-init knows it, its key, its name."""
    files = "/etc/machine-id /var/lib/cloud/data/instance-id /etc/ssh/ssh_host_ed25519_key.pub /etc/hostname"
    return network.ssh(instance, f"cat {files}").stdout.splitlines()


def layers() -> set[str]:
    """The snapshots whose layers lie on the disk."""
    return set(as_root("ls", LAYERS).split()) if Path(LAYERS).is_dir() else set()


@pytest.fixture(scope="module")
def baked(network: Network) -> Iterator[tuple[str, str, str, float]]:
    """A host that has written and deleted files, its image and snapshot, and the seconds of its boot."""
    disk: Any = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "Encrypted": True}}]
    builder, seconds = boot(network, BlockDeviceMappings=disk)
    write = (
        "echo baked > baked && sudo rm -r /etc/debian_version /usr/share/man && sudo mkdir -p /usr/share/man /opt/deep"
        " && sudo setcap cap_net_raw+ep /usr/bin/less && sudo truncate --size 0 /etc/machine-id"
    )
    assert network.ssh(builder, write).returncode == 0
    image, snapshot = bake(network, builder, "first", NoReboot=True)
    yield builder, image, snapshot, seconds
    end(network, builder)


def test_a_host_boots_from_what_another_has_written(network: Network, baked: tuple[str, str, str, float]) -> None:
    builder, image, _snapshot, seconds = baked
    other, took = boot(network, ImageId=image)
    assert took < 1.5 * seconds + 2, f"as fast as from the base image, which took {seconds:.1f} s"
    see = "cat baked; ls -d /opt/deep /etc/debian_version /usr/share/man/*; /usr/sbin/getcap /usr/bin/less"
    assert network.ssh(other, see).stdout.split() == ["baked", "/opt/deep", "/usr/bin/less", "cap_net_raw=ep"]
    assert network.ssh(builder, "cat baked").stdout == "baked\n", "it went on meanwhile"
    first, second = identity(network, builder), identity(network, other)
    assert second[0] != "" and second[1] == other
    assert not set(first) & set(second)
    volume = network.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [other]}])["Volumes"][0]
    assert (volume["Encrypted"], volume["Size"]) == (True, 20)
    end(network, other)


def test_an_image_of_an_images_host_outlives_it(network: Network, baked: tuple[str, str, str, float]) -> None:
    _builder, image, _snapshot, _seconds = baked
    middle, _ = boot(network, ImageId=image)
    own, below = bake(network, middle, "kept", NoReboot=True)
    began = network.ssh(middle, "stat --format %Y /proc/1").stdout
    network.ssh(middle, "rm baked; echo second > second")
    upper, snapshot = bake(network, middle, "second")  # which reboots it
    wait_until(lambda: network.ssh(middle, "stat --format %Y /proc/1").stdout not in ("", began), 40, "rebooted")
    assert network.states([middle]) == {"running"}
    assert network.ssh(middle, "ls").stdout == "second\n"
    network.ec2.stop_instances(InstanceIds=[middle])
    wait_until(lambda: network.states([middle]) == {"stopped"}, 30, "stopped")
    last, top = bake(network, middle, "third")
    end(network, middle)
    for one in (own, upper):
        with pytest.raises(ClientError, match=r"InvalidSnapshot.InUse.*in use by"):
            network.ec2.delete_snapshot(SnapshotId=below if one == own else snapshot)
        network.ec2.deregister_image(ImageId=one, DeleteAssociatedSnapshots=True)
    assert below not in layers(), "nobody needs it"
    assert {snapshot, top} <= layers(), "one is under the other"
    host, _ = boot(network, ImageId=last)
    assert network.ssh(host, "ls; ls -d /opt/deep").stdout.split() == ["second", "/opt/deep"]
    network.ec2.deregister_image(ImageId=last)
    network.ec2.delete_snapshot(SnapshotId=top)
    assert network.ssh(host, "cat second").stdout == "second\n", "who runs has its disk"
    end(network, host)
    wait_until(lambda: not {snapshot, top} & layers(), 10, "the layers are gone")


def test_an_image_whose_snapshot_is_gone_launches_nothing(network: Network, baked: tuple[str, str, str, float]) -> None:
    image, snapshot = bake(network, baked[0], "lost", NoReboot=True)
    as_root("rm", "-r", f"{LAYERS}/{snapshot}")
    instance = network.ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.large", SubnetId=network.subnet
    )["Instances"][0]["InstanceId"]
    wait_until(lambda: network.states([instance]) == {"terminated"}, 20, "terminated")
    found = network.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["StateReason"]["Code"] == "Client.InvalidSnapshot.NotFound"


def test_an_image_of_another_architecture_is_refused(network: Network, baked: tuple[str, str, str, float]) -> None:
    root: Any = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": baked[2]}}]
    image = network.ec2.register_image(
        Name="arm", Architecture="arm64", RootDeviceName="/dev/xvda", BlockDeviceMappings=root
    )["ImageId"]
    with pytest.raises(ClientError, match=r"does not match the architecture 'arm64' of the specified AMI"):
        network.launch(ImageId=image)


@pytest.fixture(scope="module")
def signed(lab: boto3.Session) -> str:
    """A request for an object, as JSON; signed by its headers, as moto judges no signed address."""
    s3 = lab.client("s3")
    s3.create_bucket(Bucket="flotilla-alone")
    s3.put_object(Bucket="flotilla-alone", Key="object", Body=b"hello")
    request = AWSRequest("GET", f"{s3.meta.endpoint_url}/flotilla-alone/object")
    S3SigV4Auth(lab.get_credentials(), "s3", s3.meta.region_name).add_auth(request)
    return json.dumps({"url": request.url, "headers": dict(request.headers)})


@pytest.fixture(scope="module")
def reaches(signed: str) -> Iterator[Callable[[str], str]]:
    """Says what a host reaches, by a shell that needs no network."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"page")

    server = ThreadingHTTPServer((HOST.removesuffix("/32"), 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = f"http://{server.server_address[0]!s}:{server.server_port}/"
    yield lambda instance: user_runs("scripts/lab", "shell", instance, "python3", "-c", ASK, signed, page).stdout
    server.shutdown()


def test_a_private_host_reaches_s3_alone_and_by_its_endpoint(network: Network, reaches: Callable[[str], str]) -> None:
    private, table = network.private_subnet("10.95.0.0/24")
    interface = {"DeviceIndex": 0, "SubnetId": private, "Groups": [network.group]}
    [instance] = network.launch(NetworkInterfaces=[interface])
    user_runs("scripts/lab", "shell", instance, "cloud-init", "status", "--wait")
    assert reaches(instance) == ALONE.replace("s3 hello", "s3 no: True") + "cached 0 0\n", "without an endpoint"
    network.s3_endpoint(table)
    assert reaches(instance) == ALONE + "cached 0 0\n"
    end(network, instance)


def test_a_group_that_lets_out_to_s3s_addresses_lets_out_to_s3_alone(
    network: Network, reaches: Callable[[str], str]
) -> None:
    ec2 = network.ec2
    [listed] = ec2.describe_prefix_lists(
        Filters=[{"Name": "prefix-list-name", "Values": ["com.amazonaws.us-east-1.s3"]}]
    )["PrefixLists"]
    to_s3: Any = [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
                   "PrefixListIds": [{"PrefixListId": listed["PrefixListId"]}]}]  # fmt: skip
    instance, _ = boot(network)
    assert "s3 hello\nsts 403\ninternet page\n" in reaches(instance), "before"
    ec2.revoke_security_group_egress(GroupId=network.group, IpPermissions=CLOSED)
    ec2.authorize_security_group_egress(GroupId=network.group, IpPermissions=to_s3)
    try:
        assert ALONE in reaches(instance)
        assert network.ssh(instance, "echo in").stdout == "in\n", "who is let in gets answers"
    finally:
        ec2.authorize_security_group_egress(GroupId=network.group, IpPermissions=CLOSED)
        end(network, instance)
