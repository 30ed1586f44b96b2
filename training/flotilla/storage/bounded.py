"""Calls of hdfs-native that end: by itself it waits for ever for a NameNode's answer or a DataNode's acknowledgement.

Its client for asyncio can be given up after a while; the one for threads can't, and doesn't even hear Ctrl-C.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import hdfs_native

T = TypeVar("T")
_lock = threading.Lock()
_clients: dict[tuple[str, int], hdfs_native.AsyncClient] = {}


class Late(Exception):
    """There was no answer within the time that was given."""


class Hdfs:
    """A NameNode's file system, asked from any thread.

    Args:
        server: as hdfs://host:port.
        attempts: how often a connection that is refused is tried, at growing intervals; 0: once.
    """

    def __init__(self, server: str, attempts: int) -> None:
        self._server, self._attempts = server, attempts

    def ask(self, call: Callable[[hdfs_native.AsyncClient], Coroutine[object, object, T]], seconds: float) -> T:
        """Return what a call of the client returns; raise what it raises, or Late after so many seconds."""
        return self.wait(call(self._client()), seconds)

    def wait(self, call: Coroutine[object, object, T], seconds: float) -> T:
        """Return what a call returns, as of a reader or writer; raise what it raises, or Late."""
        try:
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, seconds), _loop()).result()
        except asyncio.TimeoutError as error:
            with _lock:  # its connection may wait for ever
                _clients.pop((self._server, self._attempts), None)
            raise Late(f"no answer within {seconds:g} s") from error

    def _client(self) -> hdfs_native.AsyncClient:
        import hdfs_native

        key = self._server, self._attempts
        with _lock:
            if key not in _clients:
                options = {"dfs.client.failover.max.attempts": str(self._attempts)}
                _clients[key] = hdfs_native.AsyncClient(self._server, options)
            return _clients[key]


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="hdfs", daemon=True).start()
    return loop
