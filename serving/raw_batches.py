"""Batches for `vectorize` with no more columns than one part of the catalogue needs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from conf.contract import ALL_KEY, Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter
from feature_repo.vectorize import Fitted, Float32, Float64, prior_rate, vectorize
from serving.key_reader import used_counters
from serving.sides import Part


class PartBatches:
    """Vectors of a part for rows at hand, by `vectorize` itself. Counters come as doubles, NaN where they are null."""

    def __init__(self, contract: Contract, fitted: Fitted) -> None:
        self._contract, self._fitted = contract, fitted
        self._counters = used_counters(contract)

    def prior(self, everything: Float64) -> float:
        """What rates are compared with; everything: (counters,) of the key `all`."""
        return float(prior_rate(pa.record_batch(self._columns(ALL_KEY, everything[None])), self._fitted)[0])

    def of_level(self, part: Part, everything: Float64) -> Float32:
        """(features,) of a part that asks for the level alone."""
        vector: Float32 = self._vectors(part, self._columns(ALL_KEY, everything[None]))[0]
        return vector

    def of_key(self, part: Part, key: str, counters: Float64, everything: Float64) -> Float32:
        """(rows, features) of a key's part; counters: (rows, counters)."""
        shared = np.broadcast_to(everything, counters.shape)
        return self._vectors(part, self._columns(key, counters) | self._columns(ALL_KEY, shared))

    def of_column(self, part: Part, values: Sequence[str | None]) -> Float32:
        """(rows, 1) of a category's part."""
        return self._vectors(part, {part.features[0].column: pa.array(values, pa.string())} | self._no_prior(len(values)))

    def of_times(self, part: Part, times_us: Sequence[int]) -> Float32:
        """(rows, features) of a part that asks for the time alone; microseconds since the epoch."""
        times = pa.array(times_us, pa.timestamp("us", tz="UTC"))
        return self._vectors(part, {EVENT_TIMESTAMP: times} | self._no_prior(len(times_us)))

    def _columns(self, key: str, counters: Float64) -> dict[str, pa.Array]:
        return {raw_counter(key, name): pa.array(counters[:, n]) for n, name in enumerate(self._counters)}

    def _no_prior(self, rows: int) -> dict[str, pa.Array]:
        return self._columns(ALL_KEY, np.full((rows, len(self._counters)), np.nan))

    def _vectors(self, part: Part, columns: Mapping[str, pa.Array]) -> Float32:
        return vectorize(pa.record_batch(dict(columns)), replace(self._fitted, features=part.features))
