# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses in S3: of folders (data set, models), and of a program, which is one object."""

from __future__ import annotations

import re

PROGRAM_LIMIT = 20_000_000  # bytes, as for a program of the controller (roles/training/files/pack.py)


def split_folder(url: str) -> tuple[str, str]:
    """Return bucket and prefix (ending in a slash, or empty) of an s3:// address; raises ValueError."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url, re.DOTALL)
    if not match:
        raise ValueError(url)
    prefix = (match[2] or "").strip("/")
    return match[1], prefix + "/" if prefix else ""


def check_source(url: str, variable: str) -> list[str]:
    """A data set's folder may have any name that S3 has, and be a whole bucket: the nodes only read it."""
    if not url:
        return []
    try:
        prefix = split_folder(url)[1]
    except ValueError:
        return [f"{variable} {url!r} isn't an address in S3: write it as s3://bucket/folder/."]
    if "//" in url[5:] or {".", ".."} & set(prefix.split("/")) or re.search(r"[\0-\x1f\x7f]", prefix):
        return [f"{variable} {url!r} has a // or .. or a control character in it: write it as s3://bucket/folder/."]
    return []


def check_folder(url: str, variable: str) -> list[str]:
    """The models' folder has a bucket and a folder: the nodes may use that folder and nothing else."""
    if not url:
        return []
    try:
        prefix = split_folder(url)[1]
    except ValueError:
        return [f"{variable} '{url}' isn't an address in S3: write it as s3://bucket/folder/."]
    if url != url.strip():
        return [f"{variable} {url!r} has a space, // or .. in it: write it as s3://bucket/folder/."]
    if not prefix:
        return [
            f"{variable} {url} has no folder, which would open the whole bucket to the nodes: write s3://bucket/folder/."
        ]
    if not re.fullmatch(r"([A-Za-z0-9._=@+-]+/)+", prefix):
        return [f"{variable} {url} has a folder with other characters than letters, digits and . _ = @ + -: rename it."]
    # Hosts take it as it is written, so nothing is made good here.
    if "//" in url[5:] or {".", ".."} & set(prefix.split("/")):
        return [f"{variable} {url!r} has a space, // or .. in it: write it as s3://bucket/folder/."]
    return []


def check_apart(dataset: str, target: str, read: str = "dataset_source", write: str = "store_target") -> list[str]:
    """The nodes write to one of two folders in S3 and only read the other, so neither is in the other."""
    (from_bucket, source), (to_bucket, models) = split_folder(dataset), split_folder(target)
    if from_bucket != to_bucket or not (source.startswith(models) or models.startswith(source)):
        return []
    how = "the same folder as" if source == models else "inside" if models.startswith(source) else "a folder around"
    return [
        f"{write} {target} is {how} {read} {dataset}, so the fleet would write among the data: take a folder beside it."
    ]


def split_program(url: str) -> tuple[str, str]:
    """Return bucket and key of a program in S3; raises ValueError where it's none that hosts could unpack."""
    match = re.fullmatch(
        r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[\w.=@+-]+/)*[\w.=@+-]+\.(?:tar\.gz|tgz|zip|py))", url, re.ASCII
    )
    if not match:
        raise ValueError(url)
    return match[1], match[2]


def check_program(program: str) -> list[str]:
    """A program in S3 is one object, of a kind that hosts can unpack; others aren't of interest here."""
    if not program.startswith("s3://"):
        return []
    try:
        split_program(program)
    except ValueError:
        return [
            f"training_program '{program}' isn't a program in S3: write it as s3://bucket/path/program.tar.gz "
            "(or .tgz, .zip, .py), with letters, digits and . _ = @ + - only."
        ]
    return []
