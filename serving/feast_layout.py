"""Feast's layout in Redis, read without Feast: bytes of keys, names of hash fields, bytes of values.

Feast 0.67, entity_key_serialization_version 3. One hash per entity and project; one field per view and feature. Source:
feast/infra/key_encoding_utils.py and feast/infra/online_stores/{redis,helpers}.py; tests hold both sides equal.
"""

import struct
from collections.abc import Mapping

import mmh3

from conf.contract import ALL_KEY, SCOPE

_STRING = 2  # feast.types.Value.ValueType.STRING
_INT64_TAG = 0x20  # field int64_val of feast.types.Value, as a varint
_WORD = 1 << 64


class LayoutError(ValueError):
    """Bytes that are no int64 of Feast's; the text shows them."""


def redis_key(project: str, entity: Mapping[str, str]) -> bytes:
    """Redis key of an entity: join key -> value, text in canonical form; empty for the views `all` and `clock`."""
    ordered = sorted((entity or {SCOPE: ALL_KEY}).items())
    parts = [struct.pack("<I", len(ordered))]
    for name, _ in ordered:
        data = name.encode()
        parts.append(struct.pack("<II", _STRING, len(data)) + data)
    for _, value in ordered:
        data = value.encode()
        parts.append(struct.pack("<II", _STRING, len(data)) + data)
    return b"".join(parts) + project.encode()


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
