"""Requests and answers as they are on the wire: whose call it is, and an error as its service writes it."""

from __future__ import annotations

import io
import json
import re
import urllib.parse
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from xml.sax.saxutils import escape

Environ = WSGIEnvironment
Start = StartResponse
WSGI = WSGIApplication

REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 500: "Internal Server Error",
           503: "Service Unavailable"}  # fmt: skip
BY_PATH = {"POST": "Create", "PUT": "Update", "DELETE": "Delete", "GET": "Get"}


def body(environ: Environ) -> bytes:
    """Read a request's body, and leave it to be read again."""
    read: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(read)
    return read


def scope(environ: Environ) -> tuple[str, str]:
    """The region and the service that a request is signed for; empty where it is signed for none."""
    found = re.search(r"Credential=[^/]+/\d+/([^/]*)/([^/]*)/aws4_request", environ.get("HTTP_AUTHORIZATION", ""))
    if not found:
        asked = urllib.parse.unquote(environ.get("QUERY_STRING", ""))
        found = re.search(r"X-Amz-Credential=[^/]+/\d+/([^/]*)/([^/]*)/aws4_request", asked)
    return (found[1], found[2]) if found else ("", "")


def action(environ: Environ, service: str) -> str:
    """The call, by AWS's name of it, as far as it can be told."""
    method, path, query = environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    if service == "scheduler" and path.startswith("/schedule"):
        return BY_PATH.get(method, "") + ("ScheduleGroup" if path.startswith("/schedule-groups") else "Schedule")
    if service == "s3":
        if "uploadId=" in query:
            return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(method, "")
        return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, "")
    if method != "POST" or not str(environ.get("CONTENT_TYPE")).startswith("application/x-www-form-urlencoded"):
        return ""
    return urllib.parse.parse_qs(body(environ).decode(errors="replace")).get("Action", [""])[0]


def error(environ: Environ, start: Start, status: int, code: str, message: str) -> Iterable[bytes]:
    """Answer a request by an error, in the form of its service."""
    service = scope(environ)[1] or "s3"
    headers = [("Content-Type", "text/xml")]
    inner = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    if service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>lab</RequestID></Response>"
    elif service == "s3":
        text = f"<Error>{inner}</Error>"
    elif service in ("iam", "sts"):
        fault = "Sender" if status < 500 else "Receiver"
        text = f"<ErrorResponse><Error><Type>{fault}</Type>{inner}</Error><RequestId>lab</RequestId></ErrorResponse>"
    else:
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", code)]
        text = json.dumps({"__type": code, "message": message})
    start(f"{status} {REASONS[status]}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text.encode()]


def wrong_region(environ: Environ, start: Start, given: str, ours: str) -> Iterable[bytes]:
    """Answer a request that is signed for another region, as the endpoint of a region does."""
    service = scope(environ)[1]
    if service == "s3":
        text = f"The authorization header is malformed; the region '{given}' is wrong; expecting '{ours}'"
        return error(environ, start, 400, "AuthorizationHeaderMalformed", text)
    text = f"Credential should be scoped to a valid region, not '{given}'."
    if service == "ec2":
        return error(environ, start, 401, "AuthFailure", text)
    code = "SignatureDoesNotMatch" if service in ("iam", "sts") else "InvalidSignatureException"
    return error(environ, start, 403, code, text)


def unavailable(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer as a service does that is away."""
    codes = {"ec2": "Unavailable", "s3": "ServiceUnavailable", "iam": "ServiceUnavailable", "sts": "ServiceUnavailable"}
    code = codes.get(scope(environ)[1] or "s3", "ServiceUnavailableException")
    return error(environ, start, 503, code, "The service is unavailable. Please try again shortly.")
