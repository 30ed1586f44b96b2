"""The Infrastructure Manager beside the region: its real server, and a git server for it to fetch the collection from.

The server is a program of its own (GPLv3) in an environment of its own; nothing of it is imported here.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import boto3

from . import cgroups
from .settings import API_ADDRESS, CORE_NETNS, RUN, STATE, Facts
from .shell import LabError, said

CHECKOUT = Path(__file__).parent.parent
ENVIRONMENT = CHECKOUT / ".venv-im"
FOLDER = STATE / "im"
LOG = FOLDER / "im.log"
READY = RUN / "im.json"
PORT = 8800
GIT_PORT = 9418
ADDRESS = f"http://127.0.0.1:{PORT}"
COLLECTION = f"git+git://{API_ADDRESS}/flotilla"

CONFIG = f"""\
[im]
REST_ADDRESS = 127.0.0.1
REST_PORT = {PORT}
DATA_DB = sqlite://{FOLDER}/inf.dat
LOG_FILE = {LOG}
MAX_SIMULTANEOUS_LAUNCHES = 4
PLAYBOOK_RETRIES = 3
SSH_REVERSE_TUNNELS = False
VM_INFO_UPDATE_FREQUENCY = 2
CHECK_CTXT_PROCESS_INTERVAL = 2
CONFMAMAGER_CHECK_STATE_INTERVAL = 2
UPDATE_CTXT_LOG_INTERVAL = 5
"""

# The server asks its own repository, on the internet, what types EC2 has; here it is the region that knows.
SITE = """\
import requests

_get = requests.get


def get(url, *arguments, **options):
    if not url.endswith("/grycap/im/master/scripts/instances.json"):
        return _get(url, *arguments, **options)
    answer = requests.Response()
    answer.status_code = 200
    answer.raw = open({types!r}, "rb")
    return answer


requests.get = get
"""


class Server(TypedDict):
    """What is known of the running server, in READY."""

    pid: int
    password: str  # of its user lab


def up(region: Facts, say: Callable[[str], None]) -> None:
    """Start the server, and write what its client needs into the checkout.

    Args:
        region: what the running region said of itself.
        say: tells the user what happens.

    Raises:
        LabError: the server's environment is missing, or it doesn't answer within 60 s.
    """
    if not (ENVIRONMENT / "bin/python").exists():
        raise LabError("the Infrastructure Manager isn't installed: run 'scripts/lab im', which installs it")
    facts: Server | None = said(READY, "im_service")
    if facts:
        say("the Infrastructure Manager is up already")
    else:
        begin = time.monotonic()
        facts = _start(region)
        say(f"the Infrastructure Manager is up ({time.monotonic() - begin:.1f} s)")
    _write_client(region, facts)
    say(f"  server   {ADDRESS}   log {LOG}")
    say("  client   im_client.cfg and im.auth here: export PATH=$PWD/.venv/bin:$PWD/.venv-im/bin:$PATH")
    say(f"  next     ansible-playbook playbooks/radl.yml -e radl_collection={COLLECTION},HEAD")


def _start(region: Facts) -> Server:
    (FOLDER / "python").mkdir(mode=0o700, parents=True, exist_ok=True)
    (FOLDER / "instances.json").write_text(json.dumps(_types(region)))
    (FOLDER / "python/sitecustomize.py").write_text(SITE.format(types=str(FOLDER / "instances.json")))
    (site,) = ENVIRONMENT.glob("lib/python3.*/site-packages")
    (site / "im.cfg").write_text(CONFIG)
    _serve_git()
    server = subprocess.Popen(
        cgroups.joined("im", [str(ENVIRONMENT / "bin/im_service")]),
        stdin=subprocess.DEVNULL, stdout=(FOLDER / "output.log").open("ab"), stderr=subprocess.STDOUT,
        start_new_session=True, cwd=FOLDER,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "ANSIBLE_"))},
            "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(FOLDER / "python"),
            "AWS_ENDPOINT_URL": region["endpoint"],
            # As the server's installation guide has it in /etc/ansible/ansible.cfg; addresses come again here.
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_SSH_COMMON_ARGS": "-o UserKnownHostsFile=/dev/null",
        },
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{ADDRESS}/version", timeout=2):
                break
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    else:
        raise LabError(f"the Infrastructure Manager did not start: see {FOLDER}/output.log and {LOG}")
    secret = FOLDER / "password"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(18))
    facts = Server(pid=server.pid, password=secret.read_text())
    READY.touch(mode=0o600)
    READY.write_text(json.dumps(facts))
    return facts


def _serve_git() -> None:
    """Serve the checkout's commits at git://API_ADDRESS/flotilla, to the nodes only."""
    cgroups.kill("git")
    served = FOLDER / "git"
    served.mkdir(exist_ok=True)
    (served / "flotilla").unlink(missing_ok=True)
    (served / "flotilla").symlink_to(CHECKOUT)
    safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    subprocess.Popen(
        cgroups.joined(
            "git",
            ["ip", "netns", "exec", CORE_NETNS, "git", "daemon", "--export-all", "--reuseaddr",
             f"--listen={API_ADDRESS}", f"--port={GIT_PORT}", f"--base-path={served}", str(served)],
        ),
        stdin=subprocess.DEVNULL, stdout=(FOLDER / "git.log").open("ab"), stderr=subprocess.STDOUT,
        start_new_session=True, env={**os.environ, **safe},
    )  # fmt: skip


def _types(region: Facts) -> list[dict[str, object]]:
    """The region's instance types, in the words of the server's own list."""
    ec2 = boto3.client(
        "ec2", region_name=region["region"], endpoint_url=region["endpoint"],
        aws_access_key_id=region["access_key"], aws_secret_access_key=region["secret_key"],
    )  # fmt: skip
    found: list[dict[str, object]] = []
    for page in ec2.get_paginator("describe_instance_types").paginate():
        for kind in page["InstanceTypes"]:
            gpus = kind.get("GpuInfo", {}).get("Gpus", [])
            found.append(
                {
                    "instance_type": kind["InstanceType"], "arch": kind["ProcessorInfo"]["SupportedArchitectures"],
                    "vCPU": kind["VCpuInfo"]["DefaultVCpus"], "memory": kind["MemoryInfo"]["SizeInMiB"] / 1024,
                    "GPU": sum(gpu.get("Count", 0) for gpu in gpus), "GPU_model": gpus[0].get("Name") if gpus else None,
                    "pricing": 1, "storage": None, "ECU": 0, "vpc_only": True,
                }
            )  # fmt: skip
    return found


def _write_client(region: Facts, facts: Server) -> None:
    """Write im_client.cfg and im.auth into the checkout, for its owner only."""
    lines = {
        "im_client.cfg": f"[im_client]\nrestapi_url={ADDRESS}\nauth_file=im.auth\n",
        "im.auth": f"id = im; type = InfrastructureManager; username = lab; password = {facts['password']}\n"
        f"id = ec2; type = EC2; username = {region['access_key']}; password = {region['secret_key']}\n",
    }
    owner = CHECKOUT.stat()
    for name, text in lines.items():
        file = CHECKOUT / name
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
        os.chown(file, owner.st_uid, owner.st_gid)
