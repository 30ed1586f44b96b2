"""Files on HDFS or in local folders, without TensorFlow, and with honest answers.

tf.io.gfile.exists says False when the NameNode is down, so that a restarted chief would take "unreachable"
for "no checkpoint" and begin at step 0. Here a file is there, or is not there, or Unreachable is raised.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flotilla.job.errors import BadInput, Denied, ProgramError, Temporary
from flotilla.storage import bounded, jsons

if TYPE_CHECKING:
    import hdfs_native

T = TypeVar("T")
ANSWER_SECS = 10.0  # for the NameNode, which as a rule answers within milliseconds
DATA_SECS = 60.0  # for a small file's content: a DataNode that has just died costs a socket time-out or two
BRIEFLY_SECS = 10.0
# hdfs-native goes on without a DataNode that dies while a file is written, but now and then leaves out the wrong one.
WRITE_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class Unreachable(Temporary):
    """The file system didn't answer; trying again later may help."""


def is_hdfs(path: str) -> bool:
    return path.startswith("hdfs://")


def local(path: str) -> Path:
    """Return the path on this host of a file that isn't on HDFS; scripts/try names them file://…."""
    return Path(path.removeprefix("file://"))


def join(path: str, *names: str) -> str:
    """Join a folder's path or URL and names."""
    return "/".join([path.rstrip("/"), *names])


def read(path: str) -> bytes | None:
    """Return a file's content; None where there is no such file."""
    if not is_hdfs(path):
        try:
            return local(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"{path} can't be read: {error.strerror}.") from error
    server, name = _split(path)

    try:
        with _errors(server):
            file = bounded.within(ANSWER_SECS, lambda: _client(server).read(name))
            content: bytes = bounded.within(DATA_SECS, file.read)
            return content
    except FileNotFoundError:
        return None


def read_json(path: str) -> dict[str, object] | None:
    """Return the JSON object in a file; None where there is no such file or it is no object."""
    content = read(path)
    try:
        value = json.loads(content) if content else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write(path: str, content: bytes) -> None:
    """Write a file and its folders, so that a reader sees the old or the new content, never a part."""
    if not is_hdfs(path):
        target = local(path)
        part = target.with_name(f"{target.name}.{_writer()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(target)
        except OSError as error:
            raise BadInput(f"{path} can't be written: {error.strerror}.") from error
        return
    for attempt in range(1, WRITE_ATTEMPTS + 1):
        try:
            _write(*_split(path), content)
        except Unreachable as error:
            if attempt == WRITE_ATTEMPTS or isinstance(error.__cause__, bounded.Late):
                raise
            _log.warning("%s Writing %s again.", error, path)
            time.sleep(1)
        else:
            return


def _write(server: str, name: str, content: bytes) -> None:
    import hdfs_native

    temporary = f"{name}.{_writer()}"
    options = hdfs_native.WriteOptions(overwrite=True, create_parent=True)
    with _errors(server):
        file = bounded.within(ANSWER_SECS, lambda: _client(server).create(temporary, options))
        bounded.within(DATA_SECS, lambda: (file.write(content), file.close()))
        bounded.within(ANSWER_SECS, lambda: _client(server).rename(temporary, name, overwrite=True))


def _writer() -> str:
    """Return what ends a temporary name: another one for each writer, as two tasks may write one file at a time."""
    return f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}.part"


def write_json(path: str, value: object) -> None:
    """Write value as JSON, indented, as by write."""
    write(path, (jsons.dumps(value, indent=2) + "\n").encode())


def names(path: str) -> set[str]:
    """Return the names in a folder; none where there is no such folder."""
    if not is_hdfs(path):
        try:
            return set(os.listdir(local(path)))  # noqa: PTH208 - names are wanted, not paths
        except FileNotFoundError:
            return set()
    server, name = _split(path)

    def listed() -> set[str]:
        return {status.path.rsplit("/", 1)[-1] for status in _client(server).list_status(name)}

    try:
        with _errors(server):
            return bounded.within(ANSWER_SECS, listed)
    except FileNotFoundError:
        return set()


def retry(action: Callable[[], T], seconds: float) -> T:
    """Return what action returns, as soon as it raises nothing Temporary; after so many seconds raise that."""
    end = time.monotonic() + seconds
    said = False
    while True:
        try:
            return action()
        except Temporary as error:
            if time.monotonic() >= end:
                raise
            if not said:
                _log.warning("%s Asking again, for up to %d s.", error, seconds)
                said = True
        time.sleep(1)


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return what ask returns, or raise what it raises; after so many seconds raise Unreachable."""
    try:
        return bounded.within(seconds, ask)
    except bounded.Late as error:
        raise Unreachable(f"HDFS hasn't answered for {seconds:g} s.") from error


def ask_briefly(ask: Callable[[], T]) -> T | None:
    """Return what ask returns within some seconds; None where it raises a ProgramError or takes longer."""
    with contextlib.suppress(ProgramError):
        return within(BRIEFLY_SECS, ask)
    return None


def wait_until_readable(path: str, seconds: float) -> None:
    """Return as soon as the file, or that it isn't there, can be told; raise Unreachable after so many seconds.

    A NameNode that has just started answers before it knows where a file's blocks are.
    """
    retry(lambda: read(path), seconds)


def _split(url: str) -> tuple[str, str]:
    match = re.fullmatch(r"(hdfs://[^/]+)(/.*)", url)
    if match is None:
        raise ValueError(f"'{url}' isn't hdfs://host:port/path")
    return match[1], match[2]


def root(path: str) -> str:
    """Return the top of path's file system."""
    return _split(path)[0] + "/" if is_hdfs(path) else "/"


@lru_cache(maxsize=8)
def _client(server: str) -> hdfs_native.Client:
    import hdfs_native

    # One attempt: by default it tries for minutes before it says that nobody listens.
    return hdfs_native.Client(server, {"dfs.client.failover.max.attempts": "0"})


@contextlib.contextmanager
def _errors(server: str) -> Iterator[None]:
    """Pass FileNotFoundError on; raise what _failure makes of other errors."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if isinstance(error, bounded.Late):
            _client.cache_clear()  # its connection may wait for ever
        raise _failure(server, error) from error


def _failure(server: str, error: Exception) -> ProgramError:
    """Say what hdfs-native said; of a Java exception its first line, without the stack."""
    text = str(error) or repr(error)
    remote = re.match(r'RPCError\("[\w.$]*?(\w+)", "(.*)"\)', text, re.DOTALL)
    if remote is None:
        return Unreachable(f"{server} doesn't answer ({text.splitlines()[0]}).")
    reason = remote[2].split("\\n")[0].replace('\\"', '"').rstrip(".")
    if remote[1] == "AccessControlException":
        return Denied(f"{server} refuses: {reason}.")
    return Unreachable(f"{server} can't do it now: {reason} ({remote[1]}).")
