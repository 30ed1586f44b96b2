"""The folder that a task's program runs in: a copy of the program's own, in which it may write what it likes.

What it has written there when it ends goes beside the checkpoints, from where it is stored with the model.
"""

from __future__ import annotations

import contextlib
import filecmp
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flotilla.job.errors import BadInput
from flotilla.storage.files import CHUNK, open_folder

OUTPUT = "local"  # in the model directory: a folder for each task
LIMIT = 1_000_000_000  # bytes of a task

_log = logging.getLogger("flotilla")


def make(work_dir: str, task: str, program: Path) -> Path:
    """Return the task's folder for this state of a program; a restarted task finds what it has written before.

    Raises:
        BadInput: the disk refuses it.
    """
    state = hashlib.sha256(str(program).encode()).hexdigest()[:12]
    folder = Path(work_dir).absolute() / task / state
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        # Links stay links: in a repository one may lead to a folder above itself.
        shutil.copytree(program, part, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for path in [part, *part.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        part.rename(folder)
    except (OSError, shutil.Error) as error:
        raise BadInput(f"The program can't be copied to {folder}: {error}.") from error
    return folder


@contextlib.contextmanager
def inside(folder: Path | None) -> Iterator[None]:
    """Work in a folder, where there is one."""
    before = Path.cwd()
    if folder:
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def keep_output(folder: Path, program: Path, model_dir: str, task: str) -> None:
    """Copy what a program has written into its folder to the model directory's local/TASK; name what is too much."""
    left, too_large = LIMIT, []
    target = open_folder(model_dir)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or "__pycache__" in name.parts or _same(path, program / name):
            continue
        size = path.stat().st_size
        if size > left:
            too_large.append(str(name))
            continue
        left -= size
        with path.open("rb") as file:
            target.write(f"{OUTPUT}/{task}/{name.as_posix()}", iter(functools.partial(file.read, CHUNK), b""))
    if too_large:
        _log.warning(
            "%s has written more than %d MB into its working folder; not stored: %s",
            task, LIMIT // 10**6, ", ".join(too_large),
        )  # fmt: skip


def _same(path: Path, original: Path) -> bool:
    return original.is_file() and filecmp.cmp(path, original, shallow=False)
