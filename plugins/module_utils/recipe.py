# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What decides a role's installation, as a digest: of its mark on hosts, and of the images that hold it."""

from __future__ import annotations

import hashlib
from pathlib import Path

# The collection's files that decide what a role's tasks/install.yml leaves on a host. A role's variables count whole:
# an image made anew without need is cheaper than one that is wrongly taken.
RECIPE = {
    "node": ["roles/node/tasks/install*.yml", "roles/node/vars/main.yml"],
    "hdfs": [
        "roles/hdfs/tasks/install*.yml",
        "roles/hdfs/vars/main.yml",
        "roles/hdfs/files/distribution/*",
        "roles/hdfs/files/hdfs_admin.py",
    ],
    "tensorflow": [
        "roles/tensorflow/tasks/install*.yml",
        "roles/tensorflow/vars/main.yml",
        "roles/tensorflow/files/uv.txt",
        "training/requirements-cpu.lock",
        "training/requirements-gpu.lock",
    ],
    "training": [
        "roles/training/tasks/install*.yml",
        "training/pyproject.toml",
        "training/README.md",
        "training/flotilla/**/*.py",
    ],
    "image": ["roles/image/tasks/install*.yml"],
}


def role_digest(root: Path, role: str, extra: str = "") -> str:
    """Return 16 hex digits that change with whatever a role installs.

    ``root`` is the collection's folder; ``extra`` is what its files don't say, as the distribution of Hadoop. Raises
    KeyError for a role that installs nothing, and FileNotFoundError where the collection lacks one of its files.
    """
    digest = hashlib.sha256(f"{role}\0{extra}\0".encode())
    for pattern in RECIPE[role]:
        files = sorted(file.relative_to(root).as_posix() for file in root.glob(pattern) if file.is_file())
        if not files:
            raise FileNotFoundError(f"the collection in {root} has no {pattern}")
        for name in files:
            content = (root / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def image_digest(root: Path, kind: str, base_image: str, distribution: str) -> str:
    """Return the digest of an image: of all roles' installations, cpu or gpu, the base image's id, and Hadoop's."""
    digests = [role_digest(root, role) for role in RECIPE]
    return hashlib.sha256("\0".join([*digests, kind, base_image, distribution]).encode()).hexdigest()[:16]
