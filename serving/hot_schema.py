"""The request and the answer of POST /v1/predict as msgspec's types: what they accept, serving/schema.py accepts, as the same values.

They refuse more (booleans as ids, integers beyond 64 bits): whatever is refused goes to the plain route, which answers it or says
what is wrong. tests/serving/test_hot_schema.py holds both to that.
"""

from typing import Annotated, Any

import msgspec

from conf.contract import MAX_TEXT, Column, Contract
from serving.request_plan import field_name
from serving.schema import MAX_REQUEST_ID

_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]


def request_type(contract: Contract) -> type[msgspec.Struct]:
    """request_id, time (text or null), context and candidates; columns are fields of neutral names, in the contract's order."""
    candidates = list[_columns("Candidate", contract.columns_of("candidate"))]  # type: ignore[misc]
    limits = msgspec.Meta(min_length=1, max_length=contract.limits.candidates)
    fields: list[Any] = [
        ("request_id", Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REQUEST_ID)]),
        ("context", _columns("Context", contract.columns_of("request"))),
        ("candidates", Annotated[candidates, limits]),
        ("time", str | None, None),
    ]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)


def prediction_type(contract: Contract) -> type[msgspec.Struct]:
    """A candidate's own columns, as they came, and its `ctr`."""
    names = {field_name(n): name for n, name in enumerate(contract.candidate)}
    fields = [*((field, Any) for field in names), ("ctr", float)]
    return msgspec.defstruct("Prediction", fields, rename=names, gc=False)


def _columns(name: str, columns: dict[str, Column]) -> type[msgspec.Struct]:
    fields = [(field_name(n), _type(column), *([None] if column.optional else [])) for n, column in enumerate(columns.values())]
    rename = {field_name(n): column for n, column in enumerate(columns)}
    # required fields stand before others in a struct's own order, so they are told apart by name
    return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False)  # type: ignore[arg-type]


def _type(column: Column) -> Any:
    if column.type == "number":
        bounds = {key: bound for key, bound in (("ge", column.min), ("le", column.max)) if bound is not None}
        accepted: Any = Annotated[int, msgspec.Meta(**_inside(bounds))] | Annotated[float, msgspec.Meta(**bounds)]
    else:
        accepted = Annotated[str, msgspec.Meta(min_length=0 if column.optional else 1, max_length=MAX_TEXT)] | _INTEGER
    return accepted | None if column.optional else accepted


def _inside(bounds: dict[str, float]) -> dict[str, int]:
    """Whole numbers within bounds, and within 64 bits."""
    low, high = -(2**63) + 1, 2**63 - 1
    return {"ge": max(low, -int(-bounds["ge"] // 1)) if "ge" in bounds else low, "le": min(high, int(bounds["le"] // 1)) if "le" in bounds else high}
