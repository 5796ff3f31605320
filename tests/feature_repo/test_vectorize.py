"""The one function that makes vectors: what each kind of value becomes, and that a row's value is its own."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, LEVEL, catalogue, raw_schema
from feature_repo.vectorize import Fitted, vectorize

TEN_PAST_NINE_IN_BERLIN = datetime(2026, 7, 6, 7, 10, tzinfo=UTC)  # a Monday


@pytest.fixture
def fitted(demo_contract: Contract) -> Fitted:
    words = {name: ("often", "rarely") for name, column in demo_contract.columns.items() if column.type == "category"}
    return Fitted.of(demo_contract, base_rate=0.05, strength=20.0, vocabularies=words)


def batch(contract: Contract, *rows: dict[str, Any]) -> pa.RecordBatch:
    schema = raw_schema(contract)
    empty = dict.fromkeys(schema.names) | {EVENT_TIMESTAMP: TEN_PAST_NINE_IN_BERLIN}
    return pa.RecordBatch.from_pylist([empty | row for row in rows], schema=schema)


def one(contract: Contract, fitted: Fitted, feature: str, **raw: Any) -> float:
    vectors = vectorize(batch(contract, raw), fitted)
    assert vectors.dtype == np.float32
    return float(vectors[0, fitted.names.index(feature)])


def test_an_unknown_key_is_missing_and_a_new_one_is_zero(demo_contract: Contract, fitted: Fitted) -> None:
    assert np.isnan(one(demo_contract, fitted, "user__log_ratio_1d"))
    assert one(demo_contract, fitted, "user__log_ratio_1d", user__impressions_1d=0, user__clicks_1d=0) == 0.0
    assert one(demo_contract, fitted, "user__log_impressions_1d", user__impressions_1d=0) == 0.0


def test_a_rate_is_shrunk_to_the_rate_of_everything(demo_contract: Contract, fitted: Fitted) -> None:
    everything = {"all__clicks_7d": 80, "all__impressions_7d": 980}
    prior = (80 + 20 * 0.05) / (980 + 20)
    ratio = one(demo_contract, fitted, "user__log_ratio_1d", **everything, user__clicks_1d=3, user__impressions_1d=10)
    assert ratio == np.float32(np.log((3 + 20 * prior) / 30 / prior))
    assert one(demo_contract, fitted, LEVEL, **everything) == np.float32(np.log(prior / (1 - prior)))
    assert np.isnan(one(demo_contract, fitted, LEVEL)), "not known is not the base rate"


def test_categories_are_codes_by_rank_with_other_and_missing(demo_contract: Contract, fitted: Fitted) -> None:
    codes = [one(demo_contract, fitted, "device", device=value) for value in ("often", "rarely", "unseen", None)]
    assert codes[:3] == [0.0, 1.0, 2.0]
    assert np.isnan(codes[3])


def test_hour_and_day_are_those_of_the_contracts_zone(demo_contract: Contract) -> None:
    there = demo_contract.model_copy(update={"zone": "Europe/Berlin"})
    words: dict[str, tuple[str, ...]] = {name: () for name, c in there.columns.items() if c.type == "category"}
    fitted = Fitted.of(there, base_rate=0.05, strength=20.0, vocabularies=words)
    assert one(there, fitted, "hour_of_day") == 9.0
    assert one(there, fitted, "day_of_week") == 0.0
    assert one(there, fitted, "hour_of_day", event_timestamp=datetime(2026, 12, 31, 23, 30, tzinfo=UTC)) == 0.0
    assert one(there, fitted, "day_of_week", event_timestamp=datetime(2026, 12, 31, 23, 30, tzinfo=UTC)) == 4.0


def test_a_row_does_not_depend_on_its_neighbours(demo_contract: Contract, fitted: Fitted) -> None:
    rng = np.random.default_rng(0)
    counts = [name for name in raw_schema(demo_contract).names if "impressions_" in name or "clicks_" in name]
    drawn = rng.integers(0, 5000, (257, len(counts)))
    rows = [dict(zip(counts, map(int, values), strict=True)) for values in drawn]
    together = vectorize(batch(demo_contract, *rows), fitted)
    alone = np.concatenate([vectorize(batch(demo_contract, row), fitted) for row in rows])
    np.testing.assert_array_equal(together, alone)


def test_the_order_is_the_catalogues_and_survives_storage(demo_contract: Contract, fitted: Fitted) -> None:
    assert fitted.names == [feature.name for feature in catalogue(demo_contract)]
    assert Fitted.from_dict(fitted.to_dict()) == fitted
