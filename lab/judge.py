"""What AWS refuses and moto takes: patches of moto, for the lab and for tests under `mock_aws`.

Here is what holds for all calls: names and lengths of botocore's model, filters, ids, tags, dry runs. The calls' own
rules are in `judge_ec2`, `judge_launch`, `judge_images` and `judge_iam`. Codes and words are AWS's own wherever AWS has
published them.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Callable
from typing import NoReturn

from botocore.model import ServiceModel, Shape
from botocore.session import get_session
from moto.core.exceptions import ServiceException
from moto.core.responses import BaseResponse
from moto.ec2.exceptions import DryRunClientError
from moto.ec2.responses import EC2Response
from moto.ec2.utils import filter_dict_attribute_mapping
from moto.s3.exceptions import InvalidBucketName
from moto.s3.models import S3Backend

from .untyped import Json, Moto, Request

log = logging.getLogger("lab")

Rule = Callable[[Moto, Request], None]  # of moto's response object, which knows account and region, and the request

# Errors that aren't the client's, or have a status of their own; all others of EC2 are 400.
STATUS = {
    "DryRunOperation": 412, "InsufficientInstanceCapacity": 500, "InternalError": 500, "UnauthorizedOperation": 403,
}  # fmt: skip
# What a call makes, and may so tag.
MAKES = {
    "CreateVpc": ("vpc",), "CreateSubnet": ("subnet",), "CreateInternetGateway": ("internet-gateway",),
    "CreateRouteTable": ("route-table",), "CreateSecurityGroup": ("security-group",), "CreateVolume": ("volume",),
    "CreateVpcEndpoint": ("vpc-endpoint",), "CreateNetworkInterface": ("network-interface",),
    "CreateLaunchTemplate": ("launch-template",), "AllocateAddress": ("elastic-ip",),
    "ImportKeyPair": ("key-pair",), "CreateKeyPair": ("key-pair",),
    "AuthorizeSecurityGroupIngress": ("security-group-rule",), "AuthorizeSecurityGroupEgress": ("security-group-rule",),
    "CreateImage": ("image", "snapshot"), "CopyImage": ("image", "snapshot"), "RegisterImage": ("image",),
    "CreateSnapshot": ("snapshot",), "CopySnapshot": ("snapshot",),
    "RunInstances": ("instance", "volume", "network-interface", "spot-instances-request"),
}  # fmt: skip
IDS = {
    "InstanceId": ("i", "InvalidInstanceID.Malformed"), "GroupId": ("sg", "InvalidGroupId.Malformed"),
    "ImageId": ("ami", "InvalidAMIID.Malformed"), "VpcEndpointId": ("vpce", "InvalidVpcEndpointId.Malformed"),
    "SnapshotId": ("snap", "InvalidSnapshotID.Malformed"),
}  # fmt: skip

_rules: dict[str, list[Rule]] = {}
_patches: list[tuple[Moto, str, Moto]] = []
_MISSING = object()


class Refused(ServiceException):
    """A call that AWS refuses."""


def refuse(code: str, message: str) -> NoReturn:
    """Answer a call as AWS does that refuses it."""
    raise Refused(code, message)


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Make a function judge calls: `rule("ec2:RunInstances")`."""

    def register(function: Rule) -> Rule:
        for operation in operations:
            _rules.setdefault(operation, []).append(function)
        return function

    return register


def patch(owner: Moto, name: str, value: Moto) -> None:
    """Replace an attribute of moto's until `detach`."""
    _patches.append((owner, name, owner.__dict__.get(name, _MISSING)))
    setattr(owner, name, value)


def attach() -> None:
    """Make moto refuse what AWS refuses; twice is once."""
    if EC2Response in [owner for owner, _, _ in _patches]:
        return
    from . import judge_ec2, judge_iam, judge_images, judge_launch, quotas  # noqa: F401 (its rules register themselves)

    serialized = BaseResponse.serialized

    def with_status(self: BaseResponse, action_result: Moto) -> Moto:
        status, headers, body = serialized(self, action_result)
        if isinstance(action_result.result, ServiceException):
            status = STATUS.get(action_result.result.code, status)
        return status, headers, body

    patch(BaseResponse, "serialized", with_status)
    filter_dict_attribute_mapping.setdefault("client-token", "client_token")
    watch(EC2Response, "ec2", lambda call: dict(call.params))
    judge_images.attach()
    judge_launch.attach()
    judge_iam.attach()
    _attach_buckets()
    quotas.attach()


def _attach_buckets() -> None:
    create = S3Backend.create_bucket

    def created(self: S3Backend, bucket_name: str, *arguments: Moto, **options: Moto) -> Moto:
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
        bad = not re.fullmatch(r"[a-z0-9]([a-z0-9-]|\.(?!\.))*[a-z0-9]", bucket_name) or re.fullmatch(
            r"(\d+\.){3}\d+|(xn--|sthree-|amzn-s3-demo-).*|.*(-s3alias|--ol-s3|--x-s3|\.mrap)", bucket_name
        )
        if bad:
            raise InvalidBucketName
        return create(self, bucket_name, *arguments, **options)

    patch(S3Backend, "create_bucket", created)


def detach() -> None:
    """Leave moto as it was."""
    while _patches:
        owner, name, value = _patches.pop()
        if value is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


@functools.cache
def model(service: str) -> ServiceModel:
    """botocore's description of a service."""
    return get_session().get_service_model(service)


def snake(operation: str) -> str:
    """The name of an operation's method at moto: run_instances."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()


def watch(owner: Moto, service: str, parameters: Callable[[Moto], Request]) -> None:
    """Have every call of a service judged before moto carries it out.

    Args:
        owner: moto's class of responses.
        service: botocore's name of the service.
        parameters: reads the request, in the words of botocore's model.
    """
    for operation in model(service).operation_names:
        if hasattr(owner, snake(operation)):
            _watch(owner, service, operation, parameters)


def _watch(owner: Moto, service: str, operation: str, parameters: Callable[[Moto], Request]) -> None:
    name = snake(operation)
    own = owner.__dict__.get(name)

    def judged(self: Moto) -> Moto:
        request = parameters(self)
        check_model(service, operation, request)
        if service == "ec2":
            check_ids(request)
            check_filters(operation, request)
            check_tags(operation, request)
        for one in _rules.get(f"{service}:{operation}", ()):
            one(self, request)
        if service == "ec2" and request.get("DryRun"):
            raise DryRunClientError
        try:
            return own(self) if own else getattr(super(owner, self), name)()
        except NotImplementedError:  # a filter that moto hasn't; if the call hasn't it either, in AWS's words
            for filter_ in request.get("Filters") or []:
                if service == "ec2" and filter_["Name"] not in filters_of(operation):
                    refuse("InvalidParameterValue", f"The filter '{filter_['Name']}' is invalid")
            raise

    patch(owner, name, judged)


# ---------------------------------------------------------------- what holds for all calls


def check_model(service: str, operation: str, request: Request) -> None:
    """Refuse what botocore's model rules out and its client lets pass: lengths, patterns, words.

    EC2's model has words only; its client checks nothing of it.
    """
    shape = model(service).operation_model(operation).input_shape
    if not shape:
        return
    for path, value, member in _leaves(shape, request):
        problem = _problem(member, value)
        if not problem or path == "InstanceType":  # of which there are more each month
            continue
        name = ".".join(part[0].lower() + part[1:] for part in path.split("."))
        if service == "ec2":
            refuse("InvalidParameterValue", f"Invalid value '{value}' for {path}.")
        text = f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {problem}"
        refuse("ValidationException" if service == "scheduler" else "ValidationError", text)


def _leaves(shape: Shape, value: Json, path: str = "") -> list[tuple[str, Json, Shape]]:
    """Each value of a request, with its name and its shape."""
    found = [(path, value, shape)] if path else []
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, member in shape.members.items():  # type: ignore[attr-defined]
            if value.get(name) is not None:
                found += _leaves(member, value[name], f"{path}.{name}" if path else name)
    elif shape.type_name == "list" and isinstance(value, list):
        for number, one in enumerate(value, 1):
            found += _leaves(shape.member, one, f"{path}.{number}.member")  # type: ignore[attr-defined]
    return found


def _problem(shape: Shape, value: Json) -> str:
    """The constraint of a shape that a value doesn't satisfy, in AWS's words, or nothing."""
    limits = shape.metadata
    if shape.type_name in ("string", "list"):
        if "max" in limits and len(value) > int(limits["max"]):
            return f"Member must have length less than or equal to {limits['max']}"
        if "min" in limits and len(value) < int(limits["min"]):
            return f"Member must have length greater than or equal to {limits['min']}"
    if shape.type_name == "string":
        words = getattr(shape, "enum", None)
        if words and value not in words:
            return f"Member must satisfy enum value set: [{', '.join(words)}]"
        if "pattern" in limits and not re.fullmatch(_python(limits["pattern"]), value):
            return f"Member must satisfy regular expression pattern: {limits['pattern']}"
    # Not its min: in the lab a role's credentials may be asked for less than 15 minutes.
    if shape.type_name in ("integer", "long") and "max" in limits and int(value) > int(limits["max"]):
        return f"Member must have value less than or equal to {limits['max']}"
    return ""


def _python(pattern: str) -> str:
    """A pattern of Java's as Python writes it."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\d"), (r"\p{Z}", r"\s"), (r"\u10000-\u10FFFF", "")):
        pattern = pattern.replace(java, python)
    return pattern


def check_ids(request: Request) -> None:
    """Refuse ids that aren't of the form which all ids have; what isn't there is moto's to say."""
    for name, (prefix, code) in IDS.items():
        given = request.get(f"{name}s") or request.get(name) or []
        for one in [given] if isinstance(given, str) else given:
            if not re.fullmatch(rf"{prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", one):
                expected = "" if one.startswith(f"{prefix}-") else f' (expecting "{prefix}-...")'
                refuse(code, f'Invalid id: "{one}"{expected}')


@functools.cache
def filters_of(operation: str) -> frozenset[str]:
    """The filters that a call's description lists."""
    shape = model("ec2").operation_model(operation).input_shape
    member = shape.members.get("Filters") if shape else None
    words = re.findall("<code>(.*?)</code>", member.documentation if member else "")
    return frozenset(html.unescape(one) for one in words)


@functools.cache
def all_filters() -> frozenset[str]:
    """The filters of all calls: some know more than their description lists, such as DescribeVpcs `cidr-block`."""
    return frozenset().union(*(filters_of(operation) for operation in model("ec2").operation_names))


def check_filters(operation: str, request: Request) -> None:
    """Refuse filters that no call knows."""
    for one in request.get("Filters") or []:
        name, values = str(one.get("Name")), one.get("Values") or []
        if name not in all_filters() and not name.startswith("tag:"):
            refuse("InvalidParameterValue", f"The filter '{name}' is invalid")
        if len(values) > 200:
            refuse("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")


def check_tags(operation: str, request: Request) -> None:
    """Refuse tags that EC2 doesn't take.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
    """
    kinds = []
    for one in request.get("TagSpecifications") or []:
        kind = str(one.get("ResourceType"))
        if operation in MAKES and kind not in MAKES[operation]:
            refuse("InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation.")
        if kind in kinds:
            refuse("InvalidParameterValue", f"The resource type '{kind}' is there twice in the tag specifications.")
        kinds.append(kind)
        _check_tag_list(one.get("Tags") or [])
    if operation == "CreateTags":
        _check_tag_list(request.get("Tags") or [])


def _check_tag_list(tags: list[dict[str, str]]) -> None:
    keys = [str(tag.get("Key", "")) for tag in tags]
    for key, tag in zip(keys, tags, strict=True):
        if key.lower().startswith("aws:"):
            refuse("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if not 0 < len(key) <= 127:
            refuse("InvalidTagKey.Malformed", f"Tag key '{key}' must have between 1 and 127 characters")
        if len(tag.get("Value") or "") > 256:
            refuse("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
        if keys.count(key) > 1:
            refuse("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
