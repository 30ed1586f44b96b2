"""The network is the one of the source: its parameters, its shapes, one read a variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES

from flotilla import train
from flotilla.job import design
from flotilla.model import layers

v1 = tf.compat.v1


def network(images: Any, size: int, classes: int, trainers: int, packed: bool = True) -> Any:
    described = design.resnet(size, tuple(map(int, images.shape[1:])), classes)
    return layers.network(layers.inputs({"image": images}, described), described, trainers, packed)


def build(size: int, classes: int, trainers: int) -> tuple[Any, Any]:
    graph = tf.Graph()
    with graph.as_default():
        images = v1.placeholder(tf.uint8, [None, 32, 32, 3], name="images")
        logits = network(images, size, classes, trainers)
    return graph, logits


@pytest.mark.parametrize(("classes", "parameters"), [(11, 658_651), (10, 658_586)])
def test_resnet44_has_the_parameters_of_the_source(classes: int, parameters: int) -> None:
    graph, logits = build(44, classes, 1)
    with graph.as_default():
        variables = v1.trainable_variables()
        assert sum(np.prod(v.shape.as_list()) for v in variables) == parameters
        assert logits.shape.as_list() == [None, classes]
        assert len(v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)) == len(variables)
        convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
        assert len(convolutions) == 43
        assert len(v1.get_collection(v1.GraphKeys.UPDATE_OPS)) == 2
        # One of each kind for all batch norms: 43 kernels, gamma, beta, and the last layer's two.
        assert len(variables) == 43 + 2 + 2


@pytest.mark.parametrize(("height", "width"), [(33, 47), (8, 8), (1, 1), (97, 130), (224, 224)])
def test_images_of_any_size(height: int, width: int) -> None:
    """Odd ones, too; large ones are brought to a quarter of their size first."""
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.uint8, [None, height, width, 1], name="images")
        logits = network(images, 8, 5, 0)
        session.run(v1.global_variables_initializer())
        found = session.run(logits, {"images:0": np.zeros([2, height, width, 1], np.uint8)})
        assert found.shape == (2, 5) and np.isfinite(found).all()
        last = [op for op in tf.compat.v1.get_default_graph().get_operations() if op.type == "Conv2D"][-1]
        quarter = 4 if min(height, width) >= design.LARGE else 1
        assert abs(int(last.outputs[0].shape[1]) - height / quarter / 4) <= 1


def test_every_trainable_variable_is_read_once() -> None:
    graph, _ = build(8, 10, 1)
    with graph.as_default():
        handles = {v.handle.name for v in v1.trainable_variables()}
    reads = [op.inputs[0].name for op in graph.get_operations() if op.type == "ReadVariableOp"]
    used = [name for name in reads if name in handles]
    # One more belongs to the variable itself (its cached value) and is not fetched in a step.
    consumed = [
        op
        for op in graph.get_operations()
        if op.type == "ReadVariableOp" and op.inputs[0].name in handles and op.outputs[0].consumers()
    ]
    assert len(consumed) == len(handles) <= len(used)


def test_moving_averages_follow_the_batches() -> None:
    graph, logits = build(8, 10, 1)
    with graph.as_default(), v1.Session() as session:
        session.run(v1.global_variables_initializer())
        images = np.full([16, 32, 32, 3], 255, np.uint8)
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        values, _ = session.run([logits, updates], {"images:0": images})
        assert values.shape == (16, 10) and np.isfinite(values).all()
        mean = next(v for v in v1.global_variables() if v.name == "batch_norm/moving_mean:0")
        # At the first step nine tenths of the average are the batch's.
        assert np.abs(session.run(mean)).max() > 0.1


def test_moving_averages_stay_between_the_batches_when_many_trainers_update_them_at_once() -> None:
    """All read the same old value; at the first steps, where one batch counts most, their shares must not add up."""
    graph, _ = build(8, 10, 30)
    with graph.as_default(), v1.Session() as session:
        session.run(v1.global_variables_initializer())
        (average,) = [v for v in v1.global_variables() if v.name == "batch_norm/moving_variance:0"]
        (update,) = [u for u in v1.get_collection(v1.GraphKeys.UPDATE_OPS) if u.op.inputs[0] is average.handle]
        change = update.op.inputs[1]
        images = {"images:0": np.zeros([16, 32, 32, 3], np.uint8)}
        total = 30 * session.run(change, images)[:16]  # of the first batch norm
        # The average is 1 and the batch's variance next to 0: together they take away one, and not thirty.
        assert total == pytest.approx(np.ones(16), abs=0.1)


def test_evaluation_changes_nothing() -> None:
    graph, _ = build(8, 10, 0)
    with graph.as_default():
        assert v1.get_collection(v1.GraphKeys.UPDATE_OPS) == []


def test_an_export_is_the_evaluated_network_with_batch_norms_of_their_own(tiny: list[str], tmp_path: Path) -> None:
    """No converter has to follow parts of a variable, and checkpoints stay packed."""
    assert train.main(tiny) == 0
    checkpoint = tf.train.latest_checkpoint(str(tmp_path / "model"))
    packed = [f"batch_norm/{kind}" for kind in ("beta", "gamma", "moving_mean", "moving_variance")]
    saved = dict(tf.train.list_variables(checkpoint))
    assert [n for n in saved if n.startswith("batch_norm/") and not n.endswith("/Momentum")] == packed
    assert [saved[name] for name in packed] == [[16 + 2 * (16 + 32 + 64)]] * 4
    pictures = np.random.default_rng(1).integers(0, 256, [20, 16, 16, 3], np.uint8)
    graph = tf.Graph()
    with graph.as_default(), v1.Session() as session:
        logits = network(tf.constant(pictures), 8, CLASSES, 0)
        v1.train.Saver().restore(session, checkpoint)
        evaluated = session.run(logits)
    (folder,) = (tmp_path / "model/export").iterdir()
    exported = tf.saved_model.load(str(folder))
    found = exported.signatures["serving_default"](image=tf.constant(pictures))
    assert found["logits"].numpy() == pytest.approx(evaluated, abs=1e-6)
    assert np.ptp(evaluated, axis=0).min() > 0  # of pictures that aren't the same to it
    operations = exported.graph.get_operations()
    norms = [op for op in operations if op.type.startswith("FusedBatchNorm")]
    assert len(norms) == 7 and not [op for op in operations if op.type.startswith("Split")]
    assert len(exported.variables) == 7 + 4 * 7 + 2 + 1


def test_a_checkpoint_of_another_network_is_not_exported(tmp_path: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("first/kernel", [3, 3, 3, 16])
        session.run(v1.global_variables_initializer())
        path = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with tf.Graph().as_default(), v1.Session() as session:
        network(tf.zeros([1, 32, 32, 3], tf.uint8), 8, 10, 0, packed=False)
        with pytest.raises(tf.errors.NotFoundError, match="batch_norm/"):
            layers.Unpacker().restore(session, path)
