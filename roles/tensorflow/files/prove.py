"""Prove that TensorFlow works on this host; else say in one sentence what is wrong and what to do."""

import argparse
import os
import socket
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def count_gpus(expected):
    """Compare the GPUs that TensorFlow can use with what the host has."""
    import tensorflow as tf

    found = len(tf.config.list_physical_devices("GPU"))
    if found != expected:
        sys.exit(
            f"TensorFlow {tf.__version__} sees {found} GPUs, the host has {expected}: compare nvidia-smi on the host "
            "with the build (compute capability 5.0 or later, driver 525.60.13 or later), "
            "or set tensorflow_accelerator to cpu."
        )


def round_trip(url, wait):
    """Write a file, read it back and delete it, as soon as that works within some seconds: HDFS may just be starting.

    Never asks whether something exists: without libhdfs or NameNode the answer is a silent no.
    """
    import tensorflow as tf
    import tensorflow_io  # noqa: F401  (teaches TensorFlow hdfs://)

    scheme, _dummy, rest = url.partition("://")
    folder = url.rstrip("/") if rest.strip("/").count("/") else f"{scheme}://{rest.strip('/')}/jobs"
    path = f"{folder}/.proof-{socket.gethostname()}-{os.getpid()}"
    sent = os.urandom(1 << 16)
    end = time.monotonic() + wait
    while True:
        try:
            with tf.io.gfile.GFile(path, "wb") as file:
                file.write(sent)
            try:
                with tf.io.gfile.GFile(path, "rb") as file:
                    received = file.read()
            finally:
                tf.io.gfile.remove(path)
            break
        except (tf.errors.OpError, OSError) as error:
            if time.monotonic() > end:
                reason = str(getattr(error, "message", error)).strip().splitlines()[:1]
                sys.exit(
                    f"TensorFlow could not write, read and delete {path} ({''.join(reason) or type(error).__name__}): "
                    "see whether the NameNode and a DataNode run, whether this user may write there, and whether "
                    "CLASSPATH and HADOOP_HDFS_HOME (lib/native/libhdfs.so) are right."
                )
            time.sleep(1)
    if received != sent:
        sys.exit(
            f"{len(sent)} bytes were written to {path}, {len(received)} other bytes came back: check HDFS with fsck."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, required=True, help="how many GPUs TensorFlow must see")
    parser.add_argument("--url", default="", help="a file system to write to and read from, as hdfs://ps-0:8020")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait until it takes and gives")
    arguments = parser.parse_args()
    count_gpus(arguments.gpus)
    if arguments.url:
        round_trip(arguments.url, arguments.wait)


if __name__ == "__main__":
    main()
