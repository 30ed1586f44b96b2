"""The nodes' package is tested in the nodes' environment, which this one never imports."""

from __future__ import annotations

from tests.support.commands import ROOT, user_runs


def test_training_package() -> None:
    python = ROOT / ".venv-training/bin/python"
    done = user_runs("env", f"--chdir={ROOT / 'training'}", str(python), "-m", "pytest", "-q", seconds=900)
    assert " passed" in done.stdout
