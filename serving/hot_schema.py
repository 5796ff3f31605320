"""The request and the answer of POST /v1/predict as msgspec's types. What they accept, serving/schema.py accepts, as the same.

They refuse more (booleans as ids, integers beyond 64 bits): whatever is refused goes to the plain route, which answers it or says
what is wrong. tests/serving/test_hot_schema.py holds both to that.
"""

import math
import secrets
import sys
from typing import Annotated, Any, Literal

import msgspec

from conf.contract import MAX_TEXT, Column, Contract
from serving.request_plan import field_name
from serving.schema import MAX_REQUEST_ID

_EXACT = 2**53  # integers beyond are other numbers as doubles; they are rare enough for the plain route
MARK = secrets.randbelow(2**62)  # in the place of candidates that are known (serving/known_candidates.py): no caller can know it
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]


def request_type(contract: Contract) -> type[msgspec.Struct]:
    """request_id, time (text or null), context and candidates; columns are fields of neutral names, in the contract's order."""
    candidate: Any = _columns("Candidate", contract.columns_of("candidate"))
    candidates: Any = list[candidate]
    return _request_type(contract, Annotated[candidates, msgspec.Meta(min_length=1, max_length=contract.limits.candidates)])


def rest_type(contract: Contract) -> type[msgspec.Struct]:
    """The same of a body with MARK in its candidates' place."""
    return _request_type(contract, Literal[MARK])


def _request_type(contract: Contract, candidates: Any) -> type[msgspec.Struct]:
    fields: list[Any] = [
        ("request_id", Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REQUEST_ID)]),
        ("context", _columns("Context", contract.columns_of("request"))),
        ("candidates", candidates),
        ("time", str | None, None),
    ]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)


def prediction_type(contract: Contract) -> type[msgspec.Struct]:
    """A candidate's own columns, as they came, and its `ctr`."""
    names = {field_name(n): name for n, name in enumerate(contract.candidate)}
    fields = [*((field, Any) for field in names), ("ctr", float)]
    return msgspec.defstruct("Prediction", fields, rename=names, gc=False)


def _columns(name: str, columns: dict[str, Column]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for number, column in enumerate(columns.values()):
        fields.append((field_name(number), _type(column), *([None] if column.optional else [])))
    rename = {field_name(n): column for n, column in enumerate(columns)}
    # keywords alone, so that fields keep the contract's order: others must stand behind those without a default
    return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False)


def _type(column: Column) -> Any:
    if column.type == "number":
        low = -math.inf if column.min is None else column.min
        high = math.inf if column.max is None else column.max
        whole = msgspec.Meta(ge=math.ceil(max(low, -_EXACT)), le=math.floor(min(high, _EXACT)))
        real = msgspec.Meta(ge=max(low, -sys.float_info.max), le=min(high, sys.float_info.max))  # an infinite bound is refused
        accepted: Any = Annotated[int, whole] | Annotated[float, real]
    else:
        accepted = Annotated[str, msgspec.Meta(min_length=0 if column.optional else 1, max_length=MAX_TEXT)] | _INTEGER
    return accepted | None if column.optional else accepted
