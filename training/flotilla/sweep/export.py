"""A sweep's network as files for others: a SavedModel that takes a table's columns as people have them, and YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

from flotilla.job.design import Design
from flotilla.job.errors import BadInput
from flotilla.model import layers
from flotilla.sweep.numbers import Description, Feature, Floats
from flotilla.sweep.plan import Network
from flotilla.sweep.table import MISSING

v1 = tf.compat.v1

BLANKS = r"^[\s\v\x{85}\p{Z}]+|[\s\v\x{85}\p{Z}]+$"  # what tables are read without, around a text


def save(folder: Path, description: Description, design: Design, loss: str, weights: Mapping[str, Floats]) -> None:
    """Write a SavedModel whose signature, serving_default, takes a table's columns and says what the label is.

    Inputs are float32 [rows] for numbers, NaN where one is missing, and string [rows] for categories, empty where one
    is; `inputs` says how they are called. Of a classification the outputs are class (int64 [rows]), label (string
    [rows], the class's name) and probabilities (float32 [rows, classes]), of a regression prediction (float32 [rows],
    in the label's own unit).

    Args:
        folder: is made; raises BadInput where there is something in it.
        loss: what the network was trained by, as its file calls it.
        weights: the values of its variables, by their names.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} isn't empty, and a model has a folder of its own: name another.")
    label = description["label"]
    names = inputs([column["name"] for column in description["columns"]])
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
        given = {
            names[column["name"]]: v1.placeholder(tf.float32 if column["kind"] == "number" else tf.string, [None])
            for column in description["columns"]
        }
        values = [_values(given[names[column["name"]]], column) for column in description["columns"]]
        logits = layers.network(tf.concat(values, axis=1), design, 0)
        if label["task"] == "regression":
            prediction = tf.cast(logits[:, 0], tf.float64) * label["std"] + label["mean"]
            outputs = {"prediction": tf.cast(prediction, tf.float32)}
        else:
            number = tf.argmax(logits, axis=1)
            probabilities = tf.nn.sigmoid(logits) if loss == "sigmoid_cross_entropy" else tf.nn.softmax(logits)
            outputs = {"class": number, "label": tf.gather(label["classes"], number), "probabilities": probabilities}
        variables = v1.global_variables()
        first = {variable.initializer.inputs[1]: weights[variable.op.name] for variable in variables}
        session.run([variable.initializer for variable in variables], first)
        v1.saved_model.simple_save(session, str(folder), given, outputs)


def inputs(columns: Sequence[str]) -> dict[str, str]:
    """Return how a SavedModel's inputs are called, by column: as the columns.

    But TensorFlow can't be given an input that is called self, or nothing: to these as many underscores are added as
    make a name that no other column has.
    """
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while name in ("", "self") or (name != column and name in columns):
            name += "_"
        names[column] = name
    return names


def _values(given: tf.Tensor, column: Feature) -> tf.Tensor:
    """Return a column as numbers.apply has it, float32 [rows, values]."""
    if column["kind"] == "number":
        span = column["most"] - column["least"]
        scaled = tf.cast((tf.cast(given, tf.float64) - column["least"]) / (span if span > 0 else 1.0), tf.float32)
        there = tf.math.is_finite(scaled)
        values = [tf.where(there, scaled, np.float32(column["fill"]))[:, None]]
        missing = ~there[:, None]
    else:
        text = tf.strings.regex_replace(given, BLANKS, "")[:, None]
        known = tf.constant(column["values"], tf.string, [1, len(column["values"])])
        values = [tf.cast(tf.equal(text, known), tf.float32)]
        missing = tf.reduce_any(tf.equal(text, [MISSING]), axis=1, keepdims=True)
    if column["missing"]:
        values.append(tf.cast(missing, tf.float32))
    return tf.concat(values, axis=1)


def network_file(network: Network) -> str:
    """Return the text of a network's file, YAML."""
    text: str = yaml.safe_dump(network.content, sort_keys=False, allow_unicode=True)
    return text
