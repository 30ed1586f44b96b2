# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action check_variables: judges the user's variables. Documented in plugins/modules/check_variables.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible.vars.reserved import get_reserved_names
from ansible_collections.flotilla.kit.plugins.module_utils import untyped, variables

KIT = Path(__file__).parent.parent.parent


def known() -> dict[str, untyped.Option]:
    """Return the variables that the roles and the playbooks read, each with its argument specification."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, untyped.Option] = {}
    for file in sorted(KIT.glob("roles/*/meta/argument_specs.yml")):
        for entry in yaml.load(file.read_text(encoding="utf-8"), loader)["argument_specs"].values():
            found.update(entry.get("options") or {})
    found.update(yaml.load((KIT / "playbooks/vars/variables.yml").read_text(encoding="utf-8"), loader))
    return found


def texts(value: str) -> Mapping[str, object]:
    """Read a YAML mapping with all scalars as they are written; what is none is empty."""
    try:
        found = yaml.load(value, yaml.BaseLoader)  # makes text and nothing else
    except (yaml.YAMLError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def written(name: str, folder: str | None) -> str | None:
    """Return how a variable is written in the YAML that it comes from, or None where that isn't known."""
    for option in reversed(context.CLIARGS.get("extra_vars") or ()):
        text = str(option)
        if text.startswith("@"):
            text = _read(Path(text[1:]).expanduser())
        elif text[:1] not in ("{", "["):
            if f"{name}=" in text:
                return None
            continue
        if name in texts(text):
            return str(texts(text)[name])
    place = Path(folder or ".") / "group_vars"
    for file in [*sorted((place / "all").glob("*.y*ml"), reverse=True), place / "all.yaml", place / "all.yml"]:
        found = texts(_read(file)) if folder else {}
        if name in found:
            return str(found[name])
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


class ActionModule(ActionBase):
    """Fails with a sentence for each variable that is wrong."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: untyped.Variables | None = None) -> untyped.Result:
        """Collect the variables, judge them, and say what is wrong."""
        result: untyped.Result = super().run(tmp, task_vars)
        _dummy, options = self.validate_argument_spec(
            {"judge": {"type": "str", "choices": ["typed", "all", "training", "inference", "sweep"], "default": "all"}}
        )
        problems = self._problems(options["judge"], task_vars or {})
        result.update({"failed": True, "msg": "\n".join(problems)} if problems else {"changed": False})
        return result

    def _problems(self, judge: str, task_vars: untyped.Variables) -> list[str]:
        specs = known()
        typed = set(load_extra_vars(self._loader))
        if "_raw_params" in typed:
            words = load_extra_vars(self._loader)["_raw_params"]
            return [f"-e '{words}' sets no variable: write it as -e name=value."]
        if judge == "typed":
            return variables.check_names([], typed, specs)
        # Those of all hosts, without what plays and roles set for themselves
        every = {*task_vars["groups"]["all"], task_vars["inventory_hostname"]}
        names = {str(name) for host in every for name in task_vars["hostvars"][host]}
        names -= {*get_reserved_names(), *constants.INTERNAL_STATIC_VARS, "omit"}
        problems = variables.check_names(names, typed, specs)
        values, open_names = {}, set()
        for name in sorted(names & set(specs)):
            try:
                values[name] = self._templar.template(task_vars[name])
            except Exception:  # it may be of use on a host, with variables that aren't here
                open_names.add(name)
        problems += variables.check_values(values, specs, written("job", task_vars.get("inventory_dir")))
        if judge == "training":
            problems += variables.check_needed(values, open_names)
        if judge == "inference":
            problems += variables.check_inference(values, open_names)
        if judge == "sweep":
            problems += variables.check_sweep(values, open_names)
        return problems
