"""The policy to copy: what the kit asks of AWS is in it and nothing else, and nobody becomes an administrator by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ansible_collections.amazon.aws.plugins as amazon
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import access_policy
from botocore import xform_name
from botocore.session import get_session

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "roles/fleet/files"
DOCUMENTS = {name: json.loads((FILES / f"{name}.json").read_text()) for name in ("policy", "boundary", "policy-im")}
POLICY, BOUNDARY = DOCUMENTS["policy"]["Statement"], DOCUMENTS["boundary"]["Statement"]
OURS = {"Null": {"aws:ResourceTag/flotilla-fleet": "false"}}
IMAGES = {"Null": {"aws:ResourceTag/flotilla-image": "false"}}
# A permission's first part → botocore's name of the service, where it's another.
SERVICES = dict.fromkeys(("ec2", "iam", "pricing", "s3", "scheduler", "ssm", "sts"), "") | {
    "servicequotas": "service-quotas"
}
# S3's permissions aren't called after its calls. https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html
S3 = {
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "CreateMultipartUpload": "PutObject",
    "ListParts": "ListMultipartUploadParts",
}
# Permissions without a call of their own: checked when another call gives a role away, or makes something with tags.
IMPLIED = {"iam:PassRole"}
NEVER = {"sts:GetCallerIdentity"}  # which everybody may
# https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html and what gives more rights otherwise
DANGEROUS = (
    "iam:AttachGroupPolicy", "iam:AttachRolePolicy", "iam:AttachUserPolicy", "iam:CreateAccessKey",
    "iam:CreateLoginProfile", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeleteRolePermissionsBoundary",
    "iam:DeleteUserPermissionsBoundary", "iam:PutGroupPolicy", "iam:PutUserPermissionsBoundary", "iam:PutUserPolicy",
    "iam:SetDefaultPolicyVersion", "iam:UpdateAccessKey", "iam:UpdateLoginProfile", "sts:AssumeRoleWithWebIdentity",
)  # fmt: skip


def actions(statements: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each action of a policy with its statement."""
    for statement in statements:
        found = statement["Action"]
        yield from ((action, statement) for action in ([found] if isinstance(found, str) else found))


def operations(prefix: str) -> dict[str, str]:
    """The permissions of a service's calls, by the names of boto3's methods."""
    names = get_session().get_service_model(SERVICES[prefix] or prefix).operation_names
    return {xform_name(name): f"{prefix}:{S3.get(name, name) if prefix == 's3' else name}" for name in names}


# By the names of boto3's methods, of which several services may have one.
CALLS: dict[str, set[str]] = {}
for some in SERVICES:
    for call, permission in operations(some).items():
        CALLS.setdefault(call, set()).add(permission)
KNOWN = set().union(*CALLS.values())


def asked(*files: Path) -> dict[str, set[str]]:
    """What Python files call, by name, in AWS, and the permissions that this may need."""
    words = {word for file in files for word in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", file.read_text())}
    return {word: CALLS[word] for word in words & CALLS.keys()}


def some_match(names: set[str], patterns: set[str]) -> bool:
    """Whether one of the permissions is one of those, which may have stars."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def modules() -> set[str]:
    """The modules of amazon.aws that roles and playbooks use."""
    books = [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")]
    return {name for book in books for name in re.findall(r"amazon\.aws\.(\w+):", book.read_text())}


@pytest.fixture(scope="module")
def used() -> dict[str, set[str]]:
    """The calls that the kit makes, and the permissions that each may need."""
    plugins = Path(amazon.__path__[0])
    foreign = asked(*(plugins / "modules" / f"{name}.py" for name in modules() - {"aws"}))
    own = asked(*(ROOT / "plugins").rglob("*.py"), ROOT / "scripts/dataset.py")
    found = {**foreign, **own}
    return {call: names for call, names in found.items() if not some_match(names, NEVER)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_fits_into_a_managed_policy_and_is_well_formed(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["Version"] == "2012-10-17" and set(document) == {"Version", "Statement"}
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    assert len("".join((FILES / f"{name}.json").read_text().split())) <= 6144
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(set(sids)) == len(sids) and all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)
    assert all(set(one) <= {"Sid", "Effect", "Action", "Resource", "Condition"} for one in document["Statement"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_action_is_one(name: str) -> None:
    for action, statement in actions(DOCUMENTS[name]["Statement"]):
        assert some_match(KNOWN | IMPLIED, {action}), f"{action} of {statement['Sid']}"


def test_all_that_the_kit_asks_is_allowed(used: dict[str, set[str]]) -> None:
    allowed = {action for action, _ in actions(POLICY)}
    assert {"run_instances", "create_route_table", "put_role_policy", "get_parameters"} <= used.keys()
    assert sorted(call for call, names in used.items() if not some_match(names, allowed)) == []


def test_nothing_is_allowed_that_the_kit_does_not_ask(used: dict[str, set[str]]) -> None:
    names = IMPLIED.union(*used.values())
    assert [action for action, _ in actions(POLICY) if not some_match(names, {action})] == []


def test_what_ends_or_changes_needs_the_tag() -> None:
    making = ("ec2:Describe", "ec2:Create", "ec2:Import", "ec2:Run")
    for action, statement in actions(POLICY):
        if action in ("ec2:DeregisterImage", "ec2:DeleteSnapshot"):
            assert statement["Condition"] == IMAGES, action
        elif action.startswith("ec2:") and not action.startswith(making):
            assert statement["Condition"] == OURS, action
        if action == "ec2:CreateTags":
            made = sorted({"ec2:CreateImage", *(name for name, one in actions(POLICY) if one["Sid"] == "Make")})
            condition = statement["Condition"]
            assert condition == OURS or [f"ec2:{one}" for one in condition["StringEquals"]["ec2:CreateAction"]] == made
        if action.startswith("iam:De") or action.startswith("iam:Remove"):
            assert statement["Condition"] == OURS, action


def test_nobody_becomes_an_administrator_by_it() -> None:
    patterns = [action for name in ("policy", "policy-im") for action, _ in actions(DOCUMENTS[name]["Statement"])]
    assert not [one for one in DANGEROUS if any(fnmatchcase(one, pattern) for pattern in patterns)]
    assert all(":" in pattern and "*" not in pattern.removeprefix("ec2:Describe*") for pattern in patterns)
    boundary = {"StringLike": {"iam:PermissionsBoundary": "arn:aws:iam::*:policy/flotilla-boundary"}}
    services = {"StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com", "scheduler.amazonaws.com"]}}
    for action, statement in actions(POLICY):
        if action.startswith(("iam:", "sts:", "scheduler:")) and action != "scheduler:ListSchedules":
            resources = statement["Resource"]
            for resource in [resources] if isinstance(resources, str) else resources:
                assert re.search(r":(role|instance-profile|policy|schedule|schedule-group)/flotilla-", resource), action
        if action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:PutRolePermissionsBoundary",
                      "iam:UpdateAssumeRolePolicy"):  # fmt: skip
            assert statement["Condition"] == boundary, action
        if action == "iam:PassRole":
            assert statement["Condition"] == services


def test_the_boundary_is_the_bucket_and_the_end_of_our_hosts() -> None:
    for action, statement in actions(BOUNDARY):
        if action == "ec2:TerminateInstances":
            assert statement["Condition"] == OURS
        else:
            assert action.startswith("s3:") and statement["Resource"].startswith("arn:aws:s3:::YOUR-BUCKET")
    nodes = access_policy.policy(
        "s3://your-bucket/cifar10/", "s3://your-bucket/models/", "s3://your-bucket/p.tar.gz",
        reads=["s3://your-bucket/photos/"], writes=["s3://your-bucket/predictions/"],
    )  # fmt: skip
    by_name = {one["Sid"]: one for one in nodes["Statement"]}
    assert by_name["Read0"]["Action"] == ["s3:GetObject"]
    assert by_name["Write0"]["Resource"] == ["arn:aws:s3:::your-bucket/predictions/*"]
    assert "s3:PutObject" in by_name["Write0"]["Action"] and "ListRead0" in by_name
    for action, statement in actions(nodes["Statement"]):
        inside = [one for name, one in actions(BOUNDARY) if name == action]
        for resource in statement["Resource"]:
            assert any(fnmatchcase(resource, one["Resource"].lower()) for one in inside), (action, resource)


def test_images_are_made_of_our_hosts_only() -> None:
    """CreateImage is judged on the instance, the image and the snapshots."""
    made = [one for action, one in actions(POLICY) if action == "ec2:CreateImage"]
    free = [one["Resource"] for one in made if "Condition" not in one]
    assert free == [["arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*"]]
    assert [one["Condition"] for one in made if "Condition" in one] == [OURS]
