"""Images or columns of numbers from TFRecord files: what a data set has, and the pipelines to train and evaluate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flotilla.job.errors import BadInput
from flotilla.storage import hdfs, manifest

if TYPE_CHECKING:
    import tensorflow as tf

READ_BUFFER = 8 << 20  # bytes; on HDFS four times as fast as the default


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A staged data set: shape is (height, width, channels), or the values of all columns; files and records by split.

    Images are raw bytes, channels first, or of an encoding: jpeg or png.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    files: dict[str, list[str]]
    records: dict[str, int]
    encoding: str = ""
    names: tuple[str, ...] = ()  # of the classes, where the manifest has them
    columns: Mapping[str, manifest.Column] = dataclasses.field(default_factory=dict)  # in order; none: images


def read_manifest(data_dir: str) -> manifest.Manifest:
    """Read data_dir's manifest.json; raise BadInput or hdfs.Unreachable."""
    path = hdfs.join(data_dir, manifest.NAME)
    content = hdfs.read(path)
    if content is None:
        raise BadInput(f"{path} doesn't exist: stage the data set first, its manifest is written last.")
    return manifest.parse(content, path)


def load(data_dir: str, columns: Sequence[str] = ()) -> DataSet:
    """Read what data_dir's manifest.json says of images, or of these columns; raise BadInput or hdfs.Unreachable."""
    found = read_manifest(data_dir)
    path = hdfs.join(data_dir, manifest.NAME)
    shape, classes, encoding, kinds = manifest.described(found.features, columns, path)
    files: dict[str, list[str]] = {}
    records: dict[str, int] = {}
    for entry in found.files:
        files.setdefault(entry.split, []).append(hdfs.join(data_dir, entry.path))
        records[entry.split] = records.get(entry.split, 0) + entry.records
    names = found.features["label"].get("names")
    known = tuple(map(str, names)) if isinstance(names, list) and len(names) == classes else ()
    return DataSet(found.name, shape, classes, files, records, encoding, known, kinds)


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
    try:
        ((features, labels),) = _batches(_records(file).take(1), data, 1).as_numpy_iterator()
        whole = math.prod(data.shape) == sum(math.prod(found.shape) for found in features.values())
        if not whole or not 0 <= int(labels[0]) < data.classes:
            raise ValueError
    except (ValueError, tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        if data.columns:
            what = f"the columns {', '.join(data.columns)}"
        else:
            height, width, channels = data.shape
            what = (
                f"a {data.encoding.upper()} image of {height} x {width} pixels and {channels} channels"
                if data.encoding
                else f"an image of {height} x {width} x {channels} bytes"
            )
        raise BadInput(
            f"The records of {file} aren't what its manifest says, {what} and a label below {data.classes}: "
            "prepare and stage the data set again."
        ) from error


def training_batches(
    data: DataSet, split: str, batch_size: int, shuffle_buffer: int, seed: int, augment: bool = True
) -> tf.data.Dataset:
    """Return a tf.data.Dataset without end of ({"image": uint8 [batch, h, w, c]}, label int64 [batch]).

    Every trainer reads all files, in an order of its own by its seed; an epoch has every example once.
    """
    import tensorflow as tf

    files = data.files[split]
    records = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed)
    records = records.interleave(_records, cycle_length=min(4, len(files)))
    records = records.shuffle(min(shuffle_buffer, data.records[split]), seed=seed).repeat()
    batches = _batches(records, data, batch_size, drop_remainder=True)
    if augment and not data.columns:
        batches = batches.map(lambda x, label: _augmented(x, label, seed), tf.data.AUTOTUNE)
    return batches.prefetch(4)


def evaluation_batches(data: DataSet, split: str, batch_size: int) -> tf.data.Dataset:
    """Return a tf.data.Dataset of all of a split once, as training_batches but plain and in order."""
    import tensorflow as tf

    records = tf.data.Dataset.from_tensor_slices(data.files[split]).flat_map(_records)
    return _batches(records, data, batch_size).prefetch(2)


def _batches(records: tf.data.Dataset, data: DataSet, size: int, drop_remainder: bool = False) -> tf.data.Dataset:
    """Return batches of ({"image": uint8 [batch, h, w, c]}, label int64 [batch])."""
    import tensorflow as tf

    if data.encoding:  # one by one: decoding takes long, and knows no batches
        return records.map(lambda x: _decoded(x, data), tf.data.AUTOTUNE).batch(size, drop_remainder)
    return records.batch(size, drop_remainder).map(lambda x: _parsed(x, data), tf.data.AUTOTUNE)


def _records(file: str | tf.Tensor) -> tf.data.Dataset:
    import tensorflow as tf

    return tf.data.TFRecordDataset(file, buffer_size=READ_BUFFER)


def _features(data: DataSet) -> dict[str, tf.io.FixedLenFeature]:
    import tensorflow as tf

    columns = {name: tf.io.FixedLenFeature([one.values], one.dtype) for name, one in data.columns.items()}
    image = {} if columns else {"image": tf.io.FixedLenFeature([], tf.string)}
    return {**columns, **image, "label": tf.io.FixedLenFeature([], tf.int64)}


def _decoded(record: tf.Tensor, data: DataSet) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    import tensorflow as tf

    parsed = tf.io.parse_single_example(record, _features(data))
    decode = tf.io.decode_jpeg if data.encoding == "jpeg" else tf.io.decode_png
    return {"image": tf.ensure_shape(decode(parsed["image"], data.shape[2]), data.shape)}, parsed["label"]


def _parsed(batch: tf.Tensor, data: DataSet) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    import tensorflow as tf

    parsed = tf.io.parse_example(batch, _features(data))
    if data.columns:
        return {name: parsed[name] for name in data.columns}, parsed["label"]
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
