"""Trains a model: one task of a cluster where --task or TF_CONFIG says so, else everything in this process.

Ends with 0 when the job is done, 2 when what it was given can't work (starting again doesn't help), 75 when
HDFS didn't answer or the global step stood still, 1 after any other error. A finished job that is started
again trains nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import flotilla
from flotilla import checkpoints, data, ending, hdfs, manifest, publish, watchdog
from flotilla.cluster import Task, task_from, tf_config
from flotilla.config import TrainConfig, load
from flotilla.errors import BadInput, ProgramError
from flotilla.progress import Progress, TaskFile, write_json

DONE_POLL_SECS = 3
LEAVE_AFTER_SECS = 60  # a session's close can take half of it
EVALUATION_BATCH = 250

_log = logging.getLogger("flotilla")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the task; return the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    progress = publisher = None
    try:
        config = load(argv)
        if config.task:
            os.environ["TF_CONFIG"] = tf_config(config.cluster, config.task)  # where Estimator looks, too
        task = task_from(os.environ)
        if task.leads:
            progress = Progress(config.progress, "train", config.max_steps, "steps")
            if task.type == "chief":  # a process on its own has no other nodes to tell
                publisher = publish.Publisher(config.progress, config.model_dir)
        _run(config, task, progress)
    except ProgramError as error:
        _log.error("%s", error)
        # What a restart may cure is not yet a failure.
        if progress and isinstance(error, BadInput):
            progress.fail(str(error))
        return error.code
    except Exception:
        _log.exception("%s failed.", task.name)
        return 1
    finally:
        if publisher:
            publisher.stop()
    return 0


def _run(config: TrainConfig, task: Task, progress: Progress | None) -> None:
    hdfs.wait_until_readable(hdfs.join(config.model_dir, "checkpoint"), config.reach_secs)
    done = hdfs.job_result(config.model_dir, config.max_steps)
    if done:
        _log.info("The job %s is done (%d steps): nothing to train.", config.name, done["global_step"])
        if progress:
            if config.done_file and not Path(config.done_file).exists():
                write_json(config.done_file, done)
            progress.finish(f"already trained, {done['global_step']} steps")
    elif task.type == "ps":
        _serve(config, task)
    else:
        _train(config, task, progress)


def _serve(config: TrainConfig, task: Task) -> None:
    """Hold variables until the job is done: a ps never ends by itself, and needs no files."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    tf.distribute.Server(tf.train.ClusterSpec(dict(task.cluster)), job_name="ps", task_index=task.index)
    _log.info("%s serves at %s until %s is done.", task.name, task.cluster["ps"][task.index], config.model_dir)
    _wait_for_end(config)
    _log.info("The job is done: %s ends.", task.name)
    watchdog.leave(0)


def _wait_for_end(config: TrainConfig) -> None:
    said = False
    while True:
        try:
            if hdfs.job_result(config.model_dir, config.max_steps):
                return
            said = False
        except hdfs.Unreachable as error:
            if not said:
                _log.warning("%s Asking again.", error)
                said = True
        time.sleep(DONE_POLL_SECS)


def _train(config: TrainConfig, task: Task, progress: Progress | None) -> None:
    config.check_trainers(task.trainers)
    hdfs.wait_until_readable(hdfs.join(config.data_dir, manifest.NAME), config.reach_secs)
    dataset = data.load(config.data_dir)
    data.check_splits(dataset, *_splits(config, task))
    if task.type != "evaluator":
        data.check_batch(dataset, config.train_split, config.batch_size)
    import tensorflow as tf

    if hdfs.is_hdfs(config.data_dir) or hdfs.is_hdfs(config.model_dir):
        import tensorflow_io  # noqa: F401 - registers hdfs://
    tf.get_logger().addFilter(_worth_logging)
    from flotilla import estimator, hooks, session

    began = time.time()
    if task.leads:
        shape = {"image": list(dataset.shape), "classes": dataset.classes, "resnet_size": config.resnet_size}
        began = checkpoints.begin(config.model_dir, shape)
        checkpoints.prepare(config.model_dir)
    else:
        threading.Thread(target=_leave_after_end, args=(config, task), daemon=True).start()
    watch = watchdog.Watchdog(
        config.watchdog_secs, config.watchdog_start_secs, lambda message: _stalled(config, message)
    )
    if task.type != "evaluator":
        watch.start()
    reports: list[Any] = []
    told = TaskFile(config.tasks_dir, config.name, task.name)

    def make_hooks(tensors: dict[str, Any]) -> list[Any]:
        reports.append(
            hooks.ReportHook(
                tensors,
                config.max_steps,
                config.examples_a_step(task.trainers),
                config.log_every_steps,
                progress,
                config.model_dir if task.leads else None,
            )
        )
        # What one trainer of several does is a run of its own in TensorBoard.
        own = hooks.TaskHook(told, config.batch_size, hdfs.join(config.model_dir, task.name) if task.cluster else None)
        return [hooks.LifeHook(watch, "step"), reports[-1], own]

    seed = _seed(config, task)
    model = estimator.build(config, dataset, task, seed, make_hooks)
    train = tf.estimator.TrainSpec(
        lambda: data.training_batches(dataset, config.train_split, config.batch_size, config.shuffle_buffer, seed),
        max_steps=config.max_steps,
    )
    evaluate = tf.estimator.EvalSpec(
        lambda: data.evaluation_batches(dataset, config.validation_split, EVALUATION_BATCH),
        steps=None,
        name=config.validation_split,
        hooks=[hooks.LifeHook(watch, "batch")],
        start_delay_secs=0,
        throttle_secs=config.eval_interval_secs,
    )
    try:
        if task.type == "evaluator":
            _say_evaluating(config, True)
            _evaluate(config, model, evaluate, dataset.records[config.validation_split], told)
        elif config.scheme == "session":
            session.train(config, dataset, task, seed, make_hooks)
        else:
            tf.estimator.train_and_evaluate(model, train, evaluate)
        if ending.asked.is_set():
            _log.info("%s ends as it was told to; the job goes on from its last checkpoint.", task.name)
            return
        _log.info("%s has done its part.", task.name)
        if task.leads:
            speed = reports[-1].examples_per_second if reports else None
            if progress:
                progress.update(config.max_steps, speed, "examples/s", "exporting and evaluating the model")
            _finish(config, dataset, watch, time.time() - began, speed, progress)
    finally:
        watch.stop()
        # Only closed event files are whole on HDFS.
        tf.compat.v1.summary.FileWriterCache.clear()
    if task.type == "evaluator":
        _say_evaluating(config, False)


def _say_evaluating(config: TrainConfig, running: bool) -> None:
    """Tell who stores the model whether the evaluator's events are still to come."""
    hdfs.write_json(hdfs.join(config.model_dir, "evaluator.json"), {"evaluating": running})


def _evaluate(config: TrainConfig, model: Any, evaluate: Any, examples: int, told: TaskFile) -> None:
    """Evaluate a new checkpoint in every interval, and the job's last one at once; tell what came out.

    train_and_evaluate sits out its throttle_secs first: meanwhile the model is stored without its last evaluation.
    """
    import tensorflow as tf

    seen = None
    while True:
        began = time.monotonic()
        checkpoint = tf.train.latest_checkpoint(config.model_dir)
        if checkpoint not in (None, seen):
            metrics = model.evaluate(
                evaluate.input_fn, hooks=evaluate.hooks, checkpoint_path=checkpoint, name=evaluate.name
            )
            told.tell(
                step=int(metrics["global_step"]),
                accuracy=float(metrics["accuracy"]),
                loss=float(metrics["loss"]),
                examples_per_second=round(examples / (time.monotonic() - began), 2),
            )
            if metrics["global_step"] >= config.max_steps:
                return
            seen = checkpoint
        time.sleep(DONE_POLL_SECS)
        while time.monotonic() < began + config.eval_interval_secs:
            if (checkpoints.latest_step(config.model_dir) or 0) >= config.max_steps:
                break
            time.sleep(DONE_POLL_SECS)


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


def _seed(config: TrainConfig, task: Task) -> int:
    """Another order for every trainer, and another one after a restart than what was already seen."""
    start = checkpoints.latest_step(config.model_dir) or 0
    trainer = task.index + 1 if task.type == "worker" else 0
    return (config.seed * 1_000_003 + trainer * 7_919 + start) % (1 << 31)


def _stalled(config: TrainConfig, message: str) -> None:
    try:
        over = hdfs.job_result(config.model_dir, config.max_steps) is not None
    except hdfs.Unreachable:
        over = False
    _log.error("%s %s", message, "The job is done." if over else "Ending, to be started again.")
    watchdog.leave(0 if over else watchdog.STOOD_STILL)


def _leave_after_end(config: TrainConfig, task: Task) -> None:
    """End a worker or evaluator that waits for what will never come, when the job is done without it."""
    _wait_for_end(config)
    time.sleep(LEAVE_AFTER_SECS)
    import tensorflow as tf

    _log.info("The job is done: %s ends.", task.name)
    tf.compat.v1.summary.FileWriterCache.clear()
    if task.type == "evaluator":
        _say_evaluating(config, False)
    watchdog.leave(0)


def _finish(
    config: TrainConfig,
    dataset: data.DataSet,
    watch: watchdog.Watchdog,
    seconds: float,
    speed: float | None,
    progress: Progress | None,
) -> None:
    """Export and evaluate the last checkpoint, write result.json, and say that the job is done."""
    result_file = hdfs.join(config.model_dir, "result.json")
    result = hdfs.read_json(result_file)
    if not result or result["global_step"] < config.max_steps:
        result = _result(config, dataset, watch, seconds, speed)
        hdfs.write_json(result_file, result)
    done = {"name": config.name, "model_dir": config.model_dir, "global_step": result["global_step"]}
    if config.done_file:
        write_json(config.done_file, done)
    hdfs.write_json(hdfs.join(config.model_dir, "job-done.json"), done)
    metrics = result["metrics"]
    text = f"trained {result['global_step']} steps"
    text += f", accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f} on {config.eval_split}"
    _log.info("%s: %s", config.name, text)
    if progress:
        progress.finish(text, **metrics)


def _result(
    config: TrainConfig, dataset: data.DataSet, watch: watchdog.Watchdog, seconds: float, speed: float | None
) -> dict[str, Any]:
    import tensorflow as tf

    from flotilla import estimator, hooks

    # As a task of the cluster, Estimator would look for the variables on the parameter servers.
    os.environ.pop("TF_CONFIG", None)
    model = estimator.build(config, dataset, Task(), config.seed)
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
        hooks=[hooks.LifeHook(watch, "batch")],
    )
    tf.compat.v1.summary.FileWriterCache.clear()
    return {
        "name": config.name,
        "data": dataset.name,
        "global_step": int(metrics["global_step"]),
        "metrics": {"accuracy": float(metrics["accuracy"]), "loss": float(metrics["loss"])},
        "examples_per_second": round(speed, 1) if speed else None,
        "seconds": round(seconds, 1),
        "versions": _versions(),
        "config": dataclasses.asdict(config),
        "saved_model": "export/" + exported.decode().rstrip("/").rsplit("/", 1)[-1],
    }


def _versions() -> dict[str, str]:
    """Return the versions that made the model."""
    import tensorflow as tf

    found = {
        "flotilla": flotilla.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }
    for name in ("tensorflow-estimator", "tensorflow-io", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    ending.heed()
    # No orderly end of the interpreter: TensorFlow's server and libhdfs's JVM can hang in it.
    watchdog.leave(main())
