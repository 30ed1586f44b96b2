"""Reads a file beside it, and writes files: relative, by its own event writer, at its exit, by a thread."""

import atexit
import os
import threading
import time

from line import arguments, model_fn, tf, train, v1

given = arguments()
words = open("words/words.txt").read().split()
with tf.Graph().as_default():
    writer = v1.summary.FileWriter(os.path.join(given.model_dir, "own"))


class History(tf.estimator.SessionRunHook):
    def after_run(self, context, values):
        with open("history.csv", "a") as file:
            print(*words, sep=",", file=file)


def late():
    time.sleep(2)
    with open("late.txt", "w") as file:
        file.write("from a thread")


def at_exit():
    with open("exit.txt", "w") as file:
        file.write("from atexit")


atexit.register(at_exit)
for step in range(20):
    writer.add_summary(v1.Summary(value=[v1.Summary.Value(tag="own", simple_value=step)]), step)
train(tf.estimator.Estimator(model_fn, given.model_dir), given.max_steps, hooks=[History()])
threading.Thread(target=late).start()
