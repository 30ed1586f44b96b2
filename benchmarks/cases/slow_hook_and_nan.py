"""Has a hook that takes its time, and a metric that is no number."""

import time

from line import arguments, tf, train, v1
from line import model_fn as base

given = arguments()


class Slow(tf.estimator.SessionRunHook):
    def after_run(self, context, values):
        time.sleep(0.3)


def model_fn(features, labels, mode):
    spec = base(features, labels, mode)
    if mode == tf.estimator.ModeKeys.EVAL:
        spec.eval_metric_ops["nothing"] = v1.metrics.mean(tf.constant(float("nan")))
    return spec


train(tf.estimator.Estimator(model_fn, given.model_dir), given.max_steps, hooks=[Slow()])
