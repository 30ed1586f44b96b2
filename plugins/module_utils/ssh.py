# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The SSH key that opens a fleet's hosts: whether EC2 takes it and ssh can use it."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from pathlib import Path

from ansible_collections.flotilla.kit.plugins.module_utils import aws, untyped

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-key-pairs.html
TYPES = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}
ANOTHER = "set fleet_ssh_key to another key, or to a file that isn't there yet, and it is made"


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key as ssh-keygen -l prints it; empty for what is none."""
    try:
        blob = base64.b64decode(public.split()[1], validate=True)
    except (IndexError, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def public_key(path: str) -> tuple[str, list[str]]:
    """Return the public key of a private one, with the problems found; empty where the key is still to be made."""
    try:
        return _public_key(Path(path))
    except OSError as error:
        if error.filename in ("ssh-keygen", "ssh-add"):
            return "", [f"{error.filename} isn't on this machine: install OpenSSH's client (openssh-client)."]
        return "", [f"fleet_ssh_key {path} can't be read ({error.strerror}: {error.filename}): {ANOTHER}."]


def _public_key(path: Path) -> tuple[str, list[str]]:
    if path.is_dir():
        return "", [f"fleet_ssh_key {path} is a folder: name a file in it, which is made where it is missing."]
    if not path.exists():
        return "", _check_place(path)
    head = path.read_bytes()[:64]
    if head.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        if public := _of_agent(fingerprint(path.read_text())):
            return public, _check_type(path, public.split()[0])
        return "", [
            f"fleet_ssh_key {path} is a public key, and no ssh-agent holds its private one: "
            "name the private key's file."
        ]
    info = path.stat()
    if b"PRIVATE KEY" not in path.read_bytes()[:4096] and not head.startswith(b"PuTTY"):
        return "", [f"fleet_ssh_key {path} is no private key: {ANOTHER}."]  # whose rights are nobody's business
    if info.st_uid == os.getuid() and info.st_mode & 0o077:
        return "", [f"fleet_ssh_key {path} is open to others, so that ssh doesn't take it: 'chmod 600 {path}'."]
    read = _run("ssh-keygen", "-y", "-P", "", "-f", str(path))
    if read.returncode == 0:
        problems = _check_type(path, read.stdout.split()[0])
        return "" if problems else _short(read.stdout), problems
    if "passphrase" in read.stderr:
        return _locked_key(path)
    if head.startswith(b"PuTTY"):
        return "", [
            f"fleet_ssh_key {path} is a key of PuTTY's: 'puttygen {path} -O private-openssh -o NEW' makes one for ssh."
        ]
    return "", [f"fleet_ssh_key {path} is no private key ({' '.join(read.stderr.split())[-100:]}): {ANOTHER}."]


def _locked_key(path: Path) -> tuple[str, list[str]]:
    """A key with a passphrase serves when an agent holds it; its public half isn't locked, or lies beside it."""
    shown = _run("ssh-keygen", "-l", "-f", str(path)).stdout.split()
    if not shown:
        return "", [
            f"fleet_ssh_key {path} has a passphrase, and its public half isn't beside it: "
            f"'ssh-keygen -y -f {path} > {path}.pub', then 'ssh-add {path}'."
        ]
    kind = shown[-1].strip("()")
    if kind not in TYPES.values():
        return "", [_wrong_type(path, kind)]
    public = _of_agent(shown[1])
    if public:
        return public, []
    add = f"ssh-add {path}" if os.environ.get("SSH_AUTH_SOCK") else f'eval "$(ssh-agent)"; ssh-add {path}'
    return "", [
        f"fleet_ssh_key {path} has a passphrase, and no ssh-agent holds the key: '{add}', "
        "or set fleet_ssh_key to another key."
    ]


def _of_agent(wanted: str) -> str:
    """Return the public key that an agent holds under a fingerprint, or nothing."""
    held = _run("ssh-add", "-L").stdout.splitlines()
    return next((_short(line) for line in held if fingerprint(line) == wanted), "")


def _short(public: str) -> str:
    """Leave out a public key's comment, which may tell a folder of this machine."""
    return " ".join(public.split()[:2])


def _check_type(path: Path, kind: str) -> list[str]:
    return [] if kind in TYPES else [_wrong_type(path, kind)]


def _wrong_type(path: Path, kind: str) -> str:
    return f"fleet_ssh_key {path} is of the type {kind}, and EC2 takes RSA and ED25519 only: {ANOTHER}."


def _check_place(path: Path) -> list[str]:
    """Whether a key can be made at a place."""
    public = path.with_name(path.name + ".pub")
    if public.exists():
        return [
            f"fleet_ssh_key {path} isn't there, but its public half {public} is: put the private key beside it, "
            "or set fleet_ssh_key to another file."
        ]
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir():
        return [f"fleet_ssh_key {path} can't be made, as {folder} is no folder: set fleet_ssh_key to another file."]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [f"fleet_ssh_key {path} can't be made, as you may not write to {folder}: set it to another file."]
    return []


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # pylint: disable-next=ansible-bad-function # run_command is a module's, and none is at hand
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def make(path: Path) -> None:
    """Make a private key, of ED25519 and without a passphrase. Raises FleetError."""
    for folder in reversed([one for one in path.parents if not one.exists()]):
        folder.mkdir(mode=0o700)  # one that is there keeps its mode
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", "flotilla", "-f", str(path))


def derive_public(path: Path) -> str:
    """Return the public key of a private one that ssh-keygen can read. Raises FleetError."""
    return _keygen("-y", "-f", str(path)).strip()


def _keygen(*arguments: str) -> str:
    done = _run("ssh-keygen", *arguments)
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise aws.FleetError(f"ssh-keygen could not make or read the SSH key ({words}): set fleet_ssh_key to another.")
    return done.stdout


def compare_pair(fleet: str, path: str, public: str, pair: untyped.Answer, hosts: int) -> tuple[bool, list[str]]:
    """Hold this machine's key against EC2's key pair of the fleet's name; ``hosts`` are those that run with that one.

    Returns whether the pair is to be replaced, which no host would notice, and the problems.
    """
    theirs = pair.get("PublicKey", "")
    if not theirs or (public and fingerprint(public) == fingerprint(theirs)):
        return False, []
    shown = f"{theirs.split()[0]} {fingerprint(theirs)}"
    if not any(tag == {"Key": "flotilla-fleet", "Value": fleet} for tag in pair.get("Tags", [])):
        return False, [
            f"EC2 has a key pair {pair['KeyName']} that isn't a fleet's, of another key ({shown}) than {path}: "
            "set fleet_name to another name."
        ]
    if not hosts:
        return True, []
    here = f"{path} is another one" if public else f"{path} isn't there"
    return False, [
        f"The fleet's {hosts} hosts open to the SSH key {shown}, and {here}: copy that key here from where the fleet "
        "was raised and set fleet_ssh_key to it, or destroy the fleet and begin anew."
    ]
