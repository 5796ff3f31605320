"""From raw rows to events: canonical values, hashed ids, a reason where a row is refused. Pure transforms of one log."""

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.contract import Contract, KnownTime
from conf.personal import IdKey
from jobs.parsing import ID_SEPARATOR, hashed, joined_id, known, number, raw, text, time
from jobs.reading import ARRIVED, CORRUPT, FILE, LINE, OWN, POSITION
from jobs.validation import column_reasons, first_reason, malformed, refuse_when, time_reasons

REASON = "__reason"  # names with __ cannot be a contract's
POSITION_OF_ROW = "__row_position"
ARRIVED_AT = "__arrived_at"
SAID = "__said"
CLICK_TIMESTAMP = "click_timestamp"
CLICK_KNOWN = "__click_known"
IMPRESSION_COLUMNS = ("impression_id", "event_timestamp", "known_timestamp")
CLICK_COLUMNS = ("impression_id", CLICK_TIMESTAMP, "known_timestamp")

Transform = Callable[[DataFrame], DataFrame]


def needed_for_impressions(contract: Contract) -> list[str]:
    """Raw columns that the contract names for the impressions' log."""
    log, clicks = contract.impressions, contract.clicks
    times = [log.event_time.column, log.known_time.column]
    if clicks.flag is not None:
        times += [clicks.flag, clicks.event_time.column if clicks.event_time else None, clicks.known_time.column]
    columns = [contract.raw_name(name) for name in contract.columns]
    return list(dict.fromkeys([*log.id_columns, *(name for name in times if name), *columns]))


def needed_for_clicks(contract: Contract) -> list[str]:
    """Raw columns that the contract names for a click log of its own."""
    clicks = contract.clicks
    times = [clicks.event_time.column if clicks.event_time else None, clicks.known_time.column]
    return list(dict.fromkeys([*clicks.id_columns, *(name for name in times if name)]))


def impression_events(contract: Contract, key: IdKey) -> Transform:
    """Raw impression rows -> id, times, the contract's columns, in-line click times, `reason` (null where accepted), origin."""
    log, clicks = contract.impressions, contract.clicks

    def transform(rows: DataFrame) -> DataFrame:
        if log.id_columns:
            impression_id, no_id = _impression_id(log.id_columns, contract, key), "impression id: missing"
        else:
            rows, impression_id = _with_content(rows, contract), hashed(F.col("__content"), key)
            no_id = "impression id: no content"
        # columns of their own: as expressions they would be computed for every use again
        rows, event = _computed(rows, "event", time(raw(log.event_time.column), log.event_time))
        rows, known_at = _computed(rows, "known", known(event, log.known_time))
        rows, impression_id = _computed(rows, "id", impression_id)
        reasons = [
            malformed(),
            refuse_when(impression_id.isNull(), no_id),
            *time_reasons(event, f"event time ({log.event_time.column})", contract),
            *_known_reasons(known_at, log.known_time, contract),
            *column_reasons(contract),
        ]
        click, click_known = F.lit(None).cast("timestamp"), F.lit(None).cast("timestamp")
        if clicks.flag is not None:
            flag = _flag(raw(clicks.flag))
            at = time(raw(clicks.event_time.column), clicks.event_time) if clicks.event_time else event
            reasons.append(refuse_when(flag.isNull(), f"click flag ({clicks.flag}): not 0 or 1"))
            click_known_at = known(at, clicks.known_time)
            found = time_reasons(at, "click time where the flag is 1", contract) if clicks.event_time else []
            found += _known_reasons(click_known_at, clicks.known_time, contract)
            reasons += [F.when(flag == 1, reason) for reason in found]
            click = F.when(flag == 1, at)
            # the row itself arrived no earlier than its own known time
            click_known = F.when(flag == 1, F.greatest(click_known_at, known_at))
        rows, reason = _computed(rows, "reason", first_reason(reasons))
        return rows.select(
            impression_id.alias("impression_id"),
            event.alias("event_timestamp"),
            known_at.alias("known_timestamp"),
            *[_value(contract, name, key) for name in contract.columns],
            click.alias(CLICK_TIMESTAMP),
            click_known.alias(CLICK_KNOWN),
            reason.alias(REASON),
            *_origin(reason, needed_for_impressions(contract), {contract.raw_name(name) for name in contract.personal}, key),
        )

    return transform


def click_events(contract: Contract, key: IdKey) -> Transform:
    """Rows of a click log -> impression id, click time, known time, `reason`, origin."""
    clicks = contract.clicks
    spec = clicks.event_time
    assert spec is not None, "a click log has an event time: the contract's validation holds it"  # noqa: S101

    def transform(rows: DataFrame) -> DataFrame:
        rows, at = _computed(rows, "event", time(raw(spec.column), spec))
        rows, known_at = _computed(rows, "known", known(at, clicks.known_time))
        rows, impression_id = _computed(rows, "id", _impression_id(clicks.id_columns, contract, key))
        reasons = [
            malformed(),
            refuse_when(impression_id.isNull(), "impression id: missing"),
            *time_reasons(at, f"click time ({spec.column})", contract),
            *_known_reasons(known_at, clicks.known_time, contract),
        ]
        rows, reason = _computed(rows, "reason", first_reason(reasons))
        return rows.select(
            impression_id.alias("impression_id"),
            at.alias(CLICK_TIMESTAMP),
            known_at.alias("known_timestamp"),
            reason.alias(REASON),
            *_origin(reason, needed_for_clicks(contract), set(clicks.id_columns) if contract.personal_id else set(), key),
        )

    return transform


def inline_clicks(impressions: DataFrame) -> DataFrame:
    """The clicks that accepted impression rows carry, redelivered ones included: a flag that turned to 1 is a click."""
    clicked = impressions.where(F.col(CLICK_TIMESTAMP).isNotNull())
    return clicked.select("impression_id", CLICK_TIMESTAMP, F.col(CLICK_KNOWN).alias("known_timestamp"), "source_file")


def first_of_each(*identity: str) -> Transform:
    """Keep one row of each identity: the first known, ties by what the row says, so that any order of files ends the same."""

    def transform(events: DataFrame) -> DataFrame:
        rest = [name for name in events.columns if name not in {*identity, "known_timestamp"}]
        order = Window.partitionBy(*identity).orderBy("known_timestamp", *rest)
        return events.withColumn("__rank", F.row_number().over(order)).where("__rank = 1").drop("__rank")

    return transform


def _value(contract: Contract, name: str, key: IdKey) -> Column:
    column, source = contract.columns[name], raw(contract.raw_name(name))
    if column.type == "number":
        return number(source).alias(name)
    return (hashed(text(source), key) if column.personal else text(source)).alias(name)


def _flag(column: Column) -> Column:
    """0 or 1, null for anything else."""
    value = number(column)
    return (
        F.when(F.lower(F.trim(column)) == "true", 1)
        .when(F.lower(F.trim(column)) == "false", 0)
        .when(value.isin(0.0, 1.0), value.cast("int"))
    )


def _with_content(rows: DataFrame, contract: Contract) -> DataFrame:
    """The whole row and its number among the file's equal rows: what names an impression of a log without ids."""
    columns = [LINE] if LINE in rows.columns else [name for name in rows.columns if name not in OWN]
    content = F.concat_ws(ID_SEPARATOR, *[F.coalesce(raw(name), F.lit("")) for name in columns])
    ranked = rows.withColumn("__row", content)
    number_among_equals = F.row_number().over(Window.partitionBy(FILE, "__row").orderBy("__row"))
    return ranked.withColumn("__content", F.concat_ws(ID_SEPARATOR, "__row", number_among_equals)).drop("__row")


def _impression_id(columns: tuple[str, ...], contract: Contract, key: IdKey) -> Column:
    """The impression's id in either log; hashed where one of its parts is personal."""
    joined = joined_id([raw(name) for name in columns])
    return hashed(joined, key) if contract.personal_id else joined


def _known_reasons(known_at: Column, spec: KnownTime, contract: Contract) -> list[Column]:
    """Of a known time of the log's own. One that is declared, so long after the event, may well lie ahead."""
    return time_reasons(known_at, f"known time ({spec.column})", contract) if spec.column else []


def _computed(rows: DataFrame, what: str, value: Column) -> tuple[DataFrame, Column]:
    """Rows with one more column, and that column."""
    name = f"__{what}"
    return rows.withColumn(name, value), F.col(name)


def _origin(reason: Column, names: list[str], personal: set[str], key: IdKey) -> list[Column]:
    """Where a row came from and, of a refused one, what it said, personal columns hashed: all that quarantine keeps.

    A row that cannot be split says nothing: an id may stand under any name.
    """
    said = [item for name in names for item in (F.lit(name), hashed(raw(name), key) if name in personal else raw(name))]
    return [
        F.col(FILE).alias("source_file"),
        F.col(POSITION).alias(POSITION_OF_ROW),
        F.col(ARRIVED).alias(ARRIVED_AT),
        F.when(reason.isNotNull() & raw(CORRUPT).isNull(), F.create_map(*said)).alias(SAID),
    ]
