"""Reads the cluster from arguments, and joins it, as TensorFlow 1's examples do: for classic.py and supervisor.py."""

import argparse

import tensorflow.compat.v1 as tf


def join():
    """Return the arguments, the server's address for sessions, and where variables and the rest are placed."""
    parser = argparse.ArgumentParser()
    for name in ("--ps_hosts", "--worker_hosts", "--job_name", "--model_dir"):
        parser.add_argument(name)
    for name in ("--task_index", "--max_steps"):
        parser.add_argument(name, type=int, default=0)
    given = parser.parse_args()
    tf.disable_eager_execution()
    if not given.ps_hosts:
        return given, "", None
    cluster = tf.train.ClusterSpec({"ps": given.ps_hosts.split(","), "worker": given.worker_hosts.split(",")})
    server = tf.train.Server(cluster, job_name=given.job_name, task_index=given.task_index)
    if given.job_name == "ps":
        server.join()
    here = f"/job:worker/task:{given.task_index}"
    return given, server.target, tf.train.replica_device_setter(worker_device=here, cluster=cluster)
