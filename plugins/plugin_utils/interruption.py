# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What goes on after a run was interrupted, and what to type next."""

from __future__ import annotations

import datetime
from collections.abc import Callable


def describe(
    *,
    check: bool,
    making: bool,
    baking: bool,
    destroying: bool,
    follows: str,
    expires: str,
    now: datetime.datetime,
    command: Callable[[str], str],
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what is, and goes on, after an interruption; and what to type, each with its purpose.

    making, baking, destroying: whether something may have been made by this run, for an image, and whether it was
    deleting; follows: train, store, or what else of the hosts was followed; expires: when the last of the fleet's hosts
    ends by itself, empty where none has been seen; command: makes the command of a playbook or script.
    """
    if check or not (making or destroying or expires):
        return ["Nothing was made or changed."], []
    said: list[str] = []
    following: list[tuple[str, str]] = []
    if baking:
        said.append("The host that was to become the image powers itself off when its time is over.")
        return said, [("the same command again", "begins anew, or waits for the image that AWS makes already")]
    if destroying:
        said.append("What isn't deleted yet is still there, and costs what it did.")
        return said, [("the same command again", "deletes the rest")]
    if follows == "train":
        said.append("The training goes on by itself on the hosts, and the chief stores the model when it is done.")
        following = [(command("watch"), "what each task does, live")]
        following += [(command("stop"), "ends the training, with a checkpoint")]
    elif follows == "store":
        said.append("The chief goes on storing the model, by itself.")
        following = [(command("watch"), "shows when it is stored")]
    elif follows:
        said.append(f"What was followed goes on by itself on the hosts: {follows}.")
    elif expires:
        said.append("The fleet stays as it is now; units that were started on its hosts go on.")
    else:
        said.append("What was made so far stays.")
    if expires:
        left = (datetime.datetime.fromisoformat(expires.replace("Z", "+00:00")) - now).total_seconds() / 60
        hours = f"{int(left) // 60}:{int(left) % 60:02d} h"
        said += [f"Every host powers itself off, and is gone, in {hours} at the latest ({expires})."] * (left > 0)
    else:
        said.append("Hosts that were launched power themselves off when their time is over.")
    following.append(("the same command again", "goes on where this one stopped"))
    return said, [*following, (command("destroy"), "ends all of it, now")]
