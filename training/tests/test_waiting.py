"""A task that begins with its job waits for HDFS and the data set; one that is started again doesn't."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla import train
from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.errors import BadInput
from flotilla.loop import checkpoints
from flotilla.storage import hdfs, manifest
from flotilla.supervision import hardware, progress, waiting


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECS", 0.05)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    folders = {key: str(tmp_path / key) for key in ("data_dir", "model_dir", "tasks_dir")}
    return TrainConfig(**folders, wait_secs=60)  # type: ignore[arg-type]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """HDFS isn't there until this event is set."""
    there, read = threading.Event(), hdfs.read

    def reading(path: str) -> bytes | None:
        if not there.is_set():
            raise hdfs.Unreachable("hdfs://ps-0:8020 doesn't answer.")
        return read(path)

    monkeypatch.setattr(hdfs, "read", reading)
    yield there


def test_only_when_the_job_begins_and_only_if_it_may(config: TrainConfig, tmp_path: Path) -> None:
    chief, worker = Task("chief", 0), Task("worker", 0)
    assert waiting.due(config, chief)
    waiting.over(config, chief)
    assert not waiting.due(config, chief) and waiting.due(config, worker)
    for key in ("data_dir", "model_dir"):  # another job of the same fleet
        other = TrainConfig(**{**config.as_dict(), key: "/other"})
        assert waiting.due(other, chief)
    (tmp_path / "tasks_dir" / "chief-0.begun").write_text("{")
    assert waiting.due(config, chief)
    assert not waiting.due(TrainConfig(data_dir="/d", model_dir="/m"), chief)


def note(config: TrainConfig, name: str, **content: str) -> None:
    """Say something of the data set, as staging does it."""
    file = Path(manifest.notes(config.data_dir)) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def test_what_it_waits_for_is_said_until_it_is_there(config: TrainConfig, away: threading.Event) -> None:
    said: list[str] = []
    threading.Timer(0.3, away.set).start()
    waiting.for_hdfs(config, said.append)
    assert set(said) == {"waits for HDFS: hdfs://ps-0:8020 doesn't answer."}

    folder = Path(config.data_dir)
    folder.mkdir()
    (folder / "train-0.tfrecord").write_bytes(b"a part of it")
    said.clear()
    threading.Timer(0.3, lambda: note(config, manifest.VERIFIED)).start()
    waiting.for_data(config, said.append)
    assert set(said) == {f"waits for the data set {folder} to be staged and verified"}
    said.clear()
    waiting.for_data(config, said.append)
    assert not said, "it is there"


def test_patience_ends_with_a_sentence(
    config: TrainConfig, away: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "HDFS_SECS", 0.2)
    with pytest.raises(
        BadInput, match=r"^Waited 0 s for HDFS in vain: hdfs://ps-0:8020 doesn't answer\. See journalctl"
    ):
        waiting.for_hdfs(config, lambda message: None)
    away.set()
    short = TrainConfig(**{**config.as_dict(), "wait_secs": 1})
    with pytest.raises(
        BadInput, match=r"^Waited 1 s in vain for the data set .*data_dir to be staged and verified\. See"
    ):
        waiting.for_data(short, lambda message: None)
    away.clear()
    with pytest.raises(
        BadInput, match=r"verified\. hdfs://ps-0:8020 doesn't answer\. See journalctl -u flotilla-stage"
    ):
        waiting.for_data(short, lambda message: None)


def test_staging_that_has_failed_ends_the_wait(config: TrainConfig) -> None:
    folder = Path(config.data_dir)
    folder.mkdir()
    note(config, manifest.FAILED, message="s3://data/x is damaged.")
    with pytest.raises(BadInput, match=r"^The data set wasn't staged: s3://data/x is damaged\.$"):
        waiting.for_data(config, lambda message: None)
    # One that was verified all the same, by somebody's hand, is good.
    note(config, manifest.VERIFIED)
    waiting.for_data(config, lambda message: None)


def test_a_training_that_begins_before_its_data_are_there(
    tiny: list[str], data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what it waits for, and trains when they are; the same process started again without them ends at once."""
    config = TrainConfig(data_dir=str(tmp_path / "staged"), model_dir=str(tmp_path / "model"))
    folder, tasks, told = tmp_path / "staged", tmp_path / "tasks", tmp_path / "progress" / "train.json"
    arguments = [*tiny, "--data-dir", str(folder), "--tasks-dir", str(tasks), "--wait-secs", "60"]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(train.main(arguments)))
    thread.start()
    deadline = time.monotonic() + 60
    sentence = f"waits for the data set {folder} to be staged and verified"
    while (progress.read(told) or {}).get("message") != sentence:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.1)
    assert progress.read_task(str(tasks), "local-0")["warning"] == sentence
    shutil.copytree(data_dir, tmp_path / "copy")
    (tmp_path / "copy").rename(folder)
    note(config, manifest.VERIFIED)
    thread.join(120)
    assert codes == [0] and json.loads((tmp_path / "model" / "result.json").read_text())["global_step"] == 12
    assert progress.read_task(str(tasks), "local-0")["warning"] == ""

    folder.rename(tmp_path / "gone")
    assert train.main([*arguments, "--max-steps", "20"]) == 2
    assert "stage the data set first" in caplog.text


def test_a_training_whose_data_never_come_fails_for_good(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, "--data-dir", str(tmp_path / "none"), "--tasks-dir", str(tmp_path / "tasks")]
    assert train.main([*arguments, "--wait-secs", "1"]) == 2
    told = progress.read(tmp_path / "progress" / "train.json")
    assert (
        told is not None and told["state"] == "failed" and told["message"].startswith("Waited 1 s in vain for the data")
    )
    assert "Waited 1 s" in progress.read_task(str(tmp_path / "tasks"), "local-0")["problem"]
    assert not (tmp_path / "model").exists()


def test_the_evaluator_begins_when_something_has_been_learned(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[int | None] = [None, 0, 0, 200]
    monkeypatch.setattr(train, "DONE_POLL_SECS", 0)
    monkeypatch.setattr(checkpoints, "latest_step", lambda folder: steps.pop(0))
    caplog.set_level("INFO", "flotilla")
    train._wait_for_checkpoint(config)
    assert not steps and caplog.text.count("waiting for the first checkpoint") == 1


def test_who_gets_no_processor_says_so_and_when_that_is_over(tmp_path: Path) -> None:
    said: list[str] = []

    def times(**threads: str) -> None:
        for name, content in threads.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "schedstat").write_text(content + "\n")

    times(a="1000 0 5", b="1000 0 5")
    starved = hardware.StarvationWatch(said.append, str(tmp_path))
    times(a="2000 1000 6", b="2000 4000 6")
    starved.look()
    assert not said, "5 of 7 are no reason"
    times(a="2100 1900 7", b="2100 4900 7", c="50 950 1")  # 250 and 2750
    starved.look()
    starved.look()  # nothing ran: nothing is known
    assert said == ["waits for processors 90 % of the time", ""]
    shutil.rmtree(tmp_path / "c")  # it has ended
    times(a="2200 4800 8", b="nonsense")
    starved.look()
    assert said[2:] == ["waits for processors 95 % of the time"]


def test_a_sentence_is_in_the_progress_where_nothing_else_is_said(tmp_path: Path) -> None:
    file = tmp_path / "train.json"

    def message() -> str:
        return str((progress.read(file) or {})["message"])

    told = progress.Progress(file, "train", 100, "steps")
    told.warn("waits for processors 90 % of the time")
    assert message() == "starting"
    told.update(1)
    assert message() == "waits for processors 90 % of the time"
    told.warn("waits for processors 95 % of the time")
    assert message() == "waits for processors 95 % of the time"
    told.say("exporting the model")
    told.warn("")
    assert message() == "exporting the model"
    told.update(2)
    assert message() == ""
