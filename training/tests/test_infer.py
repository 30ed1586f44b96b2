"""Inference as it is configured on a host, but in one process: S3 by moto, real SavedModels and files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tifffile
from PIL import Image

from flotilla import infer
from flotilla.inference import cluster, inputs, part, pictures, saved_model
from flotilla.job.errors import BadInput, Temporary

COLOURS = {"red": (200, 10, 20), "green": (10, 210, 20), "blue": (5, 10, 220)}
NAMES = sorted(COLOURS)  # as their folders are in order
Put = Callable[..., None]


class Brightest(tf.Module):
    """Tells which colour is the brightest, in the alphabetical order of their names."""

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, name="image")])
    def colour(self, image: Any) -> dict[str, Any]:
        logits = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]) / 10
        logits = tf.gather(logits, [2, 1, 0], axis=1)
        return {"class": tf.argmax(logits, 1), "probabilities": tf.nn.softmax(logits), "logits": logits}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, 2], tf.float32)])
    def plus(self, a: Any, b: Any) -> dict[str, Any]:
        return {"sum": a + tf.reduce_sum(b, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32)])
    def long(self, x: Any) -> dict[str, Any]:
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.uint8)])
    def kit(self, image: Any) -> dict[str, Any]:
        first, second = tf.cast(image[:, 0, 0, 0], tf.int32), tf.cast(image[:, 0, 1, 0], tf.int32)
        return {"probabilities": tf.one_hot((first + 256 * second) % 4, 4)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def examples(self, examples: Any) -> dict[str, Any]:
        read = tf.io.parse_example(examples, {"label": tf.io.FixedLenFeature([], tf.int64)})
        return {"scores": tf.one_hot(read["label"], 4)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encoded(self, image_bytes: Any) -> dict[str, Any]:
        images = tf.map_fn(lambda one: tf.io.decode_png(one, 3)[:8, :8], image_bytes, fn_output_signature=tf.uint8)
        return self.colour(tf.ensure_shape(images, [None, 8, 8, 3]))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)])
    def grey(self, image: Any) -> dict[str, Any]:
        return {"dense": tf.concat([1 - image[:, 0, 0], image[:, 0, 0]], 1)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    module = Brightest()
    every = {name: getattr(module, name) for name in ("plus", "long", "kit", "examples", "encoded", "grey")}
    tf.saved_model.save(module, str(folder / "colour"), {"serving_default": module.colour})
    tf.saved_model.save(module, str(folder / "several"), every)
    return folder


def png(colour: tuple[int, ...], size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


@pytest.fixture
def put(client: Any) -> Put:
    def put(key: str, data: bytes | Path) -> None:
        if isinstance(data, Path):
            for file in data.rglob("*"):
                if file.is_file():
                    put(f"{key}/{file.relative_to(data).as_posix()}", file.read_bytes())
        else:
            client.put_object(Bucket="data", Key=key, Body=data)

    return put


@pytest.fixture
def photos(put: Put, models: Path) -> None:
    """Three folders of ten images each, one of which is broken, and a file that is none."""
    put("models/colour", models / "colour")
    for name, colour in COLOURS.items():
        for number in range(10):
            put(f"photos/{name}/{number}.png", png(colour, (8 + number, 8)))
    put("photos/red/broken.jpg", png(COLOURS["red"], kind="JPEG")[:200])
    put("photos/README.txt", b"mine")


@pytest.fixture
def config(tmp_path: Path, client: Any) -> Callable[..., str]:
    def config(**more: object) -> str:
        content = {
            "model": "s3://data/models/colour/", "source": "s3://data/photos/", "target": "s3://data/out/",
            "models_dir": str(tmp_path / "models"), "progress": str(tmp_path / "infer.json"),
            "done_file": str(tmp_path / "infer.done"), **more,
        }  # fmt: skip
        file = tmp_path / "config.json"
        file.write_text(json.dumps(content))
        return str(file)

    return config


def call(
    capsys: pytest.CaptureFixture[str], command: str, config: str, *options: str
) -> tuple[int, dict[str, Any], str]:
    code = infer.main([command, "--config", config, *options])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out.strip() else {}, err.strip()


def rows(client: Any, prefix: str = "out/") -> list[dict[str, Any]]:
    found = client.list_objects_v2(Bucket="data", Prefix=f"{prefix}parts/").get("Contents", [])
    raws = [client.get_object(Bucket="data", Key=one["Key"])["Body"].read() for one in found]
    return [row for raw in raws for row in pq.read_table(io.BytesIO(raw)).to_pylist()]


def shown(client: Any, prefix: str = "out/") -> list[tuple[str, str, str]]:
    """What the page has of each input that it shows: its class, where it is, and which colour its picture has."""
    page = client.get_object(Bucket="data", Key=f"{prefix}index.html")["Body"].read().decode()
    found = []
    for figure in re.findall("<figure>(.*?)</figure>", page):
        said = re.search('base64,([^"]+)', figure)
        picture = Image.open(io.BytesIO(base64.b64decode(said[1]))) if said else None
        colour = "rgb"[int(np.argmax(np.asarray(picture)[0, 0]))] if picture else ""
        found.append((re.search("<b>(.*)</b>", figure)[1], re.search("<br>(.*)</fig", figure)[1], colour))  # type: ignore[index]
    return found


def test_a_folder_of_photos_becomes_a_table(
    photos: None, config: Any, client: Any, capsys: Any, tmp_path: Path
) -> None:
    code, said, _ = call(capsys, "check", config(), "--hourly", "0.27")
    assert said["says"][-1].endswith(", in which the fleet costs $0.01.")
    assert code == 0 and said["inputs"] == 31 and said["left_out"] == ["README.txt"]
    assert any("8 x 8 RGB images as image, uint8" in line for line in said["says"])
    assert not client.list_objects_v2(Bucket="data", Prefix="out/").get("Contents"), "a check writes nothing"
    code, outcome, err = call(capsys, "run", config(hdf5=True))
    assert code == 0, err
    assert outcome["rows"] == 31 and outcome["broken"] == 1 and outcome["accuracy"] == 1.0 and outcome["changed"]
    found = {row["path"]: row for row in rows(client)}
    assert len(found) == 31 == len(rows(client))
    red = found["red/3.png"]
    assert red["class"] == NAMES.index("red") and red["label"] == "red" and len(red["sha256"]) == 64
    assert red["top_classes"][0] == red["class"] and abs(sum(red["top_scores"]) - 1) < 1e-6 and red["output"] is None
    assert (
        found["red/broken.jpg"]["error"].startswith("it can't be decoded: ")
        and found["red/broken.jpg"]["class"] is None
    )
    manifest = json.loads(client.get_object(Bucket="data", Key="out/manifest.json")["Body"].read())
    assert manifest["accuracy"] == 1.0 and manifest["labelled"] == 30 and manifest["left_out"] == ["README.txt"]
    page = client.get_object(Bucket="data", Key="out/index.html")["Body"].read().decode()
    assert "it can&#x27;t be decoded" in page and "Confusion" in page
    figures = shown(client)
    assert len(figures) == 24 and all(where[0] == colour for _name, where, colour in figures)
    seconds = manifest["seconds_of_tasks"]
    assert seconds["load"] > 0 and seconds["cpu"] > 0
    with h5py.File(io.BytesIO(client.get_object(Bucket="data", Key="out/predictions.h5")["Body"].read())) as file:
        assert file["path"].shape == (31,) and file["class"][0] == 0 and file["top_scores"].shape == (31, 3)
    told = json.loads((tmp_path / "infer.json").read_text())
    assert told["state"] == "done" and told["done"] == told["total"] == 31 and told["detail"]["broken"] == 1
    before = {one["Key"]: one["LastModified"] for one in client.list_objects_v2(Bucket="data")["Contents"]}
    code, outcome, _ = call(capsys, "run", config(hdf5=True))
    assert code == 0 and not outcome["changed"] and outcome["rows"] == 31
    assert before == {one["Key"]: one["LastModified"] for one in client.list_objects_v2(Bucket="data")["Contents"]}


def test_a_second_run_goes_on(
    photos: None, config: Any, client: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ended after the first part, which isn't made again; one that is half there is."""
    made: list[int] = []
    real = part.classify

    def classify(job: part.Job, one: inputs.Part, attempt: int = 0) -> part.Summary:
        made.append(one.number)
        return real(job, one, attempt)

    monkeypatch.setattr(part, "classify", classify)
    with monkeypatch.context() as patch:
        patch.setattr(infer.Run, "_enough", lambda self: bool(self.done) and not self.told_to_end.set())
        code, outcome, _ = call(capsys, "run", config())
    assert code == 0 and outcome["stopped"] and outcome["rows"] == 16 and made == [0]
    assert json.loads((tmp_path / "infer.json").read_text())["state"] == "stopped"
    client.put_object(Bucket="data", Key="out/parts/part-000001.parquet", Body=b"PAR1 and no more")
    _, said, _ = call(capsys, "check", config())
    assert "2 of 2 parts are there already." in said["says"]
    code, outcome, _ = call(capsys, "run", config())
    assert code == 0 and made == [0, 1] and outcome["rows"] == 31 == len(rows(client))
    assert {where.split("/")[0] for _name, where, colour in shown(client) if colour} == set(COLOURS), "of both parts"


def test_only_what_is_shown_is_decoded_twice(
    photos: None, config: Any, client: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    real = pictures.pages

    def pages(data: bytes) -> Any:
        decoded.append(data)
        return real(data)

    monkeypatch.setattr(pictures, "pages", pages)
    monkeypatch.setattr(infer, "TRIED", 1)
    monkeypatch.setattr(part, "SAMPLES", 2)
    assert call(capsys, "run", config())[0] == 0
    assert len(shown(client)) == 8 and len(decoded) == 1 + 31 + 8


def test_what_compiling_takes_is_no_inputs_time(
    photos: None, config: Any, client: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process's first call of the model is one of its own."""
    judged = infer.judge(infer.load_config(config()))
    worker = part.Worker(judged.job)
    model, calls = worker.model, []

    def slow(inputs: Any) -> Any:
        calls.append(len(inputs["image"]))
        end = time.process_time() + (1 if len(calls) == 1 else 0)
        while time.process_time() < end:
            pass
        return model(inputs)

    monkeypatch.setattr(worker, "model", slow)
    of_one, of_other = (part._Task(worker, one, 0).run()["seconds"] for one in judged.found.parts())
    assert calls == [1, 16, 14] and of_one["load"] > 1 and of_other["load"] == 0
    assert of_one["cpu"] < 1 and of_one["predict"] < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "s3://data/nowhere/"}, "There is nothing in s3://data/nowhere/ (infer_model)"),
        ({"model": "s3://data/photos/"}, "holds no saved_model.pb"),
        ({"model": "s3://data/models/several/"}, "has the signatures encoded, examples, grey, kit, long, plus: choose"),
        ({"model": "s3://data/models/several/", "signature": "x"}, "has no signature 'x' (infer_signature)"),
        ({"model": "s3://data/models/several/", "signature": "plus"}, "takes 2 inputs (a, b), and infer_source has im"),
        ({"model": "s3://data/models/several/", "signature": "long"}, "of the shape [5], which is no image's"),
        ({"model": "s3://data/models/several/", "signature": "examples"}, "takes serialized tf.train.Examples"),
        ({"source": "s3://data/empty/"}, "There is nothing in s3://data/empty/ (infer_source)"),
        ({"source": "s3://data/texts/"}, "has 1 files, as a.doc, of which none is an image"),
        ({"source": "s3://data/mixed/"}, "has 1 images, as a.png and 1 CSV files, as b.csv: choose"),
        ({"source": "s3://nowhere/x/"}, "The bucket nowhere doesn't exist"),
        ({"files": "*.gif"}, "None of the 32 files in s3://data/photos/ matches '*.gif' (infer_files)"),
        ({"labels": ["a", "b"]}, "gives 3 classes (probabilities), but there are 2 names"),
        ({"target": "s3://data/texts/"}, "has a.doc, and no predictions"),
        ({"target": "s3://data/photos/out/"}, "is inside source"),
        ({"scale": "0..2"}, "take 0..1, -1..1, 0..255"),
        ({"top": 0}, "give at least 1"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"top": "many"}, "give a whole number"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    photos: None, put: Put, models: Path, config: Any, client: Any, capsys: Any, change: dict[str, object], words: str
) -> None:
    put("models/several", models / "several")
    put("texts/a.doc", b"words")
    put("mixed/a.png", png((1, 2, 3)))
    put("mixed/b.csv", b"a,b\n1,2\n")
    before = client.list_objects_v2(Bucket="data")["KeyCount"]
    for command in ("check", "run"):
        code, _, said = call(capsys, command, config(**change))
        assert code == 2 and words in said and said.count("\n") == 0, said
    assert client.list_objects_v2(Bucket="data")["KeyCount"] == before


def test_a_target_of_another_job_is_refused(photos: None, put: Put, config: Any, capsys: Any) -> None:
    assert call(capsys, "run", config())[0] == 0
    put("photos/green/new.png", png(COLOURS["green"]))
    code, _, said = call(capsys, "run", config())
    assert code == 2 and "holds predictions of other inputs, from" in said
    code, _, said = call(capsys, "check", config(top=2, files="red/*"))
    assert code == 2 and "other inputs and other settings" in said


def test_too_many_broken_inputs_end_the_job(put: Put, models: Path, config: Any, capsys: Any) -> None:
    put("models/colour", models / "colour")
    for number in range(60):
        put(f"photos/{number:02}.png", png(COLOURS["red"]) if number < 40 else b"no image")
    code, _, said = call(capsys, "run", config())
    assert code == 2 and "20 of 60 inputs couldn't be classified, and 10% are borne" in said
    assert call(capsys, "run", config(most_broken=0.5))[0] == 0


def test_records_of_the_kit(put: Put, models: Path, data_dir: Path, config: Any, client: Any, capsys: Any) -> None:
    """The labels that the model gives from the pixels are those of the records."""
    put("data", data_dir)
    put("models/several", models / "several")
    more = {"source": "s3://data/data/", "files": "eval-*", "model": "s3://data/models/several/", "signature": "kit"}
    code, outcome, said = call(capsys, "run", config(**more))
    assert code == 0, said
    assert outcome["rows"] == outcome["labelled"] == 40 and outcome["accuracy"] == 1.0
    assert [row["record"] for row in rows(client)] == list(range(40))
    assert len(shown(client)) == 12 and all(colour for _name, _where, colour in shown(client))
    code, outcome, said = call(capsys, "run", config(**{**more, "signature": "examples", "target": "s3://data/two/"}))
    assert code == 0 and outcome["accuracy"] == 1.0, said


def test_a_damaged_file_of_records_loses_nothing_else(
    put: Put, models: Path, data_dir: Path, config: Any, client: Any, capsys: Any
) -> None:
    put("models/several", models / "several")
    raw = (data_dir / "eval-00000-of-00001.tfrecord").read_bytes()
    put("data/a.tfrecord", raw)
    put("data/b.tfrecord", raw[: len(raw) // 2 - 10])
    more = {"source": "s3://data/data/", "model": "s3://data/models/several/", "signature": "examples"}
    code, outcome, said = call(capsys, "run", config(**more))
    assert code == 0 and outcome["broken"] == 1, said
    last = rows(client)[-1]
    assert last["path"] == "b.tfrecord" and last["error"].startswith("the file can't be read from here on")
    assert last["record"] == len(rows(client)) - 40 - 1


def test_tables_of_numbers(put: Put, models: Path, config: Any, client: Any, capsys: Any) -> None:
    put("models/several", models / "several")
    table = pa.table({"a": [1.0, 2.0, None], "b": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "id": ["x", "y", "z"]})
    out = io.BytesIO()
    pq.write_table(table, out)
    put("rows/a.parquet", out.getvalue())
    more = {"source": "s3://data/rows/", "model": "s3://data/models/several/", "signature": "plus", "most_broken": 1.0}
    code, _, said = call(capsys, "run", config(**more))
    assert code == 0, said
    found = rows(client)
    assert [row["output"] for row in found] == [[4.0], [9.0], None] and found[2]["error"] == "its column a is empty"
    put("csv/a.csv", "\ufeffx;y;z;u;v;label\n1;2;3;4;5;0\n1;2;3;4;;1\n".encode())
    more.update(source="s3://data/csv/", signature="long", target="s3://data/two/")
    code, _, said = call(capsys, "run", config(**more))
    found = rows(client, "two/")
    assert code == 0 and found[0]["top_classes"] == [4, 3, 2, 1, 0], said
    assert found[1]["error"] == "it has 4 columns of numbers, but the model takes 5 as x"


def test_images_in_parquet_and_a_model_that_decodes(
    put: Put, models: Path, config: Any, client: Any, capsys: Any
) -> None:
    put("models/several", models / "several")
    out = io.BytesIO()
    images = [png(COLOURS[name]) for name in NAMES]
    pq.write_table(pa.table({"image": images, "label": NAMES}), out)
    put("rows/a.parquet", out.getvalue())
    more = {"source": "s3://data/rows/", "model": "s3://data/models/several/", "signature": "encoded", "labels": NAMES}
    code, outcome, said = call(capsys, "run", config(**more))
    assert code == 0 and outcome["accuracy"] == 1.0, said
    assert sorted(shown(client)[:3]) == [(name, f"a.parquet, number {n}", name[0]) for n, name in enumerate(NAMES)]
    for name, image in zip(NAMES, images, strict=True):
        put(f"photos/{name}/a.png", image)
    put("photos/red/b.png", b"\x89PNG\r\n\x1a\n nothing")
    more.update(source="s3://data/photos/", target="s3://data/two/")
    code, outcome, said = call(capsys, "run", config(**more))
    assert code == 0 and outcome["accuracy"] == 1.0 and outcome["broken"] == 1, said
    assert "the model refuses it" in rows(client, "two/")[-1]["error"]


OWN = """
import io
import numpy as np
from PIL import Image

def prepare(data):
    picture = Image.open(io.BytesIO(data))
    if picture.width == 11:
        raise ValueError("eleven")
    if picture.width == 12:
        while True:
            pass
    return np.asarray(picture.resize((8, 8)))

def present(outputs):
    return {"sure": float(outputs["probabilities"].max()) > 0.5, "which": "bgr"[int(outputs["class"])]}
"""


def test_the_users_own_functions(
    photos: None, config: Any, client: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mine.py"
    program.write_text(OWN)
    monkeypatch.setattr(infer, "TRIED", 2)
    code, outcome, said = call(capsys, "run", config(program=str(program), item_secs=0.3, most_broken=1.0))
    assert code == 0, said
    found = {row["path"]: row for row in rows(client)}
    assert found["red/0.png"]["own_which"] == "r" and found["red/0.png"]["own_sure"] is True
    assert found["red/3.png"]["error"] == "prepare: mine.py, line 9: ValueError: eleven"
    assert found["red/4.png"]["error"] == "its preparation takes longer than 0.3 s"
    assert outcome["broken"] == 7, "with the broken file"
    assert len(shown(client)) == 24 and all(where[0] == colour for _name, where, colour in shown(client))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has neither a function prepare(data) nor present(outputs)"),
        ("import nothing_like_it", "can't be run: mine.py, line 1: ModuleNotFoundError: No module named 'nothing_like"),
        ("def prepare(", "can't be run: "),
        ("def prepare(data):\n    return 5", "prepare returns image of the shape [], but the model takes [8, 8, 3]"),
        ("def prepare(data):\n    return {'x': 5}", "prepare returns x, but the model takes image"),
        ("def prepare(data):\n    return data.nothing", "prepare: mine.py, line 2: AttributeError: 'bytes' object has"),
        ("def present(outputs):\n    return 5", "present returns a int: it has to be a mapping"),
        ("def present(outputs):\n    return {'a': outputs}", "present returns a dict as a: give text"),
    ],
)
def test_a_function_that_cannot_work_is_told_before_the_job(
    photos: None, config: Any, capsys: Any, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    code, _, said = call(capsys, "check", config(program=str(tmp_path / "mine.py")))
    assert code == 2 and words in said, said


def tiff(*pages: Any, **more: Any) -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for page in pages:
            file.write(page, **more)
    return out.getvalue()


def deep(value: tuple[int, ...]) -> Any:
    return np.full((6, 5, len(value)), np.array(value, np.uint16) * 256, np.uint16)


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (png((200, 10, 20)), [(200, 10, 20)]),
        (tiff(deep((200, 10, 20)), photometric="rgb"), [(200, 10, 20)]),
        (tiff(deep((200, 10, 20)), photometric="rgb", compression="lzw"), [(200, 10, 20)]),
        (tiff(deep((200, 10, 20)), photometric="rgb", compression="zstd"), [(200, 10, 20)]),
        (tiff(np.moveaxis(deep((9, 8, 7)), 2, 0), photometric="rgb", planarconfig="separate"), [(9, 8, 7)]),
        (tiff(np.full((6, 5), 51200, np.uint16)), [(200, 200, 200)]),
        (tiff(*[np.full((6, 5, 3), n, np.uint8) for n in (10, 20)], photometric="rgb"), [(n,) * 3 for n in (10, 20)]),
    ],
)  # fmt: skip
def test_images_of_all_kinds(data: bytes, colours: list[tuple[int, int, int]]) -> None:
    found = [pictures.to_array(page, 4, 3, 3) for page in pictures.pages(data)]
    assert [one.shape for one in found] == [(4, 3, 3)] * len(colours)
    assert [tuple(one[1, 1].tolist()) for one in found] == colours


def test_transparent_indexed_and_grey_images() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert pictures.to_array(clear, None, None, 3)[0, 0].tolist() == [255, 255, 255]
    indexed = Image.new("RGB", (4, 4), (0, 0, 255)).quantize(4)
    assert pictures.to_array(indexed, None, None, 3)[0, 0].tolist() == [0, 0, 255]
    assert pictures.to_array(indexed, 8, 8, 1).shape == (8, 8, 1)
    for data in (b"", b"GIF89a", b"II*\0 and nothing"):
        with pytest.raises(pictures.Broken):
            list(pictures.pages(data))


def test_grey_floats_get_their_scale(put: Put, models: Path, config: Any, client: Any, capsys: Any) -> None:
    put("models/several", models / "several")
    put("photos/a.png", png((255, 255, 255)))
    more = {"model": "s3://data/models/several/", "signature": "grey", "whole_output": True}
    for scale, seen in (("0..1", 1.0), ("-1..1", 1.0), ("0..255", 255.0)):
        target = f"s3://data/{seen}{scale[:2]}/"
        code, _, said = call(capsys, "run", config(**more, scale=scale, target=target))
        assert code == 0, said
        assert rows(client, f"{seen}{scale[:2]}/")[0]["output"][1] == seen
        manifest = json.loads(client.get_object(Bucket="data", Key=f"{seen}{scale[:2]}/manifest.json")["Body"].read())
        assert manifest["scale"] == scale


def test_pages_are_inputs(put: Put, models: Path, config: Any, client: Any, capsys: Any) -> None:
    put("models/colour", models / "colour")
    pages = [np.full((8, 8, 3), COLOURS[name], np.uint8) for name in NAMES]
    put("photos/pages.tif", tiff(*pages, photometric="rgb"))
    assert call(capsys, "run", config())[0] == 0
    assert [(row["page"], row["class"]) for row in rows(client)] == [(0, 0), (1, 1), (2, 2)]
    assert sorted(shown(client)[:3]) == [(str(n), f"pages.tif, page {n}", name[0]) for n, name in enumerate(NAMES)]


def test_an_input_that_ends_the_process_again_and_again_is_told(
    photos: None, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same part is tried as Spark does: first its block is noted, then each input."""
    judged = infer.judge(infer.load_config(config()))
    worker, first = part.Worker(judged.job), judged.found.parts()[0]
    real_pages = pictures.pages

    class Killed(BaseException):
        pass

    def pages(data: bytes) -> Any:
        if data == png(COLOURS["blue"], (12, 8)):
            raise Killed
        return real_pages(data)

    monkeypatch.setattr(pictures, "pages", pages)
    for attempt in range(4):
        with pytest.raises(Killed):
            part._Task(worker, first, attempt).run()
    summary = part._Task(worker, first, 4).run()
    assert summary["rows"] == 16 and summary["broken"] == 1
    assert summary["errors"][0]["path"] == "blue/4.png" and "ended the process twice" in summary["errors"][0]["error"]


def test_each_process_of_a_host_takes_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_GPUS", "2")
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
    for wanted in ("0", "1", ""):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        taken: list[Any] = []  # as another process has none yet
        monkeypatch.setattr(cluster, "_claimed", taken)
        if wanted:
            cluster.claim_gpu(str(tmp_path))
            assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted
            locks.append(taken)
        else:
            with pytest.raises(Temporary, match="All 2 GPUs of this host are taken"):
                cluster.claim_gpu(str(tmp_path))


locks: list[list[Any]] = []  # held, as by processes that run


def test_a_limit_ends_what_hears_nothing() -> None:
    ended: list[int] = []
    limit = part.Limit(0.1, lambda: ended.append(1))
    limit.GRACE_SECS = 0.1  # type: ignore[misc]
    limit._heard = False
    with limit, limit.item():
        time.sleep(0.6)
    assert ended


def test_parts_are_the_same_each_time_and_fit_the_folder() -> None:
    def found(count: int, size: int = 1000) -> inputs.Found:
        objects = tuple(inputs.Object(f"{n:06}.jpg", size, "e") for n in range(count))
        return inputs.Found(inputs.IMAGES, objects, (), {}, {})

    assert [len(found(n).parts()) for n in (1, 16, 17, 1024, 20_000)] == [1, 1, 2, 64, 79]
    assert max(len(one.objects) for one in found(200, 10**7).parts()) == 6, "64 MiB a part"
    assert found(500).parts() == found(500).parts() and found(500).digest() != found(501).digest()


def test_few_files_of_records_keep_many_hosts_busy(
    put: Put, models: Path, data_dir: Path, config: Any, client: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a file's pieces is a part, and what can't be read is one row."""
    monkeypatch.setattr(inputs, "PIECE_BYTES", 10_000)
    put("models/several", models / "several")
    raw = (data_dir / "eval-00000-of-00001.tfrecord").read_bytes()
    put("data/a.tfrecord", raw)
    put("data/b.tfrecord", raw[: len(raw) // 2 - 10])
    more = {"source": "s3://data/data/", "model": "s3://data/models/several/", "signature": "examples"}
    code, outcome, said = call(capsys, "run", config(**more))
    assert code == 0 and outcome["rows"] == 40 + 19 + 1 and outcome["broken"] == 1, said
    found = rows(client)
    assert len({(row["path"], row["record"]) for row in found}) == 60
    assert len(client.list_objects_v2(Bucket="data", Prefix="out/parts/")["Contents"]) == 4


def test_a_model_that_was_changed_is_not_mixed_with_the_old_one(photos: None, config: Any, put: Put) -> None:
    judged = infer.judge(infer.load_config(config()))
    put("models/colour/assets/new", b"x")
    with pytest.raises(Exception, match="has changed since the job began"):
        part.Worker(judged.job)


def test_a_stored_model_tells_its_job_and_its_classes(put: Put, models: Path, client: Any, tmp_path: Path) -> None:
    put("models/job/saved_model", models / "colour")
    raw = (models / "colour/saved_model.pb").read_bytes()
    manifest = {
        "format": "flotilla-model/1", "job": "mine", "labels": NAMES,
        "files": [{"path": "saved_model/saved_model.pb", "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}],
    }  # fmt: skip
    put("models/job/manifest.json", json.dumps(manifest).encode())
    place = saved_model.locate("s3://data/models/job/")
    assert (place.job, list(place.names), place.folder) == ("mine", NAMES, "saved_model/")
    assert saved_model.fetch(place, str(tmp_path)) == saved_model.fetch(place, str(tmp_path))
    put("models/job/saved_model/saved_model.pb", b"other")
    with pytest.raises(Exception, match="isn't what the model's manifest says"):
        saved_model.fetch(place, str(tmp_path / "elsewhere"))


def test_a_lost_row_is_noticed(photos: None, config: Any, put: Put, client: Any, capsys: Any) -> None:
    assert call(capsys, "run", config())[0] == 0
    client.delete_object(Bucket="data", Key="out/manifest.json")
    raw = client.get_object(Bucket="data", Key="out/parts/part-000000.parquet")["Body"].read()
    out = io.BytesIO()
    told = pq.ParquetFile(io.BytesIO(raw)).metadata.metadata[b"flotilla"]
    pq.write_table(pq.read_table(io.BytesIO(raw)).slice(1).replace_schema_metadata({b"flotilla": told}), out)
    put("out/parts/part-000000.parquet", out.getvalue())
    code, _, said = call(capsys, "run", config())
    assert code == 3 and "1 inputs have no row, as blue/0.png" in said
    with pytest.raises(BadInput, match="give a folder beside it"):
        infer.load_config(config(target="s3://data/photos"))


class Others(tf.Module):
    """Models as people export them otherwise."""

    @tf.function(input_signature=[tf.TensorSpec([4, 8, 8, 3], tf.float32, name="image")])
    def four(self, image: Any) -> dict[str, Any]:
        return {"logits": tf.reduce_mean(image, [1, 2])[:, ::-1] * 9 - 4}

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.string, name="text")])
    def text(self, text: Any) -> dict[str, Any]:
        return {"length": tf.cast(tf.strings.length(text[:, 0]), tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def iris(self, x: Any) -> dict[str, Any]:
        return {"probabilities": tf.nn.softmax(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)])
    def whole(self, a: Any, b: Any) -> dict[str, Any]:
        return {"a": tf.cast(a % 10, tf.float32), "b": b}


@pytest.fixture
def others(put: Put, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    module, folder = Others(), tmp_path_factory.mktemp("others")
    tf.saved_model.save(
        module, str(folder), {name: getattr(module, name) for name in ("four", "text", "iris", "whole")}
    )
    put("models/others", folder)
    return {"model": "s3://data/models/others/"}


def test_a_model_with_a_batch_of_its_own(photos: None, others: Any, config: Any, client: Any, capsys: Any) -> None:
    code, outcome, said = call(capsys, "run", config(**others, signature="four"))
    assert code == 0 and outcome["accuracy"] == 1.0 and outcome["rows"] == 31, said
    manifest = json.loads(client.get_object(Bucket="data", Key="out/manifest.json")["Body"].read())
    assert manifest["model_gives"]["meaning"] == "logits" and manifest["scale"] == "0..1"
    assert abs(sum(rows(client)[0]["top_scores"]) - 1) < 1e-6


def test_rows_of_texts_and_whole_numbers(put: Put, others: Any, config: Any, client: Any, capsys: Any) -> None:
    put("csv/a.csv", b"text,label\n02139,0\nnan,1\n")
    code, _, said = call(capsys, "run", config(**others, signature="text", source="s3://data/csv/"))
    assert code == 0 and [row["output"] for row in rows(client)] == [[5.0], [3.0]], said
    put("whole/a.csv", b"a,b\n9007199254740993,x\n")
    more = {"signature": "whole", "source": "s3://data/whole/", "target": "s3://data/two/"}
    code, _, said = call(capsys, "run", config(**others, **more))
    assert code == 0 and rows(client, "two/")[0]["output"] == [3.0], said


def test_numbers_in_records(put: Put, others: Any, config: Any, client: Any, capsys: Any, tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for label in (0, 1):
            numbers = tf.train.Feature(float_list=tf.train.FloatList(value=[1 - label, label, 0, 0]))
            labels = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            features = tf.train.Features(feature={"x": numbers, "label": labels})
            writer.write(tf.train.Example(features=features).SerializeToString())
    put("records/a.tfrecord", (tmp_path / "a.tfrecord").read_bytes())
    more = {"signature": "iris", "source": "s3://data/records/", "labels": ["10", "0", "b", "c"]}
    code, outcome, said = call(capsys, "run", config(**others, **more))
    assert code == 0 and outcome["accuracy"] == 1.0, (said, "a whole number is a class's number, whatever the names")
    assert [row["name"] for row in rows(client)] == ["10", "0"]


@pytest.mark.parametrize(
    ("written", "number"), [("2", 2), (" 2.0", 2), ("2.5", None), ("nan", None), ("cat", None), (3, 3), (2.5, None)]
)
def test_a_label_that_is_no_whole_number_is_a_name(written: Any, number: int | None) -> None:
    assert inputs._label({"label": written})[1] == number


def test_a_label_that_is_no_class_is_told(put: Put, others: Any, config: Any, client: Any, capsys: Any) -> None:
    put("csv/a.csv", b"x1,x2,x3,x4,label\n9,0,0,0,1\n0,9,0,0,2\n0,0,9,0,3\n0,0,0,9,4\n")
    code, outcome, said = call(capsys, "run", config(**others, signature="iris", source="s3://data/csv/"))
    assert code == 0 and outcome["accuracy"] is None, said
    shown = client.get_object(Bucket="data", Key="out/index.html")["Body"].read().decode()
    assert "1 labels are no numbers of classes" in shown


@pytest.mark.parametrize(
    ("files", "more", "words"),
    [
        ({"a.csv": b"1,2,3,4\n5,6,7,8\n"}, {"signature": "iris"}, "its first line has numbers (1,2,3,4)"),
        ({"a.csv": b"a,b\n"}, {"signature": "iris"}, "has files, but no record or row"),
        ({"a.csv": b"a,b\n1,2\n"}, {"signature": "text"}, "takes texts as text, and the rows have no such column"),
        ({"a.csv": b"a,b\n1,2\n"}, {"signature": "iris"}, "it has 2 columns of numbers, but the model takes 4 as x"),
        ({"a.csv.gz": b"\x1f\x8b\x08 no more"}, {"signature": "iris"}, "the file can't be read from here on"),
        ({"a.parquet": b"PAR1"}, {"signature": "iris"}, "the file can't be read from here on"),
    ],
)
def test_tables_that_cannot_work(
    put: Put, others: Any, config: Any, capsys: Any, files: dict[str, bytes], more: dict[str, object], words: str
) -> None:
    for name, data in files.items():
        put(f"rows/{name}", data)
    code, _, said = call(capsys, "check", config(**others, **more, source="s3://data/rows/"))
    assert code == 2 and words in said and "\n" not in said, said


def test_own_columns_hold_what_they_held_first(
    photos: None, config: Any, client: Any, capsys: Any, tmp_path: Path
) -> None:
    program = tmp_path / "mine.py"
    program.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nseen = []\n"
        "@dataclass\nclass One:\n    name: str\n"
        "def present(outputs):\n    print('said')\n    seen.append(1)\n"
        "    many = len(seen) > 20\n    return {'best': ['a', 'b'], 'many': 'x' if many else 1, 'one': One('o').name}\n"
    )
    code, _, said = call(capsys, "run", config(program=str(program), most_broken=1.0, hdf5=True))
    assert code == 0, said
    found = rows(client)
    assert found[0]["own_best"] == ["a", "b"] and found[0]["own_many"] == 1.0 and found[0]["own_one"] == "o"
    assert "present returns a text as many, and had a number for the first input" in {row["error"] for row in found}


def test_predictions_as_hdf5_of_a_model_without_classes(
    put: Put, others: Any, config: Any, client: Any, capsys: Any
) -> None:
    put("csv/a.csv", b"text\nab\n")
    put("csv/b.csv", b"text\nabcd\n")
    more = {"signature": "text", "source": "s3://data/csv/"}
    assert call(capsys, "run", config(**others, **more))[0] == 0
    code, outcome, _ = call(capsys, "run", config(**others, **more, hdf5=True))
    assert code == 0 and outcome["changed"], "the file was not there"
    with h5py.File(io.BytesIO(client.get_object(Bucket="data", Key="out/predictions.h5")["Body"].read())) as file:
        assert file["output"][:].tolist() == [[2.0], [4.0]] and file["path"].asstr()[:].tolist() == ["a.csv", "b.csv"]
        assert file["class"][:].tolist() == [-1, -1]


def test_a_page_that_is_broken_costs_no_other_page_its_row(
    put: Put, models: Path, config: Any, client: Any, capsys: Any
) -> None:
    put("models/colour", models / "colour")
    put("photos/whole.tif", tiff(np.full((8, 8, 3), COLOURS["red"], np.uint8), photometric="rgb"))
    raw = tiff(*[np.full((8, 8, 3), COLOURS[n], np.uint8) for n in NAMES], photometric="rgb", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        at, size = file.pages[2].dataoffsets[0], file.pages[2].databytecounts[0]
    put("photos/pages.tif", raw[:at] + bytes(size) + raw[at + size :])
    code, outcome, said = call(capsys, "run", config(most_broken=1.0))
    assert code == 0 and outcome["rows"] == 4 and outcome["broken"] == 1, said
    assert [(row["page"], row["class"]) for row in rows(client)] == [(0, 0), (1, 1), (2, None), (None, 2)]


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_turned_as_they_were_taken(turn: int) -> None:
    out = io.BytesIO()
    picture = Image.new("RGB", (2, 3))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = turn
    picture.save(out, "PNG", exif=exif.tobytes())
    (found,) = pictures.pages(out.getvalue())
    at = {1: (0, 0), 2: (1, 0), 3: (1, 2), 4: (0, 2), 5: (0, 0), 6: (2, 0), 7: (2, 1), 8: (0, 1)}[turn]
    assert found.getpixel(at) == (255, 0, 0) and found.size == ((2, 3) if turn < 5 else (3, 2))


def test_somebodys_folder_is_not_written_over(photos: None, put: Put, config: Any, capsys: Any) -> None:
    """A folder that S3's console has made is an empty object with a slash at its end."""
    put("out/", b"")
    put("out/index.html", b"mine")
    code, _, said = call(capsys, "run", config())
    assert code == 2 and "has index.html, and no predictions" in said


def test_a_function_makes_what_no_image_is(photos: None, others: Any, config: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def prepare(data):\n    return [len(data), 0, 0, 0]\n")
    more = {"signature": "iris", "program": str(tmp_path / "mine.py")}
    code, said, _ = call(capsys, "check", config(**others, **more))
    assert code == 0 and "The model takes what prepare makes (infer_program): x." in said["says"]


def test_sparks_own_figures_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {
        "firstTaskLaunchedTime": "2026-12-31T23:59:58.750GMT", "completionTime": "2027-01-01T00:00:01.000GMT",
        "executorRunTime": 4500, "executorCpuTime": 1_250_000_000, "executorDeserializeTime": 70, "jvmGcTime": 8,
    }  # fmt: skip
    monkeypatch.setattr(cluster, "_ask", lambda page: json.dumps([stage]).encode())
    monkeypatch.setattr(cluster, "_page", lambda context: "")
    assert cluster._figures(None) == {  # type: ignore[arg-type]
        "elapsedTime": 2.25, "executorRunTime": 4.5, "executorCpuTime": 1.25, "executorDeserializeTime": 0.07,
        "jvmGcTime": 0.008,
    }  # fmt: skip


def test_what_a_task_has_raised_is_said() -> None:
    before = (
        "An error occurred while calling z:x.\n: org.apache.spark.api.python.PythonException: [PYTHON_EXCEPTION] …\n"
    )
    ours = before + "  File x\nflotilla.job.errors.BadInput: The model can't be loaded: x.\n SQLSTATE: 38000\n"
    assert str(cluster._explain(Exception(ours))) == "The model can't be loaded: x."
    assert isinstance(cluster._explain(Exception(ours)), BadInput)
    other = (
        before + "Traceback (most recent call last):\n  File x\nTypeError: no\n SQLSTATE: 38000\nDriver stacktrace:\n"
    )
    assert str(cluster._explain(Exception(other))) == "Spark gave the job up: TypeError: no"


@pytest.mark.parametrize(("hosts", "attempts"), [(1, None), (2, "4"), (3, "3"), (50, "2")])
def test_a_part_that_fails_on_a_host_is_tried_on_others(hosts: int, attempts: str | None) -> None:
    found = cluster._elsewhere(hosts)
    assert found.get("spark.excludeOnFailure.task.maxTaskAttemptsPerNode") == attempts
    assert attempts is None or hosts * int(attempts) >= cluster.ATTEMPTS > int(attempts), (
        "all attempts, and never on one"
    )


def test_a_driver_whose_java_stands_still_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    over = threading.Event()
    monkeypatch.setattr(cluster, "LOOK_SECS", 0.01)
    monkeypatch.setattr(cluster, "STILL_SECS", 0.1)

    def leave(code: int) -> None:
        codes.append(code)
        over.set()

    monkeypatch.setattr(cluster.watchdog, "leave", leave)
    cluster._watch("http://127.0.0.1:9/", over)  # which refuses: one that is frozen answers nothing for 5 s
    assert codes == [Temporary.code]
