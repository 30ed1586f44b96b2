"""Begins from another model's variables."""

import os

from line import arguments, model_fn, tf, train, v1

given = arguments()
first = os.path.join(os.path.dirname(given.model_dir.rstrip("/")), "first", "model.ckpt")
if not tf.io.gfile.glob(first + "*"):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("line/kernel", [1, 1], initializer=v1.ones_initializer())
        v1.get_variable("line/bias", [1], initializer=v1.zeros_initializer())
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, first, write_meta_graph=False)
train(tf.estimator.Estimator(model_fn, given.model_dir, warm_start_from=first), given.max_steps)
