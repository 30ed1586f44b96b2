"""What decides an installation changes its digest, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ansible_collections.flotilla.kit.plugins.filter import recipe as filters
from ansible_collections.flotilla.kit.plugins.module_utils.recipe import RECIPE, image_digest, role_digest

from tests.support.commands import ROOT


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A copy of all that the recipe names."""
    for patterns in RECIPE.values():
        for file in (file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()):
            (tmp_path / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / file.relative_to(ROOT))
    return tmp_path


def image(root: Path, kind: str = "cpu", base: str = "ami-1", distribution: str = "slim") -> str:
    return image_digest(root, kind, base, distribution)


def test_another_checkout_has_the_same(kit: Path) -> None:
    assert [role_digest(kit, role) for role in RECIPE] == [role_digest(ROOT, role) for role in RECIPE]
    assert image(kit) == image(ROOT)
    assert len({role_digest(kit, role) for role in RECIPE}) == len(RECIPE)


def test_every_file_counts(kit: Path) -> None:
    before = image(kit)
    for role, patterns in RECIPE.items():
        for file in (file for pattern in patterns for file in kit.glob(pattern) if file.is_file()):
            digest, text = role_digest(kit, role), file.read_bytes()
            file.write_bytes(text + b"\n# more\n")
            assert role_digest(kit, role) != digest, file
            file.rename(file.with_name(f"other{file.suffix}"))
            file.with_name(f"other{file.suffix}").rename(file)
            file.write_bytes(text)
            assert role_digest(kit, role) == digest
    assert image(kit) == before


def test_a_file_with_another_name_counts(kit: Path) -> None:
    digest = role_digest(kit, "node")
    (kit / "roles/node/tasks/install.yml").rename(kit / "roles/node/tasks/install_more.yml")
    assert role_digest(kit, "node") != digest


def test_what_pythons_and_readers_leave_does_not_count(kit: Path) -> None:
    before = image(kit)
    (kit / "training/flotilla/__pycache__").mkdir()
    (kit / "training/flotilla/__pycache__/train.cpython-311.pyc").write_bytes(b"x")
    (kit / "roles/node/README.md").write_text("x")
    (kit / "roles/node/tasks/names.yml").write_text("x")
    assert image(kit) == before


def test_kind_base_and_distribution_count(kit: Path) -> None:
    others = {image(kit), image(kit, kind="gpu"), image(kit, base="ami-2"), image(kit, distribution="apache")}
    assert len(others) == 4


def test_a_file_that_is_gone_is_missed(kit: Path) -> None:
    (kit / "training/requirements-gpu.lock").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no training/requirements-gpu\.lock"):
        image(kit)


def test_every_role_that_installs_has_a_recipe() -> None:
    installing = {path.parent.parent.name for path in (ROOT / "roles").glob("*/tasks/install.yml")}
    assert installing == set(RECIPE)


def test_all_files_that_installing_reads_are_in_it() -> None:
    for role, patterns in RECIPE.items():
        named = {file for pattern in patterns for file in ROOT.glob(pattern)}
        for tasks in (ROOT / "roles" / role / "tasks").glob("install*.yml"):
            for task in yaml.safe_load(tasks.read_text()):
                include = task.get("ansible.builtin.include_tasks") or task.get("ansible.builtin.import_tasks")
                # A look leaves nothing, and what is handed out is no part of an installation.
                assert include in (None, "look.yml", "handout.yml") or tasks.parent / include in named, (
                    f"{tasks} includes {include}"
                )


def test_the_mark_has_the_digest_in_its_name() -> None:
    mark = filters.FilterModule().filters()["mark"]
    assert mark("hdfs", "slim") == f"/opt/flotilla/installed/hdfs-{role_digest(ROOT, 'hdfs', 'slim')}"
    assert mark("hdfs", "slim") != mark("hdfs", "apache")
    with pytest.raises(filters.AnsibleFilterError, match="the role 'dataset' installs nothing: there are node, hdfs"):
        mark("dataset")
