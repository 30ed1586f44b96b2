"""Networks that are YAML files: what is refused, and where; what is made of those that are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flotilla import network as program
from flotilla.job import advice, design, documents, network_file
from flotilla.job.config import load
from flotilla.job.errors import BadInput

NETWORKS = sorted((Path(__file__).parents[2] / "networks").glob("*.yml"))
SOURCE = """
neural_network:
  num_of_hidden_layers: 3
  num_nodes_per_layer: 5
  num_classes: 10

training:
  epochs: 300
  data_batch_size: 100
  num_parameter_servers: 2

ecs:
  task_definition: 'cuttlefish-task-dev2:7'
  cluster: 'cuttlefish-dev'
  auto_scaling_group_resource_id: 'EC2-Cuttlefish'
"""
DENSE = "neural_network: {num_of_hidden_layers: 1, num_nodes_per_layer: 5, num_classes: 10}\n"
OURS = "network:\n  classes: 10\n  layers:\n"


def judged(text: str) -> network_file.NetworkFile:
    return network_file.judge(documents.parse(text, "n.yml"))


def test_a_file_of_the_source_is_taken_as_it_is() -> None:
    file = judged(SOURCE)
    found = file.design()
    assert [layer.output for layer in found.layers] == [(784,), (5,), (5,), (5,), (10,)]
    assert found.parameters == 784 * 5 + 5 + 2 * (5 * 5 + 5) + 5 * 10 + 10
    assert (file.settings["epochs"], file.batch_size, file.servers) == (300, 100, 2)
    assert file.notes == (
        "n.yml, line 12: ecs is Cuttlefish's place on AWS's container service and isn't used: the fleet is "
        "fleet_groups, in the account and region of the inventory.",
    )


def test_the_networks_have_the_sizes_of_their_sources() -> None:
    sizes = {path.stem: network_file.load(str(path)).design().parameters for path in NETWORKS}
    assert sizes == {
        "cuttlefish-5x3": 4_045,
        "cuttlefish-50x3": 44_860,
        "cuttlefish-500x4": 1_149_010,
        "cuttlefish-2500": 11_972_510,
        "mnist-128-64": 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10,
        "lenet": 61_706,
        "resnet44": 658_586,
    }
    assert all("# yaml-language-server: $schema=../training/" in path.read_text() for path in NETWORKS)


def bomb() -> str:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
    return "l0: &l0 [1, 1]\n" + levels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: there is nothing in it"),
        ("- a\n- b\n", "line 1: this is no network: write a mapping with the key network or neural_network."),
        ("training: {epochs: 1}\n", "line 1: there is no network: write the key network"),
        (DENSE + OURS + "    - flatten\n", "line 2: both network and neural_network are there: keep one."),
        ("network:\n\tclasses: 10\n", "line 2: there is a tab, and YAML indents by spaces: replace it."),
        ("network: [1,\n", "line 2: this isn't YAML ("),
        ("network: \x00\n", "line 1: there is a control character: remove it."),
        (DENSE + "---\n" + DENSE, "line 2: this isn't YAML (there is a second document, and a network is one)."),
        (DENSE + "training: {epochs: 1, epochs: 2}\n", "line 2: epochs is there twice, first in line 2: leave one out"),
        (DENSE + "training: {epochs: .inf}\n", "line 2: .inf isn't a number to count with"),
        (DENSE + "training: !!python/object:os.system {}\n", "line 2: the tag tag:yaml.org,2002:python/object:os.s"),
        (DENSE + "training: {epochs: !!python/name:os.system x}\n", "line 2: 'x' can't be read (could not determine"),
        (bomb(), "values: write less, without aliases of aliases."),
        ("a: &a [*a]\n", "values: write less, without aliases of aliases."),
        ("[" * 60, "line 1: values lie more than 30 deep in one another: write less."),
        (OURS + "    - dence: 10\n", "line 4: network.layers 1 has no key dence: did you mean dense?"),
        (OURS + "    - flaten\n", "line 4: network.layers 1 is 'flaten': did you mean flatten?"),
        (OURS + "    - dense: {units: 10.0}\n", "dense.units is 10.0: write a whole number."),
        (OURS + "    - dense: {units: 10, activaton: relu}\n", "has no key activaton: did you mean activation?"),
        (OURS + "    - dense: {units: 10, activation: rleu}\n", "is 'rleu': did you mean relu?"),
        (OURS + "    - dense: ten\n", "line 4: network.layers 1.dense is 'ten': write a whole number."),
        (OURS + "    - dense: 0\n", "line 4: network.layers 1.dense is 0: write at least 1."),
        (OURS + "    - dense: 1\n      conv: {}\n", "line 4: network.layers 1 has dense and conv: write one of dense,"),
        (OURS + "    - conv: {filters: 8}\n", "line 4: network.layers 1.conv has no kernel: write it."),
        (OURS + "    - dropout: 1.5\n", "line 4: network.layers 1.dropout is 1.5: write less than 1."),
        (OURS + "    - dense: {units: 5, name: x}\n    - dense: {units: 5, name: x}\n", "x is already taken in line 4"),
        (OURS + "    - dense: {units: 5, name: dense}\n", "line 4: the name dense is already taken by the kit"),
        ("network:\n  classes: 10\n  layers: {dense: 10}\n", "line 3: network.layers is a mapping: write a list."),
        ("network:\n  clases: 10\n  layers: []\n", "line 2: network has no key clases: did you mean classes?"),
        ("network:\n  layers: []\n", "line 1: network has no classes: write it."),
        (DENSE + "trainig: {}\n", "line 2: the file has no key trainig: did you mean training?"),
        (DENSE + "training: {optimizer: adm}\n", "line 2: training.optimizer is 'adm': did you mean adam?"),
        (DENSE + "training: {batch_size: 1, data_batch_size: 1}\n", "batch_size and data_batch_size are the same"),
        (DENSE + "training: {momentum: 0.9}\n", "momentum is of optimizer: momentum, not of adam: leave it out."),
        (DENSE + "training: {schedule: steps}\n", "schedule: steps needs learning_rate_epochs: write a list"),
        (DENSE + "training: {learning_rate_epochs: [1]}\n", "learning_rate_epochs is of schedule: steps"),
        (
            DENSE + "training: {schedule: steps, learning_rate_epochs: [1], learning_rate_factors: [1]}\n",
            "learning_rate_factors has 1 numbers for 1 learning_rate_epochs: write 2",
        ),
        (DENSE + "fleet: {ps: {count: two}}\n", "line 2: fleet.ps.count is 'two': write a whole number."),
        (DENSE + "fleet: {ps: {count: 0}}\n", "count is 0, but a fleet has a parameter server: write 1 or more."),
        (DENSE + "training: {num_parameter_servers: 2}\nfleet: {ps: {count: 1}}\n", "line 3: count is 1, and num_par"),
        (
            "neural_network: {num_of_hidden_layers: 2, num_nodes_per_layer: [1, 2, 3], num_classes: 10}\n",
            "num_nodes_per_layer lists 3 layers, and num_of_hidden_layers is 2: write 3 there",
        ),
        (
            "network:\n  input: {image: [8, 8, 1], columns: [a]}\n  classes: 2\n  layers: []\n",
            "line 2: network.input has image and columns: write one of image, columns.",
        ),
        (
            "network:\n  input: {image: [8, 8]}\n  classes: 2\n  layers: []\n",
            "line 2: network.input.image has 2 values: write 3 (height, width, channels).",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as raised:
        judged(text)
    assert str(raised.value).startswith("n.yml, line ") and sentence in str(raised.value)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("    - dense: 5\n", "line 4: layer 1, dense takes values side by side, and 28 x 28 x 1 (an image) comes in"),
        ("    - flatten\n    - conv: {filters: 2, kernel: 3}\n", "line 5: layer 2, conv takes an image"),
        ("    - flatten\n    - pool: {size: 2}\n", "layer 2, pool takes an image"),
        ("    - pool: {size: 30, padding: valid}\n", "layer 1, pool has a window of 30 x 30, and 28 x 28 x 1 comes in"),
        ("    - conv: {filters: 8, kernel: 1}\n    - block: {filters: 4}\n", "layer 2, block has 4 filters, and 8 cha"),
    ],
)
def test_layers_that_dont_fit(layers: str, sentence: str) -> None:
    with pytest.raises(BadInput) as raised:
        judged(OURS + layers).design()
    assert sentence in str(raised.value)


def test_what_the_data_are_is_compared() -> None:
    file = judged("network:\n  input: {image: [28, 28, 1]}\n  classes: 10\n  layers: [flatten]\n")
    assert file.design((28, 28, 1), 10).parameters == 7850
    with pytest.raises(BadInput, match=r"line 3: classes is 10, and the data set has 4 classes: write 4\."):
        file.design((28, 28, 1), 4)
    with pytest.raises(BadInput, match=r"line 2: image is 28 x 28 x 1, and the data set has images of 16 x 16 x 3"):
        file.design((16, 16, 3), 10)
    with pytest.raises(BadInput, match=r"line 1: num_classes is 10, and the data set has 2 classes"):
        judged(DENSE).design((28, 28, 1), 2)


def test_a_long_file_isnt_read(tmp_path: Path) -> None:
    file = tmp_path / "long.yml"
    with file.open("wb") as out:
        out.truncate(50_000_000)
    with pytest.raises(BadInput, match="has more than 100 kB"):
        documents.read(str(file))
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(BadInput, match="line 2: this isn't UTF-8 text"):
        documents.read(str(file))
    with pytest.raises(BadInput, match=r"nowhere can't be read \(No such file"):
        documents.read(str(tmp_path / "nowhere"))


def test_numbers_as_yaml_1_2_has_them() -> None:
    assert documents.parse("a: [1e-3, 2.0e-4, 1E3, -1e2]\n", "x").content == {"a": [0.001, 0.0002, 1000.0, -100.0]}


def test_what_the_job_sets_wins(tmp_path: Path) -> None:
    file = tmp_path / "n.yml"
    file.write_text(DENSE + "training: {epochs: 2, batch_size: 50, learning_rate: 1e-2}\n")
    given = ["--network", str(file), "--data-dir", "/d", "--model-dir", "/m"]
    job = load(given)
    assert (job.max_steps, job.epochs, job.batch_size, job.learning_rate) == (0, 2, 50, 0.01)
    assert (job.optimizer, job.schedule, job.augment, job.weight_decay) == ("adam", "linear", False, 0)
    assert job.with_steps(1010, 1).max_steps == 41, "the last batch is filled from the next epoch"
    own = load([*given, "--max-steps", "7", "--batch-size", "5", "--optimizer", "sgd"])
    assert (own.max_steps, own.batch_size, own.optimizer) == (7, 5, "sgd")
    fleets = load([*given, "--max-steps", "0", "--batch-size", "0"])
    assert (fleets.max_steps, fleets.batch_size) == (0, 50), "0 leaves it to the file"
    with pytest.raises(BadInput, match="and a job trains one: leave one out"):
        load([*given, "--program", "/p/main.py"])
    with pytest.raises(BadInput, match="max_steps is 0: give a number of at least 1"):
        load([*given[2:], "--max-steps", "0"])


def test_a_job_is_of_its_network(tmp_path: Path) -> None:
    """Its steps may be others, and its text; another layer is another network."""
    names = set()
    texts = (DENSE, f"# said\n{DENSE}training: {{epochs: 9}}\n", DENSE.replace("5", "6"))
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.yml"
        file.write_text(text)
        names.add(load(["--network", str(file), "--data-dir", "/d", "--model-dir", "/m"]).program_name)
    assert len(names) == 2 and all(re.fullmatch(r"network [0-9a-f]{12}", name) for name in names)


def test_steps_of_synchronous_training() -> None:
    given = ["--data-dir", "/d", "--model-dir", "/m", "--batch-size", "100", "--max-steps", "0", "--epochs", "2"]
    assert load(given).with_steps(1000, 2).max_steps == 20
    assert load([*given, "--sync", "true"]).with_steps(1000, 2).max_steps == 10


def test_what_a_fleet_carries() -> None:
    found = judged(SOURCE.replace(": 5\n", ": 500\n")).design()
    one, two = found.traffic(1), found.traffic(2)
    assert one == [pytest.approx(2 * 32 * found.parameters / 1e6, rel=1e-4)]
    assert sum(two) == pytest.approx(one[0]) and max(two) < 0.65 * one[0]
    flops = found.flops(100)
    # Three times the products of weights, but for the first layer's way back.
    products = [784 * 500, 500 * 500, 500 * 500, 500 * 10]
    assert flops == pytest.approx(2 * 100 * (3 * sum(products) - products[0]), rel=0.01)


def test_advice_grows_with_the_network() -> None:
    small, large = (network_file.load(str(NETWORKS[0].with_name(f"cuttlefish-{n}.yml"))) for n in ("5x3", "500x4"))
    advised = [advice.advise(file, file.design()) for file in (small, large)]
    assert advised[0].server_type == "m5.large" and advised[0].servers == 1
    assert advised[1].busiest > 100 * advised[0].busiest
    free = judged(DENSE.replace("5", "3000").replace("layers: 1", "layers: 3"))
    assert advice.advise(free, free.design()).servers > 1
    groups = advice.groups(large, advised[1])
    assert groups["ps"]["count"] == 1 and groups["chief"] == {"count": 1, "instance_type": advised[1].trainer_type}
    asked = judged(DENSE + "fleet: {worker: {count: 7, instance_type: c5.xlarge}, chief: {instance_type: c5.large}}\n")
    groups = advice.groups(asked, advice.advise(asked, asked.design()))
    assert groups["worker"] == {"count": 7, "instance_type": "c5.xlarge"}
    assert groups["chief"] == {"count": 1, "instance_type": "c5.large"}


def test_a_network_that_no_host_holds_is_said() -> None:
    file = judged(DENSE.replace("5", "1000000").replace("layers: 1", "layers: 2"))
    assert "GiB of memory, more than any type here has" in advice.advise(file, file.design()).notes[0]


def test_the_program_prints_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    lenet = str(NETWORKS[0].with_name("lenet.yml"))
    assert program.main([lenet]) == 0
    said = capsys.readouterr().out
    assert "61,706 parameters" in said and re.search(r"conv conv1 +10 x 10 x 16 +2,416", said)
    assert program.main([lenet, "--data", str(data_dir / "manifest.json")]) == 2
    assert "lenet.yml, line 6: classes is 10, and the data set has 4 classes: write 4." in capsys.readouterr().err
    assert program.main([str(tmp_path / "nowhere.yml")]) == 2
    assert program.main([lenet, "--data", str(tmp_path / "nowhere.json")]) == 2


def test_resnet_is_the_built_in_one() -> None:
    file = network_file.load(str(NETWORKS[0].with_name("resnet44.yml")))
    built_in = design.resnet(44, (32, 32, 3), 10)
    assert file.design((32, 32, 3), 10) == built_in
    settings: Any = load(["--data-dir", "/d", "--model-dir", "/m"])
    for key, value in file.settings.items():
        if key not in ("epochs",):
            assert getattr(settings, key) == (tuple(value) if isinstance(value, list) else value), key
