"""The counters of one candidate-side key, kept in memory: a row for each entity that Redis holds, and two special rows."""

from collections.abc import Iterable, Sequence
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
        self._unreadable: set[bytes] = set()  # of those that have a row, which is theirs for when they are readable again
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
        row = None if redis_key in self._unreadable else self._rows.get(redis_key)
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
            self._unreadable.discard(redis_key)
            if row is None:
                if self.reader.is_absent(reply):
                    continue
                values = self._absent.pop(redis_key, ())
                self._moves.count += len(values)
                if self.full:  # it is new no more, and from now on looked up
                    self._forget_values(values)
                    continue
                row, self.count = self.count, self.count + 1
                self._rows[redis_key] = row
                self._by_value.update(dict.fromkeys(values, row))
            elif np.array_equal(self.counters[row], counters, equal_nan=True):
                continue
            self.counters[row] = counters
            changed.append(row)
        return changed

    def forget(self, redis_keys: Sequence[bytes]) -> None:
        """Every request that names one of these entities is to look it up, and finds out itself what is wrong with it."""
        rows = {row: key for key in redis_keys if (row := self._rows.get(key)) is not None}
        self._unreadable.update(rows.values())
        self._moves.count += 1
        self._forget_values([value for value, row in self._by_value.items() if row in rows])
        for redis_key in redis_keys:
            self._forget_values(self._absent.pop(redis_key, ()))

    def learn(self, value: Any, redis_key: bytes, reply: Any) -> tuple[int | None, bool]:
        """Keep a value that a request looked up: its row, None where there is no room; whether it is new. Raises LayoutError."""
        known = redis_key in self._rows and redis_key not in self._unreadable
        changed = [] if known else self.put([redis_key], [reply])
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
            self._forget_values(values)
        self._absent.clear()

    def _forget_values(self, values: Iterable[Any]) -> None:
        for value in values:
            self._by_value.pop(value, None)
