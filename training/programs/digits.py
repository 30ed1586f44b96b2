"""Learns to read MNIST's digits with a small convolutional network: a plain tf.estimator program.

It knows nothing of the kit: `python digits.py --data-dir DATA --model-dir MODEL` trains on a laptop, too.
"""

from __future__ import annotations

import argparse
from typing import Any

import tensorflow as tf


def batches(data_dir: str, split: str, batch_size: int, training: bool) -> Any:
    """Return a tf.data.Dataset of (images float32 [batch, 28, 28, 1] with values 0 to 1, labels int64 [batch])."""

    def decode(records: Any) -> Any:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_example(records, features)
        pixels = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), [-1, 28, 28, 1])
        return tf.cast(pixels, tf.float32) / 255, found["label"]

    dataset = tf.data.TFRecordDataset(tf.io.gfile.glob(f"{data_dir}/{split}-*.tfrecord"))
    if training:
        dataset = dataset.shuffle(10_000).repeat()
    return dataset.batch(batch_size).map(decode).prefetch(4)


def model_fn(features: Any, labels: Any, mode: str) -> Any:
    v1 = tf.compat.v1
    x = features["image"] if isinstance(features, dict) else features
    for filters in (16, 32):
        x = v1.layers.max_pooling2d(v1.layers.conv2d(x, filters, 5, activation=tf.nn.relu), 2, 2)
    logits = v1.layers.dense(v1.layers.flatten(x), 10)
    digits = tf.argmax(logits, axis=1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions={"digit": digits, "scores": tf.nn.softmax(logits)})
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    learn = v1.train.AdamOptimizer(0.001).minimize(loss, global_step=v1.train.get_global_step())
    metrics = {"accuracy": v1.metrics.accuracy(labels, digits)}
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=learn, eval_metric_ops=metrics)


def serving_input() -> Any:
    image = tf.compat.v1.placeholder(tf.float32, [None, 28, 28, 1], name="image")
    return tf.estimator.export.ServingInputReceiver({"image": image}, {"image": image})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--max-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()
    config = tf.estimator.RunConfig(arguments.model_dir, save_checkpoints_steps=100)
    estimator = tf.estimator.Estimator(model_fn, config=config)
    tf.estimator.train_and_evaluate(
        estimator,
        tf.estimator.TrainSpec(
            lambda: batches(arguments.data_dir, "train", arguments.batch_size, True), max_steps=arguments.max_steps
        ),
        tf.estimator.EvalSpec(
            lambda: batches(arguments.data_dir, "eval", 500, False),
            steps=None,
            start_delay_secs=5,
            throttle_secs=10,
            exporters=tf.estimator.FinalExporter("digits", serving_input),
        ),
    )


if __name__ == "__main__":
    main()
