"""A node's status, for a human and for a program."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flotilla import status
from flotilla.progress import Progress, read


def test_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing has run here yet\n"
    Progress(tmp_path / "stage.json", "stage", 187_560_000, "bytes").finish("staged 6 objects")
    time.sleep(0.01)
    train = Progress(tmp_path / "train.json", "train", 400, "steps")
    train.update(120, rate=470.12, rate_unit="examples/s", loss=1.93456)
    (tmp_path / "broken.json").write_text("{")
    status.main(["--dir", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "stage: done, 187560000 of 187560000 bytes, staged 6 objects",
        "train: running, 120 of 400 steps, 470 examples/s, loss 1.935",
    ]
    status.main(["--dir", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["train"]["done"] == 120


def test_time_left_and_silence(tmp_path: Path) -> None:
    Progress(tmp_path / "x.json", "train", 400, "steps")
    phase = read(tmp_path / "x.json")
    assert phase is not None
    phase.update(eta=3720.0, message="")
    assert status.line(phase).endswith("1 h 2 min left")
    assert status.line(phase, phase["updated"] + 125).endswith("silent for 2 min 5 s")
