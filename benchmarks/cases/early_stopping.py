"""Stops early, by a hook that makes a variable in begin()."""

from line import arguments, model_fn, tf, train

given = arguments()
estimator = tf.estimator.Estimator(model_fn, given.model_dir, tf.estimator.RunConfig(save_checkpoints_steps=10))
hook = tf.estimator.experimental.stop_if_no_decrease_hook(
    estimator, "loss", 1000, run_every_secs=None, run_every_steps=5
)
train(estimator, given.max_steps, hooks=[hook])
