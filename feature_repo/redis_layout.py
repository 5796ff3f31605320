"""Feast's layout in Redis, written and read without Feast: keys, names of hash fields, values; commands of whole Arrow batches.

Feast 0.67, entity_key_serialization_version 3. One hash per entity and project; one field per view and feature, and `_ts:<view>`
with the row's time. Source: feast/infra/key_encoding_utils.py, feast/infra/online_stores/{redis,helpers}.py and
protos/feast/types/Value.proto; tests hold both sides equal. docs/materialize.md shows it on one page.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import DataError
from conf.names import ALL_KEY, SCOPE
from feature_repo.arrow_buffers import present, text_offsets, values
from feature_repo.byte_matrix import Ints, Mask, Piece, constant, decimal, fixed, joined, texts, total_lengths, varint

AT = "at_us"  # column of a batch: the row's time, microseconds since 1970
REDIS_KEY = "redis_key"  # column of a batch that has been given its keys
_STRING, _INT32, _INT64 = 2, 3, 4  # feast.types.Value.ValueType
_STRING_TAG = struct.pack("<I", _STRING)
_INT64_TAG = 0x20  # field int64_val of feast.types.Value, as a varint
_WORD = 1 << 64
_MATRIX_BYTES = 1 << 20  # of one part of the work: it should stay in the processor's cache
_FRAME = 32  # bytes about that a column takes besides its text


class LayoutError(DataError):
    """Bytes that are not Feast's, or rows that Feast's layout cannot hold; the text shows them."""


# ---- one at a time


def redis_key(project: str, entity: Mapping[str, str]) -> bytes:
    """Redis key of an entity: join key -> value, text in canonical form; empty for the views `all` and `clock`."""
    ordered = sorted((entity or {SCOPE: ALL_KEY}).items())
    return key_prefix(entity) + b"".join(key_text(value) for _, value in ordered) + project.encode()


class KeyWriter:
    """`redis_key` for one set of join keys, for values in the columns' own order."""

    def __init__(self, project: str, columns: Sequence[str]) -> None:
        self.prefix = key_prefix(columns)
        self._order = sorted(range(len(columns)), key=lambda place: columns[place])
        self._project = project.encode()

    def __call__(self, values: Sequence[str]) -> bytes:
        return self.prefix + b"".join([key_text(values[place]) for place in self._order]) + self._project

    def around(self, values: Sequence[str | None]) -> tuple[bytes, bytes]:
        """Of the keys that differ in the one value which is None here: what stands before and after its `key_text`."""
        place = next(n for n, at in enumerate(self._order) if values[at] is None)
        texts = [b"" if (value := values[at]) is None else key_text(value) for at in self._order]
        return self.prefix + b"".join(texts[:place]), b"".join(texts[place:]) + self._project


def key_prefix(columns: Iterable[str]) -> bytes:
    """How the keys of every entity of these join keys begin, of all projects; no prefix begins another."""
    ordered = sorted(columns) or [SCOPE]
    return struct.pack("<I", len(ordered)) + b"".join(key_text(name) for name in ordered)


def key_text(text: str) -> bytes:
    """A name or a value as it stands in a key."""
    data = text.encode()
    return struct.pack("<II", _STRING, len(data)) + data


def scan_pattern(columns: Iterable[str], project: str) -> bytes:
    """For SCAN: every key of these join keys and this project, and some that `is_key` tells apart."""
    return _escaped(key_prefix(columns)) + b"*" + _escaped(project.encode())


def _escaped(text: bytes) -> bytes:
    """For a pattern of Redis': every byte that means something there, as itself."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^-\\" else bytes([byte]) for byte in text)


def is_key(data: bytes, prefix: bytes, parts: int, project: str) -> bool:
    """Whether these bytes are a key of the project with this prefix: so many texts, then the project's name, and no more."""
    at = len(prefix)
    if not data.startswith(prefix):
        return False
    for _ in range(parts):
        if data[at : at + 4] != _STRING_TAG or len(data) < at + 8:
            return False
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return data[at:] == project.encode()


def project_of(key: bytes) -> bytes:
    """The project at a Redis key's end; empty where the key is not of this layout."""
    try:
        (names,) = struct.unpack_from("<I", key)
        at = 4
        for _ in range(2 * names):  # names, then values
            _, length = struct.unpack_from("<II", key, at)
            at += 8 + length
    except struct.error:
        return b""
    return key[at:]


def hash_field(view: str, feature: str) -> bytes:
    """Name of a feature's field in the hash: 4 bytes."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def time_field(view: str) -> bytes:
    """Name of the field that holds the row's time."""
    return f"_ts:{view}".encode()


def encode_int64(number: int) -> bytes:
    """The field of an integer of 64 bits."""
    number %= _WORD
    data = bytearray([_INT64_TAG])
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def decode_int64(data: bytes | None) -> int | None:
    """The integer of a field, None where the field is absent or null. Raises LayoutError for any other value."""
    if not data:
        return None
    if data[0] != _INT64_TAG or len(data) < 2:
        raise LayoutError(f"found {data.hex()}, expected an int64 of Feast's")
    number, end = _read_varint(data, 1)
    if end != len(data):
        raise LayoutError(f"found {data.hex()}, expected one int64 of Feast's and nothing after it")
    return number


def decode_time(data: bytes) -> int:
    """The time of a `_ts` field, in microseconds since 1970. Raises LayoutError."""
    parts, at = {0x08: 0, 0x10: 0}, 0  # protobuf's Timestamp: seconds and nanoseconds, left out where 0
    while at < len(data):
        tag = data[at]
        if tag not in parts:
            raise LayoutError(f"found {data.hex()}, expected a time of Feast's")
        parts[tag], at = _read_varint(data, at + 1)
    return parts[0x08] * 1_000_000 + parts[0x10] // 1_000


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """A signed 64-bit number and where it ends."""
    number = 0
    for place, byte in enumerate(data[start:]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if number >= _WORD:
                break
            return number - _WORD if number >= _WORD // 2 else number, start + place + 1
    raise LayoutError(f"found {data.hex()}, expected a varint of 64 bits")


# ---- whole batches


@dataclass(frozen=True)
class ViewLayout:
    """What of a view's rows is the same in every row, and the commands of a batch of them.

    keys, features: name and type of a column, by the names of KEY_TYPES and VALUE_TYPES. A batch has these columns, and AT.
    """

    project: str
    view: str
    keys: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]

    def redis_keys(self, batch: pa.RecordBatch) -> pa.BinaryArray:
        """The Redis key of each row. Raises LayoutError where a join key is null."""

        def pieces(part: pa.RecordBatch) -> list[Piece]:
            named = [piece for name, kind in sorted(self.keys) for piece in KEY_TYPES[kind](self._not_null(part, name))]
            return [constant(key_prefix([name for name, _ in self.keys])), *named, constant(self.project.encode())]

        return _strings(batch, pieces)

    def write(self, keys: pa.BinaryArray, batch: pa.RecordBatch) -> bytes:
        """HSET of each row: its time and features."""

        def pieces(part: pa.RecordBatch) -> list[Piece]:
            fields = [*_name(time_field(self.view)), *_argument(_time(part.column(AT)))]
            for name, kind in self.features:
                fields += [*_name(hash_field(self.view, name)), *_argument(_VALUES[kind](part.column(name)))]
            return [*_command(b"HSET", part, 2 + 2 * len(self._fields)), *fields]

        return _commands(batch.append_column(REDIS_KEY, keys), pieces)

    def remove(self, keys: pa.BinaryArray) -> bytes:
        """HDEL of the view's fields of each key; Redis drops a key with its last field."""
        names = [piece for field in self._fields for piece in _name(field)]
        return _commands(_only(keys), lambda part: [*_command(b"HDEL", part, 2 + len(self._fields)), *names])

    def ask_time(self, keys: pa.BinaryArray) -> bytes:
        """HGET of the time that Redis holds for each key."""
        return _commands(_only(keys), lambda part: [*_command(b"HGET", part, 3), *_name(time_field(self.view))])

    def expire(self, keys: pa.BinaryArray, batch: pa.RecordBatch, ttl_s: int, how: bytes) -> bytes:
        """EXPIREAT, `how` NX or GT, of each key at its row's time plus ttl_s."""

        def pieces(part: pa.RecordBatch) -> list[Piece]:
            at = np.maximum(-(-_numbers(part.column(AT)) // 1_000_000) + ttl_s, 0)
            return [*_command(b"EXPIREAT", part, 4), *_argument([decimal(at)]), *_name(how)]

        return _commands(batch.append_column(REDIS_KEY, keys), pieces)

    def zeros(self, batch: pa.RecordBatch) -> Mask:
        """Whether a row says nothing that an absent one would not: each feature zero, empty or null."""
        zeros = np.ones(batch.num_rows, np.bool_)
        for name, _ in self.features:
            zeros &= _sizes(batch.column(name)) == 0
        return zeros

    @property
    def _fields(self) -> list[bytes]:
        return [time_field(self.view), *(hash_field(self.view, name) for name, _ in self.features)]

    def _not_null(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        column = batch.column(name)
        if column.null_count:
            raise LayoutError(f"view {self.view}: found rows without {name}, expected a value in each")
        return column


Pieces = Callable[[pa.RecordBatch], list[Piece]]


def _only(keys: pa.BinaryArray) -> pa.RecordBatch:
    return pa.record_batch({REDIS_KEY: keys})


def _commands(batch: pa.RecordBatch, pieces: Pieces) -> bytes:
    return b"".join(joined(rows, made) for rows, made in _in_parts(batch, pieces))


def _strings(batch: pa.RecordBatch, pieces: Pieces) -> pa.BinaryArray:
    """The pieces of each row joined."""
    data, lengths = [], [np.zeros(1, np.int64)]
    for rows, made in _in_parts(batch, pieces):
        data.append(joined(rows, made))
        lengths.append(np.broadcast_to(total_lengths(made), rows))
    offsets = np.cumsum(np.concatenate(lengths), dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), batch.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))])


def _in_parts(batch: pa.RecordBatch, pieces: Pieces) -> Iterator[tuple[int, list[Piece]]]:
    """Rows and pieces of parts of the batch whose matrices take about _MATRIX_BYTES, however long its longest text is."""
    longest = sum(pc.max(pc.binary_length(column)).as_py() or 0 for column in batch.columns if _is_text(column.type))
    rows = max(1, _MATRIX_BYTES // (longest + _FRAME * batch.num_columns))
    for start in range(0, batch.num_rows, rows):
        part = batch.slice(start, rows)
        yield part.num_rows, pieces(part)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _command(name: bytes, batch: pa.RecordBatch, arguments: int) -> list[Piece]:
    """A command's beginning, in Redis' protocol, up to its key."""
    return [constant(b"*%d\r\n$%d\r\n%b\r\n" % (arguments, len(name), name)), *_argument([texts(batch.column(REDIS_KEY))])]


def _name(data: bytes) -> list[Piece]:
    """An argument that is the same in every row."""
    return [constant(b"$%d\r\n%b\r\n" % (len(data), data))]


def _argument(pieces: list[Piece]) -> list[Piece]:
    lengths = total_lengths(pieces)
    return [constant(b"$"), decimal(lengths), constant(b"\r\n"), *pieces, constant(b"\r\n")]


def _numbers(column: pa.Array) -> Ints:
    """Values as int64, 0 where null."""
    numbers: Ints = values(column.cast(pa.int64()))
    return np.where(present(column), numbers, 0) if column.null_count else numbers


def _sizes(column: pa.Array) -> NDArray[Any]:
    """Numbers, or the lengths of texts; 0 where null."""
    if _is_text(column.type):
        return np.where(present(column), np.diff(text_offsets(column)), 0)
    if pa.types.is_floating(column.type):
        return np.where(present(column), np.nan_to_num(values(column), nan=0), 0)
    return _numbers(column)


def _time(column: pa.Array) -> list[Piece]:
    seconds, micros = np.divmod(_numbers(column), 1_000_000)
    return [varint(0x08, seconds, seconds != 0), varint(0x10, micros * 1_000, micros != 0)]


def _integer(tag: int) -> Callable[[pa.Array], list[Piece]]:
    return lambda column: [varint(tag, _numbers(column), present(column))]


def _float(tag: bytes, kind: str) -> Callable[[pa.Array], list[Piece]]:
    def pieces(column: pa.Array) -> list[Piece]:
        words = values(column).astype(kind, copy=False)
        return [fixed(tag, words, present(column) & ~np.isnan(words))]  # Feast takes NaN for null

    return pieces


def _string(column: pa.Array) -> list[Piece]:
    text, there = texts(column), present(column)
    return [varint(0x12, text.lengths, there), replace(text, lengths=text.lengths * there)]


def _key_string(column: pa.Array) -> list[Piece]:
    text = texts(column)
    return [fixed(_STRING_TAG, text.lengths.astype("<u4"), None), text]


def _key_integer(kind: int, word: str) -> Callable[[pa.Array], list[Piece]]:
    head = struct.pack("<II", kind, np.dtype(word).itemsize)
    return lambda column: [fixed(head, _numbers(column).astype(word), None)]


KEY_TYPES: dict[str, Callable[[pa.Array], list[Piece]]] = {
    "String": _key_string,
    "Int64": _key_integer(_INT64, "<i8"),
    "Int32": _key_integer(_INT32, "<i4"),
}
_VALUES: dict[str, Callable[[pa.Array], list[Piece]]] = {
    "String": _string,
    "Int64": _integer(_INT64_TAG),
    "Int32": _integer(0x18),
    "Bool": _integer(0x38),
    "Float64": _float(b"\x29", "<f8"),
    "Float32": _float(b"\x35", "<f4"),
}
VALUE_TYPES = tuple(_VALUES)
