#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module fleet_access."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_access
short_description: Make a fleet's key pair, roles and instance profile
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Makes the key pair, from the SSH key of this machine, which is made where it is missing; the nodes' role, that may
    read data set and program and write the model and nothing else; their instance profile; and the role with which
    EventBridge Scheduler terminates the fleet's instances and nothing else.
  - For the Infrastructure Manager it makes the nodes' role alone.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.boto3
  - flotilla.kit.fleet
options:
  tags:
    description: Tags of all that is made, beside C(Name).
    type: dict
    required: true
  launcher:
    description: Who launches the instances. It decides who may take the nodes' role, instances themselves or whoever
      takes its credentials for them.
    type: str
    choices: [ansible, im]
    default: ansible
  account:
    description: The caller's account.
    type: str
    required: true
  partition:
    description: The caller's partition, as C(aws).
    type: str
    default: aws
  boundary:
    description: The ARN of the roles' permissions boundary; empty means none.
    type: str
    default: ""
  folders_policy:
    description: What nodes may do in further folders, a policy of its own; without statements, none is written.
    type: dict
    default: {}
  policy:
    description: The nodes' access policy; without statements, none is written.
    type: dict
    required: true
  schedule:
    description: Whether the role for EventBridge Scheduler is made.
    type: bool
    default: true
  ssh_key:
    description: The private key's file on this machine; needed unless O(launcher=im).
    type: path
  public_key:
    description: Its public key, where it is there already.
    type: str
    default: ""
  replace_key_pair:
    description: Whether the key pair that is there has another key, which no node was launched with.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be made or changed.
    support: full
"""

EXAMPLES = r"""
- name: Make key pair, roles and instance profile
  flotilla.kit.fleet_access:
    region: us-east-1
    name: demo
    tags: {flotilla-fleet: demo, flotilla-owner: me, flotilla-expires: "{{ preflight.expires }}"}
    account: "{{ preflight.account }}"
    policy: "{{ preflight.policy }}"
    ssh_key: ~/.ssh/flotilla_ed25519
    public_key: "{{ preflight.public_key }}"
    replace_key_pair: "{{ preflight.replace_key_pair }}"
"""

RETURN = r"""
role_arn:
  description: The nodes' role; empty in check mode where it would be made.
  returned: success
  type: str
changes:
  description: What was made or changed (in check mode, would be).
  returned: success
  type: list
  elements: str
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.flotilla.kit.plugins.module_utils import aws, make, naming, ssh, untyped

Document = Mapping[str, object]


class Access(make.Maker):
    """Who may do what, of one fleet."""

    def __init__(self, parameters: untyped.Parameters, dry: bool) -> None:
        """Keep the module's parameters."""
        super().__init__(parameters, dry, "ec2", "iam")
        self.role_name = naming.in_iam(parameters["name"], parameters["region"])

    def ensure(self) -> untyped.Result:
        """Make what is missing; returns the module's answer."""
        ours = self.p["launcher"] == "ansible"
        jobs: list[Callable[[], object]] = [self.ensure_nodes]
        if ours:
            jobs += [self.ensure_key_pair, *([self.ensure_schedules_role] if self.p["schedule"] else [])]
        arn = str(self.at_once(*jobs)[0])
        return {"changed": bool(self.changes), "role_arn": arn, "changes": self.changes}

    # The key pair

    def ensure_key_pair(self) -> None:
        """Have the key pair in EC2, of the key on this machine."""
        name = naming.in_region(self.p["name"])
        named = [{"Name": "key-name", "Values": [name]}]
        found = self.call("look up the key pair", "ec2", "describe_key_pairs", Filters=named)["KeyPairs"]
        if found and self.p["replace_key_pair"]:
            if self.change("key pair"):
                self.call("delete the key pair of a key that is gone", "ec2", "delete_key_pair", KeyName=name)
            found = []
        public = self.public_key()
        tags = self.tags("key")
        if found:
            if not tags.items() <= aws.tags_of(found[0]).items() and self.change("key pair's tags"):
                ids = [found[0]["KeyPairId"]]
                self.call("tag the key pair", "ec2", "create_tags", Resources=ids, Tags=aws.tag_list(tags))
        elif self.change("key pair"):
            self.call(
                "make the key pair",
                "ec2",
                "import_key_pair",
                fine=("InvalidKeyPair.Duplicate",),
                KeyName=name,
                PublicKeyMaterial=public.encode(),
                TagSpecifications=self.tagged("key-pair", "key"),
            )

    def public_key(self) -> str:
        """Return the public key, of an SSH key that is made where there is none."""
        if self.p["public_key"]:
            return str(self.p["public_key"])
        path = Path(self.p["ssh_key"])
        if not path.exists():
            if not self.change("SSH key"):
                return ""
            ssh.make(path)
        return ssh.derive_public(path)

    # Roles

    def ensure_nodes(self) -> str:
        """Make the nodes' role, and the profile that gives it to instances; returns the role's ARN."""
        p = self.p
        principal = {
            "ansible": {"Service": "ec2.amazonaws.com"},
            "im": {"AWS": f"arn:{p['partition']}:iam::{p['account']}:root"},
        }
        words = f"Nodes of the Flotilla fleet {p['name']}"
        policy = p["policy"] if p["policy"].get("Statement") else None
        arn = self.ensure_role(self.role_name, "role", words, _trust(principal[p["launcher"]]), "storage", policy)
        if p["folders_policy"].get("Statement"):
            self.ensure_policy(self.role_name, "folders", p["folders_policy"])
        if p["launcher"] == "ansible":
            self.ensure_profile()
        return arn

    def ensure_schedules_role(self) -> str:
        """Make the role that ends what outlives its expiry.

        It isn't bound to a schedule by aws:SourceArn: with that, AWS refuses to make the schedule.
        """
        p = self.p
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "Expiry",
                    "Effect": "Allow",
                    "Action": "ec2:TerminateInstances",
                    "Resource": f"arn:{p['partition']}:ec2:{p['region']}:{p['account']}:instance/*",
                    "Condition": {"StringEquals": {"aws:ResourceTag/flotilla-fleet": p["name"]}},
                }
            ],
        }
        trust = _trust({"Service": "scheduler.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": p["account"]}})
        words = f"Ends hosts of the Flotilla fleet {p['name']} after their expiry"
        name = naming.in_iam_for_expiry(p["name"], p["region"])
        return self.ensure_role(name, "expiry", words, trust, "terminate", policy)

    def ensure_role(
        self, name: str, suffix: str, words: str, trust: Document, policy_name: str, policy: Document | None
    ) -> str:
        """Make a role, or what differs of it; returns its ARN, which is empty where a dry run would make it."""
        boundary: untyped.Request = {"PermissionsBoundary": self.p["boundary"]} if self.p["boundary"] else {}
        role = self.look_up("get_role", "Role", RoleName=name)
        if role is None:
            if not self.change(f"role {name}"):
                return ""
            made = self.call(
                f"make the role {name}",
                "iam",
                "create_role",
                fine=("EntityAlreadyExists",),
                RoleName=name,
                Description=words,
                AssumeRolePolicyDocument=json.dumps(trust),
                Tags=aws.tag_list(self.tags(suffix)),
                **boundary,
            )
            role = made.get("Role") or self.call(f"look up the role {name}", "iam", "get_role", RoleName=name)["Role"]
        else:
            self.refresh_role(role, trust, boundary, self.tags(suffix))
        if policy:
            self.ensure_policy(name, policy_name, policy)
        return str(role["Arn"])

    def ensure_policy(self, role: str, name: str, policy: Document) -> None:
        """Give a role a policy of its own, or what differs of it."""
        known = self.look_up("get_role_policy", "PolicyDocument", RoleName=role, PolicyName=name) or {}
        if known != policy and self.change(f"policy of the role {role}"):
            self.call(
                f"write the policy of the role {role}",
                "iam",
                "put_role_policy",
                RoleName=role,
                PolicyName=name,
                PolicyDocument=json.dumps(policy),
            )

    def refresh_role(
        self, role: untyped.Answer, trust: Document, boundary: untyped.Request, tags: dict[str, str]
    ) -> None:
        """Bring a role that is there up to date."""
        name = role["RoleName"]
        if role.get("AssumeRolePolicyDocument") != trust and self.change(f"who may take the role {name}"):
            self.call(
                f"say who may take the role {name}",
                "iam",
                "update_assume_role_policy",
                RoleName=name,
                PolicyDocument=json.dumps(trust),
            )
        bound = role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", "")
        if boundary and bound != self.p["boundary"] and self.change(f"boundary of the role {name}"):
            self.call(f"bound the role {name}", "iam", "put_role_permissions_boundary", RoleName=name, **boundary)
        if not tags.items() <= aws.tags_of(role).items() and self.change(f"tags of the role {name}"):
            self.call(f"tag the role {name}", "iam", "tag_role", RoleName=name, Tags=aws.tag_list(tags))

    def ensure_profile(self) -> None:
        """Make the instance profile, with the nodes' role in it."""
        name, tags = self.role_name, self.tags("profile")
        profile = self.look_up("get_instance_profile", "InstanceProfile", InstanceProfileName=name)
        if profile is None:
            if not self.change("instance profile"):
                return
            self.call(
                "make the instance profile",
                "iam",
                "create_instance_profile",
                fine=("EntityAlreadyExists",),
                InstanceProfileName=name,
                Tags=aws.tag_list(tags),
            )
        elif not tags.items() <= aws.tags_of(profile).items() and self.change("instance profile's tags"):
            self.call(
                "tag the instance profile",
                "iam",
                "tag_instance_profile",
                InstanceProfileName=name,
                Tags=aws.tag_list(tags),
            )
        held = [role["RoleName"] for role in (profile or {}).get("Roles", [])]
        if held != [name] and self.change("instance profile's role"):
            for other in held:  # one role is all that a profile may have
                self.call(
                    "take another role out of the instance profile",
                    "iam",
                    "remove_role_from_instance_profile",
                    InstanceProfileName=name,
                    RoleName=other,
                )
            self.call(
                "put the role into the instance profile",
                "iam",
                "add_role_to_instance_profile",
                fine=("LimitExceeded",),  # it is there: one role is all that a profile may have
                InstanceProfileName=name,
                RoleName=name,
            )

    def look_up(self, method: str, key: str, **named: str) -> untyped.Answer | None:
        """Return what IAM has under a name, or None."""
        try:
            found: untyped.Answer = self.aws.call(f"look up {', '.join(named.values())}", "iam", method, **named)[key]
        except aws.FleetError as error:
            if error.__cause__ is None or aws.code(error.__cause__) != "NoSuchEntity":
                raise
            return None
        return found


def _trust(principal: Document, condition: Document | None = None) -> Document:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return {
        "Version": "2012-10-17",
        "Statement": [{**statement, **({"Condition": condition} if condition else {})}],
    }


def main() -> None:
    """Run the module."""
    make.run(
        Access,
        {
            "launcher": {"type": "str", "choices": ["ansible", "im"], "default": "ansible"},
            "account": {"type": "str", "required": True},
            "partition": {"type": "str", "default": "aws"},
            "boundary": {"type": "str", "default": ""},
            "policy": {"type": "dict", "required": True},
            "folders_policy": {"type": "dict", "default": {}},
            "schedule": {"type": "bool", "default": True},
            "ssh_key": {"type": "path", "no_log": False},
            "public_key": {"type": "str", "default": "", "no_log": False},
            "replace_key_pair": {"type": "bool", "default": False},
        },
        required_if=[("launcher", "ansible", ("ssh_key",))],
    )


if __name__ == "__main__":
    main()
