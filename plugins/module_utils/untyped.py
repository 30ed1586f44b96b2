# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names for what comes from outside and has no types: AWS's answers, a module's parameters, an action's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Answer = dict[str, Any]  # what boto3 returns, or a part of it; AWS's API reference says what is in it
Request = dict[str, Any]  # what boto3 is asked for, likewise
Parameters = dict[str, Any]  # a module's parameters; its argument_spec says what they are
Option = Mapping[str, Any]  # an option of an argument specification: its type, choices and so on
Result = dict[str, Any]  # what a module or an action returns; its RETURN says what is in it
Message = Any  # of protobuf's, whose class is made at run time
Variables = dict[str, Any]  # variables of hosts or of a task, as Ansible has them
