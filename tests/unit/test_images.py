"""Baked images: making them, which one a fleet takes, the list, pruning; subnets without a way to the internet."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import aws, images, internet, prices, quotas, recipe
from ansible_collections.flotilla.kit.plugins.modules.fleet_image import Baker
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from ansible_collections.flotilla.kit.plugins.modules.fleet_resources import work
from moto import mock_aws
from moto.ec2.models.amis import Ami, AmiBackend

from tests.support.commands import ROOT

REGION, OWNER = "us-east-1", "ada"
AT = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A region with EC2's images as AWS has them: moto's are public, and their snapshots take no tags."""
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    session = boto3.session.Session()
    monkeypatch.setattr(aws.boto3.session, "Session", lambda **_: session)
    monkeypatch.setattr(boto3, "client", session.client)
    monkeypatch.setattr(prices, "snapshot", lambda *_: 0.05)
    more = {"GB": 0.08 / 730, "address": 0.005}
    monkeypatch.setattr(prices, "look_up", lambda _, region, types: {**dict.fromkeys(types, 0.0832), **more})
    monkeypatch.setattr(quotas, "look_up", lambda *_: {})
    create = AmiBackend.create_image

    def create_image(self: Any, instance: str, name: str, description: str, tag_specifications: Any) -> Ami:
        kinds = {one["ResourceType"]: one["Tags"] for one in tag_specifications}
        made = create(self, instance, name, description, [{"ResourceType": "image", "Tags": kinds["image"]}])
        made.architecture, made.launch_permissions = "x86_64", []
        for tag in kinds["snapshot"]:
            made.ebs_snapshot.add_tag(tag["Key"], tag["Value"])
        return made

    monkeypatch.setattr(AmiBackend, "create_image", create_image)
    with mock_aws():
        yield boto3.client("ec2")


@pytest.fixture
def base(ec2: Any) -> str:
    """A bare image of Debian 12."""
    return str(ec2.register_image(Name="debian-12-amd64-test", Architecture="x86_64")["ImageId"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A collection whose roles can be changed."""
    for pattern in {pattern for patterns in recipe.RECIPE.values() for pattern in patterns}:
        for file in ROOT.glob(pattern):
            (tmp_path / "kit" / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "kit" / file.relative_to(ROOT))
    shutil.copy(ROOT / "galaxy.yml", tmp_path / "kit")
    return tmp_path / "kit"


def told(root: Path, state: str, **more: Any) -> dict[str, Any]:
    """What the role tells fleet_image."""
    return {
        "region": REGION, "profile": "", "state": state, "kind": "cpu", "base": "", "distribution": "slim",
        "root": str(root), "force": False, "instance_id": "", "digest": "", "owner": OWNER, "adopt": False, "keep": 2,
        "wait": 0, **more,
    }  # fmt: skip


def launch(ec2: Any, base: str, fleet: str = "image-cpu-abcdef") -> str:
    """A host."""
    tags = [{"Key": "flotilla-fleet", "Value": fleet}]
    answer = ec2.run_instances(
        ImageId=base, MinCount=1, MaxCount=1, InstanceType="m5.large",
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    return str(answer["Instances"][0]["InstanceId"])


def begin(root: Path, base: str, dry: bool = False, **more: Any) -> dict[str, Any]:
    baker = Baker(told(root, "begun", base=base, **more), dry)
    return {**baker.begun(), "removed": baker.removed}


def make(root: Path, builder: str, digest: str, dry: bool = False, **more: Any) -> dict[str, Any]:
    return Baker(told(root, "present", instance_id=builder, digest=digest, **more), dry).present()


@pytest.fixture
def baked(ec2: Any, base: str, root: Path) -> dict[str, Any]:
    """An image as it was made, and begun's answer before."""
    begun = begin(root, base)
    return {"begun": begun, **make(root, launch(ec2, base), begun["digest"])}


def prune(root: Path, keep: int, dry: bool = False, **more: Any) -> tuple[dict[str, Any], list[str]]:
    baker = Baker(told(root, "pruned", **more), dry)
    return baker.listed(keep), baker.removed


def test_an_image_is_made_once_and_found_again(ec2: Any, base: str, root: Path, baked: dict[str, Any]) -> None:
    assert baked["begun"]["needed"] and images.BUILDER.fullmatch(baked["begun"]["builder"])
    assert baked["changed"] and baked["image"]["state"] == "available" and baked["image"]["progress"] == "100%"
    digest = recipe.image_digest(root, "cpu", base, "slim")
    (image,) = ec2.describe_images(Owners=["self"], Filters=images.TAGGED)["Images"]
    assert aws.tags_of(image) == {
        "flotilla-image": digest, "flotilla-kind": "cpu", "flotilla-owner": OWNER, "flotilla-kit": "0.1.0",
        "flotilla-base": base, "flotilla-builder": aws.tags_of(image)["flotilla-builder"],
        "Name": f"flotilla-cpu-{digest}",
    }  # fmt: skip
    assert image["Name"].startswith(f"flotilla-cpu-{digest}-20") and not image["Public"]
    (snapshot,) = ec2.describe_snapshots(Filters=images.TAGGED)["Snapshots"]
    assert aws.tags_of(snapshot) == aws.tags_of(image)
    again = begin(root, base)
    assert not again["needed"] and not again["changed"] and again["image"]["id"] == image["ImageId"]
    assert begin(root, base, force=True)["needed"]
    assert make(root, "", digest)["image"]["id"] == image["ImageId"], "without a builder it is found"
    assert not make(root, aws.tags_of(image)["flotilla-builder"], digest)["changed"], "a second call makes no second"
    assert len({begin(root, base)["builder"] for _ in range(3)}) == 3, "two runs at a time have two builders"


def test_another_recipe_kind_base_or_distribution_is_another_image(
    base: str, root: Path, baked: dict[str, Any]
) -> None:
    for more in ({"kind": "gpu"}, {"distribution": "apache"}, {"base": "ami-0123456789abcdef0"}):
        assert begin(root, **{"base": base, **more})["needed"], more  # type: ignore[arg-type]
    with (root / "roles/hdfs/vars/main.yml").open("a") as file:
        file.write("more: true\n")
    assert begin(root, base)["needed"]


def test_roles_that_change_while_baking_make_no_image(ec2: Any, base: str, root: Path) -> None:
    begun, builder = begin(root, base), launch(ec2, base)
    with (root / "roles/hdfs/vars/main.yml").open("a") as file:
        file.write("more: true\n")
    with pytest.raises(aws.FleetError, match="were changed while the image was baked"):
        make(root, builder, begun["digest"])
    assert not ec2.describe_images(Owners=["self"], Filters=images.TAGGED)["Images"]


def test_a_builder_of_another_base_image_makes_none(ec2: Any, base: str, root: Path) -> None:
    other = ec2.register_image(Name="other", Architecture="x86_64")["ImageId"]
    with pytest.raises(aws.FleetError, match="run the same command again"):
        make(root, launch(ec2, other), begin(root, base)["digest"])


def test_a_builder_that_is_gone_is_a_sentence(ec2: Any, base: str, root: Path) -> None:
    begun, builder = begin(root, base), launch(ec2, base)
    ec2.terminate_instances(InstanceIds=[builder])
    with pytest.raises(aws.FleetError, match=f"builder {builder} is terminated, by its expiry or"):
        make(root, builder, begun["digest"])
    with pytest.raises(aws.FleetError, match="is gone"):
        make(root, "i-0123456789abcdef0", begun["digest"])
    with pytest.raises(aws.FleetError, match="no image of the digest"):
        make(root, "", begun["digest"])


def test_check_mode_makes_and_removes_nothing(ec2: Any, base: str, root: Path) -> None:
    begun = begin(root, base, dry=True)
    assert make(root, launch(ec2, base), begun["digest"], dry=True)["changed"]
    assert not ec2.describe_images(Owners=["self"], Filters=images.TAGGED)["Images"]
    make(root, launch(ec2, base), begun["digest"])
    answer, removed = prune(root, 0, dry=True)
    assert answer["changed"] and len(removed) == 1 and len(answer["images"]) == 1


def state_of(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Have AWS still make all images, or fail to."""
    simplify = images.simplify
    monkeypatch.setattr(images, "simplify", lambda image: {**simplify(image), "state": state, "reason": "Disk on fire"})


def test_an_image_that_is_still_being_made_is_waited_for(
    base: str, root: Path, baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_of(monkeypatch, "pending")
    begun = begin(root, base)
    assert not begun["needed"] and begun["image"]["state"] == "pending"
    waiting = make(root, "", begun["digest"])
    assert not waiting["changed"] and waiting["image"]["state"] == "pending"


def test_an_image_that_failed_is_said_and_removed(
    ec2: Any, base: str, root: Path, baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_of(monkeypatch, "failed")
    begun = begin(root, base, dry=True)
    assert begun["needed"] and begun["removed"] == [baked["image"]["name"]]
    with pytest.raises(aws.FleetError, match=r"could not make the image .* \(Disk on fire\): run the same command"):
        make(root, "", begun["digest"])
    assert not ec2.describe_images(Owners=["self"], Filters=images.TAGGED)["Images"]
    assert not ec2.describe_snapshots(Filters=images.TAGGED)["Snapshots"]
    assert begin(root, base)["removed"] == []


def test_two_images_of_one_second_get_two_names(
    ec2: Any, base: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS refuses a name that is there, as somebody else's, or as ours where the first answer was lost."""
    call, names = aws.Aws.call, []

    def unique(self: Any, doing: str, service: str, method: str, **arguments: Any) -> Any:
        if method == "create_image":
            names.append(arguments["Name"])
            if len(names) == 1:
                error = aws.exceptions.ClientError(
                    {"Error": {"Code": "InvalidAMIName.Duplicate", "Message": "x"}}, method
                )
                raise aws.FleetError("x") from error
        return call(self, doing, service, method, **arguments)

    monkeypatch.setattr(aws.Aws, "call", unique)
    answer = make(root, launch(ec2, base), begin(root, base)["digest"])
    assert answer["image"]["state"] == "available" and len(set(names)) == 2


def test_what_an_expired_builder_left_is_named(ec2: Any, base: str, root: Path) -> None:
    for name, expires, owner in (
        ("image-cpu-aaaaaa", "2020-01-01T00:00:00Z", OWNER), ("image-gpu-bbbbbb", "2099-01-01T00:00:00Z", OWNER),
        ("image-cpu-cccccc", "2020-01-01T00:00:00Z", "bob"), ("demo", "2020-01-01T00:00:00Z", OWNER),
    ):  # fmt: skip
        tags = {"flotilla-fleet": name, "flotilla-expires": expires, "flotilla-owner": owner}
        ec2.create_vpc(CidrBlock="10.0.0.0/24", TagSpecifications=[{"ResourceType": "vpc", "Tags": aws.tag_list(tags)}])
    assert begin(root, base)["expired"] == ["image-cpu-aaaaaa"]


# Listing and pruning


def test_the_list_says_size_age_cost_and_users(ec2: Any, root: Path, baked: dict[str, Any]) -> None:
    launch(ec2, baked["image"]["id"], "demo")
    answer = Baker(told(root, "listed"), False).listed(None)
    (image,) = answer["images"]
    assert image["users"] == ["demo"] and image["size"] == 15 and image["problem"] == ""
    head, line = answer["lines"]
    assert head.split() == ["image", "id", "age", "size", "$/month", "owner", "used", "by"]
    assert line.split()[1:] == [image["id"], "0", "min", "15", "GB", "0.75", OWNER, "demo"]
    assert answer["summary"].startswith("1 baked image stays on purpose, for $0.75 a month at most")


def test_nothing_to_list(ec2: Any, root: Path) -> None:
    answer = Baker(told(root, "listed"), False).listed(None)
    assert answer["lines"] == ["There are no baked images."] and answer["summary"] == ""


def test_prune_keeps_the_newest_and_what_is_used(ec2: Any, base: str, root: Path) -> None:
    digest = begin(root, base)["digest"]
    made = [make(root, launch(ec2, base), digest)["image"]["id"] for _ in range(4)]
    newest = [one["id"] for one in Baker(told(root, "listed"), False).listed(None)["images"]]
    launch(ec2, newest[3], "demo")
    answer, removed = prune(root, 1)
    assert answer["changed"] and len(removed) == 2
    assert [one["id"] for one in answer["images"]] == [newest[0], newest[3]] and set(newest) == set(made)
    assert len(ec2.describe_snapshots(Filters=images.TAGGED)["Snapshots"]) == 2
    assert prune(root, 1)[1] == [] and not prune(root, 1)[0]["changed"]
    assert prune(root, 0, owner="bob")[1] == [], "others' images stay"
    assert len(prune(root, 0, owner="bob", adopt=True)[1]) == 1


def test_a_snapshot_whose_image_is_gone_is_pruned_after_an_hour(
    ec2: Any, root: Path, baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2.deregister_image(ImageId=baked["image"]["id"])
    assert prune(root, 2)[1] == [], "it may be of an image that is just being made"
    monkeypatch.setattr(images, "ORPHANED", datetime.timedelta(0))
    assert len(prune(root, 2)[1]) == 1 and not ec2.describe_snapshots(Filters=images.TAGGED)["Snapshots"]


def test_what_is_gone_meanwhile_is_no_failure(ec2: Any, baked: dict[str, Any]) -> None:
    cloud = aws.Aws(REGION)
    (image,) = images.own(cloud)
    images.remove(cloud, image)
    images.remove(cloud, image)
    assert images.own(cloud) == []


def test_destroy_leaves_images_and_names_them(ec2: Any, baked: dict[str, Any]) -> None:
    from ansible_collections.flotilla.kit.plugins.modules.fleet_resources import Resources

    parameters = {"region": REGION, "state": "absent", "owner": "", "adopt": True, "timeout": 20}
    fleet = Resources(REGION, "", "image-cpu-abcdef", schedule=False)
    answer = work(fleet, parameters, False)
    assert "instance" in answer["summary"] and "1 baked image stays on purpose" in answer["images"]
    assert len(images.own(aws.Aws(REGION))) == 1


# Which image a fleet starts from


@pytest.fixture
def variables(base: str, root: Path) -> dict[str, Any]:
    """What the role gives fleet_preflight."""
    small = {"count": 1, "instance_type": "t3.large"}
    return {
        "region": REGION, "profile": "", "name": "demo", "launcher": "ansible", "owner": "", "adopt": False,
        "groups": {"ps": small, "chief": small}, "expiry_hours": 4, "ssh_sources": ["203.0.113.7"],
        "ssh_open_to_world": False, "checkip_url": "http://127.0.0.1:9/", "ssh_key": "", "boundary": "", "vpc_id": "",
        "subnet_id": "", "vpc_cidr": "10.77.0.0/16", "zone": "", "max_hosts": 20, "max_cost": 25,
        "unknown_prices": False, "dataset_source": "", "model_target": "", "reads": {}, "writes": {},
        "program": "", "batch_size": 0, "local_data": False,
        "accelerator": "auto", "images": dict.fromkeys(("cpu", "gpu", "gpu_plain"), base), "volume_size": 20,
        "public_addresses": True, "baked": "auto", "distribution": "slim", "root": str(root), "builder": "",
    }  # fmt: skip


def look(variables: dict[str, Any], **more: Any) -> Preflight:
    preflight = Preflight({**variables, **more})
    preflight.run()
    return preflight


def test_the_newest_that_fits_is_taken(variables: dict[str, Any], baked: dict[str, Any]) -> None:
    found = look(variables)
    assert found.problems == [] and found.warnings == []
    assert {one["image_id"] for one in found.groups.values()} == {baked["image"]["id"]}
    assert {one["ssh_user"] for one in found.groups.values()} == {"admin"}, "the bare image's"
    (line,) = found.result["starts"]
    name, identity = baked["image"]["name"], baked["image"]["id"]
    assert line == f"Hosts without GPU (ps, chief) start from the baked image {name} ({identity}, 0 min old)."
    assert found.result["baked"]["ps"] == {"id": identity, "name": name}


def test_a_newer_one_is_taken(
    ec2: Any, base: str, root: Path, variables: dict[str, Any], baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = make(root, launch(ec2, base), baked["digest"])["image"]["id"]
    simplify = images.simplify

    def aged(image: dict[str, Any]) -> dict[str, Any]:
        found = simplify(image)
        return found if found["id"] == newer else {**found, "created": found["created"] - datetime.timedelta(days=1)}

    monkeypatch.setattr(images, "simplify", aged)
    assert look(variables).groups["ps"]["image_id"] == newer


def test_never_means_bare(variables: dict[str, Any], base: str, baked: dict[str, Any]) -> None:
    found = look(variables, baked="never")
    assert found.groups["ps"]["image_id"] == base and found.result["starts"] == []


def test_none_fits(variables: dict[str, Any], base: str, root: Path, baked: dict[str, Any]) -> None:
    with (root / "roles/hdfs/vars/main.yml").open("a") as file:
        file.write("more: true\n")
    found = look(variables)
    assert found.problems == [] and found.groups["ps"]["image_id"] == base
    (line,) = found.result["starts"]
    assert "start from the bare image, as the baked flotilla-cpu-" in line and "(0 min old) is of other roles" in line
    assert "'ansible-playbook playbooks/image.yml' once" in line and f"about {images.SAVES} s sooner" in line
    (problem,) = look(variables, baked="always").problems
    assert problem.startswith("fleet_baked is always, but there is no baked image that fits ps, chief; flotilla-cpu-")


def test_an_image_whose_snapshot_is_gone_is_not_taken(
    variables: dict[str, Any], base: str, baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "snapshots_of", lambda *_: {})
    found = look(variables)
    assert found.groups["ps"]["image_id"] == base
    (warning,) = found.warnings
    assert baked["image"]["id"] in warning and "lacks its snapshot snap-" in warning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "arm64"}, "is for arm64"),
        ({"state": "pending"}, "is pending"),
        ({"state": "disabled"}, "is disabled"),
        ({"snapshots": []}, "has no snapshot"),
    ],
)
def test_images_that_can_not_be_launched(
    variables: dict[str, Any], base: str, baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any], words: str,
) -> None:  # fmt: skip
    simplify = images.simplify
    monkeypatch.setattr(images, "simplify", lambda image: {**simplify(image), **change})
    found = look(variables)
    assert found.groups["ps"]["image_id"] == base and words in found.warnings[0]


def test_a_volume_smaller_than_the_image_is_refused(
    variables: dict[str, Any], baked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    simplify = images.simplify
    monkeypatch.setattr(images, "simplify", lambda image: {**simplify(image), "size": 30})
    assert look(variables).groups["ps"]["volume_size"] == 30
    variables["groups"]["ps"] = {**variables["groups"]["ps"], "volume_size": 22}
    (problem,) = look(variables).problems
    assert "fleet_groups.ps.volume_size is 22 GiB, but the baked image" in problem and "has 30" in problem


def test_a_running_fleet_is_not_told_of_images(
    ec2: Any, variables: dict[str, Any], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preflight, "missing", lambda self: dict.fromkeys(self.groups, 0))
    found = look(variables, baked="always")
    assert found.problems == [] and found.result["starts"] == []


def test_an_image_that_is_a_month_old_is_said(baked: dict[str, Any]) -> None:
    image = {**baked["image"], "created": AT - datetime.timedelta(days=40)}
    line = images.say_taken("cpu", ["ps"], image, AT)
    assert "40 days old" in line and "fleet_bake_force=true" in line
    assert "fleet_bake_force" not in images.say_taken("cpu", ["ps"], {**image, "created": AT}, AT)


def test_gpu_hosts_have_their_own(base: str) -> None:
    groups = {"worker": "g5.xlarge"}
    option = "playbooks/image.yml -e fleet_bake_kind=gpu -e fleet_bake_instance_type=g5.xlarge'"
    assert option in images.say_bare("gpu", groups, [], AT) and option in images.say_lacking("gpu", groups, [], AT)
    assert "driver is installed on the host" in images.say_lacking("gpu_plain", groups, [], AT)


@pytest.mark.parametrize(("kind", "size"), [("cpu", 15), ("gpu", 40)])
def test_a_builder_is_one_host_with_the_least_volume(variables: dict[str, Any], kind: str, size: int) -> None:
    one = {"chief": {"count": 1, "instance_type": "m5.large"}}
    found = look(variables, groups=one, builder=kind, baked="never", volume_size=1)
    assert found.problems == [] and found.groups["chief"]["volume_size"] == size
    assert "no parameter server" in look(variables, groups=one).problems[0]


# Networks without a way to the internet


@pytest.fixture
def closed(ec2: Any) -> dict[str, str]:
    """Somebody's VPC whose subnet leads to S3 and nowhere else."""
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24", AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.s3", VpcEndpointType="Gateway",
        RouteTableIds=[table["RouteTableId"]],
    )  # fmt: skip
    return {"vpc_id": vpc, "subnet_id": subnet}


def test_baked_hosts_need_no_internet(variables: dict[str, Any], baked: dict[str, Any], closed: dict[str, str]) -> None:
    assert look(variables, **closed).problems == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"baked": "never"}, "hosts of ps, chief start from a bare image"),
        ({"program": "git+https://example.com/x,v1"}, "is fetched from git: put it into S3"),
        ({"launcher": "im"}, "the Infrastructure Manager's hosts get Ansible and the collection from there"),
    ],
)
def test_what_needs_the_internet_is_refused(
    variables: dict[str, Any], baked: dict[str, Any], closed: dict[str, str], more: dict[str, Any], words: str
) -> None:
    (problem,) = look(variables, **closed, **more).problems
    assert (
        problem.startswith(f"fleet_subnet_id {closed['subnet_id']} has no way to the internet, but")
        and words in problem
    )


def test_requirements_need_the_internet(
    variables: dict[str, Any], baked: dict[str, Any], closed: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "program").mkdir()
    assert look(variables, **closed, program=str(tmp_path / "program")).problems == []
    (tmp_path / "program/requirements.txt").write_text("numpy\n")
    (problem,) = look(variables, **closed, program=str(tmp_path / "program")).problems
    assert "has a requirements.txt" in problem


def test_without_a_way_to_s3_nothing_goes(ec2: Any, variables: dict[str, Any], baked: dict[str, Any]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24", AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    (problem,) = look(variables, vpc_id=vpc, subnet_id=subnet).problems
    assert "none to S3" in problem and "gateway endpoint" in problem


ROUTES = {"RouteTableId": "rtb-1", "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1"}]}
NAT = {"RouteTableId": "rtb-1", "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1"}]}
S3 = {"ServiceName": "com.amazonaws.us-east-1.s3", "VpcEndpointType": "Gateway", "RouteTableIds": ["rtb-1"]}


@pytest.mark.parametrize(
    ("table", "endpoints", "public", "expected"),
    [
        (ROUTES, [], True, (True, True)),
        (ROUTES, [], False, (False, False)),  # an internet gateway is for public addresses
        (NAT, [], False, (True, True)),
        ({"RouteTableId": "rtb-1", "Routes": [{**NAT["Routes"][0], "State": "blackhole"}]}, [], True, (False, False)),  # type: ignore[dict-item]
        ({"RouteTableId": "rtb-1"}, [S3], False, (False, True)),
        ({"RouteTableId": "rtb-2"}, [S3], False, (False, False)),
        ({"RouteTableId": "rtb-2"}, [{**S3, "VpcEndpointType": "Interface"}], False, (False, True)),
        ({"RouteTableId": "rtb-1"}, [{**S3, "State": "deleting"}], False, (False, False)),
        ({}, [], True, (False, False)),
    ],
)
def test_ways(table: dict[str, Any], endpoints: list[Any], public: bool, expected: tuple[bool, bool]) -> None:
    assert internet.ways(table, endpoints, public) == expected


def test_a_subnet_s_own_routes_come_before_the_vpc_s() -> None:
    main = {"RouteTableId": "rtb-1", "Associations": [{"Main": True}]}
    own = {"RouteTableId": "rtb-2", "Associations": [{"SubnetId": "subnet-1"}]}
    assert internet.table_of([main, own], "subnet-1") is own and internet.table_of([main, own], "subnet-2") is main


def test_the_driver_of_plain_gpus_comes_from_the_internet() -> None:
    (problem,) = internet.check("fleet_subnet_id subnet-1", True, ["worker"], ["worker"], "", False)
    assert "install their GPU's driver from there" in problem
