"""Boosted trees, which parameter servers can't hold."""

from line import arguments, batches, tf

given = arguments()
x = tf.feature_column.bucketized_column(tf.feature_column.numeric_column("x"), [1.5])
estimator = tf.estimator.BoostedTreesRegressor([x], 1, model_dir=given.model_dir)
estimator.train(batches, max_steps=given.max_steps)
