"""Objects under one s3:// prefix: reading, writing with checksums, and errors in one sentence."""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import botocore.session
import google_crc32c
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError

from flotilla.job.errors import BadInput, Denied, Mismatch, ProgramError, Temporary
from flotilla.storage.manifest import Object

CHUNK = 1024**2  # smaller than what a connection holds: it is filled while the chunk is written elsewhere
PART = 16 * 1024**2  # a larger object goes in parts, each of them in memory
# Seconds for which S3, or the service that gives the credentials, may be away; and those between one try and the next.
# botocore is through with its own tries after some 3 s, and a client that has failed often makes no more of them.
PATIENCE = 120.0
_PAUSES = (1.0, 2.0, 4.0, *[8.0] * 14)
_AWAY = (
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    ResponseParserError,  # a proxy's page instead of S3's answer
)
_BUSY = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException", "429"}
_REFUSALS = {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
# What a client can mend by asking again: damaged on its way, two at a time, or the clock. All else of 4xx stays so.
_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeTooSkewed",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
# What nobody can mend by a permission, so that not even a model is kept waiting for it.
_HOPELESS = {"EntityTooLarge", "InvalidBucketName", "KeyTooLongError", "MethodNotAllowed"}
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Away(Temporary):
    """S3 or the credentials' service doesn't answer, or has no time; it was asked again for PATIENCE."""


class Changed(Temporary):
    """A condition of the request doesn't hold: somebody has written the object meanwhile, or this very request has."""


class _NoUpload(Temporary):
    """The upload in parts isn't there: given up, or completed."""


class _Patience:
    """The pauses between tries while a service is away."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: it has answered."""
        self._pauses = iter(_PAUSES)
        self._since: float | None = None

    def wait(self, error: Away) -> None:
        """Sleep until the next try, or raise the error when it has been away for too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            _log.warning("%s Asking again, for up to %d s.", error, PATIENCE)
        pause = next(self._pauses, None)
        if pause is None or now + pause > self._since + PATIENCE:
            raise error
        time.sleep(pause)


def parse_url(url: str) -> tuple[str, str]:
    """Split s3://bucket/a/b/ into bucket and prefix; the prefix is empty or ends in a slash."""
    match = re.fullmatch(r"s3://([^/?#]+)(?:/(.*))?", url, re.DOTALL)
    if not match:
        raise BadInput(f"'{url}' is no place in S3: write it as s3://bucket/prefix/.")
    prefix = (match[2] or "").strip("/")
    return match[1], prefix + "/" if prefix else ""


def connect(threads: int = 16) -> Any:
    """Return an S3 client for that many threads, patient with S3 and with the instance's metadata service."""
    session = botocore.session.Session()
    session.set_config_variable("metadata_service_num_attempts", 5)
    session.set_config_variable("metadata_service_timeout", 5)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 6},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=max(10, 2 * threads),
    )
    try:
        region = session.get_config_variable("region") or "us-east-1"
        return session.create_client("s3", region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise BadInput(f"The AWS configuration can't be used: {error}") from error


class Prefix:
    """The objects below s3://bucket/prefix/; paths are relative to it.

    What isn't there raises FileNotFoundError, what isn't allowed `refused`, all else another ProgramError.
    While S3 is away, it is asked again for PATIENCE. With `pays`, this account pays for what another's bucket gives.
    """

    def __init__(self, url: str, refused: type[ProgramError] = Denied, pays: bool = False) -> None:
        self.bucket, self._prefix = parse_url(url)
        self.client = connect()
        self._refused = refused
        self._payer = {"RequestPayer": "requester"} if pays else {}
        self._lock = threading.Lock()

    def url(self, path: str = "") -> str:
        """Return the full address of a path."""
        return f"s3://{self.bucket}/{self._prefix}{path}"

    def read(self, path: str) -> bytes:
        """Return a small object whole."""
        at = {**self._at(path), **self._payer}
        return self._retry(path, lambda client: bytes(client.get_object(**at)["Body"].read()))

    def objects(self) -> Iterator[Object]:
        """Yield what the bucket lists below the prefix."""
        page = {"Bucket": self.bucket, "Prefix": self._prefix, "OptionalObjectAttributes": ["RestoreStatus"]}
        more: dict[str, str] = {}
        while True:
            answer = self._retry("", functools.partial(_list, {**page, **more, **self._payer}))
            for one in answer.get("Contents", []):
                restored = "RestoreExpiryDate" in one.get("RestoreStatus", {})
                path = str(one["Key"]).removeprefix(self._prefix)
                yield Object(path, int(one["Size"]), str(one["ETag"]), one.get("StorageClass", "STANDARD"), restored)
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def head(self, path: str) -> tuple[int, str | None]:
        """Return an object's size and the CRC-32C (hex) of the whole object, where S3 knows it."""
        at = {**self._at(path), **self._payer}
        return _size_and_crc(self._retry(path, lambda client: client.head_object(**at, ChecksumMode="ENABLED")))

    def etag(self, path: str) -> str:
        """Return what tells an object's content from any other that it had."""
        return str(self._retry(path, lambda client: client.head_object(**self._at(path)))["ETag"])

    def stream(
        self, path: str, etag: str | None = None, told: Callable[[int, str | None], None] = lambda size, crc: None
    ) -> Iterator[bytes]:
        """Yield an object's bytes, those of an ETag or the newest, having told its size and CRC-32C as `head` does.

        A connection that breaks is taken up where it broke. Of an object that has changed, raises Changed.
        """
        offset, patience = 0, _Patience()
        while True:
            more = {**self._payer, **({"Range": f"bytes={offset}-"} if offset else {"ChecksumMode": "ENABLED"})}
            if etag:
                more["IfMatch"] = etag
            client = self.client
            try:
                with self._errors(path):
                    answer = client.get_object(**self._at(path), **more)
                    etag, size = answer["ETag"], offset + answer["ContentLength"]
                    if not offset:
                        told(*_size_and_crc(answer))
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        offset += len(chunk)
                        patience.reset()
                        yield chunk
                if offset >= size:
                    return
                raise Away(f"{self.url(path)} ended early, at byte {offset} of {size}.")
            except Away as error:
                patience.wait(error)
                self._renew(client)

    def put(self, path: str, data: bytes, if_absent: bool = False) -> None:
        """Write an object in one piece; S3 checks the CRC-32C before it takes it."""
        more = {"IfNoneMatch": "*"} if if_absent else {}
        request = {**self._at(path), "Body": data, **_checksum(google_crc32c.value(data)), **more}
        try:
            self._retry(path, lambda client: client.put_object(**request))
        except Changed:
            # It may be this very object, put by a try whose answer was lost.
            if not if_absent or self.read(path) != data:
                raise

    def put_stream(self, path: str, chunks: Iterator[bytes], size: int, crc32c: str) -> None:
        """Write an object of known size and CRC-32C, in parts where it is large."""
        parts = _regroup(chunks, PART)
        if size <= PART:
            self.put(path, b"".join(parts))
            return
        at = self._at(path)
        whole = {"ChecksumType": "FULL_OBJECT"}
        begin = {**at, **whole, "ChecksumAlgorithm": "CRC32C"}
        upload = self._retry(path, lambda client: client.create_multipart_upload(**begin))["UploadId"]
        try:
            done = [self._put_part(path, upload, number, part) for number, part in enumerate(parts, 1)]
            end = {**at, **whole, "UploadId": upload, "MultipartUpload": {"Parts": done}}
            end["ChecksumCRC32C"] = _checksum(int(crc32c, 16))["ChecksumCRC32C"]
            try:
                self._retry(path, lambda client: client.complete_multipart_upload(**end))
            except _NoUpload:
                # A try may have completed it whose answer was lost.
                if self.head(path) != (size, crc32c):
                    raise
        except BaseException:
            with contextlib.suppress(Exception):
                self.client.abort_multipart_upload(**at, UploadId=upload)
            raise

    def _put_part(self, path: str, upload: str, number: int, part: bytes) -> dict[str, Any]:
        checksum = _checksum(google_crc32c.value(part))
        request = {**self._at(path), "UploadId": upload, "PartNumber": number, "Body": part, **checksum}
        etag = self._retry(path, lambda client: client.upload_part(**request))["ETag"]
        return {"PartNumber": number, "ETag": etag, "ChecksumCRC32C": checksum["ChecksumCRC32C"]}

    def prove_writable(self, path: str) -> None:
        """Begin an upload and give it up: needs the permission to write and leaves nothing."""
        at = self._at(path)
        upload = self._retry(path, lambda client: client.create_multipart_upload(**at))["UploadId"]
        with contextlib.suppress(_NoUpload):
            self._retry(path, lambda client: client.abort_multipart_upload(**at, UploadId=upload))

    def _retry(self, path: str, ask: Callable[[Any], T]) -> T:
        """Return what ask says of the client, asked again while S3 is away."""
        patience = _Patience()
        while True:
            client = self.client
            try:
                with self._errors(path):
                    return ask(client)
            except Away as error:
                patience.wait(error)
                self._renew(client)

    def _renew(self, failed: Any) -> None:
        """Take a new client for one that failed, unless another thread has: botocore's counts its failures."""
        with self._lock:
            if self.client is failed:
                self.client = connect()

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + path}

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except ProgramError:
            raise
        except ClientError as error:
            raise self._explain(error, path) from error
        except FlexibleChecksumError as error:
            raise Mismatch(f"{self.url(path)} isn't what S3's checksum of it says: upload it again.") from error
        except NoCredentialsError as error:
            raise Away(
                f"No AWS credentials for {self.url(path)}: give the host an instance profile that may use it."
            ) from error
        except _AWAY as error:
            raise Away(f"{self.url(path)} can't be reached: {error}") from error
        except BotoCoreError as error:
            raise Temporary(f"{self.url(path)} can't be asked for: {error}") from error

    def _explain(self, error: ClientError, path: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        verb = error.operation_name
        if code in _BUSY or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return Away(f"{self.url(path)}: {verb} failed: {error}")
        if code == "400" and verb == "HeadObject":  # an answer without a body: what is wrong, the list says
            code = self._listed(path)[1] or code
        if code in _EXPIRED:
            return self._refused(
                f"{self.url(path)}: the AWS credentials of this host have expired ({code}): give it new ones (with the "
                "Infrastructure Manager: playbooks/radl.yml again, then im_client reconfigure)."
            )
        if code in ("404", "NoSuchKey"):
            return FileNotFoundError(self.url(path))
        if code == "NoSuchBucket":
            return BadInput(f"The bucket {self.bucket} doesn't exist: make it, or name another.")
        if code in _REFUSALS:
            reading = verb in ("GetObject", "HeadObject")
            if reading and self._is_absent(path):
                return FileNotFoundError(self.url(path))
            return self._refused(
                f"{self.url(path)}: {verb} is refused ({code}): playbooks/provision.yml, or site.yml, lets "
                "this host's role do it, and playbooks/infer.yml what an inference needs; of a role that you made "
                "yourself, change the policy."
            )
        if code in ("PreconditionFailed", "412"):
            return Changed(f"{self.url(path)} was changed by somebody else meanwhile.")
        if code == "NoSuchUpload":
            return _NoUpload(f"{self.url(path)}: {verb} failed: {error}")
        if code == "InvalidObjectState":
            return BadInput(f"{self.url(path)} is archived, so S3 doesn't give it: restore it, or leave it out.")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _PASSING or not 400 <= status < 500:
            return Temporary(f"{self.url(path)}: {verb} failed: {error}")
        words = error.response["Error"].get("Message") or "no word why"
        what = f"{self.url(path)}: S3 refuses {verb} ({code}): {words}"
        return BadInput(what) if code in _HOPELESS else self._refused(what)

    def _is_absent(self, path: str) -> bool:
        """Ask the list: S3 may refuse to say that an object isn't there."""
        keys, code = self._listed(path)
        return not code and self._prefix + path not in keys

    def _listed(self, path: str) -> tuple[list[str], str]:
        """Return the first key that begins like this object's, if any, and the code of the error, if any."""
        at = self._at(path)
        try:
            found = self.client.list_objects_v2(Bucket=at["Bucket"], Prefix=at["Key"], MaxKeys=1)
        except ClientError as error:
            return [], str(error.response.get("Error", {}).get("Code", "unknown"))
        except BotoCoreError as error:
            return [], type(error).__name__
        return [str(item["Key"]) for item in found.get("Contents", [])], ""


def _list(request: dict[str, Any], client: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.list_objects_v2(**request)
    return answer


def _size_and_crc(answer: dict[str, Any]) -> tuple[int, str | None]:
    checksum = answer.get("ChecksumCRC32C")
    # "…-3" is a checksum of the checksums of 3 parts, of no use here.
    crc = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
    return int(answer["ContentLength"]), crc


def _checksum(crc: int) -> dict[str, str]:
    return {
        "ChecksumAlgorithm": "CRC32C",
        "ChecksumCRC32C": base64.b64encode(crc.to_bytes(4, "big")).decode(),
    }


def _regroup(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Join chunks to pieces of at least `size` bytes, the last one excepted."""
    piece = bytearray()
    for chunk in chunks:
        piece += chunk
        if len(piece) >= size:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
