#!/usr/bin/python3
"""Ask this host's HDFS daemons, over their loopback pages, whether they are ready; keep HDFS's top directories.

Faster than the `hdfs` command, which starts a JVM for every question. Run on the host of the daemon in question:

    hdfs-admin namenode [--datanodes ps-0,worker-0]     safe mode is off and these DataNodes are live
    hdfs-admin datanode                                 it is registered with the NameNode
    hdfs-admin directories /jobs:flotilla:flotilla:755  exist so (owner, group, mode), once safe mode is off

Each waits --timeout seconds (120) at most, then ends with status 1 and a sentence that says what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

NAMENODE = "http://127.0.0.1:9870"
DATANODE = "http://127.0.0.1:9864"


def ask(url: str, method: str = "GET") -> dict[str, Any]:
    """Return the JSON object that `url` answers with; an empty answer gives an empty object."""
    request = urllib.request.Request(url, method=method)
    # No proxy: this is loopback.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        text = answer.read()
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def bean(base: str, name: str, *needed: str) -> dict[str, Any]:
    """Return one JMX bean; an empty dict while the daemon doesn't answer, or answers without what is `needed`."""
    try:
        beans = ask(f"{base}/jmx?qry=Hadoop:{name}").get("beans", [])
    except (OSError, ValueError):
        return {}
    found = dict(beans[0]) if beans else {}
    # In the middle of a start an attribute whose getter throws is left out.
    return found if all(key in found for key in needed) else {}


def namenode_problem(datanodes: list[str]) -> str:
    """Return what keeps HDFS from being ready, seen from the NameNode; empty when nothing does."""
    info = bean(NAMENODE, "service=NameNode,name=NameNodeInfo", "LiveNodes", "Safemode")
    if not info:
        return "the NameNode doesn't answer on this host; see `journalctl -u hadoop-namenode`"
    live = {name.rsplit(":", 1)[0] for name in json.loads(info["LiveNodes"])}
    missing = [name for name in datanodes if name not in live]
    if missing:
        return f"there is no live DataNode on {', '.join(missing)}; see `journalctl -u hadoop-datanode` there"
    if info["Safemode"]:
        return f"the NameNode is in safe mode: {info['Safemode']}"
    return ""


def datanode_problem() -> str:
    """Return what keeps this host's DataNode from serving; empty when nothing does."""
    info = bean(DATANODE, "service=DataNode,name=DataNodeInfo", "BPServiceActorInfo", "NamenodeAddresses")
    if not info:
        return "the DataNode doesn't answer on this host; see `journalctl -u hadoop-datanode`"
    for actor in json.loads(info["BPServiceActorInfo"]):
        if actor["ActorState"] == "RUNNING" and float(actor["LastHeartbeat"]) < 10:
            return ""
    return f"the DataNode isn't registered with {info['NamenodeAddresses']}; see `journalctl -u hadoop-datanode`"


def wait(seconds: float, datanodes: list[str] | None) -> int:
    """Wait until the daemon is ready (`datanodes` is None for a DataNode); return the exit status."""
    end = time.monotonic() + seconds
    while True:
        problem = datanode_problem() if datanodes is None else namenode_problem(datanodes)
        if not problem:
            return 0
        if time.monotonic() > end:
            print(f"HDFS isn't ready after {seconds:.0f} seconds: {problem}.", file=sys.stderr)
            return 1
        time.sleep(0.25)


def web(path: str, operation: str, method: str = "GET", **arguments: str) -> dict[str, Any]:
    """Carry out one WebHDFS operation as HDFS's superuser."""
    query = urllib.parse.urlencode({"op": operation, "user.name": "hdfs", **arguments})
    return ask(f"{NAMENODE}/webhdfs/v1{urllib.parse.quote(path)}?{query}", method)


def keep_directory(path: str, owner: str, group: str, mode: str) -> bool:
    """Make `path` a directory of this owner, group and mode; return whether anything had to change."""
    try:
        status = web(path, "GETFILESTATUS")["FileStatus"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        web(path, "MKDIRS", "PUT", permission=mode)
        status = {"type": "DIRECTORY"}
    if status["type"] != "DIRECTORY":
        raise ValueError(f"{path} in HDFS is a file, not a directory; move it away")
    changed = False
    if (status.get("owner"), status.get("group")) != (owner, group):
        web(path, "SETOWNER", "PUT", owner=owner, group=group)
        changed = True
    if status.get("permission") != mode:
        web(path, "SETPERMISSION", "PUT", permission=mode)
        changed = True
    return changed


def main() -> int:
    """Read the command line, do what it says, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("namenode", "datanode", "directories"):
        command = commands.add_parser(name)
        command.add_argument("--timeout", type=float, default=120, metavar="SECONDS")
        if name == "namenode":
            command.add_argument("--datanodes", default="", help="names, separated by commas")
        if name == "directories":
            command.add_argument("directory", nargs="+", help="PATH:OWNER:GROUP:MODE")
    options = parser.parse_args()
    if options.command == "namenode":
        return wait(options.timeout, [name for name in options.datanodes.split(",") if name])
    if options.command == "datanode":
        return wait(options.timeout, None)
    if status := wait(options.timeout, []):
        return status
    try:
        for directory in options.directory:
            path, owner, group, mode = directory.split(":")
            if keep_directory(path, owner, group, mode):
                print(f"changed {path}")
    except urllib.error.HTTPError as error:
        print(f"HDFS refused {path}: {error.read().decode(errors='replace')[:500]}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"HDFS's directories could not be kept: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
