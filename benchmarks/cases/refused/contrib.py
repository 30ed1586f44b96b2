"""Imports what only TensorFlow 1 had."""

from line import arguments
from tensorflow.contrib import slim

given = arguments()
slim.fully_connected(None, 1)
