"""Trains until the data end, with no max_steps, and evaluates as often as it can."""

from line import arguments, batches, model_fn, tf

given = arguments()
tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(model_fn, given.model_dir),
    tf.estimator.TrainSpec(lambda: batches(given.max_steps), max_steps=None),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0, throttle_secs=0),
)
