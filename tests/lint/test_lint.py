"""Linters, and what no linter knows."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from scripts import role_docs
from tests.support.commands import ROOT, user_runs

# Each call of mypy has a cache of its own: with other options it would throw away what the one before has found.
LINTERS = {
    "yamllint": ["yamllint", "--strict", "."],
    "ansible-lint": ["ansible-lint", "--offline", "--profile", "production"],
    "ruff": ["ruff", "check", "."],
    "ruff-format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", "--cache-dir", ".mypy_cache/lab", "--strict", "lab", "scripts/dataset.py", "scripts/watch.py",
        "scripts/board.py", "scripts/login.py", "scripts/logs.py", "scripts/trial.py"],
    "mypy-training": [
        "mypy", "--cache-dir", ".mypy_cache/training", "--config-file", "training/pyproject.toml", "training/flotilla",
    ],
    "mypy-plugins": [
        "mypy", "--cache-dir", ".mypy_cache/plugins", "--strict", "--explicit-package-bases",
        "--ignore-missing-imports", "--allow-subclassing-any", "collections/ansible_collections/flotilla/kit/plugins",
        "scripts/role_docs.py",
    ],
}  # fmt: skip
AWS = ROOT / "docs/aws.md"
GUIDES = (ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md")
ROLES = sorted(p.name for p in (ROOT / "roles").iterdir() if (p / "tasks").is_dir())
README = ["Example", "Variables", "Entry points", "Files and ports", "A second run", "Decisions"]


@pytest.mark.parametrize("name", LINTERS)
def test_linter(name: str, tmp_path: Path) -> None:
    # ansible-lint installs the collection into the home once, and from then on looks at that copy. It loads the
    # playbooks that site.yml imports with this checkout's ansible.cfg, whose inventory asks AWS: where that fails, it
    # prints an error, passes over the playbook, and ends with 0.
    no_inventory = ("ANSIBLE_INVENTORY=/dev/null", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=false")
    done = user_runs("env", f"HOME={tmp_path}", *no_inventory, *LINTERS[name])
    assert "Failed to load" not in done.stdout


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


@pytest.mark.parametrize("role", ROLES)
def test_readmes_of_all_roles_are_built_alike(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text()
    assert re.match(rf"# {role}\n\n[A-Z]", text), "a heading, and a sentence what the role does"
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[: len(README)] == README
    example = re.search(r"\n## Example\n\n```yaml\n(.*?)```\n", text, re.DOTALL)
    assert example and f"flotilla.kit.{role}" in example[1]
    assert all("hosts" in play for play in yaml.safe_load(example[1])), "plays, to be copied"


@pytest.mark.parametrize("role", ROLES)
def test_readme_and_defaults_say_what_the_argument_spec_says(role: str) -> None:
    folder = ROOT / "roles" / role
    old = [file.name for file, text in role_docs.written(role).items() if file.read_text() != text]
    assert old == [], "run 'python scripts/role_docs.py'"
    lines = (folder / "defaults/main.yml").read_text().splitlines()
    bare = [line for above, line in itertools.pairwise(lines) if line[:1].isalpha() and above[:1] != "#"]
    assert bare == [], "in defaults/main.yml, without a comment"
    specs = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    values = yaml.safe_load((folder / "defaults/main.yml").read_text())
    given = {name: option["default"] for name, (option, _) in role_docs.options(specs).items() if "default" in option}
    assert {name: values[name] for name in given} == given
    entries = re.search(r"<!-- entry points.*?<!-- end -->", (folder / "README.md").read_text(), re.DOTALL)
    assert entries and all(f"- `{entry}`: " in entries[0] for entry in specs)


def test_private_variables_stay_where_they_are_set() -> None:
    """What a role offers to playbooks has a public name, and its README says so."""

    def yamls(*folders: Path) -> dict[str, str]:
        files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".yml", ".j2")]
        return {str(file.relative_to(ROOT)): file.read_text() for file in files}

    def private(text: str) -> set[str]:
        return set(re.findall(r"\b__[a-z]\w+\b(?<!__)", text))

    playbooks = yamls(ROOT / "playbooks")
    own = {name for text in playbooks.values() for name in re.findall(r"(?<=register: )__\w+|__\w+(?=:)", text)}
    foreign = [f"{file}: {name}" for file, text in playbooks.items() for name in private(text) - own]
    for role in ROLES:
        for file, text in yamls(ROOT / "roles" / role).items():
            foreign += [f"{file}: {name}" for name in private(text) if not name.startswith(f"__{role}_")]
    assert foreign == []


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


def test_files_that_docs_lead_to_are_there() -> None:
    top = {name.split("/")[0] for name in user_runs("git", "ls-files").stdout.split() if "/" in name}
    for page in GUIDES:
        text = page.read_text()
        found = [name for name in re.findall(r"`([^`\s]+/[^`\s]*)`", text) if name.split("/")[0] in top]
        patterns = {name: re.sub(r"NAME|X|…", "*", name) for name in found}
        # In a list of what a role has, paths are a role's.
        missing = [
            name
            for name, pattern in patterns.items()
            if not any([*ROOT.glob(pattern), *ROOT.glob(f"roles/*/{pattern}")])
        ]
        assert found and missing == [], page.name
        for function, name in re.findall(r"`(\w+)\(\)` in\s`([^`]+)`", text):
            assert re.search(rf"^ *def {function}\b", (ROOT / name).read_text(), re.MULTILINE), f"{name}: {function}"


def test_pages_are_linked_to() -> None:
    pages = [ROOT / name for name in user_runs("git", "ls-files", "*.md").stdout.split()]
    linked = {
        (page.parent / target.split("#")[0]).resolve()
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in target
    }
    assert [str(page) for page in pages if page not in linked and page != ROOT / "README.md"] == []
    assert [str(page) for page in linked if not page.exists()] == []


def test_all_say_the_same_version() -> None:
    kit = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    for name in ("pyproject.toml", "training/pyproject.toml", "training/flotilla/__init__.py"):
        found = re.findall(r'^(?:__)?version(?:__)? = "(.+)"$', (ROOT / name).read_text(), re.MULTILINE)
        assert found == [kit["version"]], name
    (radl,) = yaml.safe_load((ROOT / "playbooks/radl.yml").read_text())
    assert radl["vars"]["radl_collection"] == f"git+{kit['repository']},v{kit['version']}"


def test_locks_carry_no_index_address() -> None:
    for lock in [ROOT / "requirements.lock", *(ROOT / "training").glob("*.lock")]:
        assert "://" not in lock.read_text(), lock.name


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
