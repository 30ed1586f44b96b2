# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a preflight has found so far: the state that all its look-ups share."""

from __future__ import annotations

from collections import Counter

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    fleet_groups,
    images,
    network_file,
    reconcile,
    untyped,
)


class Findings:
    """The problems, the result, and what later look-ups need of earlier ones."""

    def __init__(self, parameters: untyped.Parameters) -> None:
        """Keep the module's parameters."""
        self.p = parameters
        self.tags: dict[str, str] = parameters.get("tags") or {}
        self.problems: list[str] = []
        self.boundary_policy: untyped.Answer = {}  # the permissions boundary of the roles, where it may be read
        self.warnings: list[str] = []
        self.result: untyped.Result = {}
        self.groups: dict[str, fleet_groups.Group] = {}
        self.facts: network_file.Facts | None = None  # of the network's file, where there is one
        self.kept: list[reconcile.Instance] = []  # the fleet's instances that stay
        self.ended: set[str] = set()  # the ids of those that this run will end
        self.infos: dict[str, untyped.Answer] = {}  # what AWS says of the instance types
        self.zones: dict[str, str] = {}  # the zones of the fleet's instances, by id
        self.bound = ("", "")  # why there is only one zone to take (networking.BOUND), and which
        self.subnets: dict[str, untyped.Answer] = {}  # the fleet's own subnets of an earlier run, by zone
        self.baked: dict[str, images.Image] = {}  # by group, the baked image that its hosts start from
        self.own_vpc = False  # whether the fleet has its VPC already
        self.aws: aws.Aws  # once the variables have been judged

    def check(self, problems: list[str]) -> bool:
        """Note problems; true when there was none."""
        self.problems += problems
        return not problems

    def missing(self) -> dict[str, int]:
        """Return how many hosts of each group are still to be launched."""
        there = Counter(one["group"] for one in self.kept)
        return {name: max(group["count"] - there[name], 0) for name, group in self.groups.items()}
