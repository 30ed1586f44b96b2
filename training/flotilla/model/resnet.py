"""ResNet v1 for small images, as in tensorflow/models, tutorials/image/cifar10_estimator.

K. He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2: three stages
of n blocks with 16, 32 and 64 filters, option-A shortcuts. 6n + 2 layers; n = 7 gives 658,586 trainable
parameters for 10 classes.
"""

from __future__ import annotations

import tensorflow as tf

v1 = tf.compat.v1

BATCH_NORM_DECAY = 0.997
BATCH_NORM_EPSILON = 1e-5


STAGES = (16, 32, 64)  # filters


def network(images: tf.Tensor, size: int, classes: int, trainers: int) -> tf.Tensor:
    """Return logits [batch, classes] of images [batch, height, width, channels] with values 0 to 255.

    So many trainers train the same variables; with none the graph is one that evaluates or predicts. Adds every
    trainable variable's l2 loss to REGULARIZATION_LOSSES, and while training the updates of the moving averages to
    UPDATE_OPS.
    """
    blocks = (size - 2) // 6
    norms = _BatchNorms([STAGES[0], *(filters for filters in STAGES for _block in range(2 * blocks))], trainers)
    x = tf.cast(images, tf.float32) / 128 - 1
    x = tf.nn.relu(_conv_bn("first", x, STAGES[0], 1, norms))
    for stage, filters in enumerate(STAGES):
        for block in range(blocks):
            with v1.variable_scope(f"stage{stage}/block{block}"):
                x = _block(x, filters, 2 if stage > 0 and block == 0 else 1, norms)
    norms.update()
    x = tf.reduce_mean(x, axis=[1, 2])
    kernel = _weight("dense/kernel", [int(x.shape[-1]), classes])
    return tf.matmul(x, kernel) + _weight("dense/bias", [classes], v1.zeros_initializer())


def _block(x: tf.Tensor, filters: int, stride: int, norms: _BatchNorms) -> tf.Tensor:
    shortcut = x
    x = tf.nn.relu(_conv_bn("conv0", x, filters, stride, norms))
    x = _conv_bn("conv1", x, filters, 1, norms)
    missing = filters - int(shortcut.shape[-1])
    if stride > 1:
        shortcut = tf.nn.avg_pool2d(shortcut, stride, stride, "VALID")
    if missing:
        shortcut = tf.pad(shortcut, [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]])
    return tf.nn.relu(x + shortcut)


def _conv_bn(name: str, x: tf.Tensor, filters: int, stride: int, norms: _BatchNorms) -> tf.Tensor:
    with v1.variable_scope(name):
        kernel = _weight("kernel", [3, 3, int(x.shape[-1]), filters])
    # The same border on both sides, also with a stride, where "SAME" would pad on one side only.
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return norms.add(tf.nn.conv2d(x, kernel, stride, border if stride > 1 else "SAME"))


class _BatchNorms:
    """The network's batch norms one after the other, with one variable of each kind for all of them.

    Each variable is a transfer from its parameter server in every step, and one back: with variables of their own the
    batch norms would have three of four.

    Args:
        channels: of each.
        trainers: as for `network`.
    """

    def __init__(self, channels: list[int], trainers: int) -> None:
        self._trainers = trainers
        shape = [sum(channels)]
        ones, zeros = v1.ones_initializer(), v1.zeros_initializer()
        with v1.variable_scope("batch_norm"):
            parts = [_weight("gamma", shape, ones), _weight("beta", shape, zeros)]
            # Mean and variance
            self._averages = [
                v1.get_variable(name, shape, initializer=initializer, trainable=False)
                for name, initializer in (("moving_mean", zeros), ("moving_variance", ones))
            ]
        if not trainers:
            parts += self._averages
        self._parts = zip(*(tf.split(part, channels) for part in parts), strict=True)
        self._batches: list[tuple[tf.Tensor, tf.Tensor]] = []

    def add(self, x: tf.Tensor) -> tf.Tensor:
        """Return what the next one makes of x."""
        x, *of_batch = v1.nn.fused_batch_norm(
            x, *next(self._parts), epsilon=BATCH_NORM_EPSILON, is_training=bool(self._trainers)
        )
        self._batches.append(tuple(of_batch))
        return x

    def update(self) -> None:
        """Have the moving averages follow the batches, after the last one."""
        if not self._trainers:
            return
        # Over few steps at first, for they can't follow weights that still change fast: measured after 400 steps, the
        # model evaluates to 0.49 (loss 1.75) so, and to 0.18 (6.16) with the usual ramp (1 + step) / (10 + step).
        step = tf.cast(v1.train.get_or_create_global_step(), tf.float32)
        decay = tf.minimum(BATCH_NORM_DECAY, (1 + step) / (100 + step))
        # All trainers may read the same old average: where their shares are more than the whole, it runs away.
        share = tf.minimum(1 - decay, 1 / self._trainers)
        for average, values in zip(self._averages, zip(*self._batches, strict=True), strict=True):
            update = v1.assign_sub(average, (average - tf.concat(values, 0)) * share)
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)


def _weight(name: str, shape: list[int], initializer: tf.keras.initializers.Initializer | None = None) -> tf.Variable:
    """Return a trainable variable's value, read once: every read is a transfer from its parameter server."""
    variable = v1.get_variable(name, shape, initializer=initializer or v1.glorot_uniform_initializer())
    value = variable.read_value()
    v1.add_to_collection(v1.GraphKeys.REGULARIZATION_LOSSES, tf.nn.l2_loss(value))
    return value
