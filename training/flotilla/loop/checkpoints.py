"""The chief's care for its checkpoints: none is lost because a file system didn't answer in time."""

from __future__ import annotations

import logging
import re
import time

from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput, Temporary
from flotilla.storage import hdfs

TRUST = "variables.json"  # in the model directory
TRUST_SECS = 30
VERSION_SECS = 120  # a chief that is being restarted with another program needs about 10

_log = logging.getLogger(__name__)


class NotRestored(Temporary):
    """There is a checkpoint, but the session began without it."""


def latest_step(model_dir: str) -> int | None:
    """Return the global step of the newest checkpoint; None where there is none; raise hdfs.Unreachable."""
    state = (hdfs.read(hdfs.join(model_dir, "checkpoint")) or b"").decode(errors="replace")
    match = re.search(r'^model_checkpoint_path: ".*-(\d+)"', state, re.MULTILINE)
    return int(match[1]) if match else None


def listed(model_dir: str, path: str) -> bool:
    """Whether a checkpoint, as TensorFlow names it, is still one of those that are kept: else it is being deleted."""
    import tensorflow as tf

    state = tf.train.get_checkpoint_state(model_dir)
    return state is not None and path in state.all_model_checkpoint_paths


def trusted(model_dir: str) -> list[int]:
    """Return at which checkpoints' steps what the parameter servers hold was as it should be."""
    steps = (hdfs.read_json(hdfs.join(model_dir, TRUST)) or {}).get("steps")
    return steps if isinstance(steps, list) else []


def trust(model_dir: str, *steps: int | None) -> None:
    """Note them; without any a chief that is started again must not go on with what they hold."""
    # A DataNode that has just died is offered for some seconds still.
    hdfs.retry(lambda: hdfs.write_json(hdfs.join(model_dir, TRUST), {"steps": steps}), TRUST_SECS)


def check_steps(config: TrainConfig) -> None:
    """Raise BadInput where an unfinished job is to end at a step that it has long passed."""
    step = latest_step(config.model_dir) or 0
    limited = not config.program or any("{max_steps}" in argument for argument in config.arguments)
    # Each trainer may have made one step more than was asked for.
    if limited and step > config.max_steps + len(config.cluster.get("worker", [])):
        raise BadInput(
            f"max_steps is {config.max_steps}, but {config.model_dir} has a checkpoint of step {step} already: "
            "give more steps, or give the job another name."
        )


def begin(model_dir: str, model: dict[str, object], version: str) -> float:
    """Return when the job first began (Unix time), noted beside a description of the model and the program's version.

    Raises BadInput where model_dir holds another model, whose checkpoints could not be restored.
    """
    path = hdfs.join(model_dir, "model.json")
    found = hdfs.read_json(path)
    new = {**(found or {"began": time.time()}), **model, "version": version}
    check_model(model_dir, found, model)
    if new != found:
        hdfs.write_json(path, new)
    return float(str(new.get("began", time.time())))


def check_model(model_dir: str, found: dict[str, object] | None, model: dict[str, object]) -> None:
    """Raise BadInput where the model.json found in model_dir says that it holds another model."""
    found = found and {"program": "built-in", **found}
    for key, value in model.items():
        if found is not None and found.get(key) != value:
            raise BadInput(
                f"{model_dir} holds a model whose {key} is {found.get(key)}, not {value}: "
                "give the job another name or folder, or remove that one."
            )


def wait_for_version(model_dir: str, name: str, version: str, seconds: float = VERSION_SECS) -> None:
    """Wait for the chief to say which version of the program it runs; raise BadInput where it stays another one."""
    end = None
    while True:
        model = hdfs.read_json(hdfs.join(model_dir, "model.json"))
        if model is not None:
            if (chiefs := model.get("version")) == version:
                return
            end = end or time.monotonic() + seconds
            if time.monotonic() >= end:
                raise BadInput(
                    f"{name} has version {version} of the program, the chief {chiefs}: give all hosts the same "
                    "(playbooks/train.yml)."
                )
        time.sleep(1)


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
