"""Raw as-of values of impressions: what serving would have found in Redis at each impression's own time."""

from collections.abc import Callable
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import LAST_SEEN, Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from jobs.asof import History, as_of_join
from jobs.touched import days_before
from jobs.warehouse import Warehouse


def with_counters(contract: Contract, counters: Callable[[str], DataFrame]) -> Callable[[DataFrame], DataFrame]:
    """Add every key's counters as published by the row's event time.

    counters: key -> its counter rows. A key that is new or fell silent has zeros, as Redis would say; one with a null column has
    nulls, for it was never counted.
    """
    ttl = timedelta(hours=contract.window_hours[contract.longest_window])

    def transform(impressions: DataFrame) -> DataFrame:
        histories = [
            History(
                rows=counters(key),
                on=columns,
                time="published_at",
                created="created",
                values={name: raw_counter(key, name) for name in contract.counter_columns},
                ttl=ttl,  # a row is followed by its expiry within the longest window; what comes after is all zeros
            )
            for key, columns in contract.counted_keys.items()
        ]
        joined = as_of_join(impressions, histories, time=EVENT_TIMESTAMP)
        return joined.withColumns(_zeros_where_silent(contract))

    return transform


def counters_usable(
    warehouse: Warehouse, contract: Contract, first: date, last: date | None = None
) -> Callable[[str], DataFrame]:  # fmt: skip
    """For `with_counters`, of rows from `first` on (to `last`): the counters of those days and of the longest window before."""
    reach = timedelta(hours=contract.window_hours[contract.longest_window]) + contract.publication_delay
    usable = F.col("date") >= F.lit(days_before(first, reach))
    if last is not None:
        usable &= F.col("date") <= F.lit(last)
    return lambda key: warehouse.read(warehouse.tables.counters(key)).where(usable)


def _zeros_where_silent(contract: Contract) -> dict[str, F.Column]:  # type: ignore[name-defined]
    filled = {}
    for key, columns in contract.counted_keys.items():
        there = F.lit(True)
        for column in columns:
            there = there & F.col(column).isNotNull()
        for name in contract.counter_columns:
            if name not in LAST_SEEN:
                value = F.col(raw_counter(key, name))
                filled[raw_counter(key, name)] = F.when(there, F.coalesce(value, F.lit(0).cast("bigint")))
    return filled


def raw_columns(contract: Contract) -> list[str]:
    """Columns of the raw values, in the schema's order."""
    return list(raw_schema(contract).names)
