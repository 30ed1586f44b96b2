"""Linters, and what no linter knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from harness import ROOT, user_runs

# Each call of mypy has a cache of its own: with other options it would throw away what the one before has found.
LINTERS = {
    "yamllint": ["yamllint", "--strict", "."],
    "ansible-lint": ["ansible-lint", "--offline", "--profile", "production"],
    "ruff": ["ruff", "check", "."],
    "ruff-format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", "--cache-dir", ".mypy_cache/lab", "--strict", "lab", "scripts/dataset.py", "scripts/watch.py"],
    "mypy-training": [
        "mypy", "--cache-dir", ".mypy_cache/training", "--config-file", "training/pyproject.toml", "training/flotilla",
    ],
    "mypy-plugins": [
        "mypy", "--cache-dir", ".mypy_cache/plugins", "--strict", "--explicit-package-bases",
        "--ignore-missing-imports", "--allow-subclassing-any", "plugins",
    ],
}  # fmt: skip
AWS = ROOT / "docs/aws.md"
ROLES = sorted(p.name for p in (ROOT / "roles").iterdir() if (p / "tasks").is_dir())


@pytest.mark.parametrize("name", LINTERS)
def test_linter(name: str, tmp_path: Path) -> None:
    # ansible-lint installs the collection into the home, once, and then looks at that copy for ever.
    user_runs("env", f"HOME={tmp_path}", *LINTERS[name])


def test_shellcheck() -> None:
    tracked = user_runs("git", "ls-files").stdout.split()
    scripts = [
        f
        for f in tracked
        if (ROOT / f).is_file() and (ROOT / f).read_bytes()[:64].startswith((b"#!/usr/bin/env bash", b"#!/bin/"))
    ]
    assert "scripts/quickstart" in scripts
    user_runs("shellcheck", "--external-sources", *scripts, "scripts/common.sh")


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_spec_name_the_same(role: str) -> None:
    folder = ROOT / "roles" / role
    defaults = set(yaml.safe_load((folder / "defaults/main.yml").read_text()) or {})
    specs = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    options = {name: spec for entry in specs.values() for name, spec in (entry.get("options") or {}).items()}
    optional = {name for name, spec in options.items() if not spec.get("required")}
    assert defaults - set(options) == set(), "in defaults/main.yml, not in the argument spec"
    assert optional - defaults == set(), "optional in the argument spec, without a default"
    assert all(name.startswith(f"{role}_") for name in options), "a role's variables begin with its name"


def test_readme_of_each_role_names_every_variable() -> None:
    missing = [
        f"{role}: {name}"
        for role in ROLES
        for name in (yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text()) or {})
        if f"`{name}`" not in (ROOT / "roles" / role / "README.md").read_text()
    ]
    assert missing == []


def test_what_docs_say_is_tested_is_there() -> None:
    file, missing = "", []
    for path, name in re.findall(r"`((?:unit|lab|roles|life|training)/test_\w+\.py)?(?:::(\w+))?`", AWS.read_text()):
        file = path or file
        where = ROOT / (f"training/tests/{file[9:]}" if file.startswith("training/") else f"tests/{file}")
        if path and not where.is_file():
            missing.append(path)
        elif name and not re.search(rf"^ *(def|class) {name}\b", where.read_text(), re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert file and missing == []


def test_all_say_the_same_version() -> None:
    kit = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    for name in ("pyproject.toml", "training/pyproject.toml", "training/flotilla/__init__.py"):
        found = re.findall(r'^(?:__)?version(?:__)? = "(.+)"$', (ROOT / name).read_text(), re.MULTILINE)
        assert found == [kit["version"]], name
    (radl,) = yaml.safe_load((ROOT / "playbooks/radl.yml").read_text())
    assert radl["vars"]["radl_collection"] == f"git+{kit['repository']},v{kit['version']}"


def test_locks_carry_no_index_address() -> None:
    for lock in [ROOT / "requirements.lock", *(ROOT / "training").glob("*.lock")]:
        assert "http" not in lock.read_text(), lock.name


def test_collection_builds_and_is_sane(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    user_runs("ansible-galaxy", "collection", "build", str(clone), "--output-path", str(tmp_path))
    (archive,) = tmp_path.glob("flotilla-kit-*.tar.gz")
    target = tmp_path / "ansible_collections/flotilla/kit"
    target.mkdir(parents=True)
    shutil.unpack_archive(archive, target)
    assert (target / "training/flotilla/train.py").is_file()
    assert not (target / "lab").exists()
    # What the collection depends on lies beside it, as ansible-galaxy would put it there.
    (target.parent.parent / "amazon").symlink_to(Path(sysconfig.get_path("purelib"), "ansible_collections/amazon"))
    # ansible-test fetches pip's bootstrap script from a host of its own; Python brings the same thing along.
    home = ROOT / ".cache/ansible-test"  # the environments of the sanity tests are kept there
    cache = home / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "get_pip_24_2.py").write_text("import ensurepip\nensurepip.bootstrap()\n")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    user_runs(
        "env", f"--chdir={target}", f"HOME={home}",
        "ansible-test", "sanity", "--local", "--color", "no", "--python", version, seconds=1500,
    )  # fmt: skip
