"""What systemd and the NameNode say is read, and nobody to ask is no error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flotilla import status
from flotilla.supervision import host

SHOWN = """\
Id=training@worker-0.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Result=exit-code
NRestarts=2
StateChangeTimestampMonotonic=5000000
MemoryCurrent=[not set]

Id=hadoop-namenode.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
NRestarts=0
StateChangeTimestampMonotonic=2500000
MemoryCurrent=210000000

Id=flotilla-store.service
LoadState=not-found
ActiveState=inactive
SubState=dead
Result=success
NRestarts=0
StateChangeTimestampMonotonic=0
MemoryCurrent=18446744073709551615
"""
# As Hadoop 3.5.0 answers, without what isn't read.
BEANS = {
    "NameNodeInfo": {
        "Used": 24576,
        "Total": 270553174016,
        "Safemode": "",
        "NumberOfMissingBlocks": 1,
        "LiveNodes": '{"ps-0:9866":{"usedSpace":24576},"chief-0:9866":{}}',
        "DeadNodes": '{"worker-0:9866":{"lastContact":71}}',
    },
    "FSNamesystemState": {"UnderReplicatedBlocks": 4},
}


class Page(BaseHTTPRequestHandler):
    beans: dict[str, dict[str, object]]

    def do_GET(self) -> None:
        name = self.path.removeprefix("/jmx?qry=Hadoop:service=NameNode,name=")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"beans": [self.beans[name]] if name in self.beans else []}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def namenode() -> Iterator[str]:
    Page.beans = dict(BEANS)
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_units() -> None:
    found = host.parse_units(SHOWN, 1000.0)
    assert set(found) == {"training@worker-0.service", "hadoop-namenode.service"}
    assert found["training@worker-0.service"] == {
        "active": "activating",
        "sub": "auto-restart",
        "result": "exit-code",
        "restarts": 2,
        "since": 1005.0,
        "memory": None,
    }
    assert found["hadoop-namenode.service"]["memory"] == 210_000_000
    assert host.parse_units("", 0) == {}
    assert host.task_name("training@ps-0.service") == "ps-0" and host.task_name(host.STORE) is None


def test_health_of_hdfs(namenode: str) -> None:
    assert host.hdfs_health(namenode) == {
        "problem": "",
        "live": ["chief-0", "ps-0"],
        "dead": ["worker-0"],
        "missing": 1,
        "under_replicated": 4,
        "used": 24576,
        "capacity": 270553174016,
        "safe_mode": False,
    }
    del Page.beans["FSNamesystemState"]
    told = {"problem": "the NameNode doesn't answer, see journalctl -u hadoop-namenode"}
    assert host.hdfs_health(namenode) == host.hdfs_health("http://127.0.0.1:1") == told


def test_a_look_at_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], namenode: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "shown").write_text(SHOWN)
    (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\ncat {tmp_path}/shown\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(host, "NAMENODE_PAGES", namenode)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/worker-0.json").write_text('{"job": "cifar10", "step": 120}')
    job = {"name": "cifar10", "max_steps": 400, "tasks_dir": str(tmp_path / "tasks")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    arguments = ["--tasks", "--dir", str(tmp_path / "progress"), "--job", str(tmp_path / "job.json")]
    assert status.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["job"] == {"name": "cifar10", "max_steps": 400} and found["store"] is None
    assert found["tasks"]["worker-0"]["restarts"] == 2
    assert found["tasks"]["worker-0"]["told"] == {"job": "cifar10", "step": 120}
    assert found["hdfs"]["under_replicated"] == 4

    (tmp_path / "bin/systemctl").unlink()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    (tmp_path / "job.json").unlink()
    assert status.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["store"], found["hdfs"], found["phases"]) == ({}, None, None, {})
    assert found["job"] == {"name": None, "max_steps": None}
