"""The configuration: file, command line, and one sentence for what can't work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flotilla.job.config import TrainConfig, load
from flotilla.job.errors import BadInput

DIRS = ["--data-dir", "/data", "--model-dir", "/model"]


def test_defaults_are_the_thesis() -> None:
    config = load(DIRS)
    assert (config.batch_size, config.learning_rate, config.momentum, config.weight_decay) == (
        128,
        0.1,
        0.9,
        2e-4,
    )
    assert config.learning_rate_epochs == (82, 123, 300)
    assert config.learning_rate_factors == (1, 0.1, 0.01, 0.002)
    assert (config.resnet_size, config.warmup_steps, config.max_steps) == (44, 1000, 60_000)


def test_command_line_overrides_file(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(
        json.dumps({"data_dir": "hdfs://ps-0:8020/datasets/x", "model_dir": "/m", "max_steps": 400, "seed": 1})
    )
    config = load(["--config", str(file), "--max-steps", "50", "--learning-rate-epochs", "1", "2", "3.5"])
    assert (config.max_steps, config.seed, config.learning_rate_epochs) == (50, 1, (1.0, 2.0, 3.5))
    assert TrainConfig(**config.as_dict()) == config
    assert json.loads(json.dumps(config.as_dict()))["learning_rate_epochs"] == [1.0, 2.0, 3.5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "data_dir is missing"),
        (["--data-dir", "/d"], "model_dir is missing"),
        ([*DIRS, "--max-steps", "abc"], "max_steps is 'abc' in the command line: give a whole number"),
        ([*DIRS, "--max-steps", "1.5"], "whole number"),
        ([*DIRS, "--max-steps", "inf"], "whole number"),
        ([*DIRS, "--max-steps", "0"], "max_steps is 0: give a number of at least 1"),
        ([*DIRS, "--batch-size", "-1"], "batch_size is -1"),
        ([*DIRS, "--learning-rate", "nan"], "learning_rate is nan"),
        ([*DIRS, "--learning-rate-epochs", "3", "2", "9"], "growing"),
        ([*DIRS, "--learning-rate-epochs", "3"], "one factor more"),
        ([*DIRS, "--resnet-size", "45"], "6n \\+ 2"),
        ([*DIRS, "--mirror", "s3://bucket"], "mirror is 's3://bucket': give s3://bucket/prefix/, or leave it out"),
        ([*DIRS, "--scheme", "horovod"], "scheme is 'horovod': give one of estimator, session"),
        ([*DIRS, "--sync", "perhaps"], "sync is 'perhaps' in the command line: give true or false"),
        ([*DIRS, "--sync", "true", "--cluster", '{"ps": ["a:1"], "chief": ["b:1"]}'], "the chief trains alone"),
        ([*DIRS, "--name", "a/b"], "name is 'a/b'"),
        (["--data-dir", "s3://b/p", "--model-dir", "/m"], "data_dir is 's3://b/p'"),
        (["--data-dir", "hdfs:///p", "--model-dir", "/m"], "data_dir is 'hdfs:///p'"),
        (["--config", "/nowhere.json"], "/nowhere.json can't be read: No such file"),
    ],
)
def test_bad_arguments_are_said_in_one_sentence(arguments: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        load(arguments)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "isn't JSON"),
        ("[]", "isn't a JSON object"),
        ('{"max_step": 1}', "unknown key 'max_step'"),
        ('{"max_steps": true}', "max_steps is True"),
        ('{"max_steps": null}', "max_steps is None"),
        ('{"max_steps": 1e999}', "whole number"),
        ('{"name": 3}', "give a text"),
        ('{"learning_rate_epochs": 3}', "give a list of numbers"),
        ('{"cluster": 3}', "give an object"),
        ('{"cluster": "{"}', "cluster isn't JSON"),
    ],
)
def test_bad_files_are_said_in_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=words):
        load(["--config", str(file), *DIRS])


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{key.replace('_', '-')}" in text for key in load(DIRS).as_dict())
