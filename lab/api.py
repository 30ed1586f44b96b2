"""The region's API as WSGI: moto's, in all weathers, with errors as AWS writes them; and a gateway endpoint for S3."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterable

import google_crc32c
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from . import market, weather, wire
from .settings import REGION
from .untyped import Moto

log = logging.getLogger("lab")

SILENCE_SECONDS = 120.0  # longer than clients wait
CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "CRC32C": lambda body: int(google_crc32c.value(body)).to_bytes(4, "big"),
    "SHA1": lambda body: hashlib.sha1(body).digest(),
    "SHA256": lambda body: hashlib.sha256(body).digest(),
}


def wrong_checksum(environ: wire.Environ) -> str:
    """The kind of checksum that a request's headers give and its body hasn't, or nothing; moto stores such an object.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    for kind, calculate in CHECKSUMS.items():
        given = environ.get(f"HTTP_X_AMZ_CHECKSUM_{kind}")
        if given and base64.b64encode(calculate(wire.body(environ))).decode() != given:
            return kind
    return ""


def application(settle: Callable[[str], None]) -> wire.WSGI:
    """The region's API: moto's, in all weathers.

    Args:
        settle: brings hosts in line with EC2, after each call that changes it.
    """

    def create_app(name: Moto) -> Moto:
        return market.create_app() if name == "pricing" else create_backend_app(name)

    moto = DomainDispatcherApplication(create_app)
    moto.backend_url_patterns = [*moto.backend_url_patterns, ("pricing", re.compile(r"https?://pricing\."))]

    def answered(environ: wire.Environ, start_response: wire.Start) -> Iterable[bytes]:
        try:
            return moto(environ, start_response)  # type: ignore[no-any-return]
        except NotImplementedError as error:  # a call that moto hasn't; AWS's words for one that isn't there
            log.warning("%s", error)
            return wire.error(environ, start_response, 400, "InvalidAction", f"The lab hasn't this call: {error}")
        except Exception:
            log.exception("a request failed")
            return wire.error(environ, start_response, 500, "InternalError", "An internal error has occurred")

    def serve(environ: wire.Environ, start_response: wire.Start) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/moto-api"):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"The lab has no such door.\n"]
        signed_for, service = wire.scope(environ)
        if weather.away(service or "s3"):
            return wire.unavailable(environ, start_response)
        if signed_for not in ("", REGION):
            return wire.wrong_region(environ, start_response, signed_for, REGION)
        if wrong := environ["REQUEST_METHOD"] == "PUT" and wrong_checksum(environ):
            text = f"The {wrong} you specified did not match the calculated checksum."
            return wire.error(environ, start_response, 400, "BadDigest", text)
        action = wire.action(environ, service or "s3")
        lost = weather.loses(action)
        answer = answered(environ, _ignore if lost else start_response)
        if service == "ec2" and action and not action.startswith(("Describe", "Get")):
            settle(action)
        if lost:
            b"".join(answer)
            return wire.error(environ, start_response, 500, "InternalError", "An internal error has occurred")
        return answer

    return serve


def s3_alone(application: wire.WSGI) -> wire.WSGI:
    """The region as a gateway endpoint for S3 shows it: whoever asks another service gets no answer."""

    def serve(environ: wire.Environ, start_response: wire.Start) -> Iterable[bytes]:
        service = wire.scope(environ)[1]
        if service != "s3" and (service or environ.get("HTTP_X_AMZ_TARGET") or wire.action(environ, "")):
            time.sleep(SILENCE_SECONDS)
            raise ConnectionResetError  # the server closes the connection
        return application(environ, start_response)

    return serve


def _ignore(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
    """Take the beginning of an answer that nobody gets."""
    return lambda _part: None
