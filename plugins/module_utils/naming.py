# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a fleet is called, and whose it is."""

from __future__ import annotations

import re

# Session names that programs make up anew each time: SDKs' defaults, instances' and tasks' ids.
_MADE_UP = re.compile(
    r"(botocore-session|aws-go-sdk|aws-sdk-\w+|awscli-session)\b.*|i-[0-9a-f]{8,17}|\d+|.*\d{9,}.*|.*[0-9a-f]{16,}.*"
    r"|.*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-.*",
    re.IGNORECASE,
)


def check_name(name: str) -> list[str]:
    """A fleet's name goes into host names, S3 prefixes, IAM names and tags."""
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", name):
        return []
    if name in ("", "True", "False", "None"):  # what was made of yes, no, on, off, true, false, null
        return [f"fleet_name is {name or 'empty'}: give a name, in quotes where YAML takes it for a truth value."]
    return [
        f"fleet_name '{name}' can't be part of host names and tags: take 1 to 32 lower-case letters, digits and "
        "hyphens that begin with a letter and don't end with a hyphen."
    ]


def caller_name(arn: str) -> str:
    """Return who a caller is, as a tag, from an ARN of GetCallerIdentity; the same on each run.

    A role's session is called after whoever took the role, as with single sign-on, or else after the role.
    """
    kind, *path = arn.split(":", 5)[-1].split("/")
    name = path[-1] if path else kind
    if kind == "assumed-role" and len(path) > 1 and _MADE_UP.fullmatch(name):
        name = path[0]
    return re.sub(r"[^\w .:/=+@-]", "-", name)  # IAM's names may have a comma, its tags none


def default_name(arn: str) -> str:
    """Return the name of a caller's fleet where none is given: of the caller's name what check_name allows."""
    name = caller_name(arn)
    text = re.sub(r"[^a-z0-9]+", "-", (name.split("@")[0] or name).lower()).strip("-")
    if not re.match(r"[a-z]", text):
        text = f"fleet-{text}"
    return text[:32].strip("-")


def in_region(fleet: str) -> str:
    """Return the name of a fleet's key pair, security group and group of schedules."""
    return f"flotilla-{fleet}"


def in_iam(fleet: str, region: str) -> str:
    """Return the name of a fleet's role and instance profile: IAM is the same in all regions, so it has the region."""
    return f"flotilla-{fleet}-{region}"


def in_iam_for_expiry(fleet: str, region: str) -> str:
    """Return the name of the role with which EventBridge Scheduler ends what outlives its expiry."""
    return f"{in_iam(fleet, region)}-expiry"


def check_ownership(name: str, owners: set[str], me: str, adopt: bool) -> list[str]:
    """A fleet of somebody else's stays as it is; ``owners`` are its resources' tags flotilla-owner."""
    theirs = sorted(owner for owner in owners if owner and owner != me)
    if adopt or not theirs:
        return []
    return [
        f"The fleet {name} is {' and '.join(theirs)}'s, and you are {me}: set fleet_name to another name, "
        f"or fleet_adopt to true if you mean to change or destroy this one."
    ]


def check_owner(owner: str) -> list[str]:
    """The owner is a tag's value; an empty one is filled in with the caller's name."""
    if re.fullmatch(r"[\w .:/=+@-]{0,256}", owner):
        return []
    return [f"fleet_owner '{owner}' can't be a tag: take letters, digits, spaces and . : / = + - _ @ only."]
