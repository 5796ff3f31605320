"""From a log's text to canonical values, as column expressions: the batch twin of conf/canonical.py.

Every raw column arrives as text (jobs/reading.py). What cannot be read becomes null here and a reason in jobs/validation.py.
"""

from datetime import timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.contract import EventTime, KnownTime
from conf.personal import IdKey

_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DATED = r"^\d{4}-\d{2}-\d{2}"  # Spark would take a bare time of day for today's, by the machine's clock
_HAS_OFFSET = r":\d{2}[^+-]*(Z|[+-]\d{2}(:?\d{2})?)$"
ID_SEPARATOR = "\u001f"  # ASCII's unit separator: joins the parts of an id so that (1, 23) and (12, 3) stay apart


def raw(name: str) -> Column:
    """A raw column by its name in the log, whatever characters that has."""
    return F.col("`" + name.replace("`", "``") + "`")


def text(column: Column) -> Column:
    """Canonical text: as it stands, null where empty."""
    return F.when(column != "", column)


def number(column: Column) -> Column:
    """A finite double, null where the text is none."""
    value = F.trim(column).try_cast("double")
    return F.when(~F.isnan(value) & (F.abs(value) != float("inf")), value)


def time(column: Column, spec: EventTime) -> Column:
    """A timestamp, null where the text is none of the contract's reading."""
    if spec.unit is not None:
        return _since_epoch(column, spec.unit)
    if spec.format:
        local = F.try_to_timestamp(column, F.lit(spec.format))
    else:  # Parquet's nanosecond timestamps arrive as numbers of 19 digits
        dated = F.when(column.rlike(_DATED), F.try_to_timestamp(column))
        local = F.coalesce(dated, F.when(column.rlike(r"^\d{19}$"), _since_epoch(column, "ns")))
    if spec.zone == "UTC":
        return local
    offset = F.lit(_format_has_offset(spec.format)) if spec.format else column.rlike(_HAS_OFFSET)
    return F.when(offset, local).otherwise(F.to_utc_timestamp(local, spec.zone))


def _since_epoch(column: Column, unit: str) -> Column:
    # a number may be a decimal whose microseconds are none: one such row must not end the job
    rounded = F.floor(F.try_multiply(F.trim(column).try_cast("decimal(38,9)"), F.lit(1_000_000)) / _A_SECOND[unit] + 0.5)
    micros = rounded.try_cast("bigint")
    if 1_000_000 % _A_SECOND[unit] == 0:  # whole numbers, the rule, need no decimals
        micros = F.coalesce(F.try_multiply(F.trim(column).try_cast("bigint"), F.lit(1_000_000 // _A_SECOND[unit])), micros)
    return F.timestamp_micros(micros)


def _format_has_offset(pattern: str) -> bool:
    unquoted = "".join(pattern.split("'")[::2])
    return any(letter in unquoted for letter in "VzOXxZ")


def known(event: Column, spec: KnownTime) -> Column:
    """When a row became known: its own column, or so long after `event`. Never before the event, whatever the clocks said."""
    if spec.time is not None:
        arrived = time(raw(spec.time.column), spec.time)
        return F.when(arrived.isNotNull(), F.greatest(arrived, event))
    return later(event, spec.after or timedelta(0))


def later(moment: Column, by: timedelta) -> Column:
    """`moment` + `by`."""
    return moment + F.make_dt_interval(secs=F.lit(by.total_seconds()))


def joined_id(parts: list[Column]) -> Column:
    """One text from an id's parts, null where any part is missing."""
    canonical = [text(part) for part in parts]
    complete = canonical[0].isNotNull()
    for part in canonical[1:]:
        complete = complete & part.isNotNull()
    return F.when(complete, F.concat_ws(ID_SEPARATOR, *canonical))


def hashed(column: Column, key: IdKey) -> Column:
    """HMAC-SHA256 of text as 64 hex digits, equal to `IdKey.digest`; null stays null."""
    inner, outer = (F.lit(bytearray(pad)) for pad in key.pads)
    digest = F.unhex(F.sha2(F.concat(inner, F.encode(column, "UTF-8")), 256))
    return F.sha2(F.concat(outer, digest), 256)
