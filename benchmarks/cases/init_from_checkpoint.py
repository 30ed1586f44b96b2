"""Begins from a checkpoint by tf.train.init_from_checkpoint."""

import os

from line import arguments, model_fn, tf, train, v1

given = arguments()
first = os.path.join(os.path.dirname(given.model_dir.rstrip("/")), "first", "model.ckpt")
if not tf.io.gfile.glob(first + "*"):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("kernel", [1, 1], initializer=v1.ones_initializer())
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, first, write_meta_graph=False)


def begun(features, labels, mode):
    spec = model_fn(features, labels, mode)
    v1.train.init_from_checkpoint(first, {"kernel": "line/kernel"})
    return spec


train(tf.estimator.Estimator(begun, given.model_dir), given.max_steps)
