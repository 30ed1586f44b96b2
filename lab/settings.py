"""Names, addresses and paths of the lab, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

REGION = "us-east-1"
ACCOUNT = "123456789012"
PROFILE = "flotilla-lab"

# The core namespace stands for "the internet and AWS": the API, the way out, and a route to every VPC.
# 198.18.0.0/15 (RFC 2544) and 198.51.100.0/24 (RFC 5737) are never routed on the real internet.
CORE_NETNS = "flo-core"
API_ADDRESS = "198.18.0.1"
HOST_ADDRESS = "198.18.0.2"
API_PORT = 5000
S3_PORT = 5001  # where a gateway endpoint leads: S3 alone
AWS_PORT = 443  # AWS's own; security groups are written for it
ENDPOINT = f"http://{API_ADDRESS}:{API_PORT}"
PUBLIC_NETWORK = "198.51.100.0/24"
METADATA_ADDRESS = "169.254.169.254"
DNS_ADDRESS = "169.254.169.253"
SLIRP_DNS = "10.0.2.3"

RUN = Path("/run/flotilla-lab")
STATE = Path("/var/lib/flotilla-lab")
IMAGES = STATE / "images"
NODES = STATE / "nodes"
SNAPSHOTS = STATE / "snapshots"
OBJECTS = STATE / "objects"
CACHE = STATE / "cache"
LOG = STATE / "region.log"
READY = RUN / "ready.json"
CGROUP = "flotilla-lab"


class Facts(TypedDict):
    """What the region's daemon says of itself in READY, once it answers."""

    pid: int
    id: str  # of this run of the region: 8 hex digits
    endpoint: str  # its URL
    region: str
    access_key: str  # of its administrator
    secret_key: str
    image: str  # the name of the base image that hosts start from
    slirp: int  # the process that is the way out to the internet
