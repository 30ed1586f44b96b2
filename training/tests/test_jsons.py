"""JSON of a training that has diverged is still JSON."""

from __future__ import annotations

import json

from flotilla.storage import jsons


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {
        "metrics": {"loss": float("nan"), "accuracy": 0.5},
        "rates": (1, float("inf"), -float("inf")),
        "text": "NaN",
    }

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(jsons.dumps(value), parse_constant=refuse)
    assert read == {"metrics": {"loss": None, "accuracy": 0.5}, "rates": [1, None, None], "text": "NaN"}
