"""The loops of serving/known_candidates.py, compiled by numba: find candidates by their text, write their answer's text.

All that is known of a candidate stands together, so that a request touches one or two lines of the cache for each. A record in
`words` (8 bytes each): hash of the text; stamp; record of the candidate's first text, and both lengths; a row for each part; then
the text, and what the answer says of it, each from a whole word on. `data` is the same memory as bytes.
"""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.kernels import compiled

from numba import carray, cfunc, types  # isort: skip  # serving/kernels.py says first how it compiles

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

COUNTS = 1 << 16  # more than a request has candidates
EMPTY = np.uint32(0xFFFF_FFFF)
HEAD = 3  # words of a record before its rows
_PROBES = 16  # looked at for one text; more would let a caller who knows the hash make everybody's look-ups long
_SEED, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, of 64 bits
_QUOTE, _BACKSLASH, _OPEN, _SHUT, _COMMA, _END, _SPACE = 0x22, 0x5C, 0x7B, 0x7D, 0x2C, 0x5D, 0x20
_ONE, _EIGHT, _HALF, _LOW, _FIRST = np.uint64(1), np.uint64(8), np.uint64(32), np.uint64(0xFFFF), np.uint64(0)
_16, _COUNTS = np.uint64(16), np.int64(COUNTS)


@compiled
def hash_of(data):  # type: ignore[no-untyped-def]
    """Of a text's bytes."""
    value = _SEED
    for at in range(data.shape[0]):
        value = (value ^ np.uint64(data[at])) * _PRIME
    return value


@compiled
def place_of(text, start, end, value, parts, table, words, data):  # type: ignore[no-untyped-def]
    """Where in `table` the record of text[start:end] with this hash stands, or may be put; -1 where there is no room for it."""
    last = np.uint64(table.shape[0] - 1)
    mixed = value ^ (value >> _HALF)
    length = end - start
    for probe in range(_PROBES):
        place = (mixed + np.uint64(probe)) & last
        record = table[place]
        if record == EMPTY:
            return np.int64(place)
        at = np.uint64(record)
        if words[at] == value and np.int64((words[at + np.uint64(2)] >> _16) & _LOW) == length:
            of = (at + np.uint64(HEAD) + np.uint64(parts)) * _EIGHT
            same = True
            for n in range(np.uint64(length)):
                if data[of + np.uint64(n)] != text[np.uint64(start) + np.uint64(n)]:
                    same = False
                    break
            if same:
                return np.int64(place)
    return np.int64(-1)


_FIND = types.int64(
    types.CPointer(types.uint8), types.int64, types.int64, types.CPointer(types.uint32), types.int64, types.CPointer(types.uint64),
    types.int64, types.uint64, types.int64, types.CPointer(types.uint32), types.CPointer(types.int64), types.int64,
)  # fmt: skip


@cfunc(_FIND, cache=True)
def _find(text, start, length, table_of, places, words_of, room, stamp, parts, records_of, rows_of, most):  # type: ignore[no-untyped-def]
    """See `find_records`."""
    body, table, words = carray(text, (length,)), carray(table_of, (places,)), carray(words_of, (room,))
    data = words.view(np.uint8)
    records, rows = carray(records_of, (most,)), carray(rows_of, (parts, most))
    count, at, size = 0, np.uint64(start), np.uint64(length)
    while True:
        while at < size and body[at] == _SPACE:
            at += _ONE
        if at >= size or body[at] != _OPEN or count == most:
            return 0
        begin, inside, value = at, False, _SEED
        while at < size:
            byte = body[at]
            value = (value ^ np.uint64(byte)) * _PRIME
            at += _ONE
            if byte == _QUOTE:
                inside = not inside
            elif byte == _BACKSLASH:
                return 0
            elif byte == _SHUT and not inside:
                break
        place = place_of(body, np.int64(begin), np.int64(at), value, parts, table, words, data)
        if place < 0 or table[place] == EMPTY:
            return 0
        record = table[place]
        first = words[np.uint64(record) + np.uint64(2)] >> _HALF
        if words[first + _ONE] == stamp:
            return 0
        words[first + _ONE] = stamp
        records[count] = record
        for part in range(parts):
            rows[part, count] = words[np.uint64(record) + np.uint64(HEAD) + np.uint64(part)]
        count += 1
        while at < size and body[at] == _SPACE:
            at += _ONE
        if at >= size:
            return 0
        if body[at] == _END:
            return np.int64(at) * _COUNTS + count
        if body[at] != _COMMA:
            return 0
        at += _ONE


_WRITE = types.int64(
    types.CPointer(types.uint32), types.int64, types.int64, types.CPointer(types.uint64), types.int64, types.CPointer(types.uint8),
    types.int64, types.CPointer(types.uint8), types.int64,
)  # fmt: skip


@cfunc(_WRITE, cache=True)
def _write(records_of, count, parts, words_of, room, text, length, out_of, size):  # type: ignore[no-untyped-def]
    """See `write_predictions`."""
    records, words, numbers, out = carray(records_of, (count,)), carray(words_of, (room,)), carray(text, (length,)), carray(out_of, (size,))
    data = words.view(np.uint8)
    to, at = np.uint64(0), np.uint64(1)
    for n in range(count):
        record = np.uint64(records[n])
        about = words[record + np.uint64(2)]
        text_words = (((about >> _16) & _LOW) + np.uint64(7)) // _EIGHT
        of = (record + np.uint64(HEAD) + np.uint64(parts) + text_words) * _EIGHT
        for byte in range(about & _LOW):
            out[to] = data[of + np.uint64(byte)]
            to += _ONE
        while numbers[at] != _COMMA and numbers[at] != _END:
            out[to] = numbers[at]
            to += _ONE
            at += _ONE
        at += _ONE
        out[to] = _SHUT
        out[to + _ONE] = _COMMA
        to += np.uint64(2)
    return np.int64(to) - 1


_INT, _ADDRESS, _BYTES = ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p

# (body, start, its length, table, its length, words, their number, stamp, parts, records, rows, most) -> where the array ends *
# COUNTS + how many. The JSON array is the one whose first byte after "[" is body[start]. Their records go to `records`, their
# rows to `rows` (parts, most). 0 where a candidate is not known, stands twice, is one too many, or is not written as simply as
# those that are known. stamp: a number that no record bears yet.
find_records: Any = ctypes.PYFUNCTYPE(
    _INT, _BYTES, _INT, _INT, _ADDRESS, _INT, _ADDRESS, _INT, _INT, _INT, _ADDRESS, _ADDRESS, _INT
)(_find.address)
# (records, how many, parts, words, their number, numbers, their length, out, its length) -> bytes written to `out`: of each record
# what the answer says, its number, "}", and commas. numbers: a JSON array's text.
write_predictions: Any = ctypes.PYFUNCTYPE(
    _INT, _ADDRESS, _INT, _INT, _ADDRESS, _INT, _BYTES, _INT, _ADDRESS, _INT
)(_write.address)


def warm_up() -> None:
    """Compile what adds a record, so that no request waits for it."""
    text, words = np.frombuffer(b"{}", dtype=np.uint8), np.zeros(8, dtype=np.uint64)
    table, data = np.full(2, EMPTY, dtype=np.uint32), words.view(np.uint8)
    value: Any = np.uint64(hash_of(text))
    place_of(text, 0, 2, value, 1, table, words, data)
