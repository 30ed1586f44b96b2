"""Names for what has no types: objects of moto's, and requests and answers in the words of botocore's model."""

from __future__ import annotations

from typing import Any

Moto = Any  # an object of moto's, or what one of its methods takes or returns: the lab patches what has no types there
Json = Any  # what was read from JSON
Request = dict[str, Any]  # a call's parameters, in the words of botocore's model
Answer = dict[str, Any]  # an answer, or a part of one, likewise
