"""The weather of the region: zones that lack a type, an API that is away, answers that are lost, other quotas.

`scripts/lab weather` writes it into a file, and the region reads that at each request.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from .settings import RUN
from .shell import LabError

FILE = RUN / "weather.json"
HELP = """\
lacks ZONE TYPE…         RunInstances of these types fails in the zone for want of capacity (us-east-1a g4dn.xlarge)
away SECONDS [SERVICE…]  all requests, or those to the services (ec2 iam s3 sts …), are answered by HTTP 503
lose ACTION [N]          the next N calls (1) take effect, and their answer is lost (RunInstances, PutObject)
quota CODE VALUE         a quota: L-1216C47A vCPUs of usual types, L-DB2E81BA of G and VT, L-417A185B of P;
                         spot L-34B43A08, L-3819A6DF, L-7212CCBC; L-F678F1CE VPCs, L-A4707A72 internet gateways
clear                    fair weather again; without a word: what is set"""


class Outage(TypedDict):
    """Services that don't answer."""

    until: float  # seconds since the epoch
    services: list[str]  # empty: all


class Weather(TypedDict, total=False):
    """What is set, as far as it is."""

    lacks: dict[str, list[str]]  # by zone, the instance types for which it has no capacity
    away: Outage
    lose: dict[str, int]  # by call, how many of its next answers are lost
    quota: dict[str, float]  # by code


def read() -> Weather:
    """The weather that is set."""
    try:
        found: Weather = json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}
    return found


@contextmanager
def changing() -> Iterator[Weather]:
    """The weather, which is written as it is left; one at a time."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        weather = read()
        yield weather
        part = FILE.with_suffix(".part")
        part.write_text(json.dumps(weather))
        part.rename(FILE)


def lacks(zone: str, instance_type: str) -> bool:
    """Whether a zone has no capacity for a type."""
    return instance_type in read().get("lacks", {}).get(zone, [])


def away(service: str) -> bool:
    """Whether a service doesn't answer now."""
    found = read().get("away")
    if not found or time.time() > found["until"]:
        return False
    return not found["services"] or service in found["services"]


def loses(action: str) -> bool:
    """Whether the answer to this call is lost; it is counted."""
    if not read().get("lose", {}).get(action):
        return False
    with changing() as weather:
        left = weather["lose"].get(action, 0)
        weather["lose"][action] = max(0, left - 1)
    return bool(left)


def quota(code: str, default: float) -> float:
    """A quota's value."""
    return float(read().get("quota", {}).get(code, default))


def describe() -> list[str]:
    """The weather in sentences."""
    weather, lines = read(), []
    lines += [f"{zone} lacks {', '.join(types)}" for zone, types in weather.get("lacks", {}).items()]
    if (found := weather.get("away")) and (left := found["until"] - time.time()) > 0:
        lines.append(f"{', '.join(found['services']) or 'every service'} away for {left:.0f} s more")
    lines += [f"{action} loses its next {n} answers" for action, n in weather.get("lose", {}).items() if n]
    lines += [f"quota {code} is {value:g}" for code, value in weather.get("quota", {}).items()]
    return lines or ["fair"]


def command(words: list[str]) -> list[str]:
    """Carry `scripts/lab weather …` out; returns what to say.

    Raises:
        LabError: the words aren't a weather.
    """
    try:
        match words:
            case []:
                pass
            case ["clear"]:
                FILE.unlink(missing_ok=True)
            case ["lacks", zone, first, *more]:
                with changing() as weather:
                    types = weather.setdefault("lacks", {}).setdefault(zone, [])
                    types += [one for one in (first, *more) if one not in types]
            case ["away", seconds, *services]:
                until = time.time() + float(seconds)
                with changing() as weather:
                    weather["away"] = {"until": until, "services": [one.lower() for one in services]}
            case ["lose", action, *count] if len(count) < 2:
                number = int(count[0]) if count else 1
                with changing() as weather:
                    weather.setdefault("lose", {})[action] = number
            case ["quota", code, value]:
                limit = float(value)
                with changing() as weather:
                    weather.setdefault("quota", {})[code] = limit
            case _:
                raise ValueError
    except ValueError:
        raise LabError(f"'weather {' '.join(words)}' isn't a weather; there is:\n{HELP}") from None
    return describe()
