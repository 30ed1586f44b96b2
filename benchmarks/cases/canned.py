"""A canned Estimator over feature columns, with embeddings and crossed columns."""

from line import arguments, tf

given = arguments()
column = tf.feature_column


def batches():
    words = {"word": [["a"], ["b"], ["c"]], "x": [[1.0], [2.0], [3.0]]}
    return tf.data.Dataset.from_tensors((words, [[0], [1], [1]])).repeat()


x = column.numeric_column("x")
words = column.categorical_column_with_vocabulary_list("word", ["a", "b", "c"])
crossed = column.crossed_column([column.bucketized_column(x, [1.5, 2.5]), "word"], 10)
estimator = tf.estimator.DNNLinearCombinedClassifier(
    given.model_dir, linear_feature_columns=[words, crossed],
    dnn_feature_columns=[x, column.embedding_column(words, 2)], dnn_hidden_units=[4],
)  # fmt: skip
tf.estimator.train_and_evaluate(
    estimator,
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(batches, steps=2, start_delay_secs=0),
)
