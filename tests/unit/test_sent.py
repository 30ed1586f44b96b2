"""Whatever text the kit sends to AWS is one that AWS takes: rendered as it is sent, held against AWS's own limits.

The limits come from botocore's description of AWS's API: as patterns and lengths where it has them (IAM, STS,
Scheduler), from its prose where it hasn't (EC2), and from AWS's guides where that says nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import botocore.exceptions
import botocore.session
import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.flotilla.kit.plugins.module_utils import access_policy, aws, naming, regions
from ansible_collections.flotilla.kit.plugins.module_utils.variables import check_tags
from ansible_collections.flotilla.kit.plugins.modules.fleet_access import Access
from ansible_collections.flotilla.kit.plugins.modules.fleet_image import Baker
from ansible_collections.flotilla.kit.plugins.modules.fleet_instances import Fleet
from ansible_collections.flotilla.kit.plugins.modules.fleet_network import Network
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight

from tests.support.commands import ROOT

ROLE = ROOT / "roles/fleet"
SESSION = botocore.session.get_session()


class Limit(NamedTuple):
    """What AWS takes."""

    pattern: str
    least: int
    most: int
    source: str

    def refuses(self, text: str) -> bool:
        """Whether AWS wouldn't take a text."""
        ascii_only = re.ASCII if "\\p{" not in self.pattern else re.NOFLAG
        pattern = self.pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\d").replace(r"\p{Z}", " ")
        return not self.least <= len(text) <= self.most or not re.fullmatch(pattern, text, ascii_only)


def modelled(service: str, operation: str, *path: str) -> Limit:
    """A limit that botocore has as pattern and length."""
    shape: Any = SESSION.get_service_model(service).operation_model(operation).input_shape
    for name in path:
        shape = (shape.member if shape.type_name == "list" else shape).members[name]
    data = shape.metadata
    return Limit(data["pattern"], data.get("min", 0), data["max"], f"{service} {operation} {'.'.join(path)}")


def described(shape: Any, member: str) -> Limit:
    """A limit that EC2's model has in prose only."""
    text = html.unescape(re.sub("<[^>]+>", "", shape.members[member].documentation))
    most = re.search(r"(?:[Uu]p to|maximum of) (\d+)", text)
    signs = re.search(r"a-z, A-Z, 0-9, spaces, and (\S+)", text)
    assert most and (signs or shape.name == "Tag"), text
    # Tags: what all services take, https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
    allowed = rf"[a-zA-Z0-9 {re.escape(signs[1])}]*" if signs else r"(?!aws:)[\p{L}\p{N} +\-=._:/@]*"
    return Limit(allowed, 0, int(most[1]), f"ec2 {shape.name} {member}")


EC2 = SESSION.get_service_model("ec2")
GROUP = EC2.operation_model("CreateSecurityGroup").input_shape
LIMITS = {
    "group name": described(GROUP, "GroupName"),
    "group description": described(GROUP, "Description"),
    "rule from addresses": described(EC2.shape_for("IpRange"), "Description"),
    "rule from a group": described(EC2.shape_for("UserIdGroupPair"), "Description"),
    "ec2 tag key": described(EC2.shape_for("Tag"), "Key")._replace(least=1),
    "ec2 tag value": described(EC2.shape_for("Tag"), "Value"),
    # "Up to 255 ASCII characters" (ImportKeyPair), "Up to 64 ASCII characters" (RunInstances)
    "key pair": Limit(
        "[ -~]+", 1, 255, "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ImportKeyPair.html"
    ),
    "token": Limit("[!-~]+", 1, 64, "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html"),
    "user data": Limit(
        r"[\s\S]*", 0, 16384, "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html (before base64)"
    ),
    "role": modelled("iam", "CreateRole", "RoleName"),
    "role description": modelled("iam", "CreateRole", "Description"),
    "trust": modelled("iam", "CreateRole", "AssumeRolePolicyDocument"),
    "instance profile": modelled("iam", "CreateInstanceProfile", "InstanceProfileName"),
    "policy name": modelled("iam", "PutRolePolicy", "PolicyName"),
    "policy": modelled("iam", "PutRolePolicy", "PolicyDocument"),
    "iam tag key": modelled("iam", "CreateRole", "Tags", "Key"),
    "iam tag value": modelled("iam", "CreateRole", "Tags", "Value"),
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html
    "image name": Limit(r"[a-zA-Z0-9()\[\] ./'@_-]+", 3, 128, "ec2 CreateImage Name"),
    "image text": Limit("[ -~]*", 0, 255, "ec2 CreateImage Description"),
    "session": modelled("sts", "AssumeRole", "RoleSessionName"),
    "schedule group": modelled("scheduler", "CreateScheduleGroup", "Name"),
    "sid": Limit(
        "[A-Za-z0-9]*", 0, 128, "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_sid.html"
    ),
}
# Without white space, https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
SIZES = {"trust": 2048, "policy": 10240, "managed policy": 6144}

# What each module of Ansible's that tasks use is told, and what AWS is told with it.
MODULES: dict[str, dict[str, str]] = {
    "amazon.aws.ec2_vpc_subnet_info": {},
    "amazon.aws.sts_assume_role": {"role_session_name": "session"},
}
# What the kit's own modules tell AWS, by the call's argument; names of roles and profiles go to several calls.
CALLED: dict[str, dict[str, str]] = {
    "create_vpc": {"TagSpecifications": "ec2 specifications"},
    "create_subnet": {"TagSpecifications": "ec2 specifications"},
    "create_internet_gateway": {"TagSpecifications": "ec2 specifications"},
    "create_route_table": {"TagSpecifications": "ec2 specifications"},
    "create_vpc_endpoint": {"TagSpecifications": "ec2 specifications"},
    "create_security_group": {
        "TagSpecifications": "ec2 specifications", "GroupName": "group name", "Description": "group description",
    },
    "authorize_security_group_ingress": {"IpPermissions": "rules"},
    "import_key_pair": {"TagSpecifications": "ec2 specifications", "KeyName": "key pair"},
    "create_role": {
        "RoleName": "role", "Description": "role description", "AssumeRolePolicyDocument": "trust", "Tags": "iam list",
    },
    "put_role_policy": {"RoleName": "role", "PolicyName": "policy name", "PolicyDocument": "policy"},
    "create_instance_profile": {"InstanceProfileName": "instance profile", "Tags": "iam list"},
    "create_image": {"TagSpecifications": "ec2 specifications", "Name": "image name", "Description": "image text"},
}  # fmt: skip

# The longest names that the kit's own checks let through, and a region of the longest name that AWS has.
NAME, REGION, OWNER = "a" * 32, "us-isof-south-1", "Ada Lovelace + 2 : / = @ _ . -".ljust(256, "ö")
TAGS = {f"{number:02} Ada . : / = + - @ ".ljust(127, "ö"): OWNER for number in range(41)}
BUCKETS = [f"s3://{'b' * 63}/{'c' * 400}/" for _ in range(2)]


def given() -> dict[str, Any]:
    """The variables of the role as its tasks see them, after preflight."""
    loader = DataLoader()
    defaults, inner = (
        loader.load_from_file(str(ROLE / f"{folder}/main.yml"), trusted_as_template=True)
        for folder in ("defaults", "vars")
    )
    assert naming.check_name(NAME) == naming.check_owner(OWNER) == regions.check_region(REGION) == []
    assert check_tags(TAGS) == []
    facts = {
        "owner": OWNER,
        "expires": "2026-11-28T20:00:00Z",
        "account": "123456789012",
        "arn": "arn:aws-iso-f:iam::123456789012:user/ada",
        "ssh_sources": ["203.0.113.7/32", "2001:db8::/32"],
        "policy": access_policy.policy(*BUCKETS, f"s3://{'b' * 63}/{'c' * 400}/program.tar.gz", "aws-iso-f"),
        "folders_policy": access_policy.policy("", "", "", "aws-iso-f", reads=BUCKETS[:1] * 2, writes=BUCKETS[1:]),
        "zone": f"{REGION}a",
        "zones": [{"name": f"{REGION}a", "cidr": "10.77.0.0/19"}],
        "boundary": "",
        "public_key": "",
        "replace_key_pair": False,
    }
    return {
        **defaults,
        **inner,
        "fleet_name": NAME,
        "fleet_region": REGION,
        "fleet_tags": TAGS,
        "fleet_validated": facts,
        "role_path": str(ROLE),
        "item": facts["zones"][0],
    }


def tasks(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All tasks of a file of tasks or plays, those in blocks, too."""
    for one in found:
        inner = [
            task
            for key in ("pre_tasks", "tasks", "post_tasks", "block", "rescue", "always")
            for task in one.get(key, [])
        ]
        yield from tasks(inner) if inner else [one]


def policy(kind: str, document: Any) -> Iterator[tuple[str, str]]:
    """The texts of a policy."""
    parsed = json.loads(document) if isinstance(document, str) else document
    text = json.dumps(parsed, separators=(",", ":"))
    assert len(text) <= SIZES[kind], f"{kind} is {len(text)} characters long"
    yield ("policy" if kind == "managed policy" else kind), text
    sids = [statement["Sid"] for statement in parsed["Statement"] if "Sid" in statement]
    assert len(set(sids)) == len(sids), "a Sid is unique"
    for sid in sids:
        yield "sid", sid


def tag_texts(service: str, tags: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Keys and values of tags."""
    assert len(tags) <= 50
    for key, value in tags.items():
        yield f"{service} tag key", key
        yield f"{service} tag value", value


def texts(kind: str, value: Any) -> Iterator[tuple[str, str]]:
    """What one argument of a module sends: limits and texts."""
    if kind.endswith(" tags"):
        yield from tag_texts(kind.split()[0], value)
    elif kind in SIZES:
        yield from policy(kind, value)
    elif kind == "rules":
        for rule in value:
            for source in (*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])):
                yield "rule from addresses", source["Description"]
            for source in rule.get("UserIdGroupPairs", []):
                yield "rule from a group", source["Description"]
    elif kind == "ec2 specifications":
        for one in value:
            yield from tag_texts("ec2", aws.tags_of(one))
    elif kind == "iam list":
        yield from tag_texts("iam", {tag["Key"]: tag["Value"] for tag in value})
    else:
        yield kind, value


def refused(sent: Iterator[tuple[str, str]]) -> list[str]:
    """The texts that AWS wouldn't take."""
    return [f"{LIMITS[kind].source}: {text!r}" for kind, text in sent if LIMITS[kind].refuses(text)]


def sent_by(task: dict[str, Any], variables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a task sends."""
    (module,) = [key for key in task if key.startswith("amazon.aws.")]
    assert module in MODULES, f"say in MODULES what {module} sends"
    untold = set(task[module]) & {"name", "description", "tags", "rules", "policy_json", "policy_name"}
    assert untold <= set(MODULES[module]), f"say in MODULES what {module} sends"
    templar = Templar(loader=DataLoader(), variables={**variables, **task.get("vars", {})})
    for argument, kind in MODULES[module].items():
        if argument in task[module]:
            yield from texts(kind, templar.template(task[module][argument]))


def of_ansible(file: Path) -> list[dict[str, Any]]:
    """The tasks of a file that use Ansible's modules of AWS."""
    found = DataLoader().load_from_file(str(file), trusted_as_template=True)
    return [task for task in tasks(found) if any(key.startswith("amazon.aws.") for key in task)]


FILES = [path for path in [*ROLE.glob("tasks/*.yml"), *ROOT.glob("playbooks/*.yml")] if of_ansible(path)]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("launcher", ["ansible", "im"])
def test_what_tasks_send(file: Path, launcher: str) -> None:
    variables = {**given(), "fleet_launcher": launcher}
    for task in of_ansible(file):
        assert refused(sent_by(task, variables)) == [], task["name"]


def test_the_tasks_are_found() -> None:
    used = {key for file in FILES for task in of_ansible(file) for key in task if key.startswith("amazon.aws.")}
    assert used == set(MODULES)


class Recorder:
    """In AWS's place: has nothing, makes all, and keeps what it was told."""

    told: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what aws.Aws takes."""
        self.profile = ""

    def client(self, service: str) -> None:
        """Open nothing."""

    def pages(self, doing: str, service: str, method: str, key: str, **arguments: Any) -> list[Any]:
        """Have nothing."""
        return []

    def call(self, doing: str, service: str, method: str, **arguments: Any) -> dict[str, Any]:
        """Keep what is told, and answer as AWS does, as far as that is read."""
        self.told.append((method, arguments))
        if method.startswith("get_"):
            error = aws.FleetError("It isn't there.")
            error.__cause__ = botocore.exceptions.ClientError({"Error": {"Code": "NoSuchEntity"}}, method)
            raise error
        made = {
            "Vpc": {"VpcId": "vpc-1"}, "Subnet": {"SubnetId": "subnet-1"}, "KeyPairs": [], "GroupId": "sg-1",
            "InternetGateway": {"InternetGatewayId": "igw-1"}, "RouteTable": {"RouteTableId": "rtb-1"},
            "Role": {"Arn": "arn:aws:iam::123456789012:role/x"},
        }  # fmt: skip
        return dict(made)


def told_to(file: str, module: str) -> dict[str, Any]:
    """What the role's task tells a module of the kit."""
    templar = Templar(loader=DataLoader(), variables=given())
    (task,) = [
        task
        for task in DataLoader().load_from_file(str(ROLE / "tasks" / file), trusted_as_template=True)
        if module in task
    ]
    return dict(templar.template(task[module]))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The calls by which the kit's modules make a fleet of the longest names, and an image."""
    Recorder.told.clear()
    monkeypatch.setattr(aws, "Aws", Recorder)
    Network(told_to("network.yml", "flotilla.kit.fleet_network"), False).ensure()
    told = told_to("access.yml", "flotilla.kit.fleet_access")
    Access({**told, "ssh_key": str(tmp_path / "key"), "schedule": True}, False).ensure()
    baker = Baker.__new__(Baker)
    baker.p = {
        "digest": "0" * 16, "kind": "gpu", "root": str(ROOT), "instance_id": "i-0123456789abcdef0", "tags": TAGS,
    }  # fmt: skip
    baker.aws, baker.owner = Recorder(), OWNER
    baker.create("ami-0123456789abcdef0")
    return list(Recorder.told)


def refused_calls(calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The texts in calls that AWS wouldn't take."""
    return [
        found
        for method, arguments in calls
        for argument, kind in CALLED.get(method, {}).items()
        for found in refused(texts(kind, arguments[argument]))
    ]


def test_what_our_modules_send(recorded: list[tuple[str, dict[str, Any]]]) -> None:
    assert {method for method, _ in recorded} >= set(CALLED)
    assert refused_calls(recorded) == []
    for method, arguments in recorded:
        for sent in [*arguments.get("TagSpecifications", []), *([arguments] if "Tags" in arguments else [])]:
            assert TAGS.items() <= aws.tags_of(sent).items(), method
    roles = [arguments["RoleName"] for method, arguments in recorded if method == "create_role"]
    assert len(roles) == 2 and any(one.endswith("-expiry") for one in roles)


def test_an_apostrophe_is_found(recorded: list[tuple[str, dict[str, Any]]]) -> None:
    """EC2 refused the first line of this kind, and with it every fleet."""
    (permissions,) = [
        arguments["IpPermissions"] for method, arguments in recorded if method == "authorize_security_group_ingress"
    ]
    (rule,) = [one for one in permissions if "UserIdGroupPairs" in one]
    for words in ("everything between the fleet's nodes", "this & that"):
        rule["UserIdGroupPairs"][0]["Description"] = words
        (found,) = refused_calls(recorded)
        assert words in found and "UserIdGroupPair" in found
    rule["UserIdGroupPairs"][0]["Description"] = "this and that"
    permissions[0]["IpRanges"][0]["Description"] = "this & that"
    assert refused_calls(recorded) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("group description", "a" * 256),
        ("rule from addresses", "ü"),
        ("group name", "x" * 256),
        ("ec2 tag key", "aws:x"),
        ("ec2 tag key", ""),
        ("ec2 tag value", "x" * 257),
        ("key pair", "ü"),
        ("token", "x" * 65),
        ("user data", "x" * 16385),
        ("role", "my role"),
        ("role", "x" * 65),
        ("role", "ü"),
        ("instance profile", "x" * 129),
        ("role description", "中"),
        ("policy name", "a b"),
        ("iam tag value", "a,b"),
        ("session", "a b"),
        ("schedule group", "x" * 65),
        ("schedule group", "a b"),
        ("sid", "a-b"),
    ],
)
def test_limits_can_be_missed(kind: str, text: str) -> None:
    assert LIMITS[kind].refuses(text)


def instance_texts(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What RunInstances is told."""
    kinds = [one["ResourceType"] for one in request["TagSpecifications"]]
    assert len(set(kinds)) == len(kinds), "each kind is named once"
    for one in request["TagSpecifications"]:
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert len(tags) == len(one["Tags"]), "each key is named once"
        yield from tag_texts("ec2", tags)
    for argument, kind in (("ClientToken", "token"), ("KeyName", "key pair"), ("UserData", "user data")):
        if argument in request:
            yield kind, request[argument]


def test_what_a_launch_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    def run_instances(**request: Any) -> Any:
        sent.update(request)
        return {"Instances": [{"InstanceId": "i-1"}]}

    client = type("Client", (), {"run_instances": staticmethod(run_instances)})
    monkeypatch.setattr(aws, "Aws", lambda *_, **__: type("Aws", (), {"client": lambda self, service: client})())
    variables = given()
    templar = Templar(loader=DataLoader(), variables=variables)
    (task,) = [
        task
        for task in DataLoader().load_from_file(str(ROLE / "tasks/instances.yml"), trusted_as_template=True)
        if "flotilla.kit.fleet_instances" in task
    ]
    told = {
        key: templar.template(task["flotilla.kit.fleet_instances"][key])
        for key in ("region", "profile", "name", "tags", "key_name", "instance_profile", "public_addresses", "timeout")
    }
    group = {
        "count": 1, "instance_type": "t3.large", "image_id": "ami-1", "root_device": "/dev/xvda", "volume_size": 20,
        "ssh_user": "ubuntu", "tasks": 8,
    }  # fmt: skip
    groups = {"evaluator": group}
    fleet = Fleet(
        {
            **told,
            "groups": groups,
            "subnet_id": "subnet-1",
            "security_group_id": "sg-1",
            "user_data": (ROLE / "templates/user-data.yml.j2").read_text(),
        }
    )
    fleet.launch("evaluator", 19, [])
    assert (
        sent["KeyName"].endswith(NAME)
        and {"Key": "flotilla-owner", "Value": OWNER} in sent["TagSpecifications"][0]["Tags"]
    )
    assert refused(instance_texts(sent)) == []
    for launcher in ("ansible", "im"):
        preflight = Preflight(
            {"name": NAME, "launcher": launcher, "subnet_id": "", "public_addresses": True, "tags": TAGS}
        )
        preflight.groups, preflight.result = groups, variables["fleet_validated"]
        assert refused(instance_texts(preflight.request("evaluator"))) == []


def test_policies_to_copy() -> None:
    """They are for a managed policy."""
    files = list(ROLE.glob("files/*.json"))
    assert files
    for file in files:
        assert refused(policy("managed policy", file.read_text())) == [], file.name
        for statement in json.loads(file.read_text())["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert all(re.fullmatch("[a-z0-9-]+:[A-Za-z*]+", action) for action in actions), file.name


def test_names_that_aws_has_no_module_for() -> None:
    inner = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert not LIMITS["schedule group"].refuses(f"flotilla-{NAME}")
    assert not LIMITS["role"].refuses(f"flotilla-{NAME}-{REGION}-expiry")
    assert "flotilla-" in inner["__fleet_iam_name"]


@pytest.mark.parametrize(
    "name", [*(path.name for path in ROOT.glob("radl/*.radl")), "../playbooks/templates/infrastructure.radl.j2"]
)
def test_what_the_infrastructure_manager_is_told_to_send(name: str) -> None:
    file = ROOT / "radl" / name
    text = file.read_text()
    more = "".join(f",{number:02} Ada . : / + - @ _=".ljust(256, "x") for number in range(40))
    for name, value in (
        ("fleet_name", NAME), ("radl_expires", "2026-11-28T20:00:00Z"), ("group", "evaluator"), ("__radl_tags", more),
    ):  # fmt: skip
        text = re.sub(rf"\[\[ {name} \]\]", value, text)
    listed = re.findall(r"instance_tags = '([^']*)'", text)
    assert listed or file.name == "worker.radl"
    for tags in listed:
        # Before these the Infrastructure Manager puts Name and IM-USER.
        pairs = dict(pair.split("=", 1) for pair in tags.split(","))
        assert "flotilla-fleet" in pairs and refused(tag_texts("ec2", pairs)) == []
