"""A sweep's file: what is refused, and where; which networks it makes, in which order, and what they are."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla.job import documents, network_file
from flotilla.job.errors import BadInput
from flotilla.sweep import ledger, plan, sampler

ROOT = Path(__file__).parents[2]
DATA = "data: rows.csv\nlabel: y\n"
BASE = """network:
  network:
    layers:
      - batch_norm
      - dense: 8
      - dropout: 0.5
      - dense: {units: 4, activation: tanh, name: last}
  training: {optimizer: momentum, momentum: 0.8, loss: hinge}
"""
COLUMNS = ["a", "b", "c"]


def judged(text: str, name: str = "s.yml") -> plan.Sweep:
    return plan.judge(documents.parse(text, name, "sweep"))


def sweep(vary: str, more: str = "") -> plan.Sweep:
    return judged(f"{DATA}{more}vary: {{{vary}}}\n")


def layers(found: plan.Sweep, **parameters: Any) -> Any:
    content: Any = plan.network_of(found, plan.point_of(parameters), COLUMNS, 3)
    return content["network"]["layers"]


def test_the_examples_are_taken() -> None:
    iris, defaults = (plan.load(str(ROOT / "sweeps" / name)) for name in ("iris.yml", "defaults.yml"))
    assert (iris.data, iris.label, plan.count(iris)) == ("iris.csv", "species", 1000)
    for point in itertools.islice(plan.points(iris), 50):
        made = plan.made(iris, point, ["sepal", "petal"], 3)
        assert made.settings["epochs"] == 40
        assert len(made.design.layers) == int(point.parameters["layers"]) + 1
    assert (defaults.how, defaults.trials, defaults.split, defaults.best) == ("random", 1000, 0.2, 5)
    assert (defaults.task, defaults.seed) == ("auto", 0)
    assert defaults.vary["layers"].ends == (1, 700)
    found = list(plan.points(defaults))
    assert len({point.identity for point in found}) == 1000
    assert len({plan.architecture_of(point) for point in found}) <= 264
    assert {path.name for path in (ROOT / "sweeps").glob("*.yml")} == {"iris.yml", "defaults.yml"}, "test it here"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "s.yml, line 1: there is nothing in it: write a sweep."),
        ("- a\n", "line 1: this is no sweep: write a mapping with the keys data and label."),
        ("label: y\n", "line 1: the file has no data: write it."),
        ("data: rows.csv\nlabel: 4\n", "line 2: label is 4: write text."),
        ("data: rows.csv\nlabel: yes\n", "line 2: label is true: write text."),
        ("data: rows.csv\nlabel: ''\n", "line 2: label is '': write some text."),
        ("data: http://x/rows.csv\nlabel: y\n", "line 1: data is of http://: give s3://, hdfs:// or a path"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as error:
        judged(text)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("trails: 5\n", "line 3: the file has no key trails: did you mean trials?"),
        ("trials: 0\n", "line 3: trials is 0: write at least 1."),
        ("trials: -3\n", "line 3: trials is -3: write at least 1."),
        ("trials: 1.5\n", "line 3: trials is 1.5: write a whole number."),
        ("trials: 200000\n", "line 3: trials is 200000: write at most 100000."),
        ("split: 1\n", "line 3: split is 1: write less than 1."),
        ("how: gird\n", "line 3: how is 'gird': did you mean grid?"),
        ("task: regresion\n", "line 3: task is 'regresion': did you mean regression?"),
        ("epochs: 0\n", "line 3: epochs is 0: write more than 0."),
        ("best: 0\n", "line 3: best is 0: write at least 1."),
        ("vary: {}\n", "line 3: nothing varies, so all networks were the same: write what does under vary"),
        (BASE, "line 3: nothing varies, so all networks were the same"),
        (
            "vary: {layer: [1, 2]}\n",
            "vary has layer, and no layer or key of the network is called so: the nearest is layers (",
        ),
        (
            "vary:\n  network.layers.3.dense.units: [1, 2]\n",
            "is called so: the nearest is network.layers.0.dense.units (",
        ),
        ("vary:\n  training.momentun: [0.1, 0.2]\n", "line 4: training has no key momentun: did you mean momentum?"),
        ("vary: {network.classes: [2, 3]}\n", "line 3: network.classes is what the data or the fleet say"),
        ("vary: {fleet.ps.count: [2, 3]}\n", "line 3: fleet.ps.count is what the data or the fleet say"),
        ("vary:\n  layers: []\n", "line 4: vary.layers has 0 values: write at least 1 (values)."),
        ("vary: {layers: 3}\n", "line 3: layers is one value: write a list of choices, or {from: …, to: …}"),
        ("vary: {nodes: [1, ~]}\n", "line 3: nodes has an empty value, or a date: write text or a number."),
        ("vary:\n  nodes:\n    - 3\n    - 3\n", "line 6: nodes has 3 twice: leave one out."),
        ("vary:\n  nodes:\n    to: 3\n    from: 5\n", "line 6: nodes goes from 5 to 3: write the smaller one"),
        ("vary: {nodes: {from: 5}}\n", "line 3: vary.nodes has no to: write it."),
        ("vary: {nodes: {from: 5, to: 9, by: 2}}\n", "line 3: vary.nodes has no key by: "),
        ("vary: {nodes: {from: 5, to: 9, step: 0}}\n", "line 3: vary.nodes.step is 0: write more than 0."),
        ("vary: {nodes: {from: a, to: 9}}\n", "line 3: vary.nodes.from is 'a': write a number."),
        ("vary: {learning_rate: {from: 0, to: 1, scale: log}}\n", "learning_rate has a log scale from 0: it has"),
        ("vary: {learning_rate: {from: 0.1, to: 1, scale: log, step: 2}}\n", "learning_rate has steps on a log"),
        ("vary: {dropout: {from: 0.1, to: 0.10000000001}}\n", "as good as the same: write a list."),
        ("vary: {layers: [0, 1]}\n", "line 3: layers has 0: write whole numbers from 1 to 1000."),
        ("vary: {nodes: [3], layers: {from: 1, to: 1000000000}}\n", "layers has 1000000000: write whole numbers"),
        ("vary: {layers: [two]}\n", "line 3: layers has two: write whole numbers from 1 to 1000."),
        ("vary:\n  nodes:\n    - 4\n    - many\n", "line 6: network.layers 1.dense.units is 'many': write a whole"),
        (
            "vary: {nodes: {from: 1, to: 4.5}}\n",
            "line 3: network.layers 1.dense.units is 1.0: write a whole number.",
        ),
        ("vary: {nodes: [8.0]}\n", "line 3: network.layers 1.dense.units is 8.0: write a whole number."),
        ("vary: {optimizer: [adam, sdg]}\n", "line 3: training.optimizer is 'sdg': did you mean sgd?"),
        ("vary: {dropout: {from: 0, to: 1.5}}\n", "line 3: network.layers 2.dropout is 1.5: write less than 1."),
        ("vary: {network.layers: [[dence: 4], [dense: 5]]}\n", "network.layers 1 has no key dence: did you mean"),
        ("vary: {network.layers: [[{dense: 4, dropout: 0.1}]]}\n", "network.layers 1 has dense and dropout: write"),
        ("vary: {network.layers: ['[dense']}\n", "line 3: network.layers is '[dense': write a list."),
        ("vary: {learning_rate: [1], training.learning_rate: [2]}\n", "training.learning_rate sets the same as"),
        (
            "vary: {nodes: [1, 2], network.layers.0.dense.units: [2, 3]}\n",
            "network.layers.0.dense.units changes no network: ",
        ),
        ("vary: {optimizer: [momentum, adam], training.momentum: [0.8]}\n", "momentum is of optimizer: momentum"),
        ("epochs: 4\nvary: {training.epochs: [1, 2]}\n", "line 3: epochs and vary's training.epochs are the same"),
        (BASE + "vary: {nodes: [4], network.layers.3.dense.units: [1, 2]}\n", "line 11: network.layers.3.dense"),
        ("network: 3\nvary: {nodes: [4]}\n", "line 3: network is neither a path nor a network's content"),
        (
            "network: {path: a.yml, network: {layers: []}}\nvary: {nodes: [4]}\n",
            "line 3: network is a path or a network's content, not both",
        ),
        ("network: a.yml\nnetwork: {network: {layers: []}}\n", "line 4: network is there twice, first in line 3"),
        ("network: nowhere.yml\nvary: {nodes: [4]}\n", "nowhere.yml can't be read (No such file or directory)"),
        ("network: {layers: []}\nvary: {nodes: [4]}\n", "line 3: layers is a key too high"),
        (
            "network:\n  network:\n    layers:\n      - dence: 3\nvary: {nodes: [4]}\n",
            "line 6: network.layers 1 has no key dence: did you mean dense?",
        ),
        (
            "network:\n  network:\n    layers:\n      - dense: 3.0\nvary: {nodes: [4]}\n",
            "line 6: network.layers 1.dense is 3.0",
        ),
        (
            "network:\n  network:\n    layers:\n      - pool: {size: 2}\nvary: {nodes: [4]}\n",
            "line 6: layer 1, pool takes an image",
        ),
        (
            "network: {network: {layers: [batch_norm]}}\nvary: {nodes: [4, 5]}\n",
            "nodes changes no network: the base has no such layer",
        ),
        (
            f"network: {ROOT}/networks/cuttlefish-5x3.yml\nvary: {{nodes: [4]}}\n",
            "cuttlefish-5x3.yml, line 4: Cuttlefish's form is of images",
        ),
        (f"network: {ROOT}/networks/lenet.yml\nvary: {{nodes: [4]}}\n", "a sweep's rows are columns, not images"),
        ("task: regression\n" + BASE + "vary: {nodes: [4, 5]}\n", "line 11: loss is hinge, which is of classes"),
        ("how: grid\n", "learning_rate is anything 0.0001 to 0.1 on a log scale, and a grid has no end so"),
        (
            "how: grid\ntrials: 5\nvary: {nodes: [1, 2], batch_size: [1, 2, 3]}\n",
            "the grid has 6 networks, and trials asks for 5: ",
        ),
        (
            "how: grid\nvary: {layers: &k {from: 1, to: 1000}, nodes: *k, batch_size: *k}\n",
            "line 4: the grid has 1,000,000,000 networks, and a sweep has at most 100,000: vary less",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence_with_its_line(more: str, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput) as error:
        judged(DATA + more)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20


def test_a_grid_has_each_set_once_and_its_architectures_in_blocks() -> None:
    found = sweep("learning_rate: [0.1, 0.2], layers: [1, 2], nodes: {from: 4, to: 12, step: 4}", "how: grid\n")
    points = list(plan.points(found))
    assert [point.number for point in points] == list(range(12))
    assert plan.count(found) == found.trials == len({point.identity for point in points}) == 12
    blocks = [key for key, _ in itertools.groupby(map(plan.architecture_of, points))]
    assert len(blocks) == len(set(blocks)) == 6
    assert points[0].parameters == {"learning_rate": 0.1, "layers": 1, "nodes": 4}
    assert "a grid: every set of parameters, in at most 6 architectures." in plan.says(found, 12)[1]


def test_values_with_steps_are_as_people_write_them() -> None:
    found = sweep("dropout: {from: 0.1, to: 0.55, step: 0.1}, training.warmup_steps: {from: 0, to: 5, step: 3}")
    values = [point.parameters["dropout"] for point in plan.points(found)]
    assert values == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    assert found.vary["training.warmup_steps"].ends == (0, 3)


@pytest.mark.parametrize(
    "vary",
    [
        "layers: [1, 2], nodes: [4, 5], learning_rate: {from: 0.001, to: 0.1, scale: log}",
        "nodes: {from: 1, to: 100000, scale: log}, dropout: {from: 0, to: 0.5}, batch_size: {from: 1, to: 50}",
        "nodes: {from: 1, to: 700}",  # of few more than are asked for
        "layers: [1, 2], nodes: {from: 1, to: 700}, learning_rate: [0.1, 0.2]",
    ],
)
def test_random_points_are_different_ones_in_blocks(vary: str) -> None:
    found = sweep(vary, "trials: 500\nseed: 3\n")
    points = list(plan.points(found))
    assert len(points) == len({point.identity for point in points}) == plan.count(found) == 500
    blocks = [key for key, _ in itertools.groupby(map(plan.architecture_of, points))]
    assert len(blocks) == len(set(blocks))
    assert points == list(plan.points(found))
    assert points != list(plan.points(sweep(vary, "trials: 500\nseed: 4\n")))
    for name, values in found.vary.items():
        drawn: Any = [point.parameters[name] for point in points]
        assert all(value in values.choices for value in drawn) or min(drawn) >= values.low <= max(drawn) <= values.high


def test_a_log_scale_has_as_many_small_values_as_large_ones() -> None:
    found = sweep("learning_rate: {from: 1e-5, to: 1e-1, scale: log}, nodes: {from: 1, to: 10000, scale: log}")
    points = list(plan.points(found))
    for name, middle in (("learning_rate", 1e-3), ("nodes", 100)):
        assert 400 < sum(float(point.parameters[name]) < middle for point in points) < 600
    assert all(type(point.parameters["nodes"]) is int for point in points)


def test_where_there_are_fewer_than_asked_for_all_are_taken_and_it_is_said() -> None:
    found = sweep("layers: [1, 2, 3], activation: [relu, tanh]")
    assert plan.count(found) == len(list(plan.points(found))) == 6
    assert "They are every set of parameters: 1,000 are asked for, and there are no more" in plan.says(found, 6)[1]


def test_the_same_points_come_in_every_process() -> None:
    code = (
        "from flotilla.sweep import plan\nfrom flotilla.job import documents\n"
        f"found = plan.judge(documents.parse({DATA!r}, 's.yml'))\n"
        "print([(point.identity, plan.architecture_of(point)) for point in plan.points(found)])"
    )
    others = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT / "training",
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert others[0] == others[1]
    points = list(plan.points(judged(DATA)))
    assert others[0].strip() == str([(point.identity, plan.architecture_of(point)) for point in points])
    # What a database holds of an older version
    assert (points[0].identity, points[0].parameters) == (
        "67c4821cdb9c",
        {"layers": 500, "nodes": 64, "activation": "tanh", "optimizer": "sgd", "learning_rate": 0.0016398435,
         "batch_size": 128},
    )  # fmt: skip


def test_fifty_thousand_points_take_seconds_and_the_first_of_a_grid_none() -> None:
    began = time.process_time()
    assert len({point.identity for point in plan.points(judged(DATA + "trials: 50000\n"))}) == 50_000
    assert time.process_time() - began < 10
    grid = sweep("nodes: {from: 1, to: 1000}, batch_size: {from: 1, to: 100}", "how: grid\n")
    began = time.process_time()
    assert next(plan.points(grid)).parameters == {"nodes": 1, "batch_size": 1}
    assert time.process_time() - began < 0.1


def test_rates_and_epochs_alone_leave_an_architecture_as_it_is() -> None:
    first = plan.point_of({"layers": 2, "learning_rate": 0.1, "training.epochs": 3})
    assert plan.architecture_of(first) == plan.architecture_of(plan.point_of({"layers": 2, "learning_rate": 0.2}))
    for other in ({"layers": 3}, {"layers": 2, "batch_size": 4}, {"layers": 2, "optimizer": "sgd"}):
        assert plan.architecture_of(first) != plan.architecture_of(plan.point_of(other))


def test_a_sampler_proposes_what_the_file_says_none_twice_and_learns() -> None:
    found = sweep(
        "layers: {from: 1, to: 6, step: 2}, nodes: {from: 8, to: 64, scale: log}, activation: [relu, tanh], "
        "dropout: {from: 0.1, to: 0.5, step: 0.1}, learning_rate: {from: 1e-4, to: 1, scale: log}, "
        "training.schedule: [constant, linear], network.initializer: [he_normal, zeros], training.metrics: [[], "
        "[top_3_accuracy]]",
        "how: tpe\ntrials: 70\n",
    )
    proposes = sampler.Sampler(found)
    points = list(proposes.propose(0, 20))
    assert [point.number for point in points] == list(range(20)) and len({point.identity for point in points}) == 20
    assert {point.parameters["layers"] for point in points} == {1, 3, 5}
    assert {point.parameters["dropout"] for point in points} <= {0.1, 0.2, 0.3, 0.4, 0.5}
    assert all(8 <= int(point.parameters["nodes"]) <= 64 for point in points)
    lists = {str(point.parameters["training.metrics"]) for point in points}
    assert lists == {"[]", '["top_3_accuracy"]'}
    for point in points:
        made = plan.made(found, point, COLUMNS, 3)
        assert made.settings["schedule"] == point.parameters["training.schedule"]
        assert plan.point_of(json.loads(json.dumps(dict(point.parameters)))).identity == point.identity
    assert "chosen by TPE (seed 0)" in plan.says(found, 70)[1]
    with pytest.raises(ValueError, match="see sampler"):
        next(plan.points(found))

    def trial(point: plan.Point, state: str, score: float | None) -> ledger.Trial:
        more = (None, None, None, [], None, None, None, "")
        return ledger.Trial(point.number, point.identity, dict(point.parameters), state, 1, "", 0, 1, score, *more)

    told = [trial(point, ledger.DONE, float(point.parameters["activation"] == "tanh")) for point in points[:-1]]
    told.append(trial(points[-1], ledger.FAILED, None))
    for teller in (proposes, sampler.Sampler(found)):  # another process, too, learns from what is stored
        teller.learn(told)
        teller.learn(told)
        more = teller.propose(20, 20)
        assert not {point.identity for point in more} & {point.identity for point in points}
        assert sum(point.parameters["activation"] == "tanh" for point in more) > 12


def test_a_sampler_ends_where_there_is_nothing_new() -> None:
    proposes = sampler.Sampler(sweep("layers: [1, 2], nodes: [4, 5]", "how: tpe\ntrials: 70\n"))
    assert len(proposes.propose(0, 70)) == 4


def test_a_point_is_a_network_file_that_training_takes(tmp_path: Path) -> None:
    found = sweep("layers: [1, 2], nodes: [4, 5], optimizer: [sgd, adam]", "epochs: 3\n")
    point = list(plan.points(found))[-1]
    content = plan.network_of(found, point, COLUMNS, 3)
    assert content == {
        "network": {
            "input": {"columns": COLUMNS},
            "layers": [{"dense": {"units": 5, "activation": "relu"}}] * 2,
            "classes": 3,
        },
        "training": {"optimizer": "adam", "batch_size": 128, "epochs": 3},
    }
    file = tmp_path / "network.yml"
    file.write_text(yaml.safe_dump(content))
    design = network_file.load(str(file)).design((3,), 3)
    assert design == plan.made(found, point, COLUMNS, 3).design
    assert design.parameters == 3 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3


def test_a_regression_has_one_output_and_its_own_loss() -> None:
    found = sweep("layers: [1, 2]", "network: {network: {layers: [dense: 4]}, training: {metrics: [top_3_accuracy]}}\n")
    made = plan.made(found, plan.point_of({"layers": 2}), COLUMNS, 0)
    network: Any = made.content["network"]
    assert (network["classes"], made.settings["loss"]) == (1, "mean_squared_error")
    assert [layer.output for layer in made.design.layers] == [(4,), (4,), (1,)]
    assert made.design.columns == tuple(COLUMNS)


def test_what_the_data_lack_is_said() -> None:
    base = "network: {network: {input: {columns: [a, b, c]}, classes: 3, layers: [dense: 4]}}\n"
    found = sweep("nodes: [1, 2]", base)
    point = plan.point_of({"nodes": 2})
    assert plan.made(found, point, COLUMNS, 3).design.classes == 3
    with pytest.raises(BadInput, match=r"s.yml, line 3: columns aren't those that the data have"):
        plan.network_of(found, point, ["c", "b", "a"], 3)
    with pytest.raises(BadInput, match=r"s.yml, line 3: classes is 3, and the data set has 2 classes: write 2"):
        plan.network_of(found, point, COLUMNS, 2)
    with pytest.raises(BadInput, match=r"y has 1 classes in rows.csv: there is nothing to tell apart"):
        plan.network_of(found, point, COLUMNS, 1)


def test_shortcuts_change_all_hidden_layers_of_a_base() -> None:
    found = judged(DATA + BASE + "vary: {layers: [1, 2], training.momentum: [0.1, 0.2], network.layers.1.dense.bias: "
                   "[true, false]}\n")  # fmt: skip
    last = {"dense": {"units": 4, "activation": "tanh", "name": "last"}}
    assert layers(found) == ["batch_norm", {"dense": {"units": 8}}, {"dropout": 0.5}, last]
    hidden = [{"dense": {"units": 8}}, {"dropout": 0.5}]
    assert layers(found, layers=2) == ["batch_norm", *hidden, *hidden]
    assert layers(found, nodes=3, activation="elu", dropout=0.1) == [
        "batch_norm",
        {"dense": {"units": 3, "activation": "elu"}},
        {"dropout": 0.1},
        {"dense": {"units": 3, "activation": "elu", "name": "last"}},
    ]
    parameters = {"training.momentum": 0.1, "network.layers.1.dense.bias": False}
    made = plan.made(found, plan.point_of(parameters), COLUMNS, 3)
    assert (made.settings["momentum"], made.settings["loss"]) == (0.1, "hinge")
    assert not made.design.layers[1].bias
    content: Any = found.base
    assert content["training"]["momentum"] == 0.8  # as it was


def test_shortcuts_follow_how_a_base_is_written() -> None:
    normed = (
        "network: {network: {layers: [{dense: {units: 4, bias: false, name: first}}, batch_norm, activation: relu]}}\n"
    )
    found = sweep("layers: [1, 3], activation: [elu, selu], dropout: [0, 0.1]", normed)
    unit = [{"dense": {"units": 4, "bias": False}}, "batch_norm", {"activation": "elu"}, {"dropout": 0}]
    assert layers(found, layers=3, activation="elu", dropout=0) == unit * 3
    plain = sweep("layers: [1, 2], nodes: [5, 6]", "network: {network: {layers: [batch_norm]}}\n")
    assert layers(plain, layers=1, nodes=5) == ["batch_norm", {"dense": {"units": 5, "activation": "relu"}}]


def test_whole_stacks_of_layers_can_be_chosen_from() -> None:
    found = sweep("network.layers: [[dense: 4], [dense: 4, dense: {units: 2, activation: relu}]], dropout: [0.1, 0.2]")
    first, *_, last = plan.points(found)
    assert first.parameters["network.layers"] == '[{"dense":4}]'
    assert layers(found, **last.parameters) == [
        {"dense": {"units": 4}}, {"dropout": 0.2}, {"dense": {"units": 2, "activation": "relu"}}, {"dropout": 0.2},
    ]  # fmt: skip


def test_a_base_may_be_a_file_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "n.yml").write_text("network: {classes: 3, layers: [dense: 4]}\ntraining: {data_batch_size: 7}\n")
    file = tmp_path / "s.yml"
    file.write_text(DATA + "network: n.yml\nvary: {training.data_batch_size: [8, 9]}\n")
    found = plan.load(str(file))
    content: Any = plan.network_of(found, next(plan.points(found)), COLUMNS, 3)
    assert content["training"] == {"batch_size": 8, "epochs": 20}
    with pytest.raises(BadInput, match=r"n.yml, line 1: classes is 3, and the data set has 2"):
        plan.network_of(found, next(plan.points(found)), COLUMNS, 2)


def test_the_plan_is_said() -> None:
    found = plan.load(str(ROOT / "sweeps" / "iris.yml"))
    said = plan.says(found, plan.count(found))
    assert said[0].endswith(
        "1,000 networks that learn species of iris.csv; 20 % of the rows are held out, the best 5 are kept."
    )
    assert said[1:5] == [
        "They are drawn at random (seed 0) of endlessly many sets of parameters, in at most 96 architectures.",
        "epochs: 40",
        "layers: 1, 2, 3",
        "nodes: 4 to 32 by 4",
    ]
    assert "learning_rate: 0.001 to 0.1 on a log scale" in said
