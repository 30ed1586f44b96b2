"""Trains a model: one task of a cluster where --task or TF_CONFIG says so, else everything in this process.

Ends with 0 when the job is done, 2 when what it was given can't work or has failed again and again since the same
checkpoint (starting again doesn't help), 75 when HDFS didn't answer or the global step stood still, 1 after any
other error. A finished job that is started again trains nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import flotilla
from flotilla import failure, mirror
from flotilla.adapter import program
from flotilla.job.cluster import Task, task_from, tf_config
from flotilla.job.config import TrainConfig, load
from flotilla.job.errors import BadInput, ProgramError
from flotilla.loop import budget, checkpoints
from flotilla.model import network
from flotilla.storage import hdfs
from flotilla.supervision import ending, peers, progress, publish, share, waiting, watchdog
from flotilla.supervision.progress import Progress, TaskFile, write_json

DONE_POLL_SECS = 3
ATTEMPTS = 3  # for what fails at each start, as a loss that is no number does
# Without a step, for what may come right by itself, as an HDFS that is full or away. Looked at when an attempt ends:
# HDFS's clients and a session's close can make one last 100 s, and the job has to have ended within 5 minutes.
PATIENCE_SECS = 120
OVER_SECS = 10
HURRY_SECS = 30  # for a step, when a task that was away is back
LAST_CHECKPOINT_SECS = 300  # for the one that a worker saves in the lost chief's place
FROZEN_SECS = 30  # for a ps, which everybody waits for; in a trainer a call that blocks all threads may take longer
LEAVE_AFTER_SECS = 60  # a session's close can take half of it
EVALUATOR_LEAVE_AFTER_SECS = 600  # a program's evaluator has the last checkpoint to evaluate and to export

_log = logging.getLogger("flotilla")
_T = TypeVar("_T")


class Work(Protocol):
    """What is trained: the kit's own network, or somebody's program."""

    @property
    def model(self) -> dict[str, Any]:
        """What has to be the same for a checkpoint to be restored."""

    def run(self, seed: int, make_hooks: Callable[..., list[Any]], life: Callable[[], Any], told: TaskFile) -> None:
        """Do this task's part.

        Args:
            seed: of this trainer's shuffling.
            make_hooks: takes the tensors to report, the last step and a step's examples; returns a training's hooks.
            life: returns an evaluation's hook.
            told: where an evaluator tells what came out.
        """

    def finish(self, life: Callable[[], Any]) -> dict[str, Any]:
        """Return what result.json says of the model: global_step, metrics, and saved_model if there is one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the task; return the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    progress = publisher = task = config = others = None
    told = TaskFile("", "", "")
    try:
        config = load(argv)
        if config.task:
            os.environ["TF_CONFIG"] = tf_config(config.cluster, config.task)  # where Estimator looks, too
        task = task_from(os.environ)
        share.take(task)
        told = TaskFile(config.tasks_dir, config.name, task.name)
        if task.leads:
            progress = Progress(config.progress, "train", config.max_steps, "steps", _before(config, task))
            if task.type == "chief":  # a process on its own has no other nodes to tell
                publisher = publish.Publisher(config.progress, config.model_dir)
        if task.type in ("chief", "worker"):
            share.Starved(functools.partial(_say_starved, told, progress)).start()
        ending.farewell = functools.partial(_say_stopped, config, task, progress)
        memory = Path(config.tasks_dir) / f"{task.name}.heard" if config.tasks_dir else None
        on_lost = functools.partial(_lost, config, task, progress, told)
        others = peers.Watch(peers.needed(task, config.sync), on_lost, memory)
        _run(config, task, progress, told, others)
    except Exception as error:
        ending.farewell = None  # why it ends is told here
        code, text, waited = _problem(config, task, others, error)
        told.tell(problem=text, waited=waited)
        # What a restart may cure is not yet a failure.
        if progress and config and code == BadInput.code:
            _fail(config, progress, text)
        elif progress:
            progress.say(text)
        return code
    finally:
        if others:
            others.stop()
        if publisher:
            publisher.stop()
    return 0


def _say_starved(told: TaskFile, progress: Progress | None, sentence: str) -> None:
    if sentence:
        _log.warning("This task %s: other work on its host has them.", sentence)
    told.tell(warning=sentence)
    if progress:
        progress.warn(sentence)


def _before(config: TrainConfig, task: Task) -> float:
    """Return how many steps an earlier process of this task has told of."""
    if progress.read_task(config.tasks_dir, task.name).get("job") != config.name:
        return 0
    return float((progress.read(config.progress) or {}).get("done", 0))


def _problem(
    config: TrainConfig | None, task: Task | None, others: peers.Watch | None, error: Exception
) -> tuple[int, str, bool]:
    """Log an error; return the exit status, a sentence, and whether it was waited for in vain that it comes right."""
    name = task.name if task else "the task"
    if isinstance(error, ProgramError):
        _log.error("%s", error)
        code, text = error.code, str(error)
    else:
        _log.exception("%s failed.", name)
        first = (str(error).strip() or repr(error)).splitlines()[0]
        code, text = 1, f"{name} failed by {type(error).__name__}: {first}"
    if code == BadInput.code or not config or not task or not others:
        return code, text, False
    outside = code != 1 or not _by_training(error)
    # A worker out of step may try for ever, and everybody waits for a host that is away as long as peers does.
    if outside and (task.type == "ps" or others.away or not failure.ends_job(task, config.sync)):
        return code, text, False
    if attempts := _in_vain(config, task, outside):
        _log.error("This was the attempt number %d since the same checkpoint: giving up.", attempts)
        return BadInput.code, f"{text.rstrip('.')}, {attempts} times since the same checkpoint.", outside
    return code, text, False


def _in_vain(config: TrainConfig, task: Task, outside: bool) -> int:
    """Note that a task has failed; return how often, if that is too often with no new checkpoint."""
    if not config.tasks_dir:
        return 0
    note = Path(config.tasks_dir) / f"{task.name}.failed"
    with contextlib.suppress(ProgramError, OSError):
        before = hdfs.read_json(str(note)) or {}
        step = _soon(lambda: checkpoints.latest_step(config.model_dir))
        if step is None:  # or HDFS doesn't say
            step = before.get("step")
        now = {"model_dir": config.model_dir, "step": step, "boot": peers.boot()}
        if any(before.get(key) != value for key, value in now.items()):
            # It has trained until then, or an earlier process of it has.
            since = progress.read_task(config.tasks_dir, task.name).get("updated", time.time())
            before = {"count": 0, "since": since}
        count = int(before["count"]) + 1
        write_json(note, {**now, "count": count, "since": before["since"]})
        enough = time.time() - before["since"] >= PATIENCE_SECS and count > 1 if outside else count >= ATTEMPTS
        if enough:
            note.unlink()  # somebody may mend it
            return count
    return 0


def _run(config: TrainConfig, task: Task, progress: Progress | None, told: TaskFile, others: peers.Watch) -> None:
    if waiting.due(config, task):
        _await(config, task, progress, told)
    hdfs.wait_until_readable(hdfs.join(config.model_dir, "checkpoint"), config.reach_secs)
    done = checkpoints.finished(config)
    # A program's last evaluation is its evaluator's, however late it begins; the built-in network's is the chief's.
    late = done and task.type == "evaluator" and config.program and _said_evaluating(config)
    if done and not late:
        _log.info("The job %s is done (%d steps): nothing to train.", config.name, done["global_step"])
        if task.type == "evaluator":
            _say_evaluating(config, False)
        if progress:
            if config.done_file and not Path(config.done_file).exists():
                write_json(config.done_file, done)
            progress.finish(f"already trained, {done['global_step']} steps")
    elif task.type == "ps":
        told.tell(device="CPU")
        _serve(config, task)
    else:
        _train(config, task, progress, told, others)


def _await(config: TrainConfig, task: Task, progress: Progress | None, told: TaskFile) -> None:
    """Load TensorFlow, which takes its time; then wait for HDFS, and for the data set where the task reads one."""
    said = ""

    def say(message: str) -> None:
        nonlocal said
        if message != said:
            _log.info("%s %s", task.name, message)
        said = message
        told.tell(warning=message)
        if progress:
            progress.say(message)

    if task.type == "ps":
        _without_gpus()
    elif task.type != "evaluator":  # that has time until there is a checkpoint
        told.tell(device=share.device(task))
        _with_hdfs(config)
    waiting.for_hdfs(config, say)
    if task.type not in ("ps", "evaluator") and hdfs.is_hdfs(config.data_dir):
        import tensorflow as tf

        tf.io.gfile.exists(hdfs.root(config.data_dir))  # starts its Java
    if task.type != "ps" and not checkpoints.finished(config):
        waiting.for_data(config, say)
    waiting.over(config, task)
    told.tell(warning="")
    if progress:
        progress.say("starting")


def _with_hdfs(config: TrainConfig) -> None:
    """Load what TensorFlow needs for hdfs://, where the job has such files."""
    if hdfs.is_hdfs(config.data_dir) or hdfs.is_hdfs(config.model_dir):
        import tensorflow_io  # noqa: F401


def _without_gpus() -> None:
    """Load TensorFlow as a ps needs it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow  # noqa: F401


def _lost(
    config: TrainConfig, task: Task, progress: Progress | None, told: TaskFile, peer: peers.Peer, message: str
) -> None:
    """End for good, and say why where flotilla-status looks; return if the other comes back after all.

    For a chief, a worker saves a last checkpoint (hooks.HeirHook), which the parameter servers wait for.
    """
    if _over(config):
        watchdog.leave(0)
    _log.error("%s", message)
    told.tell(problem=message)
    chief = peer.name.startswith("chief-")
    if chief and task.name == "ps-0":
        progress = Progress(config.progress, "train", config.max_steps, "steps")
    if progress:
        _fail_for_all(config, progress, message)
    if chief and task.type in ("ps", "worker"):
        peers.chief_lost.set()
        before, end = _latest_step(config), time.monotonic() + LAST_CHECKPOINT_SECS
        while time.monotonic() < end:
            time.sleep(DONE_POLL_SECS)
            step = _latest_step(config)
            before = step if before is None else before
            if task.type == "ps" and step not in (None, before):
                if progress:
                    _fail_for_all(config, progress, message)  # with that step
                break
            if peers.answers(peer):
                peers.chief_lost.clear()
                if progress:
                    Path(config.progress).unlink(missing_ok=True)
                _log.info("%s is back.", peer.name)
                return
    watchdog.leave(BadInput.code)


def _latest_step(config: TrainConfig) -> int | None:
    """Return the newest checkpoint's step, 0 where there is none; None where HDFS doesn't say."""
    with contextlib.suppress(ProgramError):
        return checkpoints.latest_step(config.model_dir) or 0
    return None


def _serve(config: TrainConfig, task: Task) -> None:
    """Hold variables until the job is done: a ps never ends by itself, and needs no files."""
    _without_gpus()
    import tensorflow as tf

    tf.distribute.Server(tf.train.ClusterSpec(dict(task.cluster)), job_name="ps", task_index=task.index)
    _log.info("%s serves at %s until %s is done.", task.name, task.cluster["ps"][task.index], config.model_dir)
    watchdog.beat(FROZEN_SECS)
    if (progress.read(config.progress) or {}).get("state") == "failed":  # by an earlier process, in _lost
        Path(config.progress).unlink(missing_ok=True)
    reason = _wait_for_end(config)
    _log.info("The job %s: %s ends.", f"has failed ({reason})" if reason else "is done", task.name)
    watchdog.leave(0)


def _wait_for_end(config: TrainConfig) -> str:
    """Return when the job is done; or when it has failed for good since then, and why."""
    said = looked = False
    earlier: dict[str, Any] | None = None  # of a start that has failed before this one
    while True:
        try:
            if checkpoints.finished(config):
                return ""
            failed = failure.read(config.model_dir)
            if not looked:
                earlier, looked = failed, True
            elif failed and failed != earlier:
                return str(failed.get("message"))
            said = False
        except hdfs.Unreachable as error:
            if not said:
                _log.warning("%s Asking again.", error)
                said = True
        time.sleep(DONE_POLL_SECS)


def _train(config: TrainConfig, task: Task, progress: Progress | None, told: TaskFile, others: peers.Watch) -> None:
    if task.cluster:
        threading.Thread(target=_leave_after_end, args=(config, task, progress), daemon=True).start()
    if task.type == "evaluator":
        _await_checkpoint(config)
    told.tell(device=share.device(task))
    version = program.version(config.program) if task.cluster else ""
    limit = budget.Budget(config)
    work: Work = program.Program(config, task) if config.program else network.Network(config, task, limit)
    _with_hdfs(config)
    import tensorflow as tf

    from flotilla.loop import hooks

    began = time.time()
    if task.leads:
        if config.mirror:
            mirror.restore(config.mirror, config.model_dir, work.model, config.reach_secs)
        began = checkpoints.begin(config.model_dir, work.model, version)
        checkpoints.check_steps(config)
        checkpoints.prepare(config.model_dir)
    else:
        checkpoints.agree(config.model_dir, task.name, version)
    # An HDFS without space would end this process at its first checkpoint or event, and again and again.
    note = hdfs.join(config.model_dir, publish.FOLDER, f"{task.name}.started")
    hdfs.insist(lambda: hdfs.write_json(note, time.time()), config.reach_secs)
    if task.leads and config.evaluator:
        _await_evaluator(config)
    watch = watchdog.Watchdog(
        config.watchdog_secs,
        config.watchdog_start_secs,
        lambda message: _stalled(config, message),
        excused=lambda: others.away,  # starting again doesn't bring it back
    )
    if config.program:
        watch.pause()
    if task.type != "evaluator":
        watch.start()
    others.on_back = lambda: watch.hurry(HURRY_SECS)
    reports: list[Any] = []
    limit.look()
    if not task.leads:
        limit.wait()

    def make_hooks(tensors: dict[str, Any], max_steps: int, examples_a_step: int | None) -> list[Any]:
        summary_dir = config.model_dir if task.leads else None
        reports.append(
            hooks.ReportHook(tensors, max_steps, examples_a_step, config.log_every_steps, progress, summary_dir)
        )
        # What one trainer of several does is a run of its own in TensorBoard.
        own_dir = hdfs.join(config.model_dir, task.name) if task.cluster else None
        own = hooks.TaskHook(told, config.batch_size if examples_a_step else None, own_dir)
        found = [hooks.LifeHook(watch, "step", bool(config.program)), reports[-1], own]
        if config.minutes:
            found.append(hooks.BudgetHook(limit, config.minutes, reports[-1], task.leads))
        return found

    def life() -> Any:
        return hooks.LifeHook(watch, "batch", bool(config.program))

    try:
        if task.type == "evaluator":
            _say_evaluating(config, True)
        work.run(_seed(config, task), make_hooks, life, told)
        others.stop()
        if ending.asked.is_set():
            _say_stopped(config, task, progress, True)
            return
        _log.info("%s has done its part.", task.name)
        if task.leads:
            speed = reports[-1].examples_per_second if reports else None
            if progress:
                progress.say("exporting and evaluating the model")
            result = _result(config, work, time.time() - began, speed, life)
            ending.farewell = None  # it is done, not stopped
            _say_done(config, result, limit.ended, progress)
    except Exception as error:
        if task.leads and _by_training(error):
            with contextlib.suppress(ProgramError):
                checkpoints.trust(config.model_dir)
        raise
    finally:
        watch.stop()
        # Only closed event files are whole on HDFS.
        tf.compat.v1.summary.FileWriterCache.clear()
    if task.type == "evaluator":
        _say_evaluating(config, False)


def _say_stopped(config: TrainConfig, task: Task, progress: Progress | None, saved: bool) -> None:
    """Say that the task ends as it was told to, with a checkpoint or without."""
    _log.info("%s ends as it was told to; the job goes on from its last checkpoint.", task.name)
    if progress and not saved:
        progress.say("stopped without a checkpoint: a parameter server or HDFS didn't answer in time")
    elif progress:
        progress.say(f"stopped, with a checkpoint of step {_latest_step(config)}")
        publish.Publisher(config.progress, config.model_dir).stop()
    _close_events()


def _close_events() -> None:
    with contextlib.suppress(KeyError, AttributeError):  # where TensorFlow isn't loaded, or not yet whole
        sys.modules["tensorflow"].compat.v1.summary.FileWriterCache.clear()


def _by_training(error: BaseException) -> bool:
    """Whether what failed may be in the variables by now, as a loss that is no number is: a file or a server isn't."""
    import tensorflow as tf

    if isinstance(error, ProgramError) and error.code == 1:  # of a program of somebody's
        return error.__cause__ is None or _by_training(error.__cause__)
    if isinstance(error, tf.errors.OpError):
        return isinstance(error, tf.errors.InvalidArgumentError)  # of check_numerics, say
    return not isinstance(error, (ProgramError, OSError))


def _await_checkpoint(config: TrainConfig) -> None:
    """Wait until something has been learned; until then TensorFlow isn't loaded, and the trainers have the processors.

    That the job ends, or that HDFS or the chief stays away, others notice.
    """
    said = False
    while not _latest_step(config):
        if not said:
            _log.info("Nothing has been learned yet: waiting for the first checkpoint.")
            said = True
        time.sleep(DONE_POLL_SECS)


def _await_evaluator(config: TrainConfig) -> None:
    """Have the store wait for an evaluator that is still to begin: a short job may be done by then."""
    # What an evaluator has said is of this training, unless that has been done before with fewer steps.
    if _said_evaluating(config) is None or hdfs.read_json(hdfs.join(config.model_dir, "job-done.json")):
        _say_evaluating(config, True)


def _say_evaluating(config: TrainConfig, running: bool) -> None:
    """Tell who stores the model whether the evaluator's events are still to come."""
    hdfs.write_json(hdfs.join(config.model_dir, "evaluator.json"), {"evaluating": running})


def _said_evaluating(config: TrainConfig) -> bool | None:
    """Return what _say_evaluating said last; None where nothing was said."""
    return (hdfs.read_json(hdfs.join(config.model_dir, "evaluator.json")) or {}).get("evaluating")


def _seed(config: TrainConfig, task: Task) -> int:
    """Another order for every trainer, and another one after a restart than what was already seen."""
    start = checkpoints.latest_step(config.model_dir) or 0
    trainer = task.index + 1 if task.type == "worker" else 0
    return (config.seed * 1_000_003 + trainer * 7_919 + start) % (1 << 31)


def _stalled(config: TrainConfig, message: str) -> None:
    over = _over(config)
    _log.error("%s %s", message, "The job is done." if over else "Ending, to be started again.")
    watchdog.leave(0 if over else watchdog.STOOD_STILL)


def _over(config: TrainConfig) -> bool:
    """Whether HDFS says, within some seconds, that the job is done."""
    return _soon(lambda: checkpoints.finished(config)) is not None


def _fail(config: TrainConfig, progress: Progress, message: str) -> None:
    """Say that the job has failed, and how far it is, also where this process hasn't made a step."""
    step = _soon(lambda: checkpoints.latest_step(config.model_dir))
    progress.fail(message, step or 0)


def _fail_for_all(config: TrainConfig, progress: Progress, message: str) -> None:
    """Say on this host that the job has failed, and have all others show it."""
    _fail(config, progress, message)
    publish.Publisher(config.progress, config.model_dir).stop()


def _soon(ask: Callable[[], _T]) -> _T | None:
    """Return what HDFS answers within some seconds; None where it doesn't."""
    said: list[_T] = []

    def asking() -> None:
        with contextlib.suppress(ProgramError):
            said.append(ask())

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    thread.join(OVER_SECS)
    return said[0] if said else None


def _leave_after_end(config: TrainConfig, task: Task, progress: Progress | None) -> None:
    """End a worker or evaluator that waits for what will never come, when the job is done without it, or has failed."""
    if reason := _wait_for_end(config):
        _log.error("The job has failed: %s", reason)
        if progress:
            _fail_for_all(config, progress, reason)
        watchdog.leave(BadInput.code if task.leads else 0)
    if task.leads:
        return
    time.sleep(EVALUATOR_LEAVE_AFTER_SECS if task.type == "evaluator" and config.program else LEAVE_AFTER_SECS)
    _log.info("The job is done: %s ends.", task.name)
    _close_events()
    if task.type == "evaluator":
        _say_evaluating(config, False)
    watchdog.leave(0)


def _result(
    config: TrainConfig, work: Work, seconds: float, speed: float | None, life: Callable[[], Any]
) -> dict[str, Any]:
    """Finish the model and write result.json, unless an earlier process did so."""
    file = hdfs.join(config.model_dir, "result.json")
    result = hdfs.read_json(file)
    if result and result["global_step"] == checkpoints.latest_step(config.model_dir):
        return result
    result = {
        "name": config.name,
        **work.finish(life),
        "examples_per_second": round(speed, 1) if speed else None,
        "seconds": round(seconds, 1),
        "versions": _versions(),
        "config": dataclasses.asdict(config),
    }
    hdfs.write_json(file, result)
    return result


def _say_done(config: TrainConfig, result: dict[str, Any], by_minutes: bool, progress: Progress | None) -> None:
    """Say that the job is done: to the store's unit, to the other tasks, to whoever follows."""
    done = {
        "name": config.name,
        "model_dir": config.model_dir,
        "global_step": result["global_step"],
        "program": config.program_name,
        "arguments": config.program_arguments(),
        **({"minutes": config.minutes} if by_minutes else {}),
    }
    if config.done_file:
        write_json(config.done_file, done)
    hdfs.write_json(hdfs.join(config.model_dir, "job-done.json"), done)
    metrics = result["metrics"]
    shown = [f"trained {result['global_step']} steps", *(f"{name} {value:.4f}" for name, value in metrics.items())]
    text = ", ".join(shown) + (f" on {config.eval_split}" if metrics else "")
    _log.info("%s: %s", config.name, text)
    if progress:
        progress.finish(text, **metrics)


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
    watchdog.beat()
    # No orderly end of the interpreter: TensorFlow's server and libhdfs's JVM can hang in it.
    watchdog.leave(main())
