"""Learns to read MNIST's digits with a MonitoredTrainingSession, without an Estimator.

After "Distributed systems for neural networks" (listings 6 to 10): between-graph replication with ClusterSpec, Server,
replica_device_setter and MonitoredTrainingSession; 784-128-64-10 neurons, SGD at a rate of 0.07, asynchronous. It knows
nothing of the kit but that the cluster is described by TF_CONFIG.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import Any

import tensorflow.compat.v1 as tf

LEARNING_RATE = 0.07
LAYERS = (("hidden1", 784, 128), ("hidden2", 128, 64), ("softmax_linear", 64, 10))


def inputs(data_dir: str, split: str, batch_size: int, repeat: bool) -> Any:
    """Return (images float32 [batch, 784] with values 0 to 1, labels int64 [batch])."""

    def decode(records: Any) -> Any:
        features = {"image": tf.FixedLenFeature([], tf.string), "label": tf.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_example(records, features)
        pixels = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), [-1, 784])
        return tf.cast(pixels, tf.float32) / 255, found["label"]

    dataset = tf.data.TFRecordDataset(tf.io.gfile.glob(f"{data_dir}/{split}-*.tfrecord"), buffer_size=8 << 20)
    if repeat:
        dataset = dataset.cache().shuffle(10_000).repeat()
    return tf.data.make_one_shot_iterator(dataset.batch(batch_size).map(decode).prefetch(4)).get_next()


def network(images: Any) -> Any:
    """Return logits [batch, 10]."""
    for name, size, width in LAYERS:
        with tf.variable_scope(name, reuse=tf.AUTO_REUSE):
            first = tf.truncated_normal_initializer(stddev=1 / math.sqrt(size))
            weights = tf.get_variable("weights", [size, width], initializer=first)
            biases = tf.get_variable("biases", [width], initializer=tf.zeros_initializer())
            images = tf.matmul(images, weights) + biases
            if name != "softmax_linear":
                images = tf.nn.relu(images)
    return images


def train(arguments: argparse.Namespace) -> None:
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    task, target, place, chief = config.get("task", {}), "", None, True
    if config:
        cluster = tf.train.ClusterSpec(config["cluster"])
        if task["type"] == "evaluator":
            return  # the chief evaluates, at the end
        server = tf.train.Server(cluster, job_name=task["type"], task_index=task["index"])
        if task["type"] == "ps":
            server.join()
        target, chief = server.target, task["type"] == "chief"
        place = tf.train.replica_device_setter(
            worker_device=f"/job:{task['type']}/task:{task['index']}", cluster=cluster
        )
    with tf.Graph().as_default(), tf.device(place):
        images, labels = inputs(arguments.data_dir, "train", arguments.batch_size, repeat=True)
        logits = network(images)
        step = tf.train.create_global_step()
        loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        learn = tf.train.GradientDescentOptimizer(LEARNING_RATE).minimize(loss, global_step=step)
        hooks = [tf.train.StopAtStepHook(last_step=arguments.max_steps)]
        with tf.train.MonitoredTrainingSession(
            master=target, is_chief=chief, checkpoint_dir=arguments.model_dir, hooks=hooks
        ) as session:
            while not session.should_stop():
                session.run(learn)
    if chief:
        evaluate(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    """Say how many of the test images the last checkpoint reads right."""
    with tf.Graph().as_default(), tf.Session() as session:
        images, labels = inputs(arguments.data_dir, "eval", 10_000, repeat=False)
        right = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(network(images), 1), labels), tf.float32))
        tf.train.Saver().restore(session, tf.train.latest_checkpoint(arguments.model_dir))
        print(f"accuracy {session.run(right):.4f} on the test images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--max-steps", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=128)
    tf.disable_eager_execution()
    train(parser.parse_args())
