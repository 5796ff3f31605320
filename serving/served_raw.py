"""The raw values of the hot route's answers, as batches that `vectorize` makes the same vectors of: for log and replay.

The event loop copies what will change and keeps the rest as it came; the columns of many answers are made together, elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from conf.contract import ALL_KEY, Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from feature_repo.vectorize import Float64
from serving.hot import Served
from serving.hot_schema import request_type
from serving.key_reader import KeyReader, used_counters
from serving.request_plan import Planner, field_name
from serving.residents import Residents

Columns = dict[str, pa.Array]


@dataclass(slots=True)
class Taken:
    """What the raw values of one answer follow from; nobody else changes any part of it.

    body: the request's, of `count` candidates. context to crosses: of its plan, which as a whole would keep more alive.
    everything: (counters,) of the key `all`, None where no counters were used. residents: key -> (candidates, counters).
    beside: key -> the candidates whose counters are in a reply alone, and its place. replies: None where none was used.
    """

    body: bytes
    time_us: int
    count: int
    context: Sequence[Any]
    texts: dict[str, str | None]
    request: list[int | None]
    crosses: list[tuple[list[Any], dict[Any, int | None]]]
    everything: Float64 | None
    residents: dict[str, Float64]
    beside: dict[str, dict[int, int]]
    replies: list[Any] | None


class ServedRaw:
    """`taken` is the event loop's, in the very turn of the answer; `batch` any thread's, whenever it likes.

    Last-seen times are null: no feature asks for them, so the hot route does not read them.
    """

    def __init__(self, contract: Contract, planner: Planner, residents: Residents) -> None:
        self._planner, self._tables = planner, residents.keys
        self._schema, self._counters = raw_schema(contract), used_counters(contract)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(request_type(contract)).decode
        self._of_request = list(contract.columns_of("request"))
        self._of_candidate = [(name, attrgetter(field_name(n))) for n, name in enumerate(contract.columns_of("candidate"))]
        self._unavailable = np.full((1, len(self._counters)), np.nan)

    def taken(self, served: Served) -> Taken:
        """Copy what will change: counters do, in their place."""
        asked, plan = served.asked, served.asked.plan
        everything, residents, beside, replies = None, dict[str, Float64](), dict[str, dict[int, int]](), None
        if served.scored.freshness.usable:
            everything, replies = served.scored.everything, served.replies if isinstance(served.replies, list) else None
            for key, rows, in_replies in asked.engine.residents_of(plan, replies is not None):
                residents[key], beside[key] = self._tables[key].counters.take(rows, axis=0), in_replies
        of_plan = plan.count, plan.context, plan.texts, plan.request, plan.crosses
        return Taken(asked.body, asked.time_us, *of_plan, everything, residents, beside, replies)

    def batch(self, taken: Sequence[Taken]) -> pa.RecordBatch:
        """Of `raw_schema`: a row for each candidate, answer after answer."""
        of_answer = pa.array(np.repeat(np.arange(len(taken)), [one.count for one in taken]))
        columns = {name: column.take(of_answer) for name, column in self._by_answer(taken).items()} | self._by_row(taken)
        rows = len(of_answer)
        arrays = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in self._schema]
        return pa.record_batch(arrays, schema=self._schema)

    def _by_answer(self, taken: Sequence[Taken]) -> Columns:
        """A value for each answer."""
        columns = {EVENT_TIMESTAMP: self._array(EVENT_TIMESTAMP, [one.time_us for one in taken])}
        for place, name in enumerate(self._of_request):
            if (text := self._planner.context_texts.get(name)) is None:
                values = [one.context[place] for one in taken]
            else:
                values = [one.texts[name] if name in one.texts else text(one.context[place]) for one in taken]
            columns[name] = self._array(name, values)
        everything = [self._unavailable[0] if one.everything is None else one.everything for one in taken]
        columns |= self._of_key(ALL_KEY, np.array(everything))
        for number, (key, reader) in enumerate(self._planner.request_keys.items()):
            found = [_row(reader, one.replies, one.request[number]) for one in taken]
            columns |= self._of_key(key, np.array(found))
        return columns

    def _by_row(self, taken: Sequence[Taken]) -> Columns:
        """A value for each candidate of each answer."""
        columns = Columns()
        candidates = [candidate for one in taken for candidate in self._decode(one.body).candidates]
        for name, value_of in self._of_candidate:
            values = list(map(value_of, candidates))
            if text := self._planner.texts.get(name):
                texts = {value: text(value) for value in set(values)}
                values = list(map(texts.__getitem__, values))
            columns[name] = self._array(name, values)
        for key in self._tables:
            columns |= self._of_key(key, np.concatenate([self._resident(one, key) for one in taken]))
        for number, key in enumerate(self._planner.cross_keys):
            columns |= self._of_key(key, np.concatenate([self._crossed(one, number, key) for one in taken]))
        return columns

    def _resident(self, one: Taken, key: str) -> Float64:
        """(candidates, counters) of one answer."""
        if one.everything is None:
            return self._unavailable.repeat(one.count, axis=0)
        for candidate, place in one.beside[key].items():
            one.residents[key][candidate] = _row(self._tables[key].reader, one.replies, place)
        return one.residents[key]

    def _crossed(self, one: Taken, number: int, key: str) -> Float64:
        """The same."""
        reader, (values, places) = self._planner.cross_keys[key], one.crosses[number]
        found = {value: _row(reader, one.replies, place) for value, place in places.items()}
        return np.array([found[value] for value in values])

    def _of_key(self, key: str, counters: Float64) -> Columns:
        """counters: (rows, counters), NaN where they are null."""
        values = np.ascontiguousarray(counters.T)
        missing = np.isnan(values)
        whole = np.where(missing, 0.0, values).astype(np.int64)
        return {raw_counter(key, name): pa.array(whole[n], mask=missing[n]) for n, name in enumerate(self._counters)}

    def _array(self, name: str, values: list[Any]) -> pa.Array:
        return pa.array(values, self._schema.field(name).type)


def _row(reader: KeyReader, replies: list[Any] | None, place: int | None) -> list[float]:
    return reader.unavailable if replies is None or place is None else reader.row(replies[place])
