"""The newest row of a history at given moments, on Arrow columns: what the tasks of the as-of join compute.

Keys become numbers, and key and time together one sortable number, so that a binary search finds a row whatever the length of
its key's history. Keys are looked up, never hashed: equal means equal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BUCKET, SOURCE, PACKED = "__bucket", "__source", "__packed"

_Ints = npt.NDArray[np.int64]


class Newest:
    """A history's rows by key and time; of rows equal in both only the one of the newest `created`, null being the oldest.

    history: `keys` columns without nulls, then time (microseconds, no nulls), created, values.
    """

    def __init__(self, history: pa.RecordBatch, keys: int) -> None:
        self._steps: list[tuple[pa.Array, pa.Array | None]] = []
        codes = np.zeros(len(history), np.int64)
        for column in history.columns[:keys]:
            own, values = _numbered(column)
            codes, pairs = codes * len(values) + own, None
            if self._steps:  # numbered anew, lest the product of many columns overflows
                codes, pairs = _numbered(pa.array(codes))
            self._steps.append((values, pairs))
        micros = history.column(keys).to_numpy()
        self._times = np.unique(micros)
        places = codes * len(self._times) + np.searchsorted(self._times, micros)
        self._order = _in_order(places, history.column(keys + 1))
        self._places, self._micros = places[self._order], micros[self._order]
        self._history, self.values = history, history.columns[keys + 2 :]

    @property
    def rows(self) -> pa.RecordBatch:
        """The rows that can be found, in order."""
        return self._history.take(pa.array(self._order))

    def at(self, keys: Sequence[pa.Array], moments: pa.Array, ttl_us: int) -> pa.Array:
        """For each moment (microseconds) the number of its key's newest history row, null where none holds or a key is null."""
        if not len(self._places):
            return pa.nulls(len(moments), pa.int64())
        codes = self._codes(keys, len(moments))
        micros = pc.fill_null(moments, 0).to_numpy()
        begin = codes * len(self._times)  # the key's own places
        upto = begin + np.searchsorted(self._times, micros, "right") - 1
        found = np.searchsorted(self._places, upto, "right") - 1
        holds = (codes >= 0) & (found >= 0) & (self._places[found] >= begin) & (micros - self._micros[found] < ttl_us)
        if moments.null_count:
            holds &= moments.is_valid().to_numpy(zero_copy_only=False)
        return pa.array(self._order[found], mask=~holds)

    def _codes(self, keys: Sequence[pa.Array], count: int) -> _Ints:
        codes = np.zeros(count, np.int64)
        for column, (values, pairs) in zip(keys, self._steps, strict=True):
            own = _number(column, values)
            codes = np.where((codes < 0) | (own < 0), -1, codes * len(values) + own)
            if pairs is not None:
                codes = _number(pa.array(codes), pairs)
        return codes


def _numbered(column: pa.Array) -> tuple[_Ints, pa.Array]:
    """Each entry's place among the distinct ones, and these; there must be no null."""
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _number(column: pa.Array, values: pa.Array) -> _Ints:
    """Place of each entry among `values`, -1 where it is not there."""
    numbers: _Ints = pc.fill_null(pc.index_in(column, values), -1).to_numpy().astype(np.int64)
    return numbers


def _in_order(places: _Ints, created: pa.Array) -> _Ints:
    """Rows by place, of each place the one created last."""
    if (places[1:] > places[:-1]).all():
        return np.arange(len(places))
    order = np.argsort(places)
    ordered = places[order]
    if (ordered[1:] == ordered[:-1]).any():
        both = pa.table({"place": places, "created": created})
        keys = [("place", "ascending", "at_end"), ("created", "ascending", "at_start")]
        order = pc.sort_indices(both, keys).to_numpy().astype(np.int64)
        ordered = places[order]
        order = order[np.append(ordered[1:] != ordered[:-1], True)]
    return order


@dataclass(frozen=True)
class Lookup:
    """A history as a task knows it: its number among the packed ones or None, the left's columns that are its key, names and
    types of its values in the result, how long a row holds."""

    source: int | None
    on: Sequence[str]
    values: pa.Schema
    ttl_us: int


def pack(keys: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Rows of a whole history -> one row of one binary column, none for none."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if arrived := list(batches):
            rows = Newest(pa.concat_batches(arrived), keys).rows
            sink = pa.BufferOutputStream()
            # compressed, because Spark clears a column's largest buffer anew for every batch
            with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
                stream.write_batch(rows)
            yield pa.record_batch({PACKED: pa.array([sink.getvalue().to_pybytes()], pa.binary())})

    return task


def look_up(lookups: Sequence[Lookup], *, time: str) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Left rows of a bucket, and what the histories hold for it -> left rows with each history's values.

    The right's rows are those of the one history that is not packed, and the packed ones with their number as SOURCE.
    """

    def task(left: pa.Table, right: pa.Table) -> pa.Table:
        rows = _one_batch(left.drop([BUCKET]))
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        moments = rows.column(time).cast(pa.int64())
        for lookup in lookups:
            newest = _newest(right, lookup)
            if newest is None:
                columns |= {field.name: pa.nulls(len(rows), field.type) for field in lookup.values}
                continue
            found = newest.at([rows.column(name) for name in lookup.on], moments, lookup.ttl_us)
            columns |= {name: column.take(found) for name, column in zip(lookup.values.names, newest.values, strict=True)}
        return pa.table(columns)

    return task


def _newest(right: pa.Table, lookup: Lookup) -> Newest | None:
    """None where the history is empty."""
    if lookup.source is not None:
        packed = right.filter(pc.equal(right[SOURCE], lookup.source))[PACKED]
        return _unpacked(packed[0].as_py(), len(lookup.on)) if len(packed) else None
    own = right.filter(pc.is_null(right[SOURCE])) if SOURCE in right.column_names else right
    own = own.drop([name for name in (BUCKET, SOURCE, PACKED) if name in own.column_names])
    return Newest(_one_batch(own), len(lookup.on)) if len(own) else None


@lru_cache(maxsize=33)  # of a contract's keys and `all`: a worker meets the same histories again in its next task
def _unpacked(packed: bytes, keys: int) -> Newest:
    return Newest(pa.ipc.open_stream(packed).read_next_batch(), keys)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)
