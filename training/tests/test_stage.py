"""A data set arrives whole or not at all: S3 by moto, the target a local folder."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from botocore.response import StreamingBody

from flotilla import stage
from flotilla.job.errors import Temporary
from flotilla.storage import files, manifest, s3

SOURCE = "s3://data/tiny/"
CONTENT = {f"train-{i}.tfrecord": bytes([i]) * (1000 + 300 * i) for i in range(5)}


@pytest.fixture
def client(client: Any) -> Any:
    """S3 with the data set."""
    upload(client)
    return client


def upload(client: Any, content: dict[str, bytes] = CONTENT, name: str = "tiny") -> None:
    """Put a data set, as scripts/dataset.py does it."""
    entries = []
    for path, data in content.items():
        client.put_object(Bucket="data", Key=f"tiny/{path}", Body=data)
        entries.append(
            {
                "path": path,
                "split": path.split("-")[0],
                "size": len(data),
                "records": 10,
                "sha256": hashlib.sha256(data).hexdigest(),
                "crc32c": f"{google_crc32c.value(data):08x}",
            }
        )
    manifest = {"format": "flotilla-dataset/1", "name": name, "files": entries, "features": {}}
    client.put_object(Bucket="data", Key="tiny/manifest.json", Body=json.dumps(manifest).encode())


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the program; return its exit code, what it printed, and what it complained."""
    code = stage.main(arguments)
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err.strip()


def run(capsys: Any, target: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return call(capsys, "run", "--source", SOURCE, "--target", str(target), *more)


def verify(capsys: Any, target: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return call(capsys, "verify", "--source", SOURCE, "--target", str(target), *more)


def found(target: Path) -> dict[str, bytes]:
    """The data set's files, without what is said of it."""
    said = ("manifest.json", manifest.FAILED)
    return {path.name: path.read_bytes() for path in target.iterdir() if path.name not in said}


def marked(target: Path) -> bool:
    return (target / "manifest.json").exists()


def failed(target: Path) -> str:
    """What is told to whoever waits for the data set."""
    file = target / manifest.FAILED
    return str(json.loads(file.read_text())["message"]) if file.exists() else ""


def test_all_shares_and_verify(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, progress = tmp_path / "data", tmp_path / "stage.json"
    where = ("--source", SOURCE, "--target", str(target))
    total = sum(map(len, CONTENT.values()))
    assert call(capsys, "plan", "--source", SOURCE)[1] == {
        "name": "tiny",
        "objects": 5,
        "bytes": total,
        "records": {"train": 50},
    }
    assert call(capsys, "check", *where)[1] == {"verified": False}
    results = []
    for i in range(3):
        assert not marked(target), "it isn't whole yet"
        results.append(run(capsys, target, "--share", str(i), "--shares", "3", "--progress", str(progress)))
    assert [code for code, _, _ in results] == [0, 0, 0]
    assert sum(outcome["bytes"] for _, outcome, _ in results) == total
    assert all(outcome["changed"] and outcome["skipped"] == 0 for _, outcome, _ in results)
    assert found(target) == CONTENT
    told = json.loads(progress.read_text())
    assert (told["phase"], told["state"], told["unit"]) == ("stage", "done", "bytes")
    assert told["done"] == told["total"] == results[2][1]["bytes"]
    assert told["message"].endswith("were there, all verified")

    original = client.get_object(Bucket="data", Key="tiny/manifest.json")["Body"].read()
    assert (target / "manifest.json").read_bytes() == original
    assert call(capsys, "check", *where)[1] == {"verified": True}
    assert verify(capsys, target)[1] == {"changed": False, "objects": 5, "bytes": total, "skipped": 0}
    (target / "manifest.json").unlink()
    assert verify(capsys, target)[1]["changed"] is True and (target / "manifest.json").read_bytes() == original
    assert run(capsys, target)[1] == {"changed": False, "objects": 5, "bytes": total, "skipped": 5}


def test_only_what_differs_is_copied_again(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, tmp_path)
    verify(capsys, tmp_path)
    (tmp_path / "train-1.tfrecord").write_bytes(b"x" * len(CONTENT["train-1.tfrecord"]))
    assert call(capsys, "check", "--source", SOURCE, "--target", str(tmp_path))[1] == {"verified": False}
    (tmp_path / "train-2.tfrecord").unlink()
    (tmp_path / ".train-3.tfrecord.part").write_bytes(b"left by a killed copy")
    code, outcome, _ = run(capsys, tmp_path)
    assert (code, outcome["skipped"]) == (0, 3)
    assert found(tmp_path) == CONTENT and marked(tmp_path)


def test_what_is_no_longer_whole_is_no_longer_marked(client: Any, tmp_path: Path, capsys: Any) -> None:
    """As soon as another part of it is copied; and it is marked again by who copies the last."""
    run(capsys, tmp_path)
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(b"x" * len(content))
    assert run(capsys, tmp_path, "--share", "0", "--shares", "2")[0] == 0
    assert not marked(tmp_path) and found(tmp_path) != CONTENT and not failed(tmp_path)
    assert run(capsys, tmp_path, "--share", "1", "--shares", "2")[0] == 0
    assert marked(tmp_path) and found(tmp_path) == CONTENT


def test_hosts_that_end_at_the_same_moment_agree(client: Any, tmp_path: Path, capsys: Any) -> None:
    """Each finds the whole data set, and marks it under the same temporary name."""
    run(capsys, tmp_path)
    source = s3.Prefix(SOURCE)
    for _ in range(20):
        (tmp_path / "manifest.json").unlink()
        with ThreadPoolExecutor(4) as pool:
            outcomes = [pool.submit(stage.verify, source, files.LocalFiles(tmp_path)) for _ in range(4)]
        assert any(outcome.result()["changed"] for outcome in outcomes) and marked(tmp_path)


def test_a_staging_that_begins_takes_back_what_was_said(client: Any, tmp_path: Path, capsys: Any) -> None:
    """Before anybody starts who would take the old data set for the new one."""
    begin = ("check", "--begin", "--source", SOURCE, "--target", str(tmp_path))
    run(capsys, tmp_path)
    assert call(capsys, *begin)[1] == {"verified": True} and marked(tmp_path)
    (tmp_path / "train-0.tfrecord").unlink()
    (tmp_path / manifest.FAILED).write_text('{"message": "earlier"}')
    assert call(capsys, "check", *begin[2:])[1] == {"verified": False}
    assert marked(tmp_path) and failed(tmp_path), "who only looks changes nothing"
    assert call(capsys, *begin)[1] == {"verified": False}
    assert not marked(tmp_path) and not failed(tmp_path)
    run(capsys, tmp_path)
    upload(client, {"train-0.tfrecord": b"other"}, name="other")
    code, _, said = call(capsys, *begin)
    assert code == 2 and "holds another data set" in said and marked(tmp_path)
    assert call(capsys, *begin, "--replace")[1] == {"verified": False} and not marked(tmp_path)


def test_damaged_object(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = b"?" + CONTENT["train-3.tfrecord"][1:]
    client.put_object(Bucket="data", Key="tiny/train-3.tfrecord", Body=bad)
    progress = tmp_path / "stage.json"
    target = tmp_path / "data"
    target.mkdir()
    (target / "train-3.tfrecord").write_bytes(b"old")
    code, outcome, said = run(capsys, target, "--progress", str(progress))
    assert (code, outcome) == (3, {})
    expected = f"CRC-32C {google_crc32c.value(CONTENT['train-3.tfrecord']):08x}, S3 has {google_crc32c.value(bad):08x}"
    assert said.startswith("flotilla.stage: s3://data/tiny/train-3.tfrecord is damaged: its manifest says " + expected)
    assert said.endswith("upload the data set again.") and "\n" not in said
    told = json.loads(progress.read_text())
    assert told["state"] == "failed" and "train-3.tfrecord is damaged" in told["message"]
    assert not [name for name in found(target) if "train-3" in name or name.startswith(".")]
    assert failed(target) == told["message"]
    code, _, said = verify(capsys, target)
    assert code == 3 and "is missing: stage the data set again" in said
    assert not marked(target) and "is missing" in failed(target)


def test_objects_that_s3_itself_knows_to_differ(client: Any, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "data"
    s3.Prefix(SOURCE).put("train-0.tfrecord", b"?" * 1000)
    code, _, said = call(capsys, "plan", "--source", SOURCE)
    assert code == 3 and "train-0.tfrecord is damaged: its manifest says CRC-32C" in said
    client.put_object(Bucket="data", Key="tiny/train-0.tfrecord", Body=b"short")
    code, _, said = run(capsys, target)
    assert code == 3 and "train-0.tfrecord is damaged: its manifest says 1000 bytes, S3 has 5;" in said
    client.delete_object(Bucket="data", Key="tiny/train-0.tfrecord")
    code, _, said = run(capsys, target)
    assert code == 3 and "train-0.tfrecord is in the manifest but not in S3" in said


def test_damage_at_the_target(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, tmp_path)
    (tmp_path / "train-1.tfrecord").write_bytes(b"x" * len(CONTENT["train-1.tfrecord"]))
    code, _, said = verify(capsys, tmp_path)
    assert code == 3 and "train-1.tfrecord has 1300 bytes and CRC-32C" in said
    assert "train-1.tfrecord" not in found(tmp_path) and not marked(tmp_path) and "train-1" in failed(tmp_path)
    assert run(capsys, tmp_path)[0] == 0 and marked(tmp_path) and not failed(tmp_path)
    assert verify(capsys, tmp_path)[0] == 0


def test_another_data_set(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, tmp_path)
    verify(capsys, tmp_path)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    upload(client, {"eval-0.tfrecord": b"new" * 100, "train-0.tfrecord": b"other"}, name="other")
    for program in (run, verify):
        code, _, said = program(capsys, tmp_path)
        assert code == 2 and "holds another data set than s3://data/tiny/: choose another target" in said
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    assert run(capsys, tmp_path, "--replace")[0] == 0
    assert verify(capsys, tmp_path, "--replace")[0] == 0
    assert set(found(tmp_path)) == {"eval-0.tfrecord", "train-0.tfrecord"} and marked(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://data/nothing/", "has no manifest.json"),
        ("s3://none/tiny/", "The bucket none doesn't exist"),
        ("data/tiny", "is no place in S3"),
    ],
)
def test_bad_source(client: Any, tmp_path: Path, capsys: Any, source: str, words: str) -> None:
    target = tmp_path / "data"
    code, _, said = call(capsys, "run", "--source", source, "--target", str(target))
    assert code == 2 and words in said
    assert not target.exists()


def test_bad_target_and_share(client: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for target in ("s3://x/y", "hdfs://host", "hdfs:///x"):
        code, _, said = call(capsys, "run", "--source", SOURCE, "--target", target)
        assert code == 2 and "is no folder" in said
    assert run(capsys, tmp_path, "--share", "3", "--shares", "3")[0] == 2


def test_no_space(client: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.LocalFiles, "free", lambda self: (15_000, 3))
    code, _, said = run(capsys, tmp_path / "data")
    assert code == 2 and "GB free, but what is missing needs" in said
    assert not found(tmp_path / "data") and "GB free" in failed(tmp_path / "data")


def test_broken_connections_are_taken_up(client: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Each answer carries but 400 bytes before the line goes dead, with IncompleteReadError."""
    get = client.get_object
    ranges: list[str | None] = []

    def broken(**arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = get(**arguments)
        if arguments["Key"].endswith(".tfrecord"):
            ranges.append(arguments.get("Range"))
            answer["Body"] = StreamingBody(io.BytesIO(answer["Body"].read()[:400]), answer["ContentLength"])
        return answer

    monkeypatch.setattr(client, "get_object", broken)
    monkeypatch.setattr(s3, "CHUNK", 100)
    assert run(capsys, tmp_path)[0] == 0
    assert found(tmp_path) == CONTENT
    assert "bytes=400-" in ranges and "bytes=800-" in ranges


def test_dead_connections_end_as_temporary(client: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    get = client.get_object

    def dead(**arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = get(**arguments)
        if arguments["Key"].endswith(".tfrecord"):
            answer["Body"] = StreamingBody(io.BytesIO(), answer["ContentLength"])
        return answer

    monkeypatch.setattr(client, "get_object", dead)
    progress = tmp_path / "stage.json"
    code, _, said = run(capsys, tmp_path / "data", "--progress", str(progress))
    assert code == 75 and "s3://data/tiny/train-" in said
    told = json.loads(progress.read_text())
    assert told["state"] == "running" and told["message"].endswith("Trying again.") and told["done"] == 0
    assert found(tmp_path / "data") == {}


def test_a_target_that_fails(client: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """As when the DataNode dies that is written to."""
    write = files.LocalFiles.write
    failures: list[str] = []

    def failing(self: files.LocalFiles, path: str, chunks: Iterable[bytes]) -> None:
        if len(failures) < 3:
            failures.append(path)
            list(chunks)
            raise Temporary("HDFS failed.")
        write(self, path, chunks)

    monkeypatch.setattr(files.LocalFiles, "write", failing)
    assert run(capsys, tmp_path)[0] == 0 and found(tmp_path) == CONTENT
    failures[:] = []
    monkeypatch.setattr(files.LocalFiles, "write", lambda *_: (_ for _ in ()).throw(Temporary("HDFS failed.")))
    assert run(capsys, tmp_path / "more")[0] == 75


def test_refusals(client: Any, tmp_path: Path, capsys: Any) -> None:
    """Without the permission to list, S3 refuses what isn't there; with it, the list says so."""

    def refuse(**_: Any) -> tuple[Any, dict[str, Any]]:
        error = {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return type("Answer", (), {"status_code": 403}), error

    client.meta.events.register("before-call.s3.GetObject", refuse)
    code, _, said = call(capsys, "plan", "--source", SOURCE)
    assert code == 2 and "manifest.json: GetObject is refused (AccessDenied)" in said
    code, _, said = call(capsys, "plan", "--source", "s3://data/nothing/")
    assert code == 2 and "has no manifest.json" in said
    client.meta.events.register("before-call.s3.ListObjectsV2", refuse)
    code, _, said = call(capsys, "plan", "--source", "s3://data/nothing/")
    assert code == 2 and "GetObject is refused" in said


def test_expired_credentials(client: Any, capsys: Any) -> None:
    """HEAD's answer has no body, and so no code but the status."""

    def answer(code: str) -> Any:
        error = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        return lambda **_: (type("Answer", (), {"status_code": 400}), error)

    client.meta.events.register("before-call.s3.HeadObject", answer("400"))
    client.meta.events.register("before-call.s3.ListObjectsV2", answer("ExpiredToken"))
    code, _, said = call(capsys, "plan", "--source", SOURCE)
    assert code == 2 and "credentials of this host have expired (ExpiredToken): give it new ones" in said


def test_no_namenode() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(Temporary, match=r"^hdfs://127\.0\.0\.1:\d+ doesn't answer \(.*refused"):
            files.open_folder(f"hdfs://127.0.0.1:{listener.getsockname()[1]}/datasets/x", wait=0)
