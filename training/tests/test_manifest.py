"""A manifest is read whole or refused in one sentence; shares are fair and complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flotilla.job.errors import BadInput
from flotilla.storage import manifest


def content(*sizes: int, **change: Any) -> dict[str, Any]:
    files = [
        {
            "path": f"train-{i}.tfrecord",
            "split": "train",
            "size": size,
            "records": 1,
            "sha256": "ab" * 32,
            "crc32c": "0123abcd",
        }
        for i, size in enumerate(sizes)
    ]
    return {"format": manifest.FORMAT, "name": "tiny", "files": files, "features": {}} | change


def parse(value: Any) -> manifest.Manifest:
    return manifest.parse(json.dumps(value).encode(), "s3://b/manifest.json")


def test_parse() -> None:
    data = parse(content(3, 4))
    assert (data.name, data.size, len(data.files)) == ("tiny", 7, 2)
    assert data.files[1].crc32c == "0123abcd"
    assert json.loads(data.raw)["name"] == "tiny"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other/1"}, "isn't a manifest of the format flotilla-dataset/1"),
        ({"name": ""}, "has no name"),
        ({"files": []}, "lists no files"),
        ({"files": ["x"]}, "file 0 isn't an object"),
    ],
)
def test_refuses_a_manifest(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=rf"^s3://b/manifest\.json.*{words}"):
        parse(content(1, **change))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "../x"),
        ("path", "/etc/passwd"),
        ("path", "a:b"),
        ("path", "a//b"),
        ("path", "a\nb"),
        ("path", "manifest.json"),
        ("path", None),
        ("size", -1),
        ("size", "1"),
        ("size", True),
        ("records", 1.5),
        ("crc32c", "xyz"),
        ("crc32c", "0123ABCD"),
        ("sha256", "ab"),
        ("split", ""),
    ],
)
def test_refuses_a_file(key: str, value: Any) -> None:
    bad = content(1)
    bad["files"][0][key] = value
    with pytest.raises(BadInput, match=key):
        parse(bad)


def test_refuses_what_is_no_json_and_what_is_listed_twice() -> None:
    with pytest.raises(BadInput, match="isn't JSON"):
        manifest.parse(b"\xff{", "x")
    twice = content(1)
    twice["files"] *= 2
    with pytest.raises(BadInput, match="twice"):
        parse(twice)


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_shares_are_fair_and_complete(shares: int) -> None:
    data = parse(content(50, 10, 30, 30, 20, 40))
    dealt = [data.share(i, shares) for i in range(shares)]
    assert sorted(entry.path for share in dealt for entry in share) == sorted(entry.path for entry in data.files)
    loads = [sum(entry.size for entry in share) for share in dealt]
    assert max(loads) - min(loads) <= 50
    assert dealt == [data.share(i, shares) for i in range(shares)]


def test_refuses_a_share_that_doesnt_exist() -> None:
    for index, shares in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(BadInput, match="count shares from 0"):
            parse(content(1)).share(index, shares)


def test_a_folder_is_a_data_set_as_it_is() -> None:
    cases = json.loads((Path(__file__).parents[2] / "tests/support/listings.json").read_text())

    def listed(objects: list[dict[str, Any]]) -> manifest.Manifest:
        return manifest.of_objects(
            (
                manifest.Object(
                    one["Key"][2:], one["Size"], one["ETag"], one.get("StorageClass", "STANDARD"),
                    "RestoreExpiryDate" in one.get("RestoreStatus", {}),
                )
                for one in objects
            ),
            "s3://b/d/",
        )  # fmt: skip

    data = listed(cases["good"])
    assert data.version == cases["version"], "as on the controller"
    assert (data.name, data.size, len(data.files), data.raw) == ("d", 13, 5, b"")
    assert {entry.path: entry.etag for entry in data.files}["train/b.jpg"] == '"b-3"'
    for what, objects in cases["bad"].items():
        with pytest.raises(BadInput, match=r"^s3://b/d/"):
            print(what, listed(objects))


def test_shares_of_many_equal_files() -> None:
    """Empty ones, too."""
    data = parse(content(*[0] * 9))
    assert [len(data.share(i, 3)) for i in range(3)] == [3, 3, 3]


def test_the_controller_judges_manifests_alike() -> None:
    cases = json.loads((Path(__file__).parents[2] / "tests/support/manifests.json").read_text())
    good = cases["good"]
    assert parse(good).size == 10
    bad = {what: {**good, **change} for what, change in cases["bad"].items()}
    for what, change in cases["bad files"].items():
        bad[what] = {**good, "files": [{**good["files"][0], **change}, *good["files"][1:]]}
    for what, value in bad.items():
        with pytest.raises(BadInput):
            print(what, parse(value))
