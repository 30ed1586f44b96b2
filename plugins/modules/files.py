#!/usr/bin/python
# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module files: keeps several files, directories and links of a host in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Keep several files, directories and links in one step
version_added: "0.1.0"
author: Flotilla contributors (@flotilla-kit)
description:
  - Does in one step what C(copy), C(template) and C(file) do in one each, for text. A step costs a start of Python on
    the host, and three round trips to it.
  - A file that changes is replaced at once, never half written. Files are written in the order given.
  - Where a file or link below C(/etc/systemd/system) or C(/run/systemd/system) has changed, systemd reads its units
    again.
options:
  files:
    description: What is to be there, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where. Folders above it are made.
        type: path
        required: true
      state:
        description:
          - V(file) with exactly one of O(files[].content), O(files[].template) and O(files[].src).
          - V(link) with O(files[].target).
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: The text itself; what isn't text is written as JSON.
        type: raw
      template:
        description: The name of a Jinja template on the controller, of the role's C(templates).
        type: str
      vars:
        description: Variables for O(files[].template) alone.
        type: dict
        default: {}
      src:
        description: The name of a text file on the controller, of the role's C(files).
        type: str
      target:
        description: What a link leads to; it needn't be there.
        type: str
      mode:
        description: In octal. Of files 0644, of directories 0755, where none is given.
        type: str
      owner:
        description: The owner; by default root, or whoever runs the module.
        type: str
      group:
        description: The group; by default the owner's.
        type: str
      validate:
        description:
          - A command that fails where the file would be wrong; C(%s) stands for its path.
          - Run without a shell, before the file is replaced.
        type: str
      when:
        description: Where V(false), this entry is left out.
        type: bool
        default: true
attributes:
  check_mode:
    description: Says what would change, also on a host where nothing is yet.
    support: full
  diff_mode:
    description: Shows the text of files that everybody may read.
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration and the unit
  flotilla.kit.files:
    files:
      - {path: /etc/flotilla, state: directory}
      - {path: /etc/flotilla/aws.env, template: aws.env.j2}
      - {path: /etc/nftables.conf, template: nftables.conf.j2, validate: /usr/sbin/nft -c -f %s}
      - {path: /etc/systemd/system/flotilla-expiry.timer, template: expiry.timer.j2, when: "{{ node_expires != '' }}"}
      - {path: /etc/flotilla/old.json, state: absent}
  register: written

- name: Start it, or start it again
  ansible.builtin.systemd_service:
    name: flotilla-expiry.timer
    state: "{{ 'restarted' if '/etc/systemd/system/flotilla-expiry.timer' in written.changed_paths else 'started' }}"
"""

RETURN = r"""
changed_paths:
  description: The paths that have changed, or in check mode would change.
  returned: always
  type: list
  elements: str
  sample: [/etc/flotilla/aws.env]
"""

import contextlib
import errno
import grp
import os
import pwd
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TypedDict

from ansible.module_utils.basic import AnsibleModule

UNITS = ("/etc/systemd/system/", "/run/systemd/system/")
SUBOPTIONS = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "content": {"type": "raw"},
    "template": {"type": "str"},
    "vars": {"type": "dict", "default": {}},
    "src": {"type": "str"},
    "target": {"type": "str"},
    "mode": {"type": "str"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "validate": {"type": "str"},
    "when": {"type": "bool", "default": True},
}


class Entry(TypedDict):
    """An entry of O(files), as the action has filled it and Ansible has checked it; None is what wasn't given."""

    path: str
    state: str  # file, directory, link or absent
    content: str  # a file's text
    target: str  # where a link leads to
    mode: str | None  # octal
    owner: str | None
    group: str | None
    validate: str | None  # a command, in which %s is the new file


class Problem(Exception):
    """What keeps an entry from being as it should, in a sentence."""


def ids(entry: Entry) -> tuple[int, int] | None:
    """Return the user's and group's numbers, or None where the host doesn't know them."""
    try:
        user = pwd.getpwnam(entry["owner"]) if entry["owner"] else pwd.getpwuid(os.geteuid())
        return user.pw_uid, grp.getgrnam(entry["group"]).gr_gid if entry["group"] else user.pw_gid
    except KeyError:
        return None


def kind(path: Path) -> str:
    """Return what is there: file, directory, link, other or absent."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    tests = {"link": stat.S_ISLNK, "directory": stat.S_ISDIR, "file": stat.S_ISREG}
    return next((name for name, test in tests.items() if test(mode)), "other")


class Keeper:
    """Brings one entry after the other into its state."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check: bool = module.check_mode
        self.changed: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def keep(self, entry: Entry) -> None:
        """Make `entry` true; raises Problem."""
        path, state = Path(entry["path"]), entry["state"]
        there = kind(path)
        if state in ("file", "link") and there == "directory":
            raise Problem(f"{path} is a directory, and is to be a {state}: move it away")
        if state == "absent":
            if there != "absent":
                self._note(path, f"{there}\n", "absent\n")
                if not self.check:
                    shutil.rmtree(path) if there == "directory" else path.unlink()
            return
        if state == "link":
            self._link(path, entry["target"], there)
            return
        if state == "directory" and there in ("file", "other"):
            raise Problem(f"{path} is a file, and is to be a directory: move it away")
        mode = int(entry["mode"] or {"file": "0644", "directory": "0755"}[state], 8)
        owner = ids(entry)
        if owner is None and not self.check:
            raise Problem(f"there is no user {entry['owner']} or no group {entry['group'] or 'of its'} for {path}")
        if state == "directory":
            self._directory(path, mode, owner, there)
        else:
            self._file(entry, path, mode, owner, there)

    def _directory(self, path: Path, mode: int, owner: tuple[int, int] | None, there: str) -> None:
        if there == "link" and not path.is_dir():
            raise Problem(f"{path} is a link that leads to no directory: move it away")
        if there == "absent":
            self._note(path, "absent\n", "directory\n")
            if self.check:
                return
            path.mkdir(parents=True)
        self._attributes(path, mode, owner)

    def _file(self, entry: Entry, path: Path, mode: int, owner: tuple[int, int] | None, there: str) -> None:
        new = entry["content"].encode()
        old = path.read_bytes() if there == "file" else None
        if new == old:
            self._attributes(path, mode, owner)
            return
        public = mode & stat.S_IROTH and not (old is not None and not path.stat().st_mode & stat.S_IROTH)
        before = "" if old is None else old.decode(errors="replace")
        self._note(path, before if public else "", new.decode() if public else "(not shown)\n")
        if self.check:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(new)
            self._validate(entry, name)
            os.chown(name, *owner or (-1, -1))
            Path(name).chmod(mode)
            try:
                Path(name).replace(path)
            except OSError as error:
                # In a container /etc/hosts may be a mount of its own, which can't be replaced.
                if error.errno != errno.EBUSY:
                    raise
                path.write_bytes(new)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()

    def _validate(self, entry: Entry, name: str) -> None:
        if entry["validate"]:
            status, out, err = self.module.run_command(shlex.split(entry["validate"].replace("%s", name)))
            if status:
                words = (err or out).replace(name, entry["path"]).strip()
                raise Problem(f"{entry['path']} would be wrong, and is left as it was: {words}")

    def _link(self, path: Path, target: str, there: str) -> None:
        old = str(path.readlink()) if there == "link" else ""
        if old == target:
            return
        self._note(path, f"{old or there}\n", f"{target}\n")
        if self.check:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.symlink_to(target)
        new.replace(path)

    def _attributes(self, path: Path, mode: int, owner: tuple[int, int] | None) -> None:
        now = path.stat()
        if owner is None or (now.st_uid, now.st_gid) != owner:
            wanted = "of a user to come" if owner is None else f"{owner[0]}:{owner[1]}"
            self._note(path, f"owner {now.st_uid}:{now.st_gid}\n", f"owner {wanted}\n")
            if not self.check and owner:
                os.chown(path, *owner)
                now = path.stat()
        if stat.S_IMODE(now.st_mode) != mode:
            self._note(path, f"mode {stat.S_IMODE(now.st_mode):04o}\n", f"mode {mode:04o}\n")
            if not self.check:
                path.chmod(mode)

    def _note(self, path: Path, before: str, after: str) -> None:
        if str(path) not in self.changed:
            self.changed.append(str(path))
            self.diffs.append({"before": before, "after": after, "before_header": str(path), "after_header": str(path)})


def main() -> None:
    """Keep the files, as Ansible calls modules."""
    # Not logged: the text of files has no place in a host's journal.
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": SUBOPTIONS}},
        supports_check_mode=True,
        no_log=True,
    )
    keeper = Keeper(module)
    problem = ""
    try:
        for entry in module.params["files"]:
            keeper.keep(entry)
    except (Problem, OSError) as error:
        problem = str(error)
    units = [path for path in keeper.changed if path.startswith(UNITS)]
    if units and not module.check_mode and Path("/run/systemd/system").is_dir():
        status, _out, words = module.run_command(["systemctl", "daemon-reload"])
        if status and not problem:
            problem = f"systemd can't read its units again: {words.strip()}"
    result = {"changed": bool(keeper.changed), "changed_paths": keeper.changed, "diff": keeper.diffs}
    if problem:
        module.fail_json(msg=problem, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
