"""The lab keeps API and hosts in step, and its network as closed as AWS would."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import jinja2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.commands import BY_ROOT, ROOT, as_root, user_runs, wait_until
from tests.support.lab import HOST, Network, delete_network, make_network, only_lab, token

TRACES = ("ip netns list", "cat /proc/mounts", "ls -d /sys/fs/cgroup/*/flotilla-lab /sys/fs/cgroup/flotilla-lab",
          "ip link", "ip route", "ps -eo args")  # fmt: skip


def traces() -> str:
    """Every line of the system's lists that speaks of a lab."""
    lines = []
    for command in TRACES:
        output = subprocess.run(command, shell=True, capture_output=True, text=True).stdout
        lines += [
            line for line in output.splitlines() if "flo-" in line or "flotilla-lab" in line or "lab.region" in line
        ]
    return "\n".join(line for line in lines if "ls -d" not in line)


@pytest.fixture(scope="module")
def network(lab: boto3.Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    made = make_network(lab, tmp_path_factory.mktemp("network"), "10.91.0.0/24")
    yield made
    delete_network(lab, made)


@pytest.fixture(scope="module")
def pair(network: Network) -> Iterator[list[str]]:
    ids = network.launch(2, UserData="#!/bin/sh\necho hello > /root/user-data\n")
    for instance in ids:
        network.reachable(instance)
    yield ids
    network.ec2.terminate_instances(InstanceIds=ids)
    wait_until(lambda: network.states(ids) == {"terminated"}, 20, "terminated")


def test_killed_lab_leaves_nothing_after_down(tmp_path: Path) -> None:
    only_lab()
    user_runs("scripts/lab", "up", seconds=300)
    network = make_network(boto3.Session(profile_name="flotilla-lab"), tmp_path, "10.92.0.0/24")
    network.launch(1)
    as_root("pkill", "--signal", "KILL", "--full", r"^\S*python -m lab\.region$")
    wait_until(lambda: user_runs("scripts/lab", "status", check=False).returncode == 3, 5, "the daemon is dead")
    assert "systemd-nspawn" in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    user_runs("scripts/lab", "down")
    assert traces() == ""
    user_runs("scripts/lab", "up")
    assert "up already" in user_runs("scripts/lab", "up").stdout
    user_runs("scripts/lab", "down")
    assert traces() == ""


@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.0])
def test_killed_start_leaves_nothing_after_down(seconds: float) -> None:
    only_lab()
    with subprocess.Popen(["scripts/lab", "up"], cwd=ROOT, stdout=subprocess.DEVNULL):
        starting = ("--full", r"python -B -m lab up$")
        wait_until(lambda: subprocess.run(["pgrep", *starting], stdout=subprocess.DEVNULL).returncode == 0, 20, "start")
        time.sleep(seconds)
        subprocess.run([*BY_ROOT, "pkill", "--signal", "KILL", *starting])  # it may be through already
    user_runs("scripts/lab", "down")
    time.sleep(3)  # what survived would show itself by now
    assert traces() == ""


def test_host_boots_as_an_image_of_aws_does(network: Network, pair: list[str]) -> None:
    done = network.ssh(
        pair[0], "systemctl is-system-running --wait; sudo cat /root/user-data; hostname; ip -4 -br addr"
    )
    assert "running" in done.stdout
    assert "hello" in done.stdout
    private = network.address(pair[0], "Private")
    assert "ip-" + private.replace(".", "-") in done.stdout
    assert private in done.stdout


def test_metadata_wants_a_token_and_gives_working_credentials(network: Network, pair: list[str]) -> None:
    program = """
import json, urllib.error, urllib.request as u
base = "http://169.254.169.254/latest/"
try:
    print("without:", u.urlopen(base + "meta-data/instance-id").status)
except urllib.error.HTTPError as error:
    print("without:", error.code)
ask = u.Request(base + "api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
token = u.urlopen(ask).read().decode()
def get(path):
    return u.urlopen(u.Request(base + path, headers={"X-aws-ec2-metadata-token": token})).read().decode()
print("id:", get("meta-data/instance-id"))
print(get("meta-data/iam/security-credentials/test"))
"""
    done = network.ssh(pair[0], f"python3 - <<'E'\n{program}\nE")
    assert "without: 401" in done.stdout
    assert f"id: {pair[0]}" in done.stdout
    assert '"AccessKeyId": "ASIA' in done.stdout


def test_security_groups_hold_on_the_wire(network: Network, pair: list[str]) -> None:
    one, two = pair
    network.ssh(one, "nohup python3 -m http.server 9999 >/dev/null 2>&1 &")
    target = network.address(one, "Private")

    def from_inside() -> bool:
        ask = f"import urllib.request as u; u.urlopen('http://{target}:9999/', timeout=1)"
        return network.ssh(two, f'python3 -c "{ask}"').returncode == 0

    def from_outside() -> bool:
        url = f"http://{network.address(one)}:9999/"
        return subprocess.run(["curl", "-s", "-m", "1", "-o", "/dev/null", url]).returncode == 0

    assert not from_inside()
    assert not from_outside()
    among = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": network.group}]}]
    network.ec2.authorize_security_group_ingress(GroupId=network.group, IpPermissions=among)  # type: ignore[arg-type]
    wait_until(from_inside, 10, "members reach each other")
    assert not from_outside()
    network.ec2.authorize_security_group_ingress(
        GroupId=network.group, IpProtocol="tcp", FromPort=9999, ToPort=9999, CidrIp=HOST
    )
    assert from_outside()
    network.ec2.revoke_security_group_ingress(
        GroupId=network.group, IpProtocol="tcp", FromPort=9999, ToPort=9999, CidrIp=HOST
    )
    network.ec2.revoke_security_group_ingress(GroupId=network.group, IpPermissions=among)  # type: ignore[arg-type]
    assert not from_outside()
    assert not from_inside()


def test_an_address_that_no_instance_has_answers_nobody(network: Network, pair: list[str]) -> None:
    first, _dot, last = network.address(pair[0], "Private").rpartition(".")
    ask = f"timeout 2 bash -c '</dev/tcp/{first}.{(int(last) + 100) % 250}/80'"
    assert network.ssh(pair[0], ask).returncode == 124, "as from a host that has been terminated"


def test_a_limited_host_has_no_more_of_the_processors(network: Network, pair: list[str]) -> None:
    def busy() -> float:
        """Processors that two processes get on the host which want all of two."""
        loop = "timeout 2 sh -c 'while :; do :; done' &"
        times = network.ssh(pair[0], f"{loop} {loop} wait; times").stdout.split()[2:]  # of children: user, system
        return sum(float(time.removeprefix("0m").removesuffix("s")) for time in times) / 2

    assert "at least 0.05" in user_runs("scripts/lab", "limit", pair[0], "0.01", check=False).stdout
    user_runs("scripts/lab", "limit", pair[0], "0.2")
    assert busy() < 0.3
    user_runs("scripts/lab", "limit", pair[0], "0")
    assert busy() > 0.3


def test_a_limited_host_has_no_more_memory(network: Network, pair: list[str]) -> None:
    wants = "python3 -c 'bytearray(600 << 20)'; exit $?"  # a shell of its own: ssh says 255 of what was killed itself
    assert "at least 0.25" in user_runs("scripts/lab", "limit", pair[0], "0", "0.1", check=False).stdout
    user_runs("scripts/lab", "limit", pair[0], "0", "0.5")
    assert network.ssh(pair[0], wants).returncode == 137, "killed"
    user_runs("scripts/lab", "limit", pair[0], "0")
    assert network.ssh(pair[0], wants).returncode == 0


def test_a_limited_host_has_no_faster_network(network: Network, pair: list[str]) -> None:
    def seconds() -> float:
        """What 8 MB from the other host take, in the direction from the limited one."""
        send = "python3 -c 'import sys; sys.stdout.buffer.write(bytes(8_000_000))'"
        began = time.monotonic()
        assert len(network.ssh(pair[0], send).stdout) == 8_000_000
        return time.monotonic() - began

    assert "at least 1" in user_runs("scripts/lab", "limit", pair[0], "0", "0", "0.1", check=False).stdout
    user_runs("scripts/lab", "limit", pair[0], "0", "0", "32")
    assert seconds() > 1.5
    user_runs("scripts/lab", "limit", pair[0], "0")
    assert seconds() < 1.5


def test_stop_start_reboot_keep_the_disk(network: Network, pair: list[str]) -> None:
    instance = pair[1]
    network.ssh(instance, "echo kept > /tmp/../home/admin/file")
    network.ec2.stop_instances(InstanceIds=[instance])
    assert network.states([instance]) <= {"stopping", "stopped"}
    wait_until(lambda: network.states([instance]) == {"stopped"}, 30, "stopped")
    network.ec2.start_instances(InstanceIds=[instance])
    network.reachable(instance)
    before = network.ssh(instance, "cat file; stat -c %Y /proc/1").stdout.split()
    assert before[0] == "kept"
    time.sleep(1)
    network.ssh(instance, "sudo reboot")
    wait_until(lambda: network.ssh(instance, "stat -c %Y /proc/1").stdout.split() not in ([], before[1:]), 30, "reboot")
    assert network.states([instance]) == {"running"}


@pytest.mark.parametrize(("behaviour", "state"), [("terminate", "terminated"), ("stop", "stopped")])
def test_power_off_from_inside(network: Network, behaviour: str, state: str) -> None:
    (instance,) = network.launch(1, InstanceInitiatedShutdownBehavior=behaviour)
    network.reachable(instance)
    network.ssh(instance, "sudo poweroff")
    wait_until(lambda: network.states([instance]) == {state}, 20, state)
    if state == "stopped":
        network.ec2.terminate_instances(InstanceIds=[instance])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ImageId": "ami-00000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "t9.huge"}, "Invalid value 't9.huge' for InstanceType"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
    ],
)
def test_launch_refuses_what_aws_refuses(network: Network, change: dict[str, str], code: str) -> None:
    with pytest.raises(ClientError, match=code):
        network.launch(1, **change)


def test_same_token_is_the_same_launch(network: Network) -> None:
    first, second = (network.launch(1, ClientToken="once") for _ in range(2))
    assert first == second
    network.ec2.terminate_instances(InstanceIds=first)


def test_unknown_key_and_missing_permission_are_refused(lab: boto3.Session) -> None:
    endpoint = lab.client("s3").meta.endpoint_url
    stranger = boto3.Session("AKIAIOSFODNN7EXAMPLE", "wrong", region_name="us-east-1")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        stranger.client("s3", endpoint_url=endpoint).list_buckets()
    iam = lab.client("iam")
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    guest = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name="us-east-1")
    with pytest.raises(ClientError, match="AccessDenied"):
        guest.client("s3", endpoint_url=endpoint).list_buckets()


def test_upload_with_a_wrong_checksum_is_refused(lab: boto3.Session) -> None:
    s3 = lab.client("s3")
    s3.create_bucket(Bucket="checksums")
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket="checksums", Key="object", Body=b"right", ChecksumCRC32C="AAAAAA==")
    s3.put_object(Bucket="checksums", Key="object", Body=b"right", ChecksumAlgorithm="SHA256")
    assert s3.get_object(Bucket="checksums", Key="object")["Body"].read() == b"right"


def test_conditions_of_policies_are_heeded(lab: boto3.Session) -> None:
    iam, s3 = lab.client("iam"), lab.client("s3")
    s3.create_bucket(Bucket="flotilla-conditions")
    s3.put_object(Bucket="flotilla-conditions", Key="mine/a", Body=b"a")
    iam.create_user(UserName="reader")
    listing = {
        "Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::flotilla-conditions",
        "Condition": {"StringLike": {"s3:prefix": ["mine/*"]}},
    }  # fmt: skip
    document = json.dumps({"Version": "2012-10-17", "Statement": [listing]})
    iam.put_user_policy(UserName="reader", PolicyName="list", PolicyDocument=document)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    reader = boto3.Session(
        key["AccessKeyId"], key["SecretAccessKey"], region_name=lab.region_name
    ).client("s3", endpoint_url=lab.client("s3").meta.endpoint_url)  # fmt: skip
    assert reader.list_objects_v2(Bucket="flotilla-conditions", Prefix="mine/")["KeyCount"] == 1
    for options in ({}, {"Prefix": "other/"}):
        with pytest.raises(ClientError, match="AccessDenied"):
            reader.list_objects_v2(Bucket="flotilla-conditions", **options)


def test_tokens_expire(lab: boto3.Session) -> None:
    def policy(statement: dict[str, Any]) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})

    iam = lab.client("iam")
    account = lab.client("sts").get_caller_identity()["Account"]
    trust = policy({"Principal": {"AWS": account}, "Action": "sts:AssumeRole"})
    role = iam.create_role(RoleName="short", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    right = policy({"Action": "s3:ListAllMyBuckets", "Resource": "*"})
    iam.put_role_policy(RoleName="short", PolicyName="list", PolicyDocument=right)
    found = token(lab, role, 2)
    s3 = found.client("s3", endpoint_url=lab.client("s3").meta.endpoint_url)
    s3.list_buckets()
    time.sleep(2)
    with pytest.raises(ClientError, match="ExpiredToken"):
        s3.list_buckets()
    for service, code in [("sts", "ExpiredToken"), ("ec2", "RequestExpired")]:
        asked = found.client(service, endpoint_url=lab.client(service).meta.endpoint_url)  # type: ignore[call-overload]
        with pytest.raises(ClientError, match=code):
            asked.get_caller_identity() if service == "sts" else asked.describe_instances()


def test_prices_are_listed_for_those_who_may_ask(lab: boto3.Session) -> None:
    wanted = {"instanceType": "g4dn.xlarge", "regionCode": "us-east-1", "operatingSystem": "Linux", "tenancy": "Shared"}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    found = lab.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]  # type: ignore[arg-type]
    assert len(found) == 1
    assert '"USD": "0.526' in str(found[0])
    key = lab.client("iam").create_access_key(UserName="reader")["AccessKey"]
    reader = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=lab.region_name)
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.client("pricing", endpoint_url=lab.client("s3").meta.endpoint_url).get_products(ServiceCode="AmazonEC2")


def test_spot_market(network: Network) -> None:
    spot: dict[str, Any] = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.001"}}
    with pytest.raises(ClientError, match="SpotMaxPriceTooLow"):
        network.launch(InstanceMarketOptions=spot)
    history = network.ec2.describe_spot_price_history(InstanceTypes=["t3.large"])["SpotPriceHistory"]
    price = float(history[0]["SpotPrice"])
    assert 0.01 < price < 0.0832
    [instance] = network.launch(InstanceMarketOptions={"MarketType": "spot"})
    found = network.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["InstanceLifecycle"] == "spot"
    requests = network.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[found["SpotInstanceRequestId"]])
    assert requests["SpotInstanceRequests"][0]["InstanceId"] == instance
    with pytest.raises(ClientError, match="one-time Spot Instance"):
        network.ec2.stop_instances(InstanceIds=[instance])
    network.ec2.terminate_instances(InstanceIds=[instance])
    wait_until(lambda: network.states([instance]) == {"terminated"}, 20, "terminated")


@pytest.fixture
def weather(lab: boto3.Session) -> Iterator[Callable[..., str]]:
    """Sets the region's weather; it is fair again after the test."""
    yield lambda *words: user_runs("scripts/lab", "weather", *words).stdout
    user_runs("scripts/lab", "weather", "clear")


def impatient(lab: boto3.Session, service: str, **options: Any) -> Any:
    """A client that tries once."""
    return lab.client(service, config=Config(retries={"total_max_attempts": 1}), **options)  # type: ignore[call-overload]


def test_an_api_that_is_away(lab: boto3.Session, weather: Callable[..., str]) -> None:
    assert "ec2, iam away for" in weather("away", "600", "ec2", "iam")
    for service, call, code in (("ec2", "describe_instances", "Unavailable"), ("iam", "list_roles", "ServiceUnavail")):
        with pytest.raises(ClientError, match=code) as raised:
            getattr(impatient(lab, service), call)()
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    impatient(lab, "s3").list_buckets()
    assert "fair" in weather("clear")
    impatient(lab, "ec2").describe_instances()


def test_a_lost_answer_is_a_launch_all_the_same(network: Network, weather: Callable[..., str]) -> None:
    weather("lose", "RunInstances")
    [instance] = network.launch(1, ClientToken="lost")  # boto3 asks again by itself
    found = network.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["lost"]}])["Reservations"]
    assert [one["InstanceId"] for r in found for one in r["Instances"]] == [instance]
    network.ec2.terminate_instances(InstanceIds=[instance])


def test_capacity_and_quotas(lab: boto3.Session, network: Network, weather: Callable[..., str]) -> None:
    quotas = lab.client("service-quotas")
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]["Value"] == 128
    weather("lacks", "us-east-1a", "t3.large")
    weather("quota", "L-DB2E81BA", "0")
    once = replace(network, ec2=impatient(lab, "ec2"))
    with pytest.raises(ClientError, match=r"InsufficientInstanceCapacity.*choosing us-east-1b") as raised:
        once.launch()
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    with pytest.raises(ClientError, match="VcpuLimitExceeded"):
        once.launch(InstanceType="g4dn.xlarge")
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]["Value"] == 0


def test_a_schedule_ends_an_instance(lab: boto3.Session, network: Network) -> None:
    [instance] = network.launch()
    iam, scheduler = lab.client("iam"), lab.client("scheduler")
    trust = {"Effect": "Allow", "Principal": {"Service": "scheduler.amazonaws.com"}, "Action": "sts:AssumeRole"}
    right = {"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": f"arn:aws:ec2:*:*:instance/{instance}"}
    role = iam.create_role(
        RoleName="end", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": [right]})
    iam.put_role_policy(RoleName="end", PolicyName="end", PolicyDocument=policy)
    due = datetime.now(timezone.utc) + timedelta(seconds=5)
    schedule: dict[str, Any] = {
        "Name": instance, "ScheduleExpression": due.strftime("at(%Y-%m-%dT%H:%M:%S)"),
        "FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE",
        "Target": {"Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances", "RoleArn": role,
                   "Input": json.dumps({"InstanceIds": [instance]})},
    }  # fmt: skip
    with pytest.raises(ClientError, match="must allow AWS EventBridge Scheduler to assume the role"):
        scheduler.create_schedule(**schedule)  # the role is too new
    time.sleep(2)
    scheduler.create_schedule(**schedule)
    wait_until(lambda: network.states([instance]) <= {"shutting-down", "terminated"}, 20, "ended")
    assert scheduler.list_schedules()["Schedules"] == []


def test_another_region_is_refused_in_a_sentence() -> None:
    mars = boto3.Session(profile_name="flotilla-lab", region_name="mars-east-1")
    for service, call, code in (
        ("ec2", "describe_instances", "AuthFailure"),
        ("ssm", "describe_parameters", "InvalidSignatureException"),
        ("s3", "list_buckets", "AuthorizationHeaderMalformed.*expecting 'us-east-1'"),
    ):
        with pytest.raises(ClientError, match=f"{code}"):
            getattr(impatient(mars, service), call)()


def user_data(expires: datetime) -> str:
    """What role fleet gives its hosts."""
    template = (ROOT / "roles/fleet/templates/user-data.yml.j2").read_text()
    facts = {"expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return str(jinja2.Template(template, keep_trailing_newline=True).render(fleet_validated=facts))


def since_boot(network: Network, instance: str) -> dict[str, float]:
    """Seconds from the boot until units were active, or began where that is what is asked."""
    show = "systemctl show --value -p"
    wanted = {
        "timer": f"{show} ActiveEnterTimestampMonotonic flotilla-expiry.timer",
        "cloud-init": f"{show} InactiveExitTimestampMonotonic cloud-init.service",
        "sysinit": f"{show} ActiveEnterTimestampMonotonic sysinit.target",
        "sshd": f"{show} InactiveExitTimestampMonotonic ssh.service",
    }
    said = network.ssh(instance, "; ".join(wanted.values())).stdout.split()
    return {name: int(value) / 1e6 for name, value in zip(wanted, said, strict=True)}


def test_the_expiry_is_armed_before_anything_that_can_hang(network: Network) -> None:
    expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=15)
    # One boots as always; of the other the boot never gets beyond cloud-init's first stage, so nobody can log in.
    hang = "  - [sh, -c, 'systemctl is-active flotilla-expiry.timer && sleep infinity']\n"
    (whole,) = network.launch(UserData=user_data(expires + timedelta(hours=1)))
    (hung,) = network.launch(UserData=user_data(expires) + hang)
    network.reachable(whole)
    first = since_boot(network, whole)
    assert first["cloud-init"] < first["timer"] < first["sysinit"] < first["sshd"], first
    network.ec2.stop_instances(InstanceIds=[whole])
    wait_until(lambda: network.states([whole]) == {"stopped"}, 20, "stopped")
    network.ec2.start_instances(InstanceIds=[whole])
    network.reachable(whole)
    later = since_boot(network, whole)
    assert 0 < later["timer"] < later["cloud-init"], f"armed by itself: {later}"
    next_time = network.ssh(whole, "systemctl show --value -p NextElapseUSecRealtime flotilla-expiry.timer").stdout
    assert (expires + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S UTC") in next_time
    network.ec2.terminate_instances(InstanceIds=[whole])
    wait_until(lambda: network.states([hung]) != {"running"}, 90, "the host whose boot hangs is off")
    assert datetime.now(timezone.utc) >= expires, "not before its time"
    wait_until(lambda: network.states([whole, hung]) <= {"terminated", "stopped"}, 20, "both have ended")
