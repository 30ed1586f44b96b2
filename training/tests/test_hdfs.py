"""A file is there, isn't there, or the answer is that nobody answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flotilla.job.errors import BadInput, Denied, Temporary
from flotilla.storage import files, hdfs


def test_local_files(tmp_path: Path) -> None:
    path = hdfs.join(str(tmp_path), "a", "b.json")
    assert hdfs.read(path) is None and hdfs.read_json(path) is None
    assert hdfs.names(str(tmp_path / "a")) == set()
    hdfs.write_json(path, {"x": 1})
    assert hdfs.read_json(path) == {"x": 1}
    assert hdfs.names(str(tmp_path / "a")) == {"b.json"}
    hdfs.write(path, b"[1")
    assert hdfs.read(path) == b"[1" and hdfs.read_json(path) is None
    hdfs.wait_until_readable(path, 0)


def test_two_tasks_write_one_file_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "evaluator.json")
    begin = threading.Barrier(2)

    def write(value: int) -> None:
        begin.wait()
        for _ in range(200):
            hdfs.write_json(path, [value] * 1000)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (1, 2)))  # raises what a writer raises
    assert json.loads(Path(path).read_text()) in ([1] * 1000, [2] * 1000)
    assert hdfs.names(str(tmp_path)) == {"evaluator.json"}


def test_local_files_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/x\.part can't be read: Not a directory"):
        hdfs.read(str(tmp_path / "file" / "x.part"))
    with pytest.raises(BadInput, match="can't be written"):
        hdfs.write(str(tmp_path / "file" / "x"), b"")


def test_nobody_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"hdfs://127.0.0.1:{listener.getsockname()[1]}/jobs/x"
        begin = time.monotonic()
        for question in (hdfs.read, hdfs.names):
            with pytest.raises(hdfs.Unreachable, match=r"^hdfs://127\.0\.0\.1:\d+ doesn't answer \(.*refused"):
                question(url)
        with pytest.raises(hdfs.Unreachable):
            hdfs.write(url, b"")
        with pytest.raises(hdfs.Unreachable):
            hdfs.wait_until_readable(url, 1)
        assert 1 <= time.monotonic() - begin < 10


def test_a_file_is_written_again_where_a_datanode_dies_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Dying:
        """The first file's DataNode dies."""

        def create(self, name: str, _options: object) -> Dying:
            written.append(name)
            return self

        def write(self, _content: bytes) -> None:
            if len(written) == 1:
                raise OSError("Connection refused (os error 111)")

        def close(self) -> None: ...

        def rename(self, _temporary: str, name: str, overwrite: bool) -> None:
            written.append(f"{name} {overwrite}")

    monkeypatch.setattr(hdfs, "_client", lambda _server: Dying())
    hdfs.write("hdfs://h:1/jobs/x", b"1")
    assert written == [written[0], written[0], "/jobs/x True"] and written[0].startswith("/jobs/x.")


@pytest.fixture
def frozen() -> Iterator[str]:
    """The address of a NameNode that takes connections, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"hdfs://127.0.0.1:{listener.getsockname()[1]}"


def test_a_frozen_namenode_holds_nobody_up(frozen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdfs, "ANSWER_SECS", 0.5)
    monkeypatch.setattr(files, "SILENCE_SECS", 0.5)
    begin = time.monotonic()
    words = r"^hdfs://127\.0\.0\.1:\d+ doesn't answer \(no answer within 0\.5 s\)\.$"
    for question in (hdfs.read, hdfs.names, lambda path: hdfs.write(path, b"")):
        with pytest.raises(hdfs.Unreachable, match=words):
            question(f"{frozen}/jobs/x")
    folder = files.open_folder(f"{frozen}/jobs")
    for ask in (folder.sizes, lambda: folder.write("x", [b"1"]), lambda: next(folder.read("x"))):
        with pytest.raises(Temporary, match=r"HDFS gives no answer within 0\.5 s: is"):
            ask()
    assert time.monotonic() - begin < 20


def test_the_status_is_told_whatever_hdfs_does(frozen: str, tmp_path: Path) -> None:
    """And the process ends, though the question still waits for its answer."""
    (tmp_path / "job.json").write_text(json.dumps({"model_dir": f"{frozen}/jobs/x"}))
    begin = time.monotonic()
    command = [sys.executable, "-m", "flotilla.status", "--dir", str(tmp_path), "--job", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "flotilla-status: HDFS hasn't answered for 4 s.\n")
    assert time.monotonic() - begin < 8


def test_what_the_namenode_refuses_is_said_without_its_stack() -> None:
    error = OSError(
        'RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Zero blocklocations for /x. '
        'Name node is in safe mode.\\nThe reported blocks 0 needs more.\\n\\tat org.apache.hadoop.X(Y.java:1)\\n")'
    )
    said = hdfs._failure("hdfs://h:1", error)
    assert isinstance(said, hdfs.Unreachable)
    assert str(said) == (
        "hdfs://h:1 can't do it now: Zero blocklocations for /x. Name node is in safe mode (SafeModeException)."
    )
    error = OSError(
        'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: user=a, access=WRITE, '
        'inode=\\"/jobs\\":hdfs:hdfs:drwxr-xr-x\\n\\tat org.apache")'
    )
    said = hdfs._failure("hdfs://h:1", error)
    assert isinstance(said, Denied)
    assert str(said) == (
        'hdfs://h:1 refuses: Permission denied: user=a, access=WRITE, inode="/jobs":hdfs:hdfs:drwxr-xr-x.'
    )


def test_urls() -> None:
    assert hdfs.join("hdfs://h:1/a/", "b") == "hdfs://h:1/a/b"
    assert hdfs.root("hdfs://h:1/a/b") == "hdfs://h:1/"
    with pytest.raises(ValueError, match="isn't hdfs"):
        hdfs.read("hdfs://h:1")
