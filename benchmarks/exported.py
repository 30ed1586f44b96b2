"""Two programs as people have them, for benchmarks/models.py: a Keras model made an Estimator, and a canned one.

They know nothing of the kit: `python exported.py keras --data-dir DATA --model-dir MODEL` trains on a laptop, too.
"""

from __future__ import annotations

import argparse
from typing import Any

import tensorflow as tf

SHAPE = (32, 32, 3)


def batches(data_dir: str, split: str, training: bool, size: int = 50) -> Any:
    """Return a tf.data.Dataset of ({"image": float32 [batch, 32, 32, 3] of 0 to 1}, labels int64 [batch])."""

    def decode(records: Any) -> Any:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_example(records, features)
        planes = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), [-1, SHAPE[2], *SHAPE[:2]])
        return {"image": tf.cast(tf.transpose(planes, [0, 2, 3, 1]), tf.float32) / 255}, found["label"]

    dataset = tf.data.TFRecordDataset(tf.io.gfile.glob(f"{data_dir}/{split}-*.tfrecord"))
    if training:
        dataset = dataset.shuffle(1000).repeat()
    return dataset.batch(size).map(decode)


def keras(model_dir: str) -> Any:
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input(SHAPE, name="image"),
            layers.Conv2D(16, 3, 2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, "softmax", name="probabilities"),
        ]
    )
    model.compile(tf.keras.optimizers.legacy.SGD(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return tf.keras.estimator.model_to_estimator(model, model_dir=model_dir)


def canned(model_dir: str) -> Any:
    columns = [tf.feature_column.numeric_column("image", SHAPE)]
    return tf.estimator.DNNClassifier([32], columns, model_dir=model_dir, n_classes=10)


MODELS = {"keras": keras, "canned": canned}


def serving_input() -> Any:
    image = tf.compat.v1.placeholder(tf.float32, [None, *SHAPE], name="image")
    return tf.estimator.export.ServingInputReceiver({"image": image}, {"image": image})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--max-steps", type=int, default=50)
    arguments = parser.parse_args()
    tf.estimator.train_and_evaluate(
        MODELS[arguments.model](arguments.model_dir),
        tf.estimator.TrainSpec(lambda: batches(arguments.data_dir, "train", True), max_steps=arguments.max_steps),
        tf.estimator.EvalSpec(
            lambda: batches(arguments.data_dir, "eval", False),
            steps=2,
            start_delay_secs=0,
            throttle_secs=0,
            exporters=tf.estimator.FinalExporter("final", serving_input),
        ),
    )


if __name__ == "__main__":
    main()
