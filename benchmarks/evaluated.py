"""Writes pictures and what a trained model makes of them when it is evaluated: what benchmarks/models.py measures by.

Runs in the training's environment: `python evaluated.py MODEL DATA MODEL_DIR COUNT FOLDER` writes pictures.npy and
evaluated.npy, from the last checkpoint and not from an export: logits of the built-in network, else probabilities.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def network(data_dir: str, model_dir: str, count: int) -> tuple[Any, Any]:
    from flotilla.job.design import resnet
    from flotilla.model import data, layers

    dataset = data.load(data_dir)
    design = resnet(44, dataset.shape, dataset.classes)
    with tf.Graph().as_default(), v1.Session() as session:
        features, _ = v1.data.make_one_shot_iterator(data.evaluation_batches(dataset, "eval", count)).get_next()
        logits = layers.network(layers.inputs(features, design), design, 0)
        v1.train.Saver().restore(session, tf.train.latest_checkpoint(model_dir))
        pictures, found = session.run([features["image"], logits])
    return pictures, found


def program(name: str, data_dir: str, model_dir: str, count: int) -> tuple[Any, Any]:
    import exported

    def batches() -> Any:
        return exported.batches(data_dir, "eval", False, count).take(1)

    ((features, _),) = batches()
    found = [one["probabilities"] for one in exported.MODELS[name](model_dir).predict(lambda: batches())]
    return features["image"].numpy(), np.stack(found)


name, *where, count, folder = sys.argv[1:]
pictures, found = network(*where, int(count)) if name == "resnet" else program(name, *where, int(count))
np.save(Path(folder, "pictures.npy"), pictures)
np.save(Path(folder, "evaluated.npy"), found)
