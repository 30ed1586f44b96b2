"""scripts/ssh, scripts/logs and scripts/tensorboard, with an ssh and an S3 of the tests."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from tests.support.commands import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import board
import logs


def entry(seconds: float, message: object, unit: str = "training@chief-0.service") -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(int(seconds * 1e6)), "_SYSTEMD_UNIT": unit, "MESSAGE": message})


def run(tmp_path: Path, script: str, answers: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script with an ssh that says what is scripted for each host, and what it was asked."""
    for host, answer in answers.items():
        (tmp_path / host).write_text(answer)
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nfor word; do [ -e "{tmp_path}/$word" ] && host=$word; done\n'
        f'[ -n "$host" ] || {{ echo "connect to host: refused" >&2; exit 255; }}\n'
        f'echo "$@" >> "{tmp_path}/asked"; cat "{tmp_path}/$host"\n'
    )
    ssh.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", "-i", "chief-0,ps-0,", *options],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=90,
    )  # fmt: skip


def test_logs_of_all_hosts_are_shown_by_time(tmp_path: Path) -> None:
    answers = {
        "chief-0": f"{entry(2, 'second ')}\n{entry(4, [0xC3, 0xA4, 0xFF])}\nno JSON\n",
        "ps-0": f"{entry(1, 'first', 'training@ps-0.service')}\n{entry(3, 'stored', 'flotilla-store.service')}\n",
    }
    done = run(tmp_path, "logs", answers, "chief-0", "store", "-n", "7")
    assert done.stdout.splitlines() == [
        "00:00:01 ps-0        first",
        "00:00:02 chief-0     second",
        "00:00:03 store       stored",
        "00:00:04 chief-0     ä\ufffd",
    ]
    asked = (tmp_path / "asked").read_text()
    assert "--lines=7" in asked and "--unit=training@chief-0.service --unit=flotilla-store.service" in asked


def test_a_silent_host_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    done = run(tmp_path, "logs", {"ps-0": entry(1, "here")})
    assert done.returncode == 0 and "here" in done.stdout
    assert done.stderr == "logs: chief-0: connect to host: refused\n"


def test_no_word_of_a_task_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "logs", {"ps-0": "", "chief-0": ""}, "worker-9")
    assert done.returncode == 2 and "No host has a word of worker-9" in done.stderr


def test_ssh_runs_a_command_or_names_the_hosts(tmp_path: Path) -> None:
    done = run(tmp_path, "login", {"ps-0": "three"}, "ps-0", "ls", "-l")
    assert done.stdout == "three" and (tmp_path / "asked").read_text().endswith("ps-0 ls -l\n")
    done = run(tmp_path, "login", {}, "ps-1")
    assert done.returncode == 2 and "has no host ps-1: did you mean ps-0?" in done.stderr
    done = run(tmp_path, "login", {}, "nowhere")
    assert "there are chief-0, ps-0." in done.stderr


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bbb")
        for task in ("chief-0", "ps-0"):
            s3.put_object(
                Bucket="bbb", Key=f"m/x/logs/{task}.log.gz", Body=gzip.compress(f"a word of {task}\n".encode())
            )
        for path in ("m/x/events/e.tfevents.1", "m/x/events/eval/e.tfevents.2", "m/y/events/e.tfevents.3", "m/x/a"):
            s3.put_object(Bucket="bbb", Key=path, Body=path.encode())
        yield


def test_stored_logs_are_shown(bucket: None) -> None:
    assert list(logs.stored("s3://bbb/m/x/", [], None, None)) == [
        "chief-0     a word of chief-0",
        "ps-0        a word of ps-0",
    ]
    assert list(logs.stored("s3://bbb/m/x", ["ps-0"], None, None)) == ["ps-0        a word of ps-0"]
    with pytest.raises(logs.NoLog, match="has no log of worker-0: there are chief-0, ps-0"):
        list(logs.stored("s3://bbb/m/x", ["worker-0"], None, None))
    with pytest.raises(logs.NoLog, match="has no log: is that the folder of a model"):
        list(logs.stored("s3://bbb/m", [], None, None))
    with pytest.raises(logs.NoLog, match="NoSuchBucket"):
        list(logs.stored("s3://nowhere/m", [], None, None))


def test_stored_events_of_one_model_or_several(bucket: None, tmp_path: Path) -> None:
    board.fetch("s3://bbb/m/x/", tmp_path / "one", None, None)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tfevents.*")}
    assert found == {"one/e.tfevents.1", "one/eval/e.tfevents.2"}
    board.fetch("s3://bbb/m", tmp_path / "all", None, None)
    assert (tmp_path / "all/y/e.tfevents.3").read_bytes() == b"m/y/events/e.tfevents.3"
    assert (tmp_path / "all/x/eval/e.tfevents.2").exists()
    with pytest.raises(board.NoBoard, match="has no event files"):
        board.fetch("s3://bbb/nothing", tmp_path, None, None)


def test_a_taken_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert board.main(["-p", str(port)]) == 2
    assert f"Port {port} of this machine is taken" in capsys.readouterr().err
