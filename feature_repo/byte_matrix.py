"""Byte strings of many rows at once: matrices of bytes, rows x width, with masks of what counts, joined by one selection.

A row's string is the bytes of its pieces, one after the other, where the masks are set. What is the same in every row is a piece
of one row. No Python runs for a single value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """`block`: rows x width, or 1 x width where all rows are alike. `keep`: of `block`, None: all. `lengths`: bytes kept."""

    block: Bytes
    keep: Mask | None
    lengths: Ints

    @property
    def width(self) -> int:
        return int(self.block.shape[1])


@cache
def constant(data: bytes) -> Piece:
    """The same bytes in every row."""
    block = np.frombuffer(data, np.uint8)[None, :]
    return Piece(block, None, np.array([len(data)]))


def decimal(numbers: Ints) -> Piece:
    """Numbers >= 0 as decimal digits."""
    digits = len(str(int(numbers.max(initial=0))))
    if digits == 1:
        return Piece((numbers + ord("0")).astype(np.uint8)[:, None], None, np.ones(len(numbers), np.int64))
    powers = 10 ** np.arange(digits - 1, -1, -1)[:, None]
    written = numbers >= powers
    written[-1] = True
    block = (numbers // powers % 10 + ord("0")).astype(np.uint8)
    return Piece(block.T, written.T, written.sum(axis=0))


def varint(tag: int, numbers: Ints, present: Mask) -> Piece:
    """A tag and a number as protobuf's varint (of a negative one its 64-bit complement); nothing where it is not present."""
    unsigned = numbers.view(np.uint64)
    groups = max(1, -(-int(unsigned.max(initial=0)).bit_length() // 7))
    shifted = unsigned >> (7 * np.arange(groups, dtype=np.uint64))[:, None]  # groups x rows: long runs are quick to work on
    follows = shifted[1:] > 0
    block = np.empty((groups + 1, len(numbers)), np.uint8)
    block[0] = tag
    block[1:] = shifted.astype(np.uint8) & 0x7F
    block[1:-1] |= follows * np.uint8(0x80)
    keep = np.empty(block.shape, np.bool_)
    keep[:2] = present
    keep[2:] = follows & present
    return Piece(block.T, keep.T, keep.sum(axis=0))


def fixed(tag: bytes, words: NDArray[np.generic], present: Mask) -> Piece:
    """A tag and the bytes of fixed-width words, in their own byte order; nothing where one is not present."""
    data = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    block = np.empty((len(words), len(tag) + data.shape[1]), np.uint8)
    block[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    block[:, len(tag) :] = data
    keep = None if present.all() else np.broadcast_to(present[:, None], block.shape)
    return Piece(block, keep, present * np.int64(block.shape[1]))


def texts(column: pa.StringArray | pa.BinaryArray) -> Piece:
    """The bytes of a column of strings without nulls."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    width, data = int(lengths.max(initial=0)), column.buffers()[2]
    if not width:
        return Piece(np.empty((len(column), 0), np.uint8), None, lengths)
    stored = np.frombuffer(data, np.uint8)
    if offsets[-1] - offsets[0] == width * len(column):  # all are of one length
        block = stored[offsets[0] : offsets[-1]].reshape(-1, width)
        return Piece(block, None, lengths)
    places = np.arange(width)
    block = stored[np.minimum(offsets[:-1, None] + places, len(stored) - 1)]
    return Piece(block, places < lengths[:, None], lengths)


def total_lengths(pieces: Sequence[Piece]) -> Ints:
    """Bytes of each row, or of one where all rows are alike."""
    lengths = np.zeros(1, np.int64)
    for piece in pieces:
        lengths = lengths + piece.lengths
    return lengths


def joined(rows: int, pieces: Sequence[Piece]) -> Bytes:
    """All rows' strings, one after the other; rows >= 1."""
    template = np.concatenate([piece.block[:1] for piece in pieces], axis=1)
    block, keep = np.empty((rows, template.shape[1]), np.uint8), np.empty((rows, template.shape[1]), np.bool_)
    block[:], keep[:] = template, True
    at = 0
    for piece in pieces:
        for place in range(at, at + piece.width):  # by columns: long runs again
            if len(piece.block) > 1:
                block[:, place] = piece.block[:, place - at]
            if piece.keep is not None:
                keep[:, place] = piece.keep[:, place - at]
        at += piece.width
    selected: Bytes = block[keep]
    return selected
