# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The last line of the output, which changes while others print above it."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TextIO

CLEAR = "\r\033[K"


class Line:
    """The last line of the output, which isn't finished yet; what others print goes above it."""

    def __init__(self, lock: threading.RLock, stream: TextIO) -> None:
        self.lock, self.stream = lock, stream
        self.terminal = stream.isatty()
        self.here = ""  # what stands on the line
        self.spoken = time.monotonic()

    def draw(self, text: str) -> None:
        """Write the line; on a terminal in the place of what it was, elsewhere what is new of it."""
        with self.lock:
            if self.terminal:
                text = text[: shutil.get_terminal_size().columns - 1]
                self.stream.write(CLEAR + text)
            elif text.startswith(self.here):
                self.stream.write(text[len(self.here) :])
            else:
                self.stream.write(f"\n{text}")
            self.stream.flush()
            self.here = text

    def end(self) -> None:
        """The line is finished."""
        with self.lock:
            if self.here:
                self.stream.write("\n")
                self.stream.flush()
            self.here, self.spoken = "", time.monotonic()

    def away(self) -> None:
        """Make room for something else."""
        with self.lock:
            if self.here:
                self.stream.write(CLEAR if self.terminal else "\n")
                self.stream.flush()
            self.here, self.spoken = "", time.monotonic()


class Above:
    """A stream whose text goes above the line, at once: in a pipe Ansible itself flushes at its end only."""

    def __init__(self, stream: TextIO, line: Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        with self._line.lock:
            self._line.away()
            written = self._stream.write(text)
            self._stream.flush()
            return written

    def __getattr__(self, name: str) -> object:
        found: object = getattr(self._stream, name)
        return found
