"""What the profile's sections have in common: numbers and times as its page writes them. Knows no Spark."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from models.svg import percent

Profile = Mapping[str, Any]


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def rate(clicked: int, rows: int) -> str:
    """A click rate; empty where there is no row."""
    return percent(clicked / rows) if rows else ""


def kind(column: Mapping[str, Any]) -> str:
    return f"{column['type']}, personal" if column["personal"] else str(column["type"])


def cardinality(column: Mapping[str, Any]) -> str:
    return f"{'about ' if column['about'] else ''}{column['values']:,}"


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def local(profile: Profile, iso: str, shape: str = "%Y-%m-%d %H:%M") -> str:
    """A time in the contract's zone."""
    return datetime.fromisoformat(iso).astimezone(ZoneInfo(profile["contract"]["zone"])).strftime(shape)
