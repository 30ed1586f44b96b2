"""The user's own functions: how an input is prepared, and what columns the model's outputs become."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flotilla.inference.arrays import Array, Arrays
from flotilla.inference.saved_model import Facts, Input
from flotilla.job.errors import BadInput, cause

Column = str | float | bool | None | list[float] | list[str]


class Failed(Exception):
    """What a function of the user's raised, with file and line."""


class Own:
    """The functions of a file; each is None where the file hasn't it."""

    def __init__(self, path: str) -> None:
        """Run the file; raise BadInput."""
        self._path = path
        self._prepare = self._present = None
        if not path:
            return
        name = Path(path).stem
        try:
            spec = importlib.util.spec_from_file_location("flotilla_infer_program", path)
            if spec is None or spec.loader is None:
                raise BadInput(f"{path} is no Python file: infer_program names one.")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # where dataclasses look for it
            spec.loader.exec_module(module)
        except BadInput:
            raise
        except FileNotFoundError as error:
            raise BadInput(f"{path} isn't there: infer_program names a Python file.") from error
        except BaseException as error:
            raise BadInput(f"{name}.py (infer_program) can't be run: {self._where(error)}.") from error
        self._prepare = self._function(module, "prepare")
        self._present = self._function(module, "present")
        if self._prepare is None and self._present is None:
            raise BadInput(f"{name}.py (infer_program) has neither a function prepare(data) nor present(outputs).")

    def _function(self, module: object, name: str) -> Callable[[object], object] | None:
        found = getattr(module, name, None)
        if found is not None and not callable(found):
            raise BadInput(f"{name} in {Path(self._path).name} (infer_program) is no function.")
        return found

    @property
    def prepares(self) -> bool:
        """Whether it has a function `prepare`."""
        return self._prepare is not None

    def prepare(self, data: object, facts: Facts) -> Arrays:
        """Return what the model takes for an input, by the user's function; raise Failed."""
        if self._prepare is None:
            raise Failed("there is no function prepare(data)")
        made = self._called(self._prepare, "prepare", data)
        inputs = facts["inputs"]
        if not isinstance(made, Mapping):
            if len(inputs) != 1:
                kind = type(made).__name__
                raise Failed(f"prepare returns a {kind}, but the model takes {', '.join(inputs)}: a mapping")
            made = {next(iter(inputs)): made}
        arrays = {str(name): self._array(value, inputs.get(str(name))) for name, value in made.items()}
        if arrays.keys() != inputs.keys():
            raise Failed(f"prepare returns {', '.join(arrays)}, but the model takes {', '.join(inputs)}")
        for name, array in arrays.items():
            wanted = inputs[name]
            shape = wanted["shape"]
            fits = len(shape) == array.ndim and all(
                size in (None, had) for size, had in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise Failed(f"prepare returns {name} of the shape {list(array.shape)}, but the model takes {shape}")
            if wanted["dtype"] != "object":
                if array.dtype.kind not in "biuf":
                    raise Failed(f"prepare returns {name} of {array.dtype}, but the model takes {wanted['dtype']}")
                arrays[name] = array.astype(wanted["dtype"])
        return arrays

    @staticmethod
    def _array(value: object, wanted: Input | None) -> Array:
        if wanted is not None and wanted["dtype"] == "object":  # numpy's own texts lose zeros at their ends
            return np.asarray(value, object)
        try:
            return np.asarray(value)
        except ValueError as error:
            raise Failed(f"prepare returns what is no array: {cause(error)}") from error

    def present(self, outputs: Mapping[str, Array], kinds: Mapping[str, str] | None = None) -> dict[str, Column]:
        """Return the user's columns of an input's outputs, by name; none without the function; raise Failed.

        `kinds` are those of the columns, as `kinds_of` has found them for a first input.
        """
        if self._present is None:
            return {}
        made = self._called(self._present, "present", outputs)
        if not isinstance(made, Mapping):
            raise Failed(f"present returns a {type(made).__name__}: it has to be a mapping of columns' names to values")
        found = {str(name): _plain(name, value) for name, value in made.items()}
        for name, value in found.items():
            kind, wanted = kind_of(value), (kinds or {}).get(name)
            if kinds is not None and wanted is None:
                raise Failed(f"present returns a column {name}, which it hadn't for the first input")
            if wanted and kind and kind != wanted and value != []:
                raise Failed(f"present returns a {kind} as {name}, and had a {wanted} for the first input")
        return found

    def _called(self, function: Callable[[object], object], name: str, value: object) -> object:
        try:
            return function(value)
        except TimeoutError:
            raise
        except (Exception, SystemExit) as error:
            raise Failed(f"{name}: {self._where(error)}") from error

    def _where(self, error: BaseException) -> str:
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self._path]
        place = f"{Path(self._path).name}, line {lines[-1].lineno}: " if lines else ""
        return f"{place}{type(error).__name__}: {cause(error).rstrip('.')}"


def _plain(name: object, value: object) -> Column:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        if all(isinstance(one, (int, float, np.number)) for one in value):
            return [float(one) for one in value]
        return [str(one) for one in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    raise Failed(f"present returns a {type(value).__name__} as {name}: give text, a number, a list of them or None")


def kind_of(value: Column) -> str:
    """Return what a value is: text, number, truth, numbers or texts; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, list):
        return "texts" if value and isinstance(value[0], str) else "numbers"
    return "text" if isinstance(value, str) else "number"


def kinds_of(found: Mapping[str, Column]) -> dict[str, str]:
    """Return the kinds of columns by those of a first input; what has none there is text."""
    return {name: kind_of(value) or "text" for name, value in found.items()}
