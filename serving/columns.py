"""What a request may bring for a column of the contract: the check, its JSON schema, and an example value."""

import json
import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from conf.contract import MAX_TEXT, Column

FAULT = "field"  # the type of this module's own errors; their context holds found and expected

Check = Callable[[Any], Any]
_MAX_INTEGER = 10**MAX_TEXT


def column_field(name: str, column: Column) -> tuple[Any, Any]:
    """A pydantic field definition whose alias is the column's name; a value passes as it was given."""
    check, schema = (_number_check(column), _number_schema(column)) if column.type == "number" else _text(column)
    if column.optional:
        schema = {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}
    default = None if column.optional else ...
    return Annotated[Any, PlainValidator(check), WithJsonSchema(schema)], Field(default, alias=name)


def example_value(name: str, column: Column, number: int) -> str | int | float:
    """A value that the column accepts; others for other numbers, as far as an id or a category goes."""
    if column.type != "number":
        return f"{name}-{number}"
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    value = sum(bounds) / len(bounds) if bounds else 1.0
    return int(value) if value.is_integer() else value


def fault(found: str, expected: str) -> PydanticCustomError:
    return PydanticCustomError(FAULT, "found {found}, expected {expected}", {"found": found, "expected": expected})


def described(value: Any, *, personal: bool = False) -> str:
    """A value for a person to read: short, and without what is personal."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean" if personal else json.dumps(value)
        case int() | float():
            return "a number" if personal or abs(value) >= 10**30 else json.dumps(value)
        case str() if personal or len(value) > 40:
            return f"text of {len(value)} characters"
        case str():
            return json.dumps(value)
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "something else"


def encodable(text: str) -> bool:
    """Whether text has a UTF-8 form: JSON can escape half of a surrogate pair, which has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(column: Column) -> tuple[Check, dict[str, Any]]:
    expected = f"text of {0 if column.optional else 1} to {MAX_TEXT} characters, an integer or a boolean"
    if column.optional:
        expected += ", or null"

    def check(value: Any) -> Any:
        if value is None or value == "":
            good = column.optional
        elif isinstance(value, str):
            good = len(value) <= MAX_TEXT and encodable(value)
        else:
            good = isinstance(value, int) and abs(value) < _MAX_INTEGER
        if not good:
            raise fault(described(value, personal=column.personal), expected)
        return value

    text = {"type": "string", "minLength": 0 if column.optional else 1, "maxLength": MAX_TEXT}
    return check, {"anyOf": [text, {"type": "integer"}, {"type": "boolean"}]}


def _number_check(column: Column) -> Check:
    bounds = [f"{word} {bound:g}" for word, bound in (("from", column.min), ("to", column.max)) if bound is not None]
    expected = " ".join(["a finite number", *bounds]) + (", or null" if column.optional else "")
    low = -math.inf if column.min is None else column.min
    high = math.inf if column.max is None else column.max

    def check(value: Any) -> Any:
        if value is None and column.optional:
            return value
        try:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            good = number and math.isfinite(value) and low <= value <= high
        except OverflowError:  # an integer beyond every float
            good = False
        if not good:
            raise fault(described(value), expected)
        return value

    return check


def _number_schema(column: Column) -> dict[str, Any]:
    bounds = {"minimum": column.min, "maximum": column.max}
    return {"type": "number"} | {word: bound for word, bound in bounds.items() if bound is not None}
