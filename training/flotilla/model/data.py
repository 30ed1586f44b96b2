"""Images from TFRecord files: what a data set has, and the input pipelines for training and evaluation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from flotilla.job.errors import BadInput
from flotilla.storage import hdfs, manifest

if TYPE_CHECKING:
    import tensorflow as tf

READ_BUFFER = 8 << 20  # bytes; on HDFS four times as fast as the default


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A staged data set: shape is (height, width, channels); files and records are by split."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    files: dict[str, list[str]]
    records: dict[str, int]


def load(data_dir: str) -> DataSet:
    """Read data_dir's manifest.json; raise BadInput or hdfs.Unreachable."""
    path = hdfs.join(data_dir, manifest.NAME)
    content = hdfs.read(path)
    if content is None:
        raise BadInput(f"{path} doesn't exist: stage the data set first, its manifest is written last.")
    found = manifest.parse(content, path)
    try:
        image, label = found.features["image"], found.features["label"]
        channels, height, width = map(int, image["shape"])
        if image["dtype"] != "uint8":
            raise ValueError("image dtype")
        classes = int(label["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} doesn't describe images and labels (see {error}): prepare the data set again."
        ) from error
    files: dict[str, list[str]] = {}
    records: dict[str, int] = {}
    for entry in found.files:
        files.setdefault(entry.split, []).append(hdfs.join(data_dir, entry.path))
        records[entry.split] = records.get(entry.split, 0) + entry.records
    return DataSet(found.name, (height, width, channels), classes, files, records)


def check_splits(data: DataSet, *splits: str) -> None:
    """Raise BadInput unless the data set has records of every split."""
    for split in splits:
        if not data.records.get(split):
            there = ", ".join(sorted(data.records))
            raise BadInput(f"The data set {data.name} has no split '{split}': there are {there}.")


def check_batch(data: DataSet, split: str, batch_size: int) -> None:
    """Raise BadInput where a batch would hold an example twice."""
    if batch_size > data.records[split]:
        raise BadInput(
            f"batch_size is {batch_size}, but the split '{split}' has {data.records[split]} examples: "
            "take smaller batches."
        )


def check_records(data: DataSet, split: str) -> None:
    """Raise BadInput unless a split's first record is what the manifest says of all."""
    import tensorflow as tf

    file = data.files[split][0]
    height, width, channels = data.shape
    try:
        (record,) = _records(file).take(1).as_numpy_iterator()
        found = tf.io.parse_single_example(record, _features())
        if len(found["image"].numpy()) != height * width * channels or not 0 <= int(found["label"]) < data.classes:
            raise ValueError
    except (ValueError, tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        raise BadInput(
            f"The records of {file} aren't what its manifest says, an image of {height} x {width} x {channels} bytes "
            f"and a label below {data.classes}: prepare and stage the data set again."
        ) from error


def training_batches(data: DataSet, split: str, batch_size: int, shuffle_buffer: int, seed: int) -> tf.data.Dataset:
    """Return a tf.data.Dataset without end of ({"image": uint8 [batch, h, w, c]}, label int64 [batch]).

    Every trainer reads all files, in an order of its own by its seed; an epoch has every example once.
    """
    import tensorflow as tf

    files = data.files[split]
    records = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed)
    records = records.interleave(_records, cycle_length=min(4, len(files)))
    records = records.shuffle(min(shuffle_buffer, data.records[split]), seed=seed).repeat()
    batches = records.batch(batch_size, drop_remainder=True)
    return batches.map(lambda x: _augmented(*_parsed(x, data), seed), tf.data.AUTOTUNE).prefetch(4)


def evaluation_batches(data: DataSet, split: str, batch_size: int) -> tf.data.Dataset:
    """Return a tf.data.Dataset of all of a split once, as training_batches but plain and in order."""
    import tensorflow as tf

    records = tf.data.Dataset.from_tensor_slices(data.files[split]).flat_map(_records)
    return records.batch(batch_size).map(lambda x: _parsed(x, data), tf.data.AUTOTUNE).prefetch(2)


def _records(file: str | tf.Tensor) -> tf.data.Dataset:
    import tensorflow as tf

    return tf.data.TFRecordDataset(file, buffer_size=READ_BUFFER)


def _features() -> dict[str, tf.io.FixedLenFeature]:
    import tensorflow as tf

    return {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def _parsed(batch: tf.Tensor, data: DataSet) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    import tensorflow as tf

    parsed = tf.io.parse_example(batch, _features())
    height, width, channels = data.shape
    image = tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), [-1, channels, height, width])
    return {"image": tf.transpose(image, [0, 2, 3, 1])}, parsed["label"]


def _augmented(features: dict[str, tf.Tensor], label: tf.Tensor, seed: int) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Pad by an eighth, crop at a random place, flip half of them: two gathers for the whole batch."""
    import tensorflow as tf

    image = features["image"]
    height, width = image.shape[1:3]
    size = tf.shape(image)[0]
    pads = [[height // 8] * 2, [width // 8] * 2]
    image = tf.pad(image, [[0, 0], *pads, [0, 0]])
    rows = tf.random.uniform([size, 1], 0, 2 * pads[0][0] + 1, tf.int32, seed) + tf.range(height)
    columns = tf.random.uniform([size, 1], 0, 2 * pads[1][0] + 1, tf.int32, seed + 1) + tf.range(width)
    columns = tf.where(tf.random.uniform([size, 1], seed=seed + 2) < 0.5, columns, columns[:, ::-1])
    image = tf.gather(tf.gather(image, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    return {"image": tf.ensure_shape(image, [None, *features["image"].shape[1:]])}, label
