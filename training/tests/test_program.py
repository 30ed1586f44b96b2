"""Programs that know nothing of the kit: the two that it brings, as clusters, and what programs can do wrong."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_train import addresses, start, wait_for_line

from flotilla import train
from flotilla.adapter import program
from flotilla.job import config
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
    assert evaluator._evaluate(lambda *_, **__: found, None, None, checkpoint_path=path) == found
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
        ({"main.py": "", "lib/a.py": "def f(:\n"}, r"lib/a\.py, line 1: invalid syntax"),
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
    assert re.match(words, program._where(failed.value, file))
