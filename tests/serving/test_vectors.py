"""Vectors of one part, laid out for a request, are `vectorize`'s, to the bit: for every contract, for rows alone and together."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.contract import ALL_KEY, Contract
from feature_repo.catalogue import raw_counter, raw_schema
from feature_repo.vectorize import Fitted, log_ratio, prior_rate, vectorize
from serving.key_reader import used_counters
from serving.raw_batches import PartBatches
from serving.sides import split
from serving.vectors import PartVectors
from tests.serving.parts import AS_OF, CONTRACTS, microseconds

COUNTS = st.none() | st.integers(0, 3) | st.integers(0, 10**6) | st.integers(0, 2**53)


def _fitted(contract: Contract) -> Fitted:
    words = {n: (f"{n}-1", f"{n}-2") for n, c in contract.columns.items() if c.type == "category"}
    return Fitted.of(contract, base_rate=0.0371, strength=20.0, vocabularies=words)


def _raw(contract: Contract, data: Any, rows: int) -> pa.RecordBatch:
    columns = {}
    for field in raw_schema(contract):
        if "__" in field.name:
            values: Any = COUNTS
        elif field.type == pa.string():
            values = st.sampled_from([f"{field.name}-1", f"{field.name}-2", "another", None])
        elif field.type == pa.float64():
            values = st.none() | st.floats(-1e6, 1e6)
        else:
            values = st.integers(0, microseconds(AS_OF))
        columns[field.name] = pa.array(data.draw(st.lists(values, min_size=rows, max_size=rows)), field.type)
    return pa.record_batch(columns)


def _inputs(raw: pa.RecordBatch, keys: Any, counters: Any) -> Any:
    named = [raw_counter(key, counter) for key in keys for counter in counters]
    return np.stack([np.asarray(raw.column(name).to_numpy(zero_copy_only=False), dtype=np.float64) for name in named], axis=1)


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_part_is_what_vectorize_makes(name: str, contracts: dict[str, Contract], data: Any) -> None:
    contract = contracts[name]
    fitted, counters = _fitted(contract), used_counters(contract)
    sides = split(contract, fitted)
    raw = _raw(contract, data, 3)
    whole, priors = vectorize(raw, fitted), prior_rate(raw, fitted)
    keyed: list[Any] = [(part, [key]) for key, part in (sides.residents | sides.crosses).items()]
    for part, keys in [*keyed, (sides.request, sides.request_keys)]:
        vectors_of = PartVectors(part, keys, counters, fitted)
        direct = whole[:, [p for p, f in zip(part.positions, part.features, strict=True) if f in vectors_of.direct]]
        inputs = np.hstack([_inputs(raw, keys, counters), direct])
        for row in range(3):
            made = vectors_of(inputs[row : row + 1], priors[row])
            np.testing.assert_array_equal(made[0], whole[row, part.positions])


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_batches_of_a_part_are_what_vectorize_makes(name: str, contracts: dict[str, Contract], data: Any) -> None:
    contract = contracts[name]
    fitted, counters = _fitted(contract), used_counters(contract)
    raw = _raw(contract, data, 1)
    whole, batches, sides = vectorize(raw, fitted), PartBatches(contract, fitted), split(contract, fitted)
    everything = _inputs(raw, [ALL_KEY], counters)[0]
    assert batches.prior(everything) == prior_rate(raw, fitted)[0]
    for key, part in (sides.residents | sides.crosses).items():
        made = batches.of_key(part, key, _inputs(raw, [key], counters), everything)
        np.testing.assert_array_equal(made, whole[:, part.positions])
    for column, part in sides.categories.items():
        np.testing.assert_array_equal(batches.of_column(part, raw.column(column).to_pylist()), whole[:, part.positions])


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_parts_have_every_feature_once(name: str, contracts: dict[str, Contract]) -> None:
    fitted = _fitted(contracts[name])
    parts = split(contracts[name], fitted).parts
    assert sorted(position for part in parts for position in part.positions) == list(range(len(fitted.features)))
    assert all(fitted.features[p] == f for part in parts for p, f in zip(part.positions, part.features, strict=True))


def test_a_logarithm_is_the_same_alone_and_among_others() -> None:
    """NumPy's loops take several values at once, with another code for the rest of an array."""
    draw = np.random.default_rng(1)
    clicks = draw.integers(0, 1000, 20_011).astype(np.float64)
    impressions = clicks + draw.integers(0, 100_000, 20_011)
    ratios, logs = log_ratio(clicks, impressions, prior=0.0371, strength=20.0), np.log1p(impressions)
    for n in range(0, 20_011, 7):
        one = slice(n, n + 1)
        assert log_ratio(clicks[one], impressions[one], prior=0.0371, strength=20.0)[0] == ratios[n]
        assert np.log1p(impressions[one])[0] == logs[n]
    for width in (2, 3, 5, 11, 64):
        cut = 20_011 // width * width
        again = log_ratio(clicks[:cut].reshape(-1, width), impressions[:cut].reshape(-1, width), prior=0.0371, strength=20.0)
        np.testing.assert_array_equal(again.ravel(), ratios[:cut])
        np.testing.assert_array_equal(np.log1p(impressions[:cut].reshape(-1, width).T).T.ravel(), logs[:cut])
