"""A simulated log as the contract's files have it: lines of text, second deliveries, and rows that nobody should accept."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract, EventTime, Files
from conf.errors import DataError
from jobs.simulation import REDELIVERY_DELAY_US, Plan, Transform, exponential_us, lowest, simulated, uniform

UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
_ISO = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"
WRONG_TIME = "not a time"
HEADER, GOOD = -1, 0  # kinds of lines; the bad ones are counted from 1
_ROW_IN_PARTITION = (1 << 33) - 1  # the low bits of monotonically_increasing_id


def check_simulatable(contract: Contract, plan: Plan) -> None:
    """Raises DataError where this job cannot write such a log, or not with these shares."""
    faults = []
    impressions, clicks = contract.impressions, contract.clicks
    if not contract.simulate:
        faults.append("it has no section simulate, expected one that says how columns are drawn")
    if len(impressions.id_columns) != 1:
        faults.append(f"impressions.id: found {impressions.id}, expected one column: the truth is known by the impression's id")
    if clicks.log is not None and len(clicks.id_columns) != 1:
        faults.append(f"clicks.impression_id: found {clicks.impression_id}, expected one column")
    if parquet := [name for name, files in logs(contract).items() if files.format == "parquet"]:
        faults.append(f"{', '.join(parquet)}: found format parquet, expected json or csv: a simulated log has lines that are cut")
    if clicks.flag is not None and clicks.event_time is None and plan.late:
        faults.append("clicks.flag: found no click time, so no click can be late, expected --late 0")
    if clicks.known_time.after is not None and clicks.known_time.after > contract.label.allowed_lateness:
        faults.append("clicks.known_time.after: found more than label.allowed_lateness, expected less, or every click is late")
    if (names := _raw_names(contract)) and len(set(names)) < len(names):
        faults.append(f"two of {', '.join(names)} are one column of the log, expected each to be its own")
    for name, column in contract.columns.items():
        drawn = simulated(contract, name)
        if drawn.missing and not column.optional:
            faults.append(f"simulate.{name}.missing: found {drawn.missing:g}, expected 0: columns.{name} refuses missing values")
        if column.max is not None and lowest(column, drawn) + drawn.values - 1 > column.max:
            faults.append(f"simulate.{name}.values: found {drawn.values}, expected no more than fit below columns.{name}.max")
    if faults:
        raise DataError("\n".join(f"contract {contract.name}: {fault}" for fault in faults))


def logs(contract: Contract) -> dict[str, Files]:
    """The logs to write: impressions, and clicks where they have a log of their own."""
    own = contract.clicks.log
    return {"impressions": contract.impressions} | ({} if own is None else {"clicks": own})


def with_faults(plan: Plan) -> Transform:
    """Add which rows are delivered twice (`again`, `click_again`) and which get a bad row beside them (`bad`, `click_bad`)."""

    def transform(events: DataFrame) -> DataFrame:
        has_click = F.col("click_us").isNotNull()
        for name, share, among in (
            ("again", plan.duplicates, F.lit(True)),
            ("bad", plan.corrupt, F.lit(True)),
            ("click_again", plan.duplicates, has_click),
            ("click_bad", plan.corrupt, has_click),
        ):
            events = events.withColumn(name, among & (uniform(plan, name, F.col("id")) < F.lit(share)))
        return events

    return transform


def lines(contract: Contract, plan: Plan, log: str, *, again: bool) -> Transform:
    """The lines (`value`) of one log's first or second deliveries; bad rows stand among the first.

    A second delivery goes to a file of its own: in a log without ids two equal rows of one file are two events.
    """
    files = logs(contract)[log]
    prefix = "" if log == "impressions" else "click_"

    def transform(events: DataFrame) -> DataFrame:
        if log == "clicks":
            events = events.where(F.col("click_us").isNotNull())
        if again:
            events = events.where(F.col(f"{prefix}again"))
            known = F.col(f"{prefix}known_us")
            delay = exponential_us(plan, f"{prefix}redelivery", F.col("id"), mean_us=REDELIVERY_DELAY_US)
            events = events.withColumn(f"{prefix}known_us", known + delay)
        # which lines come of an event is settled first: the lines themselves are written once each, not once for every filter
        kinds = F.array(F.lit(GOOD))
        if not again:
            how = uniform(plan, f"{prefix}bad how", F.col("id"))
            kind = F.floor(how * F.lit(len(_bad_kinds(contract, log)))).cast("int") + F.lit(GOOD + 1)
            kinds = F.when(F.col(f"{prefix}bad"), F.array(F.lit(GOOD), kind)).otherwise(kinds)
        events = events.withColumn("kinds", header_first(files, kinds))
        return events.withColumn("kind", F.explode("kinds")).select(_line(contract, log, files).alias("value"))

    return transform


def has_header(files: Files) -> bool:
    """Whether each file begins with its columns' names."""
    return files.format == "csv" and files.options.get("header", True) in (True, "true")


def header_first(files: Files, kinds: Column) -> Column:
    """An array of kinds, the header before those of a partition's first row where the format has one."""
    if not has_header(files):
        return kinds
    first = F.monotonically_increasing_id().bitwiseAND(F.lit(_ROW_IN_PARTITION)) == F.lit(0)
    return F.when(first, F.concat(F.array(F.lit(HEADER)), kinds)).otherwise(kinds)


def id_text(column: str, number: Column) -> Column:
    """`u17` for the 17th value of user_id: the column's first letter and a number."""
    return F.concat(F.lit(column[0].lower()), number.cast("string"))


def impression_id(contract: Contract) -> Column:
    """The impression's id as the log has it."""
    return id_text(contract.impressions.id_columns[0], F.col("id"))


def log_fields(contract: Contract, log: str) -> dict[str, Column]:
    """Column of the file -> its value, in the file's order."""
    if log == "clicks":
        return {contract.clicks.id_columns[0]: impression_id(contract)} | _click_times(contract)
    spec = contract.impressions
    fields = {spec.id_columns[0]: impression_id(contract)}
    for name in contract.columns:
        fields[contract.raw_name(name)] = column_value(contract, name)
    fields[spec.event_time.column] = time_text(F.col("event_us"), spec.event_time)
    if spec.known_time.time is not None:
        fields[spec.known_time.time.column] = time_text(F.col("known_us"), spec.known_time.time)
    if contract.clicks.flag is not None:
        fields[contract.clicks.flag] = F.col("click_us").isNotNull().cast("int")
        fields |= _click_times(contract)
    return fields


def _click_times(contract: Contract) -> dict[str, Column]:
    specs = {"click_us": contract.clicks.event_time, "click_known_us": contract.clicks.known_time.time}
    return {spec.column: time_text(F.col(name), spec) for name, spec in specs.items() if spec is not None}


def column_value(contract: Contract, name: str) -> Column:
    """What the log says for the rank drawn, null where it is missing."""
    column, rank = contract.columns[name], F.col(f"rank_{name}")
    if column.type == "number":
        low = lowest(column, simulated(contract, name))
        value = rank - F.lit(1) + F.lit(int(low) if low == int(low) else low)
    else:
        value = id_text(contract.raw_name(name), rank)
    return F.when(rank > F.lit(0), value)


def time_text(us: Column, spec: EventTime) -> Column:
    """As the contract reads it; below the reading's grain the time is cut off."""
    if spec.unit is not None:
        return F.floor(us / F.lit(UNIT_US[spec.unit])).cast("long") if spec.unit != "us" else us
    at = F.timestamp_micros(us)
    return F.date_format(at if spec.zone == "UTC" else F.from_utc_timestamp(at, spec.zone), spec.format or _ISO)


def row_text(fields: Mapping[str, Column], files: Files) -> Column:
    """A whole row as the format has it."""
    row = F.struct(*(value.alias(name) for name, value in fields.items()))
    options = {name: str(value) for name, value in files.options.items()}
    return F.to_json(row, options) if files.format == "json" else F.to_csv(row, options)


def separator(files: Files) -> str:
    return str(files.options.get("sep", files.options.get("delimiter", ",")))


def header_text(fields: Mapping[str, Column], files: Files) -> str:
    return separator(files).join(fields)


def _line(contract: Contract, log: str, files: Files) -> Column:
    """The text of the column `kind`."""
    fields = log_fields(contract, log)
    line = F.when(F.col("kind") == F.lit(HEADER), F.lit(header_text(fields, files)))
    line = line.when(F.col("kind") == F.lit(GOOD), row_text(fields, files))
    for number, changed in enumerate(_bad_kinds(contract, log), start=GOOD + 1):
        text = row_text({**fields, **changed}, files) if changed else cut_row(fields, files)
        line = line.when(F.col("kind") == F.lit(number), text)
    return line


def _bad_kinds(contract: Contract, log: str) -> list[dict[str, Column]]:
    """What is wrong with each kind of bad row: cut in two (nothing changed), a time that is none, a number beyond its bounds."""
    spec = contract.impressions.event_time if log == "impressions" else contract.clicks.event_time
    wrong_time = [] if spec is None else [{spec.column: F.lit(WRONG_TIME)}]
    beyond = _out_of_range(contract) if log == "impressions" else {}
    return [{}, *wrong_time, *([beyond] if beyond else [])]


def cut_row(fields: Mapping[str, Column], files: Files) -> Column:
    """The text's first half, or its first column where halves may be whole rows."""
    whole = row_text(fields, files)
    if files.format == "csv":
        return F.substring_index(whole, separator(files), 1)
    return whole.substr(F.lit(1), F.floor(F.length(whole) / F.lit(2)).cast("int"))


def _out_of_range(contract: Contract) -> dict[str, Column]:
    for name, column in contract.columns.items():
        if column.max is not None:
            return {contract.raw_name(name): F.lit(column.max + 1)}
        if column.min is not None:
            return {contract.raw_name(name): F.lit(column.min - 1)}
    return {}


def _raw_names(contract: Contract) -> list[str]:
    """The columns of the impressions file, in which no name may stand twice."""
    times = [contract.impressions.event_time, contract.impressions.known_time.time]
    flag = [contract.clicks.flag] if contract.clicks.flag else []
    if flag:
        times += [contract.clicks.event_time, contract.clicks.known_time.time]
    columns = [contract.raw_name(name) for name in contract.columns]
    return [*contract.impressions.id_columns, *columns, *(time.column for time in times if time is not None), *flag]
