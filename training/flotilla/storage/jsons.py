"""JSON as every reader takes it: without NaN and Infinity, which Python writes and jq, JavaScript and others refuse."""

from __future__ import annotations

import json
import math


def dumps(value: object, indent: int | None = None) -> str:
    """Return value as JSON; a number that isn't finite, as the loss of a training that diverged, is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
