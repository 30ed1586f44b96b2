# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What hosts may do in S3, as a policy of IAM."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import s3_urls, untyped


class _Statement(TypedDict):
    Sid: str
    Effect: str
    Action: list[str]
    Resource: list[str]


class Statement(_Statement, total=False):
    """A statement of an IAM policy, as far as hosts' policies have such."""

    Condition: dict[str, dict[str, list[str]]]


class Policy(TypedDict):
    """A policy of IAM."""

    Version: str
    Statement: list[Statement]


READ = ["s3:GetObject"]
WRITE = [*READ, "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]


def policy(
    dataset: str,
    model: str,
    program: str = "",
    partition: str = "aws",
    read_keys: Sequence[str] = (),
    written_keys: Sequence[str] = (),
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> Policy:
    """Return the access policy of the nodes, and no more than they need.

    They read the data set's folder, read and write the model's, and read the program's object, where it is in S3; reads
    and writes are further folders. What they read, or write, may be encrypted with keys (ARNs) of KMS.
    """
    statements: list[Statement] = []
    for name, url, actions in (
        ("Dataset", dataset, READ),
        ("Model", model, WRITE),
        *((f"Read{number}", url, READ) for number, url in enumerate(reads)),
        *((f"Write{number}", url, WRITE) for number, url in enumerate(writes)),
    ):
        if not url:
            continue
        bucket, prefix = s3_urls.split_folder(url)
        folder = _literally(prefix)
        statements.append(
            {
                "Sid": name,
                "Effect": "Allow",
                "Action": actions,
                "Resource": [f"arn:{partition}:s3:::{bucket}/{folder}*"],
            }
        )
        statements.append(
            {
                "Sid": f"List{name}",
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:{partition}:s3:::{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": [f"{folder}*", folder.rstrip("/")]}},
            }
        )
    # A multipart upload needs both: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
    for sid, keys, actions in (
        ("ReadKeys", read_keys, ["kms:Decrypt"]),
        ("WrittenKeys", written_keys, ["kms:GenerateDataKey", "kms:Decrypt"]),
    ):
        if keys:
            statements.append({"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": sorted(set(keys))})
    if program.startswith("s3://"):
        resource = f"arn:{partition}:s3:::{'/'.join(s3_urls.split_program(program))}"
        statements.append({"Sid": "Program", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [resource]})
    return {"Version": "2012-10-17", "Statement": statements}


def _literally(prefix: str) -> str:
    """Return a prefix as a policy names it: without its own patterns and variables, and in Latin-1, which is all that
    IAM takes; another character is any one character there."""
    escaped = re.sub(r"[*?$]", r"${\g<0>}", prefix)
    return re.sub(r"[^\x20-\xff]", "?", escaped)


def check_boundary(arn: str, most: untyped.Answer, policy: Policy) -> list[str]:
    """Hold the nodes' access policy against the boundary's document: what that doesn't name they can't use."""
    statements = most["Statement"] if isinstance(most["Statement"], list) else [most["Statement"]]
    allowed: list[str] = []
    for one in statements:
        if one["Effect"] == "Allow":
            named = one.get("Resource", "*")  # of NotResource nothing is known here
            allowed += [named] if isinstance(named, str) else named
    wanted = [resource for one in policy["Statement"] for resource in one["Resource"]]
    missing = [
        resource for resource in wanted if not any(fnmatch.fnmatchcase(resource, pattern) for pattern in allowed)
    ]
    if not missing:
        return []
    return [
        f"The fleet's hosts couldn't use {', '.join(dict.fromkeys(missing))}, as their boundary {arn} doesn't name it: "
        "have it added there (roles/fleet/files/boundary.json), or take the bucket that is in it."
    ]
