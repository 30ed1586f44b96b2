"""What IAM, STS and EventBridge Scheduler refuse and moto takes: sizes, trust, roles that may not be taken.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import NoReturn
from zoneinfo import ZoneInfo

from moto.core.exceptions import AccessDeniedError, JsonRESTError
from moto.core.responses import EmptyResult
from moto.core.utils import utcnow
from moto.iam.exceptions import EntityAlreadyExists, NotFoundException
from moto.iam.models import IAMBackend, iam_backends
from moto.iam.responses import IamResponse
from moto.scheduler.exceptions import ScheduleGroupNotFound
from moto.scheduler.responses import EventBridgeSchedulerResponse
from moto.sts.responses import TokenResponse

from . import access
from .judge import model, patch, refuse, rule, watch
from .settings import ACCOUNT, REGION
from .untyped import Moto, Request

SCHEDULER = "scheduler.amazonaws.com"
# For seconds after its creation Scheduler can't take a role; the lab's region sets it.
ROLE_SECONDS = 0.0
UNTRUSTED = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."


def attach() -> None:
    """Have the calls judged, and give users boundaries, which moto hasn't."""

    def bounded(self: IamResponse) -> EmptyResult:
        arn = self._get_param("PermissionsBoundary")
        if arn:
            self.backend.get_policy(arn)
        setattr(self.backend.get_user(self._get_param("UserName")), "permissions_boundary_arn", arn)  # noqa: B010
        return EmptyResult()

    patch(IamResponse, "put_user_permissions_boundary", bounded)
    patch(IamResponse, "delete_user_permissions_boundary", bounded)
    watch(IamResponse, "iam", lambda call: dict(call.params))
    watch(TokenResponse, "sts", lambda call: dict(call.params))
    watch(EventBridgeSchedulerResponse, "scheduler", scheduler_parameters)


def size(document: str) -> int:
    """A policy's size as IAM counts it: without white space."""
    return len(re.sub(r"\s", "", document))


# ---------------------------------------------------------------- policies


@rule("iam:PutUserPolicy", "iam:PutRolePolicy", "iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:CreateRole",
      "iam:UpdateAssumeRolePolicy")  # fmt: skip
def _policy(call: Moto, request: Request) -> None:
    trust = request.get("AssumeRolePolicyDocument")
    trust = trust or (request.get("PolicyDocument") if call._get_action() == "UpdateAssumeRolePolicy" else None)
    document = trust or request.get("PolicyDocument") or ""
    try:
        policy = json.loads(document)
    except ValueError:
        refuse("MalformedPolicyDocument", "This policy contains invalid Json")
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    if not statements:
        refuse("MalformedPolicyDocument", "Syntax errors in policy.")
    for statement in statements if isinstance(statements, list) else [statements]:
        if not re.fullmatch("[0-9A-Za-z]*", str(statement.get("Sid", ""))):
            refuse(
                "MalformedPolicyDocument",
                "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression "
                "[0-9A-Za-z]*",
            )
        if trust:
            _trust(call.backend, statement)


def _trust(backend: IAMBackend, statement: Request) -> None:
    principal = statement.get("Principal")
    if not principal:
        refuse("MalformedPolicyDocument", "Missing required field Principal")
    if statement.get("Resource") or statement.get("NotResource"):
        refuse("MalformedPolicyDocument", "Has prohibited field Resource")
    if principal == "*":
        return
    if not isinstance(principal, dict):
        refuse("MalformedPolicyDocument", f'Invalid principal in policy: "{principal}"')
    for kind, named in principal.items():
        for one in [named] if isinstance(named, str) else named:
            if not _known(backend, kind, one):
                name = "SERVICE" if kind == "Service" else kind
                refuse("MalformedPolicyDocument", f'Invalid principal in policy: "{name}":"{one}"')


def _known(backend: IAMBackend, kind: str, name: str) -> bool:
    if kind == "Service":
        first = re.fullmatch(r"([a-z0-9-]+)(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?", name)
        return first is not None and first[1] in {
            *access.services(),
            "ecs-tasks",
            "edgelambda",
            "spotfleet",
            "vpc-flow-logs",
        }
    if kind != "AWS":
        return kind in ("Federated", "CanonicalUser")
    if name == "*" or re.fullmatch(r"\d{12}|arn:aws[a-z-]*:iam::\d{12}:root", name):
        return True
    if not (found := re.fullmatch(r"arn:aws[a-z-]*:(iam|sts)::(\d{12}):(role|user|assumed-role)/(.+)", name)):
        return False
    if found[2] != backend.account_id or found[1] == "sts":
        return True
    last = found[4].split("/")[-1]
    return last in backend.users if found[3] == "user" else any(one.name == last for one in backend.get_roles())


@rule("iam:CreateRole", "iam:UpdateAssumeRolePolicy")
def _trust_size(call: Moto, request: Request) -> None:
    if size(request.get("AssumeRolePolicyDocument") or request.get("PolicyDocument") or "") > 2048:
        refuse("LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048")


@rule("iam:CreatePolicy", "iam:CreatePolicyVersion")
def _managed_size(call: Moto, request: Request) -> None:
    if size(request.get("PolicyDocument", "")) > 6144:
        refuse("LimitExceeded", "Cannot exceed quota for PolicySize: 6144")


@rule("iam:PutUserPolicy")
def _user_size(call: Moto, request: Request) -> None:
    user = call.backend.get_user(request["UserName"])
    others = sum(size(text) for name, text in user.policies.items() if name != request["PolicyName"])
    if others + size(request["PolicyDocument"]) > 2048:
        refuse("LimitExceeded", f"Maximum policy size of 2048 bytes exceeded for user {user.name}")


@rule("iam:PutRolePolicy")
def _role_size(call: Moto, request: Request) -> None:
    role = call.backend.get_role(request["RoleName"])
    others = sum(size(text) for name, text in role.policies.items() if name != request["PolicyName"])
    if others + size(request["PolicyDocument"]) > 10240:
        refuse("LimitExceeded", f"Maximum policy size of 10240 bytes exceeded for role {role.name}")


# ---------------------------------------------------------------- roles


@rule("iam:CreateRole")
def _role_name(call: Moto, request: Request) -> None:
    for role in call.backend.get_roles():
        if role.name.lower() == request["RoleName"].lower():
            raise EntityAlreadyExists(f"Role with name {request['RoleName']} already exists.")


@rule("iam:CreateRole", "iam:CreateInstanceProfile", "iam:CreatePolicy", "iam:CreateUser", "iam:TagRole",
      "iam:TagInstanceProfile", "iam:TagUser", "iam:TagPolicy")  # fmt: skip
def _tags(call: Moto, request: Request) -> None:
    keys = [tag["Key"].lower() for tag in request.get("Tags") or []]
    if any(key.startswith("aws:") for key in keys):
        refuse("InvalidInput", "Tag keys beginning with 'aws:' are reserved for system use.")
    if len(set(keys)) < len(keys):
        refuse("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")


@rule("sts:AssumeRole")
def _assume(call: Moto, request: Request) -> None:
    arn, seconds = request.get("RoleArn", ""), int(request.get("DurationSeconds") or 3600)
    backend = iam_backends[call.current_account][call.partition]
    try:
        role = backend.get_role_by_arn(arn)
    except NotFoundException:
        caller = f"arn:{call.partition}:iam::{call.current_account}:root"
        raise AccessDeniedError(caller, f"sts:AssumeRole on resource: {arn}") from None
    if seconds > int(role.max_session_duration or 3600):
        refuse("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    if seconds > 3600 and call.access_key.startswith("ASIA"):
        refuse(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        )


# ---------------------------------------------------------------- schedules


def scheduler_parameters(call: Moto) -> Request:
    """A request to Scheduler: its body, and the name in its path."""
    try:
        body = json.loads(call.body or "{}")
    except ValueError:
        body = {}
    found: Request = body if isinstance(body, dict) else {}
    if named := re.search(r"/(?:schedules|schedule-groups)/([^/?]+)", call.uri):
        found["Name"] = named[1]
    return found


def invalid(message: str) -> NoReturn:
    """Refuse a schedule."""
    error = JsonRESTError("ValidationException", message)
    error.code = 400
    raise error


def moment(expression: str, zone: str = "UTC") -> datetime | None:
    """When an `at(…)` expression is due; None for other expressions."""
    found = re.fullmatch(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)", expression)
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=ZoneInfo(zone or "UTC")) if found else None
    except (ValueError, KeyError):
        return None


def group_arn(name: str) -> str:
    """The ARN of a schedule group, which is the source that Scheduler takes roles for."""
    return f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule-group/{name}"


@rule("scheduler:DeleteScheduleGroup", "scheduler:CreateScheduleGroup")
def _schedule_group(call: Moto, request: Request) -> None:
    name, creates = request["Name"], call._get_action() == "CreateScheduleGroup"
    there = name in call.scheduler_backend.schedule_groups
    if creates and there:
        raise JsonRESTError("ConflictException", f"Schedule group {name} already exists.")
    if not creates and not there:
        raise ScheduleGroupNotFound(name)
    if not creates and name == "default":
        invalid("The default schedule group can't be deleted.")


@rule("scheduler:CreateSchedule", "scheduler:UpdateSchedule")
def _schedule(call: Moto, request: Request) -> None:
    expression, target = request.get("ScheduleExpression", ""), request.get("Target") or {}
    due = moment(expression, request.get("ScheduleExpressionTimezone") or "UTC")
    repeated = r"rate\((1 (minute|hour|day)|\d+ (minutes|hours|days))\)|cron\(\S+( \S+){5}\)"
    if not due and not re.fullmatch(repeated, expression):
        invalid(f"Invalid Schedule Expression {expression}.")
    if due and due < datetime.now(timezone.utc):
        invalid(f"Invalid Schedule Expression {expression}: it is in the past.")
    sdk = r"arn:aws[a-z-]*:scheduler:::aws-sdk:([a-z0-9-]+):([a-z][A-Za-z0-9]+)"
    if universal := re.fullmatch(sdk, target.get("Arn", "")):
        service, action = universal[1], universal[2][:1].upper() + universal[2][1:]
        if service not in access.services() or action not in model(service).operation_names:
            invalid(f"{target['Arn']} is not a supported target.")
        if "Input" in target:
            try:
                json.loads(target["Input"])
            except ValueError:
                invalid("Target Input is not valid JSON.")
    elif not re.match(r"arn:aws[a-z-]*:[a-z0-9-]+:", target.get("Arn", "")):
        invalid(f"Provided Arn is not in correct format: {target.get('Arn')}")
    role = _role(call, target.get("RoleArn", ""))
    group = request.get("GroupName") or "default"
    if group not in call.scheduler_backend.schedule_groups:
        raise ScheduleGroupNotFound(group)
    values = {"aws:SourceAccount": call.current_account, "aws:SourceArn": group_arn(group)}
    if not access.trusts(role.assume_role_policy_document, SCHEDULER, values):
        invalid(UNTRUSTED)


def _role(call: Moto, arn: str) -> Moto:
    try:
        role = iam_backends[call.current_account][call.partition].get_role_by_arn(arn)
    except NotFoundException:
        invalid(UNTRUSTED)
    if (utcnow() - role.create_date).total_seconds() < ROLE_SECONDS:
        invalid(UNTRUSTED)
    return role
