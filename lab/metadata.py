"""The instance metadata service (IMDSv2 only), as AWS documents it:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html

One socket in each VPC's namespace; a host is known by its source address.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import network
from .settings import METADATA_ADDRESS

Tree = dict[str, "Tree | str"]
VERSIONS = ("latest", "2021-03-23")
LABEL = (
    "="  # a folder's entry with this name isn't served: its value follows the folder's name in listings ("0=my-key")
)


class Metadata:
    """Serves the metadata of every instance.

    Args:
        describe: gives the instance behind an address of a VPC, as (metadata tree, user data or None, identity
            document), or None where there is none.
    """

    def __init__(self, describe: Callable[[str, str], tuple[Tree, bytes | None, dict[str, object]] | None]) -> None:
        self.describe = describe
        self.tokens: dict[str, tuple[str, str, float]] = {}
        self.servers: dict[str, _Server] = {}

    def serve(self, vpc_id: str) -> None:
        """Listen in a VPC's namespace."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version = "EC2ws"

            def do_PUT(self) -> None:
                service.put(self, vpc_id)

            def do_GET(self) -> None:
                service.get(self, vpc_id)

            def log_message(self, format: str, *args: object) -> None:
                pass

        with network.inside(network.vpc_netns(vpc_id)):
            server = _Server((METADATA_ADDRESS, 80), Handler)
        self.servers[vpc_id] = server
        threading.Thread(target=server.serve_forever, name=f"metadata {vpc_id}", daemon=True).start()

    def leave(self, vpc_id: str) -> None:
        """Stop listening in a VPC's namespace, which could not go otherwise."""
        server = self.servers.pop(vpc_id, None)
        if server:
            server.shutdown()
            server.server_close()

    def put(self, request: BaseHTTPRequestHandler, vpc_id: str) -> None:
        """Give a session token (`PUT /latest/api/token`)."""
        seconds = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if request.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return _answer(request, 400, "Bad Request")
        if request.headers.get("X-Forwarded-For"):
            return _answer(request, 403, "Forbidden")
        token = secrets.token_urlsafe(40)
        self.tokens[token] = (vpc_id, request.client_address[0], time.time() + int(seconds))
        return _answer(request, 200, token, {"X-aws-ec2-metadata-token-ttl-seconds": seconds})

    def get(self, request: BaseHTTPRequestHandler, vpc_id: str) -> None:
        """Answer a path of the tree."""
        address = request.client_address[0]
        known = self.tokens.get(request.headers.get("X-aws-ec2-metadata-token", ""))
        if not known or known[:2] != (vpc_id, address) or known[2] < time.time():
            return _answer(request, 401, "Unauthorized")
        found = self.describe(vpc_id, address)
        parts = [part for part in request.path.split("?")[0].split("/") if part]
        if not found or not parts or parts[0] not in VERSIONS:
            return _answer(request, 404, "Not Found")
        tree, user_data, document = found
        if parts[1:] == ["user-data"]:
            return _answer(request, 200, user_data) if user_data else _answer(request, 404, "Not Found")
        whole: Tree = {
            "meta-data": tree,
            "dynamic": {"instance-identity": {"document": json.dumps(document, indent=2)}},
        }
        node: Tree | str = whole
        for part in parts[1:]:
            if not isinstance(node, dict) or part not in node:
                return _answer(request, 404, "Not Found")
            node = node[part]
        return _answer(request, 200, node if isinstance(node, str) else _listing(node))


def _listing(node: Tree) -> str:
    lines = []
    for name, value in node.items():
        if isinstance(value, dict):
            lines.append(f"{name}={value[LABEL]}" if LABEL in value else f"{name}/")
        elif name != LABEL:
            lines.append(name)
    return "\n".join(lines)


def _answer(
    request: BaseHTTPRequestHandler, status: int, body: str | bytes, headers: dict[str, str] | None = None
) -> None:
    content = body.encode() if isinstance(body, str) else body
    request.send_response(status)
    for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(content)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which takes 10 s where no DNS answers.
        self.socket.setsockopt(1, 2, 1)  # SOL_SOCKET, SO_REUSEADDR
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = METADATA_ADDRESS, 80


def timestamp(moment: float | None = None) -> str:
    """ISO 8601 in UTC to the second, as AWS writes it."""
    when = datetime.now(timezone.utc) if moment is None else datetime.fromtimestamp(moment, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
