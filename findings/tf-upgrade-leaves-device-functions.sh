#!/usr/bin/env bash
# tf_upgrade_v2 of TensorFlow 2.15.1, which rewrites programs for TensorFlow 1. Needs Python 3.11.
#
# A good guess: what it has rewritten without a word against it runs, as tf.compat.v1 has all that is needed.
# Seen: tf.device stays tf.device, and its function, as every program over parameter servers gives it one
# (replica_device_setter, whose name it does rewrite), is refused there: "RuntimeError: tf.device does not support
# functions." The report doesn't name the line. With tf.compat.v1.device the program runs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.15.1
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
cat >old.py <<'END'
import tensorflow as tf

with tf.Graph().as_default():
    with tf.device(tf.train.replica_device_setter(ps_tasks=1)):
        print(tf.train.create_global_step().device)
END
venv/bin/tf_upgrade_v2 --infile old.py --outfile new.py --reportfile report.txt >log 2>&1
if grep "device(" report.txt; then exit 1; fi
if venv/bin/python new.py >log 2>&1; then exit 1; fi
tail -1 log
grep -q "RuntimeError: tf.device does not support functions" log
sed -i 's/with tf.device(/with tf.compat.v1.device(/' new.py
venv/bin/python new.py | grep -x "/job:ps/task:0"
echo "as seen"
