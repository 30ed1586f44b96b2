"""The configuration of an inference: a JSON file, which the role infer writes."""

from __future__ import annotations

import dataclasses
import json
import sys

from flotilla.job.config import read_object
from flotilla.job.errors import BadInput
from flotilla.storage.s3 import parse_url

SCALES = ("0..1", "-1..1", "0..255")


@dataclasses.dataclass(frozen=True)
class InferConfig:
    """What is classified, by which model, and where the predictions go; the metadata are the help's texts."""

    model: str = dataclasses.field(
        default="",
        metadata={"help": "a model that a job has stored, or a SavedModel's folder: s3://, hdfs:// or a local path"},
    )
    source: str = dataclasses.field(
        default="", metadata={"help": "the folder of images, TFRecord, Parquet or CSV files: s3://, hdfs:// or local"}
    )
    target: str = dataclasses.field(default="", metadata={"help": "s3://bucket/prefix/, where the predictions go"})
    files: str = dataclasses.field(
        default="*", metadata={"help": "which files of the source, as a pattern of their paths (default: *)"}
    )
    signature: str = dataclasses.field(
        default="", metadata={"help": "the model's signature, where it has several (default: serving_default)"}
    )
    labels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "the classes' names, from class 0 on; without them those of the model's job"}
    )
    scale: str = dataclasses.field(
        default=SCALES[0], metadata={"help": f"of pixels, for a model of floats: {', '.join(SCALES)}"}
    )
    top: int = dataclasses.field(default=5, metadata={"help": "how many classes of each input are told (default: 5)"})
    whole_output: bool = dataclasses.field(default=False, metadata={"help": "tell the model's whole output, too"})
    hdf5: bool = dataclasses.field(default=False, metadata={"help": "write predictions.h5, too"})
    batch: int = dataclasses.field(default=64, metadata={"help": "inputs a call of the model (default: 64)"})
    most_broken: float = dataclasses.field(
        default=0.1, metadata={"help": "the share of broken inputs from which on the job ends (default: 0.1)"}
    )
    item_secs: float = dataclasses.field(
        default=60.0, metadata={"help": "seconds that preparing an input may take (default: 60)"}
    )
    program: str = dataclasses.field(
        default="", metadata={"help": "a Python file of the user's with prepare(data), present(outputs) or both"}
    )
    name: str = dataclasses.field(default="inference", metadata={"help": "the job's name in Spark and in the progress"})
    master: str = dataclasses.field(default="", metadata={"help": "spark://host:7077; empty: in this process alone"})
    address: str = dataclasses.field(default="", metadata={"help": "this host's address, for the executors"})
    event_log: str = dataclasses.field(default="", metadata={"help": "hdfs://host:port/path for Spark's event logs"})
    python: str = dataclasses.field(default="", metadata={"help": "the executors' Python"})
    models_dir: str = dataclasses.field(
        default="/var/lib/flotilla/models", metadata={"help": "where each host keeps the model while it works"}
    )
    progress: str = dataclasses.field(default="", metadata={"help": "file to which the progress is written"})
    done_file: str = dataclasses.field(default="", metadata={"help": "file that is written when all is stored"})


def load_config(path: str) -> InferConfig:
    """Read and check a configuration, `-` from the standard input; raise BadInput."""
    content = _from_stdin() if path == "-" else read_object(path)
    fields = {field.name: field for field in dataclasses.fields(InferConfig)}
    if unknown := sorted(set(content) - set(fields)):
        raise BadInput(f"{path} has the unknown key '{unknown[0]}': see --help for the keys.")
    if "labels" in content:
        labels = content.pop("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BadInput(f"labels is {labels!r} in {path}: give a list of names.")
        content["labels"] = tuple(labels)
    for name, value in content.items():
        content[name] = _cast(value, type(fields[name].default), f"{name} is {value!r} in {path}")
    config = InferConfig(**content)
    for name in ("model", "source", "target"):
        if not getattr(config, name):
            raise BadInput(f"{name} is missing in {path}.")
    if config.scale not in SCALES:
        raise BadInput(f"scale is '{config.scale}': take {', '.join(SCALES)}.")
    for name in ("top", "batch"):
        if getattr(config, name) < 1:
            raise BadInput(f"{name} is {getattr(config, name)}: give at least 1.")
    if config.item_secs <= 0:
        raise BadInput(f"item_secs is {config.item_secs}: give some seconds.")
    if not 0 <= config.most_broken <= 1:
        raise BadInput(f"most_broken is {config.most_broken}: give a share from 0 to 1.")
    parse_url(config.target)
    for name in ("model", "source"):
        if _inside(config.target, getattr(config, name)):
            raise BadInput(f"target {config.target} is inside {name} {getattr(config, name)}: give a folder beside it.")
    return config


_WORDS = {
    str: "a text",
    tuple: "a list",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _from_stdin() -> dict[str, object]:
    """Return the object that the standard input has; its file belongs to root, so it can't be opened by its name."""
    try:
        content = json.load(sys.stdin)
    except ValueError as error:
        raise BadInput(f"The configuration isn't JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadInput("The configuration isn't a JSON object of keys and values.")
    return content


def _cast(value: object, kind: type, where: str) -> object:
    """Return a value in its key's type; of text, as old versions of Ansible make of all, too."""
    text = str(value)
    if isinstance(value, bool) != (kind is bool) and not isinstance(value, str):
        raise BadInput(f"{where}: give {_WORDS[kind]}.")
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (KeyError, ValueError) as error:
        raise BadInput(f"{where}: give {_WORDS[kind]}.") from error
    if not isinstance(value, kind):
        raise BadInput(f"{where}: give {_WORDS[kind]}.")
    return value


def _inside(url: str, other: str) -> bool:
    return (url.rstrip("/") + "/").startswith(other.rstrip("/") + "/")
