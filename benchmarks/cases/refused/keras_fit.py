"""Keras' own training over parameter servers."""

from line import arguments, batches, tf

given = arguments()
strategy = tf.distribute.experimental.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
model.fit(batches().map(lambda features, labels: (features["x"], labels)), steps_per_epoch=given.max_steps)
