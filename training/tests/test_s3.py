"""S3 that is away for a while, and answers that are lost after the request took effect."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    MetadataRetrievalError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from moto.s3.models import s3_backends

from flotilla.job.errors import BadInput, Denied, Mismatch, Temporary
from flotilla.storage import s3

LARGE = bytes(range(256)) * 40_000  # two parts of 5 MB, S3's least
CRC = f"{google_crc32c.value(LARGE):08x}"


def answer(status: int, code: str) -> ClientError:
    content: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(content, "GetObject")


class Cloud:
    """Clients of one S3 that can fail, and a clock that only sleeping moves."""

    def __init__(self, client: Any) -> None:
        self.real = client
        self.now = 0.0
        self.clients = 0
        self.calls: list[str] = []
        self.fails: Callable[[str], Exception | None] = lambda method: None
        self.loses: set[str] = set()  # methods whose next answer is lost

    def connect(self) -> Any:
        self.clients += 1
        return types.SimpleNamespace(**{name: self.method(name) for name in dir(self.real) if name.islower()})

    def method(self, name: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append(name)
            if error := self.fails(name):
                raise error
            said = getattr(self.real, name)(**arguments)
            if name in self.loses:
                self.loses.remove(name)
                raise ReadTimeoutError(endpoint_url="https://s3")
            return said

        return call

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def cloud(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    cloud = Cloud(client)
    monkeypatch.setattr(s3, "connect", cloud.connect)
    monkeypatch.setattr(s3, "time", types.SimpleNamespace(sleep=cloud.sleep, monotonic=lambda: cloud.now))
    monkeypatch.setattr(s3, "PART", 5 * 1024**2)
    client.put_object(Bucket="data", Key="x/there", Body=b"content")
    yield cloud


OPERATIONS: dict[str, Callable[[s3.Prefix], Any]] = {
    "read": lambda prefix: prefix.read("there") == b"content",
    "head": lambda prefix: prefix.head("there")[0] == 7,
    "etag": lambda prefix: prefix.etag("there"),
    "stream": lambda prefix: b"".join(prefix.stream("there")) == b"content",
    "put": lambda prefix: prefix.put("new", b"1", if_absent=True) is None,
    "put_stream": lambda prefix: prefix.put_stream("large", iter([LARGE]), len(LARGE), CRC) is None,
    "prove_writable": lambda prefix: prefix.prove_writable("new") is None,
}
AWAY: list[Exception] = [
    answer(503, "ServiceUnavailable"),
    answer(500, "InternalError"),
    answer(400, "RequestTimeout"),
    EndpointConnectionError(endpoint_url="https://s3"),
    ConnectTimeoutError(endpoint_url="https://s3"),
    NoCredentialsError(),  # the metadata service says no more than that
    MetadataRetrievalError(error_msg="no"),
    ResponseParserError("<html>"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_api_that_is_away_for_40_seconds_is_no_failure(cloud: Cloud, operation: str) -> None:
    cloud.fails = lambda method: AWAY[len(cloud.calls) % len(AWAY)] if cloud.now < 40 else None
    assert OPERATIONS[operation](s3.Prefix("s3://data/x"))
    assert 40 <= cloud.now <= 50
    assert cloud.clients > 5, "each try has a client that hasn't failed yet"


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_away_for_good_is_temporary_for_systemd(cloud: Cloud, error: Exception) -> None:
    cloud.fails = lambda method: error
    with pytest.raises(Temporary):
        s3.Prefix("s3://data/x").read("there")
    assert 110 <= cloud.now <= s3.PATIENCE and len(cloud.calls) < 25


def test_each_interruption_of_a_long_copy_has_its_own_patience(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CHUNK", 1)
    gone = cloud.now
    got = b""
    cloud.fails = lambda method: answer(503, "SlowDown") if cloud.now - gone < 90 else None
    for byte in s3.Prefix("s3://data/x").stream("there"):
        got += byte
        cloud.now += 100  # as HDFS takes its time
        gone = cloud.now
    assert got == b"content"


@pytest.mark.parametrize(
    ("error", "raised"), [(answer(403, "AccessDenied"), Denied), (answer(404, "NoSuchKey"), FileNotFoundError)]
)
def test_what_is_not_away_is_said_at_once(cloud: Cloud, error: Exception, raised: type[Exception]) -> None:
    cloud.fails = lambda method: error if method == "get_object" else None
    with pytest.raises(raised):
        s3.Prefix("s3://data/x").read("there")
    assert cloud.now == 0 and cloud.calls.count("get_object") == 1


def test_answers_that_were_lost_after_the_effect(cloud: Cloud) -> None:
    prefix = s3.Prefix("s3://data/x")
    cloud.loses = {"put_object"}
    prefix.put("claim", b"mine", if_absent=True)
    assert prefix.read("claim") == b"mine"
    with pytest.raises(Temporary, match="somebody else"):
        prefix.put("claim", b"another's", if_absent=True)
    cloud.loses = {"upload_part", "complete_multipart_upload"}
    prefix.put_stream("large", iter([LARGE]), len(LARGE), CRC)
    assert prefix.head("large") == (len(LARGE), CRC) and not cloud.loses
    cloud.loses = {"abort_multipart_upload"}
    prefix.prove_writable("new")
    assert not cloud.real.list_multipart_uploads(Bucket="data").get("Uploads")


def test_an_upload_that_somebody_gave_up_is_no_success(cloud: Cloud) -> None:
    cloud.fails = lambda method: answer(404, "NoSuchUpload") if method == "complete_multipart_upload" else None
    with pytest.raises((Temporary, FileNotFoundError)):
        s3.Prefix("s3://data/x").put_stream("large", iter([LARGE]), len(LARGE), CRC)


CASES = json.loads((Path(__file__).parents[2] / "tests/support/s3_urls.json").read_text())


@pytest.mark.parametrize("url", CASES)
def test_bucket_and_prefix_as_the_controller_reads_them(url: str) -> None:
    if CASES[url] is None:
        with pytest.raises(BadInput):
            s3.parse_url(url)
    else:
        assert list(s3.parse_url(url)) == CASES[url]


@pytest.mark.parametrize("kind", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "SHA1"])
def test_what_differs_from_its_checksum_in_s3_is_not_taken(client: Any, kind: str) -> None:
    """Whichever checksum S3 has; since 2024 most objects have CRC-64/NVME, which botocore needs awscrt for."""
    client.put_object(Bucket="data", Key="x/there", Body=b"as it was", ChecksumAlgorithm=kind)
    assert b"".join(s3.Prefix("s3://data/x/").stream("there")) == b"as it was"
    backend = s3_backends["123456789012"]["aws"]
    backend.buckets["data"].keys["x/there"].value = b"otherwise"
    with pytest.raises(Mismatch, match="isn't what S3's checksum of it says"):
        list(s3.Prefix("s3://data/x/").stream("there"))
