#!/usr/bin/env bash
# TensorFlow 2.15.1: a variable that is the global step by its name alone, as programs of 2016 make it
# (tf.Variable(0, name="global_step"), which they give to minimize and to a Supervisor). Needs Python 3.11.
#
# A good guess: tf.compat.v1.train.get_global_step(), which looks for that name, returns it, as it always has.
# Seen: it does with disable_v2_behavior(); with the resource variables that are the default otherwise, also in a graph
# of tf.compat.v1, it raises "TypeError: Existing "global_step" does not have integer type: <dtype: 'resource'>", as it
# takes the variable's handle for the variable. Each hook that counts steps does ask so. Put into the collection
# GLOBAL_STEP by hand, it is found.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.15.1
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
cat >step.py <<'END'
import sys

import tensorflow.compat.v1 as tf

if "v1" in sys.argv:
    tf.disable_v2_behavior()
with tf.Graph().as_default():
    step = tf.Variable(0, name="global_step", trainable=False)
    if "collected" in sys.argv:
        tf.add_to_collection(tf.GraphKeys.GLOBAL_STEP, step)
    print(tf.train.get_global_step().name)
END
for way in v1 collected; do venv/bin/python step.py "$way" 2>log | grep -x "global_step:0"; done
if venv/bin/python step.py >log 2>&1; then exit 1; fi
tail -1 log
grep -q 'TypeError: Existing "global_step" does not have integer type' log
echo "as seen"
