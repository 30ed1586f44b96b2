"""Progress files are whole at any moment and say what the follower needs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from flotilla.supervision import progress
from flotilla.supervision.progress import Progress, TaskFile


def test_life_of_a_phase(tmp_path: Path) -> None:
    path = tmp_path / "new" / "train.json"
    phase = Progress(path, "train", 400, "steps")
    first = progress.read(path)
    assert first is not None
    assert first["state"] == "running" and first["done"] == 0 and first["eta"] is None
    phase.update(100, rate=470.1, rate_unit="examples/s", detail={"loss": 1.93})
    time.sleep(0.1)
    phase.update(200, rate=471.0, rate_unit="examples/s", detail={"accuracy": 0.4})
    content = progress.read(path)
    assert content is not None
    assert 0.1 < content["eta"] < 2
    assert content["detail"] == {"loss": 1.93, "accuracy": 0.4}
    assert abs(content["updated"] - time.time()) < 5
    phase.finish("trained")
    content = progress.read(path)
    assert content is not None
    assert (content["state"], content["done"], content["rate"], content["message"]) == (
        "done",
        400,
        471.0,
        "trained",
    )
    phase.fail("HDFS is gone.")
    assert json.loads(path.read_text())["state"] == "failed"
    assert [entry.name for entry in path.parent.iterdir()] == ["train.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    phase = Progress(path, "stage", 1000, "bytes")

    def write(start: int) -> None:
        for i in range(start, 1000, 4):
            phase.update(i, detail={"filler": "x" * 5000})

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert json.loads(path.read_text())["phase"] == "stage"
    for thread in threads:
        thread.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.json"]


def test_nothing_to_write_to_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Progress(None, "train", 1, "steps").update(1)
    Progress("", "train", 1, "steps").finish()
    (tmp_path / "file").touch()
    phase = Progress(tmp_path / "file" / "x.json", "train", 1, "steps")
    phase.update(1)
    assert len(caplog.records) == 1


def test_read_of_what_is_none(tmp_path: Path) -> None:
    assert progress.read(tmp_path / "no.json") is None
    (tmp_path / "bad.json").write_text('{"pha')
    assert progress.read(tmp_path / "bad.json") is None
    (tmp_path / "list.json").write_text("[]")
    assert progress.read(tmp_path / "list.json") is None


def test_what_a_task_tells(tmp_path: Path) -> None:
    file = TaskFile(str(tmp_path / "tasks"), "cifar10", "worker-0")
    file.update(step=120, staleness=0.5)
    file.update(step=130)
    told = json.loads((tmp_path / "tasks/worker-0.json").read_text())
    assert abs(told.pop("updated") - time.time()) < 5
    assert told == {"job": "cifar10", "task": "worker-0", "step": 130, "staleness": 0.5}
    TaskFile("", "cifar10", "local-0").update(step=1)
