"""The folder that a program runs in, and the copy of the data set on a host's disk."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from flotilla.adapter import work_folder
from flotilla.job.errors import BadInput
from flotilla.storage import local_copy


def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    (folder / "words").mkdir(parents=True)
    (folder / "main.py").write_text("pass")
    (folder / "words/vocab.txt").write_text("a\nb\n")
    (folder / "words/all").symlink_to("..")
    (folder / "gone").symlink_to("nowhere")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("url")
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def test_a_program_reads_and_writes_beside_itself(tmp_path: Path) -> None:
    source, model = program(tmp_path), tmp_path / "model"
    folder = work_folder.make(str(tmp_path / "work"), "chief-0", source)
    before = Path.cwd()
    with work_folder.inside(folder):
        assert Path("words/all/words/vocab.txt").read_text() == "a\nb\n"
        Path("words/vocab.txt").write_text("c\n")
        Path("out").mkdir()
        Path("out/log.csv").write_text("1,2\n")
    assert Path.cwd() == before
    work_folder.keep_output(folder, source, str(model), "chief-0")
    kept = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert kept == {"local/chief-0/words/vocab.txt", "local/chief-0/out/log.csv"}
    again = work_folder.make(str(tmp_path / "work"), "chief-0", source)
    assert (again / "out/log.csv").exists(), "a task that is started again finds what it has written"
    assert not (again / ".git").exists()


def test_too_much_output_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work_folder, "LIMIT", 10)
    source = program(tmp_path)
    folder = work_folder.make(str(tmp_path / "work"), "worker-0", source)
    (folder / "small").write_bytes(b"x" * 10)
    (folder / "zlarge").write_bytes(b"x" * 11)
    work_folder.keep_output(folder, source, str(tmp_path / "model"), "worker-0")
    assert [path.name for path in (tmp_path / "model/local/worker-0").iterdir()] == ["small"]
    assert "not stored: zlarge" in caplog.text


def test_a_data_set_is_copied_once_and_kept_up_to_date(tmp_path: Path) -> None:
    source, folder = tmp_path / "data", tmp_path / "local/data-1"
    (source / "train").mkdir(parents=True)
    (source / "train/a.csv").write_text("1")
    (source / "b.csv").write_text("2")
    (tmp_path / "local/earlier").mkdir(parents=True)
    said: list[str] = []
    local_copy.copy(str(source), folder, said.append)
    assert (folder / "train/a.csv").read_text() == "1"
    assert not (tmp_path / "local/earlier").exists(), "another job's data"
    assert said[0] == "copies the data set to its disk, 0 % of 0 MB" and said[-1] == ""
    copied = (folder / "b.csv").stat().st_ino
    (source / "train/a.csv").write_text("3")
    os.utime(source / "train/a.csv", (2e9, 2e9))
    (folder / "gone.csv").write_text("")
    local_copy.copy(str(source), folder, said.append)
    assert (folder / "train/a.csv").read_text() == "3"
    assert not (folder / "gone.csv").exists()
    assert (folder / "b.csv").stat().st_ino == copied, "what is there isn't copied again"


def test_no_data_and_no_room_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput, match="has no files"):
        local_copy.copy(str(tmp_path / "data"), tmp_path / "local/data", lambda text: None)
    (tmp_path / "data/a").write_bytes(b"x")
    monkeypatch.setattr(local_copy, "SPARE", 10**18)
    with pytest.raises(BadInput, match=r"has room for 0\.0 GB, but the data set needs 0\.0 GB there besides HDFS"):
        local_copy.copy(str(tmp_path / "data"), tmp_path / "local/data", lambda text: None)


def test_a_task_waits_for_the_one_that_copies(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_bytes(b"x")
    (tmp_path / "local").mkdir()
    said: list[str] = []
    with (tmp_path / "local/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(
            target=local_copy.copy, args=(str(tmp_path / "data"), tmp_path / "local/data", said.append)
        )
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and said == [
            f"waits for another task, which copies the data set to {tmp_path}/local/data"
        ]
    waiting.join(10)
    assert (tmp_path / "local/data/a").read_bytes() == b"x"
