"""Keeps a checkpoint of every step, to average them later."""

from line import arguments, model_fn, tf, train

given = arguments()
config = tf.estimator.RunConfig(save_checkpoints_steps=2, keep_checkpoint_max=None, log_step_count_steps=5)
train(tf.estimator.Estimator(model_fn, given.model_dir, config), given.max_steps)
