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
from flotilla.job.errors import Denied, Temporary
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


def verified(capsys: Any, *arguments: str) -> object:
    """What check says."""
    code, said, problem = call(capsys, "check", *arguments)
    assert code == 0, problem
    return said["verified"]


def verify(capsys: Any, target: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return call(capsys, "verify", "--source", SOURCE, "--target", str(target), *more)


def found(target: Path) -> dict[str, bytes]:
    """The data set's files, without its manifest."""
    files = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    files.pop("manifest.json", None)
    return files


def note(target: Path, name: str) -> Path:
    """What is said of a data set."""
    return target.parent / f"{target.name}.staging" / name


def marked(target: Path) -> bool:
    return note(target, manifest.VERIFIED).exists()


def failed(target: Path) -> str:
    """What is told to whoever waits for the data set."""
    file = note(target, manifest.FAILED)
    return str(json.loads(file.read_text())["message"]) if file.exists() else ""


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder that has one to itself, where a data set's notes go beside it."""
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_all_shares_and_verify(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, progress = tmp_path / "data", tmp_path / "stage.json"
    where = ("--source", SOURCE, "--target", str(target))
    total = sum(map(len, CONTENT.values()))
    assert verified(capsys, *where) is False
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
    assert verified(capsys, *where) is True
    assert verify(capsys, target)[1] == {"changed": False, "objects": 5, "bytes": total, "skipped": 0}
    note(target, manifest.VERIFIED).unlink()
    assert verify(capsys, target)[1]["changed"] is True and marked(target)
    assert run(capsys, target)[1] == {"changed": False, "objects": 5, "bytes": total, "skipped": 5}


def test_only_what_differs_is_copied_again(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, tmp_path)
    verify(capsys, tmp_path)
    (tmp_path / "train-1.tfrecord").write_bytes(b"x" * len(CONTENT["train-1.tfrecord"]))
    assert verified(capsys, "--source", SOURCE, "--target", str(tmp_path)) is False
    (tmp_path / "train-2.tfrecord").unlink()
    (tmp_path / "train-3.tfrecord").write_bytes(b"left by a killed copy")
    code, outcome, _ = run(capsys, tmp_path)
    assert (code, outcome["skipped"]) == (0, 2)
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
    """Each finds the whole data set, and marks it."""
    run(capsys, tmp_path)
    source = s3.Prefix(SOURCE)
    for _ in range(20):
        note(tmp_path, manifest.VERIFIED).unlink()
        with ThreadPoolExecutor(4) as pool:
            outcomes = [pool.submit(stage.verify, source, stage.Target(str(tmp_path))) for _ in range(4)]
        assert any(outcome.result()["changed"] for outcome in outcomes) and marked(tmp_path)


def test_a_staging_that_begins_takes_back_what_was_said(client: Any, tmp_path: Path, capsys: Any) -> None:
    """Before anybody starts who would take the old data set for the new one."""
    where = ("--source", SOURCE, "--target", str(tmp_path))
    run(capsys, tmp_path)
    assert verified(capsys, "--begin", *where) and marked(tmp_path)
    (tmp_path / "train-0.tfrecord").unlink()
    note(tmp_path, manifest.FAILED).write_text('{"message": "earlier"}')
    assert not verified(capsys, *where)
    assert marked(tmp_path) and failed(tmp_path), "who only looks changes nothing"
    assert not verified(capsys, "--begin", *where)
    assert not marked(tmp_path) and not failed(tmp_path)
    run(capsys, tmp_path)
    upload(client, {"train-0.tfrecord": b"other"}, name="other")
    code, _, said = call(capsys, "check", "--begin", *where)
    assert code == 2 and "s3://data/tiny/ has changed since it was staged" in said and marked(tmp_path)
    assert said.endswith("add -e dataset_replace=true to the command.")
    assert not verified(capsys, "--begin", "--replace", *where) and not marked(tmp_path)


def test_what_was_judged_is_what_is_staged(client: Any, tmp_path: Path, capsys: Any) -> None:
    where = ("--begin", "--source", SOURCE, "--target", str(tmp_path / "data"))
    version = call(capsys, "check", *where)[1]["version"]
    assert call(capsys, "check", "--version", version, *where)[0] == 0
    upload(client, {"train-0.tfrecord": b"other"})
    code, _, said = call(capsys, "check", "--version", version, *where)
    assert code == 2 and "s3://data/tiny/ has changed since it was judged" in said


FOLDER = {
    "cats/1.jpg": b"cat",
    "cats/a b%20+[x]*{y}?.jpg": b"another" * 1000,
    "dogs/größe.jpg": b"dog",
    "empty": b"",
    ".hidden": b"h",
    "manifest.json": b'{"name": "of a web app"}',
}


@pytest.fixture
def folder(client: Any) -> Any:
    """A folder of anybody's, without a manifest."""
    for path, data in {"": b"", "dogs/": b"", **FOLDER}.items():
        client.put_object(Bucket="data", Key=f"any/{path}", Body=data)
    return client


ANY = ("--source", "s3://data/any/")


def test_a_folder_as_it_is(folder: Any, tmp_path: Path, capsys: Any) -> None:
    """It has its files, of which one is called as our manifests are, and nothing of the kit's."""
    target = tmp_path / "data"
    where = (*ANY, "--target", str(target))
    assert verified(capsys, "--begin", *where) is False
    objects = 0
    for i in range(3):
        assert not marked(target)
        code, outcome, said = call(capsys, "run", "--share", str(i), "--shares", "3", *where)
        assert code == 0, said
        objects += outcome["objects"]
    assert objects == 6
    there = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert there == FOLDER and marked(target)
    mark = json.loads(note(target, manifest.VERIFIED).read_text())
    assert (mark["source"], mark["objects"], mark["bytes"]) == ("s3://data/any/", 6, sum(map(len, FOLDER.values())))
    assert verified(capsys, "--begin", *where) is True
    assert call(capsys, "verify", *where)[1]["changed"] is False

    changed = target / "cats/1.jpg"
    changed.write_bytes(b"CAT")
    assert verified(capsys, "--begin", *where) is False, "of the same size, but written later"
    code, outcome, _ = call(capsys, "run", *where)
    assert (code, outcome["skipped"]) == (0, 5) and changed.read_bytes() == b"cat", "and nothing else is copied"
    assert verified(capsys, *where) is True


def test_a_folder_that_grows(folder: Any, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "data"
    where = (*ANY, "--target", str(target))
    call(capsys, "check", "--begin", *where)
    call(capsys, "run", *where)
    folder.put_object(Bucket="data", Key="any/dogs/2.jpg", Body=b"another dog")
    folder.delete_object(Bucket="data", Key="any/empty")
    code, _, said = call(capsys, "check", "--begin", *where)
    assert code == 2 and "s3://data/any/ has changed since it was staged" in said and marked(target)
    assert call(capsys, "check", "--begin", "--replace", *where)[1]["verified"] is False
    code, outcome, _ = call(capsys, "run", "--replace", *where)
    assert (code, outcome["skipped"]) == (0, 5), "what is the same isn't copied again"
    assert set(found(target)) == {*FOLDER, "dogs/2.jpg"} - {"empty", "manifest.json"} and marked(target)


def test_an_object_that_changes_or_goes_while_it_is_staged(folder: Any, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "data"
    where = (*ANY, "--target", str(target))
    call(capsys, "check", "--begin", *where)
    folder.put_object(Bucket="data", Key="any/cats/1.jpg", Body=b"dog")
    code, _, said = call(capsys, "run", *where)
    assert code == 3 and "s3://data/any/cats/1.jpg has changed since it was listed: run the same command again." in said
    assert "has changed" in failed(target) and not marked(target)
    folder.delete_object(Bucket="data", Key="any/cats/1.jpg")
    code, _, said = call(capsys, "run", *where)
    assert code == 3 and "is in the list of the data set, but no longer in S3: run the same command again." in said
    call(capsys, "check", "--begin", *where)
    assert call(capsys, "run", *where)[0] == 0 and marked(target) and "cats/1.jpg" not in found(target)


def test_who_is_killed_copies_little_again(folder: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The checksums are written down now and then; a file without one is copied again, even of the right size."""
    target = tmp_path / "data"
    where = (*ANY, "--target", str(target))
    call(capsys, "check", "--begin", *where)
    monkeypatch.setattr(stage, "SUMS_SECS", 0)
    real = stage._copy

    def dying(*arguments: Any) -> None:
        real(*arguments)
        if arguments[2].path == "dogs/größe.jpg":
            raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_copy", dying)
    monkeypatch.setattr(stage, "MANY_THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        call(capsys, "run", *where)
    capsys.readouterr()
    monkeypatch.setattr(stage, "_copy", real)
    left = set(FOLDER) - set(json.loads(note(target, "sums-0.json").read_text())["files"])
    assert left and not marked(target)
    for path in left:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"x" * len(FOLDER[path]))
    assert call(capsys, "run", *where)[1]["skipped"] == len(FOLDER) - len(left)
    assert {path: (target / path).read_bytes() for path in FOLDER} == FOLDER and marked(target)


def test_what_can_not_be_staged_is_refused(client: Any, tmp_path: Path, capsys: Any) -> None:
    client.put_object(Bucket="data", Key="odd/a:b", Body=b"x")
    code, _, said = call(capsys, "check", "--source", "s3://data/odd", "--target", str(tmp_path / "data"))
    assert code == 2 and "s3://data/odd/a:b can't be staged, as HDFS has no names with a colon: rename it" in said


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
    code, _, said = run(capsys, target)
    assert code == 3 and "train-0.tfrecord is damaged: its manifest says CRC-32C" in said
    client.put_object(Bucket="data", Key="tiny/train-0.tfrecord", Body=b"short")
    code, _, said = run(capsys, target)
    assert code == 3 and "train-0.tfrecord is damaged: its manifest says 1000 bytes, S3 has 5;" in said
    client.delete_object(Bucket="data", Key="tiny/train-0.tfrecord")
    code, _, said = run(capsys, target)
    assert code == 3 and "train-0.tfrecord is in the manifest of the data set, but no longer in S3" in said


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
        assert code == 2 and "s3://data/tiny/ has changed since it was staged" in said
    client.put_object(Bucket="data", Key="other/x", Body=b"x")
    code, _, said = call(capsys, "check", "--begin", "--source", "s3://data/other/", "--target", str(tmp_path))
    assert code == 2 and f"{tmp_path} holds another data set, s3://data/tiny/: choose another target" in said
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    assert run(capsys, tmp_path, "--replace")[0] == 0
    assert verify(capsys, tmp_path, "--replace")[0] == 0
    assert set(found(tmp_path)) == {"eval-0.tfrecord", "train-0.tfrecord"} and marked(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://data/nothing/", "s3://data/nothing/ has no objects: upload the data set, or name another folder"),
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
    check = ("check", "--target", str(tmp_path / "data"), "--source")
    code, _, said = call(capsys, *check, SOURCE)
    assert code == 2 and "manifest.json: GetObject is refused (AccessDenied)" in said
    code, _, said = call(capsys, *check, "s3://data/nothing/")
    assert code == 2 and "s3://data/nothing/ has no objects" in said
    client.meta.events.register("before-call.s3.ListObjectsV2", refuse)
    code, _, said = call(capsys, *check, "s3://data/nothing/")
    assert code == 2 and "GetObject is refused" in said


@pytest.mark.parametrize(
    ("code", "status", "ends", "words"),
    [
        ("InvalidObjectState", 403, 2, "is archived, so S3 doesn't give it: restore it"),
        ("InvalidBucketName", 400, 2, "S3 refuses ListObjectsV2 (InvalidBucketName): no"),
        ("KMS.DisabledException", 400, 2, "S3 refuses ListObjectsV2 (KMS.DisabledException): no"),
        ("OperationAborted", 409, 75, "ListObjectsV2 failed"),
        ("InternalError", 500, 75, "ListObjectsV2 failed"),
    ],
)
def test_what_stays_is_not_tried_again(
    folder: Any, tmp_path: Path, capsys: Any, code: str, status: int, ends: int, words: str
) -> None:
    """A unit that ends with 75 is started again, on hosts that are paid for."""
    error = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    answer = (type("Answer", (), {"status_code": status}), error)
    call_of = "GetObject" if code == "InvalidObjectState" else "ListObjectsV2"
    folder.meta.events.register(f"before-call.s3.{call_of}", lambda **_: answer)
    ended, _, said = call(capsys, "check", *ANY, "--target", str(tmp_path / "data"))
    assert ended == ends and words in said, said


def test_whoever_asks_pays(folder: Any, tmp_path: Path, capsys: Any) -> None:
    asked: dict[str, Any] = {}
    for name in ("GetObject", "ListObjectsV2"):
        folder.meta.events.register(f"before-parameter-build.s3.{name}", lambda params, model, **_: asked.update(
            {model.name: params.get("RequestPayer")}
        ))  # fmt: skip
    where = (*ANY, "--target", str(tmp_path / "data"))
    assert call(capsys, "run", "--requester-pays", *where)[0] == 0
    assert asked == {"GetObject": "requester", "ListObjectsV2": "requester"}
    (tmp_path / "data/empty").unlink()
    assert call(capsys, "run", *where)[0] == 0
    assert asked == {"GetObject": None, "ListObjectsV2": None}


def test_expired_credentials(client: Any) -> None:
    """HEAD's answer has no body, and so no code but the status."""

    def answer(code: str) -> Any:
        error = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        return lambda **_: (type("Answer", (), {"status_code": 400}), error)

    client.meta.events.register("before-call.s3.HeadObject", answer("400"))
    client.meta.events.register("before-call.s3.ListObjectsV2", answer("ExpiredToken"))
    with pytest.raises(Denied, match=r"credentials of this host have expired \(ExpiredToken\): give it new ones"):
        s3.Prefix(SOURCE).head("train-0.tfrecord")


def test_no_namenode() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(Temporary, match=r"^hdfs://127\.0\.0\.1:\d+ doesn't answer \(.*refused"):
            files.open_folder(f"hdfs://127.0.0.1:{listener.getsockname()[1]}/datasets/x", wait=0)
