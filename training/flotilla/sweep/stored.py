"""A prepared table as files: in a folder that all hosts see, and on each host, where all workers map the same ones."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flotilla.storage.files import CHUNK, open_folder
from flotilla.sweep.numbers import Description, Floats, Prepared

DIGEST = "digest"
DESCRIPTION = "description.json"  # is written last
_ARRAYS = ("training", "training_labels", "held_out", "held_out_labels", "training_rows", "held_out_rows")


def put(shared: str, prepared: Prepared, digest: str) -> None:
    """Write a table to a folder, of HDFS or a local one; `digest` is of the file that it was."""
    there = open_folder(shared)
    there.write(DIGEST, [digest.encode()])
    for name in _ARRAYS:
        there.write(f"{name}.npy", _npy(getattr(prepared, name)))
    there.write(DESCRIPTION, [json.dumps(prepared.description).encode()])


def _npy(array: Floats) -> Iterator[bytes]:
    """Yield an array as numpy.save writes it, in parts: as a whole it were twice in memory."""
    array, header = np.ascontiguousarray(array), io.BytesIO()
    np.lib.format.write_array_header_2_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield header.getvalue()
    content = array.reshape(-1).view(np.uint8)
    for first in range(0, len(content), CHUNK):
        yield content[first : first + CHUNK].tobytes()


def digest_of(shared: str) -> str:
    """Return the digest of a folder's table; empty where there is no whole one."""
    there = open_folder(shared)
    try:
        b"".join(there.read(DESCRIPTION))
        return b"".join(there.read(DIGEST)).decode()
    except FileNotFoundError:
        return ""


def bring(shared: str, folder: Path) -> Prepared:
    """Copy a table to this host, unless it is there, and map it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # one worker of a host copies
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = open_folder(shared)
        wanted = b"".join(there.read(DESCRIPTION))
        mark = folder / DESCRIPTION
        if not mark.exists() or mark.read_bytes() != wanted:
            for name in _ARRAYS:
                with (folder / f"{name}.part").open("wb") as file:
                    file.writelines(there.read(f"{name}.npy"))
                (folder / f"{name}.part").replace(folder / f"{name}.npy")
            mark.write_bytes(wanted)
    return load(folder)


def load(folder: Path) -> Prepared:
    """Return the table of a local folder; its arrays stay in the files until they are read."""
    description: Description = json.loads((folder / DESCRIPTION).read_bytes())
    found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Prepared(**found, description=description)
