"""roles/training/files/pack.py: what a program from this machine is refused for, and what of it goes to the hosts."""

from __future__ import annotations

import base64
import io
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import s3_urls

PACK = Path(__file__).parents[2] / "roles/training/files/pack.py"


def pack(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PACK), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "main.py": "import lib.a\n",
        "lib/a.py": "",
        ".git/config": "",
        "lib/__pycache__/a.pyc": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_good_program_is_packed_the_same_each_time(folder: Path) -> None:
    assert pack("--check", str(folder), ".", "main.py").returncode == 0
    first = pack(str(folder), ".").stdout
    (folder / "main.py").touch()
    assert pack(str(folder), ".").stdout == first
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(first))) as archive:
        assert archive.getnames() == ["lib/a.py", "main.py"]


def test_links_are_followed_as_python_does(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    common = tmp_path_factory.mktemp("common")
    (common / "net.py").write_text("SIZE = 1\n")
    (folder / "common").symlink_to(common)
    (folder / "again").symlink_to(folder)
    (folder / "twice").mkdir()
    (folder / "twice" / "lib").symlink_to(folder / "lib")
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "main.py").write_text("from common import net\n")
    assert pack("--check", str(folder), ".", "main.py").returncode == 0
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(pack(str(folder), ".").stdout))) as archive:
        assert archive.getnames() == ["common/net.py", "lib/a.py", "main.py", "twice/lib/a.py"]
        assert archive.extractfile("common/net.py").read() == b"SIZE = 1\n"


@pytest.mark.parametrize(
    ("name", "text", "words", "names", "entry"),
    [
        ("lib/a.py", "x = 1\ndef f(:\n", "lib/a.py, line 2: invalid syntax", ".", "main.py"),
        ("main.py", "", "has no Python file other.py: training_entry names the one to run", ".", "other.py"),
        ("data.bin", "0" * 20_000_001, "data.bin the most of it, and at most 20 MB go to", ".", "main.py"),
        ("main.py", "import near\n", "main.py imports near, which lies beside it: give", "main.py", "main.py"),
        ("main.py", "", "there is no ", "nowhere.py", "nowhere.py"),
    ],
)  # fmt: skip
def test_what_can_not_run_is_refused(folder: Path, name: str, text: str, words: str, names: str, entry: str) -> None:
    (folder / "near.py").write_text("")
    (folder / name).write_text(text)
    done = pack("--check", str(folder), names, entry)
    assert done.returncode == 1 and words in done.stderr and "\n" not in done.stderr.strip()


def test_a_program_may_be_as_large_in_s3() -> None:
    assert runpy.run_path(str(PACK))["LIMIT"] == s3_urls.PROGRAM_LIMIT


def test_versions_that_are_not_followed_are_said(folder: Path) -> None:
    """As PowerShell writes the file; 2.15.1 and the rest stand in training/requirements-cpu.lock."""
    wanted = "-e .\ntensorflow_gpu==1.15.0  # old\ntensorboard>=1.15,<2\nnumpy>=1.20\npandas==2.2.0\nother @ git+https://x/y\n"
    (folder / "requirements.txt").write_text(wanted, encoding="utf-16")
    assert pack("--check", str(folder), ".", "main.py").stdout.splitlines() == [
        "requirements.txt asks for tensorflow_gpu==1.15.0: the hosts have 2.15.1, which stays.",
        "requirements.txt asks for tensorboard<2,>=1.15: the hosts have 2.15.2, which stays.",
    ]
