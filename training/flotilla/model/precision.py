"""Whether a processor trains faster in bfloat16 than in float32: its flags don't tell, so it is tried.

Of two processors with avx512_bf16, one trains ResNet-44 1.5 times as fast so, the other half as fast.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import tensorflow as tf

from flotilla.job.design import Design
from flotilla.model import layers

v1 = tf.compat.v1
_log = logging.getLogger(__name__)

BATCH, ROUNDS = 64, 5
WORTH = 1.1  # times as fast, or float32 it is


def settings(precision: str) -> tf.compat.v1.ConfigProto:
    """Return the settings of a session, a ConfigProto; in bfloat16 oneDNN computes, and variables stay float32."""
    session = v1.ConfigProto()
    session.graph_options.rewrite_options.meta_optimizer_iterations = 1  # as Estimator's own default
    if precision == "bfloat16":
        rewrite = session.graph_options.rewrite_options
        rewrite.auto_mixed_precision_onednn_bfloat16 = rewrite.ON
    return session


def choose(wanted: str, design: Design) -> str:
    """Return float32 or bfloat16; `auto` tries both on the network that is to be trained, for some seconds.

    A smaller network says nothing: where ResNet-44 trains 0.93 times
    as fast in bfloat16, ResNet-8 trains 0.36 times as fast.
    """
    if wanted != "auto":
        return wanted
    if tf.config.list_physical_devices("GPU"):
        return "float32"  # a GPU has no use for what oneDNN does
    steps = {precision: _step(precision, design) for precision in ("float32", "bfloat16")}
    # One after the other, and the best of each: whatever else runs here takes its time from both.
    times = [{precision: _seconds(step) for precision, step in steps.items()} for _round in range(ROUNDS)]
    best = {precision: min(each[precision] for each in times) for precision in steps}
    ratio = best["float32"] / best["bfloat16"]
    chosen = "bfloat16" if ratio > WORTH else "float32"
    _log.info("Trains in %s: here bfloat16 is %.2f times as fast as float32.", chosen, ratio)
    return chosen


def _step(precision: str, design: Design) -> Callable[[], object]:
    """Return what does a training step."""
    graph = tf.Graph()
    with graph.as_default():
        examples = v1.random_uniform([BATCH, *design.input], -1, 1)
        labels = v1.random_uniform([BATCH], 0, design.classes, tf.int64)
        logits = layers.network(examples, design, 1)
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        train = v1.train.MomentumOptimizer(0.0, 0.9).minimize(loss)
        session = v1.Session(config=settings(precision))
        session.run(v1.global_variables_initializer())
    return lambda: session.run(train)


def _seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
