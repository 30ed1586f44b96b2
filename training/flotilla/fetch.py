"""Fetches somebody's training program from S3, an archive or a single Python file, into a folder of this host.

Each state of the object gets a folder of its own below FOLDER, which is there whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO

from flotilla.job.errors import BadInput, ProgramError, Temporary
from flotilla.storage.s3 import Prefix

KINDS = (".tar.gz", ".tgz", ".zip", ".py")
_log = logging.getLogger(__name__)
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, BadGzipFile, EOFError, KeyError, RuntimeError, ValueError)


def fetch(url: str, folder: Path, only_look: bool = False) -> dict[str, object]:
    """Return {home (the program's own folder), changed (whether it wasn't there)}."""
    kind = next((kind for kind in KINDS if url.endswith(kind)), None)
    if kind is None:
        raise BadInput(f"{url} is no program: pack it as one of {', '.join(KINDS)}.")
    prefix, name = url.rsplit("/", 1)
    source = Prefix(prefix)
    try:
        etag = source.etag(name)
        # The last folder's name is a part of the program's (flotilla.adapter.program).
        home = folder / hashlib.sha256(etag.encode()).hexdigest()[:12] / name.removesuffix(kind)
        missing = not home.exists()
        if missing and not only_look:
            _put(source, name, etag, kind, home)
    except FileNotFoundError as error:
        raise BadInput(f"There is no {url}: upload the program there, or correct training_program.") from error
    except _BROKEN as error:
        raise BadInput(f"{url} isn't a whole archive ({str(error) or type(error).__name__}): pack it again.") from error
    except OSError as error:
        raise Temporary(f"{folder}: {error.strerror or error}.") from error
    return {"home": str(home), "changed": missing}


def _put(source: Prefix, name: str, etag: str, kind: str, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as temporary, tempfile.TemporaryFile() as file:
        for chunk in source.stream(name, etag=etag):
            file.write(chunk)
        file.seek(0)
        root = Path(temporary) / "root"
        root.mkdir()
        for path, content in _files(file, kind, name):
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts:
                raise BadInput(f"{source.url(name)} has a file {path}, which lies outside of it: pack it again.")
            if any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in parts):
                continue
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        for mark in list(root.rglob("pyvenv.cfg")):  # somebody's Python environment, of another machine
            shutil.rmtree(mark.parent)
        top = list(root.iterdir())
        (top[0] if len(top) == 1 and top[0].is_dir() else root).rename(home)


def _files(file: IO[bytes], kind: str, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of all files; what links lead to are files, too."""
    if kind == ".py":
        yield name, file.read()
    elif kind == ".zip":
        with zipfile.ZipFile(file) as zipped:
            for entry in zipped.infolist():
                path = entry.filename.replace("\\", "/")  # some of Windows' programs
                if not path.endswith("/"):
                    yield path, zipped.read(entry)
    else:
        # Not extractall(): the Python of Debian 12 lacks its filters.
        with tarfile.open(fileobj=file, mode="r:gz") as tarred:
            for member in tarred:
                try:
                    content = tarred.extractfile(member)
                except KeyError:
                    _log.warning("%s leads to %s, which isn't in the archive: left out.", member.name, member.linkname)
                    continue
                if content:
                    yield member.name, content.read()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m flotilla.fetch", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fetch nothing, but say where it would be")
    parser.add_argument("url", metavar="s3://BUCKET/KEY", help=f"the program, one of {', '.join(KINDS)}")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where programs are kept")
    args = parser.parse_args(argv)
    try:
        outcome = fetch(args.url, args.folder, args.check)
    except ProgramError as error:
        print(f"flotilla.fetch: {error}", file=sys.stderr)
        return error.code
    print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
