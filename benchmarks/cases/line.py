"""What the small programs beside it share: a line to learn, y = 2 x, and the usual arguments."""

import argparse

import tensorflow as tf

v1 = tf.compat.v1


def arguments(*more):
    parser = argparse.ArgumentParser()
    for name in ("--data-dir", "--model-dir", *more):
        parser.add_argument(name)
    parser.add_argument("--max-steps", type=int)
    return parser.parse_args()


def batches(repeat=None):
    return tf.data.Dataset.from_tensors(({"x": [[1.0], [2.0]]}, [[2.0], [4.0]])).repeat(repeat)


def model_fn(features, labels, mode):
    line = v1.layers.dense(features["x"], 1, name="line")
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions={"y": line})
    loss = v1.losses.mean_squared_error(labels, line)
    step = v1.train.get_or_create_global_step()
    learn = v1.train.GradientDescentOptimizer(0.01).minimize(loss, global_step=step)
    metrics = {"error": v1.metrics.mean_absolute_error(labels, line)}
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=learn, eval_metric_ops=metrics)


def serving_input():
    x = v1.placeholder(tf.float32, [None, 1], name="x")
    return tf.estimator.export.ServingInputReceiver({"x": x}, {"x": x})


def train(estimator, max_steps, hooks=(), listeners=(), **of_evaluation):
    tf.estimator.train_and_evaluate(
        estimator,
        tf.estimator.TrainSpec(batches, max_steps=max_steps, hooks=hooks, saving_listeners=listeners),
        tf.estimator.EvalSpec(batches, steps=2, **{"start_delay_secs": 0, **of_evaluation}),
    )
