"""What a call needs the right to do: each action, on each resource, with the values of IAM's condition keys.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

from moto.ec2.models import ec2_backends
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE
from moto.iam.models import iam_backends
from moto.scheduler.models import scheduler_backends

from .judge import MAKES
from .settings import ACCOUNT, REGION
from .untyped import Moto

Values = dict[str, str | list[str]]  # condition keys of IAM, with what they are for a request; a list for those of many
Flat = dict[str, str]  # a request's parameters: {"TagSpecification.1.Tag.1.Key": …}


@dataclass(frozen=True)
class Need:
    """One thing that a caller must be allowed to do."""

    action: str
    resource: str = "*"
    values: Values = field(default_factory=dict)


def flat(data: Moto, body: Moto) -> Flat:
    """A request's parameters, be it a form or JSON."""
    try:
        parsed = json.loads(body)
    except (ValueError, TypeError):
        return {key: str(value[0] if isinstance(value, list) else value) for key, value in dict(data or {}).items()}
    found: Flat = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                walk(one, f"{path}.{name}" if path else str(name))
        elif isinstance(value, list):
            for number, one in enumerate(value, 1):
                walk(one, f"{path}.{number}")
        else:
            found[path] = str(value)

    walk(parsed, "")
    return found


def needs(service: str, action: str, given: Flat, resource: str = "*", path: str = "") -> list[Need]:
    """What a call needs.

    Args:
        service: IAM's prefix of it.
        action: the call.
        given: its parameters.
        resource: what moto takes for its resource.
        path: of the request.
    """
    if service == "ec2":
        found = list(_ec2(action, given))
    elif service == "iam":
        found = list(_iam(action, given))
    elif service == "scheduler":
        found = list(_scheduler(action, given, path))
    else:
        found = [Need(f"{service}:{action}", resource)]
    everywhere = {"aws:RequestedRegion": REGION, "aws:PrincipalAccount": ACCOUNT}
    return [Need(one.action, one.resource, {**everywhere, **one.values}) for one in found]


def resource_tags(service: str, tags: dict[str, str]) -> Values:
    """Condition keys of what a resource's tags are."""
    keys = ("aws", service) if service in ("ec2", "iam") else ("aws",)
    return {f"{key}:ResourceTag/{name}": value for key in keys for name, value in tags.items()}


def request_tags(tags: dict[str, str]) -> Values:
    """Condition keys of the tags that a request gives."""
    found: Values = {f"aws:RequestTag/{name}": value for name, value in tags.items()}
    return {**found, "aws:TagKeys": list(tags)} if tags else found


def tags_at(given: Flat, prefix: str) -> dict[str, str]:
    """The tags that a request lists under a name: Tag.1.Key, Tags.member.1.Key."""
    keys = (re.fullmatch(rf"({re.escape(prefix)}\.(?:member\.)?\d+)\.Key", name) for name in given)
    return {given[f"{key[1]}.Key"]: given.get(f"{key[1]}.Value", "") for key in keys if key}


def pass_role(role: Moto, service: str) -> Need:
    """The right to hand a role to a service."""
    values = {"iam:PassedToService": service, **_role_values(role)}
    return Need("iam:PassRole", role.arn, values)


# ---------------------------------------------------------------- EC2


def ec2_arn(identity: str) -> str:
    """A resource's ARN, from its id."""
    prefix = identity.rpartition("-")[0]
    kind = EC2_PREFIX_TO_RESOURCE.get(prefix, prefix)
    return _arn(kind, identity)


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:ec2:{REGION}:{'' if kind in ('image', 'snapshot') else ACCOUNT}:{kind}/{name}"


def ec2_need(action: str, identity: str, values: Values | None = None) -> Need:
    """An action on a resource that is there, with its tags."""
    tags = dict(ec2_backends[ACCOUNT][REGION].tags.get(identity, {}))
    return Need(f"ec2:{action}", ec2_arn(identity), {**resource_tags("ec2", tags), **(values or {})})


def _ec2(action: str, given: Flat) -> Iterator[Need]:
    if action.startswith(("Describe", "Get", "List")):
        yield Need(f"ec2:{action}")
        return
    backend = ec2_backends[ACCOUNT][REGION]
    kinds = {given[name]: name.removesuffix(".ResourceType") for name in given if name.endswith(".ResourceType")}
    tags = {kind: tags_at(given, f"{name}.Tag") or tags_at(given, f"{name}.Tags") for kind, name in kinds.items()}
    direct = request_tags(tags_at(given, "Tag")) if action in ("CreateTags", "DeleteTags") else {}
    made = MAKES.get(action, ())
    found = 0
    for identity in _ids(action, given):
        found += 1
        yield ec2_need(action, identity, direct)
    for name in [given["KeyName"]] if "KeyName" in given else []:
        found += 1
        pair = backend.key_pairs.get(name)
        values = resource_tags("ec2", dict(backend.tags.get(pair.id, {}))) if pair else {}
        if "key-pair" in made:
            values = request_tags(tags.get("key-pair", {}))
        yield Need(f"ec2:{action}", f"arn:aws:ec2:{REGION}:{ACCOUNT}:key-pair/{name}", values)
    for kind in made:
        if kind in ("key-pair", "security-group-rule") or (kind == "spot-instances-request" and kind not in tags):
            continue
        found += 1
        yield Need(f"ec2:{action}", _arn(kind, "*"), request_tags(tags.get(kind, {})))
    for kind, some in tags.items():
        if some:
            values = {**request_tags(some), "ec2:CreateAction": action}
            yield Need("ec2:CreateTags", _arn(kind, "*"), values)
    image = backend.amis.get(given.get("ImageId", "")) if action == "DeregisterImage" else None
    if image and given.get("DeleteAssociatedSnapshots") == "true":
        yield ec2_need("DeleteSnapshot", image.ebs_snapshot.id)
    for profile in _profiles(given):
        for role in profile.roles:
            yield pass_role(role, "ec2.amazonaws.com")
    if not found:
        yield Need(f"ec2:{action}")


def _ids(action: str, given: Flat) -> Iterator[str]:
    """The resources that a call is about; what a rule or a route leads to isn't asked for."""
    for name, value in given.items():
        last = name.rstrip("0123456789.").split(".")[-1]
        if action.endswith("Route") and last != "RouteTableId":
            continue
        deep = "." in name.rstrip("0123456789.")
        if deep and not (action == "RunInstances" and last in ("SubnetId", "SecurityGroupId", "NetworkInterfaceId")):
            continue
        if value.startswith("rtbassoc-"):
            for table in ec2_backends[ACCOUNT][REGION].route_tables.values():
                if value in table._associations:
                    yield table.id
        elif re.fullmatch(r"[a-z-]+-[0-9a-f]{8,17}", value) and last not in ("ClientToken", "GroupName", "KeyName"):
            yield value


def _profiles(given: Flat) -> Iterator[Moto]:
    name, arn = given.get("IamInstanceProfile.Name"), given.get("IamInstanceProfile.Arn")
    for one in iam_backends[ACCOUNT]["aws"].get_instance_profiles() if name or arn else []:
        if one.name == name or one.arn == arn:
            yield one


# ---------------------------------------------------------------- IAM and Scheduler


def _role_values(role: Moto) -> Values:
    tags = {tag["Key"]: tag["Value"] for tag in _tag_list(role.tags)}
    boundary = {"iam:PermissionsBoundary": role.permissions_boundary_arn} if role.permissions_boundary_arn else {}
    return {**resource_tags("iam", tags), **boundary}


def _tag_list(tags: Moto) -> list[dict[str, str]]:
    return list(tags.values()) if isinstance(tags, dict) else list(tags or [])


def _iam(action: str, given: Flat) -> Iterator[Need]:
    backend = iam_backends[ACCOUNT]["aws"]
    values = request_tags(tags_at(given, "Tags"))
    resource = given.get("PolicyArn", "*")
    role = next((one for one in backend.get_roles() if one.name == given.get("RoleName")), None)
    for parameter, kind in (("InstanceProfileName", "instance-profile"), ("RoleName", "role"), ("UserName", "user"),
                            ("PolicyName", "policy")):  # fmt: skip
        if name := given.get(parameter):
            resource = f"arn:aws:iam::{ACCOUNT}:{kind}/{name}"
            if kind == "instance-profile":
                for profile in backend.get_instance_profiles():
                    if profile.name == name:
                        tags = {tag["Key"]: tag["Value"] for tag in _tag_list(profile.tags)}
                        values = {**values, **resource_tags("iam", tags)}
            if kind == "role" and role:
                resource, values = role.arn, {**values, **_role_values(role)}
            break
    if "PolicyArn" in given:
        values["iam:PolicyARN"] = given["PolicyArn"]
    if "PermissionsBoundary" in given:
        values["iam:PermissionsBoundary"] = given["PermissionsBoundary"]
    yield Need(f"iam:{action}", resource, values)
    if action == "AddRoleToInstanceProfile" and role:
        yield pass_role(role, "ec2.amazonaws.com")


def _scheduler(action: str, given: Flat, path: str) -> Iterator[Need]:
    backend = scheduler_backends[ACCOUNT][REGION]
    url = urllib.parse.urlparse(path)
    asked = urllib.parse.parse_qs(url.query)
    found = re.search(r"/(schedules|schedule-groups)/([^/?]+)", url.path)
    arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:"
    values: Values = request_tags(tags_at(given, "Tags"))
    if not found:
        tagged = urllib.parse.unquote(url.path.partition("/tags/")[2])
        resource = tagged or ("*" if action == "ListScheduleGroups" else f"{arn}schedule/*/*")
    elif found[1] == "schedule-groups":
        resource = f"{arn}schedule-group/{found[2]}"
    else:
        group = given.get("GroupName") or asked.get("groupName", ["default"])[0]
        resource = f"{arn}schedule/{group}/{found[2]}"
    if found and found[1] == "schedule-groups":
        tags = backend.tagger.get_tag_dict_for_resource(resource)
        values |= resource_tags("scheduler", tags)
    yield Need(f"scheduler:{action}", resource, values)
    for role in iam_backends[ACCOUNT]["aws"].get_roles():
        if role.arn == given.get("Target.RoleArn"):
            yield pass_role(role, "scheduler.amazonaws.com")
