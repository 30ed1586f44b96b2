"""The disks behind images: what a host has written becomes a layer, and other hosts boot from it over the base image.

/var/lib/flotilla-lab/snapshots/SNAPSHOT is an overlay's layer, whiteouts and attributes included. The layer of an
image's host lies upon the image's; a layer goes when neither a snapshot nor a host needs it any more.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance

from . import cgroups
from .hosts import Host
from .images import CATALOGUE
from .settings import CACHE, SNAPSHOTS
from .shell import LabError, run
from .untyped import Moto

log = logging.getLogger("lab")

STOP_SECONDS = 90.0
PENDING_SECONDS = 1.0  # an image is pending for at least so long; AWS's take minutes
SHARED = "/var/cache/uv/"  # uv's cache, which hosts share: link mode symlink leads environments into it


@dataclass(frozen=True)
class Disk:
    """What hosts of an image boot from: layers above the lab's base image, topmost first, and the login name."""

    layers: tuple[Path, ...]
    user: str


class Snapshots:
    """The disks of a region's images.

    Args:
        backend: moto's books of EC2.
        hosts: the hosts that there are, by their instances' ids.
    """

    def __init__(self, backend: Moto, hosts: dict[str, Host]) -> None:
        self.backend = backend
        self.hosts = hosts
        self.disks: dict[str, Disk] = {}
        self.taking: set[Path] = set()
        self.lock = threading.Lock()

    def disk(self, image_id: str) -> Disk:
        """What an image boots from; of one that was registered without a disk, a layer that isn't there."""
        for entry in CATALOGUE:
            if entry.ami == image_id:
                return Disk((), entry.default_user)
        image = self.backend.amis.get(image_id)
        snapshot = image.ebs_snapshot.id if image else image_id
        return self.disks.get(snapshot, Disk((SNAPSHOTS / snapshot,), "admin"))

    def take(self, image: Ami, instance: Instance, reboot: bool) -> None:
        """Make an image's disk of an instance's, in the background."""
        image.state, image.ebs_snapshot.status = "pending", "pending"
        self.taking.add(SNAPSHOTS / image.ebs_snapshot.id)
        threading.Thread(target=self._take, args=(image, instance, reboot), name=f"image {image.id}").start()

    def copy(self, image: Ami, source: Ami) -> None:
        """Give an image the disk of another."""
        with self.lock:
            self.disks[image.ebs_snapshot.id] = self.disk(source.id)

    def _take(self, image: Ami, instance: Instance, reboot: bool) -> None:
        begin, snapshot = time.monotonic(), image.ebs_snapshot
        layer = SNAPSHOTS / snapshot.id
        try:
            host = self.hosts[instance.id]
            with host.busy:
                if instance.state == "running" and not reboot:
                    layers = copied(host, layer)
                else:
                    host.stop(STOP_SECONDS)
                    try:
                        layers = moved(host, layer)
                    finally:
                        if instance.state == "running":
                            host.start()
            disk = Disk(tuple(one for one in layers if one.parent == SNAPSHOTS), host.default_user)
            with self.lock:
                self.disks[snapshot.id] = disk
            time.sleep(max(0.0, PENDING_SECONDS - (time.monotonic() - begin)))
            image.state, snapshot.status = "available", "completed"
            log.info("%s of %s is available after %.1f s", image.id, instance.id, time.monotonic() - begin)
        except Exception as error:
            log.exception("%s could not be made", image.id)
            image.state, snapshot.status = "failed", "error"
            reason = {"Code": "Server.InternalError", "Message": f"Server.InternalError: {error}"}
            setattr(image, "state_reason", reason)  # noqa: B010 (moto doesn't have it)
        finally:
            self.taking.discard(layer)
            self.collect()

    def collect(self) -> None:
        """Delete the layers that nobody needs any more."""
        with self.lock:
            self.disks = {name: disk for name, disk in self.disks.items() if name in self.backend.snapshots}
            needed = self.taking | {layer for disk in self.disks.values() for layer in disk.layers}
            needed |= {layer for host in list(self.hosts.values()) for layer in host.layers}
            for layer in SNAPSHOTS.iterdir() if SNAPSHOTS.is_dir() else ():
                if layer not in needed:
                    shutil.rmtree(layer)


def moved(host: Host, layer: Path) -> list[Path]:
    """Make a layer of what a stopped host has written, which goes on above it: nothing is copied.

    Raises:
        LabError: its disk is in use.
    """
    if host.root.is_mount():
        raise LabError(f"the disk of {host.instance_id} is in use")
    layer.parent.mkdir(parents=True, exist_ok=True)
    host.upper.rename(layer)
    host.upper.mkdir()
    host.layers = [layer, *host.layers]
    unshare(layer, CACHE / "uv")
    return host.layers


def copied(host: Host, layer: Path) -> list[Path]:
    """Copy what a running host has written, at one moment; returns the layers that the copy makes with those below."""
    layer.parent.mkdir(parents=True, exist_ok=True)
    with cgroups.frozen(host.group):
        run("cp", "--archive", "--reflink=auto", str(host.upper), str(layer))
    unshare(layer, CACHE / "uv")
    return [layer, *host.layers]


def unshare(layer: Path, shared: Path) -> None:
    """Put the files themselves (hard links) in the place of links into uv's shared cache: a disk has all its files."""
    for folder, folders, files in os.walk(layer):
        for name in (*folders, *files):
            path = Path(folder, name)
            if not path.is_symlink() or not (target := str(path.readlink())).startswith(SHARED):
                continue
            source = shared / target.removeprefix(SHARED)
            if source.is_dir():
                path.unlink()
                shutil.copytree(source, path, symlinks=True, copy_function=os.link)
            elif source.exists():
                path.unlink()
                os.link(source, path)
