"""The chief's care for its checkpoints: none is lost because a file system didn't answer in time."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from flotilla import hdfs
from flotilla.errors import BadInput, Temporary

_log = logging.getLogger(__name__)


class NotRestored(Temporary):
    """There is a checkpoint, but the session began without it."""


def latest_step(model_dir: str) -> int | None:
    """Return the global step of the newest checkpoint; None where there is none; raise hdfs.Unreachable."""
    state = (hdfs.read(hdfs.join(model_dir, "checkpoint")) or b"").decode(errors="replace")
    match = re.search(r'^model_checkpoint_path: ".*-(\d+)"', state, re.MULTILINE)
    return int(match[1]) if match else None


def begin(model_dir: str, model: dict[str, Any]) -> float:
    """Return when the job first began (Unix time), noted beside a description of the model.

    Raises BadInput where model_dir holds another model, whose checkpoints could not be restored.
    """
    path = hdfs.join(model_dir, "model.json")
    found = hdfs.read_json(path)
    if found is None:
        found = {**model, "began": time.time()}
        hdfs.write_json(path, found)
    for key, value in model.items():
        if found.get(key) != value:
            raise BadInput(
                f"{model_dir} holds a model whose {key} is {found.get(key)}, not {value}: "
                "give the job another name or folder, or remove that one."
            )
    return float(found.get("began", time.time()))


def prepare(model_dir: str) -> None:
    """Make sure that TensorFlow will find the checkpoints that are there.

    On HDFS TensorFlow replaces the file `checkpoint` by deleting and renaming: a chief that is killed in
    between leaves checkpoints that nothing points to. They are found again here. Raises hdfs.Unreachable
    when TensorFlow doesn't see the file system that answers others.
    """
    import tensorflow as tf

    names = hdfs.names(model_dir)
    if hdfs.is_hdfs(model_dir) and not tf.io.gfile.exists(hdfs.root(model_dir)):
        raise hdfs.Unreachable(
            f"HDFS answers, but TensorFlow can't see {model_dir}: check CLASSPATH, HADOOP_HDFS_HOME and libhdfs.so."
        )
    if "checkpoint" in names:
        return
    matches = (re.fullmatch(r"model\.ckpt-(\d+)\.index", name) for name in names)
    steps = sorted(int(match[1]) for match in matches if match)
    while steps:
        try:
            tf.train.load_checkpoint(hdfs.join(model_dir, f"model.ckpt-{steps[-1]}"))
        except (tf.errors.OpError, ValueError):
            steps.pop()
            continue
        _log.warning("%s has lost its list of checkpoints: going on from step %d.", model_dir, steps[-1])
        lines = [f'model_checkpoint_path: "model.ckpt-{steps[-1]}"']
        lines += [f'all_model_checkpoint_paths: "model.ckpt-{step}"' for step in steps]
        hdfs.write(hdfs.join(model_dir, "checkpoint"), ("\n".join(lines) + "\n").encode())
        return
