"""Shows what a fleet does, live, until its job has ended: states and speed of the tasks, the last evaluation, HDFS.

Each host is asked by one SSH connection of its own, for what `flotilla-status --tasks` says there; nothing on a host
waits for this program. It ends with the job, a training, an inference or a sweep: 0 what comes of it is stored, 1
the job failed or was stopped, 2 there is no fleet (any more), 130 interrupted. With --once it ends after one look, and
with 0 while the job goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from inventory import Inventory, NoInventory, hosts, parse, ssh
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from summary import HdfsHealth, Host, Summary, clock, seconds_until, summarize

EVERY_SECS = 3
FIRST_SECS = 20  # for the first answers of all hosts
STOPPED_SECS = 60  # a job that is off may be about to be started again
PATIENCE_SECS = 300  # without an answer of any host

CODES = {"done": 0, "failed": 1, "stopped": 1, "gone": 2}
STYLES = {
    "running": "green",
    "training": "green",
    "storing": "green",
    "inferring": "green",
    "sweeping": "green",
    "done": "green",
    "failed": "bold red",
    "gone": "bold red",
    "no": "red",
    "ended": "dim",
}


# From the inventory to hosts


def read_inventory(listed: Inventory, once: bool = False) -> dict[str, Host]:
    """Return the hosts of what `ansible-inventory --list` prints, each with the command that asks it."""
    every = [] if once else ["--every", str(EVERY_SECS)]
    ask = shlex.join(["flotilla-status", "--tasks", *every])
    return {
        name: Host(
            name,
            [*ssh(name, its, "BatchMode=yes"), ask],
            str(its.get("fleet_expires") or ""),
            str(its.get("fleet_name") or ""),
        )
        for name, its in hosts(listed).items()
    }


# From the object to a screen, or a line


def screen(summary: Summary) -> RenderableType:
    """Return the screen."""
    title = Text.assemble(
        (summary["job"] or "no job yet", "bold"),
        f" on {summary['fleet']}" if summary["fleet"] else "",
        "  ",
        (summary["state"], STYLES.get(summary["state"], "yellow")),
        f"  {summary['message']}" if summary["message"] else "",
    )
    end = Text()
    if summary["expires_in"] is not None:
        late = summary["expires_in"] < (summary["time_left"] or 0)
        job = "inference" if summary["inference"] else "sweep" if summary["sweep"] else "training"
        before = f", before the {job}"
        end.append(f"fleet ends in {_hours(summary['expires_in'])}" + before * late, "bold red" * late)
    top = Table.grid(padding=(0, 2))
    done, total, unit = _counted(summary)
    if total:
        bar = ProgressBar(total, min(done, total), width=40)
        left = "" if summary["time_left"] is None else f"{clock(summary['time_left'])} left"
        top.add_row(bar, f"{done} of {total} {unit}", left, end)
    else:
        top.add_row(end)
    parts: list[RenderableType] = [title, top, Text("   ".join(_numbers(summary))), Text(), _table(summary), Text()]
    if summary["hdfs"]:
        parts.append(_hdfs(summary["hdfs"]))
    if summary["store"]:
        store = summary["store"]
        amount = (
            f" {store['done']} of {store['total']} objects" if store["state"] == "running" and store["total"] else ""
        )
        parts.append(Text.assemble(("model  ", "bold"), (store["state"] + amount, STYLES.get(store["state"], ""))))
    parts += [Text(problem, "red") for problem in _problems(summary)]
    return Group(*parts)


def _problems(summary: Summary) -> list[str]:
    """Return what is wrong with hosts and tasks, but for what is said of the job already."""
    found = [f"{one['host']}: {one['problem']}" for one in summary["hosts"] if one["problem"]]
    tasks = [one for one in summary["tasks"] if one["problem"] and one["problem"] not in summary["message"]]
    found += [f"{one['task']}: {one['problem']}" for one in tasks]
    if summary["mirror"] and summary["mirror"]["state"] == "failed":
        found.append(f"no checkpoint goes to S3: {summary['mirror']['message']}")
    return found


def _counted(summary: Summary) -> tuple[int, int | None, str]:
    """Return how much of the job is done, of how much where that is known, and what is counted."""
    if inference := summary["inference"]:
        return inference["done"], inference["total"], "inputs"
    if sweep := summary["sweep"]:
        return sweep["done"], sweep["total"], "networks"
    return summary["step"], summary["max_steps"], "steps"


def _numbers(summary: Summary) -> list[str]:
    found = []
    if inference := summary["inference"]:
        if inference["done"] and not inference["total"]:  # how many records files have is known when they are read
            found.append(f"{inference['done']} inputs")
        if inference["inputs_per_second"] is not None:
            found.append(f"{inference['inputs_per_second']:.0f} inputs/s")
        if inference["broken"]:
            found.append(f"{inference['broken']} broken")
        if inference["accuracy"] is not None:
            found.append(f"accuracy {inference['accuracy']:.4f}")
        return found
    if sweep := summary["sweep"]:
        if sweep["networks_per_minute"] is not None:
            found.append(f"{sweep['networks_per_minute']:.0f} networks/min")
        if sweep["failed"]:
            found.append(f"{sweep['failed']} failed")
        if sweep["best"] is not None:
            found.append(f"best {sweep['best']:.4f}")
        return found
    if summary["examples_per_second"] is not None:
        found.append(f"{summary['examples_per_second']:.0f} examples/s")
    elif summary["steps_per_second"] is not None:  # nobody knows how many examples a step of a program takes
        found.append(f"{summary['steps_per_second']:.3g} steps/s")
    if summary["loss"] is not None:
        found.append(f"loss {summary['loss']:.3f}")
    if summary["evaluation"]:
        found.append(
            "last evaluation: accuracy {accuracy:.4f}, loss {loss:.3f}, step {step}".format(**summary["evaluation"])
        )
    return found


def _table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("task", "host", "state", "device"):
        table.add_column(name, no_wrap=True)
    for name in ("step", "step/s", "examples/s", "staleness", "restarts", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in summary["tasks"]:
        table.add_row(
            one["task"],
            one["host"],
            _coloured(one["state"]),
            one["device"] or "",
            _cell(one["step"], "d"),
            _cell(one["steps_per_second"], ".2f"),
            _cell(one["examples_per_second"], ".0f"),
            _cell(one["staleness"], ".1f"),
            Text(str(one["restarts"]), "yellow" if one["restarts"] else ""),
            "" if one["memory"] is None else f"{one['memory'] / 1e6:.0f} MB",
        )
    busy = {one["host"] for one in summary["tasks"]}
    for host in summary["hosts"]:
        if host["host"] not in busy:
            state = host["doing"] or "no task" if host["answers"] else "no answer"
            table.add_row("", host["host"], _coloured(state))
    return table


def _coloured(state: str) -> Text:
    return Text(state, STYLES.get(state.split()[0], "yellow"))


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _hdfs(health: HdfsHealth) -> Text:
    text = Text.assemble(("HDFS   ", "bold"))
    if health["problem"]:
        return text.append(health["problem"], "bold red")
    live, dead = len(health["live"]), health["dead"]
    text.append(f"{live} DataNode{'s' if live != 1 else ''}")
    if dead:
        text.append(f", without {', '.join(dead)}", "bold red")
    if health["safe_mode"]:
        text.append(", in safe mode", "yellow")
    text.append(f", {health['missing']} blocks missing", "bold red" if health["missing"] else "")
    text.append(f", {health['under_replicated']} under-replicated", "yellow" if health["under_replicated"] else "")
    return text.append(f", {health['used'] / 1e9:.1f} of {health['capacity'] / 1e9:.0f} GB used")


def line(summary: Summary) -> str:
    """Say the same in one line, where there is no terminal."""
    parts = [f"{summary['job'] or 'no job yet'}: {summary['state']}"]
    done, total, unit = _counted(summary)
    if total:
        parts.append(f"{done} of {total} {unit}")
    parts += _numbers(summary)
    if summary["time_left"] is not None:
        parts.append(f"{clock(summary['time_left'])} left")
    parts += [f"{one['task']} {one['state']}" for one in summary["tasks"] if one["state"] not in ("running", "ended")]
    parts += _problems(summary)
    if summary["hdfs"] and summary["hdfs"]["problem"]:
        parts.append(f"HDFS: {summary['hdfs']['problem']}")
    return "  ".join([*parts, summary["message"]] if summary["message"] else parts)


def _hours(seconds: float) -> str:
    minutes = max(0, int(seconds)) // 60
    return f"{minutes // 60}:{minutes % 60:02} h"


# The fleet, and the time


class Fleet:
    """The hosts of an inventory, each with a listener; kept up to date."""

    def __init__(self, inventory: str, once: bool) -> None:
        self._inventory, self._once = inventory, once
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._began = time.time()
        self.hosts: dict[str, Host] = {}

    async def refresh(self) -> None:
        """Ask the inventory; raise NoInventory."""
        program = Path(sys.executable).with_name("ansible-inventory")
        process = await asyncio.create_subprocess_exec(
            program, "-i", self._inventory, "--list",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, error = await process.communicate()
        finally:
            await _end(process)
        listed = parse(self._inventory, process.returncode or 0, out, error.decode(errors="replace"))
        found = read_inventory(listed, self._once)
        for name in [
            name for name in self.hosts if name not in found or self.hosts[name].command != found[name].command
        ]:
            del self.hosts[name]
            self._listeners.pop(name).cancel()
        for name, host in found.items():
            if name not in self.hosts:
                self.hosts[name] = host
                self._listeners[name] = asyncio.create_task(self._listen(host))
        self.hosts = {name: self.hosts[name] for name in found}

    async def keep(self) -> None:
        """Ask the inventory now and then, and often while a host doesn't answer: it may be gone, or another one."""
        asked = time.time()
        while True:
            await asyncio.sleep(5)
            now = time.time()
            calm = self.hosts and all(host.answers(now) for host in self.hosts.values())
            if now - asked >= (120 if calm else 20):
                with contextlib.suppress(NoInventory):  # AWS that doesn't answer is no reason to see nothing
                    await self.refresh()
                asked = time.time()

    def settled(self) -> bool:
        """Whether every host has answered, or has said why not."""
        waited = time.time() - self._began >= FIRST_SECS
        return waited or all(host.look is not None or host.problem for host in self.hosts.values())

    def gone(self) -> str:
        """Say that there is no fleet any more; nothing while there is one."""
        now = time.time()
        if not self.hosts:
            return f"{self._inventory} lists no running host"
        if any(host.answers(now) for host in self.hosts.values()):
            return ""
        expires = min((host.expires for host in self.hosts.values() if host.expires), default=None)
        left = seconds_until(expires, now)
        if left is not None and left < 0:
            return f"its time was over at {expires}"
        last = max([self._began, *(host.heard for host in self.hosts.values())])
        return f"no host has answered for {clock(now - last)}" if now - last > PATIENCE_SECS else ""

    async def _listen(self, host: Host) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *host.command, limit=1 << 20,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout and process.stderr
            try:
                async for text in process.stdout:
                    host.hear(text)
                said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
                if self._once and host.look is not None:
                    return
                host.problem = said[-1] if said else "the connection was closed"
                if "flotilla-status" in host.problem and "not found" in host.problem:
                    host.problem = "nothing is installed there yet"
            finally:
                await _end(process)
            await asyncio.sleep(EVERY_SECS)

    async def close(self) -> None:
        for task in self._listeners.values():
            task.cancel()
        await asyncio.gather(*self._listeners.values(), return_exceptions=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)  # terminate() would take the exit status away from asyncio
        await process.wait()


async def watch(inventory: str, once: bool, as_json: bool, job: str = "") -> int:
    """Show the fleet until its job has ended; return the exit status."""
    fleet = Fleet(inventory, once)
    await fleet.refresh()
    keeper = asyncio.create_task(fleet.keep())
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not once and not as_json else None
    stopped_since, shown = 0.0, ""
    try:
        with live or contextlib.nullcontext():
            while True:
                now = time.time()
                summary = summarize(fleet.hosts.values(), now, fleet.gone(), job)
                settled = fleet.settled() or summary["state"] == "gone"
                stopped_since = (stopped_since or now) if summary["state"] == "stopped" else 0.0
                ended = settled and summary["state"] in CODES
                if ended and summary["state"] == "stopped" and not once:
                    ended = now - stopped_since >= STOPPED_SECS
                if live:
                    live.update(screen(summary), refresh=True)
                elif settled and as_json:
                    print(json.dumps(summary), flush=True)
                elif settled and once:
                    console.print(screen(summary))
                elif settled and line(summary) != shown:
                    shown = line(summary)
                    print(shown, flush=True)
                if ended or (once and settled):
                    break
                await asyncio.sleep(1 if live or not settled else EVERY_SECS)
    finally:
        keeper.cancel()
        await fleet.close()
    code = CODES.get(summary["state"], 0) if ended else 0
    if code:
        what = "the fleet is gone" if code == 2 else f"the job has {summary['state']}"
        print(f"watch: {what}: {summary['message'].rstrip('.')}.", file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and watch; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-i", "--inventory", default="inventories/lab", help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="one look, not a live screen")
    parser.add_argument("--json", action="store_true", help="a line of JSON a look")
    parser.add_argument("--job", default="", help="wait for this job where there is another one still")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in `scripts/watch --json | head -1`
    try:
        return asyncio.run(watch(options.inventory, options.once, options.json, options.job))
    except KeyboardInterrupt:
        return 130
    except NoInventory as error:
        print(f"watch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
