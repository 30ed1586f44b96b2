#!/usr/bin/env bash
# botocore 1.44.8, retries {"mode": "standard", "max_attempts": 6}, against a server on loopback that answers 503.
#
# A good guess: seven requests with pauses that double up to 20 s, some 25 s in all, as it was (1.40.76: up to 51 s);
# and each call of a client begins with all of its attempts.
# Seen: for "Unavailable" the seven requests are over within 3.15 s, for "RequestLimitExceeded" alone are the pauses
# long; and the retries of all calls share one budget, so that of eight calls on one client that fail the sixth makes
# 6 requests, the seventh and eighth one each. A service that is away for five seconds ends what "retries six times".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check boto3==1.44.8 botocore==1.44.8
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import threading
import time

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

asked = []


class Away(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(time.monotonic())
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"<Response><Errors><Error><Code>Unavailable</Code><Message>away</Message></Error></Errors></Response>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "ec2", region_name="us-east-1", endpoint_url=f"http://127.0.0.1:{server.server_port}",
    aws_access_key_id="none", aws_secret_access_key="none",
    config=Config(retries={"mode": "standard", "max_attempts": 6}),
)


def call():
    asked.clear()
    try:
        client.describe_vpcs()
    except ClientError as error:
        assert error.response["Error"]["Code"] == "Unavailable"
    return len(asked), asked[-1] - asked[0]


calls = [call() for _ in range(8)]
print("botocore", botocore.__version__)
print("requests a call:", [requests for requests, _ in calls])
print("seconds from a call's first to its last request:", [round(seconds, 2) for _, seconds in calls])
assert [requests for requests, _ in calls] == [7, 7, 7, 7, 7, 6, 1, 1]
assert max(seconds for _, seconds in calls) < 6  # 3.15 and what a busy machine adds
PYTHON
