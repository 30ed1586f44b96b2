"""What runs in the nodes' environment, which this one never imports: their package's own tests, and scripts/try."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import programs
from tests.support.commands import ROOT, user_runs


def test_training_package() -> None:
    python = ROOT / ".venv-training/bin/python"
    done = user_runs("env", f"--chdir={ROOT / 'training'}", str(python), "-m", "pytest", "-q", seconds=2400)
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    "case", [case for case in programs.IS_REFUSED if case.name == "refused/labels"], ids=lambda case: case.name
)
def test_a_wrong_program_is_tried_and_says_why(case: programs.Case) -> None:
    _seconds, problem = programs.refused(case)
    assert problem == ""


@pytest.mark.parametrize(
    "case", [case for case in programs.TRAINS if case.name == "files_of_its_own"], ids=lambda case: case.name
)
def test_a_program_is_tried_and_goes_on(case: programs.Case, tmp_path: Path) -> None:
    _seconds, problem = programs.trains(case, tmp_path)
    assert problem == ""
