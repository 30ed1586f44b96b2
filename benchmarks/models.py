#!/usr/bin/env python3
"""Has other libraries read what a training exports, and writes docs/models.md: how, and how near to the evaluation.

    .venv/bin/python -m benchmarks.models              (no root; ten minutes, 4 GB of packages)
    .venv/bin/python -m benchmarks.models OpenVINO     (only rows with this in their names; the others stay)

Trains three models for some steps, each in one process, by flotilla.train: the built-in network, a Keras model made an
Estimator, and a canned Estimator (benchmarks/exported.py). Each row is an environment of its own, with pinned packages,
and the lines that the page shows are those that run. Each outcome is in benchmarks/models.jsonl as soon as it is there.
Ends with 1 where one isn't what the row says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from benchmarks.faults import put
from benchmarks.life import machine

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/models.md"
RESULTS = ROOT / "benchmarks/models.jsonl"
MARKS = ("<!-- made by benchmarks/models.py -->\n", "<!-- end -->\n")
PYTHON = "3.11"
LOCK = "training/requirements-cpu.lock"
TENSORFLOW = "tensorflow-cpu==2.21.0"
ONNX_FILE, LITE_FILE = "model.onnx", "model.tflite"
ONNX, OPENVINO, TFLITE = "ONNX, onnxruntime", "OpenVINO", "TFLite, by TensorFlow 2.21.0"  # rows that refuse a model
PICTURES = 500


@dataclass(frozen=True)
class Row:
    """A library that reads the model.

    Attributes:
        name: how the page calls it.
        pins: the packages that are installed.
        lines: of Python, which make `found` of `pictures`; those after a "$" are commands.
        exact: whether the built-in network's logits are the same bit for bit.
        needs: a file that an earlier row has written.
        programs: whether it reads the models of programs, too, and not only the built-in network.
        refuses: what it says, a regular expression, where it can't read any model.
    """

    name: str
    pins: tuple[str, ...]
    lines: tuple[str, ...]
    exact: bool = False
    needs: str = ""
    refuses: str = ""
    programs: bool = False

    @property
    def models(self) -> tuple[Model, ...]:
        """Those that it reads."""
        return MODELS if self.programs else MODELS[:1]


LOADED = (
    "import tensorflow as tf",
    'predict = tf.saved_model.load("model").signatures["serving_default"]',
    'found = predict(image=tf.constant(pictures))["logits"]',
)
ROWS = (
    Row("TensorFlow 2.15.1", ("tensorflow-cpu==2.15.1",), LOADED, exact=True),
    Row("TensorFlow 2.21.0", (TENSORFLOW,), LOADED, exact=True, programs=True),
    Row(
        "TensorFlow 2.21.0, by the signature's names, as TensorFlow Serving has it",
        (TENSORFLOW,),
        (
            "import tensorflow.compat.v1 as tf",
            "with tf.Graph().as_default(), tf.Session() as session:",
            '    signature = tf.saved_model.load(session, ["serve"], "model").signature_def["serving_default"]',
            '    found = session.run(signature.outputs["logits"].name, {signature.inputs["image"].name: pictures})',
        ),
        exact=True,
    ),
    Row(
        "Keras 3, TFSMLayer",
        (TENSORFLOW, "keras==3.15.1"),
        (
            "import keras",
            'layer = keras.layers.TFSMLayer("model", call_endpoint="serving_default")',
            'found = layer(pictures)["logits"]',
        ),
        exact=True,
    ),
    Row(
        "Keras 3, load_model",
        (TENSORFLOW, "keras==3.15.1"),
        ("import keras", 'keras.models.load_model("model")'),
        refuses="ValueError: (File format not supported.*)",
    ),
    Row(
        ONNX,
        ("tensorflow-cpu==2.15.1", "tf2onnx==1.17.0", "onnx==1.18.0", "onnxruntime==1.32.0"),
        (
            f"$ python -m tf2onnx.convert --saved-model model --output {ONNX_FILE}",
            "import onnxruntime",
            f'found = onnxruntime.InferenceSession("{ONNX_FILE}").run(["logits"], {{"image": pictures}})[0]',
        ),
        programs=True,
    ),
    Row(
        OPENVINO,
        ("openvino==2026.4.1",),
        (
            "import openvino",
            'model = openvino.compile_model(openvino.convert_model("model"))',
            'found = model(pictures)["logits"]',
        ),
        programs=True,
    ),
    Row(
        "OpenVINO, by ONNX",
        ("openvino==2026.4.1",),
        (
            "import openvino",
            f'model = openvino.compile_model(openvino.convert_model("{ONNX_FILE}"))',
            'found = model(pictures)["logits"]',
        ),
        needs=ONNX_FILE,
    ),
    Row(
        TFLITE,
        (TENSORFLOW,),
        (
            "import pathlib",
            "import tensorflow as tf",
            f'pathlib.Path("{LITE_FILE}").write_bytes(tf.lite.TFLiteConverter.from_saved_model("model").convert())',
            f'found = tf.lite.Interpreter("{LITE_FILE}").get_signature_runner()(image=pictures)["logits"]',
        ),
        programs=True,
    ),
    Row(
        "LiteRT, the same file",
        ("ai-edge-litert==2.3.0",),
        (
            "from ai_edge_litert.interpreter import Interpreter",
            f'found = Interpreter("{LITE_FILE}").get_signature_runner()(image=pictures)["logits"]',
        ),
        needs=LITE_FILE,
    ),
)
NUMBERS_ONLY = (
    "import tensorflow as tf",
    'model = tf.saved_model.load("canned")',
    'predict = model.signatures["predict"]',
    'image = tf.TensorSpec([None, 32, 32, 3], name="image")',
    'numbers = tf.function(lambda image: {"probabilities": predict(image=image)["probabilities"]}, [image])',
    'tf.saved_model.save(model, "model", numbers)',
)


@dataclass(frozen=True)
class Model:
    """A model that is read.

    Attributes:
        name: of its folder, and of what benchmarks/evaluated.py knows it by.
        title: how the page calls it.
        bound: the largest difference, of logits or probabilities.
        written: what differs from a row's lines.
        refused: by whom, by row, and what that says, a regular expression.
    """

    name: str
    title: str
    bound: float
    written: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


PROBABILITIES = {'"logits"': '"probabilities"'}
NUMBERS = Model("numbers", "… its probabilities only", 1e-6, PROBABILITIES)
MODELS = (
    Model("resnet", "the built-in network", 1e-4),
    Model("keras", "a Keras model", 1e-6, PROBABILITIES),
    Model(
        "canned",
        "a canned Estimator",
        1e-6,
        {
            **PROBABILITIES,
            "serving_default": "predict",
            "--saved-model model": "--saved-model model --signature_def predict",
            'from_saved_model("model")': 'from_saved_model("model", ["predict"])',
        },
        {
            ONNX: r"ValueError: (make_sure failure: Cannot find node with output '\S*str_classes)",
            OPENVINO: r"(No conversion rule found for operations: AsString)",
            TFLITE: r"('tf\.AsString' op is neither a custom op nor a flex op)",
        },
    ),
    NUMBERS,
)


@dataclass(frozen=True)
class Outcome:
    """What has come of a row and a model."""

    row: str
    model: str
    difference: float | None  # None where it was refused
    said: str
    right: bool
    versions: list[str]
    commit: str
    at: str
    machine: str

    @property
    def cell(self) -> str:
        """Return what the page's table says."""
        if self.difference is None:
            return "refused"
        return "bit for bit" if not self.difference else f"{self.difference:.1e}"


class Failed(Exception):
    """A model couldn't be made, or an environment."""


class Workshop:
    """A folder with the models, and with an environment for each set of packages."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uv = self.run("bash", "-c", '. scripts/common.sh; prepare_uv >&2; printf %s "$uv"').stdout

    def run(
        self, *command: str, folder: Path = ROOT, path: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, with another folder first in PATH; where it fails, the benchmark ends."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "CUDA_"))}
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "UV_SYSTEM_CERTS": "true", "PYTHONPATH": str(ROOT / "training")}
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}" if path else environment["PATH"]
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=3600)
        if check and done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        return done

    def environment(self, *wanted: str) -> Path:
        """Return the folder of an environment's programs, with packages or what a lock file lists."""
        folder = self._folder / "environments" / re.sub(r"\W+", "-", "-".join(wanted))
        if not (folder / "whole").exists():
            self.run(self._uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(folder))
            how = ("sync", "--require-hashes") if wanted == (LOCK,) else ("install",)
            self.run(self._uv, "pip", *how, "--quiet", "--python", f"{folder}/bin/python", *wanted)
            (folder / "whole").touch()
        return folder / "bin"

    def versions(self, *wanted: str) -> list[str]:
        """Return all packages of an environment, with their versions."""
        python = self.environment(*wanted) / "python"
        return self.run(self._uv, "pip", "freeze", "--quiet", "--python", str(python)).stdout.split("\n")[:-1]

    def model(self, name: str) -> Path:
        """Return a folder with an exported model, pictures, and what its evaluation makes of them."""
        folder = self._folder / name
        if (folder / "model").exists():  # made last
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        if name == NUMBERS.name:
            return self._numbers(folder)
        data = self._folder / "data"
        self.run(sys.executable, "scripts/dataset.py", "prepare", "cifar10", "--output", str(data))
        folder.mkdir()
        trained = folder / "trained"
        job = {
            "name": name, "data_dir": str(data), "model_dir": str(trained), "max_steps": 60, "batch_size": 32,
            "warmup_steps": 30, **{key: str(folder / key) for key in ("progress", "done_file", "tasks_dir")},
        }  # fmt: skip
        if name != "resnet":
            arguments = [name, "--data-dir", "{data_dir}", "--model-dir", "{model_dir}"]
            job |= {"program": str(ROOT / "benchmarks/exported.py"), "arguments": arguments}
        (folder / "job.json").write_text(json.dumps(job))
        python = str(self.environment(LOCK) / "python")
        self.run(python, "-m", "flotilla.train", "--config", str(folder / "job.json"))
        (export,) = trained.glob("export/**/saved_model.pb")
        self.run(python, "benchmarks/evaluated.py", name, str(data), str(trained), str(PICTURES), str(folder))
        export.parent.rename(folder / "model")
        return folder

    def _numbers(self, folder: Path) -> Path:
        """Save the canned Estimator's export again, with numbers only."""
        canned = self.model("canned")
        folder.mkdir()
        for name in ("pictures.npy", "evaluated.npy"):
            (folder / name).symlink_to(canned / name)
        (folder / "canned").symlink_to(canned / "model")
        self.run(
            str(self.environment("tensorflow-cpu==2.15.1") / "python"), "-c", "\n".join(NUMBERS_ONLY), folder=folder
        )
        return folder

    def read(self, row: Row, model: Model) -> Outcome | None:
        """Run a row's lines on a model; None where they need what an earlier row refused to write."""
        folder = self.model(model.name)
        if row.needs and not (folder / row.needs).exists():
            return None
        lines = written(row, model)
        found = folder / "found.npy"
        found.unlink(missing_ok=True)
        path = str(self.environment(*row.pins))
        program = [line for line in lines if not line.startswith("$ ")]
        head, tail = "import numpy; pictures = numpy.load('pictures.npy')", "numpy.save('found.npy', found)"
        said = ""
        commands = [line[2:].split() for line in lines if line.startswith("$ ")]
        for command in [*commands, ["python", "-c", "\n".join([head, *program, tail])]]:
            done = self.run(*command, folder=folder, path=path, check=False)
            said += done.stdout + done.stderr
            if done.returncode:
                break
        expected = row.refuses or model.refused.get(row.name, "")
        if done.returncode:
            match = re.search(expected, said) if expected else None
            difference, said, right = None, match[1] if match else said[-2000:], match is not None
        else:
            difference = float(np.abs(np.load(found) - np.load(folder / "evaluated.npy")).max())
            bound = 0 if row.exact and model is MODELS[0] else model.bound
            said, right = "", not expected and difference <= bound
        commit = self.run("git", "rev-parse", "--short=7", "HEAD").stdout.strip()
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        versions = self.versions(*row.pins)
        return Outcome(row.name, model.name, difference, said, right, versions, commit, at, machine())


def written(row: Row, model: Model) -> list[str]:
    """Return a row's lines as they are for a model."""
    lines = []
    for line in row.lines:
        for ours, its in model.written.items():
            line = line.replace(ours, its)
        lines.append(line)
    return lines


def shown(program: Sequence[str]) -> list[str]:
    """Return lines of Python as ruff writes them: with an empty one after the imports."""
    imports = [line for line in program if line.startswith(("import ", "from "))]
    return [*imports, "", *program[len(imports) :]]


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the page's table, the lines of each row, and what refuses says."""
    cells = {(outcome.row, outcome.model): outcome.cell for outcome in outcomes}
    days = sorted({outcome.at[:10] for outcome in outcomes})
    machines = " and ".join(sorted({outcome.machine for outcome in outcomes}))
    head = (
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {machines}, Python {PYTHON}. The largest difference to "
        f"what the training's evaluation computes of the last checkpoint, for {PICTURES} pictures: of the built-in "
        "network's logits, and of the others' probabilities."
    )
    lines = ["", textwrap.fill(head, 120, break_on_hyphens=False), ""]
    lines += [f"| | {' | '.join(model.title for model in MODELS)} |", f"|---|{'---|' * len(MODELS)}"]
    for row in ROWS:
        lines.append(f"| {row.name} | {' | '.join(cells.get((row.name, model.name), '') for model in MODELS)} |")
    for row in ROWS:
        commands = [f"pip install {' '.join(row.pins)}", *(line[2:] for line in row.lines if line.startswith("$ "))]
        program = [line for line in row.lines if not line.startswith("$ ")]
        lines += ["", f"### {row.name}", "", "```", *commands, "```", "", "```python", *shown(program), "```"]
        said: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.row == row.name and outcome.difference is None:
                said.setdefault(outcome.said, []).append(next(m.title for m in MODELS if m.name == outcome.model))
        for sentence, titles in said.items():
            who = "it" if row.refuses else ", ".join(titles)
            lines += ["", textwrap.fill(f'Refuses {who}: "{sentence}".', 120, break_on_hyphens=False)]
    lines += ["", "### A canned Estimator's probabilities only", "", "```python", *shown(NUMBERS_ONLY), "```"]
    return "\n".join([*lines, "", ""])


def known() -> dict[tuple[str, str], Outcome]:
    """Return what earlier runs have found, by row and model."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    wanted = [(row.name, model.name) for row in ROWS for model in row.models]
    return {(one.row, one.model): one for one in found if (one.row, one.model) in wanted}


def main() -> int:
    """Run every row on every model, and write the page; return 1 where one isn't as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only rows with it in their names")
    parser.add_argument("--folder", type=Path, help="where models and environments are made, and kept for the next run")
    options = parser.parse_args()
    chosen = [row for row in ROWS if not options.words or any(word in row.name for word in options.words)]
    if not chosen:
        parser.error(f"no row has any of {options.words} in its name")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            workshop = Workshop(folder.resolve())
            for row in chosen:
                for model in row.models:
                    if outcome := workshop.read(row, model):
                        verdict = "" if outcome.right else "  WRONG"
                        print(f"{row.name}, {model.title}: {outcome.cell} {outcome.said}{verdict}", flush=True)
                        results = known() | {(row.name, model.name): outcome}
                        RESULTS.write_text("".join(json.dumps(asdict(one)) + "\n" for one in results.values()))
        except Failed as error:
            sys.exit(str(error))
    outcomes = list(known().values())
    put(PAGE, MARKS, page(outcomes))
    return 0 if all(outcome.right for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
