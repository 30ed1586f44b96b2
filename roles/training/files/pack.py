"""Print files of a folder as a tar.gz in base64, byte for byte the same for the same files.

pack.py ROOT NAME…: the named files and folders of ROOT, as far as they are there. pack.py --check ROOT NAME… ENTRY:
print what isn't followed, and say what is wrong with the Python program that they are, whose first file is ENTRY.
"""

import ast
import base64
import codecs
import gzip
import io
import os
import re
import sys
import tarfile
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

LIMIT = 20_000_000  # bytes; it goes to every host from here
LOCK = Path(__file__).parents[3] / "training/requirements-cpu.lock"  # what the hosts have; on GPUs the same
OTHER_NAMES = ("tensorflow", "tensorflow-gpu", "tensorflow-intel")  # of tensorflow-cpu


def walk(folder):
    """Yield the files below a folder, also where links lead, but not in a circle."""
    for path, folders, files in os.walk(folder, followlinks=True):
        here = Path(path).resolve()
        folders[:] = [name for name in folders if not here.is_relative_to(Path(path, name).resolve())]
        yield from (Path(path, name) for name in files)


def find(root, names):
    """List the files, without hidden ones, environments, and what Python leaves behind."""
    found = [file for name in names for file in (walk(root / name) if (root / name).is_dir() else [root / name])]
    others = {path.parent for path in found if path.name == "pyvenv.cfg"}
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
        and not others.intersection(path.parents)
    )


def pack(root, names):
    """Pack the files with neither times nor owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in find(root, names):
            entry = tarfile.TarInfo(str(path.relative_to(root)))
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return gzip.compress(buffer.getvalue(), mtime=0)


def imports(nodes):
    """Yield the names of the modules that statements import, or take something from."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names)


def text(path):
    """Return a requirements.txt's text, also as PowerShell writes it."""
    raw = path.read_bytes()
    return raw.decode("utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig", "replace")


def say_requirements(path):
    """Say where a requirements.txt asks for another version of TensorFlow, or of what comes with it, than there is."""
    there = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \n]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    there |= dict.fromkeys(OTHER_NAMES, there["tensorflow-cpu"])
    for line in text(path).splitlines():
        try:
            wanted = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option, a path, an address
            continue
        has = there.get(canonicalize_name(wanted.name))
        if has and not wanted.specifier.contains(has):
            print(f"{path.name} asks for {wanted.name}{wanted.specifier}: the hosts have {has}, which stays.")


def check(root, names, entry):
    """Say in one sentence why this program can't run, as far as can be seen on this machine."""
    first = root if names == ["."] else root / names[0]
    if not first.exists():
        sys.exit(f"there is no {first}")
    paths = find(root, names)
    if root / entry not in paths or not entry.endswith(".py"):
        sys.exit(f"{root} has no Python file {entry}: training_entry names the one to run")
    sizes = {path: path.stat().st_size for path in paths}
    if sum(sizes.values()) > LIMIT:
        large = max(sizes, key=sizes.get)
        sys.exit(
            f"{root} has {sum(sizes.values()) / 1e6:.0f} MB, {large} the most of it, and at most "
            f"{LIMIT / 1e6:.0f} MB go to each host: data belong into dataset_source, libraries into requirements.txt"
        )
    if root / "requirements.txt" in paths:
        say_requirements(root / "requirements.txt")
    trees, reached = {}, [root / entry]
    while reached:  # a file that nobody imports may be of another Python (as in flotilla/adapter/program.py)
        path = reached.pop()
        if path in trees:
            continue
        try:
            trees[path] = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as error:
            sys.exit(f"{path}, line {getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}")
        imported = {part for name in imports(trees[path].body) for part in name.split(".")}
        here = (path for path in paths if path.suffix == ".py")
        reached += [path for path in here if (path.parent.name if path.stem == "__init__" else path.stem) in imported]
    if names == ["."]:
        return
    for module in imports(ast.walk(trees[root / entry])):
        name = module.split(".")[0]
        if (root / f"{name}.py").is_file():
            sys.exit(f"{entry} imports {name}, which lies beside it: give the folder, and {entry} as training_entry")


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(Path(sys.argv[2]), sys.argv[3:-1], sys.argv[-1])
    else:
        print(base64.b64encode(pack(Path(sys.argv[1]), sys.argv[2:])).decode())
