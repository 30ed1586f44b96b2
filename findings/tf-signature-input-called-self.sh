#!/usr/bin/env bash
# TensorFlow 2.15.1: a SavedModel whose signature has an input called self, as a table's column may be. Needs
# Python 3.11.
#
# A good guess: the name is refused when the model is saved, or works, as "args", "class" and "a b" do.
# Seen: the model is saved and loaded without a word, and a session of TensorFlow 1 feeds the input; but the signature of
# tf.saved_model.load can't be called: its inputs are keywords alone, and "TypeError: ConcreteFunction.__call__() got
# multiple values for argument 'self'" is all that comes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.15.1
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
cat >columns.py <<'END'
import tensorflow as tf

v1 = tf.compat.v1
for name in ("args", "class", "a b", "self"):
    with tf.Graph().as_default(), v1.Session() as session:
        given = {one: v1.placeholder(tf.float32, [None]) for one in ("age", name)}
        v1.saved_model.simple_save(session, f"model-{name}", given, {"sum": tf.add_n(list(given.values()))})
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, ["serve"], f"model-{name}").signature_def["serving_default"]
        fed = {signature.inputs[one].name: [1.0] for one in ("age", name)}
        assert session.run(signature.outputs["sum"].name, fed) == [2.0]
    ones = {one: tf.constant([1.0]) for one in ("age", name)}
    try:
        print(name, tf.saved_model.load(f"model-{name}").signatures["serving_default"](**ones)["sum"].numpy())
    except TypeError as error:
        print(name, error)
END
venv/bin/python columns.py 2>log >said
cat said
diff said - <<'END'
args [2.]
class [2.]
a b [2.]
self ConcreteFunction.__call__() got multiple values for argument 'self'
END
echo "as seen"
