"""The loops of the scorer (serving/scorer.py), compiled by numba, which keeps the machine code in NUMBA_CACHE_DIR."""

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Leaves are picked by gather instructions where the loops are vectorized, which on common processors is three times slower.
os.environ["NUMBA_LOOP_VECTORIZE"] = "0"

from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros as _trailing_zeros

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
def sum_leaves(vector, nodes, terms, rows, masks, units, leaves, more_words, more_shifts, intercept, margins):  # type: ignore[no-untyped-def]
    """Margins: of each candidate the leaves that its rows and the request's vector leave, and the ridge's terms.

    rows: (parts, candidates) rows of `masks` and `units`. leaves: (words * 64,) a leaf's value at its bit. The first tree of a
    word begins at bit 0; more_words, more_shifts: where the others do.
    """
    words = masks.shape[1]
    asked, left = np.empty(words, np.uint64), np.empty(words, np.uint64)
    mask_of(vector, nodes, asked)
    shared = units_of(vector, terms) + intercept
    last = rows.shape[0] - 1
    for candidate in range(rows.shape[1]):
        total = shared
        before = asked
        for part in range(last):
            row = masks[rows[part, candidate]]
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & row[word]
            before = left
        row = masks[rows[last, candidate]]
        total += units[rows[last, candidate]]
        summed = np.int32(0)
        first_leaf = np.uint64(0)
        for word in range(words):
            summed += leaves[first_leaf + np.uint64(trailing_zeros(before[word] & row[word]))]
            first_leaf += np.uint64(64)
        for n in range(more_words.shape[0]):
            word, shift = more_words[n], more_shifts[n]
            below = np.uint64(trailing_zeros((before[word] & row[word]) >> shift))
            summed += leaves[(word << _LEAF_BITS) + shift + below]
        margins[candidate] = (total + summed) * terms.grid


@compiled
def sum_numbered(  # type: ignore[no-untyped-def]
    vector, nodes, terms, rows, codes, distinct, units, leaves, more_words, more_shifts, intercept, margins
):
    """`sum_leaves` from rows of numbers. distinct: (parts, words, numbers)."""
    words = np.uint64(codes.shape[1])
    asked, left = np.empty(codes.shape[1], np.uint64), np.empty(codes.shape[1], np.uint64)
    mask_of(vector, nodes, asked)
    shared = units_of(vector, terms) + intercept
    for candidate in range(rows.shape[1]):
        total = shared
        before = asked
        for part in range(rows.shape[0]):
            row, masks = codes[rows[part, candidate]], distinct[part]
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & masks[word, row[word]]
            before = left
        summed = np.int32(0)
        for word in range(words):
            summed += leaves[(word << _LEAF_BITS) + np.uint64(trailing_zeros(left[word]))]
        for n in range(more_words.shape[0]):
            word, shift = more_words[n], more_shifts[n]
            summed += leaves[(word << _LEAF_BITS) + shift + np.uint64(trailing_zeros(left[word] >> shift))]
        margins[candidate] = (total + summed) * terms.grid


@compiled
def sum_by_table(  # type: ignore[no-untyped-def]
    vector, nodes, terms, rows, codes, distinct, units, leaves, more_words, more_shifts, intercept, margins, counts, table
):
    """The same of one part beside the request's, where there are many candidates: each number's leaves are added up once.

    counts: (1, words) how many numbers a word has. table: (words, numbers), to work with.
    """
    words = np.uint64(codes.shape[1])
    asked, masks = np.empty(codes.shape[1], np.uint64), distinct[0]
    mask_of(vector, nodes, asked)
    for word in range(words):
        for code in range(np.uint64(counts[0, word])):
            left = asked[word] & masks[word, code]
            table[word, code] = leaves[(word << _LEAF_BITS) + np.uint64(trailing_zeros(left))]
    for n in range(more_words.shape[0]):
        word, shift = more_words[n], more_shifts[n]
        for code in range(np.uint64(counts[0, word])):
            left = (asked[word] & masks[word, code]) >> shift
            table[word, code] += leaves[(word << _LEAF_BITS) + shift + np.uint64(trailing_zeros(left))]
    shared = units_of(vector, terms) + intercept
    flat, stride = table.reshape(table.size), np.uint64(table.shape[1])
    for candidate in range(rows.shape[1]):
        row = codes[rows[0, candidate]]
        summed, at = np.int32(0), np.uint64(0)
        for word in range(words):
            summed += flat[at + np.uint64(row[word])]
            at += stride
        margins[candidate] = (shared + units[rows[0, candidate]] + summed) * terms.grid


@compiled
def interpolate(values, at, to):  # type: ignore[no-untyped-def]
    """numpy.interp, in place and by its own arithmetic; at: rising."""
    last = at.shape[0] - 1
    for n in range(values.shape[0]):
        value = values[n]
        if value <= at[0]:
            values[n] = to[0]
        elif value >= at[last]:
            values[n] = to[last]
        else:
            low, high = 0, last
            while high - low > 1:
                middle = (low + high) >> 1
                if at[middle] <= value:
                    low = middle
                else:
                    high = middle
            slope = (to[low + 1] - to[low]) / (at[low + 1] - at[low])
            values[n] = slope * (value - at[low]) + to[low]
