"""The breaker's judgement, on counts by hour: what it holds back and what it lets pass."""

import math
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.contract import HOUR, Contract, Limits
from jobs.breaker import HourCounts, alarms
from jobs.simulate import drawn_events
from jobs.simulation import Plan, base_log_odds, with_clicks

LIMITS = Limits(volume=(0.5, 2.0), click_rate=(0.5, 2.0))
START = datetime(2026, 3, 2, 7, tzinfo=UTC)  # a log seldom starts at midnight
RATE = 0.02


def log(days: int, seed: int, *, a_day: int = 5_000) -> dict[datetime, HourCounts]:
    """Ordinary days: a daily cycle, a weaker weekend, Poisson-like noise."""
    rng = random.Random(seed)
    hours = {}
    for n in range(days * 24):
        at = START + n * HOUR
        cycle = 1 + 0.65 * math.sin((at.hour - 12) / 24 * 2 * math.pi)
        expected = a_day / 24 * cycle * (0.8 if at.weekday() >= 5 else 1)
        impressions = max(0, round(rng.gauss(expected, math.sqrt(expected))))
        rate = RATE * (1 + 0.2 * math.sin(at.hour))
        hours[at] = HourCounts(impressions, sum(rng.random() < rate for _ in range(impressions)))
    return hours


def changed(hours: dict[datetime, HourCounts], day: date, *, volume: float = 1, clicks: float = 1) -> dict[datetime, HourCounts]:
    return {
        at: HourCounts(round(n.impressions * volume), round(n.clicks * volume * clicks)) if at.date() == day else n
        for at, n in hours.items()
    }


def simulated(spark: SparkSession, contract: Contract, days: int, seed: int) -> dict[datetime, HourCounts]:
    """The hours of a log as jobs/simulate.py draws it: a daily cycle, and a click rate that drifts."""
    plan = Plan(impressions=2_000 * days, days=days, seed=seed)
    events = drawn_events(spark, contract, plan).transform(
        with_clicks(contract, plan, base=base_log_odds({-1: 1, 0: 1}, bins_a_unit=1))
    )
    kinds = F.array(
        F.struct(F.col("event_us").alias("at"), F.lit(0).alias("click")),
        F.struct(F.col("click_us").alias("at"), F.lit(1).alias("click")),
    )
    hours = events.select(F.inline(kinds)).groupBy(F.floor(F.col("at") / F.lit(3_600_000_000)).alias("hour"))
    counted = hours.agg(F.count_if(F.col("click") == 0), F.count_if(F.col("click") == 1)).where("hour is not null").collect()
    return {datetime.fromtimestamp(int(hour) * 3600, UTC): HourCounts(shown, clicks) for hour, shown, clicks in counted}


def judged(hours: dict[datetime, HourCounts], days: list[date]) -> dict[date, list[str]]:
    return alarms(hours, days, LIMITS, passed=max(hours) + HOUR)


def test_ordinary_days_pass_whether_they_come_together_or_one_by_one() -> None:
    for seed in range(3):
        hours = log(30, seed)
        days = sorted({at.date() for at in hours})
        assert judged(hours, days) == {}
        for day in days:
            until = {at: n for at, n in hours.items() if at.date() <= day}
            assert judged(until, [day]) == {}


def test_a_day_whose_click_rate_is_tripled_is_held() -> None:
    day = date(2026, 3, 20)
    found = judged(changed(log(20, 1), day, clicks=3), [day])
    assert list(found) == [day]
    assert found[day][0].startswith("click rate 2.56 times")


def test_a_day_with_a_third_of_its_volume_is_held() -> None:
    day = date(2026, 3, 6)  # no same weekday before: the days before it stand in
    found = judged(changed(log(20, 1), day, volume=1 / 3), [day])
    assert list(found) == [day]
    assert found[day][0].startswith("volume 0.3")


def test_a_day_of_which_hours_are_missing_is_held_but_hours_to_come_are_not_missed() -> None:
    hours = log(20, 2)
    day = max(hours).date() - timedelta(days=1)
    holey = {at: n for at, n in hours.items() if at.date() != day or at.hour < 8}
    assert list(judged(holey, [day])) == [day]
    half = {at: n for at, n in hours.items() if at < datetime(day.year, day.month, day.day, 12, tzinfo=UTC)}
    assert judged(half, [day]) == {}


def test_days_after_a_held_one_are_not_compared_with_it() -> None:
    hours = log(12, 3)
    day = date(2026, 3, 6)
    doubled = changed(hours, day, volume=10)
    assert list(judged(doubled, sorted({at.date() for at in doubled}))) == [day]


def test_the_rest_of_a_day_is_not_judged_by_the_hours_that_are_held() -> None:
    hours = log(20, 5)
    day = max(hours).date() - timedelta(days=1)
    held = {at for at in hours if at.date() == day and at.hour >= 10}
    rest = {at: n for at, n in hours.items() if at not in held}
    assert list(judged(rest, [day])) == [day]
    assert alarms(rest, [day], LIMITS, passed=max(hours) + HOUR, unknown=held) == {}


def test_a_first_day_has_nothing_to_be_compared_with() -> None:
    hours = log(1, 4)
    assert judged(hours, [START.date()]) == {}


def test_few_events_raise_no_alarm_by_chance() -> None:
    hours = {START + n * HOUR: HourCounts(1, 0) for n in range(24 * 10)}
    busy = hours | {START + (24 * 9 + n) * HOUR: HourCounts(2 + n % 2, 0) for n in range(10)}
    assert judged(busy, [max(busy).date()]) == {}


def test_limits_that_are_not_declared_are_not_judged() -> None:
    day = date(2026, 3, 20)
    hours = changed(log(20, 1), day, volume=0.1, clicks=9)
    assert alarms(hours, [day], Limits(), passed=max(hours) + HOUR) == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_simulated_month_raises_no_alarm_but_for_its_bad_days(spark: SparkSession, demo_contract: Contract, seed: int) -> None:
    hours = simulated(spark, demo_contract, 30, seed)
    days = sorted({at.date() for at in hours})
    assert judged(hours, days) == {}
    for day in days[10:30:6]:
        assert "click rate" in " ".join(judged(changed(hours, day, clicks=3), [day])[day])
        assert "volume" in " ".join(judged(changed(hours, day, volume=1 / 3), [day])[day])
