#!/usr/bin/env bash
# PySpark 4.2.1: a Python worker that is used again by later tasks, as it is by default. Needs Python 3.11 and Java 17.
#
# A good guess: what a task leaves behind for the next one (a model, a table) costs memory, and no time.
# Seen: after every task the worker looks for garbage among all objects that it has, in all generations. With two
# million small ones, less than a loaded model of TensorFlow with its package, each task of any size takes a tenth of a
# second longer, on the executor's core and in none of Spark's figures. gc.freeze(), once they are made, ends that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyspark==4.2.1
cd "$folder"
cat >tasks.py <<'END'
import builtins
import gc
import os
import sys
import time

os.environ["PYSPARK_PYTHON"] = sys.executable
from pyspark import SparkConf, SparkContext

TASKS = 30


def seconds(kind):
    conf = SparkConf().setMaster("local[1]").setAppName(kind).set("spark.ui.enabled", "false")
    with SparkContext(conf=conf) as context:
        def task(number):
            if not hasattr(builtins, "kept"):
                builtins.kept = [[] for _ in range(0 if kind == "nothing" else 2_000_000)]
                if kind == "frozen":
                    gc.freeze()

        context.parallelize(range(2), 2).foreach(task)
        began = time.monotonic()
        context.parallelize(range(TASKS), TASKS).foreach(task)
        return (time.monotonic() - began) / TASKS


found = {kind: seconds(kind) for kind in ("nothing", "kept", "frozen")}
print("seconds a task:", {kind: round(one, 3) for kind, one in found.items()})
print("kept objects cost each task time:", found["kept"] > found["nothing"] + 0.03)
print("frozen ones do:", found["frozen"] > found["nothing"] + 0.03)
END
venv/bin/python tasks.py 2>err | tee log
grep -qx "kept objects cost each task time: True" log
grep -qx "frozen ones do: False" log
echo "as seen"
