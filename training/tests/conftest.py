"""A tiny data set that a tiny network can learn, in the format of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto import mock_aws

from flotilla.storage import s3

CLASSES = 4
SHAPE = (3, 16, 16)  # channels, height, width


def image(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The class shows in the channels' brightness, the number in the two first pixels of the first channel."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 40, SHAPE, np.uint8)
    pixels += np.array([number % CLASSES * 60, (number + 1) % CLASSES * 60, 90], np.uint8)[:, None, None]
    pixels[0, 0, 0], pixels[0, 0, 1] = number % 256, number // 256
    return pixels


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two train files of 60 records, validation and eval of 40; the numbers go on from file to file."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("data")
    files = []
    number = 0
    for name, split, count in (
        ("train-00000-of-00002.tfrecord", "train", 60),
        ("train-00001-of-00002.tfrecord", "train", 60),
        ("validation-00000-of-00001.tfrecord", "validation", 40),
        ("eval-00000-of-00001.tfrecord", "eval", 40),
    ):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for n in range(number, number + count):
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image(n).tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[n % CLASSES])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
        number += count
        size = (folder / name).stat().st_size
        sums = {"sha256": "0" * 64, "crc32c": "0" * 8}  # of use for staging only
        files.append({"path": name, "split": split, "size": size, "records": count, **sums})
    manifest = {
        "format": "flotilla-dataset/1",
        "name": "tiny",
        "files": files,
        "features": {
            "image": {"shape": list(SHAPE), "dtype": "uint8"},
            "label": {"dtype": "int64", "classes": CLASSES},
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """S3 by moto, with the bucket `data`; whoever waits for it doesn't."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with mock_aws():
        client = s3.connect()
        client.create_bucket(Bucket="data")
        monkeypatch.setattr(s3, "connect", lambda: client)
        yield client


@pytest.fixture
def tiny(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a training that takes seconds; its model is in tmp_path/model."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    arguments = {
        "name": "tiny",
        "data_dir": str(data_dir),
        "model_dir": str(tmp_path / "model"),
        "max_steps": 12,
        "batch_size": 16,
        "resnet_size": 8,
        "learning_rate": 0.02,
        "warmup_steps": 0,
        "save_checkpoints_steps": 10,
        "log_every_steps": 5,
        "eval_interval_secs": 5,
        "progress": str(tmp_path / "progress" / "train.json"),
        "done_file": str(tmp_path / "done" / "train.json"),
    }
    file = tmp_path / "job.json"
    file.write_text(json.dumps(arguments))
    return ["--config", str(file)]
