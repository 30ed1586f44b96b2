# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""boto3 sessions of the fleet's modules, and AWS's errors as sentences."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.flotilla.kit.plugins.module_utils import plan

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config

    HAS_BOTO3 = True
except ImportError:
    HAS_BOTO3 = False

CONNECTION_ARGUMENTS = {"region": {"type": "str", "required": True}, "profile": {"type": "str", "default": ""}}

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
    # A proxy, or what else isn't AWS, answers with a page: only the words before it are of use.
    words = re.split(r"\s*(?:b?['\"])?<(?:!doctype|html|head|body)\b", words, maxsplit=1, flags=re.IGNORECASE)[0]
    return words[:500].rstrip(".: ") or "the answer is a web page"


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
    return f"AWS could not {doing}: {message(error)}{' (' + code(error) + ')' if code(error) else ''}."


class Aws:
    """Clients of one profile and region, each made once.

    An endpoint comes from the profile's ``endpoint_url`` or from AWS_ENDPOINT_URL, as everywhere in boto3.
    """

    def __init__(self, region: str, profile: str = "", attempts: int = 6) -> None:
        """Open the session; raises FleetError when the profile isn't there."""
        self.region = region
        self.profile = profile or ""
        self._config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": attempts},
            max_pool_connections=32,
        )
        self._clients: dict[str, Any] = {}
        try:
            self._session: Any = boto3.session.Session(profile_name=self.profile or None, region_name=region or None)
        except exceptions.BotoCoreError as error:
            raise FleetError(explain(error, "open a session", self.profile)) from error

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        if service not in self._clients:
            try:
                self._clients[service] = self._session.client(
                    service, region_name=HOMES.get(service), config=self._config
                )
            except (exceptions.BotoCoreError, ValueError) as error:
                raise FleetError(explain(error, f"reach {service}", self.profile)) from error
        return self._clients[service]

    def regions(self) -> list[str]:
        """Return the names of the regions that boto3 knows."""
        return [
            name
            for partition in self._session.get_available_partitions()
            for name in self._session.get_available_regions("ec2", partition_name=partition)
        ]

    def why(self, error: BaseException, doing: str) -> str:
        """Say why a call failed: without a look at the region, a name server would say it, or a page of HTML."""
        answered = code(error) in CREDENTIAL_CODES | DENIED_CODES
        problems = [] if answered else plan.unknown_region(self.region, self.regions())
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


def tags_of(resource: dict[str, Any]) -> dict[str, str]:
    """Return a resource's tags as a dict."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags") or resource.get("TagSet") or []}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Return tags in AWS's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_filter(fleet: str) -> list[dict[str, Any]]:
    """Return the filter that finds a fleet's resources."""
    return [{"Name": "tag:flotilla-fleet", "Values": [fleet]}]
