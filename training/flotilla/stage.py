"""Copies a data set from S3 to HDFS (or a local folder), and proves that every byte arrived.

A data set is any folder in S3. Where it has a manifest, that says which files there are; else the list of its objects
does, each of them held fast by its ETag. One host runs `check --begin`, then each host `run` for its share of the
files. Each compares HDFS's own checksums with the manifest's, or with those that it made while it copied. The last to
end writes verified.json into the folder beside the data, last: the mark of a verified data set. `verify` compares all
once more, and says what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypedDict

import google_crc32c

from flotilla.job.errors import BadInput, Mismatch, ProgramError, Temporary
from flotilla.storage import hdfs, manifest
from flotilla.storage.files import Files, Status, open_folder
from flotilla.storage.manifest import Entry, Manifest
from flotilla.storage.s3 import Away, Changed, Prefix
from flotilla.supervision.progress import Progress

ATTEMPTS = 5
THREADS = 4
MANY_THREADS = 16  # for files so small that most of the time is spent on waiting for answers
SMALL = 1_000_000  # bytes
BEGUN = "begun.json"  # the list of a folder's objects, as the first host has found it, for all hosts
SUMS = "sums-"  # what begins the name of a host's checksums
EARLIER = f"{SUMS}earlier.json"
SUMS_SECS = 10.0  # between two writings of them: who is killed has to copy no more than that again
_log = logging.getLogger(__name__)


class Begun(TypedDict):
    """The data set that hosts stage, as one of them has listed it."""

    source: str
    version: str
    files: list[tuple[str, int, str]]  # path, size, ETag


class Sums(TypedDict):
    """What a host has copied or found."""

    version: str
    verified: bool  # whether all of its share is there, and HDFS's checksums are these
    files: dict[str, tuple[str, str]]  # by path: ETag and CRC-32C


class Mark(TypedDict):
    """What says that a data set is there, and verified."""

    source: str
    version: str
    objects: int
    bytes: int
    at: float  # Unix time


class Target:
    """The folder that a data set is staged in, and the one beside it that says how that went."""

    def __init__(self, url: str) -> None:
        self.files: Files = open_folder(url)
        self._notes = manifest.notes(self.files.url())
        self._notes_files: Files = open_folder(self._notes)

    def url(self, path: str = "") -> str:
        """Return the full address of a path in the data set."""
        return self.files.url(path)

    def mark(self) -> Mark | None:
        """Return the mark of a verified data set, if there is one."""
        found = self._read(manifest.VERIFIED)
        return None if found is None else Mark(**found)  # type: ignore[typeddict-item]

    def marked(self) -> float:
        """Return when the data set was marked, by its file system's clock; 0 where it isn't."""
        status = self._notes_files.statuses().get(manifest.VERIFIED)
        return status.changed if status else 0.0

    def begun(self, source: str) -> Manifest | None:
        """Return what the first host has listed of this source."""
        found = self._read(BEGUN)
        if found is None or found.get("source") != source:
            return None
        begun = Begun(**found)  # type: ignore[typeddict-item]
        entries = tuple(Entry(path, size, etag=etag) for path, size, etag in begun["files"])
        return Manifest(source.rstrip("/").rsplit("/", 1)[-1], entries, {}, begun["version"])

    def sums(self) -> list[Sums]:
        """Return what all hosts have copied."""
        found = [self._read(name) for name in self._sums()]
        return [Sums(**one) for one in found if one]  # type: ignore[typeddict-item]

    def take_back(self) -> None:
        """Keep the hosts' checksums, but not that their shares are there: that is to be found anew."""
        files: dict[str, tuple[str, str]] = {}
        names = self._sums()
        for one in self.sums():
            files |= one["files"]
        if files:
            earlier: Sums = {"version": "", "verified": False, "files": files}
            self.say(EARLIER, earlier)
            self.unsay(*(name for name in names if name != EARLIER))

    def say(self, name: str, content: object) -> None:
        """Write a note, as a whole or not at all."""
        hdfs.write(self._note(name), (json.dumps(content) + "\n").encode())

    def unsay(self, *names: str) -> None:
        """Delete notes, those that are there."""
        for name in names:
            self._notes_files.delete(name)

    def _sums(self) -> list[str]:
        return sorted(name for name in hdfs.names(self._notes) if name.startswith(SUMS))

    def _note(self, name: str) -> str:
        return hdfs.join(self._notes, name)

    def _read(self, name: str) -> dict[str, object] | None:
        return hdfs.read_json(self._note(name))


def load(source: Prefix) -> Manifest:
    """Read the manifest of a data set in S3, or list its objects."""
    try:
        raw = source.read(manifest.NAME)
        if manifest.is_ours(raw):
            return manifest.parse(raw, source.url(manifest.NAME))
    except FileNotFoundError:
        pass
    return manifest.of_objects(source.objects(), source.url())


def check(
    source: Prefix, target: Target, begin: bool = False, replace: bool = False, version: str = ""
) -> dict[str, object]:
    """Say whether the target holds the whole data set already, verified and still the same bytes.

    With `begin`, when it is about to be staged: where it doesn't, take away what an earlier staging has said, so that
    nobody takes the old data set for the new one; raise BadInput where another one is there that mustn't be replaced,
    or where the source isn't of the version that was judged before.
    """
    data = load(source)
    if version and data.version != version:
        raise BadInput(
            f"{source.url()} has changed since it was judged, before the hosts were made: run the same command again."
        )
    mark = target.mark()
    verified = mark is not None and mark["version"] == data.version and _untouched(target, data)
    if begin and not verified:
        _refuse_another(source, target, mark, data, replace)
        target.unsay(manifest.VERIFIED, manifest.FAILED)
        target.take_back()
        earlier = target.begun(source.url())
        if data.raw:
            target.unsay(BEGUN)
        else:
            begun: Begun = {
                "source": source.url(),
                "version": data.version,
                "files": [(entry.path, entry.size, entry.etag) for entry in data.files],
            }
            target.say(BEGUN, begun)
        if earlier:  # of a staging that didn't come to its end
            for path in {entry.path for entry in earlier.files} - {entry.path for entry in data.files}:
                target.files.delete(path)
    return {"verified": verified, "version": data.version}


def run(
    source: Prefix,
    target: Target,
    share: int = 0,
    shares: int = 1,
    replace: bool = False,
    meter: Meter | None = None,
) -> dict[str, object]:
    """Copy one host's share of the files, and mark the data set if all are there.

    Returns changed (whether it has copied any), objects and bytes (of the share), skipped (files that were there).
    """
    meter = meter or Meter(None)
    data = target.begun(source.url()) or load(source)
    mine = data.share(share, shares)
    meter.begin(sum(entry.size for entry in mine))
    mark = target.mark()
    _refuse_another(source, target, mark, data, replace)
    with _told(target):
        known = _known(target, data)
        sizes = target.files.sizes()
        there = [one.path for one in mine if one.path in known and sizes.get(one.path) == one.size]
        sums = target.files.checksums(there)
        done = {path: known[path] for path in there if sums[path] == known[path]}
        missing = [entry for entry in mine if entry.path not in done]
        if missing and mark is not None:
            target.unsay(manifest.VERIFIED)
        meter.add(sum(entry.size for entry in mine if entry.path in done), copied=False)
        notes = _Notes(target, data, share, done)
        # One host asks for all.
        wanted = 0 if share else sum(entry.size for entry in data.files if sizes.get(entry.path) != entry.size)
        _copy_all(source, target, missing, meter, notes, wanted)
        _compare(target, {entry.path: notes.done[entry.path] for entry in missing})
        notes.write(verified=True)
        # Whoever looks last sees all that was copied. What then is missing is still another host's to copy.
        verified = _all_said(target, data)
        if verified:
            _finish(source, target, data, replace)
        meter.finish(f"{len(missing)} files copied, {len(done)} were there{', all verified' if verified else ''}")
    return {
        "changed": bool(missing),
        "objects": len(mine),
        "bytes": sum(entry.size for entry in mine),
        "skipped": len(done),
    }


def verify(source: Prefix, target: Target, replace: bool = False) -> dict[str, object]:
    """Compare all files with the manifest, or the copying's checksums, by the target's own, then write the mark."""
    data = target.begun(source.url()) or load(source)
    mark = target.mark()
    _refuse_another(source, target, mark, data, replace)
    with _told(target):
        known = _known(target, data)
        sizes = target.files.sizes()
        for entry in data.files:
            if entry.path not in sizes or entry.path not in known:
                target.unsay(manifest.VERIFIED)
                raise Mismatch(f"{target.url(entry.path)} is missing: stage the data set again.")
        sums = target.files.checksums([entry.path for entry in data.files])
        for entry in data.files:
            found = (sizes[entry.path], sums[entry.path])
            if found != (entry.size, known[entry.path]):
                target.unsay(manifest.VERIFIED)
                target.files.delete(entry.path)
                raise Mismatch(
                    f"{target.url(entry.path)} has {found[0]} bytes and CRC-32C {found[1]} instead of {entry.size} and "
                    f"{known[entry.path]}; it was deleted: stage the data set again."
                )
        changed = mark is None
        if changed:
            _finish(source, target, data, replace)
    return {"changed": changed, "objects": len(data.files), "bytes": data.size, "skipped": 0}


def _untouched(target: Target, data: Manifest) -> bool:
    """Whether the target has every file, none of them written since the mark was."""
    marked, found = target.marked(), target.files.statuses()
    files = {entry.path: entry.size for entry in data.files}
    if data.raw:
        files[manifest.NAME] = len(data.raw)
    absent = Status(-1, 0.0)
    return all(found.get(path, absent).size == size and found[path].changed <= marked for path, size in files.items())


def _known(target: Target, data: Manifest) -> dict[str, str]:
    """Return the CRC-32C of the files by path, as far as they are known: of the manifest, or of what was copied."""
    if data.raw:
        return {entry.path: entry.crc32c for entry in data.files}
    etags = {entry.path: entry.etag for entry in data.files}
    return {path: crc for one in target.sums() for path, (etag, crc) in one["files"].items() if etags.get(path) == etag}


def _all_said(target: Target, data: Manifest) -> bool:
    """Whether hosts have said of every file that it is there, and compared."""
    said: set[str] = set()
    for one in target.sums():
        if one["version"] == data.version and one["verified"]:
            said |= one["files"].keys()
    return all(entry.path in said for entry in data.files)


def _finish(source: Prefix, target: Target, data: Manifest, replace: bool) -> None:
    """Mark the target's files as verified. Hosts that end at the same moment all do it, and all do the same."""
    if replace:
        wanted = {entry.path for entry in data.files} | {manifest.NAME}
        for path in target.files.sizes():
            if path not in wanted:
                target.files.delete(path)
    if data.raw:
        hdfs.write(target.url(manifest.NAME), data.raw)
    mark: Mark = {
        "source": source.url(),
        "version": data.version,
        "objects": len(data.files),
        "bytes": data.size,
        "at": time.time(),
    }
    target.unsay(manifest.FAILED)
    target.say(manifest.VERIFIED, mark)


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
    """Tell whoever waits for the data set when staging it fails for good."""
    try:
        yield
    except (BadInput, Mismatch, FileNotFoundError) as error:
        problem = _gone(error) if isinstance(error, FileNotFoundError) else error
        with contextlib.suppress(ProgramError):  # who waits gives up by itself, later
            target.say(manifest.FAILED, {"message": str(problem), "at": time.time()})
        raise problem from error


def _gone(error: FileNotFoundError) -> Mismatch:
    return Mismatch(f"{error} is gone: stage the data set again.")


def _refuse_another(source: Prefix, target: Target, mark: Mark | None, data: Manifest, replace: bool) -> None:
    if mark is None or mark["version"] == data.version or replace:
        return
    if mark["source"] == source.url():
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(mark["at"]))
        raise BadInput(
            f"{source.url()} has changed since it was staged ({at}): to stage it as it is now, over what is in "
            f"{target.url()}, add -e dataset_replace=true to the command."
        )
    raise BadInput(
        f"{target.url()} holds another data set, {mark['source']}: choose another target, or add "
        "-e dataset_replace=true to the command."
    )


def _check_space(target: Target, size: int) -> None:
    free, copies = target.files.free()
    if size * copies > free:
        raise BadInput(
            f"{target.url()} has {free / 1e9:.1f} GB free, but what is missing needs "
            f"{size * copies / 1e9:.1f} GB ({copies} x {size / 1e9:.1f}): use larger volumes."
        )


def _copy_all(source: Prefix, target: Target, missing: list[Entry], meter: Meter, notes: _Notes, wanted: int) -> None:
    """Copy files, several at a time; the first that fails for good stops the others.

    Where there is no room for so many bytes as are wanted, or another input can't work, none that it has copied stays.
    """
    if not missing:
        return
    small = sum(entry.size for entry in missing) < SMALL * len(missing)
    stop = threading.Event()
    try:
        with ThreadPoolExecutor(MANY_THREADS if small else THREADS) as pool:
            # Beside the copying: Hadoop's own command takes a second or two to say what is free.
            copies = [pool.submit(_check_space, target, wanted)] if wanted else []
            copies += [pool.submit(_copy, source, target, entry, meter, notes, stop) for entry in missing]
            try:
                for copy in wait(copies, return_when=FIRST_EXCEPTION).done:
                    copy.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
                with contextlib.suppress(ProgramError):  # the error that ends the copying says more
                    notes.write()
    except BadInput:
        for entry in missing:
            if entry.path in notes.done:  # not what an earlier data set has there, which --replace hasn't come to yet
                target.files.delete(entry.path)
        raise


def _copy(source: Prefix, target: Target, entry: Entry, meter: Meter, notes: _Notes, stop: threading.Event) -> None:
    """Copy one file, a few times if the target fails; S3 is patient by itself."""
    for attempt in range(1, ATTEMPTS + 1):
        counted = _Counted(source, entry, meter, stop)
        try:
            target.files.write(entry.path, counted)
            notes.add(entry, counted.crc32c)
            return
        except Changed as error:
            raise Mismatch(
                f"{source.url(entry.path)} has changed since it was listed: run the same command again."
            ) from error
        except FileNotFoundError as error:
            raise Mismatch(
                f"{source.url(entry.path)} is in the {'list' if entry.etag else 'manifest'} of the data set, but no "
                f"longer in S3: {'run the same command' if entry.etag else 'upload the data set'} again."
            ) from error
        except Temporary as error:
            meter.add(-counted.size)
            if isinstance(error, Away) or attempt == ATTEMPTS or stop.is_set():
                raise
            _log.warning("%s Copying it again.", error)
            time.sleep(2.0**attempt)


def _compare(target: Target, sums: dict[str, str]) -> None:
    """Raise Temporary where the target has other bytes than were written; those are deleted."""
    found = target.files.checksums(list(sums))
    wrong = [path for path, crc in sums.items() if found[path] != crc]
    for path in wrong:
        target.files.delete(path)
    if wrong:
        raise Temporary(
            f"{target.url(wrong[0])} has the CRC-32C {found[wrong[0]]}, but {sums[wrong[0]]} was written: it was "
            "deleted, to be copied again."
        )


class _Notes:
    """A host's checksums: told to all, now and then while it copies."""

    def __init__(self, target: Target, data: Manifest, share: int, done: dict[str, str]) -> None:
        self._target, self._data, self._name = target, data, f"{SUMS}{share}.json"
        self._etags = {entry.path: entry.etag for entry in data.files}
        self._lock = threading.Lock()
        self.done = dict(done)  # CRC-32C by path
        self._told = time.monotonic()

    def add(self, entry: Entry, crc32c: str) -> None:
        with self._lock:
            self.done[entry.path] = crc32c
            if time.monotonic() - self._told >= SUMS_SECS:
                self._write(False)
                self._told = time.monotonic()

    def write(self, verified: bool = False) -> None:
        with self._lock:
            self._write(verified)

    def _write(self, verified: bool) -> None:
        files = {path: (self._etags[path], crc) for path, crc in self.done.items()}
        sums: Sums = {"version": self._data.version, "verified": verified, "files": files}
        self._target.say(self._name, sums)


class _Counted:
    """An object's bytes, checked at their end: whoever iterates over them learns of what is wrong."""

    def __init__(self, source: Prefix, entry: Entry, meter: Meter, stop: threading.Event) -> None:
        self._source, self._entry, self._meter, self._stop = source, entry, meter, stop
        self._wanted = entry.crc32c
        self.size = 0
        self.crc32c = ""  # once all bytes have gone through

    def __iter__(self) -> Iterator[bytes]:
        value = 0
        for chunk in self._source.stream(self._entry.path, self._entry.etag or None, self._judge):
            if self._stop.is_set():
                raise Temporary("Stopped, since another file failed.")
            value = google_crc32c.extend(value, chunk)
            self.size += len(chunk)
            self._meter.add(len(chunk))
            yield chunk
        self.crc32c = f"{value:08x}"
        if self.size != self._entry.size:
            raise self._mismatch(f"{self._entry.size} bytes", f"{self.size}")
        if self._wanted and self.crc32c != self._wanted:
            raise self._mismatch(f"CRC-32C {self._wanted}", self.crc32c)

    def _judge(self, size: int, crc32c: str | None) -> None:
        """Hold what S3 says of the object, before its first byte, against the manifest."""
        if size != self._entry.size:
            raise self._mismatch(f"{self._entry.size} bytes", f"{size}")
        if self._wanted and crc32c not in (None, self._wanted):
            raise self._mismatch(f"CRC-32C {self._wanted}", f"{crc32c}")
        self._wanted = self._wanted or crc32c or ""

    def _mismatch(self, expected: str, found: str) -> Mismatch:
        who = "its checksum in S3" if self._entry.etag else "its manifest"
        return Mismatch(
            f"{self._source.url(self._entry.path)} is damaged: {who} says {expected}, S3 has {found}; upload the data "
            "set again."
        )


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
    parser = argparse.ArgumentParser(
        prog="python -m flotilla.stage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--source", required=True, metavar="s3://BUCKET/PREFIX/", help="the data set in S3")
    common.add_argument("--target", required=True, metavar="URL", help="hdfs://host:port/path, or a folder")
    common.add_argument("--replace", action="store_true", help="replace another data set at the target")
    common.add_argument("--requester-pays", action="store_true", help="pay for what another account's bucket gives")
    checking = commands.add_parser("check", parents=[common], help="say whether all is verified already")
    checking.add_argument("--begin", action="store_true", help="and if not, forget what an earlier staging has said")
    checking.add_argument("--version", default="", help="refuse a source of another version (as this command prints)")
    running = commands.add_parser("run", parents=[common], help="copy a share of the files")
    running.add_argument("--share", type=int, default=0, metavar="I", help="which share, from 0 (default: 0)")
    running.add_argument("--shares", type=int, default=1, metavar="N", help="of how many (default: 1)")
    running.add_argument("--progress", metavar="FILE", help="file to which the progress is written")
    commands.add_parser("verify", parents=[common], help="compare all, then mark the data set as verified")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 3 mismatch, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    meter = Meter(getattr(args, "progress", None))
    try:
        source, target = Prefix(args.source, pays=args.requester_pays), Target(args.target)
        if args.command == "check":
            result = check(source, target, args.begin, args.replace, args.version)
        elif args.command == "run":
            result = run(source, target, args.share, args.shares, args.replace, meter)
        else:
            result = verify(source, target, args.replace)
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
