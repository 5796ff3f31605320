"""The loops of the scorer (serving/scorer.py), compiled by numba, which keeps the machine code in NUMBA_CACHE_DIR."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.native import LINE, array_of, c_function, carray, compiled, prefetch, trailing_zeros

Words = npt.NDArray[np.uint64]

_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
BLOCK = 64  # nodes
NUMBERS = 256  # that a byte holds
BY_MASK, BY_NUMBER, BY_TABLE = 0, 1, 2
_LEAF_BITS = np.uint64(6)  # a word has 64
_ARRAYS = 22  # of a model


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
        mask[word] = _ALL
    for feature in range(0, features - 1, 2):
        one, other = together[chosen[feature]], together[chosen[feature + 1]]
        for word in range(np.uint64(mask.shape[0])):
            mask[word] &= one[word] & other[word]
    if features & 1:
        one = together[chosen[features - 1]]
        for word in range(np.uint64(mask.shape[0])):
            mask[word] &= one[word]
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
    fours = words & ~np.uint64(3)
    for candidate in range(count):
        row = codes[rows[0, candidate]]
        a, b, c, d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)  # four sums, that none waits for the one before
        for word in range(np.uint64(0), fours, np.uint64(4)):
            at = word * stride
            a += flat[at + np.uint64(row[word])]
            b += flat[at + stride + np.uint64(row[word + np.uint64(1)])]
            c += flat[at + np.uint64(2) * stride + np.uint64(row[word + np.uint64(2)])]
            d += flat[at + np.uint64(3) * stride + np.uint64(row[word + np.uint64(3)])]
        for word in range(fours, words):
            a += flat[word * stride + np.uint64(row[word])]
        sums[candidate] = shared + units[rows[0, candidate]] + (a + b + c + d)


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


@c_function("int64*", "float64*", "int", "int64*", "int", "int", "int", "double", "double", "float64*", "float64*")
def answer(model, request, way, rows, room, count, intercept, farthest, grid, margins, odds):  # type: ignore[no-untyped-def]
    """Margins (count,) and `odds` (count,): where the model has points, minus the log odds that they lead to.

    model: addresses_of the arrays of nodes, of terms, leaves, more_words, more_shifts, units, masks, codes, distinct, counts,
    table, and the calibrator's points at and to, empty where it has none. request: (features,) the request's values as doubles.
    way: of BY_MASK, BY_NUMBER, BY_TABLE. rows: (parts, room), of which the first `count` are asked.
    """
    of = carray(model, (2 * _ARRAYS,))
    leaves, more_words, more_shifts = array_of(of, 11, np.int32), array_of(of, 12, np.uint64), array_of(of, 13, np.uint64)
    words = leaves.shape[0] >> 6
    together = array_of(of, 4, np.uint64)
    nodes = Nodes(
        array_of(of, 0, np.int32), array_of(of, 1, np.float32), array_of(of, 2, np.uint32), array_of(of, 3, np.uint64),
        together.reshape(together.shape[0] // words, words), array_of(of, 5, np.int32),
    )  # fmt: skip
    terms = Terms(
        array_of(of, 6, np.int32), array_of(of, 7, np.float64), array_of(of, 8, np.float64), array_of(of, 9, np.float64),
        array_of(of, 10, np.float64), farthest, grid,
    )  # fmt: skip
    features = nodes.starts.shape[0] - 1
    values, vector = carray(request, (features,)), np.empty(features, np.float32)
    for feature in range(features):
        vector[feature] = values[feature]
    units, counts, table = array_of(of, 14, np.int64), array_of(of, 18, np.int64), array_of(of, 19, np.int32)
    parts = counts.shape[0] // words
    asked_rows, sums = carray(rows, (parts, room)), np.empty(count, np.int64)
    if way != BY_MASK:
        codes_from = np.int64(array_of(of, 16, np.uint8).ctypes.data)
        for part in range(parts):
            for candidate in range(count):
                for line in range(0, words, LINE):
                    prefetch(codes_from + asked_rows[part, candidate] * words + line)
    asked = np.empty(words, np.uint64)
    mask_of(vector, nodes, asked)
    shared = units_of(vector, terms) + intercept
    if way == BY_MASK:
        masks = array_of(of, 15, np.uint64).reshape(units.shape[0], words)
        sum_leaves(asked, shared, asked_rows, count, masks, units, leaves, more_words, more_shifts, sums)
    else:
        codes = array_of(of, 16, np.uint8).reshape(units.shape[0], words)
        distinct = array_of(of, 17, np.uint64).reshape(parts, words, table.shape[0] // words)
        if way == BY_NUMBER:
            sum_numbered(asked, shared, asked_rows, count, codes, distinct, units, leaves, more_words, more_shifts, sums)
        else:
            sum_by_table(
                asked, shared, asked_rows, count, codes, distinct, units, leaves, more_words, more_shifts,
                counts.reshape(parts, words), table.reshape(words, table.shape[0] // words), sums,
            )  # fmt: skip
    at, to = array_of(of, 20, np.float64), array_of(of, 21, np.float64)
    found, minus_odds = carray(margins, (count,)), carray(odds, (count,))
    for candidate in range(count):
        margin = sums[candidate] * grid
        found[candidate] = margin
        if at.shape[0]:
            minus_odds[candidate] = -interpolated(margin, at, to)
    return 0
