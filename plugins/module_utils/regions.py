# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""AWS's regions, and the address of a server that hosts call in AWS's place."""

from __future__ import annotations

import difflib
import re


def check_region(region: str) -> list[str]:
    """A region's name has a known shape; whether it is there shows when it is asked."""
    if re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+", region):
        return []
    return [f"fleet_region '{region}' isn't a region's name: set it to one such as us-east-1."]


def unknown_region(region: str, known: list[str]) -> list[str]:
    """Say which region may have been meant, when boto3 doesn't know this one."""
    if region in known:
        return []
    near = difflib.get_close_matches(region, known, 2, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "set it to one such as us-east-1."
    return [f"fleet_region {region} isn't a region of AWS: {hint}"]


def check_endpoint(url: str) -> list[str]:
    """What the hosts call instead of AWS: nothing, or the address of a server."""
    match = re.fullmatch(r"https?://(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?/?", url)
    if not url or (match and 0 < int(match[1] or 80) < 65536):
        return []
    return [
        f"fleet_endpoint_url {url!r} isn't a server's address: write it as http://host:port, or leave it empty for AWS."
    ]
