#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action check_variables, which runs on the controller (plugins/action/check_variables.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_variables
short_description: Check the user's variables before a host is touched
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Compares the variables of the inventory and of the command line with those that the roles' argument specifications
    and C(playbooks/vars/variables.yml) list.
  - Fails with one sentence for each that nobody reads, or that is set to what it can't be.
  - A variable of the user's own has a name that isn't near a known one and doesn't begin as the kit's do, C(fleet_).
  - Makes no connection.
options:
  judge:
    description:
      - V(typed) looks at the names alone, and only at those of the command line, so that a fleet can always be ended.
      - V(all) looks at all names, and at what the variables are set to.
      - V(training) also misses what a training can't do without, such as C(dataset_source), and V(inference) and
        V(sweep) what these can't.
    type: str
    choices: [typed, all, training, inference, sweep]
    default: all
attributes:
  check_mode:
    description: Does the same.
    support: full
notes:
  - With C(run_once) in a play for hosts, one look is enough.
"""

EXAMPLES = r"""
- name: Check the variables
  flotilla.kit.check_variables:
    judge: training
  run_once: true
"""

RETURN = r""" # """
