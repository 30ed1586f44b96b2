"""A node's status, for a human and for a program."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flotilla import status
from flotilla.supervision import progress
from flotilla.supervision.progress import Progress, read


def test_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no job has run yet\n"
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


def test_the_job_is_told_from_any_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chief, job = tmp_path / "chief", tmp_path / "job.json"
    job.write_text(json.dumps({"model_dir": str(tmp_path / "model")}))
    train = Progress(chief / "train.json", "train", 400, "steps")
    publisher = progress.HdfsCopier(str(chief / "train.json"), str(tmp_path / "model"))
    train.update(120)
    publisher.stop()
    here = ["--dir", str(tmp_path / "ps"), "--job", str(job)]
    assert status.main(here) == 0
    assert capsys.readouterr().out == "train: running, 120 of 400 steps\n"
    # The node's own file is newer than what it has published.
    train.update(130)
    status.main(["--dir", str(chief), "--job", str(job)])
    assert capsys.readouterr().out.startswith("train: running, 130 of 400 steps")
    job.write_text(json.dumps({"model_dir": "hdfs://127.0.0.1:1/jobs/x/model"}))
    assert status.main(["--dir", str(chief), "--job", str(job)]) == 1
    out, err = capsys.readouterr()
    assert "130 of 400" in out and "127.0.0.1:1 doesn't answer" in err
    assert status.main([*here, "--here"]) == 0
    assert capsys.readouterr().out == "nothing has run here yet\n"


def test_time_left_and_silence(tmp_path: Path) -> None:
    Progress(tmp_path / "x.json", "train", 400, "steps")
    phase = read(tmp_path / "x.json")
    assert phase is not None
    phase.update(eta=3720.0, message="")
    assert status.line(phase).endswith("1 h 2 min left")
    assert status.line(phase, phase["updated"] + 125).endswith("silent for 2 min 5 s")
