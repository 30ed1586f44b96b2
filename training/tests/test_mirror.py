"""The newest checkpoint goes to S3, and back into an empty folder, or not at all: S3 by moto, local folders."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_store import Refusal

from flotilla import mirror, status, store, train
from flotilla.job import errors
from flotilla.loop import checkpoints
from flotilla.storage import files, s3
from flotilla.supervision import progress

URL = "s3://data/models/tiny/mirror/demo/"
KEY = "models/tiny/mirror/demo/"
SHAPE = {"program": "built-in", "image": [16, 16, 3], "classes": 4, "resnet_size": 8}
FILES = ("data-00000-of-00001", "index", "meta")


def save(folder: Path, step: int, began: float = 1000.0) -> None:
    """What a chief's folder looks like after a checkpoint: an older one is there, too."""
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps({**SHAPE, "began": began}))
    for suffix in FILES:
        # All of a size, as checkpoints are; the graph stays the same.
        content = "graph" if suffix == "meta" else f"{suffix} of {step:05d} from {began}"
        (folder / f"model.ckpt-{step}.{suffix}").write_text(content)
    (folder / f"model.ckpt-{step}.data-00000-of-00001.tempstate1").write_text("of a chief that was killed")
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "model.ckpt-{step}"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
    )


def copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = mirror.main(["--model-dir", str(folder), "--mirror", URL])
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err.strip()


def objects(client: Any) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket="data").get("Contents", [])
    return {item["Key"]: client.get_object(Bucket="data", Key=item["Key"])["Body"].read() for item in listed}


def mirrored(tmp_path: Path, capsys: pytest.CaptureFixture[str], *steps: int) -> Path:
    """Mirror a job's checkpoints, one after the other; return an empty folder."""
    for step in steps:
        save(tmp_path / "old", step)
        assert copy(tmp_path / "old", capsys)[1]["changed"] is True
    return tmp_path / "new"


def test_the_newest_checkpoint_is_copied_once_and_the_slots_take_turns(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, slot in ((200, "a"), (400, "b"), (600, "a"), (800, "b")):
        save(tmp_path, step)
        code, outcome, _ = copy(tmp_path, capsys)
        assert (code, outcome["changed"], outcome["global_step"]) == (0, True, step)
        there = objects(client)
        assert there[f"{KEY}{slot}/data-00000-of-00001"] == f"data-00000-of-00001 of {step:05d} from 1000.0".encode()
    assert set(there) == {f"{KEY}{slot}/{name}" for slot in "ab" for name in (*FILES, "manifest.json")}
    manifest = json.loads(there[KEY + "b/manifest.json"])
    assert (manifest["format"], manifest["global_step"], manifest["model"]["began"]) == (
        "flotilla-mirror/1",
        800,
        1000.0,
    )
    assert all(set(file) == {"path", "size", "sha256", "crc32c"} for file in manifest["files"])

    puts: list[str] = []
    client.meta.events.register("before-parameter-build.s3.PutObject", lambda params, **_: puts.append(params["Key"]))
    code, outcome, _ = copy(tmp_path, capsys)
    assert (code, outcome["changed"]) == (0, False) and puts == []
    # The manifest is written last, and what is there already isn't put again.
    save(tmp_path, 1000)
    copy(tmp_path, capsys)
    assert puts == [KEY + "a/data-00000-of-00001", KEY + "a/index", KEY + "a/manifest.json"]


def test_before_the_first_checkpoint_and_after_the_last_nothing_is_copied(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy(tmp_path, capsys)[:2] == (
        0,
        {"changed": False, "global_step": None, "message": "there is no checkpoint yet"},
    )
    save(tmp_path, 400)
    (tmp_path / "job-done.json").write_text('{"global_step": 400}')
    code, outcome, _ = copy(tmp_path, capsys)
    assert (code, outcome["changed"]) == (0, False) and objects(client) == {}
    # A job that was done goes on with more steps.
    save(tmp_path, 500)
    assert copy(tmp_path, capsys)[1]["changed"] is True


@pytest.mark.parametrize("error", [FileNotFoundError, errors.Temporary])
def test_a_checkpoint_that_the_chief_deletes_meanwhile_is_left_out(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    """On HDFS such a file's blocks are gone sooner or later than its name."""
    put = s3.Prefix.put

    def deleting(self: s3.Prefix, path: str, *more: Any, **named: Any) -> None:
        put(self, path, *more, **named)
        for file in tmp_path.glob("model.ckpt-200.*"):
            file.unlink()

    def read(self: files.LocalFiles, path: str, size: int | None = None) -> Iterator[bytes]:
        if not (tmp_path / path).exists():
            raise error(path)
        yield (tmp_path / path).read_bytes()

    save(tmp_path, 200)
    monkeypatch.setattr(files.LocalFiles, "read", read)
    with monkeypatch.context() as patched:
        patched.setattr(s3.Prefix, "put", deleting)
        code, outcome, _ = copy(tmp_path, capsys)
    assert (code, outcome["changed"]) == (0, False) and "deleted the checkpoint of step 200" in outcome["message"]
    assert KEY + "a/manifest.json" not in objects(client)
    save(tmp_path, 400)
    assert copy(tmp_path, capsys)[1]["changed"] is True


def test_a_new_fleet_goes_on_from_the_mirror(
    client: Any, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [*tiny, "--mirror", URL, "--reach-secs", "0"]
    assert train.main(arguments) == 0  # without a mirror it's a new job
    folder, old = tmp_path / "model", tmp_path / "old"
    (folder / "job-done.json").unlink()
    began = checkpoints.begin(str(folder), {}, "")
    assert copy(folder, capsys)[1]["changed"] is True
    folder.rename(old)

    assert train.main([*arguments, "--max-steps", "15"]) == 0
    assert f"going on from step 12, as {URL}a/ has it" in caplog.text
    assert json.loads((folder / "result.json").read_text())["global_step"] == 15
    assert checkpoints.begin(str(folder), {}, "") == began, "it's still the same job"
    for path in old.glob("model.ckpt-12.*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    # It began there, not at 0.
    assert {path.stem for path in folder.glob("*.index")} == {"model.ckpt-12", "model.ckpt-15"}


def test_tensorflow_finds_what_was_restored(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    new = mirrored(tmp_path, capsys, 200, 400)
    assert mirror.restore(URL, str(new), SHAPE) == 400
    assert tf.train.latest_checkpoint(str(new)) == f"{new}/model.ckpt-400"
    assert {path.name for path in new.iterdir()} == {
        "checkpoint",
        "model.json",
        *(f"model.ckpt-400.{name}" for name in FILES),
    }
    for path in new.glob("model.ckpt*"):
        assert path.read_bytes() == (tmp_path / "old" / path.name).read_bytes()
    # Killed before it wrote the list, or before anything was whole: the second finds all that the first left.
    (new / "checkpoint").unlink()
    assert mirror.restore(URL, str(new), SHAPE) is None
    (new / "model.ckpt-400.index").unlink()
    assert mirror.restore(URL, str(new), SHAPE) == 400
    # With a checkpoint S3 isn't even asked.
    Refusal(client, "GetObject")
    assert mirror.restore(URL, str(new), SHAPE) is None
    assert (tmp_path / "new/checkpoint").exists()


def damage(client: Any, path: str, data: bytes | None) -> None:
    if data is None:
        client.delete_object(Bucket="data", Key=KEY + path)
    else:
        client.put_object(Bucket="data", Key=KEY + path, Body=data)


DAMAGES = [
    ("manifest.json", None),
    ("manifest.json", b'{"format": "flotilla-mirror/1"}'),
    ("manifest.json", b"{"),
    ("data-00000-of-00001", None),
    ("data-00000-of-00001", b"data-00000-of-00001 of 00800 from 1000.0"),  # the next one's, half-way
    ("index", b"short"),
]


@pytest.mark.parametrize(("path", "data"), DAMAGES)
def test_a_torn_mirror_is_never_used(
    client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    path: str,
    data: bytes | None,
) -> None:
    new = mirrored(tmp_path, capsys, 200, 400)
    damage(client, f"b/{path}", data)
    assert mirror.restore(URL, str(new), SHAPE) == 200, "the older one is whole"
    assert not list(new.glob("model.ckpt-400*"))
    assert checkpoints.latest_step(str(new)) == 200
    # Without any manifest it can't be told from a mirror that was never made.
    seen = data is not None or path != "manifest.json"
    assert (f"A torn mirror isn't used ({URL}b/" in caplog.text) is seen

    caplog.clear()
    damage(client, f"a/{path}", data)
    for file in new.iterdir():
        file.unlink()
    assert mirror.restore(URL, str(new), SHAPE) is None
    assert list(new.iterdir()) == []
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == seen
    assert all(line.endswith("training begins at step 0.") for line in warnings)


@pytest.mark.parametrize(("path", "data"), DAMAGES)
def test_a_torn_slot_is_written_again_and_the_whole_one_is_kept(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, data: bytes | None
) -> None:
    mirrored(tmp_path, capsys, 200, 400)
    damage(client, f"b/{path}", data)
    before = objects(client)
    assert copy(tmp_path / "old", capsys)[1]["changed"] is True
    after = objects(client)
    assert (
        after[KEY + "b/index"] == b"index of 00400 from 1000.0" and json.loads(after[KEY + "b/manifest.json"])["files"]
    )
    assert {key: after[key] for key in before if "/a/" in key} == {key: before[key] for key in before if "/a/" in key}


def test_a_copy_that_is_killed_leaves_the_other_slot_whole(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = mirrored(tmp_path, capsys, 200, 400)
    save(tmp_path / "old", 600)
    put = s3.Prefix.put

    def killed(self: s3.Prefix, path: str, *more: Any, **named: Any) -> None:
        put(self, path, *more, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(s3.Prefix, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            copy(tmp_path / "old", capsys)
    assert mirror.restore(URL, str(new), SHAPE) == 400
    assert copy(tmp_path / "old", capsys)[1]["changed"] is True
    for file in new.iterdir():
        file.unlink()
    assert mirror.restore(URL, str(new), SHAPE) == 600


def test_a_model_of_another_shape_is_refused_by_name(
    client: Any, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mirrored(tmp_path, capsys, 200)
    assert train.main([*tiny, "--mirror", URL, "--resnet-size", "14", "--reach-secs", "0"]) == 2
    assert f"{URL}a/ is of a model whose resnet_size is 8, not 14: give the job another name" in caplog.text
    assert not (tmp_path / "model").exists()


def test_another_job_of_the_same_name_is_neither_overwritten_nor_gone_on_from(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored(tmp_path, capsys, 200, 400)
    before = objects(client)
    mine = tmp_path / "mine"
    save(mine, 100, began=2000.0)
    code, _, said = copy(mine, capsys)
    assert code == 2 and objects(client) == before
    assert said.startswith(f"flotilla.mirror: {URL} holds the mirror of another job of this name, which began on 1970-")
    for path in mine.glob("*ckpt*"):
        path.unlink()
    (mine / "checkpoint").unlink()
    assert mirror.restore(URL, str(mine), SHAPE) is None
    assert {path.name for path in mine.iterdir()} == {"model.json"}


def test_a_stored_model_ends_its_mirror(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLE_SECS", 0)
    new = mirrored(tmp_path, capsys, 200, 400)
    old = tmp_path / "old"
    (old / "export/1").mkdir(parents=True)
    (old / "export/1/saved_model.pb").write_text("graph")
    (old / "result.json").write_text('{"global_step": 400, "metrics": {}, "saved_model": "export/1"}')
    config = {"model_dir": str(old), "target": "s3://data/models/", "job": "tiny", "mirror": URL}
    (tmp_path / "store.json").write_text(json.dumps(config))
    refusal = Refusal(client, "PutObject")
    assert store.main(["--config", str(tmp_path / "store.json")]) == 75
    assert len(mirror._slots(s3.Prefix(URL))[0]) == 2, "it isn't stored yet"
    refusal.on = False
    assert store.main(["--config", str(tmp_path / "store.json")]) == 0
    capsys.readouterr()
    assert mirror.restore(URL, str(new), SHAPE) is None
    # The next job of this name has the folder to itself, and a finished one's mark is left as it is.
    save(new, 50, began=2000.0)
    assert copy(new, capsys)[1]["changed"] is True
    mirror.end(URL, str(old))
    assert [slot.global_step for slot in mirror._slots(s3.Prefix(URL))[0]] == [50]


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "ServiceUnavailable"])
@pytest.mark.parametrize("operation", ["GetObject", "HeadObject", "PutObject"])
def test_s3_that_refuses_the_copy(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, operation: str
) -> None:
    mirrored(tmp_path, capsys, 200)
    save(tmp_path / "old", 400)
    refusal = Refusal(client, operation, code)
    exit_code, _, said = copy(tmp_path / "old", capsys)
    assert exit_code in (2, 75) and code in said and "\n" not in said
    refusal.on = False
    assert copy(tmp_path / "old", capsys)[1]["changed"] is True


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "ServiceUnavailable"])
def test_s3_that_refuses_never_begins_a_training_at_0(
    client: Any, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    new = mirrored(tmp_path, capsys, 200)
    refusal = Refusal(client, "GetObject", code)
    assert train.main([*tiny, "--mirror", URL, "--reach-secs", "0"]) == 75
    assert not (tmp_path / "model").exists()
    refusal.on = False
    assert mirror.restore(URL, str(new), SHAPE) == 200


def test_s3_is_asked_again_for_a_while(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = mirrored(tmp_path, capsys, 200)
    refusal = Refusal(client, "GetObject")
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(refusal, "on", False))
    assert mirror.restore(URL, str(new), SHAPE, wait=60) == 200


def test_hdfs_that_does_not_answer_is_no_empty_folder(client: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.Temporary):
        mirror.restore(URL, "hdfs://127.0.0.1:1/jobs/tiny/model", SHAPE)
    assert mirror.main(["--model-dir", "hdfs://127.0.0.1:1/jobs/tiny/model", "--mirror", URL]) == 75


def test_what_came_of_it_is_told_on_this_host_and_on_all(client: Any, tmp_path: Path) -> None:
    save(tmp_path / "job", 200)
    file, published = tmp_path / "mirror.json", tmp_path / "job/progress/mirror.json"
    arguments = ["--model-dir", str(tmp_path / "job"), "--mirror", URL, "--progress", str(file)]

    def told() -> str:
        content = progress.read(file)
        assert content and published.read_bytes() == file.read_bytes()
        return status.line(content)

    assert mirror.main(arguments) == 0
    assert told() == f"mirror: done, 200 of 200 steps, step 200 is at {URL}a/"
    refusal = Refusal(client, "PutObject")
    save(tmp_path / "job", 400)
    assert mirror.main(arguments) == 2
    assert re.match("mirror: failed, 0 steps, .*AccessDenied|mirror: failed, 0 steps, .*permission", told()), told()
    refusal.on = False
    assert mirror.main(arguments) == 0 and told().startswith("mirror: done, 400 of 400 steps, ")


def test_bad_urls() -> None:
    assert mirror.main(["--model-dir", "/nowhere", "--mirror", "here"]) == 2
