"""Counters against a brute-force count in plain Python over the raw log, and the label rule behind them."""

import argparse
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conf.contract import Contract
from jobs.command import Context
from jobs.count import count
from jobs.ingest import ingest
from jobs.label import label
from tests.logs import changed, click, deliver, impression

HOUR_MS = 3_600_000
START_MS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1000
SKEW_MS, WINDOW_MS, LATENESS_MS = 60_000, HOUR_MS, HOUR_MS
WINDOWS = {"1h": 1, "3h": 3, "1d": 24}

Row = dict[str, Any]


@pytest.fixture(scope="module")
def contract(demo_contract: Contract) -> Contract:
    return changed(
        demo_contract,
        name="counted",
        windows=list(WINDOWS),
        keys={"user": ["user_id"], "user_campaign": ["user_id", "campaign_id"]},
        label={"attribution_window": "1h", "allowed_lateness": "1h", "skew": "1m"},
    )


def random_log(seed: int) -> tuple[list[Row], list[Row]]:
    """Times on and beside full hours, ties, repeated deliveries, clicks at every border of window, skew and lateness."""
    rng = random.Random(seed)
    impressions, clicks = [], []
    for number in range(250):
        at = START_MS + rng.randrange(0, 60) * HOUR_MS + rng.choice([0, 0, 1, -1, 1800_000, HOUR_MS - 1])
        known = at + rng.choice([0, 0, 1000, 2 * HOUR_MS])
        row = impression(
            number, at, received_at=known,
            user_id=f"u{rng.randrange(6)}", campaign_id=rng.choice(["c1", "c2"]), ad_id=f"a{rng.randrange(3)}",
        )  # fmt: skip
        impressions += [row] * rng.choice([1, 1, 2])
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            clicked = at + rng.choice([-SKEW_MS - 1, -SKEW_MS, 0, 1, 600_000, WINDOW_MS, WINDOW_MS + 1])
            late = rng.choice([0, 1, HOUR_MS, at + WINDOW_MS + LATENESS_MS - clicked, at + WINDOW_MS + LATENESS_MS - clicked + 1])
            clicks += [click(number, clicked, max(clicked + late, START_MS))] * rng.choice([1, 1, 2])
    impressions.append(impression("young", START_MS + 70 * HOUR_MS, user_id="u0"))
    clicks.append(click("nobody", START_MS))
    rng.shuffle(impressions)
    rng.shuffle(clicks)
    return impressions, clicks


def counted_at(row: Row, clicks: list[Row]) -> int | None:
    """When the impression's click counts from, None where none does. Plain reading of the rule, in milliseconds."""
    known = [
        c["received_at"]
        for c in clicks
        if c["impression_id"] == row["impression_id"]
        and row["served_at"] - SKEW_MS <= c["clicked_at"] <= row["served_at"] + WINDOW_MS
        and c["received_at"] <= row["served_at"] + WINDOW_MS + LATENESS_MS
    ]
    return max(row["received_at"], min(known)) if known else None


def brute_force(impressions: list[Row], clicks: list[Row], key: Callable[[Row], Any]) -> dict[tuple[Any, int], tuple[Any, ...]]:
    """(key, hour in ms) -> counts of every window and last-seen times, at each hour with an event or an expiry."""
    events: dict[Any, list[tuple[int, int]]] = {}
    for row in {row["impression_id"]: row for row in impressions}.values():
        events.setdefault(key(row), []).append((row["received_at"], 0))
        if (at := counted_at(row, clicks)) is not None:
            events[key(row)].append((at, 1))
    rows = {}
    for name, happened in events.items():
        first_hours = {(at // HOUR_MS + 1) * HOUR_MS for at, _ in happened}
        for hour in {h + w * HOUR_MS for h in first_hours for w in [0, *WINDOWS.values()]}:
            values: list[int | None] = []
            for hours in WINDOWS.values():
                inside = [kind for at, kind in happened if hour - hours * HOUR_MS <= at < hour]
                values += [inside.count(0), inside.count(1)]
            for kind in (0, 1):
                seen = [at for at, k in happened if k == kind and hour - 24 * HOUR_MS <= at < hour]
                values.append(max(seen) * 1000 if seen else None)
            rows[name, hour] = tuple(values)
    return rows


@pytest.mark.parametrize("seed", [1, 2])
def test_counters_and_labels_equal_a_brute_force_count(
    make_context: Callable[[Contract], Context], contract: Contract, tmp_path: Path, seed: int
) -> None:
    impressions, clicks = random_log(seed)
    context = make_context(contract)
    args = argparse.Namespace(data=str(deliver(tmp_path / "log", impressions, clicks)), as_of=None)
    ingest(context, args)
    count(context, args)
    label(context, args)
    digest = context.id_key.digest
    keys: dict[str, Callable[[Row], Any]] = {
        "all": lambda row: (),
        "user": lambda row: (digest(row["user_id"]),),
        "user_campaign": lambda row: (digest(row["user_id"]), row["campaign_id"]),
    }
    for name, key in keys.items():
        found = {}
        for row in context.warehouse.read(f"counters_{name}").collect():
            hour = row.hour.replace(tzinfo=UTC)
            assert row.published_at.replace(tzinfo=UTC) == row.created.replace(tzinfo=UTC) == hour + timedelta(hours=1)
            key_values = tuple(row[column] for column in contract.counted_keys[name])
            found[key_values, int(hour.timestamp()) * 1000] = tuple(row[column] for column in contract.counter_columns)
        assert found == brute_force(impressions, clicks, key)
    assert_labels(context, impressions, clicks)


def assert_labels(context: Context, impressions: list[Row], clicks: list[Row]) -> None:
    """Labels follow the same rule as the counted clicks, for every mature impression and no other."""
    as_of = max(row["received_at"] for row in impressions + clicks)
    expected = {
        row["impression_id"]: int(counted_at(row, clicks) is not None)
        for row in impressions
        if row["served_at"] + WINDOW_MS + LATENESS_MS <= as_of
    }
    found = {row.impression_id: row.label for row in context.warehouse.read("labels").collect()}
    assert found == expected
    assert 0 < len(expected) < len({row["impression_id"] for row in impressions}), "some impressions must be too young"
