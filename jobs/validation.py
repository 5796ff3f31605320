"""What makes a row acceptable: the reason to refuse it, or null. The first reason found is the one given."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.contract import MAX_TEXT, Contract
from jobs.parsing import later, number, raw, text
from jobs.reading import CORRUPT, REST_UNREADABLE

MALFORMED = "malformed row"


def refuse_when(condition: Column, reason: str) -> Column:
    return F.when(F.coalesce(condition, F.lit(False)), F.lit(reason))


def column_reasons(contract: Contract) -> list[Column]:
    """A reason for each contract column that is missing, too long, no number, out of its range or not allowed."""
    reasons = []
    for name, column in contract.columns.items():
        value = raw(contract.raw_name(name))
        given = text(value)
        if not column.optional:
            reasons.append(refuse_when(given.isNull(), f"{name}: missing"))
        if column.allowed:
            reasons.append(refuse_when(~given.isin(*column.allowed), f"{name}: not an allowed value"))
        if column.type != "number":
            reasons.append(refuse_when(F.length(given) > MAX_TEXT, f"{name}: longer than {MAX_TEXT} characters"))
        else:
            parsed = number(value)
            reasons.append(refuse_when(given.isNotNull() & parsed.isNull(), f"{name}: not a number"))
            if column.min is not None:
                reasons.append(refuse_when(parsed < column.min, f"{name}: below {column.min:g}"))
            if column.max is not None:
                reasons.append(refuse_when(parsed > column.max, f"{name}: above {column.max:g}"))
    return reasons


def time_reasons(moment: Column, what: str, contract: Contract) -> list[Column]:
    """Unreadable, so far from our days that the unit or format must be wrong, before the contract's first day, or to come."""
    far = (moment < F.lit("2000-01-01").cast("timestamp")) | (moment >= F.lit("2100-01-01").cast("timestamp"))
    return [
        refuse_when(moment.isNull(), f"{what}: unreadable"),
        refuse_when(far, f"{what}: not in 2000 to 2099, wrong unit?"),
        refuse_when(moment < F.lit(contract.limits.first), f"{what}: before limits.first"),
        refuse_when(moment > later(F.current_timestamp(), contract.label.skew), f"{what}: later than now, wrong zone?"),
    ]


def malformed() -> Column:
    rest = F.when(raw(CORRUPT) == REST_UNREADABLE, F.lit(REST_UNREADABLE))
    return F.coalesce(rest, refuse_when(raw(CORRUPT).isNotNull(), MALFORMED))


def first_reason(reasons: list[Column]) -> Column:
    return F.coalesce(*reasons)
