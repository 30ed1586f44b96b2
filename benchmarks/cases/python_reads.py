"""Finds and reads its data by Python's own means."""

import csv
import glob
import os

from line import arguments, model_fn, tf

given = arguments()
files = sorted(glob.glob(os.path.join(given.data_dir, "*.csv")))
rows = [tuple(map(float, row)) for name in files for row in csv.reader(open(name))]
assert rows, given.data_dir


def batches():
    x, y = zip(*rows)
    return tf.data.Dataset.from_tensors(({"x": [[one] for one in x]}, [[one] for one in y])).repeat()


tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(model_fn, given.model_dir),
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0),
)
