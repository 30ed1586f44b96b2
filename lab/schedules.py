"""EventBridge Scheduler's other half: moto keeps the schedules, and this runs those that are due.

Only `at(…)` expressions, and the targets that end or stop instances, with the rights of the schedule's role.
https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
"""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import datetime, timedelta, timezone

from moto.core.exceptions import ServiceException
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.scheduler.models import scheduler_backends

from . import access, weather
from .judge_iam import SCHEDULER, UNTRUSTED, group_arn, moment
from .needs import Values, ec2_need
from .settings import ACCOUNT, REGION
from .untyped import Moto, Request

log = logging.getLogger("lab")

TARGETS = {"terminateInstances": "TerminateInstances", "stopInstances": "StopInstances"}


class Failed(Exception):
    """A target that could not be called, or refused."""


def start() -> None:
    """Look every second for schedules that are due, in a thread."""

    def look() -> None:
        while True:
            try:
                run_due(datetime.now(timezone.utc))
            except Exception:
                log.exception("the schedules could not be looked at")
            time.sleep(1)

    threading.Thread(target=look, name="schedules", daemon=True).start()


def run_due(now: datetime) -> None:
    """Run the schedules that are due at a moment, and again those that failed, as often as they say."""
    for group in list(scheduler_backends[ACCOUNT][REGION].schedule_groups.values()):
        for schedule in list(group.schedules.values()):
            due = moment(schedule.schedule_expression, schedule.schedule_expression_timezone)
            if schedule.state == "ENABLED" and due:
                _run(group, schedule, due, now)


def _run(group: Moto, schedule: Moto, due: datetime, now: datetime) -> None:
    books: dict[datetime, tuple[int, datetime | None]] = schedule.__dict__.setdefault("lab_runs", {})
    failures, again = books.get(due, (0, due))
    if again is None or now < again:
        return
    policy = schedule.target.get("RetryPolicy", {})
    try:
        invoke(group.name, schedule.target)
        log.info("schedule %s/%s has run", group.name, schedule.name)
    except (Failed, ServiceException) as error:
        log.warning("schedule %s/%s failed: %s", group.name, schedule.name, error)
        young = now - due < timedelta(seconds=int(policy.get("MaximumEventAgeInSeconds", 86400)))
        if young and failures < int(policy.get("MaximumRetryAttempts", 185)):
            books[due] = failures + 1, now + timedelta(seconds=min(2**failures, 60))
            return
    books[due] = failures, None
    if schedule.action_after_completion == "DELETE":
        group.schedules.pop(schedule.name, None)


def invoke(group: str, target: Request) -> None:
    """Call a schedule's target as its role; all instances, or none where one is unknown.

    Raises:
        Failed: the role may not, or can't be taken; nothing was done.
        ServiceException: EC2 refuses.
    """
    action = TARGETS.get(str(target["Arn"]).rpartition(":aws-sdk:ec2:")[2])
    if not action:
        raise Failed(f"the lab runs {' and '.join(TARGETS)} only, not {target['Arn']}")
    iam, ec2 = iam_backends[ACCOUNT]["aws"], ec2_backends[ACCOUNT][REGION]
    role = next((one for one in iam.get_roles() if one.arn == target["RoleArn"]), None)
    values: Values = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": group_arn(group)}
    if not role or not access.trusts(role.assume_role_policy_document, SCHEDULER, values):
        raise Failed(UNTRUSTED)
    if weather.away("ec2"):
        raise Failed("EC2 is away")
    instances = json.loads(target.get("Input") or "{}").get("InstanceIds", [])
    for one in instances:
        if not access.role_permits(iam, role, ec2_need(action, one)):
            raise Failed(f"{role.arn} is not authorized to perform ec2:{action} on {one}")
    ec2.terminate_instances(instances) if action == "TerminateInstances" else ec2.stop_instances(instances)
