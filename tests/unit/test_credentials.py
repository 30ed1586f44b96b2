"""Credentials that don't work, each with the sentence that says what to do: boto3's own sessions on files of ~/.aws."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import aws
from botocore.exceptions import ClientError

REGION = "us-east-1"
KEYS = "aws_access_key_id = a\naws_secret_access_key = b\n"
ROLE = "role_arn = arn:aws:iam::123456789012:role/Trainer\n"
SSO = "sso_account_id = 123456789012\nsso_role_name = Trainer\n"
SESSION = "[sso-session uni]\nsso_region = us-east-1\nsso_start_url = https://uni.awsapps.com/start\n"


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, no proxy, no certificates, and not on an instance."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith("CA_BUNDLE"):
            monkeypatch.delenv(name)
    for name in (*aws.KEY_VARIABLES, *aws.LEGACY_VARIABLES, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def do(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return do


def write(text: str) -> None:
    """Write ~/.aws/config."""
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(text)


def refused(profile: str = "", region: str = REGION) -> str:
    """What is said when the caller is asked for, once."""
    with pytest.raises(aws.FleetError) as caught:
        aws.Aws(region, profile, attempts=1).call("ask who the caller is", "sts", "get_caller_identity")
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# The environment


def test_keys_beside_a_profile(export: Callable[..., None]) -> None:
    write(f"[profile lab]\n{KEYS}")
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    said = refused("lab")
    assert "AWS_ACCESS_KEY_ID is exported and fleet_profile is lab" in said
    assert "'unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY'" in said and 'set fleet_profile to ""' in said
    export(AWS_PROFILE="lab")
    assert "AWS_PROFILE is lab" in refused() and "unset AWS_PROFILE" in refused()


def test_a_token_beside_a_profile_is_enough(export: Callable[..., None]) -> None:
    write(f"[profile lab]\n{KEYS}")
    export(AWS_SESSION_TOKEN="t")
    assert "'unset AWS_SESSION_TOKEN'" in refused("lab")


@pytest.mark.parametrize("lone", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY"])
def test_what_amazon_aws_takes_and_boto3_not(export: Callable[..., None], lone: str) -> None:
    write(f"[default]\n{KEYS}")
    export(**{lone: "b"})
    assert f"{lone} is exported without AWS_ACCESS_KEY_ID" in refused() and f"'unset {lone}'" in refused()


def test_half_of_the_keys(export: Callable[..., None]) -> None:
    export(AWS_ACCESS_KEY_ID="a")
    assert "AWS_ACCESS_KEY_ID is exported without AWS_SECRET_ACCESS_KEY: export both" in refused()


def test_exported_keys_alone_are_taken(export: Callable[..., None]) -> None:
    write("[profile lab]\nregion = us-east-1\n")
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_SESSION_TOKEN="t")
    assert aws.open_session("", REGION).get_credentials().method == "env"


def test_no_region() -> None:
    write(f"[default]\n{KEYS}")
    with pytest.raises(aws.FleetError, match=r"^No AWS region is set: set fleet_region\.$"):
        aws.Aws("").call("list the VPCs", "ec2", "describe_vpcs")


# Profiles


def test_a_profile_that_is_not_there(export: Callable[..., None]) -> None:
    write(f"[profile lab]\n{KEYS}")
    assert "profile nobody isn't in ~/.aws" in refused("nobody") and "--profile nobody" in refused("nobody")
    export(AWS_PROFILE="nobody")
    assert "but AWS_PROFILE names it" in refused()
    assert aws.open_session("lab", REGION).get_credentials().method == "config-file"


def test_a_default_profile_that_is_not_there() -> None:
    assert 'or to ""' in refused("default"), "on an instance nobody has one, and needs none"


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("region = us-east-1\n", ("No usable AWS credentials in profile lab", "'aws configure --profile lab'")),
        ("aws_access_key_id = a\n", ("profile lab is incomplete", "add aws_secret_access_key")),
        (ROLE, ("profile lab is incomplete", "source_profile or credential_source")),
        (f"{ROLE}source_profile = other\n", ("configuration is wrong", 'source_profile "other"', "~/.aws/config")),
        (f"{ROLE}source_profile = loop\n", ("Infinite loop", "correct it in ~/.aws/config")),
        (f"{SSO}sso_session = other\n", ("configuration is wrong", 'does not exist: "other"')),
        (f"{SSO}sso_session = uni\n", ("SSO sign-in of profile lab", "run 'aws sso login --profile lab'.")),
        (
            f"{SSO}sso_region = us-east-1\nsso_start_url = https://uni.awsapps.com/start\n",
            ("SSO sign-in of profile lab", "run 'aws sso login --profile lab'."),
        ),
        ("credential_process = sh -c 'echo sign in first >&2; exit 1'\n", ("credential_process", "sign in first")),
        (
            "credential_process = /nowhere/program\n",
            ("profile lab", "/nowhere/program", "credential_process in ~/.aws/config"),
        ),
        ("credential_process = echo hello\n", ("profile lab doesn't work", "credential_process in ~/.aws/config")),
    ],
)
def test_a_profile_that_gives_nothing(profile: str, words: tuple[str, ...]) -> None:
    loop = f"[profile loop]\n{ROLE}source_profile = lab\n" if "loop" in profile else ""
    write(f"[profile lab]\n{profile}{loop}{SESSION}")
    said = refused("lab")
    assert all(word in said for word in words), said


def test_a_file_that_is_no_configuration() -> None:
    write("hello\n")
    assert "The AWS configuration is wrong" in refused("lab") and os.environ["AWS_CONFIG_FILE"] in refused("lab")


def test_an_sso_token_that_is_over(tmp_path: Path, export: Callable[..., None]) -> None:
    write(f"[profile lab]\n{SSO}sso_session = uni\n{SESSION}")
    cache = tmp_path / ".aws/sso/cache"
    cache.mkdir(parents=True)
    token = {"startUrl": "https://uni.awsapps.com/start", "accessToken": "t", "expiresAt": "2020-01-01T00:00:00Z"}
    (cache / f"{hashlib.sha1(b'uni').hexdigest()}.json").write_text(json.dumps(token))
    assert "run 'aws sso login --profile lab'." in refused("lab") and "expired" in refused("lab")
    export(AWS_PROFILE="lab")
    assert "run 'aws sso login --profile lab'." in refused()


def test_a_role_that_asks_for_a_code(export: Callable[..., None]) -> None:
    mfa = "mfa_serial = arn:aws:iam::123456789012:mfa/ada\n"
    lab = f"[profile lab]\n{ROLE}source_profile = default\n{mfa}"
    write(f"[default]\n{KEYS}{lab}[profile next]\n{ROLE}source_profile = lab\n")
    for profile in ("lab", "next"):
        said = refused(profile)
        assert "The AWS profile lab wants an MFA code" in said
        assert f'eval "$(aws configure export-credentials --profile {profile} --format env)"' in said
    assert refused("lab").endswith('and then set fleet_profile to "".')
    export(AWS_PROFILE="lab")
    assert refused().endswith("and then unset AWS_PROFILE.")


def test_without_a_role_no_code_is_asked_for() -> None:
    write(f"[profile lab]\n{KEYS}mfa_serial = arn:aws:iam::123456789012:mfa/ada\n")
    assert aws.open_session("lab", REGION).get_credentials().method == "config-file"


# What answers


class Answers(http.server.ThreadingHTTPServer):
    """A server whose answers a test decides."""

    def __init__(self, reply: Callable[[str, str], tuple[int, str, dict[str, str]]]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                status, text, headers = reply(self.path, body)
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = do_CONNECT = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def serve() -> Iterator[Callable[..., Answers]]:
    made: list[Answers] = []

    def start(reply: Callable[[str, str], tuple[int, str, dict[str, str]]]) -> Answers:
        made.append(Answers(reply))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def error(code: str, words: str, ahead: float = 0) -> tuple[int, str, dict[str, str]]:
    """AWS's answer in its form, from a clock that is so many minutes ahead."""
    date = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=ahead)
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>"
    return 403, text, {"Date": email.utils.format_datetime(date, usegmt=True)}


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("ExpiredToken", "The security token included in the request is expired", ("have expired", "export new ones")),
        ("RequestExpired", "Request has expired.", ("have expired", "export new ones")),
        (
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
            ("AWS refuses", "export", "if they work in other regions, enable this one"),
        ),
    ],
)
def test_exported_keys_that_aws_refuses(
    export: Callable[..., None], serve: Callable[..., Answers], code: str, words: str, expected: tuple[str, ...]
) -> None:
    url = serve(lambda *_: error(code, words)).url
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_SESSION_TOKEN="t", AWS_ENDPOINT_URL=url)
    said = refused()
    assert "the environment (AWS_ACCESS_KEY_ID)" in said and all(word in said for word in expected), said
    assert "'unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN' to use ~/.aws" in said


@pytest.mark.parametrize(
    ("code", "words", "ahead", "expected"),
    [
        # EC2 and S3 have words of their own; the time is in the header of every answer.
        ("AuthFailure", "AWS was not able to validate the provided access credentials", 20, "is 20 min behind AWS's"),
        ("RequestExpired", "Request has expired.", -30, "is 30 min ahead of AWS's"),
        ("SignatureDoesNotMatch", "Signature not yet current: 20261128T2 is still later than", 0, "clock is wrong"),
        ("SignatureDoesNotMatch", "Signature expired: 20261128T1 is now earlier than", 20, "is 20 min behind"),
        (
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            0,
            "clock",
        ),
    ],
)
def test_a_wrong_clock(
    serve: Callable[..., Answers], export: Callable[..., None], code: str, words: str, ahead: float, expected: str
) -> None:
    write(f"[profile lab]\n{KEYS}")
    export(AWS_ENDPOINT_URL=serve(lambda *_: error(code, words, ahead)).url)
    said = refused("lab")
    assert "This machine's clock" in said and expected in said and "timedatectl set-ntp true" in said, said


def test_a_right_clock_is_not_blamed(serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    write(f"[profile lab]\n{KEYS}")
    export(AWS_ENDPOINT_URL=serve(lambda *_: error("SignatureDoesNotMatch", "Check your AWS Secret Access Key", 1)).url)
    assert "AWS refuses the credentials of profile lab" in refused("lab")


def test_a_role_that_may_not_be_taken(serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    words = "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: sts:AssumeRole"
    write(f"[default]\n{KEYS}[profile lab]\n{ROLE}source_profile = default\n")
    export(AWS_ENDPOINT_URL=serve(lambda *_: error("AccessDenied", words)).url)
    said = refused("lab")
    assert "AWS doesn't let profile lab take its role" in said and "trust policy" in said and "role_arn" in said


def test_a_role_is_taken(serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    def reply(path: str, body: str) -> tuple[int, str, dict[str, str]]:
        if "Action=AssumeRole" in body:
            until = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).isoformat()
            keys = "".join(
                f"<{key}>{value}</{key}>"
                for key, value in (
                    ("AccessKeyId", "a"),
                    ("SecretAccessKey", "b"),
                    ("SessionToken", "t"),
                    ("Expiration", until),
                )
            )
            inner = f"<AssumeRoleResult><Credentials>{keys}</Credentials></AssumeRoleResult>"
            return 200, f"<AssumeRoleResponse>{inner}</AssumeRoleResponse>", {}
        arn = "arn:aws:sts::123456789012:assumed-role/Trainer/botocore-session-1"
        inner = f"<GetCallerIdentityResult><Arn>{arn}</Arn></GetCallerIdentityResult>"
        return 200, f"<GetCallerIdentityResponse>{inner}</GetCallerIdentityResponse>", {}

    write(f"[default]\n{KEYS}[profile lab]\n{ROLE}source_profile = default\n")
    export(AWS_ENDPOINT_URL=serve(reply).url)
    assert aws.Aws(REGION, "lab").call("ask", "sts", "get_caller_identity")["Arn"].startswith("arn:aws:sts:")


def test_an_instances_role_is_taken(
    serve: Callable[..., Answers], export: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(path: str, body: str) -> tuple[int, str, dict[str, str]]:
        if path.endswith("/api/token"):
            return 200, "token", {}
        if not path.endswith("/trainer"):
            return 200, "trainer", {}
        until = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=6)).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        keys = {"Code": "Success", "AccessKeyId": "a", "SecretAccessKey": "b", "Token": "t", "Expiration": until}
        return 200, json.dumps(keys), {}

    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    export(AWS_EC2_METADATA_SERVICE_ENDPOINT=serve(reply).url)
    assert aws.open_session("", REGION).get_credentials().method == "iam-role"


def test_nothing_at_all() -> None:
    said = refused()
    assert "No usable AWS credentials in the default credential chain (fleet_profile is empty)" in said
    assert "'aws configure'" in said


# What is between


def test_a_proxy_that_is_not_there(export: Callable[..., None]) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", HTTPS_PROXY=f"http://ada:secret@{address}")
        said = refused()
    assert f"The proxy {address} of HTTPS_PROXY" in said and "NO_PROXY" in said and "secret" not in said, said


def test_a_proxy_that_refuses(serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    url = serve(lambda *_: (407, "", {})).url
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", https_proxy=url)
    said = refused()
    assert f"The proxy {url.removeprefix('http://')} of https_proxy doesn't let us through" in said and "407" in said, (
        said
    )


def test_a_page_instead_of_aws(serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    url = serve(lambda *_: (200, "<html><p>Please sign in<br></html>", {})).url
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_ENDPOINT_URL=url)
    assert "What answers isn't AWS's API" in refused() and "HTTPS_PROXY" in refused()


def test_a_companys_certificate(tmp_path: Path, serve: Callable[..., Answers], export: Callable[..., None]) -> None:
    both = tmp_path / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(both), "-out", f"{tmp_path}/ca.pem"]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(both.read_text() + (tmp_path / "ca.pem").read_text())
    server = serve(lambda *_: error("InvalidClientTokenId", "reached"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}"
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_ENDPOINT_URL=url)
    said = refused()
    assert f"The certificate of AWS's API at {url}/ isn't trusted" in said and "export AWS_CA_BUNDLE" in said, said
    # amazon.aws's modules don't read these: were they enough here, the first of those would fail.
    write(f"[default]\nca_bundle = {tmp_path}/ca.pem\n")
    export(REQUESTS_CA_BUNDLE=f"{tmp_path}/ca.pem")
    assert "isn't trusted" in refused()
    export(AWS_CA_BUNDLE=f"{tmp_path}/ca.pem")
    assert "reached" in refused()
    export(AWS_CA_BUNDLE="/nowhere/ca.pem")
    assert refused().startswith("AWS_CA_BUNDLE is /nowhere/ca.pem, which isn't there")


def test_an_address_that_is_none(export: Callable[..., None]) -> None:
    export(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_ENDPOINT_URL="banana")
    assert "isn't a URL: correct endpoint_url" in refused()


@pytest.mark.parametrize("operation", ["GetRoleCredentials", "DescribeVpcs"])
def test_a_right_that_lacks(operation: str) -> None:
    one = ClientError({"Error": {"Code": "AccessDenied", "Message": "No access"}}, operation)
    said = aws.explain(one, "list the fleet's VPC", "lab")
    expected = "sso_role_name" if operation == "GetRoleCredentials" else "may not list the fleet's VPC"
    assert expected in said, said
