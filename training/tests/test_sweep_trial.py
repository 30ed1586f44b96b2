"""A sweep's trainings in one process: what they reach, that seeds decide alone, and what is exported of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from flotilla.job import documents, network_file
from flotilla.job.errors import BadInput
from flotilla.model import layers
from flotilla.sweep import columns, export, numbers, plan, table, trial
from flotilla.sweep.numbers import Prepared
from flotilla.sweep.trial import Diverged, TooLarge, Trained, Trainer

Make = Callable[[str], Prepared]
ROWS = 500
VARY = "layers: [1, 2], nodes: [4, 8], learning_rate: [0.1, 0.2], training.epochs: [1, 2]"
HIDDEN = "[dense: {units: 16, activation: relu}]"
NORMED = "[batch_norm, dense: {units: 16}, batch_norm, activation: relu, dropout: 0.2]"


def rows(task: str, count: int = ROWS) -> list[list[str]]:
    """A table of numbers and categories with gaps: classes that are far apart, or a number that is a sum."""
    random = np.random.default_rng(1)
    found = [["self", "a b", "größe", "kind", "y"]]
    for row in range(count):
        of = row % (2 if task == "two" else 3)
        first, second, third = (random.integers(-40, 40, 3) / 16).tolist()  # as float32 has them
        kind = ["tall", "wide", "?"][random.integers(3)] if row % 40 else f"rare {row}"
        if task == "regression":
            label = str(100 + 8 * first - 4 * second + (6 if kind == "wide" else 0))
            found.append([f"{first}", f"{second}", f"{third}", kind, label])
        else:
            place = [f"{first + 8 * (of == 1)}", f"{second + 8 * (of == 2)}"]
            found.append([*place, "NA" if row % 9 == 0 else f"{third}", kind, f"class {of}"])
    return found


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Prepared] = {}

    def make(task: str) -> Prepared:
        if task not in made:
            file = tmp_path_factory.mktemp("table") / f"{task}.csv"
            file.write_text("\n".join(",".join(row) for row in rows(task)) + "\n")
            made[task] = numbers.prepare(columns.judge(table.read(file), "y"))
        return made[task]

    return make


def network(
    prepared: Prepared, training: str = "", hidden: str = HIDDEN, rate: float = 0.01, epochs: float = 5, **more: Any
) -> tuple[plan.Network, str]:
    """A network, and the key of its architecture."""
    base = f"{{network: {{layers: {hidden}}}, training: {{{training}}}}}"
    text = f"data: t.csv\nlabel: y\nnetwork: {base}\nvary: {{{VARY}}}\n"
    sweep = plan.judge(documents.parse(text, "s.yml", "sweep"))
    point = plan.point_of({"learning_rate": rate, "training.epochs": epochs, **more})
    description = prepared.description
    made = plan.made(sweep, point, description["features"], len(description["label"]["classes"]))
    return made, f"{training} {hidden} {plan.architecture_of(point)}"


def train(trainer: Trainer, *given: Any, seed: int = 0, stop: trial.Stop | None = None, **more: Any) -> Trained:
    return trainer.train(*network(trainer._prepared, *given, **more), seed, stop)


def weights(trainer: Trainer) -> dict[str, Any]:
    assert trainer._last
    return trainer._last.weights()


ADAM = "optimizer: adam, batch_size: 32"


@pytest.mark.parametrize("task", ["two", "three"])
def test_classes_are_learned(make: Make, task: str) -> None:
    prepared = make(task)
    trainer = Trainer(prepared)
    found = train(trainer, ADAM)
    assert found.score == found.accuracy == found.epochs[-1] > 0.9
    assert found.rmse is None and found.loss < 0.5 and len(found.epochs) == 5 and not found.early
    assert found.cpu_seconds > 0 and found.seconds > 0
    width = len(prepared.description["features"])
    assert found.parameters == 17 * len(prepared.description["label"]["classes"]) + 16 * (width + 1)
    logits, labels = trainer.logits(), prepared.held_out_labels
    assert found.accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    of_label = logits[np.arange(len(labels)), labels.astype(int)]
    assert found.loss == pytest.approx((np.log(np.exp(logits).sum(1)) - of_label).mean(), rel=1e-4)


def test_numbers_are_learned_in_their_own_unit(make: Make) -> None:
    prepared = make("regression")
    trainer = Trainer(prepared)
    found = train(trainer, ADAM, epochs=20)
    label = prepared.description["label"]
    wanted, given = (one * label["std"] + label["mean"] for one in (prepared.held_out_labels, trainer.logits()[:, 0]))
    assert found.accuracy is None and found.score > 0.9
    assert found.rmse == pytest.approx(np.sqrt(np.square(wanted - given).mean()), rel=1e-4)
    assert found.score == pytest.approx(1 - np.square(wanted - given).mean() / wanted.var(), abs=1e-4)
    assert found.loss == pytest.approx((found.rmse / label["std"]) ** 2, rel=1e-4)
    alike = dataclasses.replace(prepared, held_out_labels=np.ones_like(prepared.held_out_labels))
    assert math.isfinite(train(Trainer(alike), ADAM, epochs=1).score)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum, momentum: 0.8", "adam", "rmsprop", "adagrad"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "hinge", "mean_squared_error"])
def test_optimizers_and_losses_learn(make: Make, optimizer: str, loss: str) -> None:
    rate = 0.01 if optimizer in ("adam", "rmsprop") else 0.1
    found = train(Trainer(make("two")), f"optimizer: {optimizer}, loss: {loss}, batch_size: 16", rate=rate, epochs=8)
    assert found.score > 0.85


def test_it_trains_as_keras_does(make: Make) -> None:
    """From the same weights, over all rows at once, whose order then says nothing."""
    prepared = make("three")
    trainer, adam = Trainer(prepared), "optimizer: adam, batch_size: 1000"
    train(trainer, adam, rate=1e-30, epochs=1)
    first = weights(trainer)
    train(trainer, adam, rate=0.05, epochs=6)
    dense = [tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(3)]
    model = tf.keras.Sequential([tf.keras.Input([prepared.training.shape[1]]), *dense])
    model.set_weights([first[f"{name}/{part}"] for name in ("dense0", "dense") for part in ("kernel", "bias")])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(0.05, epsilon=1e-8), loss)
    model.fit(prepared.training, prepared.training_labels, 1000, 6, verbose=0)
    np.testing.assert_allclose(trainer.logits(), model(prepared.held_out).numpy(), rtol=1e-3, atol=1e-4)


def test_averages_of_batch_norms_follow_the_rows(make: Make) -> None:
    prepared = make("two")
    trainer = Trainer(prepared)
    train(trainer, "optimizer: sgd, batch_size: 1000", "[batch_norm]", rate=0.1, epochs=30)
    found, x = weights(trainer), prepared.training.astype(np.float64)
    mean, variance = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for step in range(30):
        share = 1 - min(layers.BATCH_NORM_DECAY, (1 + step) / (100 + step))
        mean += (x.mean(0) - mean) * share
        variance += (x.var(0, ddof=1) - variance) * share
    np.testing.assert_allclose(found["batch_norm/moving_mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["batch_norm/moving_variance"], variance, rtol=1e-4, atol=1e-6)
    normed = (prepared.held_out - mean) / np.sqrt(variance + layers.BATCH_NORM_EPSILON)
    normed = normed * found["batch_norm/gamma"] + found["batch_norm/beta"]
    wanted = normed @ found["dense/kernel"] + found["dense/bias"]
    np.testing.assert_allclose(trainer.logits(), wanted, rtol=1e-4, atol=1e-4)


def test_batch_norms_and_dropout_learn(make: Make) -> None:
    trainer = Trainer(make("three"))
    assert train(trainer, ADAM, NORMED, epochs=10).score > 0.9
    np.testing.assert_array_equal(trainer.logits(), trainer.logits())


@pytest.mark.parametrize("hidden", [HIDDEN, NORMED])
def test_a_seed_decides_alone(make: Make, hidden: str) -> None:
    """Whether a graph is new or was used, and whatever was trained before."""
    fresh, used = Trainer(make("three")), Trainer(make("three"))
    found = train(fresh, ADAM, hidden, seed=3)
    first = weights(fresh)
    others = [train(used, ADAM, hidden, seed=seed, rate=rate) for seed, rate in ((3, 0.1), (4, 0.01))]
    train(used, ADAM, "[dense: 3, dropout: 0.5]")
    with pytest.raises(Diverged):
        train(used, "optimizer: sgd", hidden, rate=1e38)
    again = train(used, ADAM, hidden, seed=3)
    assert (again.epochs, again.loss) == (found.epochs, found.loss)
    for name, value in weights(used).items():
        np.testing.assert_array_equal(value, first[name])
    assert len({one.loss for one in (found, *others)}) == 3
    assert used.architectures == 3


def test_rates_and_epochs_leave_the_graph(make: Make) -> None:
    trainer = Trainer(make("three"))
    losses = {train(trainer, ADAM, rate=rate, epochs=1).loss for rate in (0.1, 0.01, 0.001)}
    assert [len(train(trainer, ADAM, epochs=epochs).epochs) for epochs in (1, 2, 2.5, 0.1)] == [1, 2, 3, 1]
    assert len(losses) == 3 and trainer.architectures == 1
    for layers_of, made in ((1, 2), (2, 3), (1, 3), (2, 3)):
        train(trainer, ADAM, layers=layers_of)
        assert trainer.architectures == made


def test_graphs_that_were_not_used_for_long_go(make: Make) -> None:
    trainer = Trainer(make("two"), most_graphs=2)
    for nodes, made in ((4, 1), (5, 2), (4, 2), (6, 3), (4, 3), (5, 4)):
        train(trainer, ADAM, nodes=nodes, epochs=1)
        assert trainer.architectures == made
        assert len(trainer._graphs) <= 2
    trainer.close()
    assert not trainer._graphs


def test_a_part_of_an_epoch_has_a_part_of_the_rows(make: Make) -> None:
    """By schedule: steps, after which no row teaches anything."""
    count = len(make("two").training)
    assert [trial._counts(epochs, 10) for epochs in (1, 2.5, 0.01, 3.0000001)] == [[10], [10, 10, 5], [1], [10] * 3]
    assert count % 64, "the last batch is a smaller one"
    steps = "optimizer: sgd, batch_size: 64, schedule: steps, learning_rate_epochs: [2], learning_rate_factors: [1, 0]"
    trainer = Trainer(make("two"))
    short = train(trainer, steps, rate=0.1, epochs=2 + 64 / count)  # the step at the boundary has the rate before it
    first = trainer.logits()
    assert train(trainer, steps, rate=0.1, epochs=4).epochs == [*short.epochs, short.score]
    np.testing.assert_array_equal(first, trainer.logits())
    assert train(trainer, steps, rate=0.1, epochs=2).loss != short.loss


def test_rates_warm_up_and_fall(make: Make) -> None:
    """In one step an epoch: all rows."""
    trainer, one = Trainer(make("two")), "optimizer: sgd, batch_size: 1000"
    train(trainer, f"{one}, warmup_steps: 10", rate=0.5, epochs=1)
    warm = trainer.logits()
    train(trainer, one, rate=0.05, epochs=1)
    np.testing.assert_allclose(warm, trainer.logits(), rtol=1e-5)
    made = trainer.architectures
    linear = f"{one}, schedule: linear"
    for epochs in (2, 4, 2):
        train(trainer, linear, rate=0.4, epochs=epochs)
    assert trainer.architectures == made + 2, "the steps are in the graph"
    falls = trainer.logits()
    steps = f"{one}, schedule: steps, learning_rate_epochs: [1], learning_rate_factors: [1, 0.5]"
    train(trainer, steps.replace("[1]", "[0.5]"), rate=0.4, epochs=2)  # changes after the boundary
    np.testing.assert_allclose(falls, trainer.logits(), rtol=1e-4)
    assert train(trainer, f"{one}, schedule: cosine", rate=0.4, epochs=2).score > 0


def test_weights_add_to_the_loss(make: Make) -> None:
    trainer = Trainer(make("two"))
    hidden = "[dense: {units: 4, l1: 0.01, l2: 0.02}]"
    plain = train(trainer, ADAM, "[dense: {units: 4}]", rate=1e-30, epochs=1).loss
    found = train(trainer, f"{ADAM}, weight_decay: 0.1", hidden, rate=1e-30, epochs=1).loss
    values = weights(trainer)
    kernel = values["dense0/kernel"]
    more = 0.01 * np.abs(kernel).sum() + 0.01 * np.square(kernel).sum()
    assert found - plain == pytest.approx(more + 0.05 * sum(np.square(one).sum() for one in values.values()), rel=1e-4)
    for more_training, more_layer in ((", weight_decay: 0.1", ""), ("", ", l2: 0.1"), ("", ", l1: 0.1")):
        train(trainer, ADAM + more_training, f"[dense: {{units: 4{more_layer}}}]", epochs=20)
        assert np.abs(weights(trainer)["dense0/kernel"]).mean() < 0.8 * np.abs(kernel).mean()


@pytest.mark.parametrize("name", layers.INITIALIZERS)
def test_weights_begin_as_tensorflow_has_them(make: Make, name: str) -> None:
    trainer = Trainer(make("two"))
    for seed in (1, 1, 2):
        train(trainer, ADAM, f"[dense: {{units: 2000, initializer: {name}}}]", rate=1e-30, epochs=0.01, seed=seed)
        found = weights(trainer)["dense0/kernel"]
        wanted = layers.INITIALIZERS[name]()(found.shape).numpy()
        assert found.std() == pytest.approx(wanted.std(), rel=0.03)
        assert np.abs(found).max() == pytest.approx(np.abs(wanted).max(), rel=0.01)
    assert name == "zeros" or abs(found.mean()) < 0.03 * found.std()


def test_metrics_of_the_file_are_given(make: Make) -> None:
    found = train(Trainer(make("three")), f"{ADAM}, metrics: [mean_per_class_accuracy, top_3_accuracy]")
    assert found.metrics.keys() == {"accuracy", "mean_per_class_accuracy", "top_3_accuracy"}
    assert found.metrics["top_3_accuracy"] == 1 and found.metrics["accuracy"] == found.accuracy


def test_rows_are_loaded_and_evaluated_some_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    found = train(Trainer(make("three")), ADAM, NORMED)
    monkeypatch.setattr(trial, "LOADED", 70 * 4 * make("three").training.shape[1])
    again = train(Trainer(make("three")), ADAM, NORMED)
    assert again.epochs == pytest.approx(found.epochs) and again.loss == pytest.approx(found.loss, rel=1e-5)


def test_rows_may_stay_in_a_file(make: Make, tmp_path: Path) -> None:
    prepared = make("two")
    mapped = {}
    for name in ("training", "training_labels", "held_out", "held_out_labels"):
        np.save(tmp_path / name, getattr(prepared, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    found = train(Trainer(dataclasses.replace(prepared, **mapped)), ADAM)
    assert found.epochs == train(Trainer(prepared), ADAM).epochs


def test_it_ends_where_it_is_told_to(make: Make) -> None:
    trainer = Trainer(make("three"))
    asked = []

    def stop(epoch: int, score: float) -> bool:
        asked.append((epoch, score))
        return epoch == 2

    found = train(trainer, ADAM, epochs=9, stop=stop)
    assert found.early and asked == list(enumerate(found.epochs, 1)) and len(asked) == 2
    assert not train(trainer, ADAM, epochs=2, stop=stop).early

    def fail(epoch: int, score: float) -> bool:
        raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        train(trainer, ADAM, stop=fail)
    assert train(trainer, ADAM, epochs=2).epochs == found.epochs


@pytest.mark.parametrize("task", ["three", "regression"])
def test_a_loss_without_end_is_said(make: Make, task: str) -> None:
    trainer = Trainer(make(task))
    with pytest.raises(Diverged, match=r"in epoch 1, at the learning rate 1e\+38: train with a smaller one\.$"):
        train(trainer, "optimizer: sgd", rate=1e38)
    with pytest.raises(BadInput, match="the last one failed"):
        trainer.logits()
    assert train(trainer, "optimizer: sgd").score > -1


def test_too_little_memory_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(make("two"))
    for error in (MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(TooLarge, match=r"in batches of 32, needs more memory .* vary fewer nodes"),
        ):
            patch.setattr(trial._Graph, "epoch", lambda *_given, error=error: (_ for _ in ()).throw(error))
            train(trainer, ADAM)
        assert not trainer._graphs
    assert train(trainer, ADAM).score > 0.9
    with pytest.raises(TooLarge, match=r"of 4,0\d\d,\d\d\d parameters.*\(0.\d+ GB, of 0.001 GB\)"):
        train(Trainer(make("two"), most_bytes=10**6), ADAM, "[dense: 2000, dense: 2000]")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"augment": True}, "augment crops and flips images"),
        ({"clip": 1.0}, "clip is nothing that a sweep's training knows"),
        ({"loss": "hinge"}, "loss is hinge, which is of classes"),
    ],
)
def test_what_cannot_be_done_is_refused(make: Make, settings: dict[str, Any], sentence: str) -> None:
    trainer = Trainer(make("regression"))
    made, key = network(make("regression"), ADAM)
    with pytest.raises(BadInput, match=sentence):
        trainer.train(made._replace(settings={**made.settings, **settings}), key, 0)


@pytest.mark.parametrize("task", ["two", "three", "regression"])
@pytest.mark.parametrize("hidden", [HIDDEN, NORMED])
def test_an_exported_network_takes_a_table_as_it_is(make: Make, tmp_path: Path, task: str, hidden: str) -> None:
    prepared = make(task)
    trainer = Trainer(prepared)
    train(trainer, ADAM, hidden)
    trainer.export(tmp_path / "model")
    call = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    names, *every = rows(task)
    raw = [every[row] for row in prepared.held_out_rows]
    features = {one["name"]: one for one in prepared.description["columns"]}
    assert set(features) == set(names[:-1])
    cells = {name: [row[place] for row in raw] for place, name in enumerate(names[:-1])}
    kinds = set(cells["kind"])
    assert "?" in kinds and kinds - set(features["kind"]["values"]) - {"?"}, "one is missing, one was never seen"
    assert task == "regression" or "NA" in cells["größe"]
    given = {
        name: tf.constant([np.nan if cell == "NA" else float(cell) for cell in cells[name]]) for name in names[1:3]
    }
    given["self_"] = tf.constant(list(map(float, cells["self"])))
    given["kind"] = tf.constant([f"\u00a0{cell}\t" for cell in cells["kind"]])
    answer = {name: value.numpy() for name, value in call(**given).items()}
    logits, label = trainer.logits(), prepared.description["label"]
    if task == "regression":
        wanted = logits[:, 0] * label["std"] + label["mean"]
        assert answer.keys() == {"prediction"}
        np.testing.assert_allclose(answer["prediction"], wanted, rtol=1e-5)
        return
    assert answer.keys() == {"class", "label", "probabilities"} and answer["class"].dtype == np.int64
    np.testing.assert_array_equal(answer["class"], logits.argmax(1))
    assert [text.decode() for text in answer["label"]] == [label["classes"][n] for n in logits.argmax(1)]
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(answer["probabilities"], wanted, rtol=1e-4, atol=1e-6)


def test_what_is_exported_needs_a_network_and_a_folder(make: Make, tmp_path: Path) -> None:
    trainer = Trainer(make("two"))
    with pytest.raises(BadInput, match="There is no trained network"):
        trainer.export(tmp_path / "model")
    train(trainer, f"{ADAM}, loss: sigmoid_cross_entropy")
    trainer.export(tmp_path / "model")
    call = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    missing = tf.constant([np.nan, np.inf, 1e38])
    answer = call(**{"self_": missing, "a b": missing, "größe": missing, "kind": tf.constant(["", "-", "new"])})
    assert np.isfinite(answer["probabilities"]).all()
    assert answer["probabilities"].numpy()[0].sum() != pytest.approx(1, abs=1e-6)
    with pytest.raises(BadInput, match="isn't empty"):
        trainer.export(tmp_path / "model")


def test_inputs_are_called_as_columns_are() -> None:
    assert export.inputs(["a b", "A", "self", "self_", "", "_"]) == {
        "a b": "a b", "A": "A", "self": "self__", "self_": "self_", "": "__", "_": "_",
    }  # fmt: skip


def test_a_network_file_is_written(make: Make, tmp_path: Path) -> None:
    made, _key = network(make("two"), ADAM, NORMED)
    file = tmp_path / "network.yml"
    file.write_text(export.network_file(made))
    assert network_file.load(str(file)).design() == made.design
    assert "größe" in file.read_text()
    assert json.dumps(made.settings, sort_keys=True) == json.dumps(
        network_file.load(str(file)).settings, sort_keys=True
    )
