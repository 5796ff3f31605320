"""What a request may say, per contract; faults are named with what was found and expected."""

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from conf.contract import Contract
from serving.problems import Fault
from serving.schema import RequestSchema
from tests.serving.parts import CONTRACTS, ID_KEY

GOOD: dict[str, Any] = {
    "request_id": "r-1",
    "context": {"user_id": "u42", "placement_id": "home", "device": "phone", "age": 33},
    "candidates": [{"ad_id": "a7", "campaign_id": "c1"}, {"ad_id": 9, "campaign_id": "c2"}],
}
NOTHING = object()


def _with(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one field set, or taken away."""
    body = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    target: Any = body
    for part in way:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if value is NOTHING:
        del target[last]
    else:
        target[int(last) if isinstance(target, list) else last] = value
    return body


def _faults(contract: Contract, body: Any) -> list[Fault]:
    schema = RequestSchema(contract)
    try:
        schema.request.model_validate(body)
    except ValidationError as error:
        return schema.faults([dict(e) for e in error.errors()])
    return []


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_example_is_accepted(name: str, contracts: dict[str, Contract]) -> None:
    assert _faults(contracts[name], RequestSchema(contracts[name]).example()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("context.user_id", 42),
        ("context.user_id", -1),
        ("context.user_id", True),
        ("context.user_id", "x" * 512),
        ("context.user_id", " "),
        ("context.device", None),
        ("context.device", ""),
        ("context.device", NOTHING),
        ("context.age", NOTHING),
        ("context.age", None),
        ("context.age", 13),
        ("context.age", 120.0),
        ("candidates.0.ad_id", "9"),
        ("time", NOTHING),
        ("time", None),
        ("time", "2026-03-01T10:00:00Z"),
        ("time", "2026-03-01T10:00:00.123456+05:30"),
        ("request_id", "x" * 128),
    ],
)
def test_accepted(demo: Contract, path: str, value: Any) -> None:
    body = _with(path, value) if path in {"context.device", "context.age"} or value is not NOTHING else GOOD
    assert _faults(demo, body) == []


@pytest.mark.parametrize(
    ("path", "value", "found", "expected"),
    [
        ("candidates.1.ad_id", NOTHING, "nothing", "a value"),
        ("candidates.1.ad_id", None, "null", "text of 1 to 512"),
        ("candidates.1.ad_id", "", '""', "text of 1 to 512"),
        ("candidates.1.ad_id", 1.5, "1.5", "an integer"),
        ("candidates.1.ad_id", 1.0, "1.0", "an integer"),
        ("candidates.1.ad_id", "x" * 513, "text of 513 characters", "1 to 512"),
        ("candidates.1.ad_id", 10**600, "a number", "an integer"),
        ("candidates.1.ad_id", "half a pair: \ud800", "ud800", "text"),
        ("candidates.1.ad_id", ["a7"], "a list", "text"),
        ("context.user_id", {"id": 7}, "an object", "text"),
        ("context.user_id", 7.5, "a number", "text"),
        ("context.age", "33", '"33"', "a finite number from 13 to 120, or null"),
        ("context.age", "", '""', "a finite number"),
        ("context.age", True, "true", "a finite number"),
        ("context.age", 12.9, "12.9", "from 13"),
        ("context.age", 121, "121", "to 120"),
        ("context.age", float("nan"), "NaN", "finite"),
        ("context.age", float("-inf"), "a number", "finite"),
        ("context.age", 10**400, "a number", "finite"),
        ("context.usr", "x", "an unknown field", "only user_id, placement_id, device, age"),
        ("context.column_0", "x", "an unknown field", "only user_id"),
        ("context.ad_id", "x", "an unknown field", "only user_id"),
        ("candidates.0.user_id", "x", "an unknown field", "only ad_id, campaign_id"),
        ("user_id", "x", "an unknown field", "only request_id, time, context, candidates"),
        ("candidates", [], "no candidate", "at least one"),
        ("candidates", GOOD["candidates"] * 101, "202 candidates", "at most 200"),
        ("candidates", [*GOOD["candidates"], {"ad_id": "a7", "campaign_id": "c9"}], "candidates 0 and 2 alike", "no ad_id twice"),
        ("candidates", {"ad_id": "a7"}, "an object", "a list"),
        ("candidates", NOTHING, "nothing", "a value"),
        ("candidates.0", "a7", '"a7"', "a JSON object"),
        ("context", None, "null", "a JSON object"),
        ("context", NOTHING, "nothing", "a value"),
        ("request_id", 7, "7", "a valid string"),
        ("request_id", "", '""', "1 to 128"),
        ("request_id", "x" * 129, "text of 129", "1 to 128"),
        ("time", "2026-03-01T10:00:00", "2026", "with its offset"),
        ("time", "yesterday", "yesterday", "ISO 8601"),
        ("time", 1_772_359_200, "1772359200", "ISO 8601"),
        ("time", "1772359200", "1772359200", "ISO 8601"),
        ("time", "1969-12-31T23:59:59Z", "1969", "from 1970"),
        ("time", "9999-12-31T23:59:59Z", "9999", "ISO 8601"),
        ("time", "0001-01-01T00:00:00+14:00", "0001", "from 1970"),
    ],
)
def test_refused(demo: Contract, path: str, value: Any, found: str, expected: str) -> None:
    (fault,) = _faults(demo, _with(path, value))
    assert fault.field == path
    assert found in fault.found
    assert expected in fault.expected


def test_every_fault_is_named_at_once(demo: Contract) -> None:
    body = _with("candidates.1.ad_id", 1.5) | {"request_id": "", "more": 1}
    body["context"] = GOOD["context"] | {"age": "old"}
    assert {fault.field for fault in _faults(demo, body)} == {"request_id", "context.age", "candidates.1.ad_id", "more"}


def test_a_personal_value_is_not_repeated(demo: Contract) -> None:
    for value in (1234567.5, "secret name " * 50, ["secret name"]):
        (fault,) = _faults(demo, _with("context.user_id", value))
        assert "secret" not in str(fault)
        assert "1234567" not in str(fault)


@pytest.fixture
def awkward() -> Contract:
    """Columns named like pydantic's own attributes and this module's fields."""
    names = ["json", "class", "model_x", "schema", "copy", "column_0", "model_fields", "dict", "validate"]
    return Contract.model_validate(
        {
            "name": "awkward",
            "impressions": {"files": "*.csv", "format": "csv", "id": "i", "event_time": {"column": "t"}},
            "clicks": {"flag": "f"},
            "label": {"attribution_window": "1h"},
            "columns": {
                **{name: {"of": "request", "type": "category"} for name in names},
                "model_y": {"of": "candidate", "type": "id"},
                "price": {"of": "candidate", "type": "number"},
            },
            "keys": {"k": ["json", "model_y"]},
            "candidate": ["model_y", "price"],
        }
    )


@pytest.mark.parametrize(("value", "good"), [(True, False), ("1", False), (None, False), (-1, True), (1e300, True)])
def test_a_number_without_bounds_is_still_a_number(awkward: Contract, value: Any, good: bool) -> None:
    example = RequestSchema(awkward).example()
    candidate = example["candidates"][0] | {"price": value}
    assert (_faults(awkward, example | {"candidates": [candidate]}) == []) == good


@pytest.mark.filterwarnings("error")
def test_no_column_s_name_does_harm(awkward: Contract) -> None:
    schema = RequestSchema(awkward)
    example = schema.example()
    asked = schema.request.model_validate(example).model_dump(by_alias=True)
    assert asked == example | {"time": None}
    assert json.dumps(schema.request.model_json_schema())
    (fault,) = _faults(awkward, example | {"context": example["context"] | {"class": None}})
    assert fault.field == "context.class"


def test_a_request_is_passed_on_as_it_was_given(demo: Contract) -> None:
    body = _with("context.user_id", 42) | {"time": "2026-03-01T12:00:00+02:00"}
    asked = RequestSchema(demo).request.model_validate(body).model_dump(by_alias=True)
    assert asked["context"] == body["context"]
    assert [type(value) for value in asked["candidates"][1].values()] == [int, str]
    assert asked["time"].isoformat() == "2026-03-01T12:00:00+02:00"
    assert ID_KEY.digest("42") not in str(asked)
