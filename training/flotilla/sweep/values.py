"""What a parameter of a sweep may be, and the sets of such values: all of them, or some by chance."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

MOST = 100_000  # networks of a sweep; the source has up to 50,000
CLOSE = 1e-6  # share of their size by which the ends of a range have to differ, for more than MOST values between
_DIGITS = 7  # of a value that is drawn, where its range is wide: as many, and the same ones with every libm
_SHOWN = 12  # choices of a line

Scalar = str | int | float | bool
Row = tuple[Scalar, ...]  # a value of each parameter


@dataclasses.dataclass(frozen=True)
class Values:
    """What a parameter may be: one of several, or anything from low to high, in steps where there are any."""

    choices: tuple[Scalar, ...] = ()
    low: int | float = 0
    high: int | float = 0
    step: int | float = 0  # 0: none
    log: bool = False

    @property
    def whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step))

    @property
    def count(self) -> int | None:
        """How many there are; None where they lie as close as numbers can."""
        if self.choices or not (self.whole or self.step):
            return len(self.choices) or None
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(self.step or 1))) + 1

    def at(self, number: int) -> Scalar:
        """Return one of those that can be counted."""
        if self.choices:
            return self.choices[number]
        value = Decimal(str(self.low)) + number * Decimal(str(self.step or 1))  # 0.3, not 0.1 + 2 * 0.1
        return int(value) if self.whole else float(value)

    @property
    def ends(self) -> tuple[Scalar, Scalar]:
        return (self.low, self.high) if self.count is None else (self.at(0), self.at(self.count - 1))

    def draw(self, generator: random.Random) -> Scalar:
        """Return one by chance; of a generator only what stays the same over versions of Python is used."""
        share, whole = generator.random(), self.whole
        if self.log:
            value = self.low * (float(self.high + whole) / self.low) ** share
        elif self.count is not None:
            return self.at(int(share * self.count))
        else:
            value = self.low + share * (self.high - self.low)
        digits = _DIGITS + math.ceil(-math.log10((self.high - self.low) / max(abs(self.low), abs(self.high), 1e-300)))
        return max(self.low, min(self.high, int(value) if whole else float(f"{value:.{max(_DIGITS, digits)}g}")))

    def __str__(self) -> str:
        if self.choices:
            more = f" … ({len(self.choices)} in all)" if len(self.choices) > _SHOWN else ""
            return ", ".join(map(str, self.choices[:_SHOWN])) + more
        return f"{self.low:g} to {self.high:g}{f' by {self.step:g}' if self.step else ' on a log scale' * self.log}"


def rows(values: Sequence[Values], cut: int, trials: int, seed: int) -> Iterator[Row]:
    """Yield different rows, as many as are asked for or all that there are.

    Those with the same first `cut` values come together: all as a grid has them, else as they were drawn, so that the
    first ones aren't the smallest alone.
    """
    size = product(values)
    if size is not None and size <= trials:
        yield from itertools.product(*([each.at(number) for number in range(each.count or 0)] for each in values))
        return
    generator = random.Random(seed)
    drawn: Iterable[Row] = (tuple(each.draw(generator) for each in values) for _row_number in itertools.count())
    if size is not None and size <= 4 * trials:  # drawn one by one, the last ones would be met again and again
        drawn = (_row(values, number) for number in sorted(range(size), key=lambda _number: generator.random()))
    blocks: dict[Row, dict[Row, None]] = {}
    found = 0
    for row in drawn:
        block = blocks.setdefault(row[:cut], {})
        found += row[cut:] not in block
        block[row[cut:]] = None
        if found == trials:
            break
    for first, block in blocks.items():
        yield from (first + rest for rest in block)


def _row(values: Sequence[Values], number: int) -> tuple[Scalar, ...]:
    """Return a row of the grid by its number."""
    row: list[Scalar] = []
    for each in reversed(values):
        number, at = divmod(number, each.count or 1)
        row.append(each.at(at))
    return tuple(reversed(row))


def product(values: Iterable[Values]) -> int | None:
    """Return how many rows there are; None: no end of them."""
    counts = [each.count for each in values]
    return None if None in counts else math.prod(each or 0 for each in counts)
