"""Arrows of the trainers' package run one way: programs, then folders that import only those after them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "training/flotilla"
ORDER = (
    "",
    "inference",
    "sweep",
    "adapter",
    "model",
    "loop",
    "supervision",
    "storage",
    "job",
)  # "": the programs, which hosts run


def imports(file: Path) -> Iterator[str]:
    """Yield the package's modules that a file imports, wherever in it, as storage.hdfs."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flotilla":
            inside = (node.module or "").removeprefix("flotilla").removeprefix(".")
            for alias in node.names:
                name = f"{inside}.{alias.name}".strip(".")
                yield name if PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists() else inside


def modules() -> dict[str, set[str]]:
    """Return what each module imports."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            found[name] = set(imports(file)) - {name, ""}
    return found


def folder(module: str) -> str:
    return module.rpartition(".")[0]


def test_every_module_lies_in_a_known_folder() -> None:
    assert {folder(module) for module in modules()} == set(ORDER)


def test_no_folder_imports_one_before_it() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, all_ in modules().items()
        for imported in all_
        if ORDER.index(folder(imported)) < ORDER.index(folder(module))
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = modules()
    while ready := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in ready:
            del left[module]
    assert not left
