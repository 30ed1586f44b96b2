# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filter that names the mark of a finished installation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.kit.plugins.module_utils import recipe

KIT = Path(__file__).parent.parent.parent
FOLDER = "/opt/flotilla/installed"


def mark(role: str, extra: str = "") -> str:
    """Return the path of the file that a role leaves on a host when all that it installs is there."""
    try:
        return f"{FOLDER}/{role}-{recipe.role_digest(KIT, role, extra)}"
    except KeyError:
        raise AnsibleFilterError(f"the role '{role}' installs nothing: there are {', '.join(recipe.RECIPE)}") from None
    except OSError as error:
        raise AnsibleFilterError(f"{error}: install the collection anew") from None


class FilterModule:
    """The collection's filters about installations."""

    def filters(self) -> dict[str, Callable[[str, str], str]]:
        """Return the filters by name."""
        return {"mark": mark}
