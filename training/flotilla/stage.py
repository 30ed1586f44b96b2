"""Copies a data set from S3 to HDFS (or a local folder), and proves that every byte arrived.

One host runs `check --begin`, then each host `run` for its share of the files. The last to end compares HDFS's own
checksums with the manifest and writes the manifest beside the data, last: the mark of a verified data set. `verify`
does that at any time, and says what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import google_crc32c

from flotilla.job.errors import BadInput, Mismatch, ProgramError, Temporary
from flotilla.storage import manifest
from flotilla.storage.files import Files, is_temporary, open_folder, temporary_name
from flotilla.storage.manifest import Entry, Manifest
from flotilla.storage.s3 import Away, Prefix
from flotilla.supervision.progress import Progress

ATTEMPTS = 5
THREADS = 4
_log = logging.getLogger(__name__)


def load(source: Prefix) -> Manifest:
    """Read the manifest of a data set in S3."""
    try:
        raw = source.read(manifest.NAME)
    except FileNotFoundError as error:
        raise BadInput(
            f"{source.url()} has no {manifest.NAME}: name a prefix with a prepared data set "
            "(scripts/dataset.py uploads one)."
        ) from error
    return manifest.parse(raw, source.url(manifest.NAME))


def plan(source: Prefix) -> dict[str, object]:
    """Compare all objects in S3 with the manifest, reading none, and return the data set's totals."""
    data = load(source)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda entry: _check_object(source, entry), data.files))  # raises the first error
    records: Counter[str] = Counter()
    for entry in data.files:
        records[entry.split] += entry.records
    return {"name": data.name, "objects": len(data.files), "bytes": data.size, "records": dict(records)}


def check(source: Prefix, target: Files, begin: bool = False, replace: bool = False) -> dict[str, object]:
    """Say whether the target holds the whole data set already, verified and still the same bytes.

    With `begin`, when it is about to be staged: where it doesn't, take away what an earlier staging has said, so that
    nobody takes the old data set for the new one; raise BadInput where another one is there that mustn't be replaced.
    """
    data = load(source)
    sizes = target.sizes()
    mark = _mark(target, sizes)
    verified = mark == data.raw and _whole(target, data, sizes)
    if begin and not verified:
        if mark not in (None, data.raw) and not replace:
            raise _another(source, target)
        for name in (manifest.NAME, manifest.FAILED):
            if name in sizes:
                target.delete(name)
    return {"verified": verified}


def run(
    source: Prefix,
    target: Files,
    share: int = 0,
    shares: int = 1,
    replace: bool = False,
    meter: Meter | None = None,
) -> dict[str, object]:
    """Copy one host's share of the files, verify all if they are there; return {changed, objects, bytes, skipped}."""
    meter = meter or Meter(None)
    data = load(source)
    mine = data.share(share, shares)
    meter.begin(sum(entry.size for entry in mine))
    sizes = target.sizes()
    mark = _mark(target, sizes)
    if mark not in (None, data.raw) and not replace:
        raise _another(source, target)
    with _told(target):
        same_size = [entry.path for entry in mine if sizes.get(entry.path) == entry.size]
        sums = target.checksums(same_size)
        missing = [entry for entry in mine if sums.get(entry.path) != entry.crc32c]
        for entry in mine:
            if temporary_name(entry.path) in sizes:
                target.delete(temporary_name(entry.path))
        if missing:
            if share == 0:  # for all: it takes Hadoop's own command
                _check_space(target, sum(entry.size for entry in data.files if sizes.get(entry.path) != entry.size))
            if mark is not None:
                target.delete(manifest.NAME)
            for entry in missing:
                if entry.path in sizes:
                    target.delete(entry.path)
        skipped = len(mine) - len(missing)
        meter.add(sum(entry.size for entry in mine) - sum(entry.size for entry in missing), copied=False)

        stop = threading.Event()
        with ThreadPoolExecutor(THREADS) as pool:
            copies = [pool.submit(_copy, source, target, entry, meter, stop) for entry in missing]
            try:
                for copy in wait(copies, return_when=FIRST_EXCEPTION).done:
                    copy.result()
            finally:
                stop.set()  # one bad file stops the others
                pool.shutdown(cancel_futures=True)
        # Whoever looks last sees all that was copied. What then differs may still be another host's to replace.
        sizes = target.sizes()
        verified = _whole(target, data, sizes)
        if verified:
            _finish(target, data, sizes, replace)
        meter.finish(f"{len(missing)} files copied, {skipped} were there{', all verified' if verified else ''}")
    return {
        "changed": bool(missing),
        "objects": len(mine),
        "bytes": sum(entry.size for entry in mine),
        "skipped": skipped,
    }


def verify(source: Prefix, target: Files, replace: bool = False) -> dict[str, object]:
    """Compare all files with the manifest by the target's checksums, then write the manifest there."""
    data = load(source)
    sizes = target.sizes()
    mark = _mark(target, sizes)
    if mark not in (None, data.raw) and not replace:
        raise _another(source, target)
    with _told(target):
        for entry in data.files:
            if entry.path not in sizes:
                target.delete(manifest.NAME)
                raise Mismatch(f"{target.url(entry.path)} is missing: stage the data set again.")
        sums = target.checksums([entry.path for entry in data.files])
        for entry in data.files:
            found = (sizes[entry.path], sums[entry.path])
            if found != (entry.size, entry.crc32c):
                target.delete(manifest.NAME)
                target.delete(entry.path)
                raise Mismatch(
                    f"{target.url(entry.path)} has {found[0]} bytes and CRC-32C {found[1]}, its manifest says "
                    f"{entry.size} and {entry.crc32c}; it was deleted: stage the data set again."
                )
        changed = _finish(target, data, sizes, replace)
    return {"changed": changed, "objects": len(data.files), "bytes": data.size, "skipped": 0}


def _whole(target: Files, data: Manifest, sizes: dict[str, int]) -> bool:
    """Whether the target has every file, with its bytes."""
    if any(sizes.get(entry.path) != entry.size for entry in data.files):
        return False
    sums = target.checksums([entry.path for entry in data.files])
    return all(sums[entry.path] == entry.crc32c for entry in data.files)


def _finish(target: Files, data: Manifest, sizes: dict[str, int], replace: bool) -> bool:
    """Mark the target's files as verified, and remove what is no part of them; return whether the mark is new.

    Hosts that end at the same moment all do it, and take the unfinished mark from each other: so each tries again.
    """
    wanted = {entry.path for entry in data.files} | {manifest.NAME}
    attempt = 0
    while True:
        attempt += 1
        try:
            for path in sizes:
                if is_temporary(path) or path == manifest.FAILED or (replace and path not in wanted):
                    target.delete(path)
            if _mark(target, sizes) == data.raw:
                return False
            target.write(manifest.NAME, [data.raw])
            return True
        except (FileNotFoundError, Temporary):
            if attempt == ATTEMPTS:
                raise
            time.sleep(random.uniform(0.5, 1.5) * attempt)
            sizes = target.sizes()


@contextlib.contextmanager
def _told(target: Files) -> Iterator[None]:
    """Tell whoever waits for the data set when staging it fails for good."""
    try:
        yield
    except (BadInput, Mismatch, FileNotFoundError) as error:
        problem = _gone(error) if isinstance(error, FileNotFoundError) else error
        content = json.dumps({"message": str(problem), "at": time.time()}) + "\n"
        with contextlib.suppress(ProgramError):  # who waits gives up by itself, later
            target.write(manifest.FAILED, [content.encode()])
        raise problem from error


def _gone(error: FileNotFoundError) -> Mismatch:
    return Mismatch(f"{error} is gone: stage the data set again.")


def _mark(target: Files, sizes: dict[str, int]) -> bytes | None:
    """Return the manifest that marks the target's data set as verified, if there is one."""
    try:
        return b"".join(target.read(manifest.NAME)) if manifest.NAME in sizes else None
    except FileNotFoundError:  # by another host, just now
        return None


def _another(source: Prefix, target: Files) -> BadInput:
    return BadInput(
        f"{target.url()} holds another data set than {source.url()}: choose another target, "
        "or replace it (--replace; the role's dataset_replace)."
    )


def _check_object(source: Prefix, entry: Entry) -> None:
    """Compare an object's size, and its checksum where S3 has one, with the manifest."""
    try:
        size, crc = source.head(entry.path)
    except FileNotFoundError as error:
        raise Mismatch(
            f"{source.url(entry.path)} is in the manifest but not in S3: upload the data set again."
        ) from error
    if size != entry.size:
        raise _mismatch(source, entry, f"{entry.size} bytes", f"{size}")
    if crc not in (None, entry.crc32c):
        raise _mismatch(source, entry, f"CRC-32C {entry.crc32c}", f"{crc}")


def _mismatch(source: Prefix, entry: Entry, expected: str, found: str) -> Mismatch:
    return Mismatch(
        f"{source.url(entry.path)} is damaged: its manifest says {expected}, S3 has {found}; upload the data set again."
    )


def _check_space(target: Files, size: int) -> None:
    free, copies = target.free()
    if size * copies > free:
        raise BadInput(
            f"{target.url()} has {free / 1e9:.1f} GB free, but what is missing needs "
            f"{size * copies / 1e9:.1f} GB ({copies} x {size / 1e9:.1f}): use larger volumes."
        )


def _copy(source: Prefix, target: Files, entry: Entry, meter: Meter, stop: threading.Event) -> None:
    """Copy one file, a few times if the target fails; S3 is patient by itself."""
    _check_object(source, entry)
    for attempt in range(1, ATTEMPTS + 1):
        counted = _Counted(source, entry, meter, stop)
        try:
            target.write(entry.path, counted)
            return
        except Temporary as error:
            meter.add(-counted.size)
            if isinstance(error, Away) or attempt == ATTEMPTS or stop.is_set():
                raise
            _log.warning("%s Copying it again.", error)
            time.sleep(2.0**attempt)


class _Counted:
    """An object's bytes, checked against the manifest at their end: what iterates over them learns of it."""

    def __init__(self, source: Prefix, entry: Entry, meter: Meter, stop: threading.Event) -> None:
        self._source, self._entry, self._meter, self._stop = source, entry, meter, stop
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        value = 0
        for chunk in self._source.stream(self._entry.path):
            if self._stop.is_set():
                raise Temporary("Stopped, since another file failed.")
            value = google_crc32c.extend(value, chunk)
            self.size += len(chunk)
            self._meter.add(len(chunk))
            yield chunk
        if self.size != self._entry.size:
            raise _mismatch(self._source, self._entry, f"{self._entry.size} bytes", f"{self.size}")
        if f"{value:08x}" != self._entry.crc32c:
            raise _mismatch(self._source, self._entry, f"CRC-32C {self._entry.crc32c}", f"{value:08x}")


class Meter:
    """Counts the bytes of all threads, and tells the progress file now and then."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._progress = Progress(path, "stage", 0, "bytes")
        self._lock = threading.Lock()
        self._done = self._copied = 0
        self._start = self._told = time.monotonic()

    def begin(self, total: int) -> None:
        self._progress = Progress(self._path, "stage", total, "bytes")
        self._start = time.monotonic()

    def add(self, size: int, copied: bool = True) -> None:
        with self._lock:
            self._done += size
            self._copied += size if copied else 0
            now = time.monotonic()
            if now - self._told >= 0.5:
                self._told = now
                self._tell()

    def fail(self, error: ProgramError) -> None:
        with self._lock:
            if isinstance(error, Temporary):  # the unit is started again, so this isn't the end
                self._tell(f"{error} Trying again.")
            else:
                self._progress.fail(str(error))

    def finish(self, message: str) -> None:
        with self._lock:
            self._tell()
            self._progress.finish(message)

    def _tell(self, message: str = "") -> None:
        seconds = max(time.monotonic() - self._start, 1e-3)
        self._progress.update(self._done, round(self._copied / 1e6 / seconds, 1), "MB/s", message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flotilla.stage", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--source", required=True, metavar="s3://BUCKET/PREFIX/", help="the data set in S3")
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument("--target", required=True, metavar="URL", help="hdfs://host:port/path, or a folder")
    replace = argparse.ArgumentParser(add_help=False)
    replace.add_argument("--replace", action="store_true", help="replace another data set at the target")
    commands.add_parser("plan", parents=[source], help="check the objects in S3 and print the totals")
    checking = commands.add_parser(
        "check", parents=[source, target, replace], help="say whether all is verified already"
    )
    checking.add_argument("--begin", action="store_true", help="and if not, forget what an earlier staging has said")
    running = commands.add_parser("run", parents=[source, target, replace], help="copy a share of the files")
    running.add_argument("--share", type=int, default=0, metavar="I", help="which share, from 0 (default: 0)")
    running.add_argument("--shares", type=int, default=1, metavar="N", help="of how many (default: 1)")
    running.add_argument("--progress", metavar="FILE", help="file to which the progress is written")
    commands.add_parser("verify", parents=[source, target, replace], help="compare all, write the manifest")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 3 mismatch, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    meter = Meter(getattr(args, "progress", None))
    try:
        source = Prefix(args.source)
        if args.command == "plan":
            result = plan(source)
        elif args.command == "check":
            result = check(source, open_folder(args.target), args.begin, args.replace)
        elif args.command == "run":
            result = run(source, open_folder(args.target), args.share, args.shares, args.replace, meter)
        else:
            result = verify(source, open_folder(args.target), args.replace)
    except FileNotFoundError as error:  # deleted while it was looked at
        return _failed(_gone(error), meter)
    except ProgramError as error:
        return _failed(error, meter)
    print(json.dumps(result))
    return 0


def _failed(error: ProgramError, meter: Meter) -> int:
    meter.fail(error)
    print(f"flotilla.stage: {error}", file=sys.stderr)
    return error.code


if __name__ == "__main__":
    sys.exit(main())
