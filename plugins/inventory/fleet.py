# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory plugin fleet: the hosts of a fleet, as AWS lists them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
short_description: The hosts of a fleet, from AWS's tags
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Asks EC2 for the running instances with the fleet's tag, and yields C(ps-0), C(chief-0), C(worker-0) and so on in
    the groups C(ps), C(chief), C(worker) and C(evaluator), all of them in C(fleet).
  - Which fleet, region and profile is read from C(group_vars/all.yml) beside the file (C(fleet_name),
    C(fleet_region), C(fleet_profile), C(fleet_ssh_key)), overlaid by extra variables (C(-e)).
  - Without C(fleet_name) the fleet is called after the caller, by the caller's name in AWS, and the variable is set
    for all hosts.
  - A fleet that isn't there is an empty inventory, not an error.
requirements: [boto3]
options:
  plugin:
    description: The plugin's name.
    type: str
    required: true
    choices: [flotilla.kit.fleet]
"""

EXAMPLES = r"""
# inventories/aws/fleet.yml
plugin: flotilla.kit.fleet
"""

import inspect
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.errors import AnsibleParserError
from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.vars import load_extra_vars
from ansible_collections.flotilla.kit.plugins.module_utils import aws, fleet_groups, naming, reconcile, regions, untyped

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

EMPTY_NAME = "fleet_name is empty: leave it out for a fleet that is called after you, or give it a name."
KEYS = {"fleet_region": "us-east-1", "fleet_profile": "", "fleet_ssh_key": "~/.ssh/flotilla_ed25519"}


class InventoryModule(BaseInventoryPlugin):
    """Yields the running hosts of one fleet."""

    NAME = "flotilla.kit.fleet"

    def verify_file(self, path: str) -> bool:
        """Take files called fleet.yml or fleet.yaml."""
        return bool(super().verify_file(path)) and Path(path).name in ("fleet.yml", "fleet.yaml")

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Ask AWS, and add groups and hosts."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        if not aws.HAS_BOTO3:
            raise AnsibleParserError(missing_required_lib("boto3"))
        settings = self.settings(path)
        given = settings.get("fleet_name")
        if given is not None and naming.check_name(given):
            raise AnsibleParserError(naming.check_name(given)[0] if given else EMPTY_NAME)
        for problem in regions.check_region(settings["fleet_region"]):  # else a call would be gone over for minutes
            raise AnsibleParserError(problem)
        try:
            region = aws.Aws(settings["fleet_region"], settings["fleet_profile"], attempts=3)
            if given is None:
                arn = region.call("ask who the caller is", "sts", "get_caller_identity")["Arn"]
                settings["fleet_name"] = naming.default_name(arn)
                # Above the roles' defaults in Ansible's order, and for localhost, too.
                inventory.set_variable("all", "fleet_name", settings["fleet_name"])
            hosts = self.hosts(region, settings["fleet_name"])
        except aws.FleetError as error:
            raise AnsibleParserError(str(error)) from None  # Ansible would repeat it

        inventory.add_group("fleet")
        for group in fleet_groups.GROUPS:
            inventory.add_group(group)
            inventory.add_child("fleet", group)
        for name, one in hosts.items():
            inventory.add_host(name, group=one["group"])
            for key, value in self.variables(one, settings).items():
                inventory.set_variable(name, key, value)

    def settings(self, path: str) -> dict[str, str]:
        """Read the variables beside the inventory file, overlaid by extra variables; fleet_name only where given."""
        variables: untyped.Variables = {}
        folder = Path(path).parent / "group_vars"
        files = [folder / "all.yml", folder / "all.yaml", *sorted((folder / "all").glob("*.y*ml"))]
        load = self.loader.load_from_file
        # Ansible takes its variables' files as templates; since 2.19 one has to say so.
        trust = {"trusted_as_template": True} if "trusted_as_template" in inspect.signature(load).parameters else {}
        for file in files:
            if file.is_file():
                variables.update(load(str(file), **trust) or {})
        variables.update(load_extra_vars(self.loader))
        self.templar.available_variables = variables
        found = {key: variables.get(key, default) for key, default in KEYS.items()}
        if "fleet_name" in variables:
            found["fleet_name"] = variables["fleet_name"]
        return {key: str(self.templar.template(value) or "") for key, value in found.items()}

    def hosts(self, region: aws.Aws, fleet: str) -> dict[str, reconcile.Instance]:
        """List the running instances by host name; of two with one name the older one counts."""
        found = region.pages(
            "list the fleet's instances",
            "ec2",
            "describe_instances",
            "Reservations",
            Filters=[
                *aws.tag_filter(fleet),
                {"Name": "instance-state-name", "Values": ["running"]},
            ],
        )
        instances = [reconcile.simplify(one) for reservation in found for one in reservation["Instances"]]
        hosts: dict[str, reconcile.Instance] = {}
        order = {group: position for position, group in enumerate(fleet_groups.GROUPS)}
        known = [one for one in instances if one["group"] in order and one["index"] is not None]
        for one in sorted(known, key=lambda one: (order[one["group"]], one["index"], one["launched"], one["id"])):
            hosts.setdefault(f"{one['group']}-{one['index']}", one)
        return hosts

    def variables(self, one: reconcile.Instance, settings: dict[str, str]) -> untyped.Variables:
        """Return a host's variables.

        Host keys and connections belong to the instance, not to its address, which AWS hands out again.
        """
        cache = Path(f"~/.cache/flotilla/fleets/{settings['fleet_name']}").expanduser()
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {
            "UserKnownHostsFile": str(cache / "known_hosts"),
            "HostKeyAlias": one["id"],
            "StrictHostKeyChecking": "accept-new",
            "IdentitiesOnly": "yes",
        }
        return {
            "ansible_host": one["public"] or one["private"],
            "ansible_user": one["tags"].get("flotilla-ssh-user", "admin"),
            "ansible_ssh_private_key_file": str(Path(settings["fleet_ssh_key"]).expanduser()),
            "ansible_ssh_common_args": " ".join(f"-o {shlex.quote(f'{k}={v}')}" for k, v in options.items()),
            "ansible_control_path": f"%(directory)s/{re.sub(r'[^a-z0-9-]', '', one['id'])}",
            "private_ip_address": one["private"],
            "instance_id": one["id"],
            "instance_type": one["type"],
            "instance_state": one["state"],
            "launch_time": one["launched"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            "fleet_expires": one["tags"].get("flotilla-expires", ""),
            "fleet_tasks": fleet_groups.whole(one["tags"].get("flotilla-tasks")) or 1,
            "fleet_gpus": fleet_groups.whole(one["tags"].get("flotilla-gpus")) or 0,
        }
