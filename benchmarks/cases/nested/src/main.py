"""Lies in a folder beside its library's, and puts the folder above into the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))
from lib.small import model_fn
from line import arguments, tf, train

given = arguments()
train(tf.estimator.Estimator(model_fn, given.model_dir), given.max_steps)
