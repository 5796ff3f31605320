"""Ten kinds of rows that nobody should accept, in each log and format, and what each must be refused for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.contract import Contract, EventTime, Files
from jobs.simulation_rows import WRONG_TIME, cut_row, log_fields, row_text, separator, time_text

NO_ROW = "malformed row"
_MARK = "~~"  # stands where bytes go that no text function would write
_HUGE_TIME = "1" + "0" * 28  # has room in 38 digits, its microseconds have not
_HUGE = 1e300


@dataclass(frozen=True)
class BadRow:
    """What is wrong, the text that is written, and a reason for each row that a reader sees in it."""

    what: str
    text: Column
    reasons: tuple[str, ...]


def bad_rows(contract: Contract, log: str, files: Files) -> list[BadRow]:
    """The kinds of one log. The text is of the columns that `log_fields` reads."""
    fields = log_fields(contract, log)
    ids, spec, at, us = _parts(contract, log)
    unreadable = (f"{at} time ({spec.column}): unreadable",)

    def text(changed: Mapping[str, Column]) -> Column:
        return row_text({**fields, **changed}, files)

    def with_bytes(name: str, written: str) -> Column:
        """A row in the middle of whose column `name` stand bytes, given as hex."""
        value = F.coalesce(fields[name].cast("string"), F.lit("x"))  # a missing value has no middle
        halves = F.concat(F.left(value, F.lit(1)), F.lit(_MARK), value)
        return F.replace(text({name: halves}), F.lit(_MARK), F.unhex(F.lit(written)).cast("string"))

    return [
        BadRow("cut in two", cut_row(fields, files), (NO_ROW,)),
        BadRow("a byte of Latin-1", with_bytes(ids, "E9"), (NO_ROW,)),
        BadRow("a NUL", with_bytes(ids, "00"), (NO_ROW,)),
        # in the second of three columns or more neither half is whole
        BadRow("a line break within a value", with_bytes(list(fields)[1], "0A"), (NO_ROW, NO_ROW)),
        _miscounted(text({}), files),
        BadRow("no id", text({ids: F.lit(None).cast("string")}), ("impression id: missing",)),
        BadRow("a time that is NaN", text({spec.column: F.lit(float("nan"))}), unreadable),
        BadRow("a huge time", text({spec.column: F.lit(_HUGE_TIME).cast("decimal(38,0)")}), unreadable),
        BadRow("a time in a wrong unit", text({spec.column: _in_wrong_unit(us, spec)}),
               (f"{at} time ({spec.column}): not in 2000 to 2099, wrong unit?",)),
        _tenth(contract, log, text),
    ]  # fmt: skip


def reasons(contract: Contract, log: str, files: Files, counted: Mapping[int, int]) -> dict[str, int]:
    """Reason -> rows refused for it, from how often each kind was written; kinds are numbered from 1."""
    found: dict[str, int] = {}
    for number, bad in enumerate(bad_rows(contract, log, files), start=1):
        for reason in bad.reasons:
            found[reason] = found.get(reason, 0) + counted.get(number, 0)
    return {reason: count for reason, count in sorted(found.items()) if count}


def _parts(contract: Contract, log: str) -> tuple[str, EventTime, str, Column]:
    """The log's id column, its event time, what a reason calls that, and its microseconds."""
    if log == "impressions":
        return contract.impressions.id_columns[0], contract.impressions.event_time, "event", F.col("event_us")
    assert contract.clicks.event_time is not None, "a click log has an event time"  # noqa: S101
    return contract.clicks.id_columns[0], contract.clicks.event_time, "click", F.col("click_us")


def _in_wrong_unit(us: Column, spec: EventTime) -> Column:
    """A time of the year 57,987 or so, which is more than Python has, or in text one of 1970."""
    wrong = us * F.lit(1000) if spec.unit is not None else F.floor(us / F.lit(1000)).cast("long")
    return time_text(wrong, spec)


def _miscounted(whole: Column, files: Files) -> BadRow:
    if files.format == "csv":
        return BadRow("a field too many", F.concat(whole, F.lit(separator(files) + "x")), (NO_ROW,))
    return BadRow("two rows in a line", F.concat(whole, whole), (NO_ROW,))


def _tenth(contract: Contract, log: str, text: Callable[[Mapping[str, Column]], Column]) -> BadRow:
    """A number beyond its bounds, or where none has any, words for the time when the row became known, or for its own time."""
    if log == "impressions":
        for name, column in contract.columns.items():
            if column.max is not None:
                huge = {contract.raw_name(name): F.lit(_HUGE)}
                return BadRow("a huge number", text(huge), (f"{name}: above {column.max:g}",))
            if column.min is not None:
                huge = {contract.raw_name(name): F.lit(-_HUGE)}
                return BadRow("a huge number", text(huge), (f"{name}: below {column.min:g}",))
    _, spec, at, _ = _parts(contract, log)
    known = contract.impressions.known_time.time if log == "impressions" else contract.clicks.known_time.time
    column_name, what = (spec.column, at) if known is None else (known.column, "known")
    return BadRow("words for a time", text({column_name: F.lit(WRONG_TIME)}), (f"{what} time ({column_name}): unreadable",))
