"""Arrow's buffers read and made without pyarrow's conversions."""

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.arrow_buffers import binaries, mask, present, text_offsets, values


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("start", [0, 3, 9])
def test_slices_with_nulls(kind: pa.DataType, start: int) -> None:
    items = [None if n % 3 == 0 else n for n in range(40)]
    column = pa.array(items, kind).slice(start, 20)
    there = present(column)
    assert there.tolist() == [n is not None for n in items[start : start + 20]]
    assert values(column)[there].tolist() == [n for n in items[start : start + 20] if n is not None]
    assert present(pa.array([1, 2], kind)).tolist() == [True, True]


def test_texts_and_masks() -> None:
    column = pa.array(["a", "", "bcd", "e"]).slice(1, 3)
    assert np.diff(text_offsets(column)).tolist() == [0, 3, 1]
    chosen = np.array([n % 5 == 0 for n in range(19)])
    assert mask(chosen).to_pylist() == chosen.tolist()
    for items in ([b"a", b"", b"\0xyz"], []):
        assert binaries(items) == pa.array(items, pa.binary())
