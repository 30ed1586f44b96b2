"""ResNet v1 for small images, as in tensorflow/models, tutorials/image/cifar10_estimator.

K. He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2: three stages
of n blocks with 16, 32 and 64 filters, option-A shortcuts. 6n + 2 layers; n = 7 gives 658,586 trainable
parameters for 10 classes.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

v1 = tf.compat.v1

BATCH_NORM_DECAY = 0.997
BATCH_NORM_EPSILON = 1e-5


def network(images: Any, size: int, classes: int, trainers: int) -> Any:
    """Return logits [batch, classes] of images [batch, height, width, channels] with values 0 to 255.

    So many trainers train the same variables; with none the graph is one that evaluates or predicts. Adds every
    trainable variable's l2 loss to REGULARIZATION_LOSSES, and while training the updates of the moving averages to
    UPDATE_OPS.
    """
    x = tf.cast(images, tf.float32) / 128 - 1
    x = _conv_bn("first", x, 16, 1, trainers)
    x = tf.nn.relu(x)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range((size - 2) // 6):
            with v1.variable_scope(f"stage{stage}/block{block}"):
                x = _block(x, filters, 2 if stage > 0 and block == 0 else 1, trainers)
    x = tf.reduce_mean(x, axis=[1, 2])
    kernel = _weight("dense/kernel", [int(x.shape[-1]), classes])
    return tf.matmul(x, kernel) + _weight("dense/bias", [classes], v1.zeros_initializer())


def _block(x: Any, filters: int, stride: int, trainers: int) -> Any:
    shortcut = x
    x = tf.nn.relu(_conv_bn("conv0", x, filters, stride, trainers))
    x = _conv_bn("conv1", x, filters, 1, trainers)
    missing = filters - int(shortcut.shape[-1])
    if stride > 1:
        shortcut = tf.nn.avg_pool2d(shortcut, stride, stride, "VALID")
    if missing:
        shortcut = tf.pad(shortcut, [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]])
    return tf.nn.relu(x + shortcut)


def _conv_bn(name: str, x: Any, filters: int, stride: int, trainers: int) -> Any:
    with v1.variable_scope(name):
        kernel = _weight("kernel", [3, 3, int(x.shape[-1]), filters])
        # The same border on both sides, also with a stride, where "SAME" would pad on one side only.
        border = [[0, 0], [1, 1], [1, 1], [0, 0]]
        return _batch_norm(tf.nn.conv2d(x, kernel, stride, border if stride > 1 else "SAME"), trainers)


def _batch_norm(x: Any, trainers: int) -> Any:
    shape = [int(x.shape[-1])]
    scale, offset = (
        _weight("gamma", shape, v1.ones_initializer()),
        _weight("beta", shape, v1.zeros_initializer()),
    )
    mean = v1.get_variable("moving_mean", shape, initializer=v1.zeros_initializer(), trainable=False)
    variance = v1.get_variable("moving_variance", shape, initializer=v1.ones_initializer(), trainable=False)
    if not trainers:
        return v1.nn.fused_batch_norm(x, scale, offset, mean, variance, epsilon=BATCH_NORM_EPSILON, is_training=False)[
            0
        ]
    x, batch_mean, batch_variance = v1.nn.fused_batch_norm(x, scale, offset, epsilon=BATCH_NORM_EPSILON)
    # Over few steps at first, for they can't follow weights that still change fast: measured after 400 steps, the
    # model evaluates to 0.49 (loss 1.75) so, and to 0.18 (6.16) with the usual ramp (1 + step) / (10 + step).
    step = tf.cast(v1.train.get_or_create_global_step(), tf.float32)
    decay = tf.minimum(BATCH_NORM_DECAY, (1 + step) / (100 + step))
    # All trainers may read the same old average: where their shares are more than the whole, it runs away.
    share = tf.minimum(1 - decay, 1 / trainers)
    for average, value in ((mean, batch_mean), (variance, batch_variance)):
        update = v1.assign_sub(average, (average - value) * share)
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
    return x


def _weight(name: str, shape: list[int], initializer: Any = None) -> Any:
    """Return a trainable variable's value, read once: every read is a transfer from its parameter server."""
    variable = v1.get_variable(name, shape, initializer=initializer or v1.glorot_uniform_initializer())
    value = variable.read_value()
    v1.add_to_collection(v1.GraphKeys.REGULARIZATION_LOSSES, tf.nn.l2_loss(value))
    return value
