# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""When a fleet ends."""

from __future__ import annotations

import datetime
import math

MAX_EXPIRY_HOURS = 168


def check_expiry(hours: object) -> list[str]:
    """The expiry is in hours from the launch."""
    try:
        number = float(str(hours))  # not true, which Python takes for 1
    except ValueError:
        return [f"fleet_expiry_hours is '{hours}': set it to a number of hours, for example 4."]
    if number <= 0 or math.isnan(number):
        return [f"fleet_expiry_hours is {hours}, so the fleet's expiry lies in the past: set it to more than 0."]
    if number > MAX_EXPIRY_HOURS:
        return [f"fleet_expiry_hours is {hours}: set it to at most {MAX_EXPIRY_HOURS} (a week)."]
    return []


def expiry(
    hours: float, now: datetime.datetime, launches: list[datetime.datetime], tagged: list[str]
) -> tuple[str, list[str]]:
    """Return when the fleet ends (ISO 8601, UTC): its first launch plus the hours.

    A tag from an earlier run stays when it means the same within a quarter of an hour, so that nothing changes
    on the second run.
    """
    wanted = min(launches, default=now) + datetime.timedelta(hours=hours)
    if wanted <= now:
        return "", [
            f"The fleet was launched more than fleet_expiry_hours ({hours:g}) ago, so its expiry lies in the past: "
            "raise fleet_expiry_hours, or destroy the fleet."
        ]
    for text in sorted(tagged, reverse=True):
        try:
            was = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
        except ValueError:
            continue
        if launches and abs(was - wanted) < datetime.timedelta(minutes=15):
            return text, []
    return wanted.strftime("%Y-%m-%dT%H:%M:%SZ"), []
