"""A program in S3 becomes a folder of this host, whole or not at all: S3 by moto."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from test_store import Refusal

from flotilla import fetch

FILES = {"main.py": b"import net\n", "net/__init__.py": b"", "requirements.txt": b"six==1.17.0\n"}


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar.gz as somebody with a strict umask makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{path}": content for path, content in files.items()}


def put(client: Any, content: bytes, key: str = "programs/digits.tar.gz") -> str:
    client.put_object(Bucket="data", Key=key, Body=content)
    return f"s3://data/{key}"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = fetch.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err.strip()


def readable(value: object) -> str:
    """A case's name; archives, which are others in each process, are left out."""
    return value if isinstance(value, str) else ""


def there(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "content", "expected"),
    [
        ("programs/digits.tar.gz", tarred(FILES), FILES),
        ("programs/digits.tar.gz", tarred(below("any-name", FILES)), FILES),
        ("programs/digits.tgz", tarred(below("./any-name", FILES)), FILES),
        ("digits.zip", zipped(FILES), FILES),
        ("digits.zip", zipped(below("digits", FILES)), FILES),
        ("digits.zip", zipped({**below("a", FILES), "b/x.py": b""}), {**below("a", FILES), "b/x.py": b""}),
        ("programs/digits.py", b"print()\n", {"digits.py": b"print()\n"}),
    ],
    ids=readable,
)
def test_a_program_is_unpacked_once(
    client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    content: bytes,
    expected: dict[str, bytes],
) -> None:
    url, folder = put(client, content, key), tmp_path / "programs"
    code, looked, _ = run(capsys, "--check", url, folder)
    assert (code, looked["changed"]) == (0, True) and not folder.exists()
    code, outcome, _ = run(capsys, url, folder)
    home = Path(outcome["home"])
    assert (code, outcome) == (0, looked)
    assert (home.parent.parent, home.name) == (folder, "digits")
    assert there(home) == expected
    assert [path.name for path in home.parent.iterdir()] == ["digits"], "nothing temporary is left"
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in [home, *home.rglob("*")]), "tasks run as another user"

    gets: list[str] = []
    client.meta.events.register("before-parameter-build.s3.GetObject", lambda params, **_: gets.append(params["Key"]))
    assert run(capsys, url, folder)[:2] == (0, {"home": str(home), "changed": False}) and gets == []
    assert run(capsys, "--check", url, folder)[1]["changed"] is False


def test_a_changed_object_is_another_program(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    homes = [Path(run(capsys, put(client, tarred({"main.py": text})), tmp_path)[1]["home"]) for text in (b"1", b"2")]
    assert homes[0] != homes[1]
    assert [(home / "main.py").read_bytes() for home in homes] == [b"1", b"2"]


def test_an_object_that_changes_meanwhile_is_not_mixed_up(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = put(client, tarred({"main.py": b"1"}))
    changing = [tarred({"main.py": b"2"})]

    def change(**_: Any) -> None:
        if changing:
            put(client, changing.pop())

    client.meta.events.register("before-parameter-build.s3.GetObject", change)
    code, _, error = run(capsys, url, tmp_path)
    assert code == 75 and "changed by somebody else" in error
    assert there(tmp_path) == {}


def test_what_a_computer_leaves_behind_is_left_out(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"digits/venv/pyvenv.cfg": b"", "digits/venv/lib/x.py": b""}
    others = {
        **environment,
        "._digits": b"\0",
        "__MACOSX/digits/._main.py": b"\0",
        "digits/._main.py": b"\0",
        "digits/.git/x": b"",
    }
    url = put(client, tarred({**others, "digits/__pycache__/main.pyc": b"", **below("digits", FILES)}))
    assert there(Path(run(capsys, url, tmp_path)[1]["home"])) == FILES


def test_links_are_followed_in_the_archive_alone(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = put(client, tarred({"main.py": b"1"}, {"same.py": "main.py"}))
    assert there(Path(run(capsys, url, tmp_path / "a")[1]["home"])) == {"main.py": b"1", "same.py": b"1"}
    url = put(client, tarred({"main.py": b"1"}, {"passwd": "/etc/passwd"}))
    code, found, _ = run(capsys, url, tmp_path / "b")
    assert code == 0 and there(Path(found["home"])) == {"main.py": b"1"}, "a link that leads nowhere in it is left out"


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("a.tar.gz", tarred({"../evil.py": b""}), "../evil.py, which lies outside"),
        ("a.tar.gz", tarred({"x/../../evil.py": b""}), "outside"),
        ("a.tar.gz", tarred({"/tmp/evil.py": b""}), "outside"),
        ("a.zip", zipped({"../evil.py": b""}), "outside"),
        ("a.tar.gz", b"not an archive", "isn't a whole archive (not a gzip file"),
        ("a.tar.gz", tarred({"main.py": bytes(range(256)) * 100})[:-40], "isn't a whole archive"),
        ("a.tar.gz", b"", "isn't a whole archive"),
        ("a.zip", b"not an archive", "isn't a whole archive"),
        ("a.rar", b"", "pack it as one of .tar.gz, .tgz, .zip, .py"),
    ],
    ids=readable,
)
def test_what_is_no_program_is_refused_in_a_sentence(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, content: bytes, words: str
) -> None:
    code, _, error = run(capsys, put(client, content, key), tmp_path / "programs")
    assert code == 2 and words in error and f"s3://data/{key}" in error
    assert there(tmp_path) == {}
    assert len(error.splitlines()) == 1


def test_what_s3_refuses_is_said(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "s3://data/nothing.zip", tmp_path)
    assert (code, error) == (
        2,
        "flotilla.fetch: There is no s3://data/nothing.zip: upload the program there, or correct training_program.",
    )
    url = put(client, tarred(FILES))
    refusals = [Refusal(client, "HeadObject", "403"), Refusal(client, "ListObjectsV2")]
    code, _, error = run(capsys, url, tmp_path)
    assert code == 2 and f"{url}: HeadObject is refused (403): playbooks/provision.yml" in error
    for refusal in refusals:
        refusal.on = False
    assert run(capsys, url, tmp_path)[0] == 0
