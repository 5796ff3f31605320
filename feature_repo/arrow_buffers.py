"""Arrow's columns as NumPy's arrays and back, by their buffers.

pyarrow's own `to_numpy`, `array` and `scalar` import pandas, which costs a worker's first task more than all else it does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_TYPES = {pa.int32(): np.int32, pa.int64(): np.int64, pa.float32(): np.float32, pa.float64(): np.float64}


def values(column: pa.Array) -> NDArray[Any]:
    """The numbers of a column; where one is null, any."""
    kind = column.type
    return np.frombuffer(column.buffers()[1], _TYPES[kind], len(column), column.offset * kind.byte_width)


def text_offsets(column: pa.StringArray | pa.BinaryArray) -> NDArray[np.int32]:
    """Where each text begins in the column's bytes, and where the last one ends."""
    return np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)


def present(column: pa.Array) -> NDArray[np.bool_]:
    """Whether each value is there, False where it is null."""
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    first, last = column.offset // 8, -(-(column.offset + len(column)) // 8)
    bits = np.unpackbits(np.frombuffer(column.buffers()[0], np.uint8)[first:last], bitorder="little")
    return bits[column.offset % 8 :][: len(column)].view(np.bool_)


def mask(chosen: NDArray[np.bool_]) -> pa.BooleanArray:
    """For `filter`."""
    return pa.Array.from_buffers(pa.bool_(), len(chosen), [None, pa.py_buffer(np.packbits(chosen, bitorder="little"))])


def binaries(items: Sequence[bytes]) -> pa.BinaryArray:
    """A column of these."""
    offsets = np.zeros(len(items) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, items), np.int32, len(items)), out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), len(items), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(items))])
