"""An instance's host: a copy-on-write root over its image's layers, a namespace, a control group, systemd-nspawn."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import cgroups, network
from .settings import CACHE, NODES
from .shell import LabError, run

log = logging.getLogger("lab")
REBOOT = 133  # systemd-nspawn's exit status when the guest asked for a reboot


class LayerGone(LabError):
    """A host can't boot for want of a layer of its disk."""


class Host:
    """A host that runs, or ran, for one instance.

    Args:
        instance_id: the API's name of it.
        layers: of its disk, topmost first, down to the root folder of the base image.
        default_user: login name that cloud-init makes (`admin`, `ubuntu`).
        cpus: vCPUs of the instance's type, which its share of the machine's processors is in proportion to.
        cached: it shares the lab's caches of packages.
        ended: called from a thread of its own when the host went down by itself.
    """

    def __init__(
        self,
        instance_id: str,
        layers: list[Path],
        default_user: str,
        cpus: int,
        cached: bool,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        self.instance_id = instance_id
        self.layers = layers
        self.default_user = default_user
        self.cpus = cpus
        self.cached = cached
        self.folder = NODES / instance_id
        self.root = self.folder / "root"
        self.upper = self.folder / "upper"
        self.busy = threading.Lock()  # held by who stops it and isn't through yet
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._gone = threading.Event()
        self._gone.set()

    @property
    def group(self) -> str:
        return f"node-{self.instance_id}"

    def start(self) -> None:
        """Boot the host, first or again; returns when its PID 1 has been started.

        Raises:
            LayerGone: a layer of its disk isn't there.
        """
        for layer in self.layers:
            if not layer.is_dir():
                raise LayerGone(f"{layer} isn't there")
        upper, work = self.upper, self.folder / "work"
        first = not upper.is_dir()
        for folder in (upper, work, self.root):
            folder.mkdir(parents=True, exist_ok=True)
        if first:
            self._personalize(upper)
        # "volatile" spares the disk every fsync; its marker would refuse a second mount.
        shutil.rmtree(work / "work" / "incompat", ignore_errors=True)
        below = ":".join(map(str, self.layers))
        options = f"lowerdir={below},upperdir={upper},workdir={work},volatile"
        # mount(2): with the newer calls an option has no more than 255 letters.
        run("env", "LIBMOUNT_FORCE_MOUNT2=always", "mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        self._stopping = False
        self._gone.clear()
        self._boot()
        threading.Thread(target=self._watch, name=f"watch {self.instance_id}", daemon=True).start()

    def _personalize(self, upper: Path) -> None:
        config = upper / "etc/cloud/cloud.cfg.d/95-default-user.cfg"
        config.parent.mkdir(parents=True)
        config.write_text(
            "system_info:\n  default_user:\n"
            f"    name: {self.default_user}\n    lock_passwd: true\n    shell: /bin/bash\n"
            '    groups: [adm, sudo]\n    sudo: ["ALL=(ALL) NOPASSWD:ALL"]\n'
        )
        # Packages that an earlier node has fetched lie ready, as links: nothing is copied.
        packages, here = CACHE / "apt", upper / "var/cache/apt/archives"
        here.mkdir(parents=True)
        for package in packages.glob("*.deb") if self.cached else ():
            os.link(package, here / package.name)

    def _boot(self) -> None:
        command = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.instance_id}", "--boot",
            "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            "--console=pipe", "--capability=CAP_NET_ADMIN",
            f"--network-namespace-path=/run/netns/{network.node_netns(self.instance_id)}",
            *([f"--bind={CACHE / 'uv'}:/var/cache/uv"] if self.cached else []),
        ]  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"],
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
        }
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                cgroups.joined(self.group, command),
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        cgroups.weigh(self.group, self.cpus)

    def _watch(self) -> None:
        assert self._process
        while (status := self._process.wait()) == REBOOT:
            cgroups.kill(self.group)
            self._boot()
        cgroups.kill(self.group)
        if status and not self._stopping:
            last = (self.folder / "console.log").read_text(errors="replace").splitlines()[-5:]
            log.error("systemd-nspawn of %s ended with %s: %s", self.instance_id, status, " | ".join(last))
        run("umount", str(self.root), check=False)
        stopping = self._stopping
        self._gone.set()
        if not stopping and self._ended:
            self._ended(self.instance_id)

    def leader(self) -> int | None:
        """Process id of the host's PID 1 as this machine sees it."""
        if not self._process or self._process.poll() is not None:
            return None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def reboot(self) -> None:
        """Ask the host's systemd for a reboot."""
        if leader := self.leader():
            os.kill(leader, signal.SIGRTMIN + 5)

    def stop(self, seconds: float) -> None:
        """Power the host off: orderly within `seconds`, then by force."""
        self._stopping = True
        if self._gone.is_set():
            return
        deadline = time.monotonic() + seconds
        leader = self.leader()
        if leader:
            os.kill(leader, signal.SIGRTMIN + 4)
        if not self._gone.wait(max(0.0, deadline - time.monotonic())):
            cgroups.kill(self.group)
            self._gone.wait(10)

    def remove(self) -> None:
        """Delete the stopped host's disk; packages that it fetched are kept for the next."""
        keep_packages(self.folder)
        network.node_down(self.instance_id)
        shutil.rmtree(self.folder, ignore_errors=True)


def keep_packages(folder: Path) -> None:
    """Move the packages that a host has fetched into the lab's cache."""
    packages = CACHE / "apt"
    packages.mkdir(parents=True, exist_ok=True)
    for package in (folder / "upper/var/cache/apt/archives").glob("*.deb"):
        target = packages / package.name
        if package.is_file() and not target.exists():
            package.rename(target)
