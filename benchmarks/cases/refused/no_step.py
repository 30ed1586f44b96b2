"""Finds no data, and trains on nothing."""

from line import arguments, model_fn, tf

given = arguments()


def batches():
    return tf.data.Dataset.from_tensors(({"x": [[1.0]]}, [[2.0]])).take(0)


estimator = tf.estimator.Estimator(model_fn, given.model_dir)
estimator.train(batches, max_steps=given.max_steps)
