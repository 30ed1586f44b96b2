"""Calls Estimator.train, then Estimator.evaluate."""

from line import arguments, batches, model_fn, tf

given = arguments()
estimator = tf.estimator.Estimator(model_fn, given.model_dir)
estimator.train(batches, max_steps=given.max_steps)
print(estimator.evaluate(batches, steps=2))
