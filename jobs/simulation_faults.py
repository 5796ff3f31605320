"""A fault run's events and deliveries: clicks of every fate by two clocks, each row delivered several times over shuffled files.

Times are brought to the log's own grain before any fate is told, so that what the books say is what a reader of the files sees.
Every fate is told from the drawn times by the rule itself, never from what a draw was meant to bring about.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract, EventTime, Files
from conf.errors import DataError
from jobs.simulation import (
    DELAYS_A_WINDOW,
    KNOWN_DELAY_US,
    LATE_MARGIN_US,
    REDELIVERY_DELAY_US,
    Faults,
    Plan,
    Transform,
    exponential_us,
    hash_of,
    microseconds,
    uniform,
)
from jobs.simulation_bad_rows import bad_rows
from jobs.simulation_rows import GOOD, HEADER, UNIT_US, header_first, header_text, log_fields, logs, row_text

FATES = ("counted", "repeated", "before", "after", "late", "orphan")
BEFORE, REPEATS, ORPHANS = 0.02, 0.08, 0.02  # shares of clicks: before the impression, clicked again, on no impression at all
AGAIN_US = 1_000_000  # a second click comes so much later at least: two clicks of one time are one
AGAIN_MEAN_US = 4_000_000  # of the order of the way to us: the later click is often known first
MIN_FILES = 12
_COPIES = 3


def check_faults(contract: Contract, faults: Faults) -> None:
    """Raises DataError where a fault run of this contract's log could not keep exact books."""
    found = []
    clicks = contract.clicks
    if clicks.log is None or clicks.known_time.column is None:
        found.append("clicks: expected a log of their own with a known_time.column")
    times = {
        "impressions.event_time": contract.impressions.event_time, "impressions.known_time": contract.impressions.known_time.time,
        "clicks.event_time": clicks.event_time, "clicks.known_time": clicks.known_time.time,
    }  # fmt: skip
    for name, spec in times.items():
        if spec is not None and (spec.format or spec.zone != "UTC" or spec.unit not in (None, *UNIT_US)):
            found.append(f"{name}: expected a unit ({', '.join(UNIT_US)}), or ISO 8601 in UTC")
    if contract.label.complete_through is not None:
        found.append("label.complete_through: expected none")
    if not 1 <= faults.copies <= _COPIES:
        found.append(f"--copies: found {faults.copies}, expected 1 to {_COPIES}")
    if found:
        raise DataError("\n".join(f"contract {contract.name}: {fault}, to simulate faults" for fault in found))


def with_fault_clicks(contract: Contract, plan: Plan, faults: Faults, *, base: float) -> Transform:
    """Cut `event_us` and `known_us` to the log's grain; add `clicks`, structs of (n, of, click_us, known_us, fate), none or more.

    n numbers an impression's clicks; `of` is the number in the id that the click names. Also `counted_us`, from when on the
    impression's click counts, null where none does.
    """
    label, spec = contract.label, contract.impressions.known_time
    window, lateness = microseconds(label.attribution_window), microseconds(label.allowed_lateness)
    skew = microseconds(label.skew)

    def transform(events: DataFrame) -> DataFrame:
        events = events.withColumn("event_us", _in_grain(F.col("event_us"), contract.impressions.event_time))
        after = microseconds(spec.after) if spec.after is not None else 0
        event = F.col("event_us")
        known = event + F.lit(after) if spec.time is None else _known(F.col("known_us"), spec.time, event=event)
        events = events.withColumn("known_us", known)
        events = events.transform(_with_drawn_clicks(contract, plan, faults, base))

        own = F.filter("drawn", lambda c: c["of"] == F.col("id"))

        def fate(click: Column) -> Column:
            told = F.when(click["click_us"] < event - F.lit(skew), "before")
            told = told.when(click["click_us"] > event + F.lit(window), "after")
            return told.when(click["known_us"] > event + F.lit(window + lateness), "late")

        good = F.transform(F.filter(own, lambda c: fate(c).isNull()), lambda c: F.struct(c["known_us"], c["click_us"]))
        events = events.withColumn("first", F.array_min(good))  # null where there is none

        def told(click: Column) -> Column:
            first = (click["known_us"] == F.col("first.known_us")) & (click["click_us"] == F.col("first.click_us"))
            whose = F.when(click["of"] != F.col("id"), "orphan").otherwise(
                F.coalesce(fate(click), F.when(first, "counted"), F.lit("repeated"))
            )
            return F.struct(click["n"].alias("n"), click["of"].alias("of"), click["click_us"].alias("click_us"),
                            click["known_us"].alias("known_us"), whose.alias("fate"))  # fmt: skip

        counted = F.greatest(F.col("first.known_us"), F.when(F.col("first").isNotNull(), F.col("known_us")))
        events = events.withColumn("clicks", F.transform("drawn", told)).withColumn("counted_us", counted)
        return events.drop("drawn", "first", "log_odds")

    return transform


def _with_drawn_clicks(contract: Contract, plan: Plan, faults: Faults, base: float) -> Transform:
    label, number = contract.label, F.col("id")
    window, lateness = microseconds(label.attribution_window), microseconds(label.allowed_lateness)
    offset_us = faults.skew * 60_000_000
    at, known_at = contract.clicks.event_time, contract.clicks.known_time.time
    assert at is not None and known_at is not None, "check_faults holds it"  # noqa: S101, PT018

    def transform(events: DataFrame) -> DataFrame:
        event = F.col("event_us")
        has_clicked = uniform(plan, "click", number) < F.lit(1.0) / (F.lit(1.0) + F.exp(-(F.col("log_odds") + F.lit(base))))
        meant, shares, meanings = uniform(plan, "meant", number), 0.0, {}
        for name, share in (("after", plan.late), ("late", faults.known_late), ("before", BEFORE)):
            meanings[name] = (meant >= F.lit(shares)) & (meant < F.lit(shares + share))
            shares += share
        delay = exponential_us(plan, "click delay", number, mean_us=window / DELAYS_A_WINDOW)
        too_late = F.lit(window + offset_us + LATE_MARGIN_US)
        too_early = F.lit(-microseconds(label.skew) - offset_us - LATE_MARGIN_US) - delay - delay
        happened = event + delay + F.when(meanings["after"], too_late).when(meanings["before"], too_early).otherwise(F.lit(0))
        offset = (F.lit(2.0 * offset_us) * uniform(plan, "clock", number) - F.lit(float(offset_us))).cast("long")
        arrived = F.when(meanings["late"], event + F.lit(window + lateness + LATE_MARGIN_US)).otherwise(happened)

        def click(n: int, of: Column, later: Column, arrived: Column) -> Column:
            way = exponential_us(plan, f"click {n} known", number, mean_us=KNOWN_DELAY_US)
            clicked = _in_grain(happened + offset + later, at)
            known = _known(arrived + way, known_at, event=clicked)
            return F.struct(F.lit(n).alias("n"), of.alias("of"), clicked.alias("click_us"), known.alias("known_us"))

        pause = F.lit(AGAIN_US) + exponential_us(plan, "second click", number, mean_us=AGAIN_MEAN_US)
        again = uniform(plan, "clicks again", number) < F.lit(REPEATS)
        orphan = uniform(plan, "orphan", number) < F.lit(ORPHANS)
        drawn = F.array(
            F.when(has_clicked, click(0, number, F.lit(0), arrived)),
            F.when(has_clicked & again, click(1, number, pause, happened + pause)),
            F.when(has_clicked & orphan, click(2, number + F.lit(plan.impressions), F.lit(0), arrived)),
        )
        return events.withColumn("drawn", F.array_compact(drawn))

    return transform


def clicks_of(events: DataFrame) -> DataFrame:
    """One row for each click: id, that of the impression it names, n, click_us, click_known_us, fate."""
    one = events.select(F.explode("clicks").alias("click"))
    names = {"of": "id", "n": "n", "click_us": "click_us", "known_us": "click_known_us", "fate": "fate"}
    return one.select(*[F.col(f"click.{name}").alias(alias) for name, alias in names.items()])


def with_deliveries(contract: Contract, plan: Plan, faults: Faults, log: str) -> Transform:
    """Add how often a row is delivered (`copies`), whether once more and later (`again`), and which bad row goes with it.

    `bad` numbers the contract's bad rows from 1, in rotation by hash; 0 is none.
    """
    kinds = len(bad_rows(contract, log, logs(contract)[log]))

    def transform(rows: DataFrame) -> DataFrame:
        by = _by(log)
        copies = F.floor(uniform(plan, f"{log} copies", *by) * F.lit(faults.copies)).cast("int") + F.lit(1)
        spoiled = uniform(plan, f"{log} bad", *by) < F.lit(plan.corrupt)
        kind = F.floor(uniform(plan, f"{log} bad how", *by) * F.lit(kinds)).cast("int") + F.lit(1)
        again = uniform(plan, f"{log} again", *by) < F.lit(plan.duplicates)
        return (
            rows.withColumn("copies", copies)
            .withColumn("again", again)
            .withColumn("bad", F.when(spoiled, kind).otherwise(F.lit(0)))
        )

    return transform


def delivered_lines(contract: Contract, plan: Plan, log: str, *, files: int) -> Transform:
    """The lines (`value`) of a log's deliveries, shuffled over `files` partitions; no two copies of a row in one.

    A copy says just what the first said: whichever of them is taken, the tables are the same.
    """
    by = _by(log)

    def transform(rows: DataFrame) -> DataFrame:
        good = F.transform(F.sequence(F.lit(1), F.col("copies")), lambda n: F.struct(F.lit(GOOD).alias("kind"), n.alias("n")))
        bad = F.array(F.struct(F.col("bad").alias("kind"), F.lit(0).alias("n")))
        deliveries = F.when(F.col("bad") > F.lit(0), F.concat(bad, good)).otherwise(good)
        rows = rows.withColumn("delivery", F.explode(deliveries))
        stride = F.lit(1) + F.pmod(hash_of(plan, f"{log} stride", *by), F.lit((files - 1) // _COPIES))
        file = F.pmod(F.pmod(hash_of(plan, f"{log} file", *by), F.lit(files)) + F.col("delivery.n") * stride, F.lit(files))
        turn = hash_of(plan, f"{log} turn", *by, F.col("delivery.n"))
        rows = rows.withColumn("file", file.cast("int")).withColumn("turn", turn)
        rows = rows.repartitionById(files, F.col("file")).sortWithinPartitions("turn", *by)
        return rows.transform(_written(contract, log, F.array(F.col("delivery.kind"))))

    return transform


def second_lines(contract: Contract, plan: Plan, log: str) -> Transform:
    """The lines of a log's rows that were sent once more and became known then, later than the first time."""
    known = "known_us" if log == "impressions" else "click_known_us"
    spec = contract.impressions.known_time.time if log == "impressions" else contract.clicks.known_time.time

    def transform(rows: DataFrame) -> DataFrame:
        later = exponential_us(plan, f"{log} redelivery", *_by(log), mean_us=REDELIVERY_DELAY_US)
        later_known = F.col(known) if spec is None else _known(F.col(known) + later, spec, event=F.col(known))
        rows = rows.where("again").withColumn(known, later_known)
        return rows.transform(_written(contract, log, F.array(F.lit(GOOD))))

    return transform


def good_lines(contract: Contract, log: str) -> Transform:
    """The lines of rows just as they were delivered first, in one partition."""

    def transform(rows: DataFrame) -> DataFrame:
        one = rows.repartition(1).sortWithinPartitions(*_by(log))
        return one.transform(_written(contract, log, F.array(F.lit(GOOD))))

    return transform


def _written(contract: Contract, log: str, kinds: Column) -> Transform:
    files: Files = logs(contract)[log]

    def transform(rows: DataFrame) -> DataFrame:
        rows = rows.withColumn("kinds", header_first(files, kinds)).withColumn("kind", F.explode("kinds"))
        fields = log_fields(contract, log)
        line = F.when(F.col("kind") == F.lit(HEADER), F.lit(header_text(fields, files)))
        line = line.when(F.col("kind") == F.lit(GOOD), row_text(fields, files))
        for number, bad in enumerate(bad_rows(contract, log, files), start=GOOD + 1):
            line = line.when(F.col("kind") == F.lit(number), bad.text)
        return rows.select(line.alias("value"))

    return transform


def _by(log: str) -> tuple[Column, ...]:
    """What tells a log's rows apart."""
    return (F.col("id"),) if log == "impressions" else (F.col("id"), F.col("n"))


def _in_grain(us: Column, spec: EventTime) -> Column:
    """Microseconds cut off to what the column can say."""
    grain = _grain(spec)
    return us - F.pmod(us, F.lit(grain)) if grain > 1 else us


def _known(us: Column, spec: EventTime, *, event: Column) -> Column:
    """Microseconds rounded up to what the column can say, and never before the event, whose clock may be ahead."""
    at, grain = F.greatest(us, event), _grain(spec)
    return at + F.pmod(-at, F.lit(grain)) if grain > 1 else at


def _grain(spec: EventTime) -> int:
    return UNIT_US[spec.unit] if spec.unit is not None else 1
