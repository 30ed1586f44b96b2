"""Shards its data by TF_CONFIG, which it reads itself."""

import json
import os

from line import arguments, model_fn, tf

given = arguments()
cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
workers = len(cluster["cluster"].get("worker", [])) + 1 if cluster else 1
task = cluster.get("task", {"type": "chief", "index": 0})
index = task["index"] + 1 if task["type"] == "worker" else 0


def batches(shard=True):
    data = tf.data.Dataset.from_tensor_slices(({"x": [[1.0], [2.0]]}, [[2.0], [4.0]]))
    return (data.shard(workers, index) if shard else data).repeat().batch(2)


tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(model_fn, given.model_dir),
    tf.estimator.TrainSpec(batches, max_steps=given.max_steps),
    tf.estimator.EvalSpec(lambda: batches(False), steps=2, start_delay_secs=0),
)
