"""The kit's own program: a ResNet or the network of a file learns to tell classes apart, by an Estimator or not."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flotilla.job import network_file
from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.design import Design, resnet
from flotilla.job.errors import BadInput
from flotilla.loop import checkpoints
from flotilla.loop.budget import Budget
from flotilla.model import data
from flotilla.storage import hdfs, manifest
from flotilla.supervision.progress import TaskFile

if TYPE_CHECKING:
    import tensorflow as tf

    from flotilla.loop.hooks import HookMaker

EVALUATION_BATCH = 250
NETWORK = "network.yml"  # in the model directory
POLL_SECS = 3
_log = logging.getLogger("flotilla")


def designed(config: TrainConfig) -> tuple[data.DataSet, Design]:
    """Return the data set that a job names, and the network for its examples; raise BadInput or hdfs.Unreachable."""
    if not config.network:
        found = data.load(config.data_dir)
        return found, resnet(config.resnet_size, found.shape, found.classes)
    file = network_file.load(config.network)
    found = data.load(config.data_dir, file.columns)
    return found, file.design(found.shape, found.classes)


def with_steps(config: TrainConfig, trainers: int) -> TrainConfig:
    """Return a job with the steps that its epochs are, where they decide; raise BadInput or hdfs.Unreachable."""
    if config.max_steps:
        return config
    hdfs.wait_until_readable(hdfs.join(config.data_dir, manifest.NAME), config.reach_secs)
    files = data.read_manifest(config.data_dir).files
    return config.with_steps(sum(entry.records for entry in files if entry.split == config.train_split), trainers)


class Network:
    """The network and its data set.

    Raises:
        BadInput: the data set can't be trained on as the job says.
        hdfs.Unreachable: HDFS doesn't answer.
    """

    def __init__(self, config: TrainConfig, task: Task, limit: Budget) -> None:
        self._config, self._task, self._limit = config, task, limit
        config.check_trainers(task.trainers)
        hdfs.wait_until_readable(hdfs.join(config.data_dir, manifest.NAME), config.reach_secs)
        self._data, self._design = designed(config)
        data.check_splits(self._data, *_splits(config, task))
        if task.type != "evaluator":
            data.check_batch(self._data, config.train_split, config.batch_size)
        self._check_memory()

    @property
    def model(self) -> dict[str, object]:
        """What has to be the same for a checkpoint to be restored."""
        config, shape = self._config, list(self._data.shape)
        found: dict[str, object] = {"program": config.program_name, "image": shape, "classes": self._data.classes}
        return found if config.network else {**found, "resnet_size": config.resnet_size}

    def _check_memory(self) -> None:
        """Raise BadInput where a step can't fit into this host's memory."""
        config, task = self._config, self._task
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needed = self._design.memory(config.batch_size, config.optimizer, not task.cluster)
        if task.type != "evaluator" and needed > there:
            raise BadInput(
                f"A step of {config.batch_size} examples needs {needed / 1e9:.1f} GB, and this host has "
                f"{there / 1e9:.1f} GB of memory: take smaller batches, or a smaller network."
            )

    def run(self, seed: int, hook_maker: HookMaker, task_file: TaskFile) -> None:
        """Train, or evaluate, until max_steps or until the process is told to end."""
        import tensorflow as tf

        from flotilla.model import estimator, precision, session

        task, dataset = self._task, self._data
        for split in _splits(self._config, task):
            data.check_records(dataset, split)
        wanted = "float32" if task.type == "evaluator" else self._config.precision
        chosen = precision.choose(wanted, self._design)
        config = dataclasses.replace(self._config, precision=chosen)
        examples = config.examples_a_step(task.trainers)
        tf.get_logger().addFilter(_worth_logging)

        def training_hooks(tensors: dict[str, tf.Tensor]) -> list[tf.estimator.SessionRunHook]:
            return hook_maker.training(tensors, config.max_steps, examples)

        model = estimator.build(config, dataset, self._design, task, seed, training_hooks)
        train = tf.estimator.TrainSpec(
            lambda: data.training_batches(
                dataset, config.train_split, config.batch_size, config.shuffle_buffer, seed, config.augment
            ),
            max_steps=config.max_steps,
        )
        evaluate = tf.estimator.EvalSpec(
            lambda: data.evaluation_batches(dataset, config.validation_split, EVALUATION_BATCH),
            steps=None,
            name=config.validation_split,
            hooks=[hook_maker.evaluation()],
            start_delay_secs=0,
            throttle_secs=config.eval_interval_secs,
        )
        if task.type == "evaluator":
            _evaluate(config, model, evaluate, dataset.records[config.validation_split], task_file, self._limit)
        elif config.scheme == "session":
            session.train(config, dataset, self._design, task, seed, training_hooks)
        else:
            tf.estimator.train_and_evaluate(model, train, evaluate)

    def finish(self, hook_maker: HookMaker) -> dict[str, object]:
        """Export and evaluate the last checkpoint; return what result.json says of it."""
        import tensorflow as tf

        from flotilla.model import estimator

        config, dataset = dataclasses.replace(self._config, precision="float32"), self._data
        # As a task of the cluster, Estimator would look for the variables on the parameter servers.
        os.environ.pop("TF_CONFIG", None)
        model = estimator.build(config, dataset, self._design, Task(), config.seed)
        checkpoint = tf.train.latest_checkpoint(config.model_dir)
        if checkpoint is None:
            raise hdfs.Unreachable(f"{config.model_dir} shows no checkpoint after the training.")
        exported = model.export_saved_model(
            hdfs.join(config.model_dir, "export"),
            lambda: estimator.serving_input(dataset),
            checkpoint_path=checkpoint,
        )
        metrics = model.evaluate(
            lambda: data.evaluation_batches(dataset, config.eval_split, EVALUATION_BATCH),
            name=config.eval_split,
            checkpoint_path=checkpoint,
            hooks=[hook_maker.evaluation()],
        )
        tf.compat.v1.summary.FileWriterCache.clear()
        if config.network:  # beside the model, whatever becomes of the file
            hdfs.write(hdfs.join(config.model_dir, NETWORK), Path(config.network).read_bytes())
        return {
            "data": dataset.name,
            "labels": list(dataset.names),
            "global_step": int(metrics["global_step"]),
            "metrics": {name: float(metrics[name]) for name in (*self._design.metrics, "loss")},
            "saved_model": "export/" + exported.decode().rstrip("/").rsplit("/", 1)[-1],
        }


def _evaluate(
    config: TrainConfig,
    model: tf.estimator.Estimator,
    evaluate: tf.estimator.EvalSpec,
    examples: int,
    task_file: TaskFile,
    limit: Budget,
) -> None:
    """Evaluate a new checkpoint in every interval, and the job's last one at once; tell what came out.

    train_and_evaluate sits out its throttle_secs first: meanwhile the model is stored without its last evaluation.
    """
    import tensorflow as tf

    seen = None
    while True:
        began = time.monotonic()
        checkpoint = tf.train.latest_checkpoint(config.model_dir)
        if checkpoint not in (None, seen):
            try:
                metrics = model.evaluate(
                    evaluate.input_fn, hooks=evaluate.hooks, checkpoint_path=checkpoint, name=evaluate.name
                )
            except (ValueError, tf.errors.OpError):
                # Its files go one by one, and HDFS has errors of its own for one that goes while it is read.
                if checkpoints.listed(config.model_dir, checkpoint):
                    raise
                _log.info("The chief has deleted %s meanwhile: evaluating a newer one.", checkpoint)
                time.sleep(POLL_SECS)
                continue
            task_file.update(
                step=int(metrics["global_step"]),
                accuracy=float(metrics["accuracy"]),
                loss=float(metrics["loss"]),
                examples_per_second=round(examples / (time.monotonic() - began), 2),
            )
            if limit.passed(metrics["global_step"]):
                return
            seen = checkpoint
        time.sleep(POLL_SECS)
        while time.monotonic() < began + config.eval_interval_secs:
            if limit.passed(checkpoints.latest_step(config.model_dir) or 0):
                break
            time.sleep(POLL_SECS)


def _worth_logging(record: logging.LogRecord) -> bool:
    """Of TensorFlow's messages keep warnings and lost sessions; that Estimator is deprecated is no news."""
    text = record.getMessage()
    if "error was raised" in text:
        record.msg, record.args = "A parameter server doesn't answer: making a new session.", ()
        return True
    return "deprecated" not in text and record.levelno >= logging.WARNING


def _splits(config: TrainConfig, task: Task) -> list[str]:
    """Return the splits that a task reads; beside a cluster's chief, the evaluator reads the validation split."""
    chief, evaluator = [config.train_split, config.eval_split], [config.validation_split]
    return {"chief": chief, "worker": chief[:1], "evaluator": evaluator}.get(task.type, chief + evaluator)
