"""What every Python program of .venv does first (common.sh puts it there): Ansible would end before our code begins."""

import _locale
import os
import sys


def usable_locale() -> None:
    """Take C.UTF-8, which is everywhere, for a locale that isn't there, as ssh may bring one along, or isn't UTF-8."""
    before = _locale.setlocale(_locale.LC_ALL, None)
    try:
        _locale.setlocale(_locale.LC_ALL, "")
        usable = _locale.nl_langinfo(_locale.CODESET) == "UTF-8"
    except _locale.Error:
        usable = False
    _locale.setlocale(_locale.LC_ALL, before)
    if not usable:
        os.environ["LC_ALL"] = "C.UTF-8"


def refuse_foreign_hands() -> None:
    """End Ansible with a sentence where it wouldn't read ansible.cfg, as others may write to its folder."""
    from pathlib import Path

    here = Path.cwd()
    ours = (here / "ansible.cfg").is_file() and "ANSIBLE_CONFIG" not in os.environ
    if ours and here.stat().st_mode & 0o002:
        sys.stderr.write(f"Others may write to {here}, so Ansible doesn't read its ansible.cfg: chmod o-w '{here}'\n")
        sys.stderr.flush()
        os._exit(1)  # an exception here would be Python's own failure to start


usable_locale()
if sys.argv[:1] and sys.argv[0].rpartition("/")[2].startswith("ansible"):
    refuse_foreign_hands()
