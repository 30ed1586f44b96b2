# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's look at the account: who calls, and what is there of the fleet already."""

from __future__ import annotations

import datetime

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    lifetime,
    naming,
    reconcile,
    ssh,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings


class Account(findings.Findings):
    """Caller, boundary, the fleet's instances, its owner and its key pair."""

    def ssh_key(self) -> None:
        """Judge the SSH key on this machine."""
        self.result["public_key"] = ""
        if self.p["ssh_key"]:
            self.result["public_key"], problems = ssh.public_key(self.p["ssh_key"])
            self.check(problems)

    def caller(self) -> None:
        """Find out who calls; wrong credentials end everything here."""
        me = self.aws.call("ask who the caller is", "sts", "get_caller_identity")
        self.result.update(account=me["Account"], arn=me["Arn"])

    def boundary(self) -> None:
        """Find the roles' permissions boundary: the given one, else that of the policy to copy, where there is one."""
        given = self.p["boundary"]
        partition, name = self.result["arn"].split(":")[1], given or "flotilla-boundary"
        arn = name if name.startswith("arn:") else f"arn:{partition}:iam::{self.result['account']}:policy/{name}"
        self.result["boundary"] = arn
        iam = self.aws.client("iam")
        try:
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found = iam.get_policy_version(PolicyArn=arn, VersionId=version)
            self.boundary_policy = found["PolicyVersion"]["Document"]
        except Exception as error:
            denied, lacking = aws.code(error) in aws.DENIED_CODES, aws.code(error) == "NoSuchEntity"
            unseen = denied and getattr(error, "operation_name", "") == "GetPolicy"
            if lacking and given:
                self.problems.append(
                    f"fleet_boundary {given} isn't a policy of this account: make it (roles/fleet/README.md, "
                    "Permissions), or correct the name."
                )
            elif not given and (lacking or unseen):
                self.result["boundary"] = ""
            elif not denied:
                raise aws.FleetError(aws.explain(error, f"look up the policy {name}", self.aws.profile)) from error

    def fleet(self) -> None:
        """Look at what is there of the fleet already: its expiry and its instances' types stay."""
        found = self.aws.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[
                *aws.tag_filter(self.p["name"]),
                {"Name": "instance-state-name", "Values": list(reconcile.LIVE)},
            ],
        )
        instances = [reconcile.simplify(one) for reservation in found for one in reservation["Instances"]]
        self.zones = {
            one["InstanceId"]: one.get("Placement", {}).get("AvailabilityZone", "")
            for reservation in found
            for one in reservation["Instances"]
        }
        self.owner([one["tags"] for one in instances])
        self.check(reconcile.check_launcher(self.p["name"], self.p["launcher"], instances))
        if self.p["launcher"] == "im":
            kept = instances
        else:
            compared = reconcile.compare(self.groups, instances)
            kept = compared["keep"]
            self.ended = {one["id"] for one in compared["terminate"]}
            self.check(reconcile.check_swaps(self.groups, kept))
            self.check(reconcile.check_shrink(compared["terminate"]))
        self.kept = kept
        expires, problems = lifetime.expiry(
            float(self.p["expiry_hours"]),
            datetime.datetime.now(datetime.timezone.utc),
            [one["launched"] for one in kept],
            [one["tags"].get("flotilla-expires", "") for one in kept],
        )
        self.check(problems)
        self.result.update(expires=expires, running=len(kept))
        self.key_pair(len(kept))

    def owner(self, tags: list[dict[str, str]]) -> None:
        """Find out whose the fleet is, by its instances' tags and all else that is there; another's ends everything.

        A run that was killed early has left no instance.
        """
        mine = aws.tag_filter(self.p["name"])
        for kind, method, key in (
            ("VPC", "describe_vpcs", "Vpcs"),
            ("security group", "describe_security_groups", "SecurityGroups"),
            ("key pair", "describe_key_pairs", "KeyPairs"),
        ):
            tags += map(aws.tags_of, self.aws.call(f"list the fleet's {kind}", "ec2", method, Filters=mine)[key])
        role = naming.in_iam(self.p["name"], self.p["region"])
        try:
            tags.append(aws.tags_of(self.aws.client("iam").get_role(RoleName=role)["Role"]))
        except Exception as error:
            if aws.code(error) != "NoSuchEntity":
                raise aws.FleetError(aws.explain(error, "look up the fleet's role", self.aws.profile)) from error
        caller = naming.caller_name(self.result["arn"])
        owners = {one.get("flotilla-owner", "") for one in tags if one.get("flotilla-fleet") == self.p["name"]}
        theirs = sorted(owners - {"", caller})
        problems = naming.check_ownership(self.p["name"], set(theirs), self.p["owner"] or caller, self.p["adopt"])
        if problems:
            raise aws.FleetError(problems[0])
        # Without a name given, whoever raised the fleet stays its owner when somebody else goes on with it.
        self.result["owner"] = self.p["owner"] or (theirs[0] if theirs else caller)

    def key_pair(self, hosts: int) -> None:
        """Hold this machine's SSH key against the key pair that the fleet's hosts were launched with."""
        self.result["replace_key_pair"] = False
        if not self.p["ssh_key"]:
            return
        name = {"Name": "key-name", "Values": [naming.in_region(self.p["name"])]}
        found = self.aws.call(
            "look up the fleet's key pair", "ec2", "describe_key_pairs", IncludePublicKey=True, Filters=[name]
        )
        for pair in found["KeyPairs"]:
            self.result["replace_key_pair"], problems = ssh.compare_pair(
                self.p["name"], self.p["ssh_key"], self.result["public_key"], pair, hosts
            )
            self.check(problems)
