"""Refusals as RFC 9457 problem details: what is wrong, in which fields, what was found and what was expected."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

_TEXT = {"type": "string"}
_FAULT = {
    "type": "object",
    "properties": {"field": _TEXT, "found": _TEXT, "expected": _TEXT},
    "required": ["field", "found", "expected"],
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {"type": "array", "items": _FAULT},
    },
    "required": ["type", "title", "status", "detail"],
}


@dataclass(frozen=True)
class Fault:
    """One wrong field of a request; `field` is its path, such as candidates.0.ad_id."""

    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, expected {self.expected}"


def problem(status: int, detail: str, faults: Sequence[Fault] = ()) -> Response:
    """The response that says so."""
    return Response(problem_body(status, detail, faults), status_code=status, media_type=MEDIA_TYPE)


def problem_body(status: int, detail: str, faults: Sequence[Fault] = ()) -> bytes:
    """Its JSON."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if faults:
        body["errors"] = [asdict(fault) for fault in faults]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def documented(description: str) -> dict[str, Any]:
    """A problem's entry among a route's OpenAPI responses."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
