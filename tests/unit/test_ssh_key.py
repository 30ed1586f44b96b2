"""The SSH key on this machine, and the fleet's in EC2."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import aws, ssh
from ansible_collections.flotilla.kit.plugins.modules.fleet_preflight import Preflight
from moto import mock_aws

REGION = "us-east-1"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes keys; no agent knows them."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    def make(kind: str = "ed25519", phrase: str = "", name: str = "key", *more: str) -> Path:
        path = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-C", "", "-f", str(path), *more]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return make


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], None]]:
    """An agent, and what puts a key with a passphrase into it."""
    socket = tmp_path / "agent"
    started = subprocess.run(["ssh-agent", "-a", str(socket)], check=True, capture_output=True, text=True).stdout
    words = tmp_path / "askpass"

    def add(path: Path, phrase: str) -> None:
        words.write_text(f"#!/bin/sh\necho {phrase}\n")
        words.chmod(0o700)
        environment = {**os.environ, "SSH_ASKPASS": str(words), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
        subprocess.run(["ssh-add", "-q", str(path)], check=True, env=environment, stdin=subprocess.DEVNULL)

    # After `made` has taken the variable away
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield add
    os.kill(int(started.split("SSH_AGENT_PID=")[1].split(";")[0]), signal.SIGTERM)


def one(found: tuple[str, list[str]], *words: str) -> None:
    """Exactly one problem, which has these words, and no key."""
    public, problems = found
    assert public == "" and len(problems) == 1, found
    assert all(word in problems[0] for word in words), problems


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_key_without_a_public_half_will_do(made: Callable[..., Path], kind: str) -> None:
    path = made(kind)
    public = path.with_suffix(".pub").read_text()
    path.with_suffix(".pub").unlink()
    found, problems = ssh.public_key(str(path))
    assert problems == [] and found.split() == public.split()


def test_a_key_that_is_missing_is_to_be_made(tmp_path: Path) -> None:
    assert ssh.public_key(str(tmp_path / "new/folder/key")) == ("", [])


def test_no_place_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    one(ssh.public_key(str(tmp_path / "file/key")), "can't be", "file")
    one(ssh.public_key(str(tmp_path)), "is a folder: name a file in it")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    one(ssh.public_key(str(tmp_path / "key")), f"you may not write to {tmp_path}")


def test_without_openssh(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = made()
    monkeypatch.setenv("PATH", "/nowhere")
    one(ssh.public_key(str(path)), "ssh-keygen isn't on this machine: install")


def test_a_public_half_alone_is_not_written_over(made: Callable[..., Path]) -> None:
    path = made()
    path.unlink()
    one(ssh.public_key(str(path)), f"{path} isn't there, but its public half {path}.pub is")


@pytest.mark.parametrize("phrase", ["", "a passphrase"])
def test_ec2_takes_no_ecdsa(made: Callable[..., Path], phrase: str) -> None:
    public, (problem,) = ssh.public_key(str(made("ecdsa", phrase)))
    assert public == "" and "EC2 takes RSA and ED25519 only" in problem and "and it is made" in problem


def test_rights(made: Callable[..., Path]) -> None:
    path = made()
    path.chmod(0o644)
    one(ssh.public_key(str(path)), f"'chmod 600 {path}'")
    path.chmod(0o400)
    assert ssh.public_key(str(path))[1] == []
    one(ssh.public_key("/etc/passwd"), "/etc/passwd is no private key: set")  # not: chmod 600 /etc/passwd


def test_no_key_at_all(made: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text, word in (
        ("hello\n", "is no private key"),
        ("", "is no private key"),
        (made().read_text()[:200], "is no private key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "puttygen"),
    ):
        path.write_text(text)
        path.chmod(0o600)
        one(ssh.public_key(str(path)), str(path), word)
    one(ssh.public_key(f"{tmp_path}/key.pub"), "is a public key", "name the private key's file")


@pytest.mark.parametrize("public_half", [True, False])
def test_a_passphrase(
    made: Callable[..., Path],
    agent: Callable[[Path, str], None],
    public_half: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = made("ed25519", "a passphrase")
    public = path.with_suffix(".pub").read_text()
    if not public_half:
        path.with_suffix(".pub").unlink()
    one(ssh.public_key(str(path)), "has a passphrase, and no ssh-agent holds the key", f"'ssh-add {path}'")
    agent(path, "a passphrase")
    found, problems = ssh.public_key(str(path))
    assert problems == [] and found.split() == public.split()
    if public_half:
        assert ssh.public_key(f"{path}.pub") == (found, [])
    monkeypatch.delenv("SSH_AUTH_SOCK")
    one(ssh.public_key(str(path)), 'eval "$(ssh-agent)"; ssh-add')


def test_a_passphrase_that_hides_the_public_half(made: Callable[..., Path]) -> None:
    path = made("rsa", "a passphrase", "key", "-m", "PEM")
    path.with_suffix(".pub").unlink()
    one(ssh.public_key(str(path)), "its public half isn't beside it", f"'ssh-keygen -y -f {path} > {path}.pub'")


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """One for all tests here: reading EC2's description anew takes longer than all else."""
    return boto3.Session()


@pytest.fixture
def ec2(session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(aws, "open_session", lambda *_: session)
    with mock_aws():
        yield session.client("ec2", region_name=REGION)


def look(path: Path | str, hosts: int) -> Preflight:
    """What fleet_preflight finds about the key of the fleet demo, with so many hosts."""
    preflight = Preflight({"region": REGION, "name": "demo", "ssh_key": str(path)})
    preflight.aws = aws.Aws(REGION)
    preflight.ssh_key()
    preflight.key_pair(hosts)
    return preflight


def import_key(ec2: Any, path: Path, **tags: str) -> None:
    its = [{"Key": key.replace("_", "-"), "Value": value} for key, value in tags.items()]
    ec2.import_key_pair(
        KeyName="flotilla-demo",
        PublicKeyMaterial=path.with_suffix(".pub").read_bytes(),
        TagSpecifications=[{"ResourceType": "key-pair", "Tags": its}] if its else [],
    )


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_the_fleets_key_is_found_out_before_anything_is_changed(ec2: Any, made: Callable[..., Path], kind: str) -> None:
    theirs, mine = made(kind, "", "theirs"), made(kind, "", "mine")
    import_key(ec2, theirs, flotilla_fleet="demo")
    assert look(theirs, 3).problems == [] and not look(theirs, 3).result["replace_key_pair"]
    (problem,) = look(mine, 3).problems
    shown = subprocess.run(["ssh-keygen", "-lf", str(theirs)], check=True, capture_output=True, text=True).stdout
    assert "The fleet's 3 hosts open to the SSH key" in problem and shown.split()[1] in problem, problem
    assert f"{mine} is another one" in problem and "fleet_ssh_key" in problem
    (problem,) = look("/nowhere/key", 3).problems
    assert "/nowhere/key isn't there" in problem
    # Without hosts, a key that is lost is no reason to stop.
    assert look(mine, 0).problems == [] and look(mine, 0).result["replace_key_pair"]


def test_a_key_pair_that_is_no_fleets_stays(ec2: Any, made: Callable[..., Path]) -> None:
    import_key(ec2, made("ed25519", "", "theirs"))
    found = look(made("ed25519", "", "mine"), 0)
    assert "a key pair flotilla-demo that isn't a fleet's" in found.problems[0]
    assert not found.result["replace_key_pair"]


def test_no_key_pair_yet(ec2: Any, made: Callable[..., Path]) -> None:
    found = look(made(), 0)
    assert found.problems == [] and not found.result["replace_key_pair"] and found.result["public_key"]


def test_nobody_needs_a_key_for_the_infrastructure_manager(ec2: Any, made: Callable[..., Path]) -> None:
    import_key(ec2, made("ed25519", "", "theirs"), flotilla_fleet="demo")
    assert look("", 3).problems == []
