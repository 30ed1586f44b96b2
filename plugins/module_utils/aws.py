# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""amazon.aws's connection for the fleet's modules, AWS's errors as sentences, and patience while AWS is away."""

from __future__ import annotations

import contextlib
import os
import random
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

from ansible_collections.amazon.aws.plugins.module_utils.botocore import (
    boto3_inventory_conn,
    get_aws_connection_info,
)
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config
    from botocore.parsers import ResponseParserError

    HAS_BOTO3 = True
except ImportError:
    HAS_BOTO3 = False

PATIENCE = 120  # seconds for which a call is gone over while AWS is away
FIRST_PATIENCE = 10  # the same as long as nothing has answered: a wrong address, or no network, is told soon
LONGEST_PAUSE = 5  # seconds
WORTH_A_NOTE = 5  # seconds without AWS that the user is told of

CREDENTIAL_CODES = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
DENIED_CODES = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
# Too many requests, or a lapse, with a status below 500.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
TEMPORARY_CODES = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
# Services that answer for all regions in one.
HOMES = {"pricing": "us-east-1"}


class FleetError(Exception):
    """What went wrong, as one sentence for the user: what, where, what to do."""


def code(error: BaseException) -> str:
    """Return the code of a ClientError, or an empty string for any other exception."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def message(error: BaseException) -> str:
    """Return AWS's own words on one line, without the final full stop."""
    response = getattr(error, "response", None)
    text = response.get("Error", {}).get("Message") if isinstance(response, dict) else None
    return " ".join(str(text or error or type(error).__name__).split())[:500].rstrip(".")


def explain(error: BaseException, doing: str, profile: str) -> str:
    """Say in one sentence why AWS could not do something, e.g. ``list the instances``."""
    if isinstance(error, FleetError):
        return str(error)
    whose = f"profile {profile}" if profile else "the default credential chain (fleet_profile is empty)"
    if isinstance(error, exceptions.ProfileNotFound):
        return (
            f"The AWS profile {profile} isn't in ~/.aws/config or ~/.aws/credentials: "
            f"add it with 'aws configure --profile {profile}', or set fleet_profile to one that is there."
        )
    if isinstance(
        error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError)
    ):
        return (
            f"No usable AWS credentials in {whose} ({message(error)}): "
            "run 'aws configure' or 'aws sso login', or set fleet_profile."
        )
    if isinstance(error, exceptions.NoRegionError):
        return "No AWS region is set: set fleet_region."
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        url = getattr(error, "kwargs", {}).get("endpoint_url", "")
        return (
            f"AWS's API{' at ' + url if url else ''} doesn't answer, tried to {doing}: "
            "check the network, the region's name, and endpoint_url in ~/.aws/config."
        )
    if code(error) in CREDENTIAL_CODES:
        return (
            f"AWS refuses the credentials of {whose} ({code(error)}: {message(error)}): "
            "renew them with 'aws configure' or 'aws sso login', or set fleet_profile to another profile."
        )
    if code(error) in DENIED_CODES:
        return (
            f"The credentials of {whose} may not {doing} ({message(error)}): "
            "have that permission added, or set fleet_profile to another profile."
        )
    if temporary(error):
        return (
            f"AWS is away or too busy, tried to {doing} ({message(error)}{', ' + code(error) if code(error) else ''}): "
            "run the same command again later; https://health.aws.amazon.com tells of outages."
        )
    return f"AWS could not {doing}: {message(error)}{' (' + code(error) + ')' if code(error) else ''}."


def temporary(error: BaseException) -> bool:
    """Whether AWS was away or too busy, so that the same call may succeed later.

    The code decides before the status: lack of capacity is an HTTP 500, too, but lasts.
    """
    if isinstance(error, exceptions.SSLError):
        return False
    # An answer that isn't AWS's own is a gateway's page in HTML.
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError, ResponseParserError)):
        return True
    if code(error) in TEMPORARY_CODES:
        return True
    if code(error).startswith("Insufficient"):
        return False
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return bool(status >= 500 and status != 501)


class Aws:
    """Clients of one profile and region, each made once, as amazon.aws's modules make theirs.

    An endpoint comes from the task, the profile's ``endpoint_url`` or AWS_ENDPOINT_URL, as everywhere in boto3.

    While AWS is away a call is gone over until its patience ends. A call that isn't idempotent and whose answer was
    lost is made twice that way: give it a token of your own, or take "it exists" and "it isn't there" for success.
    """

    # Connection options of the task that this process runs, e.g. endpoint_url; empty outside of modules.
    task: ClassVar[dict[str, Any]] = {}
    # The longest time that a call was waited for: seconds, and AWS's words.
    lapse: ClassVar[tuple[float, str]] = (0, "")

    def __init__(self, region: str, profile: str = "", attempts: int = 6, reached: bool = False) -> None:
        """Prepare the connection; raises FleetError when it can't be, e.g. as the profile isn't there.

        ``attempts`` are made as long as nothing has ever answered. With ``reached`` AWS has answered before, in
        another process, so that a failed connection is a lapse from the first.
        """
        self.region = region
        self.profile = profile or ""
        self.attempts = attempts
        self.reached = reached
        self._deadline: float | None = None
        # botocore's own attempts would be through after 3 s, and after 35 failures of a client it repeats nothing.
        # They would also repeat what lasts: lack of capacity.
        self._config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=32,
        )
        self._clients: dict[str, Any] = {}
        options = {**self.task, "region": region or None, "profile": self.profile or None}
        if self.profile and (options.get("access_key") or options.get("secret_key") or options.get("session_token")):
            raise FleetError(
                f"Both the AWS profile {self.profile} and AWS keys are set, and only one of them can count: "
                "unset AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, "
                'or set fleet_profile to "" and unset AWS_PROFILE.'
            )
        try:
            self._session: Any = boto3.session.Session(profile_name=self.profile or None, region_name=region or None)
        except exceptions.BotoCoreError as error:
            raise FleetError(explain(error, "open a session", self.profile)) from error
        task = types.SimpleNamespace(params=options, fail_json=self._refuse)
        _dummy, self._endpoint, self._options = get_aws_connection_info(task)

    @staticmethod
    def _refuse(msg: str, **_more: Any) -> NoReturn:
        raise FleetError(msg)

    def client(self, service: str) -> Any:
        """Return the client of a service; its methods and paginators are patient."""
        if service not in self._clients:
            try:
                made = boto3_inventory_conn(
                    conn_type="client",
                    resource=service,
                    region=HOMES.get(service, self.region),
                    endpoint=self._endpoint,
                    config=self._config,
                    **self._options,
                )
            except (exceptions.BotoCoreError, ValueError) as error:
                raise FleetError(explain(error, f"reach {service}", self.profile)) from error
            self._clients[service] = Patient(self, made)
        return self._clients[service]

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Go over calls until this deadline (by time.monotonic) instead: for loops that have one of their own."""
        before, self._deadline = self._deadline, deadline
        try:
            yield
        finally:
            self._deadline = before

    def patiently(self, call: Callable[[], Any]) -> Any:
        """Call, and again while AWS is away; raises the last error when patience ends, and any other at once.

        No library does this here: amazon.aws's AWSRetry counts attempts, and knows neither failed connections nor
        statuses; tenacity would be one more thing to install where the modules run.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                answer = call()
            except Exception as error:
                if not temporary(error):
                    self.reached = self.reached or bool(code(error))
                    raise
                tries += 1
                now = time.monotonic()
                self.reached = self.reached or bool(code(error))
                if not self.reached and (tries >= self.attempts or now - began >= FIRST_PATIENCE):
                    raise
                if now >= (began + PATIENCE if self._deadline is None else self._deadline):
                    raise
                words = f"{message(error)}{' (' + code(error) + ')' if code(error) else ''}"
                # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
                time.sleep(random.random() * min(LONGEST_PAUSE, 0.25 * 2 ** (tries - 1)))
            else:
                self.reached = True
                if tries:
                    Aws.lapse = max(Aws.lapse, (time.monotonic() - began, words))
                return answer

    def regions(self) -> list[str]:
        """Return the names of the regions that boto3 knows."""
        return [
            name
            for partition in self._session.get_available_partitions()
            for name in self._session.get_available_regions("ec2", partition_name=partition)
        ]

    def call(self, doing: str, service: str, method: str, **arguments: Any) -> dict[str, Any]:
        """Call one method; an error of AWS becomes a FleetError that says what was being done."""
        try:
            answer: dict[str, Any] = getattr(self.client(service), method)(**arguments)
        except Exception as error:  # botocore's errors have no common ancestor
            raise FleetError(explain(error, doing, self.profile)) from error
        return answer

    def pages(self, doing: str, service: str, method: str, key: str, **arguments: Any) -> list[Any]:
        """Return all items of a paginated listing."""
        try:
            found: list[Any] = []
            for page in self.client(service).get_paginator(method).paginate(**arguments):
                found.extend(page.get(key, []))
        except Exception as error:
            raise FleetError(explain(error, doing, self.profile)) from error
        return found


class Patient:
    """A boto3 client whose methods, and whose paginators' listings, are gone over while AWS is away."""

    def __init__(self, connection: Aws, client: Any) -> None:
        """Wrap a client."""
        self._connection = connection
        self._client = client

    def __getattr__(self, name: str) -> Any:
        """Return what the client has, its methods in patient form."""
        found = getattr(self._client, name)
        if name not in self._client.meta.method_to_api_mapping:
            return found
        return lambda **arguments: self._connection.patiently(lambda: found(**arguments))

    def get_paginator(self, method: str) -> Any:
        """Return a paginator; a listing that fails midway is begun anew."""
        paginator = self._client.get_paginator(method)
        return types.SimpleNamespace(
            paginate=lambda **arguments: self._connection.patiently(lambda: list(paginator.paginate(**arguments)))
        )


class Module(AnsibleAWSModule):
    """A module with amazon.aws's connection options, whose Aws objects use them."""

    def __init__(self, argument_spec: dict[str, Any]) -> None:
        """Read the task's options; they decide how each Aws of this process connects."""
        region = {"type": "str", "required": True}
        super().__init__(argument_spec={"region": region, **argument_spec}, supports_check_mode=True)
        # An empty profile is none, as for amazon.aws's modules, which are given none then.
        if not self.params["profile"]:
            self.params["profile"] = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or ""
        Aws.task = self.params

    def exit_json(self, *arguments: Any, **result: Any) -> None:
        """End well."""
        self._note()
        super().exit_json(*arguments, **result)

    def fail_json(self, *arguments: Any, **result: Any) -> None:
        """End with a failure."""
        self._note()
        super().fail_json(*arguments, **result)

    def _note(self) -> None:
        seconds, words = Aws.lapse
        if seconds >= WORTH_A_NOTE:
            self.warn(f"AWS was away for {seconds:.0f} s, and was waited for: {words}.")


def tags_of(resource: dict[str, Any]) -> dict[str, str]:
    """Return a resource's tags as a dict."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags") or resource.get("TagSet") or []}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Return tags in AWS's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_filter(fleet: str) -> list[dict[str, Any]]:
    """Return the filter that finds a fleet's resources."""
    return [{"Name": "tag:flotilla-fleet", "Values": [fleet]}]
