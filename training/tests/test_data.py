"""The input pipeline: right pixels, every example once an epoch, and one sentence for a bad manifest."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, image

from flotilla.job.errors import BadInput
from flotilla.model import data


def numbers(images: Any) -> list[int]:
    """The examples' numbers, from pixels that weren't augmented."""
    return [int(i[0, 0, 0]) + 256 * int(i[0, 1, 0]) for i in np.asarray(images)]


def test_manifest(data_dir: Path) -> None:
    found = data.load(str(data_dir))
    assert (found.name, found.shape, found.classes) == ("tiny", (16, 16, 3), CLASSES)
    assert found.records == {"train": 120, "validation": 40, "eval": 40}
    assert found.files["eval"] == [f"{data_dir}/eval-00000-of-00001.tfrecord"]
    data.check_splits(found, "train", "eval")
    with pytest.raises(BadInput, match="no split 'test': there are eval, train, validation"):
        data.check_splits(found, "test")


def test_records_that_are_not_what_the_manifest_says(data_dir: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    def record(**features: tf.train.Feature) -> bytes:
        return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())

    def value(kind: str, list_type: Any, value: Any) -> tf.train.Feature:
        return tf.train.Feature(**{kind: list_type(value=[value])})

    good = value("bytes_list", tf.train.BytesList, image(0).tobytes())
    label = value("int64_list", tf.train.Int64List, 1)
    data.check_records(data.load(str(data_dir)), "train")
    folder = tmp_path / "other"
    shutil.copytree(data_dir, folder)
    found = data.load(str(folder))
    for content in (
        record(pixels=good, label=label),
        record(image=value("bytes_list", tf.train.BytesList, b"short"), label=label),
        record(image=good, label=value("int64_list", tf.train.Int64List, CLASSES)),
        record(image=good, label=value("float_list", tf.train.FloatList, 1.0)),
        b"no example",
        None,
    ):
        if content is None:
            Path(found.files["train"][0]).write_text("no record at all")
        else:
            with tf.io.TFRecordWriter(found.files["train"][0]) as writer:
                writer.write(content)
        with pytest.raises(BadInput, match=r"an image of 16 x 16 x 3 bytes and a label below 4: prepare and stage"):
            data.check_records(found, "train")


def test_evaluation_sees_all_of_it_once_and_in_order(data_dir: Path) -> None:
    found = data.load(str(data_dir))
    batches = list(data.evaluation_batches(found, "train", 50))
    assert [len(label) for _, label in batches] == [50, 50, 20]
    images = np.concatenate([features["image"].numpy() for features, _ in batches])
    assert images.dtype == np.uint8 and images.shape == (120, 16, 16, 3)
    assert numbers(images) == list(range(120))
    np.testing.assert_array_equal(images[70], image(70).transpose(1, 2, 0))
    assert [int(x) for x in batches[1][1][:5]] == [n % CLASSES for n in range(50, 55)]


def test_training_sees_every_example_once_an_epoch(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_augmented", lambda features, label, seed: (features, label))
    found = data.load(str(data_dir))

    def epochs(seed: int) -> list[list[int]]:
        batches = data.training_batches(found, "train", 40, 1000, seed)
        seen = [numbers(features["image"]) for features, _ in itertools.islice(batches, 6)]
        return [list(itertools.chain(*seen[:3])), list(itertools.chain(*seen[3:]))]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(120))
    assert first != second
    assert epochs(1)[0] == first
    assert epochs(2)[0] != first


def test_augmentation_shifts_and_flips_whole_images() -> None:
    import tensorflow as tf

    rows, columns = np.meshgrid(np.arange(1, 17), np.arange(1, 17), indexing="ij")
    original = np.stack([rows, columns, rows * 10], axis=-1).astype(np.uint8)
    batch = tf.constant(np.repeat(original[None], 200, axis=0))
    features, _ = data._augmented({"image": batch}, tf.zeros([200], tf.int64), 0)
    images = features["image"].numpy()
    assert images.shape == (200, 16, 16, 3) and images.dtype == np.uint8
    padded = np.pad(original, ((2, 2), (2, 2), (0, 0)))
    possible = {
        padded[y : y + 16, x : x + 16][:, ::step].tobytes(): (y, x, step)
        for y in range(5)
        for x in range(5)
        for step in (1, -1)
    }
    found = [possible[i.tobytes()] for i in images]
    assert len(set(found)) > 40
    assert 60 < sum(step == 1 for _, _, step in found) < 140


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set of JPEG pictures, each of one color."""
    import tensorflow as tf

    entries = []
    for split, count in (("train", 6), ("eval", 2)):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}.tfrecord")) as writer:
            for n in range(count):
                jpeg = tf.io.encode_jpeg(np.full([24, 20, 3], 40 * n, np.uint8), quality=100).numpy()
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[n])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        entries.append({"path": f"{split}.tfrecord", "split": split, "size": 1, "records": count, "crc32c": "0" * 8})
    features = {
        "image": {"shape": [3, 24, 20], "dtype": "uint8", "encoding": "jpeg"},
        "label": {"dtype": "int64", "classes": 6},
    }
    content = {"format": "flotilla-dataset/1", "name": "pictures", "files": entries, "features": features}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    return tmp_path


def test_pictures(pictures: Path) -> None:
    found = data.load(str(pictures))
    assert (found.shape, found.encoding) == ((24, 20, 3), "jpeg")
    data.check_records(found, "train")
    ((features, label),) = data.evaluation_batches(found, "train", 6)
    images = features["image"].numpy()
    assert images.shape == (6, 24, 20, 3) and label.numpy().tolist() == [0, 1, 2, 3, 4, 5]
    assert [round(image.mean() / 40) for image in images] == [0, 1, 2, 3, 4, 5]
    features, label = next(iter(data.training_batches(found, "train", 4, 10, 1)))
    assert features["image"].shape == (4, 24, 20, 3) and len(set(label.numpy())) == 4

    manifest = json.loads((pictures / "manifest.json").read_text())
    manifest["features"]["image"]["shape"] = [3, 24, 24]
    (pictures / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"a JPEG image of 24 x 24 pixels and 3 channels and a label below 6"):
        data.check_records(data.load(str(pictures)), "train")
    manifest["features"]["image"]["encoding"] = "webp"
    (pictures / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="doesn't describe images"):
        data.load(str(pictures))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "doesn't exist: stage the data set first"),
        ({"format": "other/1"}, "isn't a manifest"),
        ({"features": {}}, "doesn't describe images"),
        ({"features": {"image": {"shape": [3, 4], "dtype": "uint8"}, "label": {"classes": 2}}}, "doesn't"),
    ],
)
def test_bad_manifests(data_dir: Path, tmp_path: Path, change: dict[str, Any] | None, words: str) -> None:
    if change is not None:
        shutil.copy(data_dir / "manifest.json", tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(BadInput, match=words):
        data.load(str(tmp_path))
