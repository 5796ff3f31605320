"""A small training set out of nothing: random raw values of a contract, labels that depend on a few of them."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema

Float64 = npt.NDArray[np.float64]

START_US = 1_772_323_200_000_000  # 2026-03-01T00:00:00Z
DAY_US = 86_400_000_000
BASE_RATE = 0.06


def training_table(contract: Contract, rows: int, *, seed: int = 0, days: float = 14.0) -> pa.Table:
    """`rows` of the training set, about 6 % of them clicks; the same bytes for the same arguments."""
    rng = np.random.default_rng(seed)
    times = START_US + np.sort(rng.integers(0, int(days * DAY_US), rows))
    columns: dict[str, pa.Array] = {EVENT_TIMESTAMP: pa.array(times).cast(pa.timestamp("us", tz="UTC"))}
    log_odds = np.full(rows, np.log(BASE_RATE / (1 - BASE_RATE)))
    for name, column in contract.columns.items():
        if column.type == "number":
            columns[name] = pa.array(rng.uniform(column.min or 0, column.max or 1, rows), mask=_some(rng, rows, column.optional))
            continue
        values = np.minimum(rng.zipf(1.6, rows), 60)
        if column.type == "category":
            log_odds += 0.3 * np.sin(values)
        columns[name] = pa.array([f"{name}-{value}" for value in values], mask=_some(rng, rows, column.optional))
    for key in contract.counted_keys:
        effect = 0.0 if not contract.counted_keys[key] else rng.normal(0, 0.3, rows)
        log_odds += effect
        columns |= _counters(contract, key, np.asarray(BASE_RATE * np.exp(effect)).clip(0, 0.9), rng, rows)
    clicked = rng.uniform(size=rows) < 1 / (1 + np.exp(-log_odds))
    dates = columns[EVENT_TIMESTAMP].cast(pa.date32())
    schema = raw_schema(contract)
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    table = table.append_column("impression_id", pa.array([f"i-{seed}-{row}" for row in range(rows)]))
    table = table.append_column("label", pa.array(clicked.astype(np.int32)))
    return table.append_column("weight", pa.array(np.ones(rows))).append_column("date", dates)


def source_tables(contract: Contract, table: pa.Table) -> dict[str, pa.Table]:
    """Impressions and counters whose as-of join is `table`: a row of each key's counters published at each impression's time."""
    columns = ["impression_id", EVENT_TIMESTAMP, *contract.columns, "date"]
    tables = {"impressions": table.select(columns)}
    at = table[EVENT_TIMESTAMP]
    for key, of in contract.counted_keys.items():
        parts = {name: table[name] for name in of} | {"published_at": at, "created": at, "date": table["date"]}
        parts |= {name: table[raw_counter(key, name)] for name in contract.counter_columns}
        tables[f"counters_{key}"] = pa.table(parts)
    return tables


def _counters(contract: Contract, key: str, rate: Float64, rng: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    counters: dict[str, pa.Array] = {}
    for window, hours in contract.window_hours.items():
        impressions = rng.poisson((hours + 1) * (20.0 if key == "all" else 1.0), rows)
        counters[raw_counter(key, f"impressions_{window}")] = pa.array(impressions)
        counters[raw_counter(key, f"clicks_{window}")] = pa.array(rng.binomial(impressions, rate))
    for last in ("last_impression_us", "last_click_us"):
        counters[raw_counter(key, last)] = pa.nulls(rows, pa.int64())
    return counters


def _some(rng: np.random.Generator, rows: int, optional: bool) -> npt.NDArray[np.bool_]:
    return rng.uniform(size=rows) < (0.1 if optional else 0.0)
