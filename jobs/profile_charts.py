"""The profile's pictures, drawn from its JSON. Knows no Spark."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import asinh
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from conf.durations import format_duration
from models.plots import wilson
from models.svg import Picture, percent, short, ticks

_WIDTH_S = {"hour": 3600, "day": 86_400, "month": 30 * 86_400}
_DATES = 6  # at most so many on an axis
_DELAY_TICKS = (0, 10, 60, 600, 3600, 21_600, 86_400, 604_800, 2_592_000)

Rows = Sequence[Mapping[str, Any]]


def seconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp())


def intervals(rows: Rows, of: str = "impressions") -> list[tuple[float, float, float]]:
    """(click rate, low and high end of its 95 % interval) of each row; rows without impressions have none to give."""
    counts = np.array([(row["clicked"], row[of]) for row in rows], dtype=np.float64).reshape(-1, 2)
    low, high = wilson(counts[:, 0], counts[:, 1])
    rate = counts[:, 0] / counts[:, 1]
    return [(float(r), max(0.0, float(a)), float(b)) for r, a, b in zip(rate, low, high, strict=True)]


def impressions_over_time(profile: Mapping[str, Any]) -> str:
    rows, unit = profile["by_time"], profile["unit"]
    picture = _over_time(f"Impressions by {unit} of the event", rows, profile, max(row["impressions"] for row in rows), 180)
    width = _WIDTH_S[unit]
    picture.bars([(seconds(row["start"]), seconds(row["start"]) + width, row["impressions"]) for row in rows])
    return _finished(picture, f"impressions per {unit}", rows, profile, short)


def rate_over_time(profile: Mapping[str, Any]) -> str:
    """The click rate by day with its interval; of hours, dots behind it."""
    unit, zone = profile["unit"], ZoneInfo(profile["contract"]["zone"])
    rows = profile["by_time"] if unit != "hour" else _by_day(profile["by_time"], zone)
    rates, width = intervals(rows), _WIDTH_S["day" if unit == "hour" else unit]
    top = min(1.0, max(rate for rate, _, _ in rates) * 1.6 + 1e-9)
    picture = _over_time("Click rate over time, with 95 % intervals", profile["by_time"], profile, top, 200)
    if unit == "hour":
        hours = [(seconds(row["start"]) + 1800, row["clicked"] / row["impressions"]) for row in profile["by_time"]]
        picture.dots([(at, min(rate, top)) for at, rate in hours], 1.1, "faint")
    middles = [seconds(row["start"]) + width / 2 for row in rows]
    picture.whiskers([(at, low, min(high, top)) for at, (_, low, high) in zip(middles, rates, strict=True)])
    points = [(at, rate) for at, (rate, _, _) in zip(middles, rates, strict=True)]
    picture.curve(points)
    picture.dots(points)
    return _finished(picture, "clicked, share of impressions", profile["by_time"], profile, percent)


def impressions_by_hour_of_day(profile: Mapping[str, Any]) -> str:
    rows = profile["by_hour_of_day"]
    top = max(row["impressions"] for row in rows)
    picture = Picture("Impressions by hour of the day", 0, 24, 0, top * 1.05)
    picture.y_axis("impressions", [(at, short(at)) for at in ticks(0, top)])
    picture.bars([(row["hour"] + 0.1, row["hour"] + 0.9, row["impressions"]) for row in rows])
    picture.x_axis([(hour, f"{hour}:00") for hour in (0, 6, 12, 18, 24)])
    return str(picture)


def rate_by_hour_of_day(profile: Mapping[str, Any]) -> str:
    rows = profile["by_hour_of_day"]
    rates = intervals(rows)
    top = min(1.0, max(rate for rate, _, _ in rates) * 1.8 + 1e-9)
    picture = Picture("Click rate by hour of the day, with 95 % intervals", 0, 24, 0, top)
    picture.y_axis("clicked, share of impressions", [(at, percent(at)) for at in ticks(0, top)])
    placed = [(row["hour"] + 0.5, *rate) for row, rate in zip(rows, rates, strict=True)]
    picture.whiskers([(at, low, min(high, top)) for at, _, low, high in placed])
    picture.dots([(at, rate) for at, rate, _, _ in placed])
    picture.x_axis([(hour, f"{hour}:00") for hour in (0, 6, 12, 18, 24)])
    return str(picture)


def new_values(column: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """How many values a column had for the first time, by day or month, over the whole log."""
    first, last = seconds(profile["first_event"]), seconds(profile["last_event"])
    unit = "month" if profile["unit"] == "month" else "day"
    width, top = _WIDTH_S[unit], max((new["values"] for new in column["new"]), default=1)
    start = min([first, *(seconds(new["start"]) for new in column["new"])])
    picture = Picture(f"New values of {column['name']} by {unit}", start, max(last, start + width), 0, top * 1.05)
    picture.y_axis(f"values never seen before, per {unit}", [(at, short(at)) for at in ticks(0, top) if at == int(at)])
    spans = [(seconds(new["start"]), new["values"]) for new in column["new"]]
    picture.bars([(at + 0.08 * width, min(at + 0.92 * width, picture.x1), values) for at, values in spans])
    picture.x_axis(_dates(picture.x0, picture.x1, ZoneInfo(profile["contract"]["zone"]), 5))
    return str(picture)


def rate_by_number(column: Mapping[str, Any]) -> str:
    """Click rate of about equally large groups of a number's values."""
    groups = [group for group in column["groups"] if group["labelled"]]
    rates = intervals(groups, "labelled")
    top = min(1.0, max(high for _, _, high in rates) * 1.1)
    picture = Picture(f"Click rate by {column['name']}, with 95 % intervals", 0, len(groups), 0, top)
    picture.y_axis("clicked, share of labelled", [(at, percent(at)) for at in ticks(0, top)])
    picture.whiskers([(at + 0.5, low, min(high, top)) for at, (_, low, high) in enumerate(rates)])
    picture.dots([(at + 0.5, rate) for at, (rate, _, _) in enumerate(rates)], 3)
    step = -(-len(groups) // 5)
    picture.x_axis([(at + 0.5, short(group["low"])) for at, group in enumerate(groups) if at % step == 0], marks=False)
    return str(picture)


def click_delays(profile: Mapping[str, Any]) -> str:
    """Two rising curves over a stretched time axis: clicks as they fell, and as they became known; W and W + lateness marked."""
    delay, waits = profile["delay"], waited_s(profile)
    limits = delay["within_s"]
    click = [n / max(1, delay["clicked"]) for n in delay["click_within"]]
    known = [n / max(1, delay["in_window"]) for n in delay["known_within"]]
    all_there = zip(limits, click, known, strict=True)
    end = next((limit for limit, *both in all_there if min(both) >= 1 and limit >= 2 * waits[1]), limits[-1])
    picture = Picture("Share of clicks within each delay after the impression", 0, asinh(end), 0, 1.0, wide=True, height=220)
    picture.y_axis("share of clicked impressions", [(at, percent(at)) for at in (0, 0.25, 0.5, 0.75, 1)])
    picture.x_axis([(asinh(at), delay_text(at)) for at in _DELAY_TICKS if at <= end])
    for wait, name, step, anchor in zip(waits, ("W", "W+L"), (-4, 4), ("end", "start"), strict=True):
        at = picture.x(asinh(wait))
        picture.line(at, picture.top, at, picture.height - picture.bottom, "mark")
        picture.text(at + step, picture.y(0) - 6, name, "tick", anchor)
    for shares, kind in ((known, " second"), (click, "")):
        placed = [(asinh(limit), share) for limit, share in zip(limits, shares, strict=True) if limit <= end]
        picture.curve(placed, f"curve{kind}")
        picture.dots(placed, 2, f"dot{kind}")
    return str(picture)


def waited_s(profile: Mapping[str, Any]) -> tuple[int, int]:
    """W, and W + lateness, in seconds."""
    return profile["delay"]["waits_s"][0], profile["delay"]["waits_s"][1]


def delay_text(limit_s: int) -> str:
    """As people write it: 90 s, 5 min, 1 h."""
    text = format_duration(timedelta(seconds=limit_s))
    return f"{text[:-1]}\u00a0{'min' if text[-1] == 'm' else text[-1]}"


def _over_time(says: str, rows: Rows, profile: Mapping[str, Any], top: float, height: float) -> Picture:
    start, end = seconds(rows[0]["start"]), seconds(rows[-1]["start"]) + _WIDTH_S[profile["unit"]]
    picture = Picture(says, start, end, 0, top * 1.05, wide=True, height=height)
    picture.shade(seconds(profile["mature_until"]), end)
    return picture


def _finished(picture: Picture, unit: str, rows: Rows, profile: Mapping[str, Any], text: Any) -> str:
    marks, picture.parts = picture.parts, []
    picture.y_axis(unit, [(at, text(at)) for at in ticks(0, picture.y1)])
    picture.parts += marks
    picture.x_axis(_dates(picture.x0, picture.x1, ZoneInfo(profile["contract"]["zone"]), _DATES))
    return str(picture)


def _by_day(hours: Rows, zone: ZoneInfo) -> list[dict[str, Any]]:
    days: dict[str, dict[str, Any]] = {}
    for row in hours:
        local = datetime.fromisoformat(row["start"]).astimezone(zone)
        start = local.replace(hour=0, minute=0, second=0).astimezone(UTC).isoformat()
        day = days.setdefault(start, {"start": start, "impressions": 0, "clicked": 0})
        day["impressions"] += row["impressions"]
        day["clicked"] += row["clicked"]
    return list(days.values())


def _dates(start: float, end: float, zone: ZoneInfo, most: int) -> list[tuple[float, str]]:
    """Midnights in `zone`, so many days apart that at most `most` fit; hours where the span is less than two days."""
    local = datetime.fromtimestamp(start, zone)
    if end - start < 2 * 86_400:
        step = next(hours for hours in (1, 3, 6, 12) if (end - start) / 3600 / hours <= most or hours == 12)
        first = local.replace(minute=0, second=0, microsecond=0)
        hours = [first + timedelta(hours=at) for at in range(50)]
        return [(at.timestamp(), f"{at:%H}:00") for at in hours if at.hour % step == 0 and start <= at.timestamp() <= end]
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    step = next(days for days in (1, 2, 3, 7, 14, 30, 91, 182, 365, 3650, 36_500) if (end - start) / 86_400 / days <= most)
    days = [midnight + timedelta(days=at) for at in range(0, int((end - start) / 86_400) + 2, step)]
    shape = "{0:%Y-%m}" if step >= 91 else "{0.day} {0:%b}"
    return [(at.timestamp(), shape.format(at)) for at in days if start <= at.timestamp() <= end]
