"""A model in a folder of its own."""

import line


def model_fn(features, labels, mode):
    return line.model_fn(features, labels, mode)
