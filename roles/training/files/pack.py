"""Print files of a folder as a tar.gz in base64, byte for byte the same for the same files.

pack.py ROOT NAME…: the named files and folders of ROOT. pack.py --check ROOT NAME… ENTRY: print nothing, but say what
is wrong with the Python program that they are, whose first file is ENTRY.
"""

import base64
import gzip
import io
import sys
import tarfile
from pathlib import Path


def find(root, names):
    """List the files, without hidden ones and what Python leaves behind."""
    found = [file for name in names for file in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])]
    visible = (p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))
    return sorted(p for p in visible if p.is_file() and "__pycache__" not in p.parts)


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
    if not root.is_dir() or not all((root / name).exists() for name in names):
        sys.exit(f"there is no {root / names[0] if names != ['.'] else root}")
    if root / entry not in find(root, names):
        sys.exit(f"{root} has no {entry}: training_entry names the file to run")
    for path in find(root, names):
        if path.suffix == ".py":
            try:
                compile(path.read_bytes(), str(path), "exec")
            except (SyntaxError, ValueError) as error:
                sys.exit(f"{path}, line {getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}")


if sys.argv[1] == "--check":
    check(Path(sys.argv[2]), sys.argv[3:-1], sys.argv[-1])
else:
    print(base64.b64encode(pack(Path(sys.argv[1]), sys.argv[2:])).decode())
