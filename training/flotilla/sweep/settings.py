"""The configuration of a sweep's programs on a fleet: a JSON file, which the role sweep writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flotilla.job.config import read_object
from flotilla.job.errors import BadInput
from flotilla.storage.s3 import parse_url


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Which sweep, where its table lies and where its results go; the metadata are the help's texts."""

    sweep: str = dataclasses.field(default="", metadata={"help": "the sweep's file"})
    table: str = dataclasses.field(default="", metadata={"help": "the folder on this host with the prepared table"})
    target: str = dataclasses.field(default="", metadata={"help": "s3://bucket/prefix/, where the results go"})
    shared: str = dataclasses.field(
        default="", metadata={"help": "a folder that all hosts see, hdfs://host:port/path, for table and models"}
    )
    database: str = dataclasses.field(default="", metadata={"help": "PostgreSQL's database for the trials"})
    trial_secs: float = dataclasses.field(
        default=900.0, metadata={"help": "seconds that a trial may take (default: 900)"}
    )
    mirror_secs: float = dataclasses.field(
        default=120.0, metadata={"help": "seconds between two copies of the trials to the target (default: 120)"}
    )
    progress: str = dataclasses.field(default="", metadata={"help": "file to which the progress is written"})
    done_file: str = dataclasses.field(default="", metadata={"help": "file that is written when all is stored"})


def load_config(path: str | Path) -> SweepConfig:
    """Read and check a configuration; raise BadInput."""
    content = read_object(str(path))
    fields = {field.name: field for field in dataclasses.fields(SweepConfig)}
    if unknown := sorted(set(content) - set(fields)):
        raise BadInput(f"{path} has the unknown key '{unknown[0]}': see --help for the keys.")
    for name, value in content.items():
        kind = type(fields[name].default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number if kind is float else isinstance(value, kind)):
            raise BadInput(f"{name} is {value!r} in {path}: give {'a number' if kind is float else 'a text'}.")
    config = SweepConfig(**content)
    for name in ("sweep", "table", "target", "shared", "database"):
        if not getattr(config, name):
            raise BadInput(f"{name} is missing in {path}.")
    for name in ("trial_secs", "mirror_secs"):
        if getattr(config, name) <= 0:
            raise BadInput(f"{name} is {getattr(config, name):g} in {path}: give some seconds.")
    parse_url(config.target)
    return config
