"""What moto leaves out of IAM: conditions and patterns as IAM reads them, each resource of a call, tokens' expiry.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
"""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
from collections.abc import Callable

from botocore.session import get_session
from flask import has_request_context, request
from moto.core.exceptions import JsonRESTError, _RESTError
from moto.core.utils import utcnow
from moto.iam.access_control import (
    AssumedRoleAccessKey,
    CreateAccessKeyFailure,
    IAMPolicy,
    IAMPolicyStatement,
    IAMRequest,
    IAMRequestBase,
    PermissionResult,
    S3IAMRequest,
)
from moto.iam.models import IAMBackend
from moto.s3.exceptions import S3ClientError
from moto.sts.models import sts_backends

from .judge import patch
from .needs import Need, Values, flat, needs
from .untyped import Moto

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
IN_XML = ("ec2", "iam", "s3", "sts")
IN_JSON = {"InvalidClientTokenId": "UnrecognizedClientException", "SignatureDoesNotMatch": "InvalidSignatureException"}
# Keys that the lab knows, and the query's parameter that gives them; a condition on any other key is not met.
QUERY_KEYS = {"s3:prefix": "prefix", "s3:delimiter": "delimiter", "s3:max-keys": "max-keys"}


def request_values() -> dict[str, str]:
    """The values of the condition keys in the present request."""
    values = {"aws:securetransport": "false"}
    if has_request_context():
        values |= {key: request.args[name] for key, name in QUERY_KEYS.items() if name in request.args}
    return values


@functools.cache
def services() -> frozenset[str]:
    """The services that AWS has, by botocore's names of them."""
    return frozenset(get_session().get_available_services())


def holds(conditions: dict[str, dict[str, object]], values: Values) -> bool:
    """Whether all conditions of a statement hold: any of the values that a key names will do.

    Args:
        conditions: the statement's.
        values: of the request, by key; a list for keys that have many (aws:TagKeys).
    """
    values = {key.lower(): value for key, value in values.items()}
    for operator, keys in conditions.items():
        for key, named in keys.items():
            alternatives = [str(one) for one in (named if isinstance(named, list) else [named])]
            quantity, _, name = operator.rpartition(":")
            if not _met(quantity, name, alternatives, values.get(key.lower())):
                return False
    return True


def _met(quantity: str, operator: str, alternatives: list[str], value: str | list[str] | None) -> bool:
    name = operator.removesuffix("IfExists")
    if name == "Null":
        return (value is None) == (alternatives[0].lower() == "true")
    if quantity == "ForAllValues":
        return all(_met("", operator, alternatives, one) for one in (value or []))
    if isinstance(value, list):
        return any(_met("", operator, alternatives, one) for one in value)
    if name in NEGATED:
        return value is None or not any(OPERATORS[NEGATED[name]](one, value) for one in alternatives)
    if value is None:
        return name != operator
    if name in OPERATORS:
        return any(OPERATORS[name](one, value) for one in alternatives)
    log.warning("the lab doesn't know the condition operator %s: taken as not met", operator)
    return False


def attach() -> None:
    """Make moto judge by conditions, each resource of a call, boundaries, and tokens' expiry."""
    _attach_conditions()
    _attach_decision()
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
        conditions = self._statement.get("Condition")
        if conditions and not holds(conditions, {**request_values(), **(incoming_condition_values or {})}):
            return PermissionResult.NEUTRAL
        bare = IAMPolicyStatement({key: value for key, value in self._statement.items() if key != "Condition"})
        return judge(bare, action, resource, principal)

    patch(IAMPolicyStatement, "is_action_permitted", judged)
    patch(IAMPolicyStatement, "_check_principal", _trusted)
    patch(IAMPolicyStatement, "_match", staticmethod(_match))


def _attach_decision() -> None:
    trusted = IAMRequestBase._check_role_trust_relationship

    def checked(self: IAMRequestBase, resource: str) -> None:
        if self._action == "sts:GetCallerIdentity":  # always allowed, even where it is denied
            return
        given, action = flat(self._data, self._body), self._action.split(":")[1]
        for need in needs(self._service, action, given, resource, self._path):
            if not permits(self._access_key, need):
                denied(self, need)
        if self._is_assuming_role_operation(resource) and not trusted(self, resource):
            self._raise_access_denied()

    def denied(self: IAMRequestBase, need: Need) -> None:
        text = f"User: {self._access_key.arn} is not authorized to perform: {need.action} on resource: {need.resource}"
        if self._service == "s3":
            self._raise_access_denied()
        if self._service == "ec2":
            raise refusal("ec2", "UnauthorizedOperation", f"You are not authorized to perform this operation. {text}")
        raise refusal(self._service, "AccessDenied", text)

    patch(IAMRequestBase, "check_action_permitted", checked)


def refusal(service: str, code: str, message: str) -> _RESTError:
    """An error in the form of a service: XML, or JSON with names of its own."""
    error = _RESTError(code, message)
    if service not in IN_XML:
        error = JsonRESTError(IN_JSON.get(code, f"{code}Exception"), message)
    error.code = 403
    return error


def permits(key: Moto, need: Need) -> bool:
    """Whether an access key's policies allow a need, and its owner's boundary, where there is one, does too."""
    owner: Moto
    if hasattr(key, "_owner_role_name"):
        owner = key.backend.get_role(key._owner_role_name)
    else:
        owner = key.backend.get_user(key._owner_user_name)
    return allows(key.backend, key.collect_policies(), getattr(owner, "permissions_boundary_arn", None), need)


def role_permits(backend: IAMBackend, role: Moto, need: Need) -> bool:
    """Whether a role may do something, as a service that has taken it."""
    policies = [*role.policies.values(), *role.managed_policies.values()]
    return allows(backend, policies, role.permissions_boundary_arn, need)


def allows(backend: IAMBackend, policies: list[Moto], boundary: str | None, need: Need) -> bool:
    """Whether policies, and a boundary where there is one, allow a need: one must, and none may deny it."""

    def one_does(some: list[Moto]) -> bool:
        values: Moto = need.values  # it says that a key has one value, and takes lists
        found = [IAMPolicy(one).is_action_permitted(need.action, need.resource, None, values) for one in some]
        return PermissionResult.DENIED not in found and PermissionResult.PERMITTED in found

    return one_does(policies) and (not boundary or one_does([backend.get_policy(boundary)]))


def trusts(document: str, service: str, values: Values) -> bool:
    """Whether a role's trust policy lets a service take the role."""
    statements = json.loads(document)["Statement"]
    for one in statements if isinstance(statements, list) else [statements]:
        principal = one.get("Principal") or {}
        named = principal.get("Service", []) if isinstance(principal, dict) else []
        met = service in ([named] if isinstance(named, str) else named) and holds(one.get("Condition") or {}, values)
        if met and one["Effect"] == "Allow":
            return True
    return False


def _attach_expiry() -> None:
    find, refuse, refuse_s3 = (
        AssumedRoleAccessKey.__init__,
        IAMRequest._raise_invalid_access_key,
        S3IAMRequest._raise_invalid_access_key,
    )
    check_signature, refuse_signature = IAMRequestBase.check_signature, IAMRequest._raise_signature_does_not_match

    def found(self: Moto, account_id: str, partition: str, access_key_id: str, headers: dict[str, str]) -> None:
        find(self, account_id, partition, access_key_id, headers)
        for session in sts_backends[account_id][partition].assumed_roles:
            if session.access_key_id == access_key_id and session.expiration < utcnow():
                raise CreateAccessKeyFailure(reason="Expired")

    def refused(self: IAMRequest, reason: str) -> None:
        if reason == "Expired" and self._service == "ec2":
            raise _RESTError("RequestExpired", "Request has expired.")
        if reason == "Expired":
            raise refusal(self._service, "ExpiredToken", "The security token included in the request is expired")
        if self._service not in IN_XML:
            words = "The security token included in the request is invalid."
            raise refusal(self._service, "InvalidClientTokenId", words)
        refuse(self, reason)

    def signed(self: IAMRequestBase) -> None:
        if self._service == "scheduler":  # moto would take the headers of a GET for its body
            self._data = {}
        check_signature(self)

    def wrong(self: IAMRequest) -> None:
        if self._service not in IN_XML:
            words = "The request signature we calculated does not match the signature you provided."
            raise refusal(self._service, "SignatureDoesNotMatch", words)
        refuse_signature(self)

    def refused_s3(self: S3IAMRequest, reason: str) -> None:
        if reason == "Expired":
            raise S3ClientError("ExpiredToken", "The provided token has expired.")
        refuse_s3(self, reason)

    patch(AssumedRoleAccessKey, "__init__", found)
    patch(IAMRequest, "_raise_invalid_access_key", refused)
    patch(S3IAMRequest, "_raise_invalid_access_key", refused_s3)
    patch(IAMRequestBase, "check_signature", signed)
    patch(IAMRequest, "_raise_signature_does_not_match", wrong)


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
