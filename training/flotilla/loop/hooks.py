"""What runs beside the training steps: signs of life for the watchdog, reports, and a saver that loses nothing."""

from __future__ import annotations

import logging
import time

import tensorflow as tf

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput
from flotilla.loop import budget, checkpoints
from flotilla.storage import hdfs
from flotilla.supervision import peers, termination, watchdog
from flotilla.supervision.progress import Progress, TaskFile
from flotilla.supervision.watchdog import Watchdog

v1 = tf.compat.v1
TELL_SECS = 5
NEWS_SECS = 20  # that a sentence is told beside the steps
SAVE_SECS = 30  # of the 60 that systemd gives a task to end
_log = logging.getLogger(__name__)


class HookMaker:
    """Makes the hooks that every training and evaluation of a task runs with, the kit's own or a program's."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        watch: Watchdog,
        limit: budget.Budget,
        task_file: TaskFile,
        progress: Progress | None,
    ) -> None:
        self._config, self._task, self._watch, self._limit = config, task, watch, limit
        self._task_file, self._progress = task_file, progress
        self._reports: list[ReportHook] = []

    def training(
        self, tensors: dict[str, tf.Tensor], max_steps: int, examples_a_step: int | None
    ) -> list[tf.estimator.SessionRunHook]:
        """Return a training's hooks.

        Args:
            tensors: scalars to report, by name.
            max_steps: the last step; 0 where nobody knows.
            examples_a_step: of a global step; None where nobody knows.
        """
        config, task = self._config, self._task
        summary_dir = config.model_dir if task.leads else None
        report = ReportHook(tensors, max_steps, examples_a_step, config.log_every_steps, self._progress, summary_dir)
        self._reports.append(report)
        # What one trainer of several does is a run of its own in TensorBoard.
        own_dir = hdfs.join(config.model_dir, task.name) if task.cluster else None
        own = TaskHook(self._task_file, config.batch_size if examples_a_step else None, own_dir)
        found = [WatchdogHook(self._watch, "step", bool(config.program)), report, own]
        if config.minutes:
            found.append(BudgetHook(self._limit, config.minutes, report, task.leads))
        return found

    def evaluation(self) -> tf.estimator.SessionRunHook:
        """Return an evaluation's hook."""
        return WatchdogHook(self._watch, "batch", bool(self._config.program))

    @property
    def examples_per_second(self) -> float | None:
        """The mean speed of the last training; None where there was none, or nobody knows."""
        return self._reports[-1].examples_per_second if self._reports else None


class WatchdogHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Tells the watchdog every "step" of a training, or every "batch" of an evaluation.

    What a program does before and after may take any time.
    """

    def __init__(self, watch: Watchdog, what: str, of_program: bool = False) -> None:
        self._watchdog, self._what, self._runs, self._of_program = watch, what, 0, of_program

    def begin(self) -> None:
        self._watchdog.rest()
        self._step = v1.train.get_global_step()

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        self._watchdog.rest()  # in a session that was made anew, too

    def before_run(self, run_context: tf.estimator.SessionRunContext) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._step)

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        # An evaluation's global step stands still, but its batches go on.
        self._runs += 1
        self._watchdog.moved(f"{self._what} {self._runs if self._what == 'batch' else int(run_values.results)}")

    def end(self, session: tf.compat.v1.Session) -> None:
        if self._of_program:
            self._watchdog.pause()
        else:
            self._watchdog.rest()


class ReportHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Logs loss, accuracy and speed every few steps; the leading trainer also writes summaries and progress.

    Speed is the global step's, so in a cluster it is that of all trainers together; in steps where nobody knows how
    many examples one takes.
    """

    def __init__(
        self,
        tensors: dict[str, tf.Tensor],
        max_steps: int,
        examples_a_step: int | None,
        every_steps: int,
        progress: Progress | None = None,
        summary_dir: str | None = None,
    ) -> None:
        self._tensors, self._max_steps, self._examples = tensors, max_steps, examples_a_step
        self._every, self._progress, self._summary_dir = every_steps, progress, summary_dir
        self._first: tuple[float, int] | None = None
        self._earlier = self._last = (0.0, 0)  # the last two reports
        self._first_reported = False  # whether the first step is: whoever waits for it sees it at once
        self._flushed = 0.0
        self._news, self._news_end = "", 0.0

    @property
    def max_steps(self) -> int:
        """The last step, as far as it is known."""
        return self._max_steps

    def expect(self, max_steps: int) -> None:
        """Take another last step from now on."""
        self._max_steps = max_steps
        if self._progress:
            self._progress.expect(max_steps)

    def rate(self, steps_per_second: float) -> tuple[float, str]:
        """Return a speed with its unit: in examples where it is known how many a step takes."""
        if self._examples is None:
            return steps_per_second, "steps/s"
        return steps_per_second * self._examples, "examples/s"

    def say(self, sentence: str) -> None:
        """Log a sentence, and tell it beside the next steps."""
        _log.info("%s", sentence)
        self._news, self._news_end = sentence, time.monotonic() + NEWS_SECS
        if self._progress:
            self._progress.say(sentence)

    @property
    def examples_per_second(self) -> float | None:
        """The mean from this process's first report to its last one."""
        if self._examples is None or self._first is None or self._last[1] <= self._first[1]:
            return None
        return (self._last[1] - self._first[1]) * self._examples / (self._last[0] - self._first[0])

    def begin(self) -> None:
        self._step = v1.train.get_global_step()
        self._writer = v1.summary.FileWriterCache.get(self._summary_dir) if self._summary_dir else None
        if self._progress:
            self._progress.expect(self._max_steps)

    def before_run(self, run_context: tf.estimator.SessionRunContext) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs([self._step, self._tensors])

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        step, values = int(run_values.results[0]), run_values.results[1]
        now = time.monotonic()
        if self._first is None or step < self._last[1]:
            # The first step includes the graph's optimization; a step back is a restored checkpoint.
            self._first = self._earlier = self._last = (now, step)
        if not self._first_reported and step:
            self._first_reported = True
            _log.info("step %d of %d", step, self._max_steps)
            if self._progress:
                found = {name: round(float(value), 5) for name, value in values.items()}
                self._progress.update(step, detail=found)
            return
        if step - self._last[1] < self._every and not (step >= self._max_steps > self._last[1]):
            return
        # The last step may come soon after a report: one step's time says nothing of the speed.
        since = self._last if step - self._last[1] >= self._every else self._earlier
        steps_per_second = (step - since[1]) / (now - since[0])
        self._earlier, self._last = self._last, (now, step)
        self._report(step, steps_per_second, {name: float(value) for name, value in values.items()})

    def _report(self, step: int, steps_per_second: float, values: dict[str, float]) -> None:
        rate, unit = self.rate(steps_per_second)
        shown = ", ".join([f"{rate:.4g} {unit}", *(f"{name} {value:.4g}" for name, value in values.items())])
        _log.info("step %d of %d, %s", step, self._max_steps, shown)
        if self._progress:
            self._progress.update(
                step,
                rate=round(rate, 1),
                rate_unit=unit,
                message=self._news if time.monotonic() < self._news_end else "",
                detail={
                    **{name: round(value, 5) for name, value in values.items()},
                    **({"steps_per_second": round(steps_per_second, 3)} if unit != "steps/s" else {}),
                },
            )
        if self._writer:
            values = {**values, "global_step_per_second": steps_per_second}
            if self._examples is not None:
                values["examples_per_second"] = rate
            self._writer.add_summary(
                v1.Summary(value=[v1.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]),
                step,
            )
            if time.monotonic() - self._flushed > 10:
                self._writer.flush()
                self._flushed = time.monotonic()


class TaskHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Tells every few seconds what this trainer does itself: steps/s and examples/s of its own batches, and staleness.

    Staleness is how many steps others made during one of its own, on average: that many updates the variables are
    ahead of those that its gradients were computed from.
    """

    def __init__(self, file: TaskFile, batch_size: int | None, summary_dir: str | None = None) -> None:
        self._file, self._batch_size, self._summary_dir = file, batch_size, summary_dir
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] = (0.0, 0)
        self._steps = 0  # its own, since the first

    def begin(self) -> None:
        self._step = v1.train.get_global_step()
        self._writer = v1.summary.FileWriterCache.get(self._summary_dir) if self._summary_dir else None

    def before_run(self, run_context: tf.estimator.SessionRunContext) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._step)

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        now, step = time.monotonic(), int(run_values.results)
        if self._first is None or step < self._last[1]:  # as in ReportHook
            if self._first is None:
                self._file.update(step=step)
            self._first, self._last, self._steps = (now, step), (now, step), 0
            return
        self._last, self._steps = (now, step), self._steps + 1
        if now - self._first[0] >= TELL_SECS:
            self._tell()

    def end(self, session: tf.compat.v1.Session) -> None:
        if self._steps:
            self._tell()

    def _tell(self) -> None:
        assert self._first
        (first_time, first), (last_time, last) = self._first, self._last
        rate = self._steps / (last_time - first_time)
        own = {"staleness": max(0.0, (last - first) / self._steps - 1)}
        if self._batch_size is not None:
            own["examples_per_second"] = rate * self._batch_size
        self._file.update(step=last, steps_per_second=round(rate, 3), **{k: round(v, 2) for k, v in own.items()})
        if self._writer:
            values = [v1.Summary.Value(tag=tag, simple_value=value) for tag, value in own.items()]
            self._writer.add_summary(v1.Summary(value=values), last)
            self._writer.flush()
        self._first, self._steps = self._last, 0


class BudgetHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Ends a training at the step that its minutes end at; the leading trainer's also finds that step."""

    def __init__(self, own: budget.Budget, minutes: float, report: ReportHook, leads: bool) -> None:
        self._budget, self._minutes, self._report, self._leads = own, minutes, report, leads
        self._pace = budget.Pace(minutes * 60)
        self._most = report.max_steps  # 0: a program hasn't said it

    def begin(self) -> None:
        self._step = v1.train.get_global_step()

    def before_run(self, run_context: tf.estimator.SessionRunContext) -> tf.compat.v1.train.SessionRunArgs:
        return v1.train.SessionRunArgs(self._step)

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        step = int(run_values.results)
        if self._leads and not self._budget.known:
            self._find(step)
        last = self._budget.last_step
        if last is None:
            return
        if self._report.max_steps != last:
            self._report.expect(last)
        # What was fetched may be older than this step's own end.
        if step + 1 >= last and int(run_context.session.run(self._step)) >= last:
            self._budget.ended = not self._most or last < self._most
            run_context.request_stop()

    def _find(self, step: int) -> None:
        found = self._pace.last_step(time.monotonic(), step)
        if found is None:
            return
        last, rate = found
        last = min(last, self._most) if self._most else last
        self._budget.set(last)
        self._report.say(budget.sentence(self._minutes, last, self._most, *self._report.rate(rate)))


class EndHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Ends the training after the present step when the process has been told to.

    It stands after the saver, which saves at the end.
    """

    def begin(self) -> None:
        termination.grace(SAVE_SECS)

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        if termination.requested.is_set():
            run_context.request_stop()

    def end(self, session: tf.compat.v1.Session) -> None:
        if termination.requested.is_set():
            termination.saved.set()
        else:
            termination.grace(0)


class LastCheckpointHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Saves a last checkpoint and ends the process when the chief is lost for good."""

    def __init__(self, model_dir: str, scaffold: tf.compat.v1.train.Scaffold) -> None:
        self._model_dir, self._scaffold = model_dir, scaffold

    def begin(self) -> None:
        self._step = v1.train.get_global_step()

    def after_run(
        self, run_context: tf.estimator.SessionRunContext, run_values: tf.compat.v1.train.SessionRunValues
    ) -> None:
        if not peers.chief_lost.is_set():
            return
        session, saver = run_context.session, self._scaffold.saver
        if state := v1.train.get_checkpoint_state(self._model_dir):
            saver.recover_last_checkpoints(state.all_model_checkpoint_paths)
        step = int(session.run(self._step))
        saver.save(session, f"{self._model_dir}/model.ckpt", step, write_meta_graph=False)
        _log.info("The chief is lost: saved a checkpoint of step %d in its place.", step)
        watchdog.leave(BadInput.code)


class ReleaseHook(tf.estimator.SessionRunHook):  # type: ignore[misc]
    """Lets the workers of a synchronous training go at its end: they wait for tokens that only the chief hands out."""

    def __init__(self, tokens: tf.Operation) -> None:
        self._tokens = tokens

    def end(self, session: tf.compat.v1.Session) -> None:
        session.run(self._tokens)


class Saver(v1.train.Saver):  # type: ignore[misc, name-defined]
    """One checkpoint file, made and read by the chief alone, and only read where the variables are lost.

    A chief that is started again would set the parameter servers back to its last checkpoint, and lose what the workers
    have learned meanwhile. Where they hold all variables, of the training that this checkpoint is of
    (checkpoints.trust), no older and all of them numbers, it goes on with them.
    """

    def __init__(self, model_dir: str, *arguments: object, **options: object) -> None:
        """Prepare to save and restore; without model_dir it always restores."""
        super().__init__(*arguments, sharded=False, save_relative_paths=True, **options)
        self._model_dir = model_dir
        if model_dir:
            variables = v1.global_variables()
            self._missing = v1.report_uninitialized_variables(variables)
            self._missing.mark_used()  # else TensorFlow complains where there is nothing to restore
            finite = []
            for variable in variables:
                if variable.dtype.base_dtype.is_floating:
                    with v1.colocate_with(variable):  # on its parameter server: only the answer travels
                        finite.append(tf.reduce_all(tf.math.is_finite(variable)))
            self._finite = tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)
            self._step = v1.train.get_or_create_global_step()

    def restore(self, sess: tf.compat.v1.Session, save_path: str) -> None:
        if self._model_dir:
            saved = int(save_path.rsplit("-", 1)[1])
            if saved in checkpoints.trusted(self._model_dir) and not len(sess.run(self._missing)):
                step, finite = sess.run([self._step, self._finite])
                if step >= saved and finite:
                    _log.info("Going on from step %d, as the parameter servers have it (checkpoint: %d).", step, saved)
                    return
            checkpoints.trust(self._model_dir)
        super().restore(sess, save_path)


class SaverHook(tf.estimator.CheckpointSaverHook):  # type: ignore[misc]
    """Saves checkpoints, but not over the ones that a session should have restored and didn't.

    Leaves the graph out of them: it is in the event file, and 3 MB more a checkpoint are 3 MB more on HDFS.
    """

    def __init__(
        self,
        model_dir: str,
        save_steps: float | None,
        scaffold: tf.compat.v1.train.Scaffold,
        save_secs: float | None = None,
    ) -> None:
        super().__init__(model_dir, save_secs, save_steps, scaffold=scaffold, save_graph_def=False)
        self._model_dir = model_dir

    def after_create_session(self, session: tf.compat.v1.Session, coord: tf.train.Coordinator) -> None:
        there = checkpoints.latest_step(self._model_dir)
        step = int(session.run(v1.train.get_global_step()))
        if there is not None and step < there:
            raise checkpoints.NotRestored(
                f"{self._model_dir} has a checkpoint of step {there}, but training would begin at {step}: "
                "the file system didn't answer in time, start again."
            )
        self._summary_writer.add_graph(session.graph)
        self._save(session, step)
        self._timer.update_last_triggered_step(step)

    def _save(self, session: tf.compat.v1.Session, step: int) -> bool:
        # First, and with the one before: a chief that is lost in the middle of it leaves one of the two.
        checkpoints.trust(self._model_dir, checkpoints.latest_step(self._model_dir), int(step))
        stops: bool = super()._save(session, step)
        return stops
