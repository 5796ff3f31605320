"""The raw values of an answer of the hot route, as a batch that `vectorize` makes the same vectors of: for log and replay."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from conf.contract import ALL_KEY, Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from feature_repo.vectorize import Float64
from serving.hot import Served
from serving.key_reader import KeyReader, used_counters
from serving.request_plan import Plan, Planner
from serving.residents import Residents


class ServedRaw:
    """Last-seen times are null: no feature asks for them, so the hot route does not read them."""

    def __init__(self, contract: Contract, planner: Planner, residents: Residents) -> None:
        self._contract, self._planner, self._residents = contract, planner, residents
        self._schema, self._counters = raw_schema(contract), used_counters(contract)

    def taken(self, served: Served) -> Callable[[], pa.RecordBatch]:
        """Copy what will change, now; the rest of the work is the caller's, in any thread, whenever it likes."""
        counters = self._of_keys(served)
        return lambda: self._batch(served, counters)

    def _of_keys(self, served: Served) -> dict[str, Float64 | None]:
        """Key -> (1 or candidates, counters); None where it is unavailable."""
        plan, usable = served.asked.plan, served.scored.freshness.usable
        replies = served.replies if isinstance(served.replies, list) else None
        found: dict[str, Float64 | None] = dict.fromkeys(self._contract.counted_keys)
        if not usable:
            return found
        found[ALL_KEY] = served.scored.everything[None]
        for (key, table), of_key in zip(self._residents.keys.items(), plan.residents, strict=True):
            found[key] = table.counters[[0 if row is None else row for row in of_key.rows]]
            for place, value in enumerate(of_key.values):
                if of_key.rows[place] is None and replies is not None:
                    found[key][place] = table.reader.row(replies[of_key.asked[value][1]])  # type: ignore[index]
        if replies is None:
            return found
        for (key, reader), place_of in zip(self._planner.request_keys.items(), plan.request, strict=True):
            found[key] = None if place_of is None else np.array([reader.row(replies[place_of])])
        for (key, reader), (values, places) in zip(self._planner.cross_keys.items(), plan.crosses, strict=True):
            found[key] = np.array([_crossed(reader, places[value], replies) for value in values])
        return found

    def _batch(self, served: Served, counters: dict[str, Float64 | None]) -> pa.RecordBatch:
        plan, columns = served.asked.plan, dict[str, Any]()
        columns[EVENT_TIMESTAMP] = [served.asked.time_us] * plan.count
        for name in self._contract.columns:
            columns[name] = self._column(plan, name)
        for key, of_key in counters.items():
            rows = np.full((1, len(self._counters)), np.nan) if of_key is None else of_key
            missing = np.isnan(rows)
            whole = np.where(missing, 0.0, rows).astype(np.int64)
            for n, counter in enumerate(self._counters):
                values, nulls = (np.broadcast_to(of[:, n], plan.count) for of in (whole, missing))
                columns[raw_counter(key, counter)] = pa.array(values, pa.int64(), mask=nulls)
        arrays = [_array(columns[f.name], f.type) if f.name in columns else pa.nulls(plan.count, f.type) for f in self._schema]
        return pa.record_batch(arrays, schema=self._schema)

    def _column(self, plan: Plan, name: str) -> list[Any]:
        column = self._contract.columns[name]
        if column.of == "candidate":
            values = plan.candidates[name]
            text = self._planner.texts.get(name)
            return [text(value) for value in values] if text else values
        if name in plan.texts:
            return [plan.texts[name]] * plan.count
        return [plan.context[list(self._contract.columns_of("request")).index(name)]] * plan.count


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _crossed(reader: KeyReader, place: int | None, replies: list[Any]) -> list[float]:
    return reader.unavailable if place is None else reader.row(replies[place])
