"""scripts/common.sh makes the Python environments, and says what it lacks for one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT

# uv where no Python fits and no network is there; it finds those Pythons whose number is in FOUND.
UV = """\
#!/bin/sh
case "$1 $2" in
  "python find") case "$*" in *"$FOUND"*) exit 0 ;; esac; exit 2 ;;
esac
echo "error: Request failed after 3 retries" >&2
echo "  cause: error resolving DNS" >&2
exit 2
"""


@pytest.fixture
def fails(tmp_path: Path) -> Path:
    """A cache whose uv makes no environment."""
    (version,) = re.findall(r"^uv_version=(\S+)", (ROOT / "scripts/common.sh").read_text(), re.MULTILINE)
    uv = tmp_path / f"flotilla/uv-{version}/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(UV)
    uv.chmod(0o755)
    return tmp_path


def said(cache: Path, found: str) -> str:
    """What make_environment ends with."""
    make = f". scripts/common.sh; make_environment {cache}/.venv-training '>=3.10,<3.12' pyproject.toml TensorFlow"
    done = subprocess.run(
        ["bash", "-c", make, "test"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "FOUND": found},
    )  # fmt: skip
    assert done.returncode == 1
    return done.stderr.strip()


def test_a_python_that_is_not_there_is_named_in_a_sentence(fails: Path) -> None:
    (sentence,) = said(fails, "none").splitlines()
    assert sentence.startswith("test: .venv-training (TensorFlow) needs Python >=3.10,<3.12: none is in PATH")


def test_what_else_uv_fails_at_is_said_in_its_own_words(fails: Path) -> None:
    assert "error resolving DNS" in said(fails, "3.10")
