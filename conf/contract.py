"""The log contract: the one place that names a log's columns.

`load_contract` (conf/contract_file.py) reads and checks the YAML; what it returns is this frozen model. Everything else in
the repository asks the contract for names, so a new log needs a new file and no code.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from conf.durations import Duration, format_duration
from conf.names import ALL_KEY as ALL_KEY
from conf.names import SCOPE as SCOPE

HOUR = timedelta(hours=1)
MAX_TEXT = 512  # characters of an id or category, in a log as in a request
CLOCK = "clock"  # the view whose one row tells up to which publication the online store is filled
AS_OF = "as_of_us"  # its only feature: that publication time, microseconds
LAST_SEEN = ("last_impression_us", "last_click_us")  # counters that are times: stored, but no feature asks for them
# Columns the tables bring of their own. A log whose column has such a name gives it another one with `from:`.
RESERVED = frozenset(
    {
        "impression_id", "event_timestamp", "known_timestamp", "click_timestamp", "counted_timestamp", "date", "hour",
        "label", "label_version", "weight", "source_file", "published_at", "created", "request_id", "ctr", "time",
        "candidate_number", "margin", "model_version", "model_identity", "reasons",
        *LAST_SEEN, AS_OF, SCOPE, ALL_KEY, CLOCK, "hour_of_day", "day_of_week",
    }
)  # fmt: skip


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("expected a time zone of the IANA database, such as UTC or Europe/Berlin")
    return name


def _percent(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


def in_utc(values: Any, name: str) -> Any:
    """A section's raw values with one ISO 8601 time read, as UTC where it names no zone."""
    if isinstance(values, dict) and values.get(name) is not None:
        at = datetime.fromisoformat(str(values[name]))
        return {**values, name: at if at.tzinfo else at.replace(tzinfo=UTC)}
    return values


def _low_to_high(ratio: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ratio[0] < 1 < ratio[1]:
        raise ValueError("expected [low, high] around 1, such as [0.5, 2]")
    return ratio


Zone = Annotated[str, AfterValidator(_zone)]
Share = Annotated[float, BeforeValidator(_percent), Field(ge=0, le=1)]
Ratio = Annotated[tuple[float, float], AfterValidator(_low_to_high)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Text = Annotated[str, Field(min_length=1)]
Columns = Text | Annotated[tuple[Text, ...], Field(min_length=1)]
Windows = Annotated[tuple[Duration, ...], Field(min_length=1, max_length=8)]


class Section(BaseModel):
    """A part of the contract: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EventTime(Section):
    """A column that holds a time: text of a `format` (Spark's patterns), a number in `unit`, or neither for ISO 8601."""

    column: Text
    format: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    zone: Zone = "UTC"

    @model_validator(mode="after")
    def _one_reading(self) -> Self:
        if self.format and self.unit:
            raise ValueError("found both format and unit, expected one of them")
        return self


class KnownTime(Section):
    """When a row reached us: a column like EventTime, or so long `after` the event where the log does not say."""

    column: str | None = None
    format: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    zone: Zone = "UTC"
    after: Duration | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.after is None):
            raise ValueError("expected either a column or after")
        return self

    @property
    def time(self) -> EventTime | None:
        """The column to read, or None where `after` holds."""
        if self.column is None:
            return None
        return EventTime(column=self.column, format=self.format, unit=self.unit, zone=self.zone)


class Files(Section):
    """Which files of the data folder, and how Spark's reader takes them."""

    files: Text
    format: Literal["csv", "json", "parquet"]
    options: dict[str, str | bool | int] = {}


class Impressions(Files):
    id: Columns  # column(s), or "content": a log without ids
    event_time: EventTime
    known_time: KnownTime = KnownTime(after=timedelta(0))

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Raw columns that make the id; empty for `content`."""
        if self.id == "content":
            return ()
        return (self.id,) if isinstance(self.id, str) else self.id


class Clicks(Section):
    """Where clicks come from: `flag` in the impression's own row, or a log of their own joined on its id."""

    flag: str | None = None
    files: str | None = None
    format: Literal["csv", "json", "parquet"] | None = None
    options: dict[str, str | bool | int] = {}
    impression_id: Columns | None = None
    event_time: EventTime | None = None
    known_time: KnownTime = KnownTime(after=timedelta(0))

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        own = {"files": self.files, "format": self.format, "impression_id": self.impression_id}
        if self.flag is not None:
            if extra := [name for name, value in own.items() if value is not None]:
                raise ValueError(f"found flag together with {', '.join(extra)}, expected one source of clicks")
        elif lacking := [n for n, v in {**own, "event_time": self.event_time}.items() if v is None]:
            raise ValueError(f"expected flag, or a log of its own with {', '.join(lacking)}")
        return self

    @property
    def log(self) -> Files | None:
        """The click log's files, or None for in-line clicks."""
        if self.files is None or self.format is None:
            return None
        return Files(files=self.files, format=self.format, options=self.options)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Raw columns of the click log that hold the impression's id."""
        if self.impression_id is None:
            return ()
        return (self.impression_id,) if isinstance(self.impression_id, str) else self.impression_id


class Label(Section):
    attribution_window: Duration
    allowed_lateness: Duration = timedelta(hours=1)
    skew: Duration = timedelta(0)
    complete_through: datetime | None = None  # the log is known to be whole until then

    @field_validator("skew")
    @classmethod
    def _at_most_a_day(cls, skew: timedelta) -> timedelta:
        if skew > timedelta(days=1):
            raise ValueError("expected at most 1d: labels and counters look so far back for clicks")
        return skew

    @model_validator(mode="before")
    @classmethod
    def _utc(cls, values: Any) -> Any:
        return in_utc(values, "complete_through")


class Column(Section):
    """A column of the log that a prediction request brings, once or for each candidate."""

    of: Literal["request", "candidate"]
    type: Literal["id", "category", "number"]
    source: str | None = Field(default=None, alias="from")  # its name in the log, where that is another
    missing: Literal["allowed", "refused"] = "refused"
    personal: bool = False
    min: float | None = None
    max: float | None = None
    allowed: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()  # the values there are; none given: any

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.allowed and self.type == "number":
            raise ValueError("found allowed on a number, expected min and max")
        if self.type != "number" and (self.min is not None or self.max is not None):
            raise ValueError(f"found min or max on a column of type {self.type}, expected them on numbers only")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("found min above max, expected a range")
        if self.personal and self.type == "number":
            raise ValueError("found personal on a number, expected type id or category: only text is hashed")
        return self

    @property
    def optional(self) -> bool:
        return self.missing == "allowed"


class Limits(Section):
    """What is refused, and what opens the breaker. Not part of the contract's hash: tables stay when a limit is changed.

    volume, click_rate: lowest and highest ratio to the trailing days; new_category: share of a day's rows that one value may take
    that was never seen. None: not judged.
    """

    refused: Share = 0.01  # of the rows of one ingest; above it the batch is held back
    volume: Ratio | None = None
    click_rate: Ratio | None = None
    new_category: Share | None = None
    first: datetime = datetime(2000, 1, 1, tzinfo=UTC)  # no event is older
    redelivered: Duration = timedelta(days=30)  # an id that comes again, dated this near, is a copy; clicks look so far back
    candidates: Annotated[int, Field(ge=1, le=1000)] = 200

    @model_validator(mode="before")
    @classmethod
    def _utc(cls, values: Any) -> Any:
        return in_utc(values, "first")


class Sampling(Section):
    """Which training rows are kept: all clicked ones, and a share of the others, told by a hash of the impression's id."""

    # below a hundredth the squares of the weights would overflow the exact sums of models/metrics.py
    negatives: Annotated[float, BeforeValidator(_percent), Field(ge=0.01, le=1)] = 1.0


class SimulatedColumn(Section):
    """How `jobs/simulate.py` draws a column: `values` many, the k-th as frequent as k ** -zipf; or drawn once per `parent`."""

    values: Annotated[int, Field(ge=1)] = 10
    zipf: Annotated[float, Field(ge=0, le=4)] = 1.0
    effect: Annotated[float, Field(ge=0, le=4)] = 0.3  # standard deviation of its values' log odds
    parent: str | None = None
    missing: Share = 0.0


class Contract(Section):
    name: Name
    about: str = ""
    zone: Zone = "UTC"  # in which hour of day and day of week are taken
    impressions: Impressions
    clicks: Clicks
    label: Label
    publication_delay: Duration = HOUR
    columns: Annotated[dict[Identifier, Column], Field(min_length=1)]
    keys: Annotated[dict[Name, tuple[str, ...]], Field(min_length=1, max_length=32)]
    windows: Windows = (HOUR, timedelta(days=1), timedelta(days=7))
    candidate: Annotated[tuple[str, ...], Field(min_length=1)]
    slices: tuple[str, ...] = ()
    limits: Limits = Limits()
    sampling: Sampling = Sampling()
    simulate: dict[str, SimulatedColumn] = {}

    @model_validator(mode="after")
    def _clicks_can_be_counted(self) -> Self:
        if self.clicks.log is not None and len(self.clicks.id_columns) != len(self.impressions.id_columns):
            found, expected = len(self.clicks.id_columns), len(self.impressions.id_columns)
            raise ValueError(f"found a click log that names an impression by {found} column(s), its id has {expected}")
        known_after = self.clicks.known_time.after or timedelta(0)
        waited = self.label.attribution_window + self.label.allowed_lateness
        if self.clicks.flag and not self.clicks.event_time and known_after > waited:
            raise ValueError("found clicks known after attribution_window + allowed_lateness, expected earlier: none would count")
        return self

    @model_validator(mode="after")
    def _copies_are_looked_for_long_enough(self) -> Self:
        waited = self.label.attribution_window + self.label.allowed_lateness
        if self.limits.redelivered < waited:
            least = f"at least attribution_window + allowed_lateness, {format_duration(waited)}"
            raise ValueError(f"found limits.redelivered {format_duration(self.limits.redelivered)}, expected {least}")
        return self

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of what settles the tables: all but the prose, the limits and how the log is simulated.

        The order of columns and keys is that of the model's inputs, so it counts.
        """
        text = json.dumps(self.model_dump(mode="json", exclude={"about", "limits", "simulate"}))
        return hashlib.sha256(text.encode()).hexdigest()

    def key_of(self, columns: tuple[str | None, ...]) -> str | None:
        """The key that counts just these columns."""
        return next((key for key, counted in self.keys.items() if counted == columns), None)

    @property
    def counted_keys(self) -> dict[str, tuple[str, ...]]:
        """Every key with its columns in order, the empty key `all` first."""
        return {ALL_KEY: ()} | self.keys

    @property
    def window_hours(self) -> dict[str, int]:
        """Window name -> hours, shortest first: {"1h": 1, "1d": 24, "7d": 168}."""
        return {format_duration(w): int(w / HOUR) for w in sorted(self.windows)}

    @property
    def longest_window(self) -> str:
        return list(self.window_hours)[-1]

    @property
    def counter_columns(self) -> tuple[str, ...]:
        """The integers stored for each key: counts of every window, then last-seen times in microseconds."""
        counts = [f"{what}_{w}" for w in self.window_hours for what in ("impressions", "clicks")]
        return (*counts, *LAST_SEEN)

    @property
    def personal(self) -> frozenset[str]:
        return frozenset(name for name, column in self.columns.items() if column.personal)

    @property
    def user(self) -> str | None:
        """The column whose values' impressions belong together: the first personal id of the request, else its first id."""
        ids = [name for name, column in self.columns_of("request").items() if column.type == "id"]
        return next((name for name in ids if self.columns[name].personal), next(iter(ids), None))

    @property
    def personal_id(self) -> bool:
        """Whether the impression's id is made of a personal column, so that it is hashed too."""
        return any(self.raw_name(name) in self.impressions.id_columns for name in self.personal)

    def columns_of(self, of: Literal["request", "candidate"]) -> dict[str, Column]:
        """The columns that a request brings once, or for each candidate."""
        return {name: column for name, column in self.columns.items() if column.of == of}

    def raw_name(self, name: str) -> str:
        """A column's name in the log itself."""
        return self.columns[name].source or name
