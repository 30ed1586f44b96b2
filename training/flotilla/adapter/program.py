"""Runs somebody's own training program as a task of the job: docs/programs.md is its contract.

The program is a script that trains with tf.estimator.train_and_evaluate or tf.compat.v1.train.MonitoredTrainingSession
and reads TF_CONFIG, as TensorFlow's own examples do. What the kit adds is put in where these two begin to train.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import logging
import re
import runpy
import shlex
import sys
import time
import traceback
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flotilla
from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput, ProgramError, cause
from flotilla.loop import checkpoints, outcome
from flotilla.storage import hdfs
from flotilla.supervision.progress import TaskFile

if TYPE_CHECKING:
    from flotilla.loop.hooks import HookMaker

EVALUATION = "evaluation.json"  # in the model directory: what the program's last evaluation gave
DEFAULT_SAVE_SECS = 600  # RunConfig's, where the program doesn't say how often
KEEP_NONE_HOURS = 10_000  # TensorFlow's own default: none is kept beside the newest
CHECKPOINT_SECS = 60  # ours then: no fault costs more
POLL_SECS = 3
OLD = "as programs for TensorFlow 1 do: tf_upgrade_v2 rewrites them, or import tensorflow.compat.v1 as tf"
_OPERATION = re.compile(r'^ +File "([^"]+)", line (\d+)', re.MULTILINE)  # where TensorFlow says one was made

_log = logging.getLogger("flotilla")


def files(entry: str) -> list[Path]:
    """Return the Python files that lie in the program's folder and below."""
    folder = Path(entry).parent
    found = (file for file in folder.rglob("*.py") if not file.relative_to(folder).as_posix().startswith("."))
    return sorted(found)


def check(entry: str) -> None:
    """Raise BadInput, with file and line, for what can be seen without running the program."""
    path = Path(entry)
    if not path.is_file() or path.suffix != ".py":
        raise BadInput(f"The program has no Python file {path.name}: training_entry names the one to run.")
    trees = {}
    for file in files(entry):
        try:
            trees[file] = ast.parse(file.read_bytes(), str(file))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise BadInput(
                f"The program's {_name(file, path)}, line {line}: {getattr(error, 'msg', error)}."
            ) from error
    own = {part.removesuffix(".py") for file in trees for part in file.relative_to(path.parent).parts}
    for module, line in _imports(trees[path]):
        name = module.split(".")[0]
        if re.match(r"tensorflow\.contrib\b", module):
            raise BadInput(f"The program's {path.name}, line {line}: import {module}, {OLD}.")
        if name not in own and name not in sys.builtin_module_names and importlib.util.find_spec(name) is None:
            raise BadInput(
                f"The program's {path.name}, line {line}: import {name}, which isn't installed: "
                "list it in a requirements.txt beside the program."
            )


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the modules, and lines, that a module can't begin without: what is tried isn't needed."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # A name of a package may be a module of it
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _name(file: Path, entry: Path) -> str:
    return file.relative_to(entry.parent).as_posix()


def version(entry: str) -> str:
    """Return what tells this state of the kit and of the program from any other, 12 hex digits."""
    digest = hashlib.sha256()
    package = Path(flotilla.__file__)
    for root, found in ((package, files(str(package))), (Path(entry), files(entry) if entry else [])):
        for file in found:
            digest.update(f"{_name(file, root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Program:
    """Somebody's training program."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self._config, self._task, self._entry = config, task, Path(config.program)

    @property
    def model(self) -> dict[str, object]:
        """What has to be the same for a checkpoint to be restored."""
        return {"program": self._config.program_name}

    def run(self, seed: int, hook_maker: HookMaker, task_file: TaskFile) -> None:
        """Run the program to its end, as `python PROGRAM ARGUMENTS` would.

        Raises:
            ProgramError: with the line of the program that failed.
        """
        entry, arguments = self._entry, self._config.program_arguments()
        _log.info("Running %s", shlex.join([entry.name, *arguments]))
        adapter = _Adapter(self._config, self._task, seed, hook_maker, task_file)
        with adapter.put_in(), _as_main(entry, arguments):
            try:
                runpy.run_path(str(entry), run_name="__main__")
            except SystemExit as error:
                if error.code == 2:  # of argparse and absl, which have said what it is
                    raise BadInput(f"{entry.name} refuses its arguments: {shlex.join(arguments)}.") from None
                if error.code not in (None, 0):
                    raise ProgramError(f"{entry.name} ended with {error.code}.") from None
            except ProgramError:
                raise
            except Exception as error:
                _log.exception("%s failed.", entry.name)
                # What is wrong with the program itself doesn't come right by trying again.
                kind = BadInput if isinstance(error, (ImportError, SyntaxError)) or _is_old(error) else ProgramError
                raise kind(_where(error, entry)) from error

    def finish(self, hook_maker: HookMaker) -> dict[str, object]:
        """Return what result.json says of the model; raise BadInput where the program has trained nothing."""
        step = checkpoints.latest_step(self._config.model_dir)
        if step is None:
            raise BadInput(
                f"{self._entry.name} has ended, but {self._config.model_dir} has no checkpoint: it has to train with "
                "tf.estimator.train_and_evaluate or tf.compat.v1.train.MonitoredTrainingSession."
            )
        if step == 0:
            raise BadInput(
                f"{self._entry.name} has ended without a step: does its input find the data in "
                f"{self._config.data_dir}? Python's own open and glob don't, where that is hdfs://…: tf.io.gfile does."
            )
        return {"program": self._config.program_name, "global_step": step, "metrics": {}}


@contextlib.contextmanager
def _as_main(entry: Path, arguments: list[str]) -> Iterator[None]:
    argv, path = sys.argv, list(sys.path)
    sys.argv, sys.path[:0] = [str(entry), *arguments], [str(entry.parent)]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _where(error: BaseException, entry: Path) -> str:
    """Say in a sentence what went wrong, and in which line of the program: where it failed, or made what failed."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames += _OPERATION.findall(str(error).partition("\nNode: ")[0])
    own = [(Path(file), line) for file, line in frames if Path(file).is_relative_to(entry.parent)]
    place = f"{_name(own[-1][0], entry)}, line {own[-1][1]}" if own else entry.name
    return f"{place}: {type(error).__name__}: {cause(error)}" + (f", {OLD}" if _is_old(error) else "")


def _is_old(error: BaseException) -> bool:
    """Whether a program asks TensorFlow for what only version 1 had."""
    return (
        isinstance(error, AttributeError)
        and re.match(r"module 'tensorflow\b.*' has no attribute", str(error)) is not None
    )


class _Adapter:
    """Puts into a program what a task of the kit has: where to save, hooks, device filters, unsharded checkpoints."""

    def __init__(self, config: TrainConfig, task: Task, seed: int, hook_maker: HookMaker, task_file: TaskFile) -> None:
        self._config, self._task, self._seed, self._hook_maker, self._task_file = (
            config,
            task,
            seed,
            hook_maker,
            task_file,
        )
        self._evaluated: int | None = None
        self._max_steps = config.max_steps

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """Have Estimators and monitored sessions that are made meanwhile train as this task."""
        import tensorflow as tf
        from tensorflow_estimator.python.estimator import training

        from flotilla.model import estimator

        estimator.shorten_waits()
        tf.get_logger().addFilter(lambda record: "deprecated" not in record.getMessage())
        base = tf.compat.v1.estimator.Estimator  # of all Estimators
        places = [
            (base, "__init__", self._init),
            (base, "train", self._train),
            (base, "_train_with_estimator_spec", self._train_with_spec),
            (base, "evaluate", self._evaluate),
            (training._TrainingExecutor._Evaluator, "evaluate_and_export", self._evaluate_and_export),
        ]
        session = tf.compat.v1.train.MonitoredTrainingSession
        with contextlib.ExitStack() as stack:
            for owner, name, replacement in places:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, functools.wraps(original)(_method(replacement, original)))
            if self._task.type == "evaluator":
                stack.callback(setattr, training, "time", time)
                training.time = types.SimpleNamespace(time=time.time, sleep=self._sleep)
            stack.callback(setattr, tf.compat.v1.train, "MonitoredTrainingSession", session)
            tf.compat.v1.train.MonitoredTrainingSession = functools.partial(self._session, session)
            yield

    def _init(self, original: Any, estimator: Any, *arguments: Any, **options: Any) -> None:
        """Make an Estimator, and then settle where it saves and how it runs."""
        original(estimator, *arguments, **options)
        from flotilla.model.estimator import placement

        theirs = estimator._config
        if theirs.model_dir != self._config.model_dir:
            _log.info("The program's model_dir is %s; the job's is %s.", theirs.model_dir, self._config.model_dir)
        session = self._session_config(theirs.session_config)
        config = theirs.replace(
            model_dir=self._config.model_dir,
            session_config=session,
            tf_random_seed=((theirs.tf_random_seed or 0) + self._seed) % 2**31,
            experimental_max_worker_delay_secs=1,
            device_fn=theirs.device_fn or placement(self._task),
        )
        estimator._config, estimator._model_dir = config, config.model_dir
        estimator._session_config, estimator._device_fn = session, config.device_fn

    def _train(self, original: Any, estimator: Any, *arguments: Any, **options: Any) -> Any:
        given = _named("input_fn hooks steps max_steps saving_listeners", arguments, options)
        self._max_steps = int(given.get("max_steps") or given.get("steps") or 0)
        return original(estimator, *arguments, **options)

    def _train_with_spec(
        self, original: Any, estimator: Any, spec: Any, worker_hooks: Any, given: Any, *others: Any
    ) -> Any:
        hooks, chief_hooks, scaffold = self._beside(
            {"loss": spec.loss},
            spec.scaffold,
            estimator.config.keep_checkpoint_max,
            estimator.config.keep_checkpoint_every_n_hours,
            estimator.config.save_checkpoints_steps,
            estimator.config.save_checkpoints_secs,
        )
        spec = spec._replace(
            scaffold=scaffold,
            training_hooks=[*_without_savers(spec.training_hooks), *hooks],
            training_chief_hooks=[*_without_savers(spec.training_chief_hooks), *chief_hooks],
        )
        return original(estimator, spec, worker_hooks, _without_savers(given), *others)

    def _evaluate(self, original: Any, estimator: Any, *arguments: Any, **options: Any) -> Any:
        import tensorflow as tf

        options = _named("input_fn steps hooks checkpoint_path name", arguments, options)
        path = options.get("checkpoint_path") or tf.train.latest_checkpoint(self._config.model_dir) or ""
        found = original(
            estimator, **{**options, "hooks": [*(options.get("hooks") or []), self._hook_maker.evaluation()]}
        )
        if self._task.leads or self._task.type == "evaluator":
            metrics = {
                name: float(value) for name, value in found.items() if name != "global_step" and _is_number(value)
            }
            # While it was saved, other trainers may have made a step more: it is known by its name.
            named = re.search(r"-(\d+)$", str(path))
            step = int(named[1] if named else found["global_step"])
            hdfs.write_json(hdfs.join(self._config.model_dir, EVALUATION), {"global_step": step, "metrics": metrics})
            if self._task.type == "evaluator":
                self._evaluated = step
                self._task_file.update(step=step, **metrics)
        return found

    def _evaluate_and_export(self, original: Any, evaluator: Any) -> Any:
        """Evaluate what will be stored, of a fast training, too.

        The chief may delete a checkpoint meanwhile; and of several trainers each may have made a step more after the
        one with the last step, so that the chief's last checkpoint is a later one.
        """
        import tensorflow as tf

        while True:
            begun = tf.train.latest_checkpoint(self._config.model_dir)
            try:
                found = original(evaluator)
            except (ValueError, tf.errors.OpError):
                if begun is None or checkpoints.listed(self._config.model_dir, begun):
                    raise
                time.sleep(POLL_SECS)
                continue
            last = evaluator._max_training_steps
            if not last or (self._evaluated or 0) < last:
                return found
            while (stored := self._has_evaluated_last()) is None:
                time.sleep(POLL_SECS)
            if stored:
                return found

    def _has_evaluated_last(self) -> bool | None:
        """Whether the finished job's last checkpoint is evaluated; None while nobody says that the job is finished."""
        with contextlib.suppress(hdfs.Unreachable):
            if outcome.finished(self._config):
                return self._evaluated == checkpoints.latest_step(self._config.model_dir)
        return None

    def _sleep(self, seconds: float) -> None:
        """Wait between two evaluations, but not when the job has ended: evaluate its last checkpoint, and end.

        Else the evaluator would sit out its throttle_secs, and the model be stored without its last evaluation.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stored = self._has_evaluated_last()
            if stored:
                raise SystemExit(0)
            if stored is False:
                return
            time.sleep(min(POLL_SECS, max(0.0, end - time.monotonic())))

    def _session(self, original: Any, *arguments: Any, **options: Any) -> Any:
        import tensorflow as tf

        names = "master is_chief checkpoint_dir scaffold hooks chief_only_hooks save_checkpoint_secs"
        options = _named(names, arguments, options)
        from flotilla.model.estimator import STOP_GRACE_SECS

        # What is fed isn't there in every run.
        fed = any(op.type == "Placeholder" for op in tf.compat.v1.get_default_graph().get_operations())
        losses = [] if fed else [tf.reduce_sum(loss) for loss in tf.compat.v1.losses.get_losses()]
        hooks = list(options.get("hooks") or [])
        self._max_steps = max([getattr(hook, "_last_step", None) or 0 for hook in hooks] or [0])
        beside, chief_hooks, scaffold = self._beside(
            {"loss": tf.add_n(losses)} if losses else {},
            options.get("scaffold"),
            self._config.keep_checkpoints,
            None,
            *(_number(options.get(key)) for key in ("save_checkpoint_steps", "save_checkpoint_secs")),
        )
        return original(
            **{
                "stop_grace_period_secs": STOP_GRACE_SECS,
                "save_summaries_steps": None,
                "save_summaries_secs": None,
                "log_step_count_steps": None,
                **options,
                "is_chief": self._task.leads,
                "checkpoint_dir": self._config.model_dir,
                "save_checkpoint_secs": None,
                "save_checkpoint_steps": None,
                "scaffold": scaffold,
                "hooks": [*_without_savers(hooks), *beside],
                "chief_only_hooks": [*(options.get("chief_only_hooks") or []), *chief_hooks],
                "config": self._session_config(options.get("config")),
            }
        )

    def _session_config(self, theirs: Any) -> Any:
        """Return the program's ConfigProto, if it has one, over the kit's, with the device filters of this task."""
        from flotilla.model.estimator import session_config

        session = session_config(self._task)
        if theirs is not None:
            session.MergeFrom(theirs)
        session.ClearField("device_filters")
        session.device_filters.extend(self._task.device_filters)
        return session

    def _beside(
        self,
        tensors: dict[str, Any],
        scaffold: Any,
        keep: int | None,
        keep_every_hours: float | None,
        steps: float | None,
        secs: float | None,
    ) -> tuple[list[Any], list[Any], Any]:
        """Return hooks of every trainer, hooks of the chief, and the scaffold, with a saver that isn't sharded."""
        import tensorflow as tf

        from flotilla.loop.hooks import EndHook, Saver, SaverHook
        from flotilla.model.estimator import last_checkpoint_hooks, saver_model_dir

        v1 = tf.compat.v1
        if scaffold is None or scaffold.saver is None or scaffold.saver._sharded:
            theirs = scaffold and scaffold.saver
            saver = Saver(
                saver_model_dir(self._config, self._task),
                theirs._var_list if theirs else None,
                max_to_keep=keep,
                keep_checkpoint_every_n_hours=keep_every_hours or KEEP_NONE_HOURS,
                allow_empty=True,
            )
            if theirs:  # a Keras model's restores objects, too
                saver._object_restore_saver = theirs._object_restore_saver
            scaffold = v1.train.Scaffold(saver=saver, copy_from_scaffold=scaffold)
        if not secs or secs == DEFAULT_SAVE_SECS:
            secs = CHECKPOINT_SECS
        saving = SaverHook(self._config.model_dir, steps or None, scaffold, None if steps else secs)
        every = self._hook_maker.training(tensors, self._max_steps, None)
        every += last_checkpoint_hooks(self._config, self._task, scaffold)
        return every, [saving, EndHook()], scaffold


def _method(replacement: Any, original: Any) -> Any:
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return replacement(original, self, *arguments, **options)

    return method


def _named(names: str, arguments: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by their names; not all have to be given."""
    return {**dict(zip(names.split(), arguments, strict=False)), **options}


def _without_savers(hooks: Iterable[Any]) -> list[Any]:
    """Leave out savers of the program's own: one of ours, which doesn't forget a checkpoint, stands for them."""
    import tensorflow as tf

    return [hook for hook in hooks if not isinstance(hook, tf.estimator.CheckpointSaverHook)]


def _number(value: Any) -> float | None:
    """Return what the caller gave; MonitoredTrainingSession's defaults are objects of a type of their own."""
    return value if isinstance(value, (int, float)) else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
