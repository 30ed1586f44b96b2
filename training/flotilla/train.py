"""Trains a model: one task of a cluster where --task or TF_CONFIG says so, else everything in this process.

Ends with 0 when the job is done, 2 when what it was given can't work or has failed again and again since the same
checkpoint (starting again doesn't help), 75 when HDFS didn't answer or the global step stood still, 1 after any
other error. A finished job that is started again trains nothing.
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
from typing import TYPE_CHECKING, Protocol

import flotilla
from flotilla import failure, mirror
from flotilla.adapter import program
from flotilla.job.cluster import Task, task_from, tf_config
from flotilla.job.config import NETWORK_KEYS, TrainConfig, load
from flotilla.job.errors import BadInput, ProgramError, cause
from flotilla.loop import attempts, budget, checkpoints, outcome
from flotilla.model import network
from flotilla.storage import hdfs
from flotilla.supervision import hardware, peers, progress, termination, waiting, watchdog
from flotilla.supervision.progress import HdfsCopier, Progress, TaskFile

if TYPE_CHECKING:
    from flotilla.loop.hooks import HookMaker

DONE_POLL_SECS = 3
HURRY_SECS = 30  # for a step, when a task that was away is back
LAST_CHECKPOINT_SECS = 300  # for the one that a worker saves in the lost chief's place
FROZEN_SECS = 30  # for a ps, which everybody waits for; in a trainer a call that blocks all threads may take longer
LEAVE_AFTER_SECS = 60  # a session's close can take half of it; the store waits longer for a task's log
EVALUATOR_LEAVE_AFTER_SECS = 600  # a program's evaluator has the last checkpoint to evaluate and to export

_log = logging.getLogger("flotilla")


class Work(Protocol):
    """What is trained: the kit's own network, or somebody's program."""

    @property
    def model(self) -> dict[str, object]:
        """What has to be the same for a checkpoint to be restored."""

    def run(self, seed: int, hook_maker: HookMaker, task_file: TaskFile) -> None:
        """Do this task's part.

        Args:
            seed: of this trainer's shuffling.
            hook_maker: makes the hooks of a training, and of an evaluation.
            task_file: where an evaluator reports its metrics.
        """

    def finish(self, hook_maker: HookMaker) -> dict[str, object]:
        """Return what result.json says of the model: global_step, metrics, and saved_model if there is one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the task; return the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        config = load(argv)
        if config.task:
            os.environ["TF_CONFIG"] = tf_config(config.cluster, config.task)  # where Estimator looks, too
        task = task_from(os.environ)
    except ProgramError as error:
        _log.error("%s", error)
        return error.code
    hardware.claim(task)
    run = TaskRun(config, task)
    try:
        run.run()
    except Exception as error:
        return run.report_error(error)
    finally:
        run.close()
    return 0


class TaskRun:
    """One task of a job in this process: what it was given, where it reports, and which other tasks it needs."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        """Begin to report, to watch the tasks that this one needs, and to wait for SIGTERM."""
        self.config, self.task, self.began = config, task, time.time()
        self.task_file = TaskFile(config.tasks_dir, config.name, task.name)
        self.progress: Progress | None = None
        self._copier: HdfsCopier | None = None
        if task.leads:
            self.progress = Progress(config.progress, "train", config.max_steps, "steps", self._steps_before())
            if task.type == "chief":  # a process on its own has no other nodes to tell
                self._copier = HdfsCopier(config.progress, config.model_dir)
        if task.type in ("chief", "worker"):
            hardware.StarvationWatch(self._say_starved).start()
        termination.on_end = self.say_stopped
        memory = Path(config.tasks_dir) / f"{task.name}.heard" if config.tasks_dir else None
        self.peers = peers.Watch(peers.needed(task, config.sync), self.give_up, memory)

    def run(self) -> None:
        """Do the task's part of the job, or nothing where the job is done."""
        config, task = self.config, self.task
        if waiting.due(config, task):
            self._wait_for_job()
        if not config.max_steps:
            self.config = config = network.with_steps(config, task.trainers)
            if self.progress:
                self.progress.expect(config.max_steps)
        hdfs.wait_until_readable(hdfs.join(config.model_dir, "checkpoint"), config.reach_secs)
        done = outcome.finished(config)
        # A program's last evaluation is its evaluator's, however late it begins; the built-in network's is the chief's.
        late = done and task.type == "evaluator" and config.program and outcome.evaluating(config)
        if done and not late:
            self._say_done_before(done)
        elif task.type == "ps":
            self.task_file.update(device="CPU")
            self._serve()
        else:
            self._train()

    def close(self) -> None:
        """Stop watching the other tasks, and copy the last progress."""
        self.peers.stop()
        if self._copier:
            self._copier.stop()

    def report_error(self, error: Exception) -> int:
        """Log an error, and tell it where a human looks; return the exit status."""
        termination.on_end = None  # why it ends is told here
        if self.task.type == "worker" and _is_over(self.config):  # the parameter servers have ended with it
            _log.info("The job is done: %s ends.", self.task.name)
            return 0
        code, text, passing = self._judge(error)
        self.task_file.update(problem=text, waited=passing)
        # What a restart may cure is not yet a failure.
        if self.progress and code == BadInput.code:
            self._fail(self.progress, text)
        elif self.progress:
            self.progress.say(text)
        return code

    def say_stopped(self, saved: bool) -> None:
        """Say that the task ends as it was told to, with a checkpoint or without."""
        _log.info("%s ends as it was told to; the job goes on from its last checkpoint.", self.task.name)
        if self.progress:
            step = _latest_step(self.config)
            if step == 0:
                self.progress.stop("it had not begun to train", 0)
            elif saved:
                self.progress.stop(f"with a checkpoint of step {step}", step or 0)
            else:
                message = "without a checkpoint: a parameter server or HDFS didn't answer in time"
                self.progress.stop(message, step or 0)
            HdfsCopier(self.config.progress, self.config.model_dir).stop()
        _close_events()

    def give_up(self, peer: peers.Peer, message: str) -> None:
        """End for good, as a needed task is gone, and say why where flotilla-status looks; return if it comes back.

        When the chief is gone, a worker saves a last checkpoint (hooks.LastCheckpointHook), which the parameter
        servers wait for.
        """
        config, task = self.config, self.task
        if _is_over(config):
            watchdog.leave(0)
        _log.error("%s", message)
        self.task_file.update(problem=message)
        chief = peer.name.startswith("chief-")
        report = self.progress
        if chief and task.name == "ps-0":
            report = Progress(config.progress, "train", config.max_steps, "steps")
        if report:
            self._fail_for_all(report, message)
        if chief and task.type in ("ps", "worker"):
            peers.chief_lost.set()
            before, end = _latest_step(config), time.monotonic() + LAST_CHECKPOINT_SECS
            while time.monotonic() < end:
                time.sleep(DONE_POLL_SECS)
                step = _latest_step(config)
                before = step if before is None else before
                if task.type == "ps" and step not in (None, before):
                    if report:
                        self._fail_for_all(report, message)  # with that step
                    break
                if peers.answers(peer):
                    peers.chief_lost.clear()
                    if report:
                        Path(config.progress).unlink(missing_ok=True)
                    _log.info("%s is back.", peer.name)
                    return
        watchdog.leave(BadInput.code)

    def _steps_before(self) -> float:
        """Return how many steps an earlier process of this task has reported."""
        if progress.read_task(self.config.tasks_dir, self.task.name).get("job") != self.config.name:
            return 0
        report = progress.read(self.config.progress)
        return float(report["done"]) if report else 0

    def _say_starved(self, sentence: str) -> None:
        if sentence:
            _log.warning("This task %s: other work on its host has them.", sentence)
        self.task_file.update(warning=sentence)
        if self.progress:
            self.progress.warn(sentence)

    def _judge(self, error: Exception) -> tuple[int, str, bool]:
        """Log an error; return the exit status, a sentence, and whether what might have passed by itself didn't."""
        config, task = self.config, self.task
        if isinstance(error, ProgramError):
            _log.error("%s", error)
            code, text = error.code, str(error)
        else:
            _log.exception("%s failed.", task.name)
            code, text = 1, f"{task.name} failed by {type(error).__name__}: {cause(error)}"
        if code == BadInput.code:
            return code, text, False
        outside = code != 1 or not attempts.by_training(error)
        # An asynchronous worker may try for ever, and everybody waits for a host that is away as long as peers does.
        if outside and (task.type == "ps" or self.peers.away or not failure.ends_job(task, config.sync)):
            return code, text, False
        if count := attempts.count_failure(config, task, outside):
            _log.error("This was the attempt number %d since the same checkpoint: giving up.", count)
            return BadInput.code, f"{text.rstrip('.')}, {count} times since the same checkpoint.", outside
        return code, text, False

    def _say_done_before(self, done: dict[str, object]) -> None:
        """Say that there is nothing to do, since the job is done."""
        config = self.config
        _log.info("The job %s is done (%d steps): nothing to train.", config.name, done["global_step"])
        if self.task.type == "evaluator":
            outcome.write_evaluating(config, False)
        if self.progress:
            if config.done_file and not Path(config.done_file).exists():
                progress.write_json(config.done_file, done)
            self.progress.finish(f"already trained, {done['global_step']} steps")

    def _wait_for_job(self) -> None:
        """Load TensorFlow, which takes its time; then wait for HDFS, and for the data set where the task reads one."""
        config, task = self.config, self.task
        said = ""

        def say(message: str) -> None:
            nonlocal said
            if message != said:
                _log.info("%s %s", task.name, message)
            said = message
            self.task_file.update(warning=message)
            if self.progress:
                self.progress.say(message)

        if task.type == "ps":
            _load_without_gpus()
            _load_hdfs(config)
        elif task.type != "evaluator":  # that has time until there is a checkpoint
            self.task_file.update(device=hardware.device(task))
            _load_hdfs(config)
        waiting.for_hdfs(config, say)
        if task.type not in ("ps", "evaluator") and hdfs.is_hdfs(config.data_dir):
            import tensorflow as tf

            tf.io.gfile.exists(hdfs.root(config.data_dir))  # starts its Java
        # A ps reads no data, but how many steps an epoch is.
        if (task.type != "ps" or not config.max_steps) and not outcome.finished(config):
            waiting.for_data(config, say)
        waiting.over(config, task)
        self.task_file.update(warning="")
        if self.progress:
            self.progress.say("starting")

    def _serve(self) -> None:
        """Hold variables until the job is done: a ps never ends by itself, and needs no files."""
        config, task = self.config, self.task
        _load_without_gpus()
        _load_hdfs(config)  # for programs that restore something on it
        import tensorflow as tf

        if config.program:
            self.task_file.update(warning=program.load_operations(config))
        cluster = task.as_worker[0] if config.knows_workers_only else dict(task.cluster)
        tf.distribute.Server(tf.train.ClusterSpec(cluster), job_name="ps", task_index=task.index)
        _log.info("%s serves at %s until %s is done.", task.name, task.cluster["ps"][task.index], config.model_dir)
        watchdog.beat(FROZEN_SECS)
        report = progress.read(config.progress)
        if report and report["state"] == "failed":  # by an earlier process, in give_up
            Path(config.progress).unlink(missing_ok=True)
        hdfs.ask_briefly(lambda: _note_start(config, task))  # without HDFS, too, it serves
        reason = _wait_for_end(config, self.began)
        _log.info("The job %s: %s ends.", f"has failed ({reason})" if reason else "is done", task.name)
        watchdog.leave(0)

    def _train(self) -> None:
        """Train, or evaluate, until the job is done or the process is told to end."""
        config, task = self.config, self.task
        if task.cluster:
            threading.Thread(target=self._leave_after_end, daemon=True).start()
        if task.type == "evaluator":
            _wait_for_checkpoint(config)
        self.task_file.update(device=hardware.device(task))
        version = program.version(config.program, config.program_root) if task.cluster else ""
        limit = budget.Budget(config)
        work: Work = program.Program(config, task) if config.program else network.Network(config, task, limit)
        _load_hdfs(config)
        import tensorflow as tf

        from flotilla.loop.hooks import HookMaker

        began = self._begin_job(work, version)
        watch = watchdog.Watchdog(
            config.watchdog_secs,
            config.watchdog_start_secs,
            self._leave_stalled,
            excused=lambda: self.peers.away,  # starting again doesn't bring it back
        )
        if config.program:
            watch.pause()
        if task.type != "evaluator":
            watch.start()
        self.peers.on_back = lambda: watch.hurry(HURRY_SECS)
        limit.look()
        if not task.leads:
            limit.wait()
        hook_maker = HookMaker(config, task, watch, limit, self.task_file, self.progress)
        try:
            if task.type == "evaluator":
                outcome.write_evaluating(config, True)
            work.run(_seed(config, task), hook_maker, self.task_file)
            self.peers.stop()
            if termination.requested.is_set():
                self.say_stopped(True)
                return
            _log.info("%s has done its part.", task.name)
            if task.leads:
                if self.progress:
                    self.progress.say("exporting and evaluating the model")
                result = _result(config, work, hook_maker, time.time() - began)
                termination.on_end = None  # it is done, not stopped
                self._say_done(result, limit.ended)
        except Exception as error:
            if task.leads and attempts.by_training(error):
                with contextlib.suppress(ProgramError):
                    checkpoints.trust(config.model_dir)
            raise
        finally:
            watch.stop()
            # Only closed event files are whole on HDFS.
            tf.compat.v1.summary.FileWriterCache.clear()
        if task.type == "evaluator":
            outcome.write_evaluating(config, False)

    def _begin_job(self, work: Work, version: str) -> float:
        """Prepare the model directory as the leading trainer, or wait until it is; return when the job began."""
        config, task = self.config, self.task
        began = time.time()
        if task.leads:
            if config.mirror:
                mirror.restore(config.mirror, config.model_dir, work.model, config.reach_secs)
            began = checkpoints.begin(config.model_dir, work.model, version)
            checkpoints.check_steps(config)
            checkpoints.prepare(config.model_dir)
        else:
            checkpoints.wait_for_version(config.model_dir, task.name, version)
        # An HDFS without space would end this process at its first checkpoint or event, and again and again.
        hdfs.retry(lambda: _note_start(config, task), config.reach_secs)
        if task.leads and config.evaluator:
            outcome.announce_evaluator(config)
        return began

    def _leave_stalled(self, message: str) -> None:
        """End, to be started again; for good where that hasn't helped."""
        config, task = self.config, self.task
        if _is_over(config):
            _log.error("%s The job is done.", message)
            watchdog.leave(0)
        if config.program:
            message += (
                f" If a step, or a hook of the program's, takes longer than {config.watchdog_secs} s, "
                "give training_watchdog_secs more."
            )
        alone = not self.peers.away and failure.ends_job(task, config.sync)
        count = attempts.count_failure(config, task, False) if alone else 0
        if count:
            message = f"{message.rstrip('.')} ({count} times since the same checkpoint)."
        _log.error("%s %s", message, "Giving up." if count else "Ending, to be started again.")
        self.task_file.update(problem=message)
        if self.progress and count:
            self._fail(self.progress, message)
        elif self.progress:
            self.progress.say(message)
        watchdog.leave(BadInput.code if count else watchdog.STOOD_STILL)

    def _leave_after_end(self) -> None:
        """End a worker or evaluator that waits in vain, when the job is done without it, or has failed."""
        config, task = self.config, self.task
        if reason := _wait_for_end(config, self.began):
            _log.error("The job has failed: %s", reason)
            if self.progress:
                self._fail_for_all(self.progress, reason)
            watchdog.leave(BadInput.code if task.leads else 0)
        if task.leads:
            return
        time.sleep(EVALUATOR_LEAVE_AFTER_SECS if task.type == "evaluator" and config.program else LEAVE_AFTER_SECS)
        _log.info("The job is done: %s ends.", task.name)
        try:
            if task.type == "evaluator":
                outcome.write_evaluating(config, False)
            _close_events()
        finally:  # HDFS may be away; and the store closes the files of events that stay open, which is an error here
            watchdog.leave(0)

    def _fail(self, report: Progress, message: str) -> None:
        """Say that the job has failed, and how far it is, also where this process hasn't made a step."""
        step = hdfs.ask_briefly(lambda: checkpoints.latest_step(self.config.model_dir))
        report.fail(message, step or 0)

    def _fail_for_all(self, report: Progress, message: str) -> None:
        """Say on this host that the job has failed, and have all others show it."""
        self._fail(report, message)
        HdfsCopier(self.config.progress, self.config.model_dir).stop()

    def _say_done(self, result: dict[str, object], by_minutes: bool) -> None:
        """Say that the job is done: to the store's unit, to the other tasks, to whoever follows."""
        config = self.config
        done = {
            "name": config.name,
            "model_dir": config.model_dir,
            "global_step": result["global_step"],
            "program": config.program_name,
            "arguments": config.program_arguments(),
            **({"minutes": config.minutes} if by_minutes else {}),
        }
        if config.done_file:
            progress.write_json(config.done_file, done)
        outcome.write_done(config, done)
        metrics = result["metrics"]
        assert isinstance(metrics, dict)
        shown = [f"trained {result['global_step']} steps", *(f"{name} {value:.4f}" for name, value in metrics.items())]
        text = ", ".join(shown) + (f" on {config.eval_split}" if metrics else "")
        _log.info("%s: %s", config.name, text)
        if self.progress:
            self.progress.finish(text, metrics, float(str(result["global_step"])))


def _load_hdfs(config: TrainConfig) -> None:
    """Load what TensorFlow needs for hdfs://, where the job has such files."""
    if hdfs.is_hdfs(config.data_dir) or hdfs.is_hdfs(config.model_dir):
        import tensorflow_io  # noqa: F401


def _load_without_gpus() -> None:
    """Load TensorFlow as a ps needs it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow  # noqa: F401


def _latest_step(config: TrainConfig) -> int | None:
    """Return the newest checkpoint's step, 0 where there is none; None where HDFS doesn't say."""
    with contextlib.suppress(ProgramError):
        return checkpoints.latest_step(config.model_dir) or 0
    return None


def _note_start(config: TrainConfig, task: Task) -> None:
    """Say on HDFS that the task has begun, for the store, which waits for its log."""
    hdfs.write_json(hdfs.join(config.model_dir, progress.FOLDER, f"{task.name}.started"), time.time())


def _wait_for_end(config: TrainConfig, began: float) -> str:
    """Return when the job is done; or when it has failed for good since `began` (Unix time), and why."""
    said = False
    while True:
        try:
            if outcome.finished(config):
                return ""
            failed = outcome.failed(config.model_dir)
            if failed and float(str(failed.get("at", 0))) >= began:  # else an earlier start has
                return str(failed.get("message"))
            said = False
        except ProgramError as error:
            if not said:
                _log.warning("%s Asking again.", error)
                said = True
        time.sleep(DONE_POLL_SECS)


def _wait_for_checkpoint(config: TrainConfig) -> None:
    """Wait until something has been learned; until then TensorFlow isn't loaded, and the trainers have the processors.

    That the job ends, or that HDFS or the chief stays away, others notice.
    """
    said = False
    while not _latest_step(config):
        if not said:
            _log.info("Nothing has been learned yet: waiting for the first checkpoint.")
            said = True
        time.sleep(DONE_POLL_SECS)


def _close_events() -> None:
    with contextlib.suppress(KeyError, AttributeError):  # where TensorFlow isn't loaded, or not yet whole
        sys.modules["tensorflow"].compat.v1.summary.FileWriterCache.clear()


def _seed(config: TrainConfig, task: Task) -> int:
    """Another order for every trainer, and another one after a restart than what was already seen."""
    start = checkpoints.latest_step(config.model_dir) or 0
    trainer = task.index + 1 if task.type == "worker" else 0
    return (config.seed * 1_000_003 + trainer * 7_919 + start) % (1 << 31)


def _is_over(config: TrainConfig) -> bool:
    """Whether HDFS says, within some seconds, that the job is done."""
    return hdfs.ask_briefly(lambda: outcome.finished(config)) is not None


def _result(config: TrainConfig, work: Work, hook_maker: HookMaker, seconds: float) -> dict[str, object]:
    """Finish the model and write result.json, unless an earlier process did so."""
    file = hdfs.join(config.model_dir, outcome.RESULT)
    result = hdfs.read_json(file)
    if result and result["global_step"] == checkpoints.latest_step(config.model_dir):
        return result
    speed = hook_maker.examples_per_second
    left_out = NETWORK_KEYS if config.program else ()
    result = {
        "name": config.name,
        **work.finish(hook_maker),
        "examples_per_second": round(speed, 1) if speed else None,
        "seconds": round(seconds, 1),
        "versions": _versions(config),
        "config": {key: value for key, value in dataclasses.asdict(config).items() if key not in left_out},
    }
    hdfs.write_json(file, result)
    return result


def _versions(config: TrainConfig) -> dict[str, str]:
    """Return the versions that made the model; of a program its files' checksum."""
    import tensorflow as tf

    found = {
        "flotilla": flotilla.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }
    for name in ("tensorflow-estimator", "tensorflow-io", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if config.program:
        found["program"] = program.own_version(config.program, config.program_root)
    return found


if __name__ == "__main__":
    termination.handle_sigterm()
    watchdog.beat()
    # No orderly end of the interpreter: TensorFlow's server and libhdfs's JVM can hang in it.
    watchdog.leave(main())
