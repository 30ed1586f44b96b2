#!/usr/bin/env bash
# moto 5.2.5, its server with IAM's checks on (set_initial_no_auth_action_count): S3's presigned URLs.
#
# A good guess: an object that its owner may read comes by headers that are signed and by a URL that is signed, as S3
# documents both, since moto without these checks serves both.
# Seen: by headers 200; by a URL of the same keys, signed in either version, 500: the check looks for the header
# Authorization, which such a request hasn't, and ends in a KeyError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'moto[s3,iam,server]==5.2.5' boto3==1.44.8 botocore==1.44.8
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
import urllib.error
import urllib.request

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def status(request):
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


first = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
iam = boto3.client("iam", endpoint_url=endpoint, **first)
iam.create_user(UserName="reader")
key = iam.create_access_key(UserName="reader")["AccessKey"]
allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="reader", PolicyName="s3", PolicyDocument=json.dumps(allowed))
session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name="us-east-1")


def presigned(version):
    config = Config(signature_version=version, s3={"addressing_style": "path"})
    s3 = session.client("s3", endpoint_url=endpoint, config=config)
    return s3.generate_presigned_url("get_object", Params={"Bucket": "data", "Key": "object"})


s3 = session.client("s3", endpoint_url=endpoint)
s3.create_bucket(Bucket="data")
s3.put_object(Bucket="data", Key="object", Body=b"hello")
without = {version: status(presigned(version)) for version in ("s3", "s3v4")}
checks = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
assert status(checks) == 200
signed = AWSRequest("GET", f"{endpoint}/data/object")
S3SigV4Auth(session.get_credentials(), "s3", "us-east-1").add_auth(signed)
by_headers = status(urllib.request.Request(signed.url, headers=dict(signed.headers)))
with_checks = {version: status(presigned(version)) for version in ("s3", "s3v4")}
server.stop()
print("presigned, without IAM's checks:", without)
print("signed headers, with them:", by_headers)
print("presigned, with them:", with_checks)
assert without == {"s3": 200, "s3v4": 200}
assert by_headers == 200
assert with_checks == {"s3": 500, "s3v4": 500}
PYTHON
