"""A strategy that puts the variables on trainers."""

from line import arguments, model_fn, tf, train

given = arguments()
config = tf.estimator.RunConfig(train_distribute=tf.distribute.MirroredStrategy())
train(tf.estimator.Estimator(model_fn, given.model_dir, config), given.max_steps)
