"""A package that is run as python -m course.train."""

import argparse

import tensorflow as tf

from course import net

from . import net as relative

assert net is relative
parser = argparse.ArgumentParser()
for name in ("--data-dir", "--model-dir"):
    parser.add_argument(name)
parser.add_argument("--max-steps", type=int)
given = parser.parse_args()


def batches():
    return tf.data.Dataset.from_tensors(({"x": [[1.0], [2.0]]}, [[2.0], [4.0]])).repeat()


tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(net.model_fn, given.model_dir),
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0),
)
