"""The schedule is the thesis's with its error fixed; trainers see only what they need."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.design import resnet
from flotilla.model import estimator
from flotilla.model.data import DataSet

CONFIG = TrainConfig(data_dir="/d", model_dir="/m", warmup_steps=0)


def test_schedule_of_the_thesis_without_division_by_workers() -> None:
    boundaries, rates = estimator.schedule(CONFIG, 40_000, 3)
    assert boundaries == [25_625, 38_438, 93_750]  # 82, 123 and 300 epochs of 312.5 steps
    assert rates == pytest.approx([0.1, 0.01, 0.001, 0.0002])


def test_schedule_of_synchronous_training() -> None:
    boundaries, _ = estimator.schedule(dataclasses.replace(CONFIG, sync=True), 40_000, 4)
    assert boundaries == [6_406, 9_609, 23_438]  # a step is 4 batches


def test_variables_are_spread_by_load() -> None:
    task = Task("worker", 0, {"ps": ["a:1", "b:1"], "chief": ["c:1"], "worker": ["d:1"]})
    with tf.Graph().as_default(), tf.compat.v1.device(estimator.placement(task)):
        sizes = [100, 10, 20, 60, 20]
        made = [tf.compat.v1.get_variable(f"v{n}", [size]) for n, size in enumerate(sizes)]
        assert [v.device[:16] for v in made] == [f"/job:ps/task:{n}" for n in (0, 1, 1, 1, 1)]
        assert tf.add(made[0], 1).device == "/job:worker/task:0"


def rate_at(config: TrainConfig, step: int) -> float:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensor = estimator.learning_rate(config, 40_000, 3, tf.constant(step, tf.int64))
        return float(session.run(tensor))


def test_learning_rate() -> None:
    assert [rate_at(CONFIG, step) for step in (0, 25_625, 25_626, 38_439, 93_751)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001, 0.0002]
    )
    warm = dataclasses.replace(CONFIG, warmup_steps=100)
    assert [rate_at(warm, step) for step in (0, 49, 99, 500)] == pytest.approx([0.001, 0.05, 0.1, 0.1])


def test_session_of_a_worker(tmp_path: object) -> None:
    config = dataclasses.replace(CONFIG, model_dir=str(tmp_path))
    data = DataSet("x", (8, 8, 3), 2, {}, {"train": 1})
    run = estimator.build(config, data, resnet(8, (8, 8, 3), 2), Task("worker", 1, {"ps": ["a:1"]}), 7).config
    assert list(run.session_config.device_filters) == ["/job:ps", "/job:worker/task:1"]
    assert run.session_config.allow_soft_placement and run.session_config.gpu_options.allow_growth
    assert run.experimental_max_worker_delay_secs == 1
    from tensorflow.python.training import session_manager

    assert session_manager.SessionManager()._recovery_wait_secs == 2
