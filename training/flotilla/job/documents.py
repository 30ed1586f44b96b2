"""A YAML document with the line of each of its values: read safely, and no more than is sensible of it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from flotilla.job.errors import BadInput

MOST_BYTES = 100_000
MOST_DEPTH = 30
MOST_VALUES = 10_000  # with what aliases repeat

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Place = tuple[str | int, ...]  # the keys and positions that lead to a value

# YAML 1.1 takes 1e-3 for text; version 1.2, and everybody who writes it, for a number.
_Loader = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_implicit_resolver(  # type: ignore[attr-defined]
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


class Document(NamedTuple):
    """A document's content, of mappings, lists, text and numbers, and the line of every value or its key."""

    name: str  # of the file
    content: object
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of a value, or of the nearest one around it."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def wrong(self, place: Place, sentence: str) -> BadInput:
        """Return an error that says where it is."""
        return BadInput(f"{self.name}, line {self.line(place)}: {sentence}")


def read(path: str, what: str = "network") -> Document:
    """Read a file of what it should describe; raise BadInput with the line and what would be right."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}): name a {what}'s YAML file.") from error
    if len(raw) > MOST_BYTES:
        raise BadInput(f"{path} has more than {MOST_BYTES // 1000} kB, and no {what}'s file is as long: name another.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}, line {line}: this isn't UTF-8 text: name a {what}'s YAML file.") from error
    return parse(text, path, what)


def parse(text: str, name: str, what: str = "network") -> Document:
    """Parse a document; raise BadInput as `read` does."""
    try:
        _check_nesting(text, name)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1
        written = "".join(text.split("\n")[mark.line : line])
        if "\t" in written:
            raise BadInput(f"{name}, line {line}: there is a tab, and YAML indents by spaces: replace it.") from error
        problem = str(error.problem or error.context)
        if "single document" in f"{error.context} {error.problem}":
            problem = f"there is a second document, and a {what} is one"
        raise BadInput(f"{name}, line {line}: this isn't YAML ({problem}).") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise BadInput(f"{name}, line {line}: there is a control character: remove it.") from error
    if root is None:
        raise BadInput(f"{name}, line 1: there is nothing in it: write a {what}.")
    lines: dict[Place, int] = {(): root.start_mark.line + 1}
    return Document(name, _Maker(name, lines).value(root, ()), lines)


def _check_nesting(text: str, name: str) -> None:
    """Refuse deep nesting before anything follows it: events come without recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            line = event.start_mark.line + 1
            raise BadInput(f"{name}, line {line}: values lie more than {MOST_DEPTH} deep in one another: write less.")


class _Maker:
    """Makes values of YAML's nodes, and notes their lines."""

    def __init__(self, name: str, lines: dict[Place, int]) -> None:
        self._name, self._lines, self._values = name, lines, 0
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, place: Place) -> object:
        self._values += 1
        line = node.start_mark.line + 1
        if self._values > MOST_VALUES or len(place) > MOST_DEPTH:
            raise BadInput(
                f"{self._name}, line {line}: with what its aliases (*…) repeat there are more than {MOST_VALUES} "
                "values: write less, without aliases of aliases."
            )
        self._lines.setdefault(place, line)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise BadInput(f"{self._name}, line {line}: the tag {node.tag} isn't taken: leave it out.")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, (*place, number)) for number, one in enumerate(node.value)]
        return self._scalar(node, line)

    def _mapping(self, node: yaml.Node, place: Place) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadInput(f"{self._name}, line {line}: a key is a list or a mapping: give it a name.")
            key = str(key_node.value)
            if key in found:
                raise BadInput(
                    f"{self._name}, line {line}: {key} is there twice, first in line {self._lines[(*place, key)]}: "
                    "leave one out."
                )
            self._lines[(*place, key)] = line
            found[key] = self.value(value_node, (*place, key))
        return found

    def _scalar(self, node: yaml.Node, line: int) -> object:
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            why = str(getattr(error, "problem", None) or error).splitlines()[0]
            raise BadInput(f"{self._name}, line {line}: {str(node.value)[:40]!r} can't be read ({why}).") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{self._name}, line {line}: {node.value} isn't a number to count with: give another.")
        return value
