"""Calls that end: hdfs-native waits for ever for a NameNode's answer or a DataNode's acknowledgement, deaf to Ctrl-C.

So it is asked in threads that are left behind when it is late. Its client for asyncio can be given up, but isn't safe
at a process's end (0.14.7).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Late(Exception):
    """There was no answer within the time that was given."""


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return what ask returns, or raise what it raises; after so many seconds raise Late."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def asking() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=asking, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[0] if errors else Late(f"no answer within {seconds:g} s")
