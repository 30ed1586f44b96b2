"""Takes its arguments by absl."""

import line
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "")
flags.DEFINE_string("model_dir", None, "", required=True)
flags.DEFINE_integer("max_steps", None, "")


def main(_):
    line.train(line.tf.estimator.Estimator(line.model_fn, FLAGS.model_dir), FLAGS.max_steps)


app.run(main)
