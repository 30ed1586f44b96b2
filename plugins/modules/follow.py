#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action follow, which runs on the controller (plugins/action/follow.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: follow
short_description: Show a long piece of work on a host until it has ended
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Reads a systemd unit's state and the progress file that its program writes, and prints a line where something new
    is to be said. The work itself doesn't need it, and goes on when it is interrupted.
  - Ends well when the work is done, and fails with the program's own message and the last lines of the journal when
    the unit has failed for good. A unit that systemd restarts has not.
  - A lost connection is borne for five minutes.
options:
  unit:
    description: The systemd unit that does the work.
    type: str
    required: true
  progress:
    description: The progress file on the host, as C(flotilla.progress) writes it; without one only the unit counts.
    type: path
  title:
    description: What the lines begin with; by default the progress file's phase.
    type: str
  interval:
    description: Seconds between two looks.
    type: float
    default: 5
  timeout:
    description: Seconds after which to stop following; the work goes on.
    type: float
    default: 14400
attributes:
  check_mode:
    description: Is skipped.
    support: none
notes:
  - It needs no module on the host, only a shell and systemctl, and makes one connection's round trip a look.
"""

EXAMPLES = r"""
- name: Wait until the model is trained
  flotilla.kit.follow:
    unit: training@chief-0.service
    progress: /var/lib/flotilla/progress/train.json
"""

RETURN = r"""
progress:
  description: What the progress file said last.
  returned: when there is one
  type: dict
  sample: {"phase": "train", "state": "done", "done": 400, "total": 400, "unit": "steps"}
restarts:
  description: How often systemd has restarted the unit by itself.
  returned: always
  type: int
  sample: 0
seconds:
  description: How long it was followed.
  returned: always
  type: float
  sample: 81.5
"""
