"""The kit's network, data and update as one tf.function in a loop: what benchmarks/process.py compares Estimator with.

Runs on a host, with --config as flotilla.train has it; reports as that does.
"""

import logging
import sys
from typing import Any

import tensorflow as tf
import tensorflow_io  # noqa: F401 - registers hdfs://
from flotilla.job import config
from flotilla.job.design import resnet
from flotilla.model import data, layers

v1 = tf.compat.v1
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
job = config.load(sys.argv[1:])
dataset = data.load(job.data_dir)
network = resnet(job.resnet_size, dataset.shape, dataset.classes)


def train(image: Any, label: Any) -> Any:
    """Make one step; returns its loss."""
    logits = layers.network(layers.inputs({"image": image}, network), network, 1)
    loss = v1.losses.sparse_softmax_cross_entropy(label, logits)
    decay = tf.add_n(v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES))
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        optimizer = v1.train.MomentumOptimizer(job.learning_rate / 10, job.momentum)  # there is no warm-up
        update = optimizer.minimize(loss + job.weight_decay * decay, v1.train.get_or_create_global_step())
    with tf.control_dependencies([update]):
        return tf.identity(loss)


batches = data.training_batches(dataset, job.train_split, job.batch_size, job.shuffle_buffer, job.seed)
features, labels = batches.element_spec
step = v1.wrap_function(train, [features["image"], labels])  # a tf.function that keeps what v1 calls variables
for number, (batch, label) in enumerate(batches, 1):
    loss = step(batch["image"], label)
    if not number % job.log_every_steps:
        logging.info("step %d of %d: loss %.3f", number, job.max_steps, loss)
