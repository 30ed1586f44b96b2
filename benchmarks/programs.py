#!/usr/bin/env python3
"""Runs programs as people write them (benchmarks/cases), each with TensorFlow alone and as a fleet runs it.

    .venv/bin/python -m benchmarks.programs               (20 minutes, and .venv-training; writes programs.md beside it)
    .venv/bin/python -m benchmarks.programs keras classic   (only cases with one of these in their names)
    .venv/bin/python -m benchmarks.programs speed           (a line of the page: digits.py by the kit and by hand)
    .venv/bin/python -m benchmarks.programs error           (a line: how soon a fleet says what is wrong; root, the lab)

With TensorFlow alone is `python PROGRAM` in its folder. As a fleet is `scripts/try`: a ps, a chief, a worker and an
evaluator, each a process of this machine, under the contract of docs/programs.md; then once more with twice the steps,
where it goes on. What it made alone has to be there, too. What is refused has to say why.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.life import machine
from benchmarks.staging import OPTIONS, fleet
from scripts import trial
from tests.support.commands import user_environment
from tests.support.fleet import INVENTORY, host

ROOT = Path(__file__).parent.parent
CASES = ROOT / "benchmarks/cases"
PAGE = ROOT / "benchmarks/programs.md"
PYTHON = ROOT / ".venv-training/bin/python"
STEPS = 20
DIGITS = ROOT / "training/programs/digits.py"
SPEED_STEPS, ROUNDS = 4000, 3
ERROR = "First error of a program on a running fleet → its sentence on the terminal, after three attempts:"
SPEED = "digits.py, steps a second of a chief and a worker by the kit ÷ the same by hand with TF_CONFIG:"
LOUD = """
import runpy, sys, tensorflow
tensorflow.get_logger().setLevel("INFO")  # Estimators say how fast they are
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
USUAL = ("--data-dir", "{data_dir}", "--model-dir", "{model_dir}", "--max-steps", "{max_steps}")
CLUSTER = (
    "--ps_hosts", "{ps_hosts}", "--worker_hosts", "{worker_hosts}", "--job_name", "{job_name}", "--task_index",
    "{task_index}", "--model_dir", "{model_dir}", "--max_steps", "{max_steps}",
)  # fmt: skip
HEAD = """# Programs as people write them

Made by `python -m benchmarks.programs` on {date}, {processor}. Each runs with TensorFlow 2.15.1 alone, in one process,
and as on a fleet, with a parameter server, a chief, a worker and an evaluator; then again with twice the steps. `yes`:
it trains as alone, goes on, and what it wrote is there.

| [program](cases) | what it is | seconds alone / as on a fleet | trains as alone |
|---|---|---|---|
"""
REFUSED = """
What can't work, as far as the first sentence:

| program | what it is | said after seconds | |
|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and how it is run; `says` is what is said of one that is refused."""

    name: str
    entry: str = ""  # where the program is a folder
    arguments: Sequence[str] = USUAL
    alone: Sequence[str] = ()  # arguments of the run with TensorFlow alone, where they differ
    made: Sequence[str] = ()  # patterns of files that it makes, in its model directory or its working folder
    says: str = ""

    @property
    def path(self) -> Path:
        """What is given to scripts/try: a file that imports what lies beside it goes with its folder."""
        folder = CASES / self.name
        return folder if folder.is_dir() else folder.parent

    @property
    def start(self) -> str:
        """The file to run, in `path`."""
        return self.entry or ("main.py" if (CASES / self.name).is_dir() else Path(self.name).name + ".py")

    @property
    def doc(self) -> str:
        """The first sentence of the program."""
        found = re.search(r'"""(.+?)"""', (self.path / self.start).read_text(encoding="utf-8"), re.DOTALL)
        return found[1].strip().rstrip(".") if found else ""


TRAINS = (
    Case("keras_model"),
    Case("keras_without_folder"),
    Case("canned"),
    Case("warm_start"),
    Case("init_from_checkpoint"),
    Case("early_stopping"),
    Case("own_saver"),
    Case("keep_checkpoints", made=[f"model.ckpt-{step}.index" for step in ("0", "[2-6]", "1[0-6]")]),
    Case("exporters", made=[f"export/{name}/*/saved_model.pb" for name in ("best", "latest", "final")]),
    Case("train_then_evaluate", made=["eval/*tfevents*"]),
    Case("finite_data"),
    Case("slow_hook_and_nan"),
    Case("absl_flags", arguments=[word.replace("-dir", "_dir").replace("max-", "max_") for word in USUAL]),
    Case("reads_tf_config"),
    Case("classic", arguments=CLUSTER, alone=["--model_dir", "{model_dir}", "--max_steps", "{max_steps}"]),
    Case("supervisor", arguments=CLUSTER, alone=["--model_dir", "{model_dir}", "--max_steps", "{max_steps}"]),
    Case("course", "course/train.py"),
    Case("nested", "src/main.py"),
    Case("files_of_its_own", made=["history.csv", "late.txt", "exit.txt", "own/*tfevents*"]),
    Case("python_reads", arguments=["--data-dir", "{local_data_dir}", *USUAL[2:]]),
    Case("own_operations"),
)
IS_REFUSED = (
    Case("refused/boosted_trees", says="no later version than 2"),
    Case("refused/mirrored", says="MirroredStrategy"),
    Case("refused/keras_fit", says="ParameterServerStrategy, which"),
    Case("refused/sweep", says="a job trains one model"),
    Case("refused/contrib", says=r"contrib\.py, line 4: import tensorflow\.contrib.*TensorFlow 1"),
    Case("refused/old", says=r"old\.py, line 5: .*no attribute 'app'.*tf_upgrade_v2"),
    Case("refused/labels", says=r"InvalidArgumentError: assertion failed: \[Labels must be <= n_classes - 1\]"),
    Case("refused/no_step", says="without a step"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases; return how many aren't as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the cases' names")
    names = parser.parse_args(argv).names
    if names == ["speed"]:
        return speed()
    if names == ["error"]:
        return error()
    there = PAGE.read_text(encoding="utf-8").splitlines() if names and PAGE.exists() else []
    rows = {line.split(" | ")[0]: line for line in there if line.startswith("| ")}
    bad = 0
    for case in (*TRAINS, *IS_REFUSED):
        if names and not any(name in case.name for name in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds, problem = refused(case) if case.says else trains(case, Path(folder))
        bad += bool(problem)
        print(f"{case.name}: {problem or 'yes'} ({seconds} s)", flush=True)
        rows[f"| {case.name}"] = f"| {case.name} | {case.doc} | {seconds} | {problem or 'yes'} |"
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    head = HEAD.format(date=date, processor=machine())
    lists = [[rows[f"| {case.name}"] for case in cases if f"| {case.name}" in rows] for cases in (TRAINS, IS_REFUSED)]
    text = "\n".join([head.rstrip("\n"), *lists[0], REFUSED.rstrip("\n"), *lists[1]]) + "\n"
    more = [part for part in "\n".join(there).split("\n\n") if part.startswith((SPEED, ERROR))]
    PAGE.write_text("\n\n".join([text.rstrip("\n"), *more]) + "\n", encoding="utf-8")
    return bad


def trains(case: Case, folder: Path) -> tuple[str, str]:
    """Run a program alone, as on a fleet, and again; return the seconds, and what isn't as it should be."""
    data, model, kept = folder / "data", folder / "alone/model", folder / "fleet"
    data.mkdir()
    model.parent.mkdir()  # where programs keep another model beside their own
    (data / "line.csv").write_text("1,2\n2,4\n")
    work = folder / "work"
    shutil.copytree(case.path, work)
    given = {"{data_dir}": str(data), "{local_data_dir}": str(data), "{model_dir}": str(model)}
    given["{max_steps}"] = str(STEPS)
    arguments = [given.get(word, word) for word in case.alone or case.arguments]
    environment = {**os.environ, "PYTHONPATH": str(work), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(PYTHON), "-m", "course.train"] if case.name == "course" else [str(PYTHON), case.start]
    began = time.monotonic()
    own = (work / "requirements.txt").exists()  # which only scripts/try installs
    if not own:
        alone = subprocess.run(
            [*command, *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        if alone.returncode:
            return "-", f"alone: {alone.stderr.strip().splitlines()[-1]}"
    first = time.monotonic() - began
    began = time.monotonic()
    if problem := attempt(case, data, kept, STEPS):
        return "-", problem
    seconds = f"{'-' if own else format(first, '.0f')} / {time.monotonic() - began:.0f}"
    if (step := last_step(kept)) < (STEPS if own else last_step(model)):
        return seconds, f"{step} steps"
    places = (kept, kept / "local/chief-0")
    missing = [pattern for pattern in case.made if not any(list(place.glob(pattern)) for place in places)]
    if missing:
        return seconds, f"without {', '.join(missing)}"
    if case.name == "finite_data":  # whose end no argument says
        return seconds, ""
    if problem := attempt(case, data, kept, 2 * STEPS):
        return seconds, f"the second time: {problem}"
    return seconds, "" if last_step(kept) >= 2 * STEPS else f"the second time: {last_step(kept)} steps"


def refused(case: Case) -> tuple[str, str]:
    """Run a program that can't work; return the seconds until it is said, and what isn't as it should be."""
    began = time.monotonic()
    said = attempt(case, None, None, STEPS)
    seconds = f"{time.monotonic() - began:.0f}"
    return seconds, "" if re.search(case.says, said) else f"says: {said or 'nothing'}"


def attempt(case: Case, data: Path | None, kept: Path | None, steps: int) -> str:
    """Run scripts/try; return its last words where it fails."""
    command = ["scripts/try", str(case.path), "--entry", case.start, "--steps", str(steps)]
    command += ["--data", str(data)] if data else []
    command += ["--keep", str(kept)] if kept else []
    done = subprocess.run([*command, "--", *case.arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["no word"])[-1].removeprefix("try: ")


def speed() -> int:
    """Compare digits.py by the kit with the same cluster by hand, in turns; write it to the page's end."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "mnist")
        subprocess.run(
            [sys.executable, "scripts/dataset.py", "prepare", "mnist", "--output", str(data)], cwd=ROOT, check=True
        )
        ratios = []
        for number in range(ROUNDS):
            by_hand, by_kit = hand_made(data, Path(folder, str(number))), tried(data)
            ratios.append(by_kit / by_hand)
            print(f"{by_hand:.1f} steps/s by hand, {by_kit:.1f} by the kit: {ratios[-1]:.3f}", flush=True)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} rounds, {SPEED_STEPS} steps"
    add(SPEED, f"{statistics.median(ratios):.2f} ({spread})")
    return 0


def error() -> int:
    """Have a fleet in the lab train a program that fails at its first step; write down when that was said."""
    options = {
        **OPTIONS,
        "job": "wrong",
        "training_program": "benchmarks/cases/refused",
        "training_entry": "labels.py",
        "training_arguments": list(USUAL),
        "training_max_steps": STEPS,
    }
    command = ["ansible-playbook", "-i", INVENTORY, "playbooks/train.yml", "-e", json.dumps(options)]
    with fleet(), subprocess.Popen(
        command, cwd=ROOT, env={**user_environment(), "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout
        said = next(time.time() for line in process.stdout if "Labels must be <= n_classes - 1" in line)
        process.communicate()
        journal = host("chief-0").check_output(
            "sudo journalctl --unit=training@chief-0 --output=short-unix --grep='Labels must be'"
        )
    seconds = said - float(re.findall(r"^(\d+\.\d+) ", journal, re.MULTILINE)[0])
    print(f"{seconds:.0f} s")
    add(ERROR, f"{seconds:.0f} s")
    return 0


def add(what: str, words: str) -> None:
    """Write a line of the page's end anew."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    lines = PAGE.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    kept = [part for part in lines if not part.startswith(what)]
    PAGE.write_text("\n\n".join([*kept, f"{what} {words}; {date}, {machine()}."]) + "\n", encoding="utf-8")


def tried(data: Path) -> float:
    """Return the steps per second of digits.py by scripts/try."""
    command = ["scripts/try", str(DIGITS), "--steps", str(SPEED_STEPS), "--data", str(data), "--", *USUAL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return steps_per_second([line for line in done.stdout.splitlines() if line.startswith("chief-0 ")])


def hand_made(data: Path, folder: Path) -> float:
    """Return the steps per second of digits.py as processes that know TF_CONFIG, as the documentation has it."""
    ports = trial.free_ports(3)
    cluster = {kind: [f"127.0.0.1:{port}"] for kind, port in zip(("ps", "chief", "worker"), ports, strict=True)}
    command = [
        str(PYTHON),
        "-c",
        LOUD,
        str(DIGITS),
        "--data-dir",
        str(data),
        "--model-dir",
        str(folder),
        "--max-steps",
        str(SPEED_STEPS),
    ]
    running = {}
    for kind in cluster:
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}})
        environment = {**os.environ, "TF_CONFIG": config, "TF_CPP_MIN_LOG_LEVEL": "2"}
        running[kind] = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    said = running["chief"].communicate()[1]
    for process in running.values():
        process.kill()
        process.wait()
    return steps_per_second(said.splitlines())


def steps_per_second(lines: Sequence[str]) -> float:
    """Return the mean of what the chief's Estimator says of its speed, without the first and the last time."""
    found = [float(value) for line in lines for value in re.findall(r"global_step/sec: ([\d.]+)", line)]
    return statistics.harmonic_mean(found[1:-1])


def last_step(model: Path) -> int:
    """Return the newest checkpoint's step."""
    found = re.search(r'^model_checkpoint_path: ".*-(\d+)"', (model / "checkpoint").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
