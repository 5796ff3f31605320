"""Feast's layout in Redis, read without Feast: bytes of keys, names of hash fields, bytes of values.

Feast 0.67, entity_key_serialization_version 3. One hash per entity and project; one field per view and feature. Source:
feast/infra/key_encoding_utils.py and feast/infra/online_stores/{redis,helpers}.py; tests hold both sides equal.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence

import mmh3

from conf.contract import ALL_KEY, SCOPE

_STRING = 2  # feast.types.Value.ValueType.STRING
_STRING_TAG = struct.pack("<I", _STRING)
_INT64_TAG = 0x20  # field int64_val of feast.types.Value, as a varint
_WORD = 1 << 64


class LayoutError(ValueError):
    """Bytes that are no int64 of Feast's; the text shows them."""


def redis_key(project: str, entity: Mapping[str, str]) -> bytes:
    """Redis key of an entity: join key -> value, text in canonical form; empty for the views `all` and `clock`."""
    ordered = sorted((entity or {SCOPE: ALL_KEY}).items())
    return key_prefix(entity) + b"".join(_part(value) for _, value in ordered) + project.encode()


def _part(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<II", _STRING, len(data)) + data


def key_prefix(columns: Iterable[str]) -> bytes:
    """What the Redis keys of every entity of these join keys begin with, of all projects; no prefix begins another."""
    ordered = sorted(columns) or [SCOPE]
    return struct.pack("<I", len(ordered)) + b"".join(_part(name) for name in ordered)


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


class KeyWriter:
    """`redis_key` for one set of columns, for values in the columns' own order."""

    def __init__(self, project: str, columns: Sequence[str]) -> None:
        self.prefix = key_prefix(columns)
        self._order = sorted(range(len(columns)), key=lambda place: columns[place])
        self._project = project.encode()

    def __call__(self, values: Sequence[str]) -> bytes:
        return self.prefix + b"".join([_part(values[place]) for place in self._order]) + self._project


def hash_field(view: str, feature: str) -> bytes:
    """Name of a feature's field in the hash: 4 bytes."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def decode_int64(data: bytes | None) -> int | None:
    """The integer of a field, None where the field is absent or null. Raises LayoutError for any other value."""
    if not data:
        return None
    if data[0] != _INT64_TAG or len(data) < 2:
        raise LayoutError(f"found {data.hex()}, expected an int64 of Feast's")
    number = 0
    for place, byte in enumerate(data[1:]):
        number |= (byte & 0x7F) << (7 * place)
        if (byte < 0x80) != (place == len(data) - 2):
            raise LayoutError(f"found {data.hex()}, expected one int64 of Feast's and nothing after it")
    if number >= _WORD:
        raise LayoutError(f"found {data.hex()}, expected 64 bits")
    return number - _WORD if number >= _WORD // 2 else number
