# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ends a fleet's instances from outside, where they don't do it themselves: EventBridge Scheduler.

A host that hung at boot, panicked or lost its timer is terminated some minutes after its expiry. A fleet has one group
of schedules, tagged as the rest of it, since schedules can't be; in it, each instance has a schedule that is called by
its id: of a list TerminateInstances ends none where it doesn't know one, and AWS forgets what has ended after an hour.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import time

from ansible_collections.flotilla.kit.plugins.module_utils import aws, naming, untyped

GRACE = datetime.timedelta(minutes=10)  # a host that powers itself off at its expiry is gone by then
WAIT = 60.0  # seconds that AWS may take to know a new role, or to forget a deleted group
UNKNOWN_ROLE = "must allow AWS EventBridge Scheduler to assume the role"


def group_name(fleet: str) -> str:
    """Return the name of a fleet's group of schedules."""
    return naming.in_region(fleet)


def wanted(fleet: str, instance: str, expires: str, role: str) -> untyped.Request:
    """Return the schedule of an instance, as CreateSchedule and UpdateSchedule take it.

    ``expires`` is ISO 8601 in UTC, ``role`` the ARN of the role that may terminate the instance.
    """
    ends = datetime.datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ") + GRACE
    return {
        "Name": instance,
        "GroupName": group_name(fleet),
        "ScheduleExpression": f"at({ends.isoformat()})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "ENABLED",
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": f"arn:{role.split(':')[1]}:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": role,
            "Input": json.dumps({"InstanceIds": [instance]}),
        },
    }


def differs(there: untyped.Answer, request: untyped.Request) -> bool:
    """Say whether a schedule isn't as wanted; what AWS adds by itself doesn't count."""
    return any(
        differs(there.get(key) or {}, value) if isinstance(value, dict) else there.get(key) != value
        for key, value in request.items()
    )


class Schedules:
    """The schedules of one fleet; in a dry run nothing is changed."""

    def __init__(self, cloud: aws.Aws, fleet: str, dry: bool = False) -> None:
        """Keep what all calls need."""
        self.cloud = cloud
        self.fleet = fleet
        self.group = group_name(fleet)
        self.dry = dry

    def ensure(self, instances: list[str], expires: str, role: str, tags: dict[str, str]) -> list[str]:
        """Give each instance its schedule, and take away those of others.

        Returns what was changed (in a dry run, would be): the group's name, instances' ids. Raises FleetError.
        """
        group = self._find_group()
        changed = [] if group and self._has_tags(group, tags) else [self.group]
        if changed and not self.dry:
            self._put_group(group, tags)
        names = set(self._names()) if group else set()
        self.cloud.client("scheduler")  # made once, before threads ask for it
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            put = pool.map(lambda one: self._ensure_one(one, one in names, expires, role), instances)
            changed += [one for one, differed in zip(instances, put, strict=True) if differed]
        for name in sorted(names - set(instances)):
            changed.append(name)
            if not self.dry:
                self._call("delete an ended instance's schedule", "delete_schedule", Name=name, GroupName=self.group)
        return changed

    def remove(self) -> bool:
        """Delete the group with all schedules in it; returns whether there was one. Raises FleetError."""
        group = self._find_group()
        if group.get("State") != "ACTIVE":
            return False
        if not self.dry:
            self._call("delete the fleet's schedules", "delete_schedule_group", Name=self.group)
        return True

    def _call(self, doing: str, method: str, **arguments: object) -> untyped.Answer:
        return self.cloud.call(doing, "scheduler", method, **arguments)

    def _find_group(self) -> untyped.Answer:
        """Return the fleet's group, empty where there is none."""
        try:
            return self._call("look for the fleet's schedules", "get_schedule_group", Name=self.group)
        except aws.FleetError as error:
            if _code(error) == "ResourceNotFoundException":
                return {}
            raise

    def _has_tags(self, group: untyped.Answer, tags: dict[str, str]) -> bool:
        if group["State"] != "ACTIVE":
            return False
        there = self._call("look at the schedules' tags", "list_tags_for_resource", ResourceArn=group["Arn"])
        return tags.items() <= aws.tags_of(there).items()

    def _put_group(self, group: untyped.Answer, tags: dict[str, str]) -> None:
        deadline = time.monotonic() + WAIT
        while group and group["State"] != "ACTIVE" and time.monotonic() < deadline:
            time.sleep(2)  # it is being deleted, and nothing can be put into it
            group = self._find_group()
        if group:
            self._call("tag the fleet's schedules", "tag_resource", ResourceArn=group["Arn"], Tags=aws.tag_list(tags))
        else:
            self._call("make the fleet's schedules", "create_schedule_group", Name=self.group, Tags=aws.tag_list(tags))

    def _names(self) -> list[str]:
        found = self.cloud.pages(
            "list the fleet's schedules", "scheduler", "list_schedules", "Schedules", GroupName=self.group
        )
        return [str(one["Name"]) for one in found]

    def _ensure_one(self, instance: str, there: bool, expires: str, role: str) -> bool:
        request = wanted(self.fleet, instance, expires, role)
        if there:
            now = self._call("look at a schedule", "get_schedule", Name=instance, GroupName=self.group)
            if not differs(now, request):
                return False
        if not self.dry:
            self._put(request, there)
        return True

    def _put(self, request: untyped.Request, there: bool) -> None:
        """Make or change a schedule, once AWS knows the role."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self._call("schedule an instance's end", "update_schedule" if there else "create_schedule", **request)
                return
            except aws.FleetError as error:
                if _code(error) == "ConflictException" and not there:
                    there = True  # another run was faster
                elif UNKNOWN_ROLE not in str(error) or time.monotonic() > deadline:
                    raise
                else:
                    time.sleep(2)


def _code(error: aws.FleetError) -> str:
    return aws.code(error.__cause__) if error.__cause__ else ""
