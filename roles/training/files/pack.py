"""Print files of a folder as a tar.gz in base64, byte for byte the same for the same files.

pack.py ROOT NAME…: the named files and folders of ROOT, as far as they are there. pack.py --check ROOT NAME… ENTRY:
print nothing, but say what is wrong with the Python program that they are, whose first file is ENTRY.
"""

import ast
import base64
import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

LIMIT = 20_000_000  # bytes; it goes to every host from here


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
            f"{root} has {sum(sizes.values()) / 1e6:.0f} MB, {large} the most of it: data belong into dataset_source"
        )
    trees = {}
    for path in paths:
        if path.suffix == ".py":
            try:
                trees[path] = ast.parse(path.read_bytes(), str(path))
            except (SyntaxError, ValueError) as error:
                sys.exit(f"{path}, line {getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}")
    if names == ["."]:
        return
    for node in ast.walk(trees[root / entry]):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        beside = [name for name in modules if name and (root / f"{name.split('.')[0]}.py").is_file()]
        if beside:
            sys.exit(
                f"{entry} imports {beside[0]}, which lies beside it: give the folder, and {entry} as training_entry"
            )


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(Path(sys.argv[2]), sys.argv[3:-1], sys.argv[-1])
    else:
        print(base64.b64encode(pack(Path(sys.argv[1]), sys.argv[2:])).decode())
