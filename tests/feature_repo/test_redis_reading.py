"""What is read without Feast must be what Feast writes: a change of its layout fails here by name."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conf.contract import ALL_KEY, SCOPE
from feature_repo.redis_layout import LayoutError, decode_int64, encode_int64, hash_field, redis_key
from tests.serving.parts import quiet

TEXT = st.text(max_size=40)
NAMES = st.from_regex(r"\A[a-z][a-z0-9_]{0,39}\Z")
INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(scope="module")
def feast() -> dict[str, Any]:
    with quiet():
        from feast.infra.online_stores.helpers import _mmh3, _redis_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value
    return {
        "mmh3": _mmh3,
        "key": _redis_key,
        "EntityKey": EntityKey,
        "Value": Value,
    }


def _feast_key(feast: dict[str, Any], project: str, entity: Mapping[str, str]) -> bytes:
    values = [feast["Value"](string_val=value) for value in entity.values()]
    key: Callable[..., bytes] = feast["key"]
    return key(project, feast["EntityKey"](join_keys=list(entity), entity_values=values), entity_key_serialization_version=3)


@given(project=NAMES, entity=st.dictionaries(NAMES, TEXT, min_size=1, max_size=4))
@example(project="demo", entity={"user_id": "ключ 🗝 鍵"})
@example(project="demo", entity={"user_id": "", "campaign_id": "b", "ad_id": "a"})
def test_a_key_is_feast_s(feast: dict[str, Any], project: str, entity: dict[str, str]) -> None:
    assert redis_key(project, entity) == _feast_key(feast, project, entity)


def test_the_empty_key_is_an_entity_of_its_own(feast: dict[str, Any]) -> None:
    assert redis_key("demo", {}) == _feast_key(feast, "demo", {SCOPE: ALL_KEY})


@given(view=NAMES, feature=NAMES)
def test_a_hash_field_is_feast_s(feast: dict[str, Any], view: str, feature: str) -> None:
    assert hash_field(view, feature) == feast["mmh3"](f"{view}:{feature}")


@given(number=INT64)
@example(number=0)
@example(number=-1)
@example(number=2**63 - 1)
@example(number=-(2**63))
def test_an_int64_is_read_as_feast_wrote_it(feast: dict[str, Any], number: int) -> None:
    written = feast["Value"](int64_val=number).SerializeToString()
    assert decode_int64(written) == number
    assert encode_int64(number) == written


def test_absent_and_null_are_none(feast: dict[str, Any]) -> None:
    assert decode_int64(None) is None
    assert decode_int64(feast["Value"]().SerializeToString()) is None


@pytest.mark.parametrize(
    "value", [{"string_val": "7"}, {"double_val": 7.0}, {"float_val": 7.0}, {"int32_val": 7}, {"unix_timestamp_val": 7}]
)
def test_another_type_is_refused(feast: dict[str, Any], value: dict[str, Any]) -> None:
    with pytest.raises(LayoutError, match="expected"):
        decode_int64(feast["Value"](**value).SerializeToString())


@pytest.mark.parametrize("data", [b" ", b" \x81", b" \x01\x01", b" \x01 \x01", b" " + b"\xff" * 9 + b"\x02", b" " + b"\xff" * 30])
def test_broken_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(LayoutError, match="expected"):
        decode_int64(data)
