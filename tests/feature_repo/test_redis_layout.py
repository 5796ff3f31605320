"""Batches are encoded as Feast would write their rows, byte by byte, for every type of a feature and a key."""

import math
from collections.abc import Iterator
from typing import Any

import hiredis
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo import redis_layout
from feature_repo.redis_layout import (
    AT,
    KEY_TYPES,
    VALUE_TYPES,
    KeyWriter,
    LayoutError,
    ViewLayout,
    decode_int64,
    decode_time,
    key_text,
    redis_key,
)
from tests.serving.parts import quiet

ARROW = {
    "String": pa.string(), "Int64": pa.int64(), "Int32": pa.int32(), "Bool": pa.bool_(), "Float64": pa.float64(),
    "Float32": pa.float32(),
}  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "String": st.text(max_size=300),
    "Int64": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128, -1, 2**53 + 1, 2**63 - 1, -(2**63)]),
    "Int32": st.integers(-(2**31), 2**31 - 1),
    "Bool": st.booleans(),
    "Float64": st.floats(),
    "Float32": st.floats(width=32),
}
PROTO = {
    "String": "string_val", "Int64": "int64_val", "Int32": "int32_val", "Bool": "bool_val", "Float64": "double_val",
    "Float32": "float_val",
}  # fmt: skip
NAMES = st.lists(st.from_regex(r"\A[a-z][a-z0-9_]{0,20}\Z").filter(lambda name: name != AT), min_size=2, max_size=6, unique=True)
TIMES = st.integers(-(6 * 10**16), 10**17) | st.integers(0, 10**6).map(lambda hour: hour * 3_600_000_000)


@pytest.fixture(scope="module")
def feast() -> dict[str, Any]:
    with quiet():
        from feast.infra.online_stores.helpers import _mmh3, _redis_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value
        from google.protobuf.timestamp_pb2 import Timestamp
    return {"mmh3": _mmh3, "key": _redis_key, "EntityKey": EntityKey, "Value": Value, "Timestamp": Timestamp}


@st.composite
def batches(draw: st.DrawFn) -> tuple[ViewLayout, pa.RecordBatch]:
    """A view of any types and rows of it, a slice of a longer batch."""
    names = draw(NAMES)
    split = draw(st.integers(1, min(3, len(names) - 1)))
    keys = tuple((name, draw(st.sampled_from(list(KEY_TYPES)))) for name in names[:split])
    features = tuple((name, draw(st.sampled_from(VALUE_TYPES))) for name in names[split:])
    rows, start = draw(st.integers(1, 12)), draw(st.integers(0, 3))

    def column(kind: str, *, nulls: bool) -> pa.Array:
        values = st.none() | VALUES[kind] if nulls else VALUES[kind]
        return pa.array(draw(st.lists(values, min_size=rows + start, max_size=rows + start)), ARROW[kind], from_pandas=False)

    columns = {name: column(kind, nulls=False) for name, kind in keys}
    columns |= {name: column(kind, nulls=True) for name, kind in features}
    columns[AT] = pa.array(draw(st.lists(TIMES, min_size=rows + start, max_size=rows + start)), pa.int64())
    return ViewLayout("demo", "a_view", keys, features), pa.record_batch(columns).slice(start)


def commands(data: bytes) -> Iterator[list[bytes]]:
    """What Redis would read: a command's arguments are an array of strings, as replies are."""
    reader = hiredis.Reader()
    reader.feed(data)
    while (command := reader.gets()) is not False:
        yield command


def as_feast_writes(feast: dict[str, Any], layout: ViewLayout, row: dict[str, Any]) -> list[bytes]:
    """Arguments of the HSET of feast/infra/online_stores/redis.py."""

    def value(name: str, kind: str) -> Any:
        found = row[name]
        null = found is None or (isinstance(found, float) and math.isnan(found))
        return feast["Value"]() if null else feast["Value"](**{PROTO[kind]: found})

    entity = feast["EntityKey"](join_keys=[k for k, _ in layout.keys], entity_values=[value(k, kind) for k, kind in layout.keys])
    time = feast["Timestamp"]()
    time.FromMicroseconds(row[AT])
    words = [b"HSET", feast["key"](layout.project, entity, entity_key_serialization_version=3)]
    words += [f"_ts:{layout.view}".encode(), time.SerializeToString()]
    for name, kind in layout.features:
        words += [feast["mmh3"](f"{layout.view}:{name}"), value(name, kind).SerializeToString()]
    return words


@given(batch=batches())
@settings(deadline=None)
def test_rows_are_written_as_feast_writes_them(feast: dict[str, Any], batch: tuple[ViewLayout, pa.RecordBatch]) -> None:
    layout, rows = batch
    written = list(commands(layout.write(layout.redis_keys(rows), rows)))
    assert written == [as_feast_writes(feast, layout, row) for row in rows.to_pylist()]


@given(batch=batches())
@settings(deadline=None, max_examples=25)
def test_the_other_commands_name_the_same_keys_and_fields(batch: tuple[ViewLayout, pa.RecordBatch]) -> None:
    layout, rows = batch
    keys = layout.redis_keys(rows)
    written = list(commands(layout.write(keys, rows)))
    assert list(commands(layout.remove(keys))) == [[b"HDEL", w[1], *w[2::2]] for w in written]
    assert list(commands(layout.ask_time(keys))) == [[b"HGET", w[1], w[2]] for w in written]
    ends = [max(0, -(-at // 1_000_000) + 60) for at in rows.column(AT).to_pylist()]
    expected = [[b"EXPIREAT", w[1], b"%d" % end, b"GT"] for w, end in zip(written, ends, strict=True)]
    assert list(commands(layout.expire(keys, rows, 60, b"GT"))) == expected


@given(number=VALUES["Int64"], at=TIMES)
@example(number=0, at=0)
def test_what_is_encoded_is_decoded(number: int, at: int) -> None:
    layout = ViewLayout("demo", "v", (("id", "String"),), (("n", "Int64"),))
    rows = pa.record_batch({"id": ["x"], "n": [number], AT: [at]})
    ((_, key, _, time, _, value),) = commands(layout.write(layout.redis_keys(rows), rows))
    assert (key, decode_time(time), decode_int64(value)) == (redis_key("demo", {"id": "x"}), at, number)


def test_long_texts_and_many_rows_are_worked_on_in_parts(feast: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_layout, "_MATRIX_BYTES", 1_000)
    layout = ViewLayout("demo", "v", (("id", "String"),), (("text", "String"),))
    texts = ["short", None, "x" * 5_000, "", "ü" * 70]
    rows = pa.record_batch({"id": [f"id {n}" for n in range(5)], "text": texts, AT: [10**15] * 5})
    written = list(commands(layout.write(layout.redis_keys(rows), rows)))
    assert written == [as_feast_writes(feast, layout, row) for row in rows.to_pylist()]


def test_a_row_without_a_join_key_is_refused() -> None:
    layout = ViewLayout("demo", "v", (("id", "String"),), ())
    with pytest.raises(LayoutError, match="view v: found rows without id"):
        layout.redis_keys(pa.record_batch({"id": pa.array([None, "x"], pa.string()), AT: [1, 2]}))


def test_no_rows_are_no_bytes() -> None:
    layout = ViewLayout("demo", "v", (("id", "String"),), (("n", "Int64"),))
    rows = pa.record_batch({"id": pa.array([], pa.string()), "n": pa.array([], pa.int64()), AT: pa.array([], pa.int64())})
    assert layout.write(layout.redis_keys(rows), rows) == b""


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\x18\x01", b"\x08" + b"\xff" * 10 + b"\x01"])
def test_a_broken_time_is_refused(data: bytes) -> None:
    with pytest.raises(LayoutError, match="expected"):
        decode_time(data)


@given(entity=st.dictionaries(st.from_regex(r"\A[a-z_]{1,9}\Z"), st.text(max_size=9), min_size=1, max_size=4), data=st.data())
def test_keys_that_differ_in_one_value_are_written_around_it(entity: dict[str, str], data: st.DataObject) -> None:
    columns = data.draw(st.permutations(list(entity)))
    writer, open_column = KeyWriter("project", columns), data.draw(st.sampled_from(columns))
    before, after = writer.around([None if name == open_column else entity[name] for name in columns])
    whole = redis_key("project", entity)
    assert before + key_text(entity[open_column]) + after == whole == writer([entity[name] for name in columns])
