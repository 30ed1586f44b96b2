"""Objects under one s3:// prefix: reading, writing with checksums, and errors in one sentence."""

from __future__ import annotations

import base64
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import google_crc32c
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
)

from flotilla.errors import BadInput, Denied, Mismatch, ProgramError, Temporary

CHUNK = 4 * 1024**2
PART = 16 * 1024**2  # a larger object goes in parts, each of them in memory
_REFUSALS = {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_log = logging.getLogger(__name__)


def parse_url(url: str) -> tuple[str, str]:
    """Split s3://bucket/a/b/ into bucket and prefix; the prefix is empty or ends in a slash."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise BadInput(f"'{url}' is no place in S3: write it as s3://bucket/prefix/.")
    prefix = parts.path.strip("/")
    return parts.netloc, prefix + "/" if prefix else ""


def connect(threads: int = 4) -> Any:
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
    botocore repeats single requests.
    """

    def __init__(self, url: str, client: Any = None, refused: type[ProgramError] = Denied) -> None:
        self.bucket, self._prefix = parse_url(url)
        self.client = client or connect()
        self._refused = refused

    def url(self, path: str = "") -> str:
        """Return the full address of a path."""
        return f"s3://{self.bucket}/{self._prefix}{path}"

    def read(self, path: str) -> bytes:
        """Return a small object whole."""
        with self._errors(path):
            body: bytes = self.client.get_object(**self._at(path))["Body"].read()
            return body

    def head(self, path: str) -> tuple[int, str | None]:
        """Return an object's size and the CRC-32C (hex) of the whole object, where S3 knows it."""
        with self._errors(path):
            return _size_and_crc(self.client.head_object(**self._at(path), ChecksumMode="ENABLED"))

    def etag(self, path: str) -> str:
        """Return what tells an object's content from any other that it had."""
        with self._errors(path):
            return str(self.client.head_object(**self._at(path))["ETag"])

    def stream(self, path: str, attempts: int = 5, etag: str | None = None) -> Iterator[bytes]:
        """Yield an object's bytes, those of an ETag or the newest.

        A connection that breaks is taken up where it broke, several times.
        """
        offset, failures = 0, 0
        while True:
            more = {"Range": f"bytes={offset}-"} if offset else {}
            if etag:
                more["IfMatch"] = etag
            try:
                with self._errors(path):
                    answer = self.client.get_object(**self._at(path), **more)
                    etag, size = answer["ETag"], offset + answer["ContentLength"]
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        offset += len(chunk)
                        failures = 0
                        yield chunk
                if offset >= size:
                    return
                raise Temporary(f"{self.url(path)} ended early, at byte {offset} of {size}.")
            except Temporary as error:
                failures += 1
                if failures >= attempts:
                    raise
                _log.warning("%s Going on from byte %d.", error, offset)
                time.sleep(2.0 ** (failures - 1))

    def put(self, path: str, data: bytes, if_absent: bool = False) -> None:
        """Write an object in one piece; S3 checks the CRC-32C before it takes it."""
        more = {"IfNoneMatch": "*"} if if_absent else {}
        with self._errors(path):
            self.client.put_object(**self._at(path), Body=data, **_checksum(google_crc32c.value(data)), **more)

    def put_stream(self, path: str, chunks: Iterator[bytes], size: int, crc32c: str) -> None:
        """Write an object of known size and CRC-32C, in parts where it is large."""
        parts = _regroup(chunks, PART)
        if size <= PART:
            self.put(path, b"".join(parts))
            return
        with self._errors(path):
            at = self._at(path)
            upload = self.client.create_multipart_upload(**at, ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT")[
                "UploadId"
            ]
            try:
                done = []
                for number, part in enumerate(parts, 1):
                    checksum = _checksum(google_crc32c.value(part))
                    answer = self.client.upload_part(**at, UploadId=upload, PartNumber=number, Body=part, **checksum)
                    done.append(
                        {
                            "PartNumber": number,
                            "ETag": answer["ETag"],
                            "ChecksumCRC32C": checksum["ChecksumCRC32C"],
                        }
                    )
                self.client.complete_multipart_upload(
                    **at,
                    UploadId=upload,
                    MultipartUpload={"Parts": done},
                    ChecksumCRC32C=_checksum(int(crc32c, 16))["ChecksumCRC32C"],
                    ChecksumType="FULL_OBJECT",
                )
            except BaseException:
                with contextlib.suppress(Exception):
                    self.client.abort_multipart_upload(**at, UploadId=upload)
                raise

    def prove_writable(self, path: str) -> None:
        """Begin an upload and give it up: needs the permission to write and leaves nothing."""
        with self._errors(path):
            upload = self.client.create_multipart_upload(**self._at(path))["UploadId"]
            self.client.abort_multipart_upload(**self._at(path), UploadId=upload)

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
            raise Temporary(
                f"No AWS credentials for {self.url(path)}: give the host an instance profile that may use it."
            ) from error
        except BotoCoreError as error:
            raise Temporary(f"{self.url(path)} can't be reached: {error}") from error

    def _explain(self, error: ClientError, path: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        verb = error.operation_name
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
                f"{self.url(path)}: {verb} is refused ({code}): allow it in the policy of this host's role."
            )
        if code in ("PreconditionFailed", "412"):
            return Temporary(f"{self.url(path)} was changed by somebody else meanwhile.")
        return Temporary(f"{self.url(path)}: {verb} failed: {error}")

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
