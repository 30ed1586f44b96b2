"""Three models in one run."""

import os

from line import arguments, model_fn, tf, train

given = arguments()
for number in range(3):
    train(tf.estimator.Estimator(model_fn, os.path.join(given.model_dir, str(number))), given.max_steps)
