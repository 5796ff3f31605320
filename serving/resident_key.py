"""The counters of one candidate-side key, kept in memory: a row for each entity that Redis holds, and two special rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.key_reader import KeyReader

UNAVAILABLE, NEW = 0, 1  # rows of what is not known, and of what is known to have no counters
_REMEMBERED = 100_000  # values that were asked for and not found; an exchange has more ads than that only in an attack


@dataclass
class Moves:
    """How often a value that had a row was given another, or may be given one unseen; of all keys."""

    count: int = 0


class ResidentKey:
    """`counters`: (rows, counters) doubles. Rows stay where they are; an entity that Redis forgot has zeros.

    `limit`: rows there is room for. An entity beyond it is looked up by every request that names it.
    """

    def __init__(self, reader: KeyReader, limit: int, moves: Moves) -> None:
        self.reader = reader
        self.counters = np.empty((limit, len(reader.new)))  # memory is taken when a row is written
        self.counters[UNAVAILABLE], self.counters[NEW] = reader.unavailable, reader.new
        self.count = 2
        self._rows: dict[bytes, int] = {}
        self._by_value: dict[Any, int] = {}  # a request's own value (or tuple of values) -> row
        self._absent: dict[bytes, list[Any]] = {}
        self._moves = moves

    @property
    def full(self) -> bool:
        return self.count == len(self.counters)

    @property
    def redis_keys(self) -> list[bytes]:
        """Of every row there is."""
        return list(self._rows)

    @property
    def rows_of(self) -> Any:
        """From a request's value, as it came, to its row; None where it must be looked up."""
        return self._by_value.get

    def named(self, value: Any, redis_key: bytes) -> int | None:
        """Learn that a value is this entity; its row, None where it is not here."""
        row = self._rows.get(redis_key)
        if row is not None:
            self._remember(value, row)
        return row

    def missing(self, value: Any) -> int:
        """Learn that a value names no entity, because a column of it is missing."""
        self._remember(value, UNAVAILABLE)
        return UNAVAILABLE

    def put(self, redis_keys: Sequence[bytes], replies: Sequence[Any]) -> list[int]:
        """Keep what Redis said of entities; the rows that changed. Raises LayoutError, and then keeps nothing."""
        changed: list[int] = []
        read = [self.reader.row(reply) for reply in replies]
        for redis_key, reply, counters in zip(redis_keys, replies, read, strict=True):
            row = self._rows.get(redis_key)
            if row is None:
                if self.reader.is_absent(reply) or self.full:
                    continue
                row, self.count = self.count, self.count + 1
                self._rows[redis_key] = row
                for value in self._absent.pop(redis_key, ()):
                    self._by_value[value] = row
                    self._moves.count += 1
            elif np.array_equal(self.counters[row], counters, equal_nan=True):
                continue
            self.counters[row] = counters
            changed.append(row)
        return changed

    def forget(self, redis_key: bytes) -> None:
        """Every request that names the entity is to look it up, and finds out itself what is wrong with it."""
        row = self._rows.pop(redis_key, None)
        self._moves.count += 1
        for value in [value for value, its in self._by_value.items() if its == row] + self._absent.pop(redis_key, []):
            self._by_value.pop(value, None)

    def learn(self, value: Any, redis_key: bytes, reply: Any) -> tuple[int | None, bool]:
        """Keep a value that a request looked up: its row, None where there is no room; whether it is new. Raises LayoutError."""
        changed = self.put([redis_key], [reply]) if redis_key not in self._rows else []
        if (row := self.named(value, redis_key)) is not None:
            return row, bool(changed)
        if not self.reader.is_absent(reply):
            return None, False
        if len(self._absent) >= _REMEMBERED:
            self._forget_absent()
        self._absent.setdefault(redis_key, []).append(value)
        self._remember(value, NEW)
        return NEW, False

    def _remember(self, value: Any, row: int) -> None:
        if len(self._by_value) >= len(self.counters) + _REMEMBERED:
            self._by_value.clear()
        self._by_value[value] = row

    def _forget_absent(self) -> None:
        self._moves.count += 1
        for values in self._absent.values():
            for value in values:
                self._by_value.pop(value, None)
        self._absent.clear()
