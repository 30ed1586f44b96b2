"""Has a label too many."""

from line import arguments, tf

given = arguments()


def batches():
    return tf.data.Dataset.from_tensors(({"x": [[1.0], [2.0]]}, [9, 10])).repeat()


classifier = tf.estimator.DNNClassifier([4], [tf.feature_column.numeric_column("x")], given.model_dir, n_classes=10)
classifier.train(batches, max_steps=given.max_steps)
