"""Uses operations of a library of its own, tensorflow-text."""

import tensorflow_text as text
from line import arguments, model_fn, tf

given = arguments()


def batches():
    lengths = text.WhitespaceTokenizer().tokenize(["one", "one two"]).row_lengths()
    x = tf.cast(lengths, tf.float32)[:, None]
    return tf.data.Dataset.from_tensors(({"x": x}, 2 * x)).repeat()


tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(model_fn, given.model_dir),
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0),
)
