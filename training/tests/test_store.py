"""A model is stored whole, its manifest last, and never over another: S3 by moto, the job's folder a local one."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla import store
from flotilla.storage import files, s3

RESULT = {
    "name": "cifar10",
    "global_step": 400,
    "metrics": {"accuracy": 0.5, "loss": 1.2},
    "versions": {"tensorflow": "2.15.1"},
    "saved_model": "export/1795",
}
PARTS = {
    "export/1700/saved_model.pb": b"an older export",
    "export/1795/saved_model.pb": b"graph",
    "export/1795/variables/variables.index": b"index",
    "export/1795/variables/variables.data-00000-of-00001": b"weights" * 1000,
    "model.ckpt-200.index": b"older",
    "model.ckpt-400.index": b"i",
    "model.ckpt-400.meta": b"m",
    "model.ckpt-400.data-00000-of-00001": b"d" * 100,
    "model.ckpt-4000.index": b"of another step",
    "checkpoint": b'model_checkpoint_path: "model.ckpt-400"\nall_model_checkpoint_paths: "model.ckpt-200"\n',
    "events.out.tfevents.1.chief-0": b"e1",
    "eval_validation/events.out.tfevents.2.ps-0": b"e2",
    "eval_validation/events.out.tfevents.1.ps-0": b"",  # of an evaluator that was killed
    "worker-0/events.out.tfevents.1.worker-0": b"w1",
    "graph.pbtxt": b"text",
    "result.json": json.dumps(RESULT).encode(),
}
STORED = {
    "checkpoint/checkpoint",
    "checkpoint/model.ckpt-400.data-00000-of-00001",
    "checkpoint/model.ckpt-400.index",
    "checkpoint/model.ckpt-400.meta",
    "events/eval_validation/events.out.tfevents.2.ps-0",
    "events/events.out.tfevents.1.chief-0",
    "events/worker-0/events.out.tfevents.1.worker-0",
    "result.json",
    "saved_model/saved_model.pb",
    "saved_model/variables/variables.data-00000-of-00001",
    "saved_model/variables/variables.index",
}


class Refusal:
    """S3 that answers an operation with an error, while it is on."""

    def __init__(self, client: Any, operation: str, code: str = "AccessDenied") -> None:
        self.on, self.code = True, code
        client.meta.events.register(f"before-call.s3.{operation}", self)

    def __call__(self, **_: Any) -> Any:
        if not self.on:
            return None
        error = {"Error": {"Code": self.code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return type("Answer", (), {"status_code": 403}), error


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained job's folder and the configuration that stores it."""
    monkeypatch.setattr(store, "SETTLE_SECS", 0)
    for path, data in PARTS.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    (tmp_path / "chief.done").write_text("{}")
    content = {
        "model_dir": str(tmp_path / "model"),
        "target": "s3://data/models/",
        "job": "cifar10",
        "fleet": "demo",
        "variables": {"training_max_steps": 400},
        "progress": str(tmp_path / "store.json"),
        "done_file": str(tmp_path / "store.done"),
        "trained_file": str(tmp_path / "chief.done"),
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return file


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = store.main(arguments)
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err.strip()


def objects(client: Any) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket="data").get("Contents", [])
    return {item["Key"]: client.get_object(Bucket="data", Key=item["Key"])["Body"].read() for item in listed}


def retrain(config: Path) -> None:
    """The chief ends again, with another model."""
    folder = config.parent / "model"
    (folder / "export/1795/saved_model.pb").write_bytes(b"another graph")
    os.utime(config.parent / "chief.done", (2e9, 2e9))


def test_store(client: Any, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written: list[str] = []
    client.meta.events.register(
        "before-parameter-build.s3.PutObject", lambda params, **_: written.append(params["Key"])
    )
    code, outcome, _ = call(capsys, "--config", str(config))
    assert code == 0 and outcome["changed"] is True
    assert outcome["manifest"] == "s3://data/models/cifar10/manifest.json"
    there = objects(client)
    assert set(there) == {f"models/cifar10/{path}" for path in STORED | {"manifest.json", ".claim"}}
    assert written[-1] == "models/cifar10/manifest.json"

    manifest = json.loads(there["models/cifar10/manifest.json"])
    assert manifest["format"] == "flotilla-model/1"
    assert (manifest["job"], manifest["fleet"], manifest["global_step"]) == ("cifar10", "demo", 400)
    assert manifest["metrics"] == RESULT["metrics"] and manifest["variables"] == {"training_max_steps": 400}
    assert set(manifest["versions"]) == {"tensorflow", "flotilla"} and manifest["created"].endswith("Z")
    for entry in manifest["files"]:
        data = there["models/cifar10/" + entry["path"]]
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert {entry["path"] for entry in manifest["files"]} == STORED
    assert manifest["left_out"] == ["model.ckpt-200", "model.ckpt-4000"]
    state = there["models/cifar10/checkpoint/checkpoint"].decode().splitlines()
    assert state == ['model_checkpoint_path: "model.ckpt-400"', 'all_model_checkpoint_paths: "model.ckpt-400"']
    head = client.head_object(Bucket="data", Key="models/cifar10/saved_model/saved_model.pb", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32C"]

    done = json.loads((config.parent / "store.done").read_text())
    assert done["manifest"] == outcome["manifest"] and done["metrics"] == RESULT["metrics"]
    told = json.loads((config.parent / "store.json").read_text())
    assert told["state"] == "done" and outcome["manifest"] in told["message"]


def test_what_a_program_has_written_is_stored_too(
    client: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but other checkpoints, which the manifest names, and the kit's own notes."""
    model = config.parent / "model"
    (model / "result.json").write_text(json.dumps({**RESULT, "program": "p/p.py", "saved_model": ""}))
    theirs = {"report.txt", "samples/1.png", "keras/checkpoint", "export/best/17/saved_model.pb", "model.json.bak"}
    notes = {"model.json", "steps.json", "progress/train.json", "evaluation.json", "export/temp-1/x", "x.part"}
    for path in theirs | notes:
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_text("{}")
    code, _, said = call(capsys, "--config", str(config))
    assert code == 0, said
    stored = {key.removeprefix("models/cifar10/files/") for key in objects(client) if "/files/" in key}
    # Of several exports the newest is saved_model/.
    assert stored == theirs | {"export/1700/saved_model.pb", "graph.pbtxt"}


def test_events_are_stored_when_the_evaluator_has_closed_them(
    client: Any, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "eval_validation/events.out.tfevents.2.ps-0"
    read, waited = files.LocalFiles.read, []

    def open_file(self: files.LocalFiles, name: str, size: int | None = None) -> Iterator[bytes]:
        return iter(()) if name == path and not waited else read(self, name, size)

    monkeypatch.setattr(files.LocalFiles, "read", open_file)
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr(store, "SETTLE_SECS", 10)
    assert call(capsys, "--config", str(config))[0] == 0
    assert waited == [1]
    assert objects(client)[f"models/cifar10/events/{path}"] == b"e2"


@pytest.mark.parametrize("again", [True, False])
def test_events_that_a_killed_task_has_left_open_are_closed(
    client: Any, config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """At once where the task was started again, and has another file; else when a task had its time to end."""
    path = "worker-0/events.out.tfevents.1.worker-0"
    if again:
        (config.parent / "model/worker-0/events.out.tfevents.2.worker-0").write_bytes(b"w2")
    read, closed, waited = files.LocalFiles.read, [], []

    def open_file(self: files.LocalFiles, name: str, size: int | None = None) -> Iterator[bytes]:
        return iter(()) if name == path and not closed else read(self, name, size)

    monkeypatch.setattr(files.LocalFiles, "read", open_file)
    monkeypatch.setattr(files.LocalFiles, "close", lambda self, name: closed.append(name))
    clock = time.monotonic
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.monotonic", lambda: clock() + sum(waited))
    assert call(capsys, "--config", str(config))[0] == 0
    assert closed == [path] and (len(waited) == 1 if again else len(waited) >= store.CLOSE_SECS)
    assert objects(client)[f"models/cifar10/events/{path}"] == b"w1"


def test_events_that_stay_open_are_named(
    client: Any, config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is stored without them."""
    path = "worker-0/events.out.tfevents.1.worker-0"
    read, waited = files.LocalFiles.read, []
    monkeypatch.setattr(
        files.LocalFiles, "read", lambda self, name, size=None: iter(() if name == path else read(self, name, size))
    )
    clock = time.monotonic
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.monotonic", lambda: clock() + sum(waited))
    assert call(capsys, "--config", str(config))[0] == 0
    assert f"{path} isn't closed; what is in it isn't stored." in caplog.text
    assert f"models/cifar10/events/{path}" not in objects(client)


def test_events_that_the_evaluator_has_yet_to_write_are_waited_for(
    client: Any, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    says, late = config.parent / "model/evaluator.json", config.parent / "model/eval_validation/events.out.tfevents.3.x"
    says.write_text('{"evaluating": true}')

    def end(_: float) -> None:
        late.write_bytes(b"e3")
        says.write_text('{"evaluating": false}')

    monkeypatch.setattr("time.sleep", end)
    monkeypatch.setattr(store, "SETTLE_SECS", 10)
    assert call(capsys, "--config", str(config))[0] == 0
    assert objects(client)[f"models/cifar10/events/eval_validation/{late.name}"] == b"e3"


def logged(config: Path, *tasks: str, at: float | None = None) -> None:
    """Tasks have begun, and their logs are on HDFS."""
    folder = config.parent / "model/progress"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        (folder / f"{task}.started").write_text("1")
        (folder / f"logs/{task}.log.gz").write_bytes(f"what {task} said".encode())
        if at:
            os.utime(folder / f"logs/{task}.log.gz", (at, at))


def test_logs_are_stored_with_the_model(client: Any, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged(config, "chief-0", "worker-0")
    code, _, _ = call(capsys, "--config", str(config))
    assert code == 0 and objects(client)["models/cifar10/logs/worker-0.log.gz"] == b"what worker-0 said"
    manifest = json.loads(objects(client)["models/cifar10/manifest.json"])
    assert {"logs/chief-0.log.gz", "logs/worker-0.log.gz"} <= {file["path"] for file in manifest["files"]}
    (config.parent / "store.done").unlink()
    logged(config, "worker-0", at=2e9)
    code, outcome, _ = call(capsys, "--config", str(config))
    assert code == 0 and not outcome["changed"], "a log that has grown makes no other model"


def test_the_log_of_a_task_that_ends_late_is_waited_for(
    client: Any, config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(config, "chief-0", "worker-0", at=1e9)  # of an earlier process
    slept: list[float] = []

    def end(seconds: float) -> None:
        slept.append(seconds)
        logged(config, "chief-0", "worker-0")

    monkeypatch.setattr(time, "sleep", end)
    assert call(capsys, "--config", str(config))[0] == 0
    assert len(slept) == 1


def test_the_logs_of_a_failed_job_are_stored_where_its_model_would_lie(
    client: Any, config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "FAILED_LOGS_SECS", 0)
    monkeypatch.setattr(store, "LOGS_SECS", 0)
    (config.parent / "model/job-failed.json").write_text('{"message": "the reason"}')
    logged(config, "chief-0")
    logged(config, "worker-0", at=1e9)
    code, outcome, _ = call(capsys, "--config", str(config), "logs")
    assert code == 0 and outcome["logs"] == "s3://data/models/cifar10/logs/"
    found = objects(client)
    assert found["models/cifar10/logs/job-failed.json"] == b'{"message": "the reason"}'
    assert {f"models/cifar10/logs/{task}.log.gz" for task in ("chief-0", "worker-0")} <= set(found)
    assert "models/cifar10/manifest.json" not in found
    assert "Not ended yet: worker-0." in caplog.text
    assert call(capsys, "--config", str(config))[1]["manifest"] == "s3://data/models/cifar10/manifest.json"


def test_again_changes_nothing(client: Any, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "--config", str(config))
    before = objects(client)
    (config.parent / "store.done").unlink()
    # The evaluator has gone on meanwhile.
    (config.parent / "model/eval_validation/events.out.tfevents.2.ps-0").write_bytes(b"e2 and more")
    code, outcome, _ = call(capsys, "--config", str(config))
    assert (code, outcome["changed"]) == (0, False)
    assert objects(client) == before
    # With its own mark it doesn't even ask.
    Refusal(client, "GetObject")
    Refusal(client, "HeadObject")
    code, outcome, _ = call(capsys, "--config", str(config))
    assert (code, outcome["changed"]) == (0, False)
    assert json.loads((config.parent / "store.json").read_text())["state"] == "done"


def test_a_folder_that_another_fleet_is_filling_is_left_alone(
    client: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.put_object(Bucket="data", Key="models/cifar10/.claim", Body=b"somebody else")
    code, outcome, _ = call(capsys, "--config", str(config))
    assert (code, outcome["manifest"]) == (0, "s3://data/models/cifar10-2/manifest.json")
    assert [key for key in objects(client) if key.startswith("models/cifar10/")] == ["models/cifar10/.claim"]


def test_another_model_gets_another_name(client: Any, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "--config", str(config))
    before = objects(client)
    retrain(config)
    check = ("check", "--target", "s3://data/models/", "--job", "cifar10")
    assert call(capsys, *check)[1] == {"writable": True, "target": "s3://data/models/cifar10-2/"}
    for changed in (True, False):
        code, outcome, _ = call(capsys, "--config", str(config))
        assert code == 0 and outcome["changed"] is changed
        assert outcome["manifest"] == "s3://data/models/cifar10-2/manifest.json"
    after = objects(client)
    assert {key: after[key] for key in before} == before
    assert after["models/cifar10-2/saved_model/saved_model.pb"] == b"another graph"


def test_an_object_that_was_deleted_comes_back(client: Any, config: Path, capsys: Any) -> None:
    call(capsys, "--config", str(config))
    client.delete_object(Bucket="data", Key="models/cifar10/result.json")
    (config.parent / "store.done").unlink()
    assert call(capsys, "--config", str(config))[1]["changed"] is True
    assert set(objects(client)) == {f"models/cifar10/{path}" for path in STORED | {"manifest.json", ".claim"}}


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "ServiceUnavailable"])
def test_s3_that_refuses_for_a_while(client: Any, config: Path, capsys: Any, code: str) -> None:
    refusal = Refusal(client, "PutObject", code)
    exit_code, _, said = call(capsys, "--config", str(config))
    assert exit_code == 75 and code in said and "\n" not in said
    told = json.loads((config.parent / "store.json").read_text())
    assert told["state"] == "running" and told["message"].endswith("Trying again; the model stays in HDFS.")
    assert objects(client) == {} and not (config.parent / "store.done").exists()
    refusal.on = False
    assert call(capsys, "--config", str(config))[0] == 0
    assert "models/cifar10/manifest.json" in objects(client)


def test_interrupted_half_way(client: Any, config: Path, capsys: Any, monkeypatch: Any) -> None:
    put = s3.Prefix.put
    paths: list[str] = []

    def failing(self: s3.Prefix, path: str, *more: Any, **named: Any) -> None:
        paths.append(path)
        if len(paths) == 5:
            raise KeyboardInterrupt
        put(self, path, *more, **named)

    monkeypatch.setattr(s3.Prefix, "put", failing)
    with pytest.raises(KeyboardInterrupt):
        call(capsys, "--config", str(config))
    assert len(objects(client)) == 4
    assert call(capsys, "--config", str(config))[0] == 0
    # What was there wasn't put again.
    assert len(paths) == 5 + len(STORED) - 3 + 1 and paths[-1] == "cifar10/manifest.json"


def test_an_object_that_comes_back_changed(client: Any, config: Path, capsys: Any, monkeypatch: Any) -> None:
    stream = s3.Prefix.stream
    lies: list[str] = []

    def lying(self: s3.Prefix, path: str) -> Iterator[bytes]:
        if path.endswith("saved_model.pb") and len(lies) < 1:
            lies.append(path)
            return iter([b"grapX"])
        return stream(self, path)

    monkeypatch.setattr(s3.Prefix, "stream", lying)
    assert call(capsys, "--config", str(config))[0] == 0 and lies
    monkeypatch.setattr(s3.Prefix, "stream", lambda self, path: iter([b"?"]))
    retrain(config)
    code, _, said = call(capsys, "--config", str(config))
    assert code == 75 and "came back with 1 bytes" in said
    assert "models/cifar10-2/manifest.json" not in objects(client)


def test_large_files_go_in_parts(client: Any, config: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(s3, "PART", 5 * 1024**2)
    monkeypatch.setattr(files, "CHUNK", 1024**2)
    large = os.urandom(12 * 1024**2 + 1)
    (config.parent / "model/export/1795/variables/variables.index").write_bytes(large)
    assert call(capsys, "--config", str(config))[0] == 0
    assert objects(client)["models/cifar10/saved_model/variables/variables.index"] == large
    Refusal(client, "CompleteMultipartUpload")
    (config.parent / "model/export/1795/variables/variables.index").write_bytes(large + b"x")
    retrain(config)
    assert call(capsys, "--config", str(config))[0] == 75
    assert not client.list_multipart_uploads(Bucket="data").get("Uploads")


def test_check_leaves_nothing(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("check", "--target", "s3://data/models/", "--job", "cifar10")
    assert call(capsys, *arguments)[:2] == (0, {"writable": True, "target": "s3://data/models/cifar10/"})
    assert objects(client) == {} and not client.list_multipart_uploads(Bucket="data").get("Uploads")
    Refusal(client, "CreateMultipartUpload")
    code, _, said = call(capsys, *arguments)
    assert code == 2 and "CreateMultipartUpload is refused (AccessDenied): playbooks/provision.yml" in said
    code, _, said = call(capsys, "check", "--target", "s3://none/models/")
    assert code == 2 and "The bucket none doesn't exist" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": "a b"}, "The job's name is 'a b'"),
        ({"job": ""}, "job is missing"),
        ({"target": "models"}, "is no place in S3"),
        ({"what": 1}, "unknown key 'what'"),
        ({"variables": []}, "give an object"),
        ({"model_dir": "/nowhere"}, "hasn't been trained"),
    ],
)
def test_bad_config(client: Any, config: Path, capsys: Any, change: dict[str, Any], words: str) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    code, _, said = call(capsys, "--config", str(config))
    assert code == 2 and words in said and objects(client) == {}


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("result.json", b"{}", "isn't a result of training"),
        ("export/1795/saved_model.pb", None, "has no saved_model.pb"),
        ("checkpoint", None, "has no checkpoint"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-9"\n', "whose files aren't there"),
    ],
)
def test_incomplete_model(client: Any, config: Path, capsys: Any, path: str, content: bytes | None, words: str) -> None:
    file = config.parent / "model" / path
    file.unlink() if content is None else file.write_bytes(content)
    code, _, said = call(capsys, "--config", str(config))
    assert code == 2 and words in said and objects(client) == {}


def test_an_event_file_that_grows_is_stored_as_it_was(config: Path) -> None:
    folder = files.open_folder(str(config.parent / "model"))
    items = {item.path: item for item in store.collect(folder, RESULT)}
    event = items["events/events.out.tfevents.1.chief-0"]
    (config.parent / "model/events.out.tfevents.1.chief-0").write_bytes(b"e1 and more")
    assert b"".join(event.read()) == b"e1"
