"""The ordered list of features that follows from a contract, and the raw values they are made from.

Raw values are what the tables, Redis and the training set hold: integers, times, text and numbers as they came. The order of
`catalogue` is the order of the model's inputs.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from conf.contract import ALL_KEY, Contract

EVENT_TIMESTAMP = "event_timestamp"
LEVEL = f"{ALL_KEY}__level"  # the last feature's name, which no column of a contract can have

Kind = Literal["log_ratio", "log_impressions", "category", "number", "hour_of_day", "day_of_week", "level"]


@dataclass(frozen=True)
class Feature:
    """One input of the model: its name, how it is made (`kind`), and from which key and window or column."""

    name: str
    kind: Kind
    key: str = ""
    window: str = ""
    column: str = ""


def raw_counter(key: str, counter: str) -> str:
    """Name of a key's counter among the raw values: user__clicks_1d."""
    return f"{key}__{counter}"


def catalogue(contract: Contract) -> tuple[Feature, ...]:
    """Features in the model's order: time of day and week, context columns, each key and window, and the level.

    Ids enter through their counters alone. The empty key is the prior of the others' rates, and its own rate is the level, the
    last feature, which trees never see (models/level.py): it tells the date, and trees that learn the date are wrong on the next.
    Last-seen times are stored but no feature either: on one real log of three they cost 0.015 to 0.025 of normalized entropy
    (docs/adr/0004-features.md).
    """
    features = [Feature("hour_of_day", "hour_of_day"), Feature("day_of_week", "day_of_week")]
    for name, column in contract.columns.items():
        if column.type != "id":
            features.append(Feature(name, column.type, column=name))
    for key in contract.keys:
        for window in contract.window_hours:
            features.append(Feature(f"{key}__log_ratio_{window}", "log_ratio", key=key, window=window))
            features.append(Feature(f"{key}__log_impressions_{window}", "log_impressions", key=key, window=window))
    return (*features, Feature(LEVEL, "level", window=contract.longest_window))


def raw_schema(contract: Contract) -> pa.Schema:
    """Arrow schema of the raw values of a row: what training reads from the training set and serving builds for a request.

    Counters are null where their key is not known (missing or unavailable) and 0 where it is new or has fallen silent.
    """
    fields = [pa.field(EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC"), nullable=False)]
    for name, column in contract.columns.items():
        fields.append(pa.field(name, pa.float64() if column.type == "number" else pa.string()))
    for key in contract.counted_keys:
        fields += [pa.field(raw_counter(key, counter), pa.int64()) for counter in contract.counter_columns]
    return pa.schema(fields)
