"""Numbers that a request changes at the price of an addition, and that every worker of a server can read.

Each worker has a row of doubles of its own in memory that all of them share, writes that row alone, and whoever is asked for
/metrics adds the rows up. A worker that takes a dead one's place goes on with its row, so that a counter never falls.
"""

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from time import perf_counter
from typing import IO

import numpy as np
import numpy.typing as npt

WIDTH = 512  # doubles of a row, more than serving/metrics.py takes
_DOUBLE = 8

Float64 = npt.NDArray[np.float64]


class Cells:
    """The rows. file: as long as `size_of(workers)`, None for a worker alone. slot: the row that is one's own."""

    def __init__(self, file: IO[bytes] | int | None = None, *, workers: int = 1, slot: int = 0) -> None:
        handle = -1 if file is None else file if isinstance(file, int) else file.fileno()
        memory = mmap.mmap(handle, self.size_of(workers))
        self._rows = np.frombuffer(memory, dtype=np.float64).reshape(workers, WIDTH)
        self.row = memoryview(memory).cast("d")[slot * WIDTH : (slot + 1) * WIDTH]
        self._taken = 0

    @staticmethod
    def size_of(workers: int) -> int:
        """Bytes."""
        return workers * WIDTH * _DOUBLE

    def take(self, count: int) -> int:
        """The place of `count` cells that nobody has yet; the same calls give the same places in every worker."""
        start, self._taken = self._taken, self._taken + count
        if self._taken > WIDTH:
            raise ValueError(f"found {self._taken} cells, expected at most {WIDTH}: raise WIDTH")
        return start

    def sums(self, start: int, count: int) -> Float64:
        """Over all workers, shape (count,)."""
        return np.asarray(self._rows[:, start : start + count].sum(axis=0))

    def newest(self, value: int, at: int) -> float:
        """Of all workers' numbers in the cell `value` the one whose cell `at` holds the latest time."""
        return float(self._rows[np.argmax(self._rows[:, at]), value])


class Counter:
    """Only ever rises."""

    __slots__ = ("_at", "_cells", "_row")

    def __init__(self, cells: Cells) -> None:
        self._cells, self._row, self._at = cells, cells.row, cells.take(1)

    def add(self, amount: float = 1.0) -> None:
        self._row[self._at] += amount

    @property
    def total(self) -> float:
        """Of all workers."""
        return float(self._cells.sums(self._at, 1)[0])


class Gauge:
    """What any of the workers has seen last; NaN until then."""

    __slots__ = ("_at", "_cells", "_row")

    def __init__(self, cells: Cells) -> None:
        self._cells, self._row, self._at = cells, cells.row, cells.take(2)
        if not self._row[self._at + 1]:  # a worker that was replaced goes on with what was known
            self._row[self._at] = float("nan")

    def set(self, value: float) -> None:
        self._row[self._at] = value
        self._row[self._at + 1] = perf_counter()  # the same clock in all processes

    @property
    def newest(self) -> float:
        """Of all workers."""
        return self._cells.newest(self._at, self._at + 1)


class Histogram:
    """Observations by bucket. bounds: of the buckets, rising, each the largest value in its own; one more takes the rest."""

    __slots__ = ("_at", "_bounds", "_cells", "_row", "_sum")

    def __init__(self, cells: Cells, bounds: Sequence[float]) -> None:
        self._cells, self._row, self._bounds = cells, cells.row, list(bounds)
        self._at = cells.take(len(bounds) + 2)
        self._sum = self._at + len(bounds) + 1

    def observe(self, value: float) -> None:
        row = self._row
        row[self._at + bisect_left(self._bounds, value)] += 1.0
        row[self._sum] += value

    @staticmethod
    def observe_each(histograms: "Sequence[Histogram]", values: Sequence[float]) -> None:
        """One value in each: cheaper than a call for each."""
        for histogram, value in zip(histograms, values, strict=True):
            row = histogram._row
            row[histogram._at + bisect_left(histogram._bounds, value)] += 1.0
            row[histogram._sum] += value

    def observe_all(self, values: Float64) -> None:
        """Many at once, shape (n,)."""
        row = self._row
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        for number, count in enumerate(counts.tolist()):
            row[self._at + number] += count
        row[self._sum] += float(values.sum())

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), of all workers, as Prometheus has them."""
        counts = self._cells.sums(self._at, len(self._bounds) + 1).cumsum().tolist()
        return list(zip([*map(str, map(float, self._bounds)), "+Inf"], counts, strict=True))

    @property
    def sum(self) -> float:
        """Of all values, of all workers."""
        return float(self._cells.sums(self._sum, 1)[0])
