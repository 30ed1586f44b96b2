"""Files below one folder, local or on hdfs://, with the few operations that staging and storing need."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

import google_crc32c

from flotilla.job.errors import BadInput, Denied, Temporary
from flotilla.storage import hdfs
from flotilla.storage.bounded import Late, within

if TYPE_CHECKING:
    import hdfs_native

CHUNK = 4 * 1024**2
# For one answer, or one chunk of a file: a DataNode that has just died costs one or two of HDFS's own time-outs.
SILENCE_SECS = 180.0
COMMAND = 1_000_000  # bytes of a command's arguments; Linux takes two million
CHECKED = 2_000  # files whose checksums one command asks for, and so many commands at a time
CHECKERS = 4
DELETE_SECS = 10.0


class Status(NamedTuple):
    """What a file system says of a file."""

    size: int  # bytes
    changed: float  # when, in Unix time by the file system's clock


class Files(Protocol):
    """Files below a folder; paths are relative to it, with slashes. What isn't there: FileNotFoundError."""

    def url(self, path: str = "") -> str:
        """Return the full address of a path."""

    def statuses(self) -> dict[str, Status]:
        """Return size and age of each file; nothing where the folder isn't there."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file; nothing where the folder isn't there."""

    def read(self, path: str, size: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes, or the first `size` of them."""

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write a file, over one that is there; nothing is left when `chunks` raises. Who is killed leaves a part."""

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""

    def close(self, path: str) -> bool:
        """Close a file whose writer is gone, with all that it wrote; return whether it is closed."""

    def checksums(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the CRC-32C (8 hex digits) of files that are there."""

    def free(self) -> tuple[int, int]:
        """Return the free bytes, and how many bytes one byte of a file takes."""


def open_folder(url: str, wait: float = 60.0) -> Files:
    """Open a folder named by a path or hdfs://host:port/path, waiting so many seconds for HDFS to answer."""
    if "://" not in url or url.startswith("file://"):
        return LocalFiles(hdfs.local(url))
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if parts.scheme != "hdfs" or not parts.hostname or not path or parts.query or parts.fragment:
        raise BadInput(f"'{url}' is no folder: write a path, or hdfs://host:port/path.")
    return HdfsFiles(parts.hostname, parts.port or 8020, path, wait)


class LocalFiles:
    """Files below a folder of this host."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def url(self, path: str = "") -> str:
        return str(self._root / path)

    def statuses(self) -> dict[str, Status]:
        with _local_errors(self.url()):
            found = {path.relative_to(self._root).as_posix(): path.stat() for path in self._files()}
        return {path: Status(one.st_size, one.st_mtime) for path, one in found.items()}

    def sizes(self) -> dict[str, int]:
        return {path: one.size for path, one in self.statuses().items()}

    def _files(self) -> Iterator[Path]:
        return (path for path in self._root.rglob("*") if path.is_file())

    def read(self, path: str, size: int | None = None) -> Iterator[bytes]:
        left = float("inf") if size is None else size
        with _local_errors(self.url(path)), (self._root / path).open("rb") as file:
            while left > 0 and (chunk := file.read(int(min(CHUNK, left)))):
                left -= len(chunk)
                yield chunk

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        to = self._root / path
        with _local_errors(self.url(path)):
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                with to.open("wb") as file:
                    file.writelines(chunks)
            except BaseException:
                to.unlink(missing_ok=True)
                raise

    def delete(self, path: str) -> None:
        with _local_errors(self.url(path)):
            (self._root / path).unlink(missing_ok=True)

    def close(self, path: str) -> bool:
        return True

    def checksums(self, paths: Sequence[str]) -> dict[str, str]:
        return {path: crc32c(self.read(path)) for path in paths}

    def free(self) -> tuple[int, int]:
        folder = self._root.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free, 1


class HdfsFiles:
    """Files below a folder of HDFS. Data go by hdfs-native; checksums and free space, which it can't ask for,
    by Hadoop's own command."""

    def __init__(self, host: str, port: int, root: str, wait: float) -> None:
        _wait_for_port(host, port, wait)
        self._cluster = f"hdfs://{host}:{port}"
        self._root = root
        self._client = self._connect()

    def url(self, path: str = "") -> str:
        return self._cluster + self._absolute(path)

    def statuses(self) -> dict[str, Status]:
        def listed() -> dict[str, Status]:
            found = self._client.list_status(self._root, recursive=True)
            return {
                one.path[len(self._root) + 1 :]: Status(one.length, one.modification_time / 1000)
                for one in found
                if not one.isdir
            }

        with self._errors():
            try:
                return within(SILENCE_SECS, listed)
            except FileNotFoundError:
                return {}

    def sizes(self) -> dict[str, int]:
        return {path: one.size for path, one in self.statuses().items()}

    def read(self, path: str, size: int | None = None) -> Iterator[bytes]:
        with self._errors(path):
            reader = within(SILENCE_SECS, lambda: self._client.read(self._absolute(path)))
            length = len(reader)
            if size is not None and length < size:
                raise Temporary(f"{self.url(path)} has {length} bytes, fewer than the {size} it had before.")
            # Asked for more than there is, hdfs-native panics.
            stream = reader.read_range_stream(0, length if size is None else size)
            while chunk := within(SILENCE_SECS, lambda: _some(stream)):
                yield chunk

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        from hdfs_native import WriteOptions

        to = self._absolute(path)
        with self._errors(path):
            try:
                options = WriteOptions(overwrite=True, create_parent=True)
                writer = within(SILENCE_SECS, lambda: self._client.create(to, options))
                for chunk in chunks:
                    within(SILENCE_SECS, functools.partial(writer.write, chunk))
                within(SILENCE_SECS, writer.close)
            except BaseException:
                with contextlib.suppress(Exception):
                    within(DELETE_SECS, lambda: self._client.delete(to))
                raise

    def delete(self, path: str) -> None:
        with self._errors(path):
            within(SILENCE_SECS, lambda: self._client.delete(self._absolute(path)))

    def close(self, path: str) -> bool:
        with self._errors(path):
            return bool(within(SILENCE_SECS, lambda: self._client.recover_lease(self._absolute(path))))

    def checksums(self, paths: Sequence[str]) -> dict[str, str]:
        sizes = self.sizes() if paths else {}
        # HDFS has no block of an empty file to take a checksum of.
        sums = {path: "00000000" for path in paths if sizes.get(path) == 0}
        asked = {path: self._cluster + _literally(self._absolute(path)) for path in paths if path not in sums}
        with ThreadPoolExecutor(min(CHECKERS, os.cpu_count() or 1)) as pool:  # each answer takes a round or two
            for found in pool.map(lambda some: self._checksums(some, asked), _batches(asked)):
                sums |= found
        return sums

    def _checksums(self, paths: Sequence[str], urls: dict[str, str]) -> dict[str, str]:
        arguments = [urls[path] for path in paths]
        output = self._command("-Ddfs.checksum.combine.mode=COMPOSITE_CRC", "-checksum", *arguments)
        # A line for each in their order: PATH, tab, KIND, tab, SUM.
        lines = [line.rsplit("\t", 2) for line in output.splitlines() if line.count("\t") >= 2]
        if len(lines) != len(paths):
            raise Temporary(f"HDFS gives {len(lines)} checksums of {len(paths)} files in {self.url()}.")
        for path, (_path, kind, _sum) in zip(paths, lines, strict=True):
            if kind != "COMPOSITE-CRC32C":
                raise Temporary(f"HDFS gives no CRC-32C of {self.url(path)}.")
        return {path: line[2].strip() for path, line in zip(paths, lines, strict=True)}

    def free(self) -> tuple[int, int]:
        # Filesystem  Size  Used  Available  Use%
        fields = self._command("-df", self._cluster + "/").splitlines()[-1].split()
        return int(fields[3]), _replication()

    def _connect(self) -> hdfs_native.Client:
        from hdfs_native import Client  # needed on a fleet only, not for local folders

        with self._errors():
            return Client(self._cluster)

    def _absolute(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _command(self, *arguments: str) -> str:
        """Run `hdfs dfs` and return what it prints."""
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # by which Java reads and writes names
        try:
            done = subprocess.run(
                ["hdfs", "dfs", *arguments],
                capture_output=True, encoding="utf-8", errors="replace", timeout=900, check=False, env=environment,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise BadInput("The command hdfs isn't there: install Hadoop's client on this host.") from error
        except subprocess.TimeoutExpired as error:
            raise Temporary(f"`hdfs dfs {arguments[0]}` didn't end within 15 minutes.") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise Temporary(f"`hdfs dfs` failed at {self._cluster}: {lines[-1]}")
        return done.stdout

    @contextlib.contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(self.url(path)) from error
        except Late as error:
            self._client = self._connect()  # the other's connection may wait for ever
            raise Temporary(f"{self.url(path)}: HDFS gives {error}: is the NameNode or a DataNode frozen?") from error
        except (RuntimeError, OSError) as error:  # hdfs-native's, with a Java stack after the first line
            text = str(error).replace("\\n", "\n").splitlines()[0]
            if "AccessControlException" in text:
                reason = text[text.find("Permission denied") :].replace("\\", "")
                raise Denied(f"{self.url(path)}: {reason}.") from error
            raise Temporary(f"{self.url(path)}: HDFS failed: {text}") from error


def _literally(path: str) -> str:
    """Return a path as Hadoop's commands take it, which read patterns in names."""
    return re.sub(r"([\\*?{}\[\]])", r"\\\1", path)


def _batches(arguments: dict[str, str]) -> Iterator[list[str]]:
    """Yield the keys, as many at a time as have arguments that fit into a command."""
    batch: list[str] = []
    length = 0
    for key, argument in arguments.items():
        size = len(argument.encode()) + 9  # with its end, and a pointer to it
        if batch and (length + size > COMMAND or len(batch) == CHECKED):
            yield batch
            batch, length = [], 0
        batch.append(key)
        length += size
    if batch:
        yield batch


def _some(stream: Iterator[bytes]) -> bytes:
    """Return the next bytes of a stream, some packets of a DataNode's; none at its end."""
    found = bytearray()
    for packet in stream:
        found += packet
        if len(found) >= CHUNK:
            break
    return bytes(found)


def crc32c(chunks: Iterable[bytes], seen: Callable[[int], object] = lambda count: None) -> str:
    """Return the CRC-32C of bytes as 8 hex digits."""
    value = 0
    for chunk in chunks:
        value = google_crc32c.extend(value, chunk)
        seen(len(chunk))
    return f"{value:08x}"


@contextlib.contextmanager
def _local_errors(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(url) from error
    except PermissionError as error:
        raise Denied(f"{url}: {error.strerror}.") from error
    except OSError as error:
        raise Temporary(f"{url}: {error.strerror or error}.") from error


def _wait_for_port(host: str, port: int, wait: float) -> None:
    """Wait until the NameNode listens; hdfs-native would try for three minutes without a word."""
    deadline = time.monotonic() + wait
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise Temporary(
                    f"hdfs://{host}:{port} doesn't answer ({error.strerror or error}): "
                    f"look at the NameNode's journal on {host}."
                ) from error
            time.sleep(1)


def _replication() -> int:
    """Return dfs.replication as this host's Hadoop configuration says it."""
    site = Path(os.environ.get("HADOOP_CONF_DIR", "/etc/hadoop")) / "hdfs-site.xml"
    try:
        for item in ET.parse(site).getroot().iter("property"):
            if item.findtext("name", "").strip() == "dfs.replication":
                return int(item.findtext("value", "").strip())
    except (OSError, ET.ParseError, ValueError):
        pass
    return 3
