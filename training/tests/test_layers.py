"""What networks of files become in TensorFlow: the same variables as described, and models that train and predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_train import addresses, start

from flotilla import train
from flotilla.job import design, documents, network_file
from flotilla.job.cluster import Task
from flotilla.job.config import load
from flotilla.model import data, estimator, layers

v1 = tf.compat.v1
NETWORKS = sorted((Path(__file__).parents[2] / "networks").glob("*.yml"))
SHAPES = {"resnet44": (3, 32, 32)}  # channels, height, width; of others as MNIST's
EVERYTHING = """
network:
  classes: 4
  initializer: he_uniform
  layers:
    - conv: {filters: 4, kernel: 3, stride: 2, activation: leaky_relu, l1: 1e-4}
    - pool: {size: 2, type: average}
    - block: {filters: 8, repeat: 2, stride: 2}
    - flatten
    - dense: {units: 8, bias: false, l2: 1e-2}
    - batch_norm
    - activation: tanh
    - dropout: 0.2
"""


def write(folder: Path, features: dict[str, Any], examples: dict[str, list[dict[str, Any]]]) -> Path:
    """Write a data set of TFRecord files with its manifest."""
    files = []
    for split, records in examples.items():
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord")) as writer:
            for record in records:
                kinds = {name: _feature(value) for name, value in record.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString())
        files.append(
            {"path": f"{split}.tfrecord", "split": split, "size": 1, "records": len(records), "crc32c": "0" * 8}
        )
    manifest = {"format": "flotilla-dataset/1", "name": folder.name, "files": files, "features": features}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _feature(value: Any) -> Any:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], Path]:
    """Data sets of ten classes, a brightness each, as MNIST and CIFAR-10 have them."""
    made = {}
    for shape in ((1, 28, 28), (3, 32, 32)):
        records = [{"image": bytes([n % 10 * 25] * int(np.prod(shape))), "label": n % 10} for n in range(40)]
        features = {"image": {"shape": shape, "dtype": "uint8"}, "label": {"dtype": "int64", "classes": 10}}
        folder = tmp_path_factory.mktemp("digits")
        made[shape] = write(folder, features, dict.fromkeys(("train", "validation", "eval"), records))
    return made


def options(network: Path, data_dir: Path, model_dir: Path, *more: str) -> list[str]:
    return [
        "--network", str(network), "--data-dir", str(data_dir), "--model-dir", str(model_dir), "--batch-size", "8",
        "--max-steps", "4", "--save-checkpoints-steps", "100", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_each_network_trains(
    path: Path, digits: dict[tuple[int, ...], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    shape = SHAPES.get(path.stem, (1, 28, 28))
    assert train.main(options(path, digits[shape], tmp_path)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["global_step"] == 4 and np.isfinite(result["metrics"]["loss"])
    assert (tmp_path / "network.yml").read_text() == path.read_text()
    # The variables are those that were counted without TensorFlow.
    described = {v.name: v.shape for v in network_file.load(str(path)).design().variables}
    saved = dict(tf.train.list_variables(str(tmp_path)))
    slots = ("/Momentum", "/Adam", "/Adam_1", "global_step", "beta1_power", "beta2_power")
    assert {name: tuple(size) for name, size in saved.items() if not name.endswith(slots)} == described
    serve = tf.saved_model.load(str(tmp_path / result["saved_model"])).signatures["serving_default"]
    answer = serve(image=tf.zeros([2, *shape[1:], shape[0]], tf.uint8))
    assert answer["probabilities"].shape == (2, 10)


def test_a_cluster_begins_with_one_process_weights(
    digits: dict[tuple[int, ...], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has its steps by epochs; in synchronous training, where no worker makes one before the first checkpoint."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    path, folder = NETWORKS[0].with_name("cuttlefish-5x3.yml"), digits[(1, 28, 28)]
    given = ["--network", str(path), "--data-dir", str(folder), "--batch-size", "10", "--epochs", "2", "--seed", "4"]
    cluster = addresses(ps=2, chief=1, worker=1)
    arguments = [*given, "--sync", "true", "--model-dir", str(tmp_path / "cluster")]
    tasks = [start(arguments, cluster, name, tmp_path) for name in ("ps-0", "ps-1", "worker-0", "chief-0")]
    assert train.main([*given, "--model-dir", str(tmp_path / "alone")]) == 0
    assert [task.wait(120) for task in tasks] == [0] * 4, (tmp_path / "chief-0").read_text()
    steps = {
        name: json.loads((tmp_path / name / "result.json").read_text())["global_step"] for name in ("alone", "cluster")
    }
    assert steps["alone"] == 8 and steps["cluster"] in (4, 5)
    first, second = (tf.train.load_checkpoint(str(tmp_path / name / "model.ckpt-0")) for name in steps)
    for variable in network_file.load(str(path)).design().variables:
        np.testing.assert_array_equal(first.get_tensor(variable.name), second.get_tensor(variable.name))


def test_resnet_of_a_file_loses_what_the_built_in_one_does(digits: dict[tuple[int, ...], Path]) -> None:
    """The same variables; of the same start weights, the same loss at step 0."""
    path, folder = NETWORKS[0].with_name("resnet44.yml"), digits[(3, 32, 32)]
    found = {}
    for name, arguments in {"built-in": [], "file": ["--network", str(path)]}.items():
        config = load([*arguments, "--data-dir", str(folder), "--model-dir", "/nowhere", "--max-steps", "9"])
        dataset = data.load(str(folder))
        shapes = dataset.shape, dataset.classes
        network = network_file.load(config.network).design(*shapes) if config.network else design.resnet(44, *shapes)
        with tf.Graph().as_default() as graph, v1.Session() as session:
            v1.set_random_seed(3)
            v1.train.create_global_step()
            images = {"image": tf.constant(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8))}
            labels = tf.range(8, dtype=tf.int64)
            spec = estimator.model_fn(images, labels, "train", config, dataset, network, Task(), None)
            session.run(v1.global_variables_initializer())
            loss, _ = session.run([spec.loss, spec.train_op])
            found[name] = ([v.name for v in v1.global_variables()], float(loss), len(graph.get_operations()))
    assert found["file"] == found["built-in"]


def test_all_layers(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    file = tmp_path / "all.yml"
    text = "training: {optimizer: rmsprop, schedule: cosine, loss: hinge, warmup_steps: 2, augment: true,\n"
    file.write_text(EVERYTHING + text + "  metrics: [top_3_accuracy, mean_per_class_accuracy]}\n")
    assert train.main(options(file, data_dir, tmp_path / "model", "--scheme", "session")) == 0
    metrics = json.loads((tmp_path / "model/result.json").read_text())["metrics"]
    assert set(metrics) == {"accuracy", "top_3_accuracy", "mean_per_class_accuracy", "loss"}
    assert metrics["top_3_accuracy"] >= metrics["accuracy"]
    # A network of other layers can't go on from there.
    file.write_text(file.read_text().replace("tanh", "relu"))
    network_file.load.cache_clear()
    assert train.main(options(file, data_dir, tmp_path / "model", "--max-steps", "8")) == 2


def test_what_single_layers_add_to_the_loss() -> None:
    found = network_file.judge(documents.parse(EVERYTHING, "n.yml")).design((16, 16, 3), 4)
    with tf.Graph().as_default(), v1.Session() as session:
        layers.network(tf.zeros([2, 16, 16, 3]), found, 1)
        l1, l2 = v1.get_collection(layers.LAYER_LOSSES)
        session.run(v1.global_variables_initializer())
        values = {v.op.name: session.run(v) for v in v1.trainable_variables()}
        assert session.run(l1) == pytest.approx(1e-4 * np.abs(values["conv0/kernel"]).sum(), rel=1e-5)
        assert session.run(l2) == pytest.approx(1e-2 * (values["dense0/kernel"] ** 2).sum() / 2, rel=1e-5)


def test_dropout_is_of_training_alone() -> None:
    found = network_file.judge(documents.parse(EVERYTHING, "n.yml")).design((16, 16, 3), 4)
    for trainers in (0, 1):
        with tf.Graph().as_default() as graph:
            layers.network(tf.zeros([2, 16, 16, 3]), found, trainers)
            assert any("dropout" in op.name for op in graph.get_operations()) is bool(trainers)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_operations_are_those_that_tensorflow_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other initializers compute, too.
    monkeypatch.setattr(layers, "INITIALIZERS", dict.fromkeys(layers.INITIALIZERS, v1.zeros_initializer))
    found = network_file.load(str(path)).design()
    with tf.Graph().as_default() as graph:
        layers.network(tf.zeros([1, *found.input]), found, 0)
        ask = v1.profiler.ProfileOptionBuilder(v1.profiler.ProfileOptionBuilder.float_operation())
        counted = v1.profiler.profile(graph, options=ask.with_empty_output().build()).total_float_ops
    # TensorFlow counts l2 losses, too.
    assert sum(layer.flops for layer in found.layers) == pytest.approx(counted - 3 * found.parameters, rel=0.1)


def test_columns_of_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns, of which one has two values, tell three classes apart."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    records = []
    for number in range(120):
        label = number % 3
        place = rng.normal(0, 0.2, 2) + np.array([label == 1, label == 2])
        records.append({"place": place, "sizes": int(rng.integers(5)), "label": label})
    features = {
        "place": {"dtype": "float32", "shape": [2]},
        "sizes": {"dtype": "int64"},
        "label": {"dtype": "int64", "classes": 3},
    }
    write(folder, features, {"train": records[:80], "validation": records[80:], "eval": records[80:]})
    file = tmp_path / "columns.yml"
    text = (
        "network:\n  input: {columns: [place, sizes]}\n  classes: 3\n  layers: [dense: {units: 16, activation: relu}]\n"
    )
    file.write_text(text + "training: {optimizer: adam, learning_rate: 0.02, epochs: 20}\n")
    model = tmp_path / "model"
    arguments = ["--network", str(file), "--data-dir", str(folder), "--model-dir", str(model), "--batch-size", "16"]
    assert train.main([*arguments, "--precision", "auto"]) == 0
    result = json.loads((model / "result.json").read_text())
    assert result["global_step"] == 100 and result["metrics"]["accuracy"] > 0.8
    serve = tf.saved_model.load(str(model / result["saved_model"])).signatures["serving_default"]
    answer = serve(place=tf.constant([[0.0, 0.0], [0.0, 1.0]]), sizes=tf.constant([[1], [1]], tf.int64))
    assert answer["class"].numpy().tolist() == [0, 2]
    file.write_text(text.replace("sizes", "size"))
    network_file.load.cache_clear()
    assert train.main([*arguments[:4], "--model-dir", str(tmp_path / "other"), "--max-steps", "1"]) == 2
