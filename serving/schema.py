"""The request and the answer of POST /v1/predict, made from a contract.

The models' fields have neutral names and the contract's columns as aliases, so that no column's name can clash with pydantic.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, StrictStr, WithJsonSchema, create_model

from conf.contract import Column, Contract
from serving.columns import FAULT, column_field, described, encodable, example_value, fault
from serving.problems import Fault

MAX_REQUEST_ID = 128
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)  # any zone's local time is still within Python's calendar
_STRICT = ConfigDict(extra="forbid", frozen=True)


class RequestSchema:
    """`request` and `answer` are pydantic models for FastAPI; `faults` says in our words what pydantic found."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        of_request, of_candidate = contract.columns_of("request"), contract.columns_of("candidate")
        context = _columns_model("Context", of_request)
        candidate = _columns_model("Candidate", of_candidate)
        self._known = {"context": list(of_request), "candidates": list(of_candidate)}
        length = Field(min_length=1, max_length=contract.limits.candidates)
        asked: dict[str, Any] = {
            "request_id": (_RequestId, ...),
            "time": (_Time, None),
            "context": (context, ...),
            "candidates": (Annotated[list[candidate], length, AfterValidator(_distinct(contract))], ...),  # type: ignore[valid-type]
        }
        answered: dict[str, Any] = {
            "request_id": (str, ...),
            "model_version": (str, ...),
            "degraded": (bool, ...),
            "reasons": (list[str], ...),
            "predictions": (list[_prediction_model(contract)], ...),  # type: ignore[misc]
        }
        self.request: type[BaseModel] = create_model("PredictRequest", __config__=_STRICT, **asked)
        self.answer: type[BaseModel] = create_model("PredictAnswer", __config__=_STRICT, **answered)

    def example(self) -> dict[str, Any]:
        """A request with two candidates that this schema accepts."""

        def values(columns: Mapping[str, Column], number: int) -> dict[str, Any]:
            return {name: example_value(name, column, number) for name, column in columns.items()}

        candidates = [values(self._contract.columns_of("candidate"), n) for n in (1, 2)[: self._contract.limits.candidates]]
        return {"request_id": "r-1", "context": values(self._contract.columns_of("request"), 1), "candidates": candidates}

    def faults(self, errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
        """Every fault of a body; `errors` are pydantic's, with paths that start at the body."""
        return [self._fault(error) for error in errors]

    def _fault(self, error: Mapping[str, Any]) -> Fault:
        path = [part for part in error["loc"] if part != "body"] if error["loc"][:1] == ("body",) else list(error["loc"])
        found, expected = self._found_and_expected(error, path)
        return Fault(".".join(map(str, path)) or "body", found, expected)

    def _found_and_expected(self, error: Mapping[str, Any], path: Sequence[str | int]) -> tuple[str, str]:
        value, context = error.get("input"), error.get("ctx", {})
        match error["type"]:
            case kind if kind == FAULT:
                return context["found"], context["expected"]
            case "missing":
                return "nothing", "a value" if path else "a JSON object"
            case "extra_forbidden":
                known = self._known[str(path[0])] if len(path) > 1 else list(self.request.model_fields)
                return "an unknown field", f"only {', '.join(known)}" if known else "no field here"
            case "too_long":
                return f"{len(value or ())} candidates", f"at most {context['max_length']}"
            case "too_short":
                return "no candidate", "at least one"
            case "model_attributes_type" | "model_type" | "dict_type":
                return described(value), "a JSON object"
            case "list_type":
                return described(value), "a list of objects"
            case _:
                return described(value), str(error["msg"]).removeprefix("Input should be ")


def _columns_model(name: str, columns: Mapping[str, Column]) -> type[BaseModel]:
    fields: dict[str, Any] = {f"column_{i}": column_field(*column) for i, column in enumerate(columns.items())}
    return create_model(name, __config__=_STRICT, **fields)


def _prediction_model(contract: Contract) -> type[BaseModel]:
    fields: dict[str, Any] = {f"column_{i}": column_field(n, contract.columns[n]) for i, n in enumerate(contract.candidate)}
    return create_model("Prediction", __config__=_STRICT, ctr=(Annotated[float, Field(gt=0, lt=1)], ...), **fields)


def _distinct(contract: Contract) -> Callable[[list[Any]], list[Any]]:
    """A check that what names a candidate names no two of a request."""
    of_candidate = list(contract.columns_of("candidate"))
    fields = [f"column_{of_candidate.index(name)}" for name in contract.candidate]

    def check(candidates: list[Any]) -> list[Any]:
        first: dict[Any, int] = {}
        for number, candidate in enumerate(candidates):
            values = [getattr(candidate, field) for field in fields]
            if (before := first.setdefault(tuple((type(value), value) for value in values), number)) != number:
                raise fault(f"candidates {before} and {number} alike", f"no {' and '.join(contract.candidate)} twice")
        return candidates

    return check


def _check_request_id(value: str) -> str:
    if not 1 <= len(value) <= MAX_REQUEST_ID or not encodable(value):
        raise fault(described(value), f"text of 1 to {MAX_REQUEST_ID} characters")
    return value


def check_time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or not _EARLIEST <= time < _LATEST:
        raise fault(described(value), "a time in ISO 8601 with its offset, from 1970 on, such as 2026-03-01T12:00:00Z")
    return time


_RequestId = Annotated[
    StrictStr, AfterValidator(_check_request_id), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_REQUEST_ID})
]
_Time = Annotated[
    datetime | None,
    PlainValidator(check_time),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}], "description": "default: now"}),
]
