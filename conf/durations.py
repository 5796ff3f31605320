"""Durations as people write them: `90s`, `30m`, `1h`, `7d`."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PATTERN = re.compile(r"(\d+)([smhd])")


def parse_duration(value: Any) -> timedelta:
    """Read `30m` and the like; a timedelta passes. Raises ValueError that names what was expected."""
    if isinstance(value, timedelta):
        return value
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a whole number and a unit of s, m, h or d, such as 30m")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise ValueError("expected a duration that a calendar holds") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: 1h, 7d, 90s."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
