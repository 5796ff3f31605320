"""The loops of the scorer (serving/scorer.py), compiled by numba, which keeps the machine code in NUMBA_CACHE_DIR.

A request is answered by one C function (`answer`), called with addresses: numba's own way from Python takes each array apart at
every call, and a model has thirty of them.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Leaves are picked by gather instructions where the loops are vectorized, which on common processors is three times slower.
os.environ["NUMBA_LOOP_VECTORIZE"] = "0"

from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.cpython.unsafe.numbers import trailing_zeros as _trailing_zeros
from numba.extending import intrinsic

Words = npt.NDArray[np.uint64]

trailing_zeros: Any = _trailing_zeros
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
BLOCK = 64  # nodes
NUMBERS = 256  # that a byte holds
_LEAF_BITS = np.uint64(6)  # a word has 64
compiled: Any = njit(cache=True, nogil=True)


class Nodes(NamedTuple):
    """The inner nodes that ask the features of one part, ordered by feature and threshold, and what many of them leave together.

    starts: (features + 1,) where a feature's nodes begin. thresholds, words, masks: (nodes,): x >= threshold leaves only the
    mask's leaves in the word. together: (features + 1 + blocks, words) what is left by all of a feature's nodes that send missing
    values right; by no node; and by a feature's first 1, 2, 3 ... blocks of BLOCK nodes, from row blocks[feature] on.
    """

    starts: npt.NDArray[np.int32]
    thresholds: npt.NDArray[np.float32]
    words: npt.NDArray[np.uint32]
    masks: Words
    together: Words
    blocks: npt.NDArray[np.int32]


class Terms(NamedTuple):
    """The ridge part's columns of one part, see models/ridge.py. columns: positions in the part's vector."""

    columns: npt.NDArray[np.int32]
    means: npt.NDArray[np.float64]
    scales: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    weights_missing: npt.NDArray[np.float64]
    farthest: float
    grid: float


@compiled
def write_rows(vectors, nodes, terms, masks, units, at):  # type: ignore[no-untyped-def]
    """Masks (words) and ridge units of a part's vectors (rows, features), into rows `at` of `masks` and `units`."""
    for row in range(vectors.shape[0]):
        mask_of(vectors[row], nodes, masks[at[row]])
        units[at[row]] = units_of(vectors[row], terms)


@compiled
def number_masks(masks, at, distinct, counts, codes):  # type: ignore[no-untyped-def]
    """Rows `at` of `masks` as numbers, into the same rows of `codes`; False where a word has more masks than there are numbers.

    distinct: (words, numbers) a word's masks, of which counts[word] are there.
    """
    for row in at:
        for word in range(masks.shape[1]):
            mask, code, count = masks[row, word], 0, counts[word]
            while code < count and distinct[word, code] != mask:
                code += 1
            if code == NUMBERS:
                return False
            if code == count:
                distinct[word, code] = mask
                counts[word] = count + 1
            codes[row, word] = code
    return True


@compiled
def mask_of(vector, nodes, mask):  # type: ignore[no-untyped-def]
    """The leaves that are left in each word when every node that asks this part is answered."""
    features, thresholds, words, masks = vector.shape[0], nodes.thresholds, nodes.words, nodes.masks
    chosen, begin = np.empty(features, np.uint32), np.empty(features, np.uint32)
    for feature in range(features):
        value = vector[feature]
        start, end = nodes.starts[feature], nodes.starts[feature + 1]
        if np.isnan(value):
            chosen[feature], begin[feature] = feature, end
            continue
        block = 0
        while start + (block + 1) * BLOCK <= end and value >= thresholds[start + (block + 1) * BLOCK - 1]:
            block += 1
        chosen[feature] = nodes.blocks[feature] + block - 1 if block else features
        begin[feature] = start + block * BLOCK
    together = nodes.together
    for word in range(np.uint64(mask.shape[0])):
        left = _ALL
        for feature in range(np.uint64(features)):
            left &= together[chosen[feature], word]
        mask[word] = left
    for feature in range(features):
        value = vector[feature]
        for node in range(begin[feature], np.uint32(nodes.starts[feature + 1])):
            if value < thresholds[node]:
                break
            mask[words[node]] &= masks[node]


@compiled
def units_of(vector, terms):  # type: ignore[no-untyped-def]
    """Sum of models/ridge.py's terms, in its own arithmetic: every step rounds as NumPy's does."""
    units = np.int64(0)
    for n in range(terms.columns.shape[0]):
        value = np.float64(vector[terms.columns[n]])
        if np.isnan(value):
            term = terms.weights_missing[n]
        else:
            standard = (value - terms.means[n]) / terms.scales[n]
            term = min(max(standard, -terms.farthest), terms.farthest) * terms.weights[n]
        units += np.int64(np.rint(term / terms.grid))
    return units


@compiled
def sum_leaves(asked, shared, rows, count, masks, units, leaves, more_words, more_shifts, sums):  # type: ignore[no-untyped-def]
    """Units of each candidate: of the leaves that its rows and the request's mask leave, of the ridge's terms, and `shared`.

    asked: (words,). rows: (parts, at least count) rows of `masks` and `units`. leaves: (words * 64,) a leaf's value at its bit.
    The first tree of a word begins at bit 0; more_words, more_shifts: where the others do.
    """
    words = np.uint64(asked.shape[0])
    left = np.empty(asked.shape[0], np.uint64)
    for candidate in range(count):
        total = shared
        before = asked
        for part in range(rows.shape[0]):
            row = masks[rows[part, candidate]]
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & row[word]
            before = left
        sums[candidate] = total + _leaves_left(left, leaves, more_words, more_shifts)


@compiled
def sum_numbered(asked, shared, rows, count, codes, distinct, units, leaves, more_words, more_shifts, sums):  # type: ignore[no-untyped-def]
    """`sum_leaves` from rows of numbers. distinct: (parts, words, numbers)."""
    words = np.uint64(asked.shape[0])
    left = np.empty(asked.shape[0], np.uint64)
    for candidate in range(count):
        total = shared
        before = asked
        for part in range(rows.shape[0]):
            row, masks = codes[rows[part, candidate]], distinct[part]
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & masks[word, row[word]]
            before = left
        sums[candidate] = total + _leaves_left(left, leaves, more_words, more_shifts)


@compiled
def _leaves_left(left, leaves, more_words, more_shifts):  # type: ignore[no-untyped-def]
    """Sum of every tree's lowest leaf that is left."""
    summed = np.int32(0)
    for word in range(np.uint64(left.shape[0])):
        summed += leaves[(word << _LEAF_BITS) + np.uint64(trailing_zeros(left[word]))]
    for n in range(more_words.shape[0]):
        word, shift = more_words[n], more_shifts[n]
        summed += leaves[(word << _LEAF_BITS) + shift + np.uint64(trailing_zeros(left[word] >> shift))]
    return summed


@compiled
def sum_by_table(  # type: ignore[no-untyped-def]
    asked, shared, rows, count, codes, distinct, units, leaves, more_words, more_shifts, counts, table, sums
):
    """The same of one part beside the request's, where there are many candidates: each number's leaves are added up once.

    counts: (1, words) how many numbers a word has. table: (words, numbers), to work with.
    """
    words, masks = np.uint64(asked.shape[0]), distinct[0]
    for word in range(words):
        for code in range(np.uint64(counts[0, word])):
            left = asked[word] & masks[word, code]
            table[word, code] = leaves[(word << _LEAF_BITS) + np.uint64(trailing_zeros(left))]
    for n in range(more_words.shape[0]):
        word, shift = more_words[n], more_shifts[n]
        for code in range(np.uint64(counts[0, word])):
            left = (asked[word] & masks[word, code]) >> shift
            table[word, code] += leaves[(word << _LEAF_BITS) + shift + np.uint64(trailing_zeros(left))]
    flat, stride = table.reshape(table.size), np.uint64(table.shape[1])
    for candidate in range(count):
        row = codes[rows[0, candidate]]
        summed, at = np.int32(0), np.uint64(0)
        for word in range(words):
            summed += flat[at + np.uint64(row[word])]
            at += stride
        sums[candidate] = shared + units[rows[0, candidate]] + summed


@compiled
def interpolated(value, at, to):  # type: ignore[no-untyped-def]
    """numpy.interp of one value, by its own arithmetic; at: rising."""
    last = at.shape[0] - 1
    if value <= at[0]:
        return to[0]
    if value >= at[last]:
        return to[last]
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) >> 1
        if at[middle] <= value:
            low = middle
        else:
            high = middle
    slope = (to[low + 1] - to[low]) / (at[low + 1] - at[low])
    return slope * (value - at[low]) + to[low]


@intrinsic
def _pointer(_, address):  # type: ignore[no-untyped-def]
    """An address as a pointer."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), made


@compiled
def _array(model, number, kind):  # type: ignore[no-untyped-def]
    """The array at this place of `addresses_of`."""
    return carray(_pointer(model[2 * number]), (model[2 * number + 1],), kind)


def addresses_of(arrays: Sequence[Any]) -> npt.NDArray[np.int64]:
    """(2 * arrays,) where each begins and how many values it has. They must be in a piece, and stay where they are."""
    return np.array([(array.ctypes.data, array.size) for array in arrays], dtype=np.int64).reshape(-1)


BY_MASK, BY_NUMBER, BY_TABLE = 0, 1, 2
_ARRAYS = 22
_SIGNATURE = types.void(
    types.CPointer(types.int64), types.CPointer(types.float64), types.int64, types.CPointer(types.int64), types.int64, types.int64,
    types.int64, types.float64, types.float64, types.CPointer(types.float64), types.CPointer(types.float64),
)  # fmt: skip


@cfunc(_SIGNATURE, cache=True)
def _answer(model, request, way, rows, room, count, intercept, farthest, grid, margins, odds):  # type: ignore[no-untyped-def]
    """See `answer`."""
    of = carray(model, (2 * _ARRAYS,))
    leaves, more_words, more_shifts = _array(of, 11, np.int32), _array(of, 12, np.uint64), _array(of, 13, np.uint64)
    words = leaves.shape[0] >> 6
    together = _array(of, 4, np.uint64)
    nodes = Nodes(
        _array(of, 0, np.int32), _array(of, 1, np.float32), _array(of, 2, np.uint32), _array(of, 3, np.uint64),
        together.reshape(together.shape[0] // words, words), _array(of, 5, np.int32),
    )  # fmt: skip
    terms = Terms(
        _array(of, 6, np.int32), _array(of, 7, np.float64), _array(of, 8, np.float64), _array(of, 9, np.float64),
        _array(of, 10, np.float64), farthest, grid,
    )  # fmt: skip
    features = nodes.starts.shape[0] - 1
    values = carray(request, (features,))
    vector = np.empty(features, np.float32)
    for feature in range(features):
        vector[feature] = values[feature]
    asked = np.empty(words, np.uint64)
    mask_of(vector, nodes, asked)
    shared = units_of(vector, terms) + intercept
    units, counts, table = _array(of, 14, np.int64), _array(of, 18, np.int64), _array(of, 19, np.int32)
    parts = counts.shape[0] // words
    asked_rows, sums = carray(rows, (parts, room)), np.empty(count, np.int64)
    if way == BY_MASK:
        masks = _array(of, 15, np.uint64).reshape(units.shape[0], words)
        sum_leaves(asked, shared, asked_rows, count, masks, units, leaves, more_words, more_shifts, sums)
    else:
        codes = _array(of, 16, np.uint8).reshape(units.shape[0], words)
        distinct = _array(of, 17, np.uint64).reshape(parts, words, table.shape[0] // words)
        if way == BY_NUMBER:
            sum_numbered(asked, shared, asked_rows, count, codes, distinct, units, leaves, more_words, more_shifts, sums)
        else:
            sum_by_table(
                asked, shared, asked_rows, count, codes, distinct, units, leaves, more_words, more_shifts,
                counts.reshape(parts, words), table.reshape(words, table.shape[0] // words), sums,
            )  # fmt: skip
    at, to = _array(of, 20, np.float64), _array(of, 21, np.float64)
    found, minus_odds = carray(margins, (count,)), carray(odds, (count,))
    for candidate in range(count):
        margin = sums[candidate] * grid
        found[candidate] = margin
        minus_odds[candidate] = -interpolated(margin, at, to) if at.shape[0] else -margin


# model: addresses_of the arrays of nodes, of terms, leaves, more_words, more_shifts, units, masks, codes, distinct, counts, table,
# the calibrator's points at and to, none where it has no points. request: (features,) the request's values as doubles. way: of
# BY_MASK, BY_NUMBER, BY_TABLE. rows: (parts, room), of which the first `count` are asked. What is found: margins (count,) and,
# odds (count,), minus the log odds of the probabilities by the points. It keeps the interpreter's lock: nothing moves meanwhile.
_INT, _ADDRESS, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
answer: Any = ctypes.PYFUNCTYPE(
    None, _ADDRESS, _ADDRESS, _INT, _ADDRESS, _INT, _INT, _INT, _DOUBLE, _DOUBLE, _ADDRESS, _ADDRESS
)(_answer.address)
