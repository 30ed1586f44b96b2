# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What making things in AWS has in common: at once, with patience for what AWS doesn't know yet, and said by name."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import TypeVar

from ansible_collections.flotilla.kit.plugins.module_utils import aws, naming, untyped

# What was made a moment ago isn't known everywhere at once.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
T = TypeVar("T")

PROPAGATION = 60  # seconds that this may take
NOT_YET = ("NoSuchEntity", "InvalidGroup.NotFound", "InvalidRouteTableId.NotFound")


class Maker:
    """Makes what is missing of one fleet; in a dry run only says what that would be."""

    def __init__(self, parameters: untyped.Parameters, dry: bool, *services: str) -> None:
        """Open the clients here: making them isn't safe in several threads, using them is."""
        self.p = parameters
        self.dry = dry
        self.aws = aws.Aws(parameters["region"], parameters["profile"], reached=True)
        for service in services:
            self.aws.client(service)
        self.changes: list[str] = []

    def ensure(self) -> untyped.Result:
        """Make what is missing; returns the module's answer."""
        raise NotImplementedError

    def tags(self, suffix: str) -> dict[str, str]:
        """Return the tags of something of the fleet's."""
        return {**self.p["tags"], "Name": f"{self.p['name']}-{suffix}"}

    def tagged(self, kind: str, suffix: str) -> list[untyped.Request]:
        """Return the tags that something is made with."""
        return [{"ResourceType": kind, "Tags": aws.tag_list(self.tags(suffix))}]

    def at_once(self, *jobs: Callable[[], T]) -> list[T]:
        """Do several things side by side; returns what they return. Raises the first one's error, if any."""
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            futures = [pool.submit(job) for job in jobs]
        return [future.result() for future in futures]

    def change(self, what: str) -> bool:
        """Note a change; true where it is to be made, which it isn't in a dry run."""
        self.changes.append(what)
        return not self.dry

    def call(
        self, doing: str, service: str, method: str, fine: tuple[str, ...] = (), **arguments: object
    ) -> untyped.Answer:
        """Call AWS, and again while it doesn't know what was made just now.

        A code of ``fine`` is success: the first answer was lost, or another run was faster.
        """
        began = time.monotonic()
        while True:
            try:
                answer = self.aws.call(doing, service, method, **arguments)
            except aws.FleetError as error:
                code = aws.code(error.__cause__ or error)
                if code in fine:
                    return {}
                unknown = code in NOT_YET or (code.startswith("Invalid") and code.endswith("ID.NotFound"))
                if not unknown or time.monotonic() - began > PROPAGATION:
                    raise
                time.sleep(1)
            else:
                return answer


def run(maker: type[Maker], options: untyped.Parameters, **more: object) -> None:
    """Run a module that makes something of a fleet; ``options`` are its own, beside name and tags."""
    common = {"name": {"type": "str", "required": True}, "tags": {"type": "dict", "required": True}}
    module = aws.Module(argument_spec={**common, **options}, **more)
    problems = naming.check_name(module.params["name"])  # in a filter, * would mean every fleet
    if problems:
        module.fail_json(msg=problems[0])
    try:
        answer = maker(module.params, module.check_mode).ensure()
    except aws.FleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**answer)
