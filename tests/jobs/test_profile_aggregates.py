"""What the profile counts, on frames of a few rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs import profile_aggregates as aggregates
from jobs.attribution import counted_clicks

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = 60 * MINUTE

# (impression, click after it, known after it, its kind): window 1 h, lateness 1 h, skew 5 min
CLICKS: list[tuple[str, timedelta, timedelta, str]] = [
    ("clicked once", 2 * MINUTE, 3 * MINUTE, "counted"),
    ("clicked thrice, the second known first", 2 * MINUTE, 50 * MINUTE, "repeated"),
    ("clicked thrice, the second known first", 4 * MINUTE, 5 * MINUTE, "counted"),
    ("clicked thrice, the second known first", 3 * HOUR, 3 * HOUR, "after"),
    ("click before the impression, within the skew", -5 * MINUTE, -5 * MINUTE, "counted"),
    ("click before the impression, beyond the skew", -6 * MINUTE, MINUTE, "before"),
    ("click on the window's last moment, known on the last", HOUR, 2 * HOUR, "counted"),
    ("click in the window, known too late", HOUR, 2 * HOUR + timedelta(microseconds=1), "late"),
    ("click after the window", HOUR + timedelta(microseconds=1), HOUR + MINUTE, "after"),
    ("never shown", MINUTE, MINUTE, "orphan"),
]


@pytest.fixture(scope="module")
def shown(spark: SparkSession) -> DataFrame:
    names = sorted({name for name, *_, kind in CLICKS if kind != "orphan"} | {"not clicked"})
    rows = [(name, NOON, NOON) for name in names]
    return spark.createDataFrame(rows, "impression_id string, event_timestamp timestamp, known_timestamp timestamp")


@pytest.fixture(scope="module")
def clicks(spark: SparkSession) -> DataFrame:
    rows = [(name, NOON + click, NOON + known) for name, click, known, _ in CLICKS]
    return spark.createDataFrame(rows, "impression_id string, click_timestamp timestamp, known_timestamp timestamp")


def test_every_click_is_of_one_kind(shown: DataFrame, clicks: DataFrame, demo_contract: Contract) -> None:
    rule = demo_contract.label
    fates = clicks.transform(aggregates.click_fates(shown, rule))
    found = {row["impression_id"]: row.asDict() for row in fates.collect()}
    for name in {name for name, *_ in CLICKS}:
        expected = [kind for of, *_, kind in CLICKS if of == name]
        assert {kind: found[name][kind] for kind in aggregates.KINDS if found[name][kind]} == {
            kind: expected.count(kind) for kind in expected
        }, name
    row = fates.transform(aggregates.clicks_by_kind).first()
    assert row is not None
    assert sum(row[kind] for kind in aggregates.KINDS) == len(CLICKS)
    assert row["counted"] == shown.transform(counted_clicks(clicks, rule)).count(), "as labels count them"


def test_delays_are_of_the_first_click_and_of_the_first_known(
    shown: DataFrame, clicks: DataFrame, demo_contract: Contract
) -> None:
    fates = clicks.transform(aggregates.click_fates(shown, demo_contract.label))
    within = [timedelta(0), 2 * MINUTE, 5 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR]
    row = fates.transform(aggregates.delays(demo_contract.label, NOON + 3 * HOUR, within)).first()
    assert row is not None
    assert (row["clicked"], row["in_window"]) == (6, 5), "a click before the skew has no delay, an orphan neither"
    assert row["click_within"] == [1, 3, 3, 5, 6, 6]
    assert row["known_within"] == [1, 1, 3, 3, 4, 5]
    too_young = fates.transform(aggregates.delays(demo_contract.label, NOON + HOUR, within)).first()
    assert too_young is not None
    assert too_young["clicked"] == 0, "what is not mature may still be clicked"


def test_hours_are_utcs_and_days_begin_at_midnight_in_the_zone(spark: SparkSession) -> None:
    summer_time_ends = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1, 21, 22, 23)]  # 2:30 twice in Berlin
    events = spark.createDataFrame([(at,) for at in summer_time_ends], "event_timestamp timestamp")

    def starts(unit: str) -> list[str]:
        rows = events.select(aggregates.start_of(unit, "Europe/Berlin").alias("s")).collect()
        return [datetime.fromtimestamp(row["s"], UTC).strftime("%d %H:%M") for row in rows]

    assert starts("hour") == ["25 00:00", "25 01:00", "25 21:00", "25 22:00", "25 23:00"]
    assert starts("day") == ["24 22:00", "24 22:00", "24 22:00", "24 22:00", "25 23:00"]
    assert set(starts("month")) == {"30 22:00"}
    hours = [row["h"] for row in events.select(aggregates.hour_of_day("Europe/Berlin").alias("h")).collect()]
    assert hours == [2, 2, 22, 23, 0]


def values_of(spark: SparkSession, contract: Contract, rows: list[dict[str, Any]], **how: Any) -> DataFrame:
    types = {name: "double" if column.type == "number" else "string" for name, column in contract.columns.items()}
    schema = ", ".join(["event_timestamp timestamp", "label int", *(f"{name} {kind}" for name, kind in types.items())])
    full = [(row["at"], row.get("label"), *(row.get(name) for name in types)) for row in rows]
    rule = aggregates.column_values(contract, aggregates.start_of("day", "UTC"), how.get("sampled", {}), how.get("grouped", {}))
    return spark.createDataFrame(full, schema).transform(rule)


def test_values_are_counted_with_their_labels_and_first_day(spark: SparkSession, demo_contract: Contract) -> None:
    rows: list[dict[str, Any]] = [
        {"at": NOON, "device": "phone", "label": 1, "age": 30.0, "user_id": "hash 1"},
        {"at": NOON + 24 * HOUR, "device": "phone", "label": 0, "age": -0.0, "user_id": "hash 2"},
        {"at": NOON + 24 * HOUR, "device": "tablet", "age": 0.0, "user_id": "hash 1"},
        {"at": NOON, "device": None, "label": 0, "user_id": "hash 1"},
    ]
    values = values_of(spark, demo_contract, rows).cache()
    of = {(row["column"], row["value"]): row for row in values.collect()}

    def counts(column: str, value: str | None) -> tuple[int, int, int]:
        row = of[column, value]
        return row["rows"], row["labelled"], row["clicked"]

    assert counts("device", "phone") == (2, 2, 1)
    assert counts("device", "tablet") == (1, 0, 0), "no label yet"
    assert counts("device", None) == (1, 1, 0)
    assert counts("age", "0.0") == (2, 1, 0), "-0 is 0"
    assert counts(aggregates.EVERYTHING, None) == (4, 3, 1)

    new = [
        (r["column"], r["first_s"], r["n"]) for r in values.transform(aggregates.new_values).collect() if r["column"] == "device"
    ]
    midnight = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
    assert new == [("device", midnight, 1), ("device", midnight + 86_400, 1)]

    top = values.transform(aggregates.most_frequent(2, named=1, hidden=["user_id"])).collect()
    told = {(row["column"], row["rank"]): row["value"] for row in top if row["column"] in ("device", "user_id")}
    assert told == {("device", 1): "phone", ("device", 2): None, ("user_id", 1): None, ("user_id", 2): None}

    total = {row["column"]: row for row in values.transform(aggregates.value_totals).collect()}["device"]
    assert (total["values"], total["given_rows"], total["missing_rows"], total["missing_labelled"]) == (2, 3, 1, 1)


def test_a_number_of_many_values_is_grouped_in_its_order(spark: SparkSession, demo_contract: Contract) -> None:
    ages = [-1e9, -250.5, -250.25, -1e-3, 0.0, 1e-3, 0.5, 3.0, 80.0, 80.001, 1e9]
    grouped = {"age": aggregates.grouping(min(ages), max(ages))}
    values = values_of(spark, demo_contract, [{"at": NOON, "age": age} for age in ages], grouped=grouped)
    groups = values.where("column = 'age'").orderBy("low").collect()
    assert len(groups) < len(ages), "80 and 80.001 are together"
    assert sum(row["rows"] for row in groups) == len(ages)
    ends = [end for row in groups for end in (row["low"], row["high"])]
    assert ends == sorted(ends), "groups do not overlap"
    assert len({int(float(row["value"])) for row in groups}) == len(groups)
    assert max(abs(float(row["value"])) for row in groups) <= aggregates.GROUPS


def test_a_sample_of_values_keeps_all_rows_of_those_it_keeps(spark: SparkSession, demo_contract: Contract) -> None:
    rows = [{"at": NOON, "ad_id": f"ad {n % 400}", "device": None} for n in range(800)] + [{"at": NOON, "ad_id": None}]
    of = values_of(spark, demo_contract, rows, sampled={"ad_id": 4}).where("column = 'ad_id'")
    kept = of.where(F.col("value").isNotNull()).collect()
    assert 60 < len(kept) < 140, "about one in four of 400"
    assert {row["rows"] for row in kept} == {2}
    assert of.where(F.col("value").isNull()).count() == 1, "the missing value is always told"


def test_a_summary_counts_what_is_given(spark: SparkSession, demo_contract: Contract) -> None:
    rows = [(NOON, "u", "home", None, None, "a", "c"), (NOON + HOUR, "v", "home", None, 40.0, "b", "c")]
    types = "user_id string, placement_id string, device string, age double, ad_id string, campaign_id string"
    frame = spark.createDataFrame(rows, f"event_timestamp timestamp, {types}")
    row = frame.transform(aggregates.summary(demo_contract)).first()
    assert row is not None
    assert (row["rows"], row["last_s"] - row["first_s"]) == (2, 3600)
    assert tuple(row["columns"]["age"]) == (1, 1, 40.0, 40.0)
    assert tuple(row["columns"]["user_id"]) == (2, 2, None, None)
    assert tuple(row["columns"]["device"]) == (0, 0, None, None)
