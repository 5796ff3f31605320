"""What makes a row acceptable: the reason to refuse it, or null. The first reason found is the one given."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs.parsing import number, raw, text
from jobs.reading import CORRUPT

MALFORMED = "malformed row"


def refuse_when(condition: Column, reason: str) -> Column:
    return F.when(F.coalesce(condition, F.lit(False)), F.lit(reason))


def column_reasons(contract: Contract) -> list[Column]:
    """A reason for each contract column that is missing, no number, or out of its range."""
    reasons = []
    for name, column in contract.columns.items():
        value = raw(contract.raw_name(name))
        given = text(value)
        if not column.optional:
            reasons.append(refuse_when(given.isNull(), f"{name}: missing"))
        if column.type == "number":
            parsed = number(value)
            reasons.append(refuse_when(given.isNotNull() & parsed.isNull(), f"{name}: not a number"))
            if column.min is not None:
                reasons.append(refuse_when(parsed < column.min, f"{name}: below {column.min:g}"))
            if column.max is not None:
                reasons.append(refuse_when(parsed > column.max, f"{name}: above {column.max:g}"))
    return reasons


def malformed() -> Column:
    return refuse_when(raw(CORRUPT).isNotNull(), MALFORMED)


def first_reason(reasons: list[Column]) -> Column:
    return F.coalesce(*reasons)
