"""A data set's files on this host's own disk, for programs that read them by Python's own means."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from flotilla.job.errors import BadInput, Temporary
from flotilla.storage.files import open_folder

SPARE = 1_000_000_000  # bytes that stay free on the disk, for HDFS and the system


def copy(url: str, folder: Path, say: Callable[[str], object]) -> None:
    """Make folder hold the files of url, those that it hasn't yet; say now and then how far that is.

    Of several tasks of a host one copies, and the others wait for it. The folder is the kit's own: what isn't in url
    is deleted, and so are its sibling folders, the data of earlier jobs.

    Raises:
        BadInput: there is nothing in url, or the disk is too small for it.
        Temporary: HDFS or the disk failed.
    """
    source = open_folder(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waits for another task, which copies the data set to {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for other in folder.parent.iterdir():
                if other.is_dir() and other != folder:
                    shutil.rmtree(other)
            folder.mkdir(exist_ok=True)
            statuses = source.statuses()
            if not statuses:
                raise BadInput(f"{url} has no files: stage the data set first.")
            there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            for name, path in there.items():
                one = statuses.get(name)
                # A copy has its original's time, so that one that was replaced is known.
                if one is None or (path.stat().st_size, int(path.stat().st_mtime)) != (one.size, int(one.changed)):
                    path.unlink()
            missing = {name: one for name, one in statuses.items() if not (folder / name).is_file()}
            total, done = sum(one.size for one in missing.values()), 0
            free = shutil.disk_usage(folder).free
            if total + SPARE > free:
                raise BadInput(
                    f"{folder} has room for {max(0, free - SPARE) / 1e9:.1f} GB, but the data set needs "
                    f"{total / 1e9:.1f} GB there besides HDFS: "
                    "give the hosts larger disks (volume_size in fleet_groups)."
                )
            for name, one in sorted(missing.items()):
                say(f"copies the data set to its disk, {100 * done // (total or 1)} % of {total / 1e6:.0f} MB")
                to = folder / name
                to.parent.mkdir(parents=True, exist_ok=True)
                part = to.with_name(f".{to.name[:200]}.part")
                with part.open("wb") as file:
                    file.writelines(source.read(name))
                os.utime(part, (one.changed, one.changed))
                part.replace(to)
                done += one.size
    except OSError as error:
        raise Temporary(f"{folder}: {error.strerror or error}.") from error
    finally:
        say("")
