"""The as-of join against a brute-force oracle: every left row once, the newest row that was there, never a later one."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import SparkSession

from jobs.asof import History, as_of_join

START = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(hours=30)
CASES = 400


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def case(number: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Left rows and two histories of one case, its number inside the keys: ties, nulls, equal times, rows that share all."""
    rng = random.Random(number)
    key = f"k{number}"
    hours = [0, 0.5, 1, 1, 23, 24, 25, 48, 54, 54.5, 55]
    moments = [at(rng.choice(hours) + rng.choice([0, 0, 1e-6 / 3600 * 1_000])) for _ in range(rng.randrange(1, 4))]
    left = [(f"{number}-{i}", rng.choice([key, None]), rng.choice(["x", "y", None]), m) for i, m in enumerate(moments)]
    single = [(rng.choice([key, None]), at(rng.choice(hours)), at(c), rng.choice([c, None])) for c in range(rng.randrange(0, 6))]
    cross = [(key, rng.choice(["x", "y"]), at(rng.choice(hours)), at(c), c) for c in range(rng.randrange(0, 6))]
    return left, single, cross


def newest(moment: datetime, rows: list[tuple[datetime, datetime, Any]]) -> Any:
    """The value of the newest row (ties by created) at `moment`, None where none holds."""
    there = [row for row in rows if row[0] <= moment]
    if not there:
        return None
    time, _, value = max(there, key=lambda row: row[:2])
    return value if moment < time + TTL else None


def test_it_equals_the_oracle_on_generated_cases(spark: SparkSession) -> None:
    cases = [case(number) for number in range(CASES)]
    left = [row for rows, _, _ in cases for row in rows]
    single = [row for _, rows, _ in cases for row in rows]
    cross = [row for _, _, rows in cases for row in rows]
    joined = as_of_join(
        spark.createDataFrame(left, "id string, key string, side string, moment timestamp"),
        [
            History(
                spark.createDataFrame(single, "key string, since timestamp, made timestamp, v int"),
                on=["key"], time="since", created="made", values={"v": "single"}, ttl=TTL,
            ),
            History(
                spark.createDataFrame(cross, "key string, side string, since timestamp, made timestamp, v int"),
                on=["key", "side"], time="since", created="made", values={"v": "cross"}, ttl=TTL,
            ),
        ],
        time="moment",
    )  # fmt: skip
    found = sorted((row.id, row.single, row.cross) for row in joined.collect())
    expected = []
    for rows, of_key, of_both in cases:
        for name, key, side, moment in rows:
            one = newest(moment, [r[1:] for r in of_key if r[0] == key]) if key else None
            both = newest(moment, [r[2:] for r in of_both if r[:2] == (key, side)]) if key and side else None
            expected.append((name, one, both))
    assert found == sorted(expected)
    assert any(one is not None and both is not None for _, one, both in expected)


def test_rows_that_share_everything_all_come_back(spark: SparkSession) -> None:
    left = spark.createDataFrame([("k", at(2))] * 3, "key string, moment timestamp")
    history = spark.createDataFrame([("k", at(1), at(1), 7)], "key string, since timestamp, made timestamp, v int")
    joined = as_of_join(left, [History(history, ["key"], "since", "made", {"v": "v"}, TTL)], time="moment")
    assert [row.v for row in joined.collect()] == [7, 7, 7]
