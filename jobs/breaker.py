"""The breaker: days of a new batch that look so unlike the days before that somebody should look at them first.

A day is compared with the same weekday of the four weeks before, or, where the log has none of them, with the seven days before;
always over the same hours, and only hours that the log has wholly passed. A ratio opens the breaker when it is out of the
contract's limits even after allowing for chance (Poisson counts, 2.58 standard errors: 99 % of a limit's own values).
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from conf.contract import HOUR, Limits

WEEKS, DAYS = 4, 7
TRAILING = timedelta(weeks=WEEKS)
_ERRORS = 2.58


@dataclass(frozen=True)
class HourCounts:
    """Impressions and clicks whose own time lies in one hour."""

    impressions: int
    clicks: int


def alarms(
    hours: Mapping[datetime, HourCounts], judged: Iterable[date], limits: Limits, *, passed: datetime,
    unknown: Container[datetime] = (),
) -> dict[date, list[str]]:  # fmt: skip
    """Reasons by date; a date without any is missing.

    hours: counts of each hour (UTC, tz-aware) with an event, the new batch's among them. judged: the batch's dates. passed: how
    far the log's clock has come. unknown: hours of which rows are held back, so that nothing can be said of them. A date that is
    held here is not what later dates are compared with.
    """
    found: dict[date, list[str]] = {}
    if not hours:
        return found
    first_whole = min(hours) + HOUR  # a log seldom starts with the hour
    hours = {at: counts for at, counts in hours.items() if at not in unknown}
    for day in sorted(set(judged)):
        seen = [at for at in _hours_of(day) if first_whole <= at and at + HOUR <= passed and at not in unknown]
        reasons = _reasons(hours, seen, _references(hours, day, found), limits, first_whole)
        if reasons:
            found[day] = reasons
    return found


def _references(hours: Mapping[datetime, HourCounts], day: date, held: Mapping[date, Sequence[str]]) -> list[timedelta]:
    """How far back the days lie that `day` is compared with."""
    there = {at.date() for at in hours}
    weeks = [timedelta(weeks=n) for n in range(1, WEEKS + 1)]
    days = [timedelta(days=n) for n in range(1, DAYS + 1)]
    for choice in (weeks, days):
        if usable := [back for back in choice if day - back in there and day - back not in held]:
            return usable
    return []


def _reasons(
    hours: Mapping[datetime, HourCounts], seen: Sequence[datetime], backs: Sequence[timedelta], limits: Limits, first: datetime
) -> list[str]:
    none = HourCounts(0, 0)
    pairs = [
        (hours.get(at, none), hours[at - back]) for back in backs for at in seen if at - back >= first and at - back in hours
    ]
    if not pairs:
        return []
    impressions, before = (sum(side[i].impressions for side in pairs) for i in (0, 1))
    clicks, clicks_before = (sum(side[i].clicks for side in pairs) for i in (0, 1))
    once = 1 / len(backs)  # today's hours stand in as many pairs as there are days to compare with
    reasons = []
    if limits.volume and before:
        found = _Ratio(impressions / before, _error(impressions * once, before))
        reasons += found.beyond(limits.volume, "volume")
    if limits.click_rate and impressions and clicks_before:
        found = _Ratio((clicks / impressions) / (clicks_before / before), _error(clicks * once, clicks_before))
        reasons += found.beyond(limits.click_rate, "click rate")
    return reasons


def _error(now: float, before: float) -> float:
    """Standard error of the log of the ratio of two Poisson counts; the halves keep it finite at zero."""
    return math.sqrt(1 / (now + 0.5) + 1 / (before + 0.5))


@dataclass(frozen=True)
class _Ratio:
    value: float
    error: float

    def beyond(self, limits: tuple[float, float], what: str) -> list[str]:
        low, high = limits
        chance = math.exp(_ERRORS * self.error)
        if low <= self.value * chance and self.value / chance <= high:
            return []
        return [f"{what} {self.value:.2f} times that of the same hours before, expected {low:g} to {high:g}"]


def _hours_of(day: date) -> list[datetime]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [start + n * HOUR for n in range(24)]
