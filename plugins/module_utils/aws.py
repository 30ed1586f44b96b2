# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""amazon.aws's connection for the fleet's modules, AWS's errors as sentences, and patience while AWS is away."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import os
import random
import re
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from ansible_collections.amazon.aws.plugins.module_utils.botocore import (
    boto3_inventory_conn,
    get_aws_connection_info,
)
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.flotilla.kit.plugins.module_utils import regions

try:
    import boto3
    import botocore.session
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
    "InvalidSignatureException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
# RequestExpired is EC2's word for both an expired session and a wrong clock.
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
# What a region that is still to be enabled says of every key, too.
# https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
UNKNOWN_CODES = {"AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException"}
CLOCK_WORDS = ("Signature expired", "not yet current", "difference between the request time")
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# What a task's own keys are called by boto3's Session (after aws_) and by amazon.aws.
TASK_KEYS = {"access_key_id": "access_key", "secret_access_key": "secret_key", "session_token": "session_token"}
LEGACY_VARIABLES = ("AWS_ACCESS_KEY", "AWS_SECRET_KEY")  # amazon.aws takes them, boto3 doesn't
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
    words = " ".join(str(text or error or type(error).__name__).split())
    words = words.split(" Encoded authorization failure message", maxsplit=1)[0]  # it is for whoever may decode it
    # A proxy, or what else isn't AWS, answers with a page: only the words before it are of use.
    words = re.split(r"\s*(?:b?['\"])?<(?:!doctype|html|head|body)\b", words, maxsplit=1, flags=re.IGNORECASE)[0]
    return words[:500].rstrip(".: ") or "the answer is a web page"


def profile_in_use(profile: str) -> str:
    """Return the profile that is used: fleet_profile, else the one that the environment names, else none."""
    return profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or ""


def credentials_source(profile: str) -> str:
    """Say where the credentials come from; an empty profile means boto3's chain."""
    if profile:
        return f"profile {profile}"
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "the environment (AWS_ACCESS_KEY_ID)"
    if profile_in_use(profile):
        return f"profile {profile_in_use(profile)} (AWS_PROFILE)"
    return "the default credential chain (fleet_profile is empty)"


def _with_profile(command: str, profile: str) -> str:
    """Return a command of AWS's for the profile that is used."""
    return f"'{command} --profile {profile_in_use(profile)}'" if profile_in_use(profile) else f"'{command}'"


def check_environment(profile: str) -> list[str]:
    """What amazon.aws's modules and boto3 take differently from the environment, so that the first task would fail."""
    keys = [name for name in (*KEY_VARIABLES, *LEGACY_VARIABLES) if os.environ.get(name)]
    if keys and profile_in_use(profile):
        variable = "fleet_profile" if profile else "AWS_PROFILE"
        way_out = 'set fleet_profile to ""' if profile else "unset AWS_PROFILE"
        return [
            f"{keys[0]} is exported and {variable} is {profile_in_use(profile)}, and Ansible's AWS modules don't "
            f"choose between the two: 'unset {' '.join(keys)}' to go on with the profile, or {way_out} to go on "
            "with the keys."
        ]
    if keys and "AWS_ACCESS_KEY_ID" not in keys and keys != ["AWS_SESSION_TOKEN"]:
        return [
            f"{keys[0]} is exported without AWS_ACCESS_KEY_ID: export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"or 'unset {' '.join(keys)}'."
        ]
    bundle = os.environ.get("AWS_CA_BUNDLE", "")
    if bundle and not Path(bundle).exists():
        return [f"AWS_CA_BUNDLE is {bundle}, which isn't there: set it to a file with certificates, or unset it."]
    return []


def check_mfa(profile: str) -> list[str]:
    """A role that wants an MFA code: each module would ask for another one, where nobody sees it."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return []
    profiles = botocore.session.Session(profile=profile or None).full_config["profiles"]
    name, seen = profile_in_use(profile) or "default", set[str]()
    while name in profiles and name not in seen and "role_arn" in profiles[name]:
        if "mfa_serial" in profiles[name]:
            return [_ask_mfa(name, profile)]
        seen.add(name)
        name = profiles[name].get("source_profile", "")
    return []


def _ask_mfa(name: str, profile: str) -> str:
    command = f"aws configure export-credentials --profile {profile_in_use(profile) or 'default'} --format env"
    unset = 'set fleet_profile to ""' if profile else "unset AWS_PROFILE"
    return (
        f"The AWS profile {name} wants an MFA code (mfa_serial), which can't be asked for while modules run: "
        f'eval "$({command})" asks for it once, and then {unset}.'
    )


def open_session(profile: str, region: str, keys: dict[str, Any] | None = None) -> Any:
    """Open a session of boto3's and look for its credentials; raises FleetError with what is wrong with them.

    ``keys`` are those that a task gives, as boto3's Session takes them.
    """
    try:
        session = boto3.session.Session(profile_name=profile or None, region_name=region or None, **(keys or {}))
        problems = check_environment(profile) or check_mfa(profile)
        if problems:
            raise FleetError(problems[0])
        if session.get_credentials() is None:
            raise exceptions.NoCredentialsError()
    except exceptions.BotoCoreError as error:
        raise FleetError(explain(error, "open a session", profile)) from error
    except (OSError, ValueError) as error:  # a program or file that can't be read, or no JSON from that program
        raise FleetError(
            f"What ~/.aws says of {credentials_source(profile)} doesn't work ({message(error)}): "
            "correct its credential_process in ~/.aws/config, or the files' rights."
        ) from error
    return session


def explain(error: BaseException, doing: str, profile: str) -> str:
    """Say in one sentence why AWS could not do something, e.g. ``list the instances``."""
    if isinstance(error, FleetError):
        return str(error)
    return (
        _explain_credentials(error, profile)
        or _explain_connection(error, doing)
        or _explain_refusal(error, doing, profile)
        or _explain_lapse(error, doing)
        or f"AWS could not {doing}: {message(error)}{' (' + code(error) + ')' if code(error) else ''}."
    )


def _explain_credentials(error: BaseException, profile: str) -> str:
    """Say what is wrong with ~/.aws, the environment or a sign-in; empty for any other error."""
    details = getattr(error, "kwargs", {})
    if isinstance(error, exceptions.ProfileNotFound):
        name = details.get("profile", profile)
        if not profile:
            return (
                f"The AWS profile {name} isn't in ~/.aws/config or ~/.aws/credentials, but AWS_PROFILE names it: "
                "set it to one that is there, or unset it."
            )
        return (
            f"The AWS profile {name} isn't in ~/.aws/config or ~/.aws/credentials: "
            f"add it with 'aws configure --profile {name}', or set fleet_profile to one that is there, or to \"\" "
            "for what the environment or this machine has."
        )
    if isinstance(error, exceptions.PartialCredentialsError):
        if details.get("provider") == "env":
            return (
                f"AWS_ACCESS_KEY_ID is exported without {details.get('cred_var')}: export both, "
                f"or 'unset {' '.join(KEY_VARIABLES)}' to use ~/.aws."
            )
        return (
            f"The AWS {credentials_source(profile)} is incomplete ({message(error)}): "
            f"add {details.get('cred_var')} in ~/.aws, or set fleet_profile to another profile."
        )
    if isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError, exceptions.NoAuthTokenError)):
        return (
            f"The SSO sign-in of {credentials_source(profile)} has expired or was never made ({message(error)}): "
            f"run {_with_profile('aws sso login', profile)}."
        )
    if isinstance(error, getattr(exceptions, "LoginError", ())):
        run = _with_profile("aws login", profile)
        return f"The sign-in of {credentials_source(profile)} is over ({message(error)}): run {run}."
    if isinstance(error, exceptions.CredentialRetrievalError) and details.get("provider") == "custom-process":
        return (
            f"The credential_process of {credentials_source(profile)} failed ({message(error)}): "
            "run it by hand, as it may want you to sign in, or correct it in ~/.aws/config."
        )
    if isinstance(error, exceptions.RefreshWithMFAUnsupportedError):
        return _ask_mfa(profile_in_use(profile) or "default", profile)
    if isinstance(
        error, (exceptions.InvalidConfigError, exceptions.ConfigParseError, exceptions.UnknownCredentialError)
    ):
        return f"The AWS configuration is wrong ({message(error)}): correct it in ~/.aws/config."
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError)):
        return (
            f"No usable AWS credentials in {credentials_source(profile)} ({message(error)}): "
            f"run {_with_profile('aws configure', profile)} or {_with_profile('aws sso login', profile)}, "
            "or set fleet_profile to a profile that has some."
        )
    if isinstance(error, exceptions.NoRegionError):
        return "No AWS region is set: set fleet_region."
    return ""


def _explain_connection(error: BaseException, doing: str) -> str:
    """Say what stands between this machine and AWS; empty for any other error."""
    details = getattr(error, "kwargs", {})
    url = details.get("endpoint_url", "")
    if isinstance(error, exceptions.ProxyConnectionError):
        proxy = str(details.get("proxy_url", "")).rsplit("@", maxsplit=1)[-1].rsplit("://", maxsplit=1)[-1].rstrip("/")
        name = next((n for n, value in sorted(os.environ.items()) if _is_proxy(n) and proxy in value), "HTTPS_PROXY")
        why = message(details.get("error") or error)
        return (
            f"The proxy {proxy} of {name} doesn't let us through, tried to {doing} ({why}): "
            f"correct {name}, unset it, or name AWS's address in NO_PROXY."
        )
    if isinstance(error, exceptions.SSLError):
        return (
            f"The certificate of AWS's API{' at ' + url if url else ''} isn't trusted, tried to {doing} "
            f"({message(details.get('error') or error)}): behind a company's proxy, export AWS_CA_BUNDLE with the file "
            "that has its certificate; Ansible's AWS modules don't read ca_bundle or REQUESTS_CA_BUNDLE."
        )
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return (
            f"AWS's API{' at ' + url if url else ''} doesn't answer, tried to {doing}: "
            "check the network, the region's name, and endpoint_url in ~/.aws/config."
        )
    if isinstance(error, ResponseParserError):
        return (
            f"What answers isn't AWS's API, tried to {doing} ({message(error)[:120]}): "
            "check the region's name, HTTPS_PROXY, and endpoint_url in ~/.aws/config."
        )
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return f"{message(error)} isn't a URL: correct endpoint_url in ~/.aws/config, or AWS_ENDPOINT_URL."
    return ""


def _is_proxy(variable: str) -> bool:
    return variable.lower() in ("https_proxy", "http_proxy", "all_proxy")


def _explain_refusal(error: BaseException, doing: str, profile: str) -> str:
    """Say whom AWS refuses, and why: the clock, what has expired, wrong keys, or a missing permission."""
    words, origin = f"{code(error)}: {message(error)}", credentials_source(profile)
    ahead = _minutes_ahead(error)
    if code(error) in CREDENTIAL_CODES and (abs(ahead) > 4 or any(word in words for word in CLOCK_WORDS)):
        clock = (
            f"is {abs(ahead):.0f} min {'ahead of' if ahead > 0 else 'behind'} AWS's" if abs(ahead) > 4 else "is wrong"
        )
        return (
            f"This machine's clock {clock}, so AWS refuses to {doing} ({words}): set it ('timedatectl set-ntp true')."
        )
    unset = f"'unset {' '.join(KEY_VARIABLES)}' to use ~/.aws"
    exported = origin.startswith("the environment")
    if code(error) in EXPIRED_CODES:
        renew = (
            f"export new ones, or {unset}"
            if exported
            else f"renew them, e.g. by {_with_profile('aws sso login', profile)}"
        )
        return f"The credentials of {origin} have expired ({words}): {renew}."
    if code(error) in CREDENTIAL_CODES:
        renew = (
            f"export others, or {unset}"
            if exported
            else "renew them with 'aws configure' or 'aws sso login', or set fleet_profile to another profile"
        )
        if code(error) in UNKNOWN_CODES:
            renew += "; if they work in other regions, enable this one for the account ('aws account enable-region')"
        return f"AWS refuses the credentials of {origin} ({words}): {renew}."
    operation = getattr(error, "operation_name", "")
    if operation in ("AssumeRole", "AssumeRoleWithWebIdentity"):
        return (
            f"AWS doesn't let {origin} take its role ({words}): "
            "have the role's trust policy name you, correct role_arn in ~/.aws/config, "
            "or set fleet_profile to another profile."
        )
    if operation == "GetRoleCredentials":
        return (
            f"The SSO sign-in of {origin} may not take its role ({words}): "
            "correct sso_account_id and sso_role_name in ~/.aws/config, or set fleet_profile to another profile."
        )
    if code(error) in DENIED_CODES:
        return (
            f"The credentials of {origin} may not {doing} ({message(error)}): "
            "have that permission added, or set fleet_profile to another profile."
        )
    return ""


def _minutes_ahead(error: BaseException) -> float:
    """Return by how much this machine's clock is ahead of the one of AWS that refused; 0 where that isn't known."""
    response = getattr(error, "response", None) or {}
    try:
        theirs = email.utils.parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (datetime.datetime.now(datetime.timezone.utc) - theirs).total_seconds() / 60
    except (KeyError, TypeError, ValueError):
        return 0.0


def _explain_lapse(error: BaseException, doing: str) -> str:
    """Say that AWS was away, where patience has ended; empty for any other error."""
    if not temporary(error):
        return ""
    return (
        f"AWS is away or too busy, tried to {doing} ({message(error)}{', ' + code(error) if code(error) else ''}): "
        "run the same command again later; https://health.aws.amazon.com tells of outages."
    )


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
        """Prepare the connection; raises FleetError when it can't be, e.g. as there are no credentials.

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
        defaults = {"validate_certs": True, "aws_ca_bundle": os.environ.get("AWS_CA_BUNDLE")}  # as in modules
        options = {**defaults, **self.task, "region": region or None, "profile": self.profile or None}
        keys = {f"aws_{name}": self.task.get(key) for name, key in TASK_KEYS.items() if self.task.get(key)}
        self._session: Any = open_session(self.profile, region, keys)
        task = types.SimpleNamespace(params=options, fail_json=self._refuse)
        _dummy, self._endpoint, self._options = get_aws_connection_info(task)

    @staticmethod
    def _refuse(msg: str, **_more: Any) -> NoReturn:
        raise FleetError(msg)

    def client(self, service: str) -> Any:
        """Return the client of a service; its methods and paginators are patient."""
        if service not in self._clients:
            region = HOMES.get(service) or self.region or self._session.region_name
            try:
                if not region:
                    raise exceptions.NoRegionError()
                made = boto3_inventory_conn(
                    conn_type="client",
                    resource=service,
                    region=region,
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
                if not self.reached:
                    if tries >= self.attempts or now - began >= FIRST_PATIENCE:
                        raise
                elif now >= (began + PATIENCE if self._deadline is None else self._deadline):
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

    def offers(self, service: str) -> bool:
        """Whether a service is in this region, as far as boto3 knows."""
        partition = self._session.get_partition_for_region(self.region)
        return self.region in self._session.get_available_regions(service, partition_name=partition)

    def why(self, error: BaseException, doing: str) -> str:
        """Say why a call failed: without a look at the region, a name server would say it, or a page of HTML."""
        # A region that isn't there refuses the signature, too.
        judged = not self.region or code(error) in (CREDENTIAL_CODES - {"AuthFailure"}) | DENIED_CODES
        problems = [] if judged else regions.unknown_region(self.region, self.regions())
        return problems[0] if problems else explain(error, doing, self.profile)

    def call(self, doing: str, service: str, method: str, **arguments: Any) -> dict[str, Any]:
        """Call one method; an error of AWS becomes a FleetError that says what was being done."""
        try:
            answer: dict[str, Any] = getattr(self.client(service), method)(**arguments)
        except Exception as error:  # botocore's errors have no common ancestor
            raise FleetError(self.why(error, doing)) from error
        return answer

    def pages(self, doing: str, service: str, method: str, key: str, **arguments: Any) -> list[Any]:
        """Return all items of a paginated listing."""
        try:
            found: list[Any] = []
            for page in self.client(service).get_paginator(method).paginate(**arguments):
                found.extend(page.get(key, []))
        except Exception as error:
            raise FleetError(self.why(error, doing)) from error
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

    def __init__(self, argument_spec: dict[str, Any], **more: Any) -> None:
        """Read the task's options; they decide how each Aws of this process connects."""
        region = {"type": "str", "required": True}
        super().__init__(argument_spec={"region": region, **argument_spec}, supports_check_mode=True, **more)
        self.params["profile"] = self.params["profile"] or None  # boto3 itself looks for AWS_PROFILE
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
