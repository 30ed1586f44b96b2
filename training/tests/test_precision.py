"""The choice between float32 and bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flotilla.job import design
from flotilla.model import layers, precision

v1 = tf.compat.v1
NETWORK = design.resnet(8, (32, 32, 3), 10)


@pytest.mark.parametrize(("seconds", "chosen"), [((2.0, 1.0), "bfloat16"), ((1.0, 1.0), "float32")])
def test_the_faster_one_is_chosen(seconds: tuple[float, float], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[Any, float] = {}

    def each_its_own(step: Any) -> float:
        return measured.setdefault(step, seconds[len(measured) % 2])

    monkeypatch.setattr(precision, "_seconds", each_its_own)
    assert precision.choose("auto", NETWORK) == chosen


def test_what_is_asked_for_isnt_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_step", None)
    assert [precision.choose(wanted, NETWORK) for wanted in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_both_compute_nearly_the_same() -> None:
    def logits(chosen: str) -> Any:
        with tf.Graph().as_default():
            v1.set_random_seed(1)
            images = v1.placeholder(tf.uint8, [8, 32, 32, 3])
            found = layers.network(layers.inputs({"image": images}, NETWORK), NETWORK, 1)
            with v1.Session(config=precision.settings(chosen)) as session:
                session.run(v1.global_variables_initializer())
                values = np.random.default_rng(0).integers(0, 255, images.shape, np.uint8)
                return session.run(found, {images: values})

    exact, rough = logits("float32"), logits("bfloat16")
    # Without AVX-512 oneDNN has no bfloat16, and TensorFlow leaves all in float32.
    able = " avx512f " in Path("/proc/cpuinfo").read_text()
    assert rough.dtype == np.float32 and np.array_equal(exact, rough) is not able, "another precision"
    assert np.allclose(exact, rough, atol=0.1 * np.abs(exact).max())
