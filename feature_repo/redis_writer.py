"""What Spark's workers run: Arrow batches of newest rows into Redis, in Feast's layout, a bounded number of commands at a time.

Imports no Feast, no pydantic, and through pyarrow no pandas (feature_repo/arrow_buffers.py): every worker would pay. A worker
does not raise what a person can act on: it hands it back, so that the engine says one line and not a trace.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import Self

import numpy as np
import pyarrow as pa

from conf.errors import EXIT_TRY_AGAIN, ClickoddsError, DataError, UnavailableError
from conf.redis_address import RedisAddress
from feature_repo.arrow_buffers import binaries, mask
from feature_repo.byte_matrix import Mask
from feature_repo.redis_layout import REDIS_KEY, ViewLayout, decode_time, project_of, scan_pattern
from feature_repo.redis_wire import Wire

TALLY = "tally"
TALLY_SCHEMA, KEY_SCHEMA = f"{TALLY} binary", f"{REDIS_KEY} binary"
HELD_SCHEMA = f"{KEY_SCHEMA}, {TALLY_SCHEMA}"  # a key, or what stopped the looking for more
_ROWS = 2_048  # sent at once; as many are encoded while Redis works on them
_SCANNED = 5_000


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know.

    end_us: the interval's end; a row that Redis holds from after it stays as it is. rows_per_s: of this worker, and before `move`
    has shared it out of all together; 0: no limit.
    ttl_s: 0: rows do not expire. remove_zeros: a row of nothing but zeros and nulls is removed.
    """

    layout: ViewLayout
    address: RedisAddress
    run_id: str
    patience_s: float
    rows_per_s: float
    end_us: int
    ttl_s: int
    remove_zeros: bool


@dataclass
class Tally:
    """What a worker did: rows written, keys removed, rows that Redis knew newer; and what stopped it."""

    written: int = 0
    removed: int = 0
    newer: int = 0
    exit_code: int = 0
    error: str = ""

    def batch(self) -> pa.RecordBatch:
        return pa.record_batch({TALLY: binaries([json.dumps(asdict(self)).encode()])})

    @classmethod
    def read(cls, tally: bytes) -> Self:
        return cls(**json.loads(tally))

    def as_error(self) -> ClickoddsError:
        """What stopped the worker, as it was raised there."""
        return (UnavailableError if self.exit_code == EXIT_TRY_AGAIN else DataError)(self.error)


def write_rows(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write newest rows, one a key; yields one Tally."""
    tally = Tally()
    with _noted(tally), Wire(plan.address, patience_s=plan.patience_s, run_id=plan.run_id) as wire:
        _write(plan, _slices(batches), wire, tally)
    yield tally.batch()


def _write(plan: Plan, parts: Iterator[pa.RecordBatch], wire: Wire, tally: Tally) -> None:
    """Redis always has something to do: what it holds of the next part is asked before this part's commands are made, and these
    are sent before those of the part before are answered."""
    layout = plan.layout
    for place, (keys, part) in enumerate(_one_ahead(_asked(plan, parts, wire))):
        zeros = layout.zeros(part) if plan.remove_zeros else np.zeros(part.num_rows, np.bool_)
        commands, expected = _writes(plan, keys, part, ~zeros)
        if place > 1:
            wire.receive()  # to what was sent two parts before
        known, newer = _known(wire.receive(), plan.end_us)
        if newer.any():
            commands, expected = _writes(plan, keys, part, ~zeros & ~newer)
        gone = keys.filter(mask(zeros & known & ~newer))
        wire.send(commands + layout.remove(gone), expected + len(gone))
        tally.written += int((~zeros & ~newer).sum())
        tally.removed += len(gone)
        tally.newer += int(newer.sum())
    wire.receive_all()


def _asked(plan: Plan, parts: Iterator[pa.RecordBatch], wire: Wire) -> Iterator[tuple[pa.BinaryArray, pa.RecordBatch]]:
    """Keys and rows of each part, once Redis was asked what it holds of them, and no sooner than the limit allows."""
    pace = _Pace(plan.rows_per_s)
    for part in parts:
        keys = plan.layout.redis_keys(part)
        pace.wait(part.num_rows)
        wire.send(plan.layout.ask_time(keys), part.num_rows)
        yield keys, part
    pace.wait(0)  # or many a small task in a row would know no limit


def _one_ahead[Item](items: Iterator[Item]) -> Iterator[Item]:
    """The same, each once the next is there."""
    for before, _ in pairwise(chain(items, [None])):
        yield before  # type: ignore[misc]


def _writes(plan: Plan, keys: pa.BinaryArray, part: pa.RecordBatch, chosen: Mask) -> tuple[bytes, int]:
    """Commands that write the chosen rows, and how many they are."""
    if not chosen.all():
        keys, part = keys.filter(mask(chosen)), part.filter(mask(chosen))
    commands, number = plan.layout.write(keys, part), part.num_rows
    for how in (b"NX", b"GT") if plan.ttl_s else ():  # a key that another view's row keeps for longer stays
        commands, number = commands + plan.layout.expire(keys, part, plan.ttl_s, how), number + part.num_rows
    return commands, number


def encode_keys(layout: ViewLayout, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The Redis key of each row."""
    for batch in batches:
        yield pa.record_batch({REDIS_KEY: layout.redis_keys(batch)})


def scan_keys(plan: Plan, _: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Every key in Redis that may be one of the view's; a key may come twice. Where it has to stop, a Tally instead of one."""
    names = [name for name, _ in plan.layout.keys]
    pattern = scan_pattern(names, plan.layout.project)
    cursor, tally = b"0", Tally()
    with _noted(tally), Wire(plan.address, patience_s=plan.patience_s, run_id=plan.run_id) as wire:
        while True:
            cursor, keys = wire.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCANNED)
            yield pa.record_batch({REDIS_KEY: binaries(keys), TALLY: pa.nulls(len(keys), pa.binary())})
            if cursor == b"0":
                return
    yield tally.batch().add_column(0, REDIS_KEY, pa.nulls(1, pa.binary()))


def remove_keys(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Remove the view's rows of these keys, but for those from after the interval; yields one Tally. batches: of HELD_SCHEMA."""
    tally, layout, pace = Tally(), plan.layout, _Pace(plan.rows_per_s)
    with _noted(tally), Wire(plan.address, patience_s=plan.patience_s, run_id=plan.run_id) as wire:
        for part in _slices(batches):
            for stopped in part.column(TALLY).drop_null().to_pylist():
                raise Tally.read(stopped).as_error()
            own = np.array([project_of(key) == layout.project.encode() for key in part.column(REDIS_KEY).to_pylist()])
            keys = part.column(REDIS_KEY).filter(mask(own))  # not of a project whose name only ends like this one's
            pace.wait(len(keys))
            known, newer = _known(wire.exchange(layout.ask_time(keys), len(keys)), plan.end_us)
            gone = keys.filter(mask(known & ~newer))
            wire.exchange(layout.remove(gone), len(gone))
            tally.removed += len(gone)
        pace.wait(0)
    yield tally.batch()


@contextmanager
def _noted(tally: Tally) -> Iterator[None]:
    """Ends the block at an error that a person can act on, and notes it."""
    try:
        yield
    except ClickoddsError as error:
        tally.error, tally.exit_code = str(error), error.exit_code


class _Pace:
    """No more than so many rows a second; 0: as fast as it goes."""

    def __init__(self, rows_per_s: float) -> None:
        self._seconds_a_row = 1 / rows_per_s if rows_per_s else 0.0
        self._next = time.monotonic()

    def wait(self, rows: int) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + rows * self._seconds_a_row


def _slices(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            yield batch.slice(start, _ROWS)


def _known(times: Sequence[bytes | None], end_us: int) -> tuple[Mask, Mask]:
    """Of each `_ts` in Redis: whether there is one, and whether it is from after the interval's end. Each is decoded once."""
    kinds = {at: 0 if at is None else 2 if decode_time(at) > end_us else 1 for at in set(times)}
    found = np.fromiter(map(kinds.__getitem__, times), np.uint8, len(times))
    return found > 0, found > 1
