"""Programs that know nothing of the kit: the two that it brings, as clusters, and what programs can do wrong."""

from __future__ import annotations

import atexit
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_train import addresses, start, wait_for_line

from flotilla import train
from flotilla.adapter import program
from flotilla.job import config, errors
from flotilla.job.cluster import Task
from flotilla.job.errors import BadInput
from flotilla.loop import checkpoints
from flotilla.supervision import progress

PROGRAMS = Path(__file__).parents[1] / "programs"
ARGUMENTS = "--data-dir {data_dir} --model-dir {model_dir} --max-steps {max_steps} --batch-size 20"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's shape, 200 images of each split: a digit is a bright row of its own."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for split in ("train", "eval"):
        with tf.io.TFRecordWriter(str(folder / f"{split}-00000-of-00001.tfrecord")) as writer:
            for number in range(200):
                pixels = rng.integers(0, 100, (28, 28), np.uint8)
                pixels[4 + 2 * (number % 10)] += 155
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 10])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return folder


def job(entry: Path, tmp_path: Path, data: Path | str = "none", arguments: str = "", *more: str) -> list[str]:
    keys = {
        "program": entry,
        "arguments": arguments,
        "data-dir": data,
        "model-dir": tmp_path / "model",
        "progress": tmp_path / "progress" / "train.json",
        "done-file": tmp_path / "done",
        "max-steps": 60,
        "save-checkpoints-steps": 10,
        "log-every-steps": 5,
    }
    return [*(f"--{key}={value}" for key, value in keys.items()), *more]


def written(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "model" / name).read_text())


@pytest.mark.parametrize("name", ["digits.py", "mnist.py"])
def test_a_program_trains_a_cluster_and_ends(digits: Path, tmp_path: Path, name: str) -> None:
    """With two parameter servers, an evaluator, and a chief that is killed and goes on with what they hold."""
    cluster = addresses(ps=2, chief=1, worker=1)
    entry = tmp_path / "programs" / name
    entry.parent.mkdir()
    # The last evaluation doesn't wait for it.
    entry.write_text((PROGRAMS / name).read_text().replace("throttle_secs=10,", "throttle_secs=1800,"))
    arguments = job(entry, tmp_path, digits, ARGUMENTS, "--max-steps=400")
    others = ("ps-0", "ps-1", "worker-0", "evaluator-0")
    tasks = {task: start(arguments, cluster, task, tmp_path) for task in others}
    tasks["chief-0"] = start(arguments, cluster, "chief-0", tmp_path)
    log = tmp_path / "chief-0"
    try:
        wait_for_line(r"step 1\d\d of 400", tasks["chief-0"], log)
        tasks["chief-0"].kill()
        tasks["chief-0"].wait()
        begun = checkpoints.latest_step(str(tmp_path / "model"))
        tasks["chief-0"] = start(arguments, cluster, "chief-0", tmp_path)
        codes = {task: process.wait(timeout=240) for task, process in tasks.items()}
    finally:
        for process in tasks.values():
            process.kill()
    assert codes == dict.fromkeys(tasks, 0), log.read_text()
    assert begun is not None and (begun >= 100 or name == "mnist.py"), "digits.py saves every 100 steps"
    # Where it was killed while it saved, it restores.
    went_on = r"Going on from step \d+, as the parameter servers have it|Restoring parameters from .*/model\.ckpt-"
    assert re.search(went_on, log.read_text())
    assert (checkpoints.latest_step(str(tmp_path / "model")) or 0) >= 400
    assert list((tmp_path / "model").glob("model.ckpt-*.data-00000-of-00001")), "unsharded"
    assert written(tmp_path, "result.json")["program"] == f"programs/{name}"
    assert written(tmp_path, "evaluator.json") == {"evaluating": False}
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None
    # The worker may have made all steps by the time that the chief is back.
    assert (told["state"], told["total"]) == ("done", 400) and told["rate_unit"] in ("steps/s", None)
    if name == "digits.py":
        assert "throttle_secs=1800" in entry.read_text()
        assert written(tmp_path, "evaluation.json")["metrics"]["accuracy"] > 0.9
        assert written(tmp_path, "evaluation.json")["global_step"] == written(tmp_path, "result.json")["global_step"]
        assert list((tmp_path / "model" / "export" / "digits").glob("*/saved_model.pb"))
        # An evaluator that begins when a short job is done already.
        (tmp_path / "model" / "evaluation.json").unlink()
        (tmp_path / "model" / "evaluator.json").write_text('{"evaluating": true}')
        assert start(arguments, cluster, "evaluator-0", tmp_path).wait(timeout=120) == 0
        assert written(tmp_path, "evaluation.json")["global_step"] == written(tmp_path, "result.json")["global_step"]
        assert written(tmp_path, "evaluator.json") == {"evaluating": False}
    else:
        assert "accuracy" in log.read_text()


def alone(arguments: list[str]) -> tuple[int, str]:
    """Run a job as one process, since a program may change TensorFlow for good; return its status and its log."""
    command = [sys.executable, "-m", "flotilla.train", *arguments]
    done = subprocess.run(command, cwd=PROGRAMS.parent, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def test_a_program_alone_and_again_and_for_longer(digits: Path, tmp_path: Path) -> None:
    entry = PROGRAMS / "mnist.py"
    assert alone(job(entry, tmp_path, digits, ARGUMENTS))[0] == 0
    assert alone(job(entry, tmp_path, digits, ARGUMENTS))[0] == 0
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and told["message"] == "already trained, 60 steps"
    assert alone(job(entry, tmp_path, digits, ARGUMENTS, "--max-steps=80"))[0] == 0
    assert checkpoints.latest_step(str(tmp_path / "model")) == 80

    code, log = alone(job(PROGRAMS / "digits.py", tmp_path, digits, ARGUMENTS))
    assert code == 2 and "holds a model whose program is programs/mnist.py, not programs/digits.py" in log


def test_an_evaluation_is_of_the_checkpoint_whatever_step_that_holds(tmp_path: Path) -> None:
    """Of several trainers one may have made a step more while the chief saved it."""
    settings = config.load(job(tmp_path / "p.py", tmp_path))
    told = progress.TaskFile("", "", "")
    evaluator = program._Adapter(settings, Task("evaluator"), 0, SimpleNamespace(evaluation=lambda: None), told)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-152"\n')
    done = {"program": settings.program_name, "arguments": settings.program_arguments()}
    (tmp_path / "model" / "job-done.json").write_text(json.dumps(done))
    found = {"global_step": 153, "accuracy": 0.5}
    path = str(tmp_path / "model" / "model.ckpt-152")
    estimator = SimpleNamespace(model_dir=str(tmp_path / "model"))
    assert evaluator._evaluate(lambda *_, **__: found, estimator, None, checkpoint_path=path) == found
    assert written(tmp_path, "evaluation.json") == {"global_step": 152, "metrics": {"accuracy": 0.5}}
    assert evaluator._has_evaluated_last()


def test_a_keras_model_a_pool_and_a_saver_of_its_own(tmp_path: Path) -> None:
    """What programs do that digits.py doesn't; evaluated after the training, by hand."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "p.py").write_text(KERAS)
    code, log = alone(job(tmp_path / "program" / "p.py", tmp_path, "none", "20"))
    assert code == 0, log
    assert written(tmp_path, "result.json")["global_step"] == 20
    assert written(tmp_path, "evaluation.json")["global_step"] == 20
    assert (tmp_path / "model" / "model.ckpt-20.data-00000-of-00001").exists(), "unsharded"


KERAS = """
import multiprocessing
import sys

import numpy as np

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert sum(pool.map(abs, [-1, 2])) == 3

import tensorflow as tf


def batches():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1))).repeat().batch(16)


model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(1)])
model.compile(tf.keras.optimizers.legacy.SGD(0.1), "mse")
estimator = tf.keras.estimator.model_to_estimator(model)
saver = tf.estimator.CheckpointSaverHook(estimator.model_dir, save_steps=5)
spec = tf.estimator.TrainSpec(batches, max_steps=int(sys.argv[1]), hooks=[saver])
tf.estimator.train_and_evaluate(estimator, spec, tf.estimator.EvalSpec(batches, steps=2))
print(estimator.evaluate(batches, 2, []))
"""


NO_INPUT = """
import tensorflow as tf


def model_fn(features, labels, mode):
    loss = tf.reduce_sum(features) * tf.compat.v1.get_variable("v", [])
    optimizer = tf.compat.v1.train.GradientDescentOptimizer(0.1)
    step = optimizer.minimize(loss, tf.compat.v1.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=step)


def nothing():
    return tf.data.Dataset.from_tensors(1.0).take(0)


estimator = tf.estimator.Estimator(model_fn)
tf.estimator.train_and_evaluate(
    estimator, tf.estimator.TrainSpec(nothing, max_steps=60), tf.estimator.EvalSpec(nothing, steps=1)
)
"""


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import json\n\njson.loads('{')\n", 1, r"p\.py, line 3: JSONDecodeError: Expecting property name"),
        ("import sys\nsys.exit(3)\n", 1, r"p\.py ended with 3"),
        ("print('nothing')\n", 2, r"has no checkpoint: it has to train with tf\.estimator"),
        ("import sys\nsys.exit(2)\n", 2, r"p\.py refuses its arguments: --steps 60\.$"),
        ("def f():\n    import nowhere\nf()\n", 2, r"p\.py, line 2: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "import tensorflow as tf\ntf.app.run()\n",
            2,
            r"p\.py, line 2: AttributeError: .*TensorFlow 1 do: tf_upgrade_v2",
        ),
        (
            "import tensorflow as tf\ntf.estimator.inputs.numpy_input_fn()\n",
            2,
            r"p\.py, line 2: AttributeError: .*no attribute 'inputs', as programs for TensorFlow 1 do: tf_upgrade_v2",
        ),
        (
            "import tensorflow as tf\ntf.estimator.BoostedTreesClassifier()\n",
            2,
            r"p\.py, line 2: AttributeError: .*no attribute 'BoostedTreesClassifier', and no later version than 2\.11",
        ),
        (
            "import tensorflow as tf\n"
            "tf.distribute.Server({'ps': ['h:0'], 'worker': ['h:0']}, job_name='chief', task_index=0)\n",
            2,
            r"p\.py, line 2: InternalError: Job \"chief\" was not defined in cluster: the fleet has a chief",
        ),
        (
            "import tensorflow as tf\ntf.device(print)\n",
            2,
            r"p\.py, line 2: RuntimeError: tf\.device does not support functions\. tf\.compat\.v1\.device does, which",
        ),
        ("dict(ps=1)['master']\n", 2, r"p\.py, line 1: KeyError: 'master': TF_CONFIG calls it chief"),
        (NO_INPUT, 2, r"p\.py has ended without a step: does its input find the data in none\? Python's own open and"),
    ],
)
def test_a_program_that_fails_says_where(tmp_path: Path, text: str, code: int, words: str) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "p.py").write_text(text)
    assert train.main(job(tmp_path / "program" / "p.py", tmp_path, "none", "--steps {max_steps}")) == code
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None
    assert re.search(words, told["message"]), told
    assert told["state"] == ("failed" if code == 2 else "running")


LINE = """
import sys
import tensorflow as tf
v1 = tf.compat.v1

def data():
    return tf.data.Dataset.from_tensors(({"x": [[1.0], [2.0]]}, [[2.0], [4.0]])).repeat()

def line(features, labels, mode):
    loss = v1.losses.mean_squared_error(labels, v1.layers.dense(features["x"], 1))
    op = v1.train.GradientDescentOptimizer(0.01).minimize(loss, global_step=v1.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=op)

def train(folder, steps, *hooks):
    estimator = tf.estimator.Estimator(line, folder)
    spec = tf.estimator.TrainSpec(data, max_steps=steps, hooks=hooks)
    tf.estimator.train_and_evaluate(estimator, spec, tf.estimator.EvalSpec(data, steps=1))
    return estimator

"""


def run_line(tmp_path: Path, text: str, *more: str) -> tuple[int, str]:
    """Run a program that begins as above, given its model directory and its steps."""
    (tmp_path / "p").mkdir(exist_ok=True, parents=True)
    (tmp_path / "p" / "p.py").write_text(LINE + text)
    return alone(job(tmp_path / "p" / "p.py", tmp_path, "none", "{model_dir} {max_steps}", *more))


def test_what_a_program_does_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where Python alone runs it: its threads, then atexit, last first; a pool isn't waited for for ever."""
    done: list[str] = []

    def later(name: str) -> None:
        time.sleep(0.3)
        done.append(name)

    def fails() -> None:
        raise ValueError("at exit")

    with ThreadPoolExecutor(1) as pool, program._own_end("p.py"):
        atexit.register(done.append, "first")
        atexit.register(done.append, "second")
        atexit.register(later, "never")
        atexit.unregister(later)
        atexit.register(fails)
        threading.Thread(target=later, args=("thread",)).start()
        pool.submit(later, "pool")
        pool.submit(later, "pool")
    assert sorted(done[:3]) == ["pool", "pool", "thread"] and done[3:] == ["second", "first"]
    assert "p.py: fails failed at the program's exit" in caplog.text


def test_a_program_that_does_not_end_is_gone_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program, "EXIT_SECS", 0.2)
    end = threading.Event()
    with pytest.raises(ValueError, match="its own"), program._own_end("p.py"):
        threading.Thread(target=end.wait).start()
        raise ValueError("its own")
    assert "p.py: what it does at its exit hasn't ended after 0 s: going on" in caplog.text
    end.set()


STOPS = """
class Own(tf.estimator.SessionRunHook):
    def begin(self):
        self.writer = v1.summary.FileWriter(sys.argv[1] + "/own")
    def after_run(self, run_context, run_values):
        self.writer.add_summary(v1.Summary(value=[v1.Summary.Value(tag="own", simple_value=1)]))

estimator = tf.estimator.Estimator(line, sys.argv[1])
make = tf.estimator.experimental.stop_if_no_decrease_hook
stop = make(estimator, "loss", 10**9, run_every_secs=None, run_every_steps=99)
train(sys.argv[1], int(sys.argv[2]), stop, Own())
"""


def test_hooks_that_make_variables_and_writers_of_its_own(tmp_path: Path) -> None:
    """The checkpoint has early stopping's variables, so that it goes on; and nobody closes the writer but the kit."""
    import tensorflow as tf

    assert run_line(tmp_path, STOPS, "--max-steps=20")[0] == 0
    (own,) = (tmp_path / "model" / "own").iterdir()
    assert sum(len(event.summary.value) for event in tf.compat.v1.train.summary_iterator(str(own))) == 20
    code, log = run_line(tmp_path, STOPS, "--max-steps=30")
    assert code == 0 and written(tmp_path, "result.json")["global_step"] == 30, log


SUPERVISED = """
import os, signal, sys

import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()
step = tf.train.get_or_create_global_step()
more = tf.assign_add(step, 1)
supervisor = tf.train.Supervisor(logdir=sys.argv[1])
last, asks = int(sys.argv[2]), sys.argv[3] == "asks"
with supervisor.managed_session() as session:
    while not (asks and supervisor.should_stop()):
        number = session.run(more)
        if number == 25:
            os.kill(os.getpid(), signal.SIGTERM)
        if number >= last:
            break
    print("after", session.run(step), file=sys.stderr)
"""


@pytest.mark.parametrize("asks", ["asks", "asks nothing"])
def test_a_supervisor_saves_and_goes_on(tmp_path: Path, asks: str) -> None:
    """It is told to end at step 25, and saves before it does; a loop that doesn't ask whether to stop is ended."""
    entry = tmp_path / "p" / "p.py"
    entry.parent.mkdir()
    entry.write_text(SUPERVISED)
    arguments = f"{{model_dir}} {{max_steps}} '{asks}'"
    code, log = alone(job(entry, tmp_path, "none", arguments, "--max-steps=20"))
    assert code == 0 and "after 20" in log, log
    assert written(tmp_path, "result.json")["global_step"] == 20
    code, log = alone(job(entry, tmp_path, "none", arguments, "--max-steps=40"))
    assert bool(re.search(r"^ *after \d", log, re.MULTILINE)) == (asks == "asks"), log
    saved = checkpoints.latest_step(str(tmp_path / "model"))
    assert saved is not None and 25 <= saved < 40, log
    code, log = alone(job(entry, tmp_path, "none", arguments, "--max-steps=40"))
    assert code == 0 and checkpoints.latest_step(str(tmp_path / "model")) == 40, log


def test_estimators_beside_the_one_that_trains(tmp_path: Path) -> None:
    """A teacher, which has a model already, is used as it is; two that train are two jobs."""
    teacher = tmp_path / "teacher"
    text = f"""
with tf.Graph().as_default(), v1.Session() as session:
    v1.train.create_global_step()
    v1.get_variable("dense/kernel", [1, 1], initializer=v1.constant_initializer(7.0))
    v1.get_variable("dense/bias", [1], initializer=v1.zeros_initializer())
    session.run(v1.global_variables_initializer())
    v1.train.Saver().save(session, {str(teacher)!r} + "/model.ckpt", 0)
taught = tf.estimator.Estimator(line, {str(teacher)!r})
train("somewhere/else", 20)
print("teacher", taught.get_variable_value("dense/kernel"), taught.evaluate(data, 1)["loss"], file=sys.stderr)
train("another/place", 20)
"""
    code, log = run_line(tmp_path, text)
    assert "teacher [[7.]]" in log and checkpoints.latest_step(str(tmp_path / "model")) == 20, log
    assert sorted(path.name for path in teacher.iterdir() if "ckpt" not in path.name) == ["checkpoint", "eval"]
    assert code == 2 and "The program trains in another/place, after somewhere/else: a job trains one model" in log, log


def test_what_is_not_for_parameter_servers(tmp_path: Path) -> None:
    import tensorflow as tf

    distribute = tf.compat.v1.distribute
    settings = config.load(job(tmp_path / "p.py", tmp_path))
    told = progress.TaskFile("", "", "chief-0")
    adapter = program._Adapter(
        settings, Task("chief", 0, {"ps": ["a:1"], "chief": ["b:1"]}), 0, SimpleNamespace(), told
    )

    def refuse(adapter: Any, strategy: Any) -> None:
        adapter._refuse(SimpleNamespace(_config=SimpleNamespace(train_distribute=strategy)))

    refuse(adapter, None)
    refuse(adapter, distribute.experimental.ParameterServerStrategy())
    with pytest.raises(BadInput, match=r"RunConfig has train_distribute=MirroredStrategy(V1)?, which isn't for"):
        refuse(adapter, distribute.MirroredStrategy())
    with adapter.put_in():
        for strategy in (tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.experimental.ParameterServerStrategy):
            with pytest.raises(BadInput, match=r"The program makes a \w+Strategy, which isn't how a fleet trains"):
                strategy(tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({"ps": ["a:1"]})))
    refuse(program._Adapter(settings, Task("chief"), 0, None, told), distribute.MirroredStrategy())  # type: ignore[arg-type]


def test_a_package_runs_as_one(tmp_path: Path) -> None:
    """As by python -m from the folder above; and its version is that of every file that it may import."""
    course = tmp_path / "root" / "course"
    (course / "deep").mkdir(parents=True)
    (tmp_path / "root" / "beside.py").write_text("BESIDE = 1\n")
    (course / "__init__.py").write_text("")
    (course / "old.py").write_text("print 'Python 2, and nobody imports it'\n")
    (course / "plain.py").write_text("")
    (course / "statistics.py").write_text("raise ImportError('not that of Python')\n")
    (course / "net.py").write_text("from . import deep\nNET = 2\n")
    (course / "deep" / "__init__.py").write_text("")
    entry = course / "train.py"
    entry.write_text(
        LINE + "import beside, plain, statistics\nfrom course.net import NET\nfrom . import net as again\n"
        "assert (beside.BESIDE, NET, again.NET) == (1, 2, 2)\n"
    )
    program.check(str(entry))
    code, log = alone(job(entry, tmp_path, "none", "{model_dir}", f"--program-root={tmp_path}"))
    assert code == 2 and "train.py has ended, but" in log, log
    (tmp_path / "root" / "scripts").mkdir()
    (tmp_path / "root" / "scripts" / "run.py").write_text("from course import net\nimport beside\nprint(net.NET)\n")
    root = f"--program-root={tmp_path / 'root'}"
    code, log = alone(job(tmp_path / "root/scripts/run.py", tmp_path / "other", "none", "", root))
    assert code == 2 and "run.py has ended, but" in log, log
    old = program.version(str(entry))
    (tmp_path / "root" / "beside.py").write_text("BESIDE = 2\n")
    assert program.version(str(entry)) != old
    (course / "net.py").write_text("print 'Python 2'\n")
    with pytest.raises(BadInput, match=r"course/net.py, line 1: Missing parentheses"):
        program.check(str(entry))


def test_checkpoints_are_kept_as_the_program_wants(tmp_path: Path) -> None:
    """Two, and beside them one every now and then, here each."""
    (tmp_path / "p.py").write_text(KEPT)
    code, log = alone(job(tmp_path / "p.py", tmp_path))
    assert code == 0, log
    kept = sorted(int(file.stem.split("-")[1]) for file in (tmp_path / "model").glob("model.ckpt-*.index"))
    assert kept == [0, 20, 40, 60]


KEPT = """
import tensorflow as tf


def model_fn(features, labels, mode):
    loss = tf.reduce_sum(features) * tf.compat.v1.get_variable("v", [])
    step = tf.compat.v1.assign_add(tf.compat.v1.train.get_global_step(), 1)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=step)


def ones():
    return tf.data.Dataset.from_tensors(1.0).repeat()


config = tf.estimator.RunConfig(save_checkpoints_steps=20, keep_checkpoint_max=1, keep_checkpoint_every_n_hours=1e-9)
tf.estimator.train_and_evaluate(
    tf.estimator.Estimator(model_fn, config=config),
    tf.estimator.TrainSpec(ones, max_steps=60),
    tf.estimator.EvalSpec(ones, steps=1),
)
"""


def test_a_program_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "p.py").write_text("import sys\nsys.exit('no luck')\n")
    arguments = job(tmp_path / "program" / "p.py", tmp_path, "none", "", f"--tasks-dir={tmp_path / 'tasks'}")
    assert [train.main(arguments) for _ in range(4)] == [1, 1, 2, 1], "who has mended it has as many attempts again"
    words = "p.py ended with no luck"
    assert json.loads((tmp_path / "tasks" / "local-0.json").read_text())["problem"] == f"{words}."
    assert train.main(arguments) == 1 and train.main(arguments) == 2
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and told["state"] == "failed"
    assert told["message"] == f"{words}, 3 times since the same checkpoint."


def test_fewer_steps_than_there_are_are_refused_where_the_program_is_told_them(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("print('trained')\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-900"\n')
    assert train.main(job(tmp_path / "p.py", tmp_path, "none", "--steps {max_steps}")) == 2
    told = progress.read(tmp_path / "progress" / "train.json")
    assert told is not None and "max_steps is 60, but" in told["message"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other.py": ""}, "has no Python file main.py: training_entry names the one to run"),
        ({"main.py": "x = 1\nif x:\n"}, r"main\.py, line 2: expected an indented block"),
        ({"main.py": "from lib import a\n", "lib/a.py": "def f(:\n"}, r"lib/a\.py, line 1: invalid syntax"),
        (
            {"main.py": "import os\nfrom nowhere.b import c\n"},
            r"main\.py, line 2: import nowhere, which isn't installed",
        ),
        (
            {"main.py": "import tensorflow as tf\nfrom tensorflow.contrib import slim\n"},
            r"main\.py, line 2: import tensorflow\.contrib\.slim, as programs for TensorFlow 1 do: tf_upgrade_v2",
        ),
        (
            {"main.py": "from tensorflow import contrib\n"},
            r"main\.py, line 1: import tensorflow\.contrib, as programs for TensorFlow 1 do",
        ),
    ],
)
def test_what_is_seen_without_running_a_program(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=words):
        program.check(str(tmp_path / "main.py"))


def test_a_good_program_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper.py").write_text("")
    (tmp_path / "near.py").write_text("")
    (tmp_path / "main.py").write_text(
        "import sys, os.path\nimport near\nfrom lib import helper\n"
        "try:\n    import nowhere\nexcept ImportError:\n    pass\n"
    )
    program.check(str(tmp_path / "main.py"))
    for shipped in PROGRAMS.glob("*.py"):
        program.check(str(shipped))


def test_a_task_with_another_version_of_the_program_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    entry = tmp_path / "p" / "main.py"
    entry.write_text("a = 1\n")
    old = program.version(str(entry))
    assert old == program.version(str(entry)) != program.version("")
    entry.write_text("a = 2\n")
    new = program.version(str(entry))
    assert new != old
    model = str(tmp_path / "model")
    checkpoints.begin(model, {"program": "main.py"}, old)
    checkpoints.wait_for_version(model, "worker-1", old, seconds=0)
    with pytest.raises(BadInput, match=f"worker-1 has version {new} of the program, the chief {old}"):
        checkpoints.wait_for_version(model, "worker-1", new, seconds=0)
    checkpoints.begin(model, {"program": "main.py"}, new)
    checkpoints.wait_for_version(model, "worker-1", new, seconds=0)


def test_arguments(tmp_path: Path) -> None:
    keys = ["--data-dir", "D", "--model-dir", "M", "--max-steps", "7"]
    told = config.load([*keys, "--program", "p.py", "--arguments=--steps {max_steps} --x='{\"a\": 1}' {model_dir}/{b}"])
    assert told.program_arguments() == ["--steps", "7", '--x={"a": 1}', "M/{b}"]
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"arguments": ["--rate", 0.5], "data_dir": "D", "model_dir": "M"}))
    assert config.load(["--config", os.fspath(file)]).program_arguments() == ["--rate", "0.5"]
    file.write_text(json.dumps({"arguments": [["x"]], "data_dir": "D", "model_dir": "M"}))
    with pytest.raises(BadInput, match=r"arguments is .* give a list of words"):
        config.load(["--config", os.fspath(file)])


LABELS = """
import tensorflow as tf
v1 = tf.compat.v1

def loss():
    return v1.losses.sparse_softmax_cross_entropy(tf.constant([10]), tf.zeros([1, 10]))

def twice():
    with v1.device("/cpu:0"):
        return [tf.debugging.Assert(tf.constant(False), [f"wrong {n}"]) for n in (1, 2)]

with tf.Graph().as_default(), v1.Session() as session:
    session.run(WHAT())
"""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "loss",
            r"labels.py, line 6: InvalidArgumentError: Received a label value of 10 which is outside the valid range",
        ),
        ("twice", r"labels.py, line 10: InvalidArgumentError: assertion failed: \[wrong [12]\]"),
    ],
)
def test_of_tensorflows_message_the_cause_is_said(tmp_path: Path, what: str, words: str) -> None:
    """And the program's line that made the operation; the message's first line is "Graph execution error:"."""
    import tensorflow as tf

    file = tmp_path / "labels.py"
    file.write_text(LABELS.replace("WHAT", what))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^Graph execution error") as failed:
        runpy.run_path(str(file))
    assert re.match(words, program._where(failed.value, file, tmp_path))
    # In a cluster it says who says so.
    remote = str(failed.value)
    for reason in re.findall(r"^(?: *\(\d\) )?.*(?:Received a label|assertion failed)", remote, re.MULTILINE):
        remote = remote.replace(reason, f"From /job:chief/replica:0/task:0:\n{reason}")
    error = tf.errors.InvalidArgumentError(None, None, remote)
    assert re.match(words.partition(": ")[2].partition(": ")[2], errors.cause(error))


def test_of_several_tasks_errors_the_first_cause_is_said() -> None:
    """As TensorFlow puts them together where a ps and a trainer say the same."""
    import tensorflow as tf

    line = "=" * 21
    said = f"Graph execution error:\n\nDetected at node 'x' defined at (most recent call last):\nNode: 'x'\n{line}\n"
    said += (
        f"INVALID_ARGUMENT: From /job:ps/replica:0/task:0:\nReceived a label value of 10\n\t [[{{node x}}]]\n{line}\n"
    )
    assert errors.cause(tf.errors.InvalidArgumentError(None, None, said)) == "Received a label value of 10"


@pytest.mark.parametrize("linked", [True, False])
def test_packages_of_operations_are_found_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    package = tmp_path / "site/own_ops"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import nothing_of_the_kind")
    (package / "_ops.so").write_bytes(b"\x7fELF..." + (b"libtensorflow_framework.so.2" if linked else b"libc.so.6"))
    entry = tmp_path / "program/main.py"
    entry.parent.mkdir()
    entry.write_text("import tensorflow as tf\nimport net")
    (entry.parent / "net.py").write_text("import json, own_ops")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert program.operations(str(entry)) == (["own_ops"] if linked else [])
    said = program.load_operations(config.TrainConfig(data_dir="d", model_dir="m", program=str(entry)))
    assert said == (
        "own_ops can't be loaded here, so its operations don't run here: No module named 'nothing_of_the_kind'"
        if linked
        else ""
    )
