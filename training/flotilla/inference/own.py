"""The user's own functions: how an input is prepared, and what columns the model's outputs become."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flotilla.inference.arrays import Array, Arrays
from flotilla.inference.saved_model import Facts
from flotilla.job.errors import BadInput, cause

Column = str | int | float | bool | None | list[float]


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
        if isinstance(made, Mapping):
            arrays = {str(name): np.asarray(value) for name, value in made.items()}
        elif len(inputs) == 1:
            arrays = {next(iter(inputs)): np.asarray(made)}
        else:
            raise Failed(f"prepare returns a {type(made).__name__}, but the model takes {', '.join(inputs)}: a mapping")
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

    def present(self, outputs: Mapping[str, Array]) -> dict[str, Column]:
        """Return the user's columns of an input's outputs, by name; none without the function; raise Failed."""
        if self._present is None:
            return {}
        made = self._called(self._present, "present", outputs)
        if not isinstance(made, Mapping):
            raise Failed(f"present returns a {type(made).__name__}: it has to be a mapping of columns' names to values")
        return {str(name): _plain(name, value) for name, value in made.items()}

    def _called(self, function: Callable[[object], object], name: str, value: object) -> object:
        try:
            return function(value)
        except TimeoutError:
            raise
        except Exception as error:
            raise Failed(f"{name}: {self._where(error)}") from error

    def _where(self, error: BaseException) -> str:
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self._path]
        place = f"{Path(self._path).name}, line {lines[-1].lineno}: " if lines else ""
        return f"{place}{type(error).__name__}: {cause(error).rstrip('.')}"


def _plain(name: object, value: object) -> Column:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.astype(np.float64).ravel().tolist()
    if isinstance(value, (list, tuple)):
        return [float(one) for one in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise Failed(f"present returns a {type(value).__name__} as {name}: give text, a number, a list of numbers or None")
