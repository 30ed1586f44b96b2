"""Asks for what only TensorFlow 1 had."""

import tensorflow as tf

tf.app.run()
