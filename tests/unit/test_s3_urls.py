"""Addresses of folders in S3: a table of cases for each program that reads such."""

from __future__ import annotations

import json
from collections.abc import Callable

import dataset
import pytest
from ansible_collections.flotilla.kit.plugins.module_utils import s3_urls

from tests.support.commands import ROOT

CASES: dict[str, list[str] | None] = json.loads((ROOT / "tests/support/s3_urls.json").read_text())


@pytest.mark.parametrize("url", CASES)
@pytest.mark.parametrize(
    ("split", "error"), [(s3_urls.split_folder, ValueError), (dataset.parse_target, dataset.UserError)]
)
def test_bucket_and_folder(split: Callable[[str], tuple[str, str]], error: type[Exception], url: str) -> None:
    wanted = CASES[url]
    if wanted is None:
        with pytest.raises(error):
            split(url)
    else:
        assert list(split(url)) == wanted
