"""A Keras model as an Estimator."""

from line import arguments, tf
from line import batches as base

given = arguments()
model = tf.keras.Sequential([tf.keras.layers.Dense(4, input_shape=(1,), name="x"), tf.keras.layers.Dense(1)])
model.compile("adam", "mse")


def named(features, labels):
    return {"x_input": features["x"]}, labels


def batches():
    return base().map(named)


estimator = tf.keras.estimator.model_to_estimator(model, model_dir=given.model_dir)
tf.estimator.train_and_evaluate(
    estimator,
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0),
)
