#!/usr/bin/env python3
"""Write what each role's meta/argument_specs.yml says into its README.md and its defaults/main.yml.

In README.md the parts "variables" and "entry points" between marks are written, in defaults/main.yml the comment above
each variable. Run it after a change of a specification: python scripts/role_docs.py
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import TypedDict

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
WIDTH = 120
PART = "<!-- {} (scripts/role_docs.py writes this part from meta/argument_specs.yml) -->\n"
END = "<!-- end -->"


class Option(TypedDict, total=False):
    """A variable, as Ansible's argument specs have it."""

    description: str | list[str]
    default: object
    required: bool
    choices: list[object]


class Entry(TypedDict, total=False):
    """An entry point, as Ansible's argument specs have it."""

    short_description: str
    description: str | list[str]
    options: dict[str, Option]


def plain(description: str | list[str], quote: str = "`") -> str:
    """Return a description without Ansible's marks: C(x), V(x), O(x), M(x) and P(x#filter) become `x`."""
    text = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"\b[CMOPV]\(([^)#]*)(?:#\w+)?\)", rf"{quote}\1{quote}", text)


def wrap(text: str, first: str, rest: str) -> str:
    """Break a text into lines after words only."""
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def options(specs: dict[str, Entry]) -> dict[str, tuple[Option, list[str]]]:
    """Return a role's variables, each with its specification and the entry points that read it."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for entry, spec in specs.items():
        for name, option in (spec.get("options") or {}).items():
            found.setdefault(name, (option, []))[1].append(entry)
    return found


def default(option: Option) -> str:
    """Return a variable's default as a cell of the table."""
    if option.get("required"):
        return "required"
    if "default" not in option:
        return "computed"
    value = option["default"]
    values = value if isinstance(value, list) and value else [value]
    return ", ".join(f"`{one if isinstance(one, str) and one else json.dumps(one)}`" for one in values)


def variables(specs: dict[str, Entry]) -> str:
    """Return the table of a role's variables."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, (option, entries) in options(specs).items():
        text = plain(option["description"])
        if not all(f"{choice}" in text for choice in option.get("choices", [])):
            text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        if "main" in specs and "main" not in entries:
            text += f" (Entry points: {', '.join(f'`{entry}`' for entry in entries)}.)"
        lines.append(f"| `{name}` | {default(option)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def entry_points(specs: dict[str, Entry]) -> str:
    """Return the list of a role's entry points."""
    return "\n".join(
        wrap(f"`{entry}`: {spec['short_description']}. {plain(spec['description'])}", "- ", "  ")
        for entry, spec in specs.items()
    )


def readme(text: str, specs: dict[str, Entry]) -> str:
    """Return a README with the parts between marks written anew."""
    for part, write in (("variables", variables), ("entry points", entry_points)):
        mark = PART.format(part)
        before, found, rest = text.partition(mark)
        if found:
            text = f"{before}{mark}\n{write(specs)}\n\n{END}{rest.partition(END)[2]}"
    return text


def defaults(text: str, specs: dict[str, Entry]) -> str:
    """Return a file of defaults with a comment above each variable: the first sentence of its description."""
    known, lines = options(specs), list[str]()
    for line in text.splitlines():
        name = line.partition(":")[0]
        if name in known:
            while lines[-1].startswith("#"):
                lines.pop()
            sentence = plain(known[name][0]["description"], "").split(". ")[0].rstrip(".")
            lines += wrap(sentence, "# ", "# ").splitlines()
        lines.append(line)
    return "\n".join(lines) + "\n"


def written(role: str) -> dict[Path, str]:
    """Return a role's two files as they have to be."""
    folder = ROLES / role
    specs = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {
        file: write(file.read_text(), specs)
        for file, write in ((folder / "README.md", readme), (folder / "defaults/main.yml", defaults))
    }


def main() -> None:
    """Write the files of all roles."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for role in sorted(ROLES.iterdir()):
        for file, text in written(role.name).items():
            if file.read_text() != text:
                file.write_text(text)


if __name__ == "__main__":
    main()
