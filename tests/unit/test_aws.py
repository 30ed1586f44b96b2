"""The modules' connection to AWS: amazon.aws's options, and patience while AWS is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.flotilla.kit.plugins.module_utils import aws
from botocore import exceptions
from botocore.awsrequest import AWSResponse
from botocore.parsers import ResponseParserError

ERROR = "<Response><Errors><Error><Code>{}</Code><Message>AWS says no.</Message></Error></Errors></Response>"
REFUSED = exceptions.EndpointConnectionError(endpoint_url="https://ec2.us-east-1.amazonaws.com/")


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock instead of time's."""
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture(autouse=True)
def no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of another test's task."""
    monkeypatch.setattr(aws.Aws, "task", {})
    monkeypatch.setattr(aws.Aws, "lapse", (0, ""))


class Answers:
    """What AWS answers, in botocore's HTTP layer: status and body, or an exception; the last one for ever."""

    def __init__(self, client: Any, *answers: tuple[int, str] | Exception) -> None:
        """Take the place of the network."""
        self.answers = list(answers)
        self.asked = 0
        client.meta.events.register("before-send", self.answer)

    def answer(self, request: Any, **_more: Any) -> AWSResponse:
        """Answer one request."""
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(found, Exception):
            raise found

        class Raw:
            def stream(self, **_: Any) -> Iterator[bytes]:
                yield found[1].encode()

        return AWSResponse(request.url, found[0], {}, Raw())


VPCS = (200, "<DescribeVpcsResponse><vpcSet/></DescribeVpcsResponse>")
AWAY = (503, ERROR.format("Unavailable"))


def away(clock: Clock, seconds: float, answer: Any = AWAY) -> Callable[..., Any]:
    """A server that is away until the clock says so."""

    def call() -> str:
        if clock.now < seconds:
            if isinstance(answer, Exception):
                raise answer
            raise exceptions.ClientError(
                {
                    "Error": {"Code": "Unavailable", "Message": "Away."},
                    "ResponseMetadata": {"HTTPStatusCode": answer[0]},
                },
                "DescribeVpcs",
            )
        return "here"

    return call


def client_error(code: str, status: int) -> exceptions.ClientError:
    """An error as botocore raises it."""
    return exceptions.ClientError(
        {"Error": {"Code": code, "Message": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "RunInstances"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("InternalError", 500), True),
        (client_error("Unavailable", 503), True),
        (client_error("503", 503), True),
        (client_error("RequestLimitExceeded", 503), True),
        (client_error("Throttling", 400), True),
        (client_error("ThrottlingException", 429), True),
        (client_error("InsufficientInstanceCapacity", 500), False),
        (client_error("NotImplemented", 501), False),
        (client_error("UnauthorizedOperation", 403), False),
        (client_error("InvalidParameterValue", 400), False),
        (REFUSED, True),
        (exceptions.ReadTimeoutError(endpoint_url="x"), True),
        (exceptions.ConnectionClosedError(endpoint_url="x"), True),
        (exceptions.SSLError(endpoint_url="x", error="certificate verify failed"), False),
        (exceptions.NoCredentialsError(), False),
        (ResponseParserError("invalid XML received"), True),
        (aws.FleetError("no"), False),
    ],
)
def test_what_may_work_later(error: Exception, expected: bool) -> None:
    assert aws.temporary(error) is expected


@pytest.mark.parametrize("answer", [AWAY, REFUSED], ids=["503", "refused"])
def test_an_api_that_is_away_for_40_seconds(clock: Clock, answer: Any) -> None:
    connection = aws.Aws("us-east-1", reached=True)
    assert connection.patiently(away(clock, 40, answer)) == "here"
    assert 40 <= clock.now <= 40 + aws.LONGEST_PAUSE
    assert 35 <= aws.Aws.lapse[0] <= 45


def test_patience_ends(clock: Clock) -> None:
    with pytest.raises(exceptions.ClientError):
        aws.Aws("us-east-1").patiently(away(clock, 1e9))
    assert aws.PATIENCE <= clock.now <= aws.PATIENCE + aws.LONGEST_PAUSE


def test_a_loop_with_a_deadline_goes_on_until_then(clock: Clock) -> None:
    connection = aws.Aws("us-east-1")
    with connection.until(600):
        assert connection.patiently(away(clock, 500)) == "here"
    with connection.until(clock.now + 20), pytest.raises(exceptions.ClientError):
        connection.patiently(away(clock, 1e9))
    assert clock.now < 550


def test_a_wrong_address_is_told_soon(clock: Clock) -> None:
    for attempts in (3, 6, 1000):
        began = clock.now
        with pytest.raises(exceptions.EndpointConnectionError):
            aws.Aws("us-east-1", attempts=attempts).patiently(away(clock, 1e9, REFUSED))
        assert clock.now - began <= aws.FIRST_PATIENCE + aws.LONGEST_PAUSE
    connection = aws.Aws("us-east-1", attempts=3)
    with pytest.raises(exceptions.ClientError):  # a refusal is an answer, so from now on AWS is known to be there
        connection.patiently(lambda: (_ for _ in ()).throw(client_error("AuthFailure", 401)))
    began = clock.now
    connection.patiently(away(clock, began + 40, REFUSED))


def test_what_aws_refuses_is_not_repeated(clock: Clock) -> None:
    connection = aws.Aws("us-east-1")
    ec2 = connection.client("ec2")
    lasting = [(500, "InsufficientInstanceCapacity"), (403, "UnauthorizedOperation"), (400, "VcpuLimitExceeded")]
    answers = Answers(ec2, *((status, ERROR.format(code)) for status, code in lasting))
    for number, (_, code) in enumerate(lasting, 1):
        with pytest.raises(aws.FleetError, match=code if code not in aws.DENIED_CODES else "may not"):
            connection.call("list the VPCs", "ec2", "describe_vpcs")
        assert answers.asked == number and clock.now == 0


def test_calls_and_listings_are_gone_over(clock: Clock) -> None:
    """More than the 35 failures after which botocore's client would repeat nothing."""
    connection = aws.Aws("us-east-1")
    ec2 = connection.client("ec2")
    html = (500, "<!doctype html><title>500 Internal Server Error</title>")
    page = (200, "<R><vpcSet><item><vpcId>vpc-1</vpcId></item></vpcSet><nextToken>{}</nextToken></R>")
    last = (200, "<R><vpcSet><item><vpcId>vpc-2</vpcId></item></vpcSet></R>")
    found: list[Any] = [VPCS]
    for _ in range(8):
        found += [AWAY, REFUSED, html, (page[0], page[1].format("t")), AWAY, (page[0], page[1].format("t")), last]
    answers = Answers(ec2, *found)
    connection.call("list the VPCs", "ec2", "describe_vpcs")
    for _ in range(8):
        listed = connection.pages("list the VPCs", "ec2", "describe_vpcs", "Vpcs")
        assert [vpc["VpcId"] for vpc in listed] == ["vpc-1", "vpc-2"]
    assert answers.asked == len(found)


def test_an_api_that_stays_away_is_a_sentence(clock: Clock) -> None:
    connection = aws.Aws("us-east-1")
    Answers(connection.client("ec2"), AWAY)
    with pytest.raises(aws.FleetError, match=r"AWS is away or too busy, tried to list the VPCs \(AWS says no, Unav"):
        connection.call("list the VPCs", "ec2", "describe_vpcs")


def run(work: Callable[[aws.Module], None], **options: Any) -> dict[str, Any]:
    """Run a module as Ansible does, in this process; returns what it answers."""
    results: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch, patch_module_args({"region": "us-east-1", **options}):
        patch.setattr("builtins.print", lambda text, **_: results.append(json.loads(text)))
        with pytest.raises(SystemExit):
            work(aws.Module({}))
    return results[-1]


def test_the_task_decides_how_the_modules_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    seen: dict[str, Any] = {}

    def work(module: aws.Module) -> None:
        client = aws.Aws(module.params["region"], module.params["profile"]).client("ec2")
        credentials = client._client._request_signer._credentials
        seen.update(
            url=client.meta.endpoint_url,
            key=credentials.access_key,
            verify=client._client._endpoint.http_session._verify,
            agent=client.meta.config.user_agent_extra,
            timeout=client.meta.config.read_timeout,
            attempts=client.meta.config.retries["total_max_attempts"],
        )
        module.exit_json(changed=False)

    run(
        work,
        endpoint_url="http://127.0.0.1:9",
        access_key="mine",
        secret_key="secret-and-long",
        validate_certs=False,
        aws_config={"user_agent_extra": "me"},
    )
    assert seen == {
        "url": "http://127.0.0.1:9",
        "key": "mine",
        "verify": False,
        "agent": "me",
        "timeout": 60,
        "attempts": 1,
    }


def test_the_user_is_told_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(module: aws.Module) -> None:
        monkeypatch.setattr(aws.Aws, "lapse", (38.2, "The server is overloaded (Unavailable)"))
        module.exit_json(changed=False)

    text = json.dumps(run(work))
    assert "AWS was away for 38 s, and was waited for: The server is overloaded (Unavailable)." in text
