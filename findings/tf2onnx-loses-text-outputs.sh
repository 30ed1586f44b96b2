#!/usr/bin/env bash
# tf2onnx 1.17.0 with TensorFlow 2.15.1: a graph of which text is an output, made of numbers by AsString (which tf2onnx
# converts, into a Cast). Every classifier of tf.estimator is one: `str_classes`. Needs Python 3.11.
#
# A good guess: whether the text is an output itself, or goes through an Identity that is one, is the same.
# Seen: with the Identity it is converted, and without it the converter ends with "make_sure failure: Cannot find node
# with output 'text_raw_output___…:0'", which is a name that it has made itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  tensorflow-cpu==2.15.1 tf2onnx==1.17.0 onnx==1.18.0
cd "$folder"
cat >convert.py <<'END'
import sys

import tensorflow.compat.v1 as tf
import tf2onnx

with tf.Graph().as_default() as graph:
    number = tf.placeholder(tf.int64, [None], name="number")
    text = tf.as_string(number, name="text")
    if sys.argv[1] == "identity":
        text = tf.identity(text, name="same")
tf2onnx.convert.from_graph_def(graph.as_graph_def(), input_names=["number:0"], output_names=[text.name])
END
export TF_CPP_MIN_LOG_LEVEL=3
venv/bin/python convert.py identity
status=0
venv/bin/python convert.py direct 2>said || status=$?
tail -1 said
[ "$status" -ne 0 ]
grep -q "make_sure failure: Cannot find node with output 'text_raw_output___" said
echo "as seen"
