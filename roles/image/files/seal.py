"""Take from a host all that is its own, so that an image of it holds nothing of it: seal.py [--last] [ROOT]

The first time while it runs, and with --last when it shuts down, for what it has written meanwhile and what running
programs need. Ends with 1 and a sentence where something stays.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Files, links and folders, as patterns below the root
TAKEN = (
    # Who it is
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "boot/efi/loader/random-seed",
    "var/lib/amazon/ssm/*",
    # What cloud-init knows of it, and what it has written for its network
    "var/lib/cloud/*",
    "etc/netplan/50-cloud-init.yaml",
    "etc/network/interfaces.d/50-cloud-init*",
    "etc/udev/rules.d/70-persistent-net.rules",
    "var/lib/dhcp/*",
    "var/lib/dhcpcd/*",
    "var/lib/NetworkManager/*",
    "var/lib/chrony/*",
    # Who may come in, with which keys; what they did
    *(f"{home}/{name}" for home in ("root", "home/*") for name in (
        ".ssh", ".aws", ".ansible", ".cache", ".keras", ".gnupg", ".*_history", ".lesshst", ".viminfo", ".wget-hsts",
        ".sudo_as_admin_successful",
    )),
    "var/lib/sudo/*",
    "var/mail/*",
    # What the kit's other parts would have written, and the builder's expiry: its end isn't that of the image's hosts
    "etc/flotilla",
    "var/lib/flotilla",
    "var/lib/hadoop-handout",
    "var/lib/hadoop-build",
    "etc/systemd/system/flotilla-expiry.*",
    "etc/systemd/system/*.wants/flotilla-expiry.*",
    # What it has said, and when
    "var/log/journal/*",
    "var/lib/logrotate/*",
    "var/lib/systemd/coredump/*",
    "var/lib/systemd/timers/*",
    "var/crash/*",
    # What can be had again
    "var/lib/apt/periodic/*",
    "var/cache/debconf/*-old",
)  # fmt: skip
# Folders that stay, with those in them, whose files go
EMPTIED = ("var/log", "var/lib/apt/lists", "var/cache/apt")
# Also of running programs, this one among them
LAST = ("tmp/*", "tmp/.[!.]*", "var/tmp/*", "var/tmp/.[!.]*")


def find(root, last):
    """List what is to go, the ways in last: until then somebody may see what failed."""
    found = [path for pattern in (*TAKEN, *(LAST if last else ())) for path in root.glob(pattern)]
    for folder in EMPTIED:
        found += [Path(at, name) for at, _folders, names in os.walk(root / folder) for name in names]
    return sorted(dict.fromkeys(found), key=lambda path: (path.name == ".ssh", str(path)))


def take(path):
    """Remove a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seal(root, last):
    """Take all of it away; return what went."""
    taken = find(root, last)
    for path in taken:
        take(path)
    # Empty, not gone: the next boot makes another, and isn't taken for the system's very first.
    (root / "etc/machine-id").write_text("")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    # apt takes empty lists that are of today for good.
    if (root / "var/lib/apt/lists").is_dir():
        os.utime(root / "var/lib/apt/lists", (0, 0))
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--last", action="store_true", help="the host shuts down")
    parser.add_argument("root", nargs="?", type=Path, default=Path("/"))
    arguments = parser.parse_args()
    if arguments.root == Path("/"):
        # From now on its journal is kept in memory alone.
        subprocess.run(["journalctl", "--relinquish-var"], check=True)
    try:
        for path in seal(arguments.root, arguments.last):
            print(path)
    except OSError as error:
        sys.exit(f"{error.filename} of this host would stay in the image ({error.strerror}): make it of another host.")
    # What is written just now, by whoever still runs, is seen to when the host shuts down.
    if arguments.last and (left := find(arguments.root, arguments.last)):
        sys.exit(f"{left[0]} is there again: nothing may write to it while the host shuts down.")
    os.sync()


if __name__ == "__main__":
    main()
