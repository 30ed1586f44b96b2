"""Kill a daemon of this host that doesn't answer although nothing keeps it from that: systemd starts it again.

Of HDFS, or those that are named: hadoop-watch.py UNIT=ADDRESS-OF-ITS-PAGE …

systemd sees daemons that end, not those that stand still: stopped by a signal, or hung. One that only waits for its
turn on the processor, or for a disk, isn't touched, however long it takes; nor one that has just been started and
hasn't answered yet.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAGES = {
    "hadoop-namenode.service": "http://127.0.0.1:9870/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState",
    "hadoop-datanode.service": "http://127.0.0.1:9864/jmx?qry=java.lang:type=Runtime",
}
EVERY_SECS = 3.0
ANSWER_SECS = 5.0
STOPPED_SECS = 8.0  # so long may a debugger stop it
SILENT_SECS = 15.0
BUSY_SECS = 90.0  # of a daemon that computes all the time, such as at a collection of garbage
# Of the time, from which on a daemon is short of the processor, or computes: one that hangs has threads that wake up
# now and then, one that is starved while it answers has one that always waits.
WAITS = COMPUTES = 0.5


@dataclass
class Load:
    """What a daemon's threads have done since they began, in seconds; and whether one waits for a disk now."""

    ran: float = 0.0
    waited: float = 0.0  # for the processor
    disk: bool = False
    stopped: bool = True  # all of them, by a signal


def load(pids: list[int]) -> Load:
    """Return what the threads of processes have done. https://docs.kernel.org/scheduler/sched-stats.html"""
    found = Load()
    threads = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                ran, waited = (thread / "schedstat").read_text().split()[:2]
                state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, ValueError):  # it has ended
                continue
            threads += 1
            found.ran += int(ran) / 1e9
            found.waited += int(waited) / 1e9
            found.disk = found.disk or state == "D"
            found.stopped = found.stopped and state in "Tt"
    found.stopped = found.stopped and threads > 0
    return found


def pids_of(unit: str) -> list[int]:
    """Return the processes of a unit, by its control group (v2, or v1 with v2 beside it)."""
    for hierarchy in ("", "unified/", "systemd/"):
        try:
            procs = Path(f"/sys/fs/cgroup/{hierarchy}system.slice/{unit}/cgroup.procs").read_text()
        except OSError:  # there is no such hierarchy, or the unit doesn't run
            continue
        return [int(pid) for pid in procs.split()]
    return []


def answers(url: str) -> bool:
    """Whether a daemon's page answers in time."""
    try:
        # No proxy: this is loopback.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=ANSWER_SECS) as answer:
            return bool(answer.read())
    except (OSError, ValueError):
        return False


def kill(unit: str) -> None:
    """Kill a unit's processes, which systemd takes for a failure."""
    subprocess.run(["systemctl", "kill", "--signal=SIGKILL", unit], check=False)


@dataclass
class Watch:
    """The watch over one daemon."""

    unit: str
    page: str
    pids_of: Callable[[str], list[int]] = pids_of
    kill: Callable[[str], None] = kill
    _pids: list[int] = field(default_factory=list)
    _answered: float = 0.0  # when, by the monotonic clock; 0: not yet
    _before: Load = field(default_factory=Load)  # at that time
    _stopped: float = 0.0  # since when
    _said: bool = False

    def look(self) -> str:
        """Look at the daemon once, and kill it where it stands still; returns why it was, if so."""
        pids = self.pids_of(self.unit)
        if not set(pids) & set(self._pids):  # another daemon (it may have children), of which nothing is known yet
            self._answered = self._stopped = 0.0
        self._pids = pids
        if not pids:
            return ""
        if answers(self.page):
            if self._said:
                print(f"{self.unit} answers again.", flush=True)
            self._answered, self._before, self._stopped, self._said = time.monotonic(), load(pids), 0.0, False
            return ""
        reason = self._stands_still(load(pids))
        if reason:
            print(f"{self.unit} {reason}: killed, so that systemd starts it again.", flush=True)
            self.kill(self.unit)
        return reason

    def _stands_still(self, now: Load) -> str:
        clock = time.monotonic()
        if now.stopped:
            self._stopped = self._stopped or clock
            stopped = clock - self._stopped
            return f"has been stopped by a signal for {stopped:.0f} s" if stopped >= STOPPED_SECS else ""
        self._stopped = 0.0
        silent = clock - self._answered
        if not self._answered or silent < SILENT_SECS:
            return ""
        waited, ran = (now.waited - self._before.waited) / silent, (now.ran - self._before.ran) / silent
        if waited < WAITS and not now.disk and (ran < COMPUTES or silent >= BUSY_SECS):
            return f"hasn't answered for {silent:.0f} s, though it had the processor"
        if not self._said:
            why = "waits for a disk" if now.disk else "waits for the processor" if waited >= WAITS else "computes"
            print(f"{self.unit} hasn't answered for {silent:.0f} s, and {why}: left alone.", flush=True)
            self._said = True
        return ""


def main() -> None:
    """Watch all daemons, for ever."""
    pages = dict(word.split("=", 1) for word in sys.argv[1:]) or PAGES
    watches = [Watch(unit, page) for unit, page in pages.items()]
    while True:
        for watch in watches:
            watch.look()
        time.sleep(EVERY_SECS)


if __name__ == "__main__":
    main()
