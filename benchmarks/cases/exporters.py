"""Exports the best, the latest and the last model."""

from line import arguments, model_fn, serving_input, tf, train

given = arguments()
exporters = [
    tf.estimator.BestExporter("best", serving_input),
    tf.estimator.LatestExporter("latest", serving_input),
    tf.estimator.FinalExporter("final", serving_input),
]
train(tf.estimator.Estimator(model_fn, given.model_dir), given.max_steps, exporters=exporters)
