"""The lab's machine image: a minimal Debian 12 that boots as an AMI does.

Built once with mmdebstrap; kept under a name made of its recipe, so that a changed recipe builds a new one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import cgroups
from .settings import IMAGES, METADATA_ADDRESS
from .shell import LabError

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "sudo", "iproute2", "iputils-ping",
    "ca-certificates", "cloud-init", "python3-apt", "procps", "netbase", "less",
)  # fmt: skip

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # Ubuntu's apt doesn't trust it by itself

# Inside a container cloud-init doesn't look at DMI, so it doesn't believe that it is on AWS and asks without a token.
CLOUD_INIT_PATCH = """\
try:
    import cloudinit.sources.DataSourceEc2 as ec2
except ImportError:
    pass
else:
    ec2.identify_platform = lambda: ec2.CloudNames.AWS
    ec2.datasources = [entry for entry in ec2.datasources if entry[0].__name__ != "DataSourceEc2Local"]
"""

# cloud-init-local.service, which is masked, would see that the disk was another instance's and forget that one.
FORGET = f"""\
#!/usr/bin/python3
import pathlib
import urllib.request as web

cloud, base = pathlib.Path("/var/lib/cloud"), "http://{METADATA_ADDRESS}/latest/"
ask = web.Request(base + "api/token", method="PUT", headers={{"X-aws-ec2-metadata-token-ttl-seconds": "60"}})
token = web.urlopen(ask, timeout=5).read().decode()
ask = web.Request(base + "meta-data/instance-id", headers={{"X-aws-ec2-metadata-token": token}})
if web.urlopen(ask, timeout=5).read().decode() != (cloud / "data/instance-id").read_text().strip():
    (cloud / "instance").unlink(missing_ok=True)
"""
FORGET_UNIT = """\
[Service]
ExecStartPre=-/bin/sh -c '! [ -e /var/lib/cloud/data/instance-id ] || exec /usr/local/lib/cloud-init-ec2/forget'
"""

CLOUD_CONFIG = f"""\
datasource_list: [Ec2]
datasource:
  Ec2:
    metadata_urls: ["http://{METADATA_ADDRESS}"]
    max_wait: 30
    timeout: 5
network: {{config: disabled}}
manage_etc_hosts: true
ssh_genkeytypes: [ed25519]
apt_preserve_sources_list: true
cloud_init_modules: [bootcmd, write-files, set_hostname, update_hostname, update_etc_hosts, ca-certs, users-groups,
                     ssh]
cloud_config_modules: [set-passwords, timezone, runcmd]
cloud_final_modules: [package-update-upgrade-install, write-files-deferred, scripts-per-once, scripts-per-boot,
                      scripts-per-instance, scripts-user, final-message, power-state-change]
"""

# The Infrastructure Manager fetches micromamba from GitHub and Ansible from conda-forge. This has the same verbs, and
# takes the same packages from PyPI, for the system's own Python.
MICROMAMBA = """\
#!/bin/sh
set -eu
root=/var/tmp/.mamba
verb=$1 packages=
shift
if [ "$verb" = run ]; then
  shift 2
  PATH=$root/envs/ansible/bin:$PATH exec "$@"
fi
while [ $# -gt 0 ]; do
  case $1 in
    -y | python=*) ;;
    -n | -r) shift ;;
    *=*) packages="$packages ${1%%=*}==${1#*=}" ;;
    *) packages="$packages $1" ;;
  esac
  shift
done
if ! [ -x $root/uv/bin/uv ]; then
  apt-get -qq update
  apt-get -qq install -y python3-venv
  python3 -m venv $root/uv
  $root/uv/bin/pip install --quiet uv
fi
[ -x $root/envs/ansible/bin/python ] || $root/uv/bin/uv venv --quiet --python /usr/bin/python3 $root/envs/ansible
exec $root/uv/bin/uv pip install --quiet --python $root/envs/ansible/bin/python $packages
"""

FILES = {
    "usr/local/lib/cloud-init-ec2/sitecustomize.py": CLOUD_INIT_PATCH,
    "usr/local/lib/cloud-init-ec2/forget": FORGET,
    "etc/systemd/system/cloud-init.service.d/forget.conf": FORGET_UNIT,
    "etc/cloud/cloud.cfg.d/99-ec2.cfg": CLOUD_CONFIG,
    "etc/cloud/ds-identify.cfg": "policy: enabled\n",
    "etc/resolv.conf": "nameserver 169.254.169.253\n",
    "etc/apt/apt.conf.d/90image": 'APT::Install-Recommends "false";\nDPkg::Lock::Timeout "60";\n',
    "etc/dpkg/dpkg.cfg.d/unsafe-io": "force-unsafe-io\n",
    # Python's package clients bring their own CA lists: point them at the system's, and uv at the lab's cache.
    "etc/pip.conf": "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n",
    "etc/uv/uv.toml": 'system-certs = true\ncache-dir = "/var/cache/uv"\nlink-mode = "symlink"\n',
    "usr/local/lib/micromamba": MICROMAMBA,
    # Not in /var/tmp itself, which a baked image has empty.
    "etc/tmpfiles.d/micromamba.conf": "C /var/tmp/.mamba/bin/micromamba - - - - /usr/local/lib/micromamba\n",
    "etc/systemd/journald.conf.d/storage.conf": "[Journal]\nStorage=persistent\n",
}
PATCHED_UNITS = ("cloud-init", "cloud-config", "cloud-final")
MASKED_UNITS = (
    "systemd-networkd-wait-online.service", "systemd-resolved.service", "systemd-networkd.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-remount-fs.service", "cloud-init-local.service",
    "console-getty.service", "getty@tty1.service", "ssh.socket", "systemd-timesyncd.service",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount",
)  # fmt: skip


def host_certificates() -> list[Path]:
    """Extra certificate authorities of this machine (a company's proxy, for one), which nodes must trust as well."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))


def identity() -> str:
    """Short hash of everything that goes into the image."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for certificate in host_certificates():
        digest.update(certificate.read_bytes())
    return digest.hexdigest()[:12]


def path() -> Path:
    """Where the image is, or will be."""
    return IMAGES / f"debian-12-{identity()}"


def build(say: Callable[[str], None]) -> Path:
    """Build the image unless it is there; returns its root folder.

    Raises:
        LabError: mmdebstrap failed; what it printed is kept beside the images.
    """
    image = path()
    if image.is_dir():
        return image
    IMAGES.mkdir(parents=True, exist_ok=True)
    say("building the image of the lab's machines (Debian 12, once, about a minute)")
    part, log = image.with_suffix(".part"), IMAGES / "build.log"
    with log.open("wb") as output:
        command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--skip=cleanup/apt/lists",
                   "--dpkgopt=force-unsafe-io", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}", "bookworm",
                   str(part)]  # fmt: skip
        done = subprocess.run(
            cgroups.joined("build", command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode != 0:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise LabError(f"mmdebstrap could not build the image ({' '.join(last)}): see {log}")
    configure(part)
    part.rename(image)
    for old in IMAGES.iterdir():
        if old.is_dir() and old != image:
            shutil.rmtree(old)
    return image


def configure(root: Path) -> None:
    """Turn the bare system into a machine image."""
    for name, text in FILES.items():
        file = root / name
        file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)
    for unit in PATCHED_UNITS:
        drop_in = root / f"etc/systemd/system/{unit}.service.d/ec2.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text("[Service]\nEnvironment=PYTHONPATH=/usr/local/lib/cloud-init-ec2\n")
    for unit in MASKED_UNITS:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "var/cache/uv").mkdir(parents=True, exist_ok=True)
    certificates = host_certificates()
    for certificate in certificates:
        shutil.copy(certificate, root / "usr/local/share/ca-certificates" / certificate.name)
    if certificates:
        subprocess.run(["chroot", str(root), "update-ca-certificates"], check=True, capture_output=True)
