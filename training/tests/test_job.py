"""What role training asks of a job before anything of it is written (roles/training/files/job.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "roles/training/files/job.py"


def ask(job: dict[str, object], *options: str) -> tuple[int, str]:
    """Its exit status, and its answer or its last complaint."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "training")}
    command = [sys.executable, "-c", SCRIPT.read_text(), *options]
    done = subprocess.run(command, input=json.dumps(job), text=True, capture_output=True, env=environ, check=False)
    return done.returncode, done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_data_must_be_there_unless_they_are_being_staged(data_dir: Path, tmp_path: Path) -> None:
    job = {"data_dir": str(data_dir), "model_dir": str(tmp_path / "model"), "batch_size": 16}
    assert ask(job) == ask(job, "--staging") == (0, "open")
    none = {**job, "data_dir": str(tmp_path)}
    code, said = ask(none)
    assert code and said.endswith("stage the data set first, its manifest is written last.")
    assert ask(none, "--staging") == (0, "open")
    # What can be said already is said: of data that are verified.
    large = {**job, "data_dir": str(tmp_path / "staged"), "batch_size": 121}
    shutil.copytree(data_dir, tmp_path / "staged")
    assert ask(large, "--staging") == (0, "open")
    (tmp_path / "staged.staging").mkdir()
    (tmp_path / "staged.staging" / "verified.json").write_text("{}")
    code, said = ask(large, "--staging")
    assert code and said.startswith("batch_size is 121, but the split 'train' has 120 examples")
    code, said = ask({**none, "sync": True, "cluster": {"ps": ["a:1"], "chief": ["b:1"]}}, "--staging")
    assert code and "sync is true, but the chief trains alone" in said


def test_a_program_needs_data_that_are_whole(tmp_path: Path) -> None:
    """That they are staged first; data that came another way than by the role have no notes beside them."""
    (tmp_path / "p.py").write_text("")
    data, notes = tmp_path / "data", tmp_path / "data.staging"
    job = {"data_dir": str(data), "model_dir": str(tmp_path / "model"), "program": str(tmp_path / "p.py")}
    code, said = ask(job)
    assert code and said.endswith("isn't staged, or not whole: stage it first (playbooks/stage.yml).")
    assert ask(job, "--staging") == (0, "open")
    data.mkdir()
    (data / "a.csv").write_text("1")
    assert ask(job) == (0, "open")
    notes.mkdir()
    (notes / "begun.json").write_text("{}")
    assert ask(job)[0], "somebody has begun to stage it"
    (notes / "verified.json").write_text("{}")
    assert ask(job) == (0, "open")
