"""What moto leaves out of IAM: conditions and patterns as IAM reads them, permissions for one role, tokens' expiry.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable
from typing import Any

from flask import has_request_context, request
from moto.core.exceptions import _RESTError
from moto.core.utils import utcnow
from moto.iam.access_control import (
    AssumedRoleAccessKey,
    CreateAccessKeyFailure,
    IAMPolicyStatement,
    IAMRequest,
    PermissionResult,
    S3IAMRequest,
)
from moto.s3.exceptions import S3ClientError
from moto.sts.models import sts_backends

from .settings import ACCOUNT

log = logging.getLogger("lab")


def like(pattern: str, value: str) -> bool:
    """Whether a value matches a pattern of IAM's, in which * and ? alone are special."""
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


# Operator → whether a value that the policy names matches the request's.
OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda named, value: named == value,
    "StringEqualsIgnoreCase": lambda named, value: named.lower() == value.lower(),
    "StringLike": like,
    "ArnEquals": like,
    "ArnLike": like,
    "Bool": lambda named, value: named.lower() == value.lower(),
    "NumericEquals": lambda named, value: float(value) == float(named),
    "NumericLessThanEquals": lambda named, value: float(value) <= float(named),
}
NEGATED = {
    "StringNotEquals": "StringEquals", "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike", "ArnNotEquals": "ArnEquals", "ArnNotLike": "ArnLike",
}  # fmt: skip
# Keys that the lab knows, and the query's parameter that gives them; a condition on any other key is not met.
QUERY_KEYS = {"s3:prefix": "prefix", "s3:delimiter": "delimiter", "s3:max-keys": "max-keys"}


def request_values() -> dict[str, str]:
    """The values of the condition keys in the present request."""
    values = {"aws:securetransport": "false"}
    if has_request_context():
        values |= {key: request.args[name] for key, name in QUERY_KEYS.items() if name in request.args}
    return values


def iam_resource() -> str:
    """The ARN of the role or instance profile that the present request is about; moto asks for all resources."""
    if has_request_context():
        for parameter, kind in (("InstanceProfileName", "instance-profile"), ("RoleName", "role")):
            if name := request.values.get(parameter):
                return f"arn:aws:iam::{ACCOUNT}:{kind}/{name}"
    return "*"


def holds(conditions: dict[str, dict[str, Any]], values: dict[str, str]) -> bool:
    """Whether all conditions of a statement hold: any of the values that a key names will do."""
    values = {key.lower(): value for key, value in values.items()}
    for operator, keys in conditions.items():
        name = operator.removesuffix("IfExists")
        for key, named in keys.items():
            value = values.get(key.lower())
            alternatives = [str(one) for one in (named if isinstance(named, list) else [named])]
            if name == "Null":
                met = (value is None) == (alternatives[0].lower() == "true")
            elif name in NEGATED:
                met = value is None or not any(OPERATORS[NEGATED[name]](one, value) for one in alternatives)
            elif value is None:
                met = name != operator
            elif name in OPERATORS:
                met = any(OPERATORS[name](one, value) for one in alternatives)
            else:
                log.warning("the lab doesn't know the condition operator %s: taken as not met", operator)
                met = False
            if not met:
                return False
    return True


def attach() -> None:
    """Make moto heed conditions, a statement whose conditions don't hold saying nothing, and the expiry of tokens."""
    _attach_conditions()
    _attach_expiry()


def _attach_conditions() -> None:
    judge = IAMPolicyStatement.is_action_permitted

    def judged(
        self: IAMPolicyStatement,
        action: str,
        resource: str = "*",
        principal: str | None = None,
        incoming_condition_values: dict[str, str] | None = None,
    ) -> PermissionResult:
        if action == "s3:HeadBucket":  # no permission of its own
            action = "s3:ListBucket"
        if resource == "*" and action.startswith("iam:"):
            resource = iam_resource()
        conditions = self._statement.get("Condition")
        if conditions and not holds(conditions, {**request_values(), **(incoming_condition_values or {})}):
            return PermissionResult.NEUTRAL
        bare = IAMPolicyStatement({key: value for key, value in self._statement.items() if key != "Condition"})
        return judge(bare, action, resource, principal)

    setattr(IAMPolicyStatement, "is_action_permitted", judged)  # noqa: B010
    setattr(IAMPolicyStatement, "_check_principal", _trusted)  # noqa: B010
    setattr(IAMPolicyStatement, "_match", staticmethod(_match))  # noqa: B010


def _attach_expiry() -> None:
    find, refuse, refuse_s3 = (
        AssumedRoleAccessKey.__init__,
        IAMRequest._raise_invalid_access_key,
        S3IAMRequest._raise_invalid_access_key,
    )

    def found(self: Any, account_id: str, partition: str, access_key_id: str, headers: dict[str, str]) -> None:
        find(self, account_id, partition, access_key_id, headers)
        for session in sts_backends[account_id][partition].assumed_roles:
            if session.access_key_id == access_key_id and session.expiration < utcnow():
                raise CreateAccessKeyFailure(reason="Expired")

    def refused(self: IAMRequest, reason: str) -> None:
        if reason == "Expired" and self._service == "ec2":
            raise _RESTError("RequestExpired", "Request has expired.")
        if reason == "Expired":
            raise _RESTError("ExpiredToken", "The security token included in the request is expired")
        refuse(self, reason)

    def refused_s3(self: S3IAMRequest, reason: str) -> None:
        if reason == "Expired":
            raise S3ClientError("ExpiredToken", "The provided token has expired.")
        refuse_s3(self, reason)

    setattr(AssumedRoleAccessKey, "__init__", found)  # noqa: B010
    setattr(IAMRequest, "_raise_invalid_access_key", refused)  # noqa: B010
    setattr(S3IAMRequest, "_raise_invalid_access_key", refused_s3)  # noqa: B010


def _trusted(self: IAMPolicyStatement, principal: str) -> bool:
    # moto knows no account as a principal: arn:aws:iam::ACCOUNT:root, or its number, is everybody in it.
    named = self._statement.get("Principal") or "*"
    trusted = named.get("AWS", []) if isinstance(named, dict) else named
    account = principal.split(":")[4]
    everybody = {"*", principal, account, f"arn:aws:iam::{account}:root"}
    return bool(everybody & set([trusted] if isinstance(trusted, str) else trusted))


def _match(pattern: str, string: str) -> bool | None:
    # moto takes a pattern for a regular expression. Actions are compared without regard to case, ARNs with.
    if not pattern.startswith("arn:"):
        pattern, string = pattern.lower(), string.lower()
    return like(pattern, string) or None
