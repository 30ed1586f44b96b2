"""Runs somebody's own training program as a task of the job: docs/programs.md is its contract.

The program is a script that trains with tf.estimator.train_and_evaluate or tf.compat.v1.train.MonitoredTrainingSession
and reads TF_CONFIG, as TensorFlow's own examples do. What the kit adds is put in where these two begin to train.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import logging
import os
import re
import runpy
import shlex
import sys
import threading
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flotilla
from flotilla.adapter import work_folder
from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput, ProgramError, cause
from flotilla.loop import checkpoints, outcome
from flotilla.storage import hdfs, local_copy
from flotilla.supervision.progress import TaskFile

if TYPE_CHECKING:
    from flotilla.adapter.supervisor import Supervised
    from flotilla.loop.hooks import HookMaker

EVALUATION = "evaluation.json"  # in the model directory: what the program's last evaluation gave
DEFAULT_SAVE_SECS = 600  # RunConfig's, where the program doesn't say how often
KEEP_NONE_HOURS = 10_000  # TensorFlow's own default: none is kept beside the newest
CHECKPOINT_SECS = 60  # ours then: no fault costs more
POLL_SECS = 3
EXIT_SECS = 60.0  # for what a program does at its exit, and for its threads
KERAS_SECS = 120.0  # for the chief to write down a Keras model's first weights
ALONE = (  # strategies of TensorFlow that put a model's variables on trainers, or want a coordinator
    "MirroredStrategy", "MultiWorkerMirroredStrategy", "CollectiveAllReduceStrategy", "CentralStorageStrategy",
    "ParameterServerStrategyV2", "TPUStrategy", "OneDeviceStrategy",
)  # fmt: skip
OLD = "as programs for TensorFlow 1 do: tf_upgrade_v2 rewrites them, or import tensorflow.compat.v1 as tf"
NO_TREES = "and no later version than 2.11: scikit-learn's HistGradientBoosting trains such trees on one machine"
CHIEF = (
    "the fleet has a chief, which this program doesn't know: give it {ps_hosts}, {worker_hosts}, {job_name} and "
    "{task_index} as arguments, where the chief is worker 0"
)
KNOWN = {"tensorflow", "tensorflow_io", "tensorflow_estimator", "tensorboard", "keras", "flotilla"}
LINKED = b"libtensorflow_framework.so"  # in a library of operations
_OPERATION = re.compile(r'^ +File "([^"]+)", line (\d+)', re.MULTILINE)  # where TensorFlow says one was made

_log = logging.getLogger("flotilla")


def top(entry: str, root: str = "") -> Path:
    """Return a program's top folder: root, else the one around the package that the entry is in, else the entry's."""
    if root:
        return Path(root)
    folder = Path(entry).parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def files(folder: Path) -> list[Path]:
    """Return the Python files that lie in a folder and below, but for hidden ones."""
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def check(entry: str, root: str = "") -> None:
    """Raise BadInput, with file and line, for what can be seen without running the program."""
    path, folder = Path(entry), top(entry, root)
    if not path.is_file() or path.suffix != ".py":
        raise BadInput(f"The program has no Python file {path.name}: training_entry names the one to run.")
    there = files(folder)
    trees = _reached(path, folder, there)
    own = {part.removesuffix(".py") for file in there for part in file.relative_to(folder).parts}
    for module, line in _imports(trees[path]):
        name = module.split(".")[0]
        if re.match(r"tensorflow\.contrib\b", module):
            raise BadInput(f"The program's {path.name}, line {line}: import {module}, {OLD}.")
        if name not in own and name not in sys.builtin_module_names and importlib.util.find_spec(name) is None:
            raise BadInput(
                f"The program's {path.name}, line {line}: import {name}, which isn't installed: "
                "list it in a requirements.txt beside the program."
            )


def _reached(path: Path, folder: Path, there: Sequence[Path]) -> dict[Path, ast.Module]:
    """Return what the entry and the files say that are imported from it: another one may be of another Python."""
    trees: dict[Path, ast.Module] = {}
    reached = [path]
    while reached:
        file = reached.pop()
        if file in trees:
            continue
        try:
            trees[file] = ast.parse(file.read_bytes(), str(file))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise BadInput(
                f"The program's {_name(file, folder)}, line {line}: {getattr(error, 'msg', error)}."
            ) from error
        imported = {part for found in _imports(trees[file]) for part in found[0].split(".")}
        reached += [file for file in there if (file.parent.name if file.stem == "__init__" else file.stem) in imported]
    return trees


def operations(entry: str, root: str = "") -> list[str]:
    """Return the packages that a program imports and that bring TensorFlow operations of their own.

    A parameter server has to load them, too, where what they hold is placed on it. Such a package has a library that
    is linked against TensorFlow's.
    """
    path, folder = Path(entry), top(entry, root)
    trees = _reached(path, folder, files(folder))
    found = []
    for name in sorted({module.split(".")[0] for tree in trees.values() for module, _line in _imports(tree)} - KNOWN):
        spec = importlib.util.find_spec(name) if name not in sys.builtin_module_names else None
        places = map(Path, spec.submodule_search_locations or ()) if spec else ()
        if any(LINKED in library.read_bytes() for place in places for library in place.rglob("*.so")):
            found.append(name)
    return found


def load_operations(config: TrainConfig) -> str:
    """Load what `operations` names; return a sentence where a package can't be loaded, else an empty text."""
    problem = ""
    for name in operations(config.program, config.program_root):
        try:
            importlib.import_module(name)
            _log.info("Loaded %s, whose operations the program may place here.", name)
        except Exception as error:
            _log.exception("%s can't be loaded.", name)
            problem = f"{name} can't be loaded here, so its operations don't run here: {cause(error)}"
    return problem


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the modules, and lines, that a module can't begin without: what is tried isn't needed."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # A name of a package may be a module of it
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def version(entry: str, root: str = "") -> str:
    """Return what tells this state of the kit and of the program from any other, 12 hex digits."""
    return _version(Path(flotilla.__file__).parent, *([top(entry, root)] if entry else []))


def own_version(entry: str, root: str = "") -> str:
    """Return what tells this state of the program from any other, 12 hex digits."""
    return _version(top(entry, root))


def _version(*folders: Path) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for file in files(folder):
            digest.update(f"{_name(file, folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Program:
    """Somebody's training program."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self._config, self._task, self._entry = config, task, Path(config.program).absolute()
        self._top = top(config.program, config.program_root).absolute()

    @property
    def model(self) -> dict[str, object]:
        """What has to be the same for a checkpoint to be restored."""
        return {"program": self._config.program_name}

    def run(self, seed: int, hook_maker: HookMaker, task_file: TaskFile) -> None:
        """Run the program to its end, as `python PROGRAM ARGUMENTS` would.

        Raises:
            ProgramError: with the line of the program that failed.
        """
        if self._config.knows_workers_only:
            if self._task.type == "evaluator":
                return  # which it doesn't know
            os.environ.pop("TF_CONFIG", None)  # which would say something else than its arguments
        entry, arguments = self._entry, self._config.program_arguments(self._task)
        _log.info("Running %s", shlex.join([entry.name, *arguments]))
        if self._config.wants_local_data:
            copy = Path(self._config.local_data_dir)
            local_copy.copy(self._config.data_dir, copy, lambda text: task_file.update(warning=text))
        adapter = _Adapter(self._config, self._task, seed, hook_maker, task_file)
        around = top(str(entry))  # the package, which may lie deeper than the program's top
        package = around != entry.parent
        paths = [around, *(folder for folder in (entry.parent, self._top) if folder != around)]
        folder = work_folder.make(self._config.work_dir, self._task.name, self._top) if self._config.work_dir else None
        with (
            work_folder.inside(folder),
            _as_main(entry, arguments, paths),
            adapter.put_in(),
            _own_end(entry.name),
        ):
            try:
                if package:  # as python -m does it
                    module = ".".join(entry.relative_to(around).with_suffix("").parts)
                    runpy.run_module(module, run_name="__main__", alter_sys=False)
                else:
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
                kind = BadInput if isinstance(error, (ImportError, SyntaxError)) or _more(error) else ProgramError
                raise kind(_where(error, entry, self._top)) from error
        if folder:
            work_folder.keep_output(folder, self._top, self._config.model_dir, self._task.name)

    def finish(self, hook_maker: HookMaker) -> dict[str, object]:
        """Return what result.json says of the model; raise BadInput where the program has trained nothing."""
        step = checkpoints.latest_step(self._config.model_dir)
        if step is None:
            raise BadInput(
                f"{self._entry.name} has ended, but {self._config.model_dir} has no checkpoint: it has to train with "
                "tf.estimator.train_and_evaluate, tf.compat.v1.train.MonitoredTrainingSession or its Supervisor."
            )
        if step == 0:
            raise BadInput(
                f"{self._entry.name} has ended without a step: does its input find the data in "
                f"{self._config.data_dir}? Python's own open and glob don't, where that is hdfs://…: tf.io.gfile does."
            )
        return {"program": self._config.program_name, "global_step": step, "metrics": {}}


@contextlib.contextmanager
def _as_main(entry: Path, arguments: list[str], folders: Sequence[Path]) -> Iterator[None]:
    """Have Python look for modules in the first of these folders, and if nothing else has them in the others."""
    argv, path = sys.argv, list(sys.path)
    first, *others = map(str, folders)
    sys.argv, sys.path[:] = [str(entry), *arguments], [first, *path, *others]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextlib.contextmanager
def _own_end(name: str) -> Iterator[None]:
    """Do what the interpreter does when a program has ended, within EXIT_SECS: wait for its threads, and call what it
    has registered by atexit. The kit's own process ends later, and at once."""
    before, registered = set(threading.enumerate()), []
    register, unregister = atexit.register, atexit.unregister

    def note(call: Callable[..., object], *arguments: object, **options: object) -> Callable[..., object]:
        registered.append((call, arguments, options))
        return call

    def forget(call: Callable[..., object]) -> None:
        registered[:] = [one for one in registered if one[0] != call]
        unregister(call)

    def end() -> None:
        theirs = set(threading.enumerate()) - before - {threading.current_thread()}
        pools = sys.modules.get("concurrent.futures.thread")
        queues = pools._threads_queues if pools else {}
        for queue in {queues[thread] for thread in theirs if thread in queues}:
            # A pool's threads wait for more work, for ever: all of them at rest have done theirs.
            crew = sum(queues.get(thread) is queue for thread in theirs)
            rest = threading.Barrier(crew + 1)
            for _thread in range(crew):
                queue.put(types.SimpleNamespace(run=rest.wait))
            rest.wait()
        for thread in theirs:
            if thread not in queues and not thread.daemon:
                thread.join()
        for call, arguments, options in reversed(registered):
            try:
                call(*arguments, **options)
            except Exception:
                _log.exception("%s: %s failed at the program's exit.", name, getattr(call, "__name__", call))

    atexit.register, atexit.unregister = note, forget  # type: ignore[assignment]
    try:
        yield
    finally:
        atexit.register, atexit.unregister = register, unregister
        ending = threading.Thread(target=end, name="the program's exit", daemon=True)
        ending.start()
        ending.join(EXIT_SECS)
        if ending.is_alive():
            _log.warning("%s: what it does at its exit hasn't ended after %.0f s: going on.", name, EXIT_SECS)


def _where(error: BaseException, entry: Path, folder: Path) -> str:
    """Say in a sentence what went wrong, and in which line of the program: where it failed, or made what failed."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames += _OPERATION.findall(str(error).partition("\nNode: ")[0])
    own = [(Path(file), line) for file, line in frames if Path(file).is_relative_to(folder)]
    place = f"{_name(own[-1][0], folder)}, line {own[-1][1]}" if own else entry.name
    return f"{place}: {type(error).__name__}: {cause(error)}{_more(error)}"


def _more(error: BaseException) -> str:
    """Say what is behind an error of which TensorFlow's or Python's own words say little."""
    if _is_old(error):
        return f", {NO_TREES if 'BoostedTrees' in str(error) else OLD}"
    if 'Job "chief" was not defined in cluster' in str(error):
        return f": {CHIEF}"
    if isinstance(error, RuntimeError) and str(error) == "tf.device does not support functions.":
        return " tf.compat.v1.device does, which tf_upgrade_v2 doesn't write"
    if isinstance(error, KeyError) and error.args == ("master",):
        return ": TF_CONFIG calls it chief"
    return ""


def _is_old(error: BaseException) -> bool:
    """Whether a program asks TensorFlow for what only older versions had."""
    return isinstance(error, AttributeError) and bool(re.match(r"module 'tensorflow.*' has no attribute", str(error)))


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
        self._adopted: str | None = None  # the program's name for the job's model directory
        self._server: Any = None
        self._writers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._supervised: dict[Any, Supervised] = {}  # by Supervisor

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """Have Estimators and monitored sessions that are made meanwhile train as this task."""
        import tensorflow as tf
        from tensorflow_estimator.python.estimator import keras_lib, training

        from flotilla.model import estimator

        estimator.shorten_waits()
        tf.get_logger().addFilter(_worth_logging)
        base = tf.compat.v1.estimator.Estimator  # of all Estimators
        places = [
            (base, "__init__", self._init),
            (base, "train", self._train),
            (base, "_train_with_estimator_spec", self._train_with_spec),
            (base, "evaluate", self._evaluate),
            (training._TrainingExecutor._Evaluator, "evaluate_and_export", self._evaluate_and_export),
            (training._TrainingExecutor, "_start_std_server", self._start_server),
            (tf.compat.v1.summary.FileWriter, "__init__", self._new_writer),
        ]
        functions = [
            (keras_lib, "model_to_estimator", self._model_to_estimator),
            (keras_lib, "_save_first_checkpoint", self._save_first_weights),
        ]
        session, supervisor = tf.compat.v1.train.MonitoredTrainingSession, tf.compat.v1.train.Supervisor
        from tensorflow.python.distribute import collective_all_reduce_strategy as all_reduce
        from tensorflow.python.distribute import parameter_server_strategy_v2, tpu_strategy

        strategies = (
            parameter_server_strategy_v2.ParameterServerStrategyV2,
            all_reduce.CollectiveAllReduceStrategy,
            tpu_strategy.TPUStrategyV2,
            tpu_strategy.TPUStrategy,
        )
        places += [
            *((strategy, "__init__", self._refuse_strategy) for strategy in strategies),
            (supervisor, "__init__", self._supervise),
            (supervisor, "prepare_or_wait_for_session", self._supervised_session),
            (supervisor, "should_stop", self._should_stop),
            (supervisor, "stop", self._stop_supervisor),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name, replacement in places:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, functools.wraps(original)(_method(replacement, original)))
            for owner, name, function in functions:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, functools.wraps(original)(functools.partial(function, original)))
            stack.callback(self._close_writers)
            if self._task.type == "evaluator":
                stack.callback(setattr, training, "time", time)
                training.time = types.SimpleNamespace(time=time.time, sleep=self._sleep)
            stack.callback(setattr, tf.compat.v1.train, "MonitoredTrainingSession", session)
            tf.compat.v1.train.MonitoredTrainingSession = functools.partial(self._session, session)
            try:
                yield
            except SystemExit as error:
                if error.code in (None, 0):
                    self._end_supervised()
                raise
            self._end_supervised()

    def _init(self, original: Any, estimator: Any, *arguments: Any, **options: Any) -> None:
        """Make an Estimator, and then settle where it saves and how it runs."""
        original(estimator, *arguments, **options)
        from flotilla.model.estimator import placement

        theirs = estimator._config
        self._refuse(estimator)
        if not self._adopt(theirs.model_dir):
            return
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

    def _adopt(self, folder: str) -> bool:
        """Whether an Estimator's model directory is the job's by another name: the first that has no model yet.

        Others are Estimators beside the one that trains, such as a teacher.
        """
        import tensorflow as tf

        folder, ours = folder.rstrip("/"), self._config.model_dir.rstrip("/")
        if folder in (ours, self._adopted):
            return True
        if self._adopted is not None or tf.train.latest_checkpoint(folder):
            return False
        _log.info("The program's model_dir is %s; the job's is %s.", folder, ours)
        self._adopted = folder
        return True

    def _refuse(self, estimator: Any) -> None:
        """Raise BadInput for what TensorFlow can't do with parameter servers."""
        if not self._task.cluster:
            return
        for key in ("train_distribute", "eval_distribute"):
            strategy = type(getattr(estimator._config, key, None)).__name__
            if strategy.removesuffix("V1") in ALONE:
                raise BadInput(
                    f"The program's RunConfig has {key}={strategy}, which isn't for parameter servers: leave it out, "
                    "the fleet's trainers share the work without it."
                )

    def _refuse_strategy(self, original: Any, strategy: Any, *arguments: Any, **options: Any) -> None:
        """Refuse a strategy that would begin to talk to the cluster, or to TPUs, when it is made."""
        if self._task.cluster:
            name = type(strategy).__name__.removesuffix("V2")
            raise BadInput(
                f"The program makes a {name}, which isn't how a fleet trains: leave it out, the fleet's trainers share "
                "the work without it. A Keras model becomes an Estimator by tf.keras.estimator.model_to_estimator."
            )
        original(strategy, *arguments, **options)

    def _model_to_estimator(self, original: Any, *arguments: Any, **options: Any) -> Any:
        """Have a Keras model's first weights be where the parameter servers read them, too."""
        names = "keras_model keras_model_path custom_objects model_dir config"
        given = _named(names, arguments, options)
        theirs = given.get("model_dir") or getattr(given.get("config"), "model_dir", None)
        if not theirs or self._adopt(theirs):
            given["model_dir"] = self._config.model_dir
        return original(**given)

    def _save_first_weights(self, original: Any, model: Any, objects: Any, config: Any, *others: Any) -> Any:
        """Write a Keras model's first weights as the chief; two trainers would write over each other."""
        import tensorflow as tf

        folder, end = f"{config.model_dir}/keras", time.monotonic() + KERAS_SECS
        while not (self._task.leads or tf.train.latest_checkpoint(folder)) and time.monotonic() < end:
            time.sleep(1)
        return original(model, objects, config, *others)

    def _new_writer(self, original: Any, writer: Any, *arguments: Any, **options: Any) -> None:
        original(writer, *arguments, **options)
        self._writers.add(writer)

    def _close_writers(self) -> None:
        """Close what the program writes events with: on HDFS an open file isn't whole."""
        for writer in list(self._writers):
            with contextlib.suppress(Exception):  # of a writer that was never begun, or whose folder is gone
                writer.close()

    def _start_server(self, original: Any, executor: Any, config: Any) -> Any:
        """Start TensorFlow's server of this task, once: a second one would find its port taken."""
        if self._server is None:
            self._server = original(executor, config)
        return self._server

    def _train(self, original: Any, estimator: Any, *arguments: Any, **options: Any) -> Any:
        from tensorflow_estimator.python.estimator import training

        if estimator.model_dir.rstrip("/") != self._config.model_dir.rstrip("/"):
            raise BadInput(
                f"The program trains in {estimator.model_dir}, after {self._adopted or self._config.model_dir}: a job "
                "trains one model. Give each a job of its own, or train all in the same directory."
            )
        if self._task.type == "evaluator":
            _log.info("The program trains by Estimator.train, so the chief evaluates: nothing to do here.")
            raise SystemExit(0)
        if self._task.cluster:  # Estimator.train alone starts none, and would wait for ever
            training._TrainingExecutor._start_std_server(None, estimator.config)
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

        if estimator.model_dir.rstrip("/") != self._config.model_dir.rstrip("/"):
            return original(estimator, *arguments, **options)
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
                if found[0].status != "evaluated":  # with a throttle_secs of 0 it would ask again at once
                    self._sleep(POLL_SECS)
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
        names = "master is_chief checkpoint_dir scaffold hooks chief_only_hooks save_checkpoint_secs"
        options = _named(names, arguments, options)
        from flotilla.model.estimator import STOP_GRACE_SECS

        hooks = list(options.get("hooks") or [])
        self._max_steps = max([getattr(hook, "_last_step", None) or 0 for hook in hooks] or [0])
        beside, chief_hooks, scaffold = self._beside(
            _loss(),
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

    def _supervise(self, original: Any, supervisor: Any, *arguments: Any, **options: Any) -> None:
        """Make a Supervisor that leaves checkpoints to the kit's hooks."""
        import tensorflow as tf

        from flotilla.adapter.supervisor import Supervised

        names = (
            "graph ready_op ready_for_local_init_op is_chief init_op init_feed_dict local_init_op logdir summary_op "
            "saver global_step save_summaries_secs save_model_secs"
        )
        options = _named(names, arguments, options)
        theirs = options.get("saver", supervisor.USE_DEFAULT)
        own = theirs is not None and theirs is not supervisor.USE_DEFAULT
        with (options.get("graph") or tf.compat.v1.get_default_graph()).as_default():
            self._max_steps = 0  # the program counts itself
            _mark_global_step(options.get("global_step"))
            beside, chief_hooks, scaffold = self._beside(
                _loss(),
                tf.compat.v1.train.Scaffold(saver=theirs) if own else None,
                self._config.keep_checkpoints,
                None,
                None,
                _number(options.get("save_model_secs")),
            )
            hooks = [*beside, *(chief_hooks if self._task.leads else ())]
            self._supervised[supervisor] = Supervised(supervisor, hooks)
            scaffold.saver.build()
        kit = {
            "is_chief": self._task.leads,
            "logdir": self._config.model_dir,
            "saver": scaffold.saver,
            "save_model_secs": 0,
        }
        original(supervisor, **{**options, **kit})

    def _supervised_session(self, original: Any, supervisor: Any, *arguments: Any, **options: Any) -> Any:
        names = "master config wait_for_checkpoint max_wait_secs start_standard_services"
        options = _named(names, arguments, options)
        session = original(supervisor, **{**options, "config": self._session_config(options.get("config"))})
        self._supervised[supervisor].watch(session)
        return session

    def _should_stop(self, original: Any, supervisor: Any) -> Any:
        return self._supervised[supervisor].should_stop(original(supervisor))

    def _stop_supervisor(self, original: Any, supervisor: Any, *arguments: Any, **options: Any) -> None:
        self._supervised[supervisor].end()
        original(supervisor, *arguments, **options)

    def _end_supervised(self) -> None:
        for supervised in self._supervised.values():
            supervised.end()

    def _session_config(self, theirs: Any) -> Any:
        """Return the program's ConfigProto, if it has one, over the kit's, with the device filters of this task."""
        from flotilla.model.estimator import session_config

        session = session_config(self._task)
        if theirs is not None:
            session.MergeFrom(theirs)
        session.ClearField("device_filters")
        filters = self._task.device_filters
        if filters and self._config.knows_workers_only:
            filters = ["/job:ps", f"/job:worker/task:{self._task.as_worker[1]}"]
        session.device_filters.extend(filters)
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
            variables = theirs._var_list if theirs else None
            saver = Saver(
                saver_model_dir(self._config, self._task),
                variables,
                max_to_keep=keep,
                keep_checkpoint_every_n_hours=keep_every_hours or KEEP_NONE_HOURS,
                allow_empty=True,
                defer_build=variables is None,  # until hooks have made their variables in begin()
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


def _mark_global_step(theirs: Any) -> None:
    """Put a variable that is the global step by its name, or by what a Supervisor is told, where hooks look for it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    if v1.get_collection(v1.GraphKeys.GLOBAL_STEP):
        return
    named = [variable for variable in v1.global_variables() if variable.op.name == "global_step"]
    for variable in [theirs] if isinstance(theirs, tf.Variable) else named:
        v1.add_to_collection(v1.GraphKeys.GLOBAL_STEP, variable)


def _loss() -> dict[str, Any]:
    """Return the graph's loss by its name, if it has one that can be asked for at any run."""
    import tensorflow as tf

    # What is fed isn't there in every run.
    fed = any(op.type == "Placeholder" for op in tf.compat.v1.get_default_graph().get_operations())
    losses = [] if fed else [tf.reduce_sum(loss) for loss in tf.compat.v1.losses.get_losses()]
    return {"loss": tf.add_n(losses)} if losses else {}


def _worth_logging(record: logging.LogRecord) -> bool:
    """Leave out what is no news: that Estimator is deprecated, and that others have made the steps meanwhile."""
    return not re.search("deprecated|It seems that global step", record.getMessage())


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
