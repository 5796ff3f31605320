"""Byte strings of many rows at once: matrices of bytes, rows x width, with masks of what counts, joined by one selection.

A row's string is its pieces, one after the other; of each piece the row's length tells how many of its first bytes count. Columns
of several bytes are written as words, because a machine copies a word as fast as a byte. No Python runs for a single value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.arrow_buffers import text_offsets

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Words = NDArray[Any]

_WORD = 8
_GROUP = 7  # bits of a number in each byte of a varint
# for the eight bytes of a word's lowest 56 bits: halves, then quarters, then eighths are moved apart, from the upper ones down
_SPREAD = ((0x00FFFFFFF0000000, 4), (0x0FFFC0000FFFC000, 2), (0x3F803F803F803F80, 1))
_SHORT = 32  # up to this width a piece's masks come from a table
_DIGITS = np.arange(10_000).astype("S4")


@dataclass(frozen=True)
class Piece:
    """`template`: the bytes of every row, over which `words` lie: place and one item for each row.

    lengths: how many of the first bytes count, of each row or, where all are alike, of one.
    """

    template: bytes
    words: tuple[tuple[int, Words], ...]
    lengths: Ints

    @property
    def width(self) -> int:
        return len(self.template)


@cache
def constant(data: bytes) -> Piece:
    """The same bytes in every row."""
    return Piece(data, (), np.array([len(data)]))


def decimal(numbers: Ints) -> Piece:
    """Numbers >= 0 as decimal digits."""
    largest = int(numbers.max(initial=0))
    if largest == numbers.min(initial=largest):
        return constant(b"%d" % largest)
    digits = len(str(largest))
    words = _DIGITS[numbers] if largest < len(_DIGITS) else numbers.astype("S")
    lengths = np.ones(len(numbers), np.int64)
    for places in range(1, digits):
        lengths += numbers >= 10**places
    return Piece(bytes(digits), ((0, _first(words, digits)),), lengths)


def varint(tag: int, numbers: Ints, present: Mask | None) -> Piece:
    """A tag and a number as protobuf's varint (of a negative one its 64-bit complement); nothing where it is not present."""
    unsigned = numbers.view(np.uint64)
    groups = max(1, -(-int(unsigned.max(initial=0)).bit_length() // _GROUP))
    lengths = np.ones(len(numbers), np.int64)
    for shift in range(_GROUP, _GROUP * groups, _GROUP):
        lengths += unsigned >= np.uint64(1 << shift)
    word = unsigned & np.uint64((1 << _GROUP * _WORD) - 1)
    for upper, shift in _SPREAD:
        moved = word & np.uint64(upper)
        word += moved * np.uint64((1 << shift) - 1)  # what was there once is there `shift` bits further up
    words = [(1, _first(word | _more()[lengths], min(groups, _WORD)))]
    if groups > _WORD:
        high: Words = (unsigned >> np.uint64(_GROUP * _WORD)).astype(np.uint16)
        high = (high & 0x7F) | ((high & 0x80) << 1) | ((lengths > _WORD + 1).astype(np.uint16) << 7)
        words.append((1 + _WORD, _first(high, groups - _WORD)))
    lengths += 1
    return Piece(bytes([tag, *bytes(groups)]), tuple(words), lengths if present is None else lengths * present)


@cache
def _more() -> Words:
    """For each length of a varint: the mark of its first eight bytes that another follows."""
    marks = [int.from_bytes(b"\x80" * min(length - 1, _WORD), "little") if length else 0 for length in range(11)]
    return np.array(marks, np.uint64)


def fixed(tag: bytes, words: Words, present: Mask | None) -> Piece:
    """A tag and the bytes of fixed-width words, in their own byte order; nothing where one is not present."""
    width = len(tag) + words.itemsize
    lengths = np.array([width]) if present is None or present.all() else present * np.int64(width)
    return Piece(tag + bytes(words.itemsize), ((len(tag), words),), lengths)


def texts(column: pa.StringArray | pa.BinaryArray) -> Piece:
    """The bytes of a column of strings without nulls."""
    offsets = text_offsets(column)
    lengths = np.diff(offsets).astype(np.int64)
    width = int(lengths.max(initial=0))
    if not width:
        return constant(b"")
    stored = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    if len(stored) == width * len(column):  # all are of one length
        return Piece(bytes(width), ((0, stored.view(f"V{width}")),), np.array([width]))
    block = np.zeros((len(column), width), np.uint8)
    block[np.arange(width) < lengths[:, None]] = stored
    return Piece(bytes(width), ((0, block.view(f"V{width}")[:, 0]),), lengths)


def total_lengths(pieces: Sequence[Piece]) -> Ints:
    """Bytes of each row, or of one where all rows are alike."""
    lengths = np.zeros(1, np.int64)
    for piece in pieces:
        lengths = lengths + piece.lengths
    return lengths


def joined(rows: int, pieces: Sequence[Piece]) -> Bytes:
    """All rows' strings, one after the other; rows >= 1."""
    template = np.frombuffer(b"".join(piece.template for piece in pieces), np.uint8)
    block = np.empty((rows, len(template)), np.uint8)
    block[:] = template
    at, kept = 0, None
    for piece in pieces:
        for place, words in piece.words:
            _column(block, at + place, words.dtype)[:] = words
        if piece.words and piece.lengths.min() < piece.width:
            kept = np.ones(block.shape, np.bool_) if kept is None else kept
            _keep_first(kept, at, piece)
        at += piece.width
    selected: Bytes = block.reshape(-1) if kept is None else block[kept]
    return selected


def _keep_first(kept: Mask, at: int, piece: Piece) -> None:
    """Of the piece's columns, which begin at `at`, as many as each row's length says."""
    if piece.width <= _SHORT:
        _column(kept, at, f"V{piece.width}")[:] = _prefixes(piece.width)[piece.lengths]
    else:
        np.less(np.arange(piece.width), piece.lengths[:, None], out=kept[:, at : at + piece.width])


@cache
def _prefixes(width: int) -> Words:
    """For each length up to the width: a mask of so many bytes."""
    return (np.arange(width) < np.arange(width + 1)[:, None]).view(f"V{width}")[:, 0]


def _column(matrix: NDArray[Any], place: int, kind: Any) -> Words:
    """Of each row the item of this type that begins at this place."""
    return np.ndarray(len(matrix), kind, matrix, place, matrix.strides[:1])


def _first(words: Words, number: int) -> Words:
    """The first so many bytes of each word."""
    return np.ndarray(len(words), f"V{number}", words, 0, words.strides)
