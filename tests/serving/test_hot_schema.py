"""What the hot route accepts, the plain route's schema accepts, as the same values; what it need not refuse, it takes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from conf.contract import Contract
from serving.hot_schema import prediction_type, request_type
from serving.request_plan import field_name
from serving.schema import RequestSchema, check_time
from tests.serving.parts import CONTRACTS

ODD: Any = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 130), st.floats(), st.text(max_size=3), st.just(""),
    st.just("x" * 513), st.just("x" * 512),
    st.just(10**600), st.just(2**64), st.just(1e300), st.just(-0.0), st.just([]), st.just({}), st.just("1"),
    st.just("half \ud800"), st.just("a\x00b"),
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8"), max_size=4)


def _column_values(contract: Contract, of: Any) -> Any:
    """Mostly what the contract asks for."""
    required, optional = {}, {}
    for name, column in contract.columns_of(of).items():
        if column.type == "number":
            low, high = column.min if column.min is not None else -9, column.max if column.max is not None else 9
            good: Any = st.integers(int(low), int(high)) | st.floats(low, high)
        else:
            good = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4) | st.integers(-(2**62), 2**62)
        value = st.one_of(good, good, good, good, good, good, good, good, good, ODD)
        if column.optional:
            optional[name] = value | st.none()
        else:
            required[name] = value
    return st.fixed_dictionaries(required, optional=optional)


def _bodies(contract: Contract) -> Any:
    context, candidate = _column_values(contract, "request"), _column_values(contract, "candidate")
    times = st.sampled_from(["2026-03-01T10:00:00Z", "2026-03-01T10:00:00.5+05:30", "2026-03-01", "x", None, 7])
    fields = {
        "request_id": st.one_of(st.just("r-1"), st.just("ü" * 128), st.just("x" * 129), ODD),
        "context": st.one_of(context, context, context, context, ODD),
        "candidates": st.one_of(st.lists(candidate, max_size=3), st.lists(candidate, min_size=1, max_size=3), ODD),
    }
    body = st.fixed_dictionaries(fields, optional={"time": times})
    return st.one_of(body, body, body, body, body, body, st.builds(lambda b, n, v: b | {n: v}, body, NAMES, ODD), ODD)


def _as_asked(contract: Contract, request: Any) -> dict[str, Any]:
    """The decoded request in the plain route's form."""

    def named(of: Any, values: Any) -> dict[str, Any]:
        return {name: getattr(values, field_name(n)) for n, name in enumerate(contract.columns_of(of))}

    candidates = [named("candidate", candidate) for candidate in request.candidates]
    return {"request_id": request.request_id, "context": named("request", request.context), "candidates": candidates}


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
@settings(max_examples=600, deadline=None)
def test_what_is_accepted_is_accepted_by_the_schema_as_the_same(name: str, contracts: dict[str, Contract], data: Any) -> None:
    contract = contracts[name]
    body = json.dumps(data.draw(_bodies(contract)), ensure_ascii=data.draw(st.booleans())).encode(errors="surrogatepass")
    try:
        request: Any = msgspec.json.decode(body, type=request_type(contract))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    document = json.loads(body)
    try:
        check_time(request.time)
    except PydanticCustomError:  # as the hot route, which hands it on
        return
    named = [tuple(str(one.get(name)) for name in contract.candidate) for one in document["candidates"]]
    if len(set(named)) < len(named):  # the same
        return
    asked = RequestSchema(contract).request.model_validate(document).model_dump(by_alias=True)
    found = _as_asked(contract, request)
    asked.pop("time")
    assert found == asked
    assert _types(found) == _types(asked)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(one) for name, one in value.items()}
    return [_types(one) for one in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_ordinary_request_is_taken(name: str, contracts: dict[str, Contract]) -> None:
    contract = contracts[name]
    example = RequestSchema(contract).example()
    request = msgspec.json.decode(json.dumps(example).encode(), type=request_type(contract))
    context = dict.fromkeys(contract.columns_of("request")) | example["context"]
    assert _as_asked(contract, request) == example | {"context": context}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"request_id": "\xed\xa0\x80"}', b"\xef\xbb\xbf{}", b"NaN"])
def test_what_is_no_request_is_refused(demo: Contract, body: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        msgspec.json.decode(body, type=request_type(demo))


def test_numbers_without_bounds(demo: Contract) -> None:
    """Every finite double, and whole numbers that doubles hold."""
    columns = demo.columns | {"age": demo.columns["age"].model_copy(update={"min": None, "max": None})}
    decode = msgspec.json.Decoder(request_type(demo.model_copy(update={"columns": columns}))).decode
    example = RequestSchema(demo).example()

    def with_age(age: str) -> bytes:
        return json.dumps(example | {"context": example["context"] | {"age": "AGE"}}).replace('"AGE"', age).encode()

    for good in ("-1", "0.5", "1.7976931348623157e308", "9007199254740992", "null"):
        assert decode(with_age(good))
    for bad in ("1e309", "NaN", "true", '"1"', "9007199254740993"):
        with pytest.raises(msgspec.MsgspecError):
            decode(with_age(bad))


def test_a_prediction_names_the_candidate_s_columns(contracts: dict[str, Contract]) -> None:
    made = prediction_type(contracts["amexpert"])("p", 7, 0.25)
    assert json.loads(msgspec.json.encode(made)) == {"product": "p", "campaign_id": 7, "ctr": 0.25}
