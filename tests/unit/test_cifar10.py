"""CIFAR-10's shards are right, the same each time, and uploaded once."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import google_crc32c
import numpy as np
import pytest
from moto import mock_aws
from PIL import Image

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("cifar10", ROOT / "scripts" / "cifar10.py")
assert _spec and _spec.loader
cifar10 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cifar10)

IMAGES = 30  # a batch


def rows(seed: int) -> bytes:
    """A batch in the official format."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (IMAGES, 1), np.uint8)
    return np.hstack([labels, rng.integers(0, 256, (IMAGES, 3072), np.uint8)]).tobytes()


BATCHES = {name: rows(i) for i, name in enumerate(cifar10.BATCH_MD5)}


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
        members[f"package/{name}.png"] = picture.getvalue()
        if name == "test_batch":
            members["package/test_lables.json"] = json.dumps(table[:, 0].tolist()).encode()
        else:
            train += table[:, 0].tolist()
    members["package/train_lables.json"] = json.dumps(train).encode()
    return members


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds a small official archive; nothing can be downloaded."""
    md5 = {name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in BATCHES.items()}
    monkeypatch.setattr(cifar10, "BATCH_MD5", md5)
    monkeypatch.setattr(cifar10, "BATCH_IMAGES", IMAGES)
    monkeypatch.setattr(cifar10, "HOME_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    folder = tmp_path / "cache"
    folder.mkdir()
    pack(folder / cifar10.HOME_ARCHIVE, {f"cifar-10-batches-bin/{name}.bin": data for name, data in BATCHES.items()})
    return folder


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    for key in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(key, raising=False)
    with mock_aws():
        yield boto3.client("s3", region_name="us-east-1")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cifar10.main(list(arguments))
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
    assert cifar10.example(b"A", 7) == expected


def test_prepare(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    assert call(capsys, "prepare", "--output", str(output), "--cache", str(cache), "--shards", "7")[0] == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["format"], manifest["name"]) == ("flotilla-dataset/1", "cifar10")
    assert manifest["features"]["image"] == {"shape": [3, 32, 32], "dtype": "uint8"}
    assert len(list(output.iterdir())) == 7 + 1 + 1 + 1
    read: dict[str, list[bytes]] = {}
    for entry in manifest["files"]:
        data = (output / entry["path"]).read_bytes()
        assert entry["size"] == len(data) and entry["crc32c"] == f"{google_crc32c.value(data):08x}"
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert len(records(data)) == entry["records"]
        read.setdefault(entry["split"], []).extend(records(data))
    for split, names in cifar10.SPLITS.items():
        table = b"".join(BATCHES[name] for name in names)
        wanted = [cifar10.example(table[i + 1 : i + 3073], table[i]) for i in range(0, len(table), 3073)]
        assert read[split] == wanted

    before = contents(output)
    code, said = call(capsys, "prepare", "--output", str(output), "--cache", "/nowhere", "--shards", "7")
    assert code == 0 and "nothing to do" in said
    shutil.rmtree(output)
    call(capsys, "prepare", "--output", str(output), "--cache", str(cache), "--shards", "7")
    assert contents(output) == before


def test_npm_package_gives_the_same(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "prepare", "--cache", str(cache))
    (cache / cifar10.HOME_ARCHIVE).unlink()
    pack(cache / cifar10.NPM_ARCHIVE, npm_members())
    call(capsys, "prepare", "--cache", str(cache), "--output", str(tmp_path / "npm"), "--source", "npm")
    assert contents(tmp_path / "npm") == contents(cache / "tfrecord-4")


def test_damaged_shard_is_made_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "prepare", "--cache", str(cache))
    before = contents(cache / "tfrecord-4")
    shard = cache / "tfrecord-4" / "train-00002-of-00004.tfrecord"
    shard.write_bytes(b"?" + shard.read_bytes()[1:])
    assert call(capsys, "prepare", "--cache", str(cache))[0] == 0
    assert contents(cache / "tfrecord-4") == before


def test_wrong_batch_is_refused(cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setitem(cifar10.BATCH_MD5, "data_batch_3", "0" * 32)
    code, said = call(capsys, "prepare", "--cache", str(cache))
    assert code == 2 and "data_batch_3" in said and "instead of 000" in said
    assert not (cache / "tfrecord-4").exists()
    (cache / cifar10.HOME_ARCHIVE).write_bytes(b"no archive")
    code, said = call(capsys, "prepare", "--cache", str(cache))
    assert code == 2 and "is damaged" in said and "delete it" in said


def test_nothing_to_download_from(tmp_path: Path, cache: Path, capsys: Any, monkeypatch: Any) -> None:
    empty = tmp_path / "empty"
    code, said = call(capsys, "prepare", "--cache", str(empty), "--source", "home")
    assert code == 2 and "can't be downloaded" in said and "--source npm" in said
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, said = call(capsys, "prepare", "--cache", str(empty))
    assert code == 2 and "apt-get install npm" in said
    assert not list(empty.iterdir())


def test_upload(cache: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("upload", "s3://lake/cifar10/", "--cache", str(cache))
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
    client = cifar10.connect(None, None, None)
    client.meta.events.register("before-parameter-build.s3.PutObject", lambda params, **_: keys.append(params["Key"]))
    monkeypatch.setattr(cifar10, "connect", lambda *_: client)
    assert call(capsys, "upload", "s3://lake/", "--cache", str(cache), "--shards", "1")[0] == 0
    assert keys[-1] == "manifest.json" and len(keys) == 4


def test_another_data_set_is_kept(cache: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.create_bucket(Bucket="lake")
    s3.put_object(Bucket="lake", Key="x/manifest.json", Body=b'{"name": "faces"}')
    code, said = call(capsys, "upload", "s3://lake/x/", "--cache", str(cache))
    assert code == 2 and "holds the data set 'faces': choose another prefix" in said


def test_prepared_directory(cache: Path, tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.create_bucket(Bucket="lake")
    code, said = call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path))
    assert code == 2 and "has no manifest.json" in said
    call(capsys, "prepare", "--output", str(tmp_path / "d"), "--cache", str(cache))
    assert call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path / "d"))[0] == 0
    (tmp_path / "d" / "eval-00000-of-00001.tfrecord").unlink()
    code, said = call(capsys, "upload", "s3://lake/x/", "--directory", str(tmp_path / "d"))
    assert code == 2 and "eval-00000-of-00001.tfrecord is missing" in said


@pytest.mark.parametrize("target", ["lake/x", "http://lake/x", "s3://", "s3:///x"])
def test_bad_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "upload", target)
    assert code == 2 and "write it as s3://bucket/cifar10/" in said


@pytest.mark.parametrize("shards", ["0", "-1", "x", "1001"])
def test_bad_shards(shards: str) -> None:
    with pytest.raises(SystemExit) as end:
        cifar10.main(["prepare", "--shards", shards])
    assert end.value.code == 2


def test_no_profile(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "upload", "s3://lake/x/", "--profile", "nobody-has-this")
    assert code != 0 and "nobody-has-this" in said
