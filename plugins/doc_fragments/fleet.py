# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the documentation of all fleet_* modules has in common."""

from __future__ import annotations


class ModuleDocFragment:
    """``flotilla.kit.fleet`` for modules of one fleet, ``flotilla.kit.fleet.region`` for those of none."""

    DOCUMENTATION = r"""
options:
  region:
    description: The AWS region.
    type: str
    required: true
  name:
    description: The fleet's name.
    type: str
    required: true
"""

    REGION = r"""
options:
  region:
    description: The AWS region.
    type: str
    required: true
"""
