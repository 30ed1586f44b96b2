"""The same training without an Estimator: with a MonitoredTrainingSession of its own.

After TensorFlow 1's guide "Distributed TensorFlow": ClusterSpec, Server, replica_device_setter and
MonitoredTrainingSession.
"""

from __future__ import annotations

import tensorflow as tf

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.design import Design
from flotilla.model import data, estimator
from flotilla.model.estimator import MakeHooks

v1 = tf.compat.v1


def train(
    config: TrainConfig, dataset: data.DataSet, design: Design, task: Task, seed: int, make_hooks: MakeHooks
) -> None:
    """Train until max_steps, or until the process is told to end."""
    estimator.shorten_waits()
    settings = estimator.session_config(task, config.precision)
    target = ""
    if task.cluster:
        cluster = tf.train.ClusterSpec(dict(task.cluster))
        target = tf.distribute.Server(cluster, job_name=task.type, task_index=task.index, config=settings).target
    with tf.Graph().as_default(), v1.device(estimator.placement(task)):
        v1.set_random_seed(seed)
        v1.train.create_global_step()
        batches = data.training_batches(
            dataset, config.train_split, config.batch_size, config.shuffle_buffer, seed, config.augment
        )
        iterator = v1.data.make_initializable_iterator(batches)
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        features, labels = iterator.get_next()
        mode = tf.estimator.ModeKeys.TRAIN
        spec = estimator.model_fn(features, labels, mode, config, dataset, design, task, make_hooks)
        with v1.train.MonitoredTrainingSession(
            master=target,
            is_chief=task.leads,
            checkpoint_dir=config.model_dir,
            scaffold=spec.scaffold,
            hooks=[
                v1.train.StopAtStepHook(last_step=config.max_steps),
                v1.train.NanTensorHook(spec.loss),
                *spec.training_hooks,
            ],
            chief_only_hooks=spec.training_chief_hooks,
            save_checkpoint_secs=None,
            save_checkpoint_steps=None,
            save_summaries_steps=None,
            save_summaries_secs=None,
            log_step_count_steps=None,
            stop_grace_period_secs=estimator.STOP_GRACE_SECS,
            config=settings,
        ) as session:
            while not session.should_stop():
                session.run(spec.train_op)
