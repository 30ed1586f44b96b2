"""The model as a tf.estimator.Estimator, trained asynchronously around parameter servers.

Every trainer computes gradients of its own batches and applies them to the variables on the parameter
servers at once (between-graph replication); a global step is one batch of one trainer. No distribution
strategy is involved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from flotilla import resnet
from flotilla.cluster import Task
from flotilla.config import TrainConfig
from flotilla.data import DataSet
from flotilla.hooks import EndHook, SaverHook

v1 = tf.compat.v1

RECOVERY_WAIT_SECS = 2

# Makes the hooks of a training from the tensors to report.
MakeHooks = Callable[[dict[str, Any]], list[Any]]


def schedule(config: TrainConfig, records: int) -> tuple[list[int], list[float]]:
    """Return the global steps after which the learning rate changes, and the rates (one more)."""
    boundaries = [round(epoch * records / config.batch_size) for epoch in config.learning_rate_epochs]
    return boundaries, [config.learning_rate * factor for factor in config.learning_rate_factors]


def learning_rate(config: TrainConfig, records: int, step: Any) -> Any:
    """Return the rate of a step (a tensor), with a linear warm-up where the configuration asks for one."""
    boundaries, rates = schedule(config, records)
    rate = v1.train.piecewise_constant(step, [tf.constant(b, step.dtype) for b in boundaries], rates)
    if config.warmup_steps:
        rate *= tf.minimum(1.0, tf.cast(step + 1, tf.float32) / config.warmup_steps)
    return rate


def build(config: TrainConfig, data: DataSet, task: Task, seed: int, make_hooks: MakeHooks | None = None) -> Any:
    """Return the Estimator; make_hooks is called while the training graph is built."""
    _shorten_recovery_wait()
    session = v1.ConfigProto(allow_soft_placement=True, device_filters=task.device_filters)
    session.gpu_options.allow_growth = True
    session.graph_options.rewrite_options.meta_optimizer_iterations = 1  # as Estimator's own default
    run_config = tf.estimator.RunConfig(
        model_dir=config.model_dir,
        tf_random_seed=seed,
        session_config=session,
        save_checkpoints_steps=config.save_checkpoints_steps,
        keep_checkpoint_max=config.keep_checkpoints,
        save_summary_steps=None,
        log_step_count_steps=None,
        experimental_max_worker_delay_secs=1,
    )
    model_fn = functools.partial(_model_fn, config=config, data=data, make_hooks=make_hooks)
    # Estimator asks for these names.
    return tf.estimator.Estimator(lambda features, labels, mode: model_fn(features, labels, mode), config=run_config)


def serving_input(data: DataSet) -> Any:
    """Return what the SavedModel takes: "image", uint8 [batch, height, width, channels]."""
    image = v1.placeholder(tf.uint8, [None, *data.shape], name="image")
    return tf.estimator.export.ServingInputReceiver({"image": image}, {"image": image})


def _model_fn(
    features: dict[str, Any],
    labels: Any,
    mode: str,
    config: TrainConfig,
    data: DataSet,
    make_hooks: MakeHooks | None,
) -> Any:
    training = mode == tf.estimator.ModeKeys.TRAIN
    logits = resnet.network(features["image"], config.resnet_size, data.classes, training)
    classes = tf.argmax(logits, axis=1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        predictions = {"class": classes, "probabilities": tf.nn.softmax(logits), "logits": logits}
        outputs = {"serving_default": tf.estimator.export.PredictOutput(predictions)}
        return tf.estimator.EstimatorSpec(mode, predictions=predictions, export_outputs=outputs)
    entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    decay = tf.add_n(v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES))
    loss = entropy + config.weight_decay * decay
    if not training:
        metrics = {"accuracy": v1.metrics.accuracy(labels, classes)}
        return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)
    step = v1.train.get_or_create_global_step()
    rate = learning_rate(config, data.records[config.train_split], step)
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        train = v1.train.MomentumOptimizer(rate, config.momentum).minimize(loss, global_step=step)
    # Unsharded, built after minimize(): the chief alone reads and writes, a ps needs no shared files.
    saver = v1.train.Saver(sharded=False, max_to_keep=config.keep_checkpoints, save_relative_paths=True)
    scaffold = v1.train.Scaffold(saver=saver)
    accuracy = tf.reduce_mean(tf.cast(tf.equal(labels, classes), tf.float32))
    hooks = make_hooks({"loss": loss, "accuracy": accuracy, "learning_rate": rate}) if make_hooks else []
    return tf.estimator.EstimatorSpec(
        mode,
        loss=loss,
        train_op=train,
        scaffold=scaffold,
        training_hooks=hooks,
        training_chief_hooks=[SaverHook(config.model_dir, config.save_checkpoints_steps, scaffold), EndHook()],
    )


@functools.lru_cache(maxsize=1)
def _shorten_recovery_wait() -> None:
    """Let trainers notice a late chief or a restarted ps after 2 s, not 30; Estimator has no key for it."""
    from tensorflow.python.training import session_manager

    manager = session_manager.SessionManager
    manager.__init__ = functools.partialmethod(manager.__init__, recovery_wait_secs=RECOVERY_WAIT_SECS)
