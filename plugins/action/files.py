# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action files: renders templates on the controller. Documented in plugins/modules/files.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible_collections.flotilla.kit.plugins.module_utils import untyped


class ActionModule(ActionBase):
    """Gives the module every file's text."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: untyped.Variables | None = None) -> untyped.Result:
        """Render what is rendered here, and run the module."""
        result: untyped.Result = super().run(tmp, task_vars)
        files = self._task.args.get("files")
        if not isinstance(files, list) or not all(isinstance(entry, Mapping) for entry in files):
            return result | {"failed": True, "msg": "files must be a list of entries, each with a path"}
        wanted = [dict(entry) for entry in files if boolean(entry.get("when", True), strict=False)]
        try:
            arguments = {**self._task.args, "files": [self._filled(entry, task_vars or {}) for entry in wanted]}
        except AnsibleError as error:
            return result | {"failed": True, "msg": str(error)}
        result.update(self._execute_module("flotilla.kit.files", module_args=arguments, task_vars=task_vars))
        result.pop("invocation", None)  # all the texts once more
        return result

    def _filled(self, entry: untyped.Parameters, task_vars: untyped.Variables) -> untyped.Parameters:
        """Return the entry with its text, where it is a file."""
        path, state = entry.get("path"), entry.get("state", "file")
        given = [key for key in ("content", "template", "src", "target") if entry.get(key) is not None]
        if state == "file" and (len(given) != 1 or given == ["target"]):
            raise AnsibleError(f"{path} needs exactly one of content, template and src")
        if state == "link" and given != ["target"]:
            raise AnsibleError(f"{path} needs the target that it is to lead to")
        if state in ("directory", "absent") and given:
            raise AnsibleError(f"{path} is to be {state}, and has no {given[0]}")
        if state != "file":
            return entry
        own = entry.pop("vars", None) or {}
        text = entry.get("content")
        if name := entry.pop("template", None):
            text = self._rendered(name, task_vars, own, str(path))
        elif name := entry.pop("src", None):
            # Not by the loader's own reading: what is in a file isn't a template.
            text = Path(self._find_needle("files", name)).read_text(encoding="utf-8")
        elif not isinstance(text, str):
            text = json.dumps(text, indent=4, sort_keys=True) + "\n"
        return {**entry, "content": text}

    def _rendered(self, name: str, task_vars: untyped.Variables, own: Mapping[str, object], path: str) -> str:
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        variables = {**task_vars, "ansible_search_path": self._task.get_search_path()}
        try:
            # As the module template does it: comment's text says who manages the file.
            return str(lookup.run([name], variables=variables, template_vars={"dest": path, **own})[0])
        except AnsibleError as error:
            raise AnsibleError(f"{path} can't be made of {name}: {error}") from error
