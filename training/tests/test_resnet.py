"""The network is the one of the source: its parameters, its shapes, one read a variable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flotilla.model import resnet

v1 = tf.compat.v1


def build(size: int, classes: int, trainers: int) -> tuple[Any, Any]:
    graph = tf.Graph()
    with graph.as_default():
        images = v1.placeholder(tf.uint8, [None, 32, 32, 3], name="images")
        logits = resnet.network(images, size, classes, trainers)
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
