"""The loops of serving/known_candidates.py, compiled by serving/compiler.py: find candidates by their text, write their answer's
text. Records: serving/records.py.
"""

import numpy as np

from serving.compiler import LINE, c_function, carray, compiled, prefetch, put_word, trailing_zeros, word_at
from serving.records import COUNTS, HEAD
from serving.records import EMPTY as _EMPTY

EMPTY = np.uint32(_EMPTY)
_PROBES = 16  # looked at for one text; more would let a caller who knows the hash make everybody's look-ups long
_SEED, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)  # odd, and of many bits
_OPEN, _SHUT, _COMMA, _END, _SPACE = 0x7B, 0x7D, 0x2C, 0x5D, 0x20
_ONE, _EIGHT, _HALF, _LOW = np.uint64(1), np.uint64(8), np.uint64(32), np.uint64(0xFFFF)
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
# a byte, eight times
_ONES, _HIGHS, _SHUTS, _COMMAS = (np.uint64(0x0101_0101_0101_0101 * byte) for byte in (1, 0x80, _SHUT, _COMMA))
_16 = np.uint64(16)
_SIZE_BITS = 31  # of a place in a body
_SIZES = (1 << _SIZE_BITS) - 1


@compiled
def _word_of(text, at, end):  # type: ignore[no-untyped-def]
    """The next eight bytes of text[at:end], zeros behind its end; as a processor reads them that has the lowest byte first."""
    left = end - at
    if at + 8 <= text.shape[0]:
        word = word_at(text.ctypes.data + at)
        return word if left >= 8 else word & ((_ONE << np.uint64(8 * left)) - _ONE)
    word = np.uint64(0)
    for n in range(min(left, 8)):
        word |= np.uint64(text[at + n]) << np.uint64(8 * n)
    return word


@compiled
def _first(word, bytes_alike):  # type: ignore[no-untyped-def]
    """Its lowest bit that is set stands in the first byte of `word` that is the one in `bytes_alike`; 0: there is none."""
    other = word ^ bytes_alike
    return (other - _ONES) & ~other & _HIGHS


@compiled
def _mixed(value, word):  # type: ignore[no-untyped-def]
    value = (value ^ word) * _PRIME
    return value ^ (value >> _HALF)


@c_function("bytes", "int")
def hash_text(text, length):  # type: ignore[no-untyped-def]
    """The hash of a text, as a signed number."""
    body, value = carray(text, (length,)), _SEED
    for at in range(0, length, 8):
        value = _mixed(value, _word_of(body, at, length))
    return np.int64(value)


@c_function("bytes", "int", "int", "int", "uint32*", "int", "uint64*", "int")
def find_place(text, length, value, parts, table_at, places, words_at, room):  # type: ignore[no-untyped-def]
    """`place_of` a text with this hash. length, places, room: of the text, the table, the words."""
    table, words = carray(table_at, (places,)), carray(words_at, (room,))
    return place_of(carray(text, (length,)), 0, length, np.uint64(value), parts, table, words)


@compiled
def place_of(text, start, end, value, parts, table, words):  # type: ignore[no-untyped-def]
    """Where in `table` the record of text[start:end] with this hash stands, or may be put; -1 where there is no room for it."""
    last = np.uint64(table.shape[0] - 1)
    length = end - start
    for probe in range(_PROBES):
        place = (value + np.uint64(probe)) & last
        record = table[place]
        if record == EMPTY:
            return np.int64(place)
        at = np.uint64(record)
        if words[at] == value and np.int64((words[at + np.uint64(2)] >> _16) & _LOW) == length:
            of = np.int64(record) + HEAD + parts
            same = True
            for n in range((length + 7) // 8):
                if words[of + n] != _word_of(text, start + 8 * n, end):
                    same = False
                    break
            if same:
                return np.int64(place)
    return np.int64(-1)


@compiled
def _hashed(body, start, most, spans, hashes, table_from, last):  # type: ignore[no-untyped-def]
    """How many objects there are from body[start] on, and where their array ends; (0, 0) where it is not written simply.

    spans: (most,) where each begins << _SIZE_BITS | where it ends. Their places in the table are asked for.
    """
    count, at, size = 0, np.uint64(start), np.uint64(body.shape[0])
    while True:
        while at < size and body[at] == _SPACE:
            at += _ONE
        if at >= size or body[at] != _OPEN or count == most:
            return 0, 0
        begin, value = at, _SEED
        while True:  # to the first "}": what is known has no other, so if there is one in a text, it is not known
            if at >= size:
                return 0, 0
            word = _word_of(body, np.int64(at), np.int64(size))
            shut = _first(word, _SHUTS)
            if shut:
                bits = np.uint64(trailing_zeros(shut)) + _ONE
                at += bits >> np.uint64(3)
                value = _mixed(value, word & (_ALL >> (np.uint64(64) - bits)))
                break
            value = _mixed(value, word)
            at += _EIGHT
        prefetch(table_from + 4 * np.int64(value & last))
        spans[count], hashes[count] = np.int64(begin) << _SIZE_BITS | np.int64(at), value
        count += 1
        while at < size and body[at] == _SPACE:
            at += _ONE
        if at >= size:
            return 0, 0
        if body[at] == _END:
            return count, np.int64(at)
        if body[at] != _COMMA:
            return 0, 0
        at += _ONE


@c_function("bytes", "int", "int", "uint32*", "int", "uint64*", "int", "int", "int", "uint32*", "int64*", "int64*", "int")
def find_records(  # type: ignore[no-untyped-def]
    text, start, length, table_at, places, words_at, room, stamp, parts, records_at, rows_at, work_at, most
):
    """Where the array ends * COUNTS + how many, of the JSON array whose first byte after "[" is text[start].

    Their records go to `records`, their rows to `rows` (parts, most). 0 where a candidate is not known, stands twice, is one too
    many, or is not written as simply as those that are known. length, places, room: of the text, the table, the words.
    stamp: a number that no record bears yet. work: (2, most).
    """
    body, table, words = carray(text, (length,)), carray(table_at, (places,)), carray(words_at, (room,))
    records, rows = carray(records_at, (most,)), carray(rows_at, (parts, most))
    work = carray(work_at, (2, most))
    spans, hashes = work[0], work[1].view(np.uint64)
    table_from, words_from, last = np.int64(table.ctypes.data), np.int64(words.ctypes.data), np.uint64(places - 1)
    count, end = _hashed(body, start, most, spans, hashes, table_from, last)
    for n in range(count):  # each pass asks memory for what the next one reads
        record = table[hashes[n] & last]
        if record != EMPTY:
            prefetch(words_from + 8 * np.int64(record))
            prefetch(words_from + 8 * np.int64(record) + LINE)
    for n in range(count):
        begin, stop = spans[n] >> _SIZE_BITS, spans[n] & _SIZES
        place = place_of(body, begin, stop, hashes[n], parts, table, words)
        if place < 0 or table[place] == EMPTY:
            return 0
        record = table[place]
        first = words[np.uint64(record) + np.uint64(2)] >> _HALF
        if words[first + _ONE] == np.uint64(stamp):
            return 0
        words[first + _ONE] = np.uint64(stamp)
        records[n] = record
        for part in range(parts):
            rows[part, n] = words[np.uint64(record) + np.uint64(HEAD) + np.uint64(part)]
    return end * COUNTS + count


@c_function("uint32*", "int", "int", "uint64*", "int", "bytes", "int", "uint8*", "int")
def write_predictions(records_at, count, parts, words_at, room, text, length, out_at, size):  # type: ignore[no-untyped-def]
    """Bytes written to `out`: of each record what the answer says, its number, "}", and commas.

    text: the numbers, a JSON array. room, length, size: of the words, the text, `out`, of which the last 8 bytes may be written.
    """
    records, words = carray(records_at, (count,)), carray(words_at, (room,))
    numbers, out = carray(text, (length,)), carray(out_at, (size,))
    words_from, out_from = np.int64(words.ctypes.data), np.int64(out.ctypes.data)
    for n in range(count):
        prefetch(words_from + 8 * np.int64(records[n]))
        prefetch(words_from + 8 * np.int64(records[n]) + LINE)
    to, at, end = np.int64(0), np.int64(1), length - 1
    for n in range(count):
        record = np.uint64(records[n])
        about = words[record + np.uint64(2)]
        said, text_length = np.int64(about & _LOW), (about >> _16) & _LOW
        of = record + np.uint64(HEAD) + np.uint64(parts) + (text_length + np.uint64(7)) // _EIGHT
        for word in range(np.uint64((said + 7) >> 3)):  # what is written behind its end is written over
            put_word(out_from + to + np.int64(word) * 8, words[of + word])
        to += said
        while True:  # a number, up to the comma behind it
            word = _word_of(numbers, at, end)
            put_word(out_from + to, word)
            comma = _first(word, _COMMAS)
            if comma:
                size_of = np.int64(trailing_zeros(comma)) >> 3
                to, at = to + size_of, at + size_of + 1
                break
            if at + 8 >= end:
                to, at = to + end - at, end
                break
            to, at = to + 8, at + 8
        out[np.uint64(to)] = _SHUT
        out[np.uint64(to + 1)] = _COMMA
        to += 2
    return to - 1
