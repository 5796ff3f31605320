"""The loops of the scorer (serving/scorer.py), compiled by serving/compiler.py. Arrays: serving/model_arrays.py."""

import numpy as np

from serving import model_arrays as of
from serving.compiler import LINE, array_of, c_function, carray, compiled, prefetch, rows_of, trailing_zeros

_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_LEAF_BITS = np.uint64(6)  # a word has 64
_ROOM = np.uint64(of.ROOM)


@c_function("int64*", "float32*", "int64*", "int", "double", "double")
def write(part, vectors_at, rows_at, count, farthest, grid):  # type: ignore[no-untyped-def]
    """Keep what vectors (count, features of the part) leave, and their ridge units, in these rows; 1, or 0 where a word has more
    masks than there are numbers: from then on numbers say nothing.

    part: addresses of model_arrays.ASKED and KEPT. farthest, grid: of models/ridge.py and models/merging.py.
    """
    arrays = carray(part, (2 * of.BEGIN + 2,))
    features, words = arrays[2 * of.BLOCKS + 1], arrays[2 * of.COUNTS + 1]
    masks, units = rows_of(arrays, of.ROW_MASKS, words, np.uint64), array_of(arrays, of.ROW_UNITS, np.int64)
    vectors, rows = carray(vectors_at, (count, features)), carray(rows_at, (count,))
    for n in range(count):
        mask_of(vectors[n], arrays, masks[rows[n]])
        units[rows[n]] = units_of(vectors[n], arrays, farthest, grid)
    return number_masks(masks, rows, arrays)


@compiled
def number_masks(masks, rows, arrays):  # type: ignore[no-untyped-def]
    """These rows of `masks` as numbers, into the same rows of `codes`; 0 where there are too few."""
    words = masks.shape[1]
    codes, counts = rows_of(arrays, of.CODES, words, np.uint8), array_of(arrays, of.COUNTS, np.int64)
    distinct = rows_of(arrays, of.DISTINCT, of.ROOM, np.uint64)
    for row in rows:
        for word in range(words):
            mask, code, count = masks[row, word], 0, counts[word]
            while code < count and distinct[word, code] != mask:
                code += 1
            if code == of.NUMBERS:
                return 0
            if code == count:
                distinct[word, code] = mask
                counts[word] = count + 1
            codes[row, word] = code
    return 1


@compiled
def mask_of(vector, arrays, mask):  # type: ignore[no-untyped-def]
    """The leaves that are left in each word when every node that asks this part is answered."""
    starts, thresholds = array_of(arrays, of.STARTS, np.int32), array_of(arrays, of.THRESHOLDS, np.float32)
    words, masks = array_of(arrays, of.WORDS, np.uint32), array_of(arrays, of.MASKS, np.uint64)
    together, blocks = rows_of(arrays, of.TOGETHER, mask.shape[0], np.uint64), array_of(arrays, of.BLOCKS, np.int32)
    chosen, begin = array_of(arrays, of.CHOSEN, np.uint32), array_of(arrays, of.BEGIN, np.uint32)
    features = vector.shape[0]
    for feature in range(features):
        value = vector[feature]
        start, end = starts[feature], starts[feature + 1]
        if np.isnan(value):
            chosen[feature], begin[feature] = feature, end
            continue
        block = 0
        while start + (block + 1) * of.BLOCK <= end and value >= thresholds[start + (block + 1) * of.BLOCK - 1]:
            block += 1
        chosen[feature] = blocks[feature] + block - 1 if block else features
        begin[feature] = start + block * of.BLOCK
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
        for node in range(begin[feature], np.uint32(starts[feature + 1])):
            if value < thresholds[node]:
                break
            mask[words[node]] &= masks[node]


@compiled
def units_of(vector, arrays, farthest, grid):  # type: ignore[no-untyped-def]
    """Sum of models/ridge.py's terms, in its own arithmetic: every step rounds as NumPy's does."""
    columns, means = array_of(arrays, of.COLUMNS, np.int32), array_of(arrays, of.MEANS, np.float64)
    scales, weights = array_of(arrays, of.SCALES, np.float64), array_of(arrays, of.WEIGHTS, np.float64)
    weights_missing = array_of(arrays, of.WEIGHTS_MISSING, np.float64)
    units = np.int64(0)
    for n in range(columns.shape[0]):
        value = np.float64(vector[columns[n]])
        if np.isnan(value):
            term = weights_missing[n]
        else:
            standard = (value - means[n]) / scales[n]
            term = min(max(standard, -farthest), farthest) * weights[n]
        units += np.int64(np.rint(term / grid))
    return units


@c_function("int64*", "int", "int", "int", "int", "double", "double")
def answer(request, way, room, count, intercept, farthest, grid):  # type: ignore[no-untyped-def]
    """Margins of `count` candidates, and where the model has points minus the log odds that they lead to.

    request: addresses of all of model_arrays. way: of BY_MASK, BY_NUMBER, BY_TABLE. room: a row's length in ROWS.
    """
    arrays = carray(request, (2 * of.TABLE + 2,))
    values, vector = array_of(arrays, of.VALUES, np.float64), array_of(arrays, of.VECTOR, np.float32)
    for feature in range(values.shape[0]):
        vector[feature] = values[feature]
    asked = array_of(arrays, of.LEFT_BY_REQUEST, np.uint64)
    words = asked.shape[0]
    rows = rows_of(arrays, of.ROWS, room, np.int64)
    if way != of.BY_MASK:
        codes_from = arrays[2 * of.CODES]
        for part in range(rows.shape[0]):
            for candidate in range(count):
                for line in range(0, words, LINE):
                    prefetch(codes_from + rows[part, candidate] * words + line)
    mask_of(vector, arrays, asked)
    shared = units_of(vector, arrays, farthest, grid) + intercept
    if way == of.BY_MASK:
        sum_leaves(asked, shared, rows, count, arrays)
    elif way == of.BY_NUMBER:
        sum_numbered(asked, shared, rows, count, arrays)
    else:
        sum_by_table(asked, shared, rows, count, arrays)
    at, to = array_of(arrays, of.AT, np.float64), array_of(arrays, of.TO, np.float64)
    sums, margins = array_of(arrays, of.SUMS, np.int64), array_of(arrays, of.MARGINS, np.float64)
    minus_odds = array_of(arrays, of.MINUS_ODDS, np.float64)
    for candidate in range(count):
        margin = sums[candidate] * grid
        margins[candidate] = margin
        if at.shape[0]:
            minus_odds[candidate] = -interpolated(margin, at, to)
    return 0


@compiled
def sum_leaves(asked, shared, rows, count, arrays):  # type: ignore[no-untyped-def]
    """Units of each candidate: of the leaves that its rows and the request's mask leave, of the ridge's terms, and `shared`."""
    words = np.uint64(asked.shape[0])
    masks, units = rows_of(arrays, of.ROW_MASKS, asked.shape[0], np.uint64), array_of(arrays, of.ROW_UNITS, np.int64)
    left, sums = array_of(arrays, of.LEFT, np.uint64), array_of(arrays, of.SUMS, np.int64)
    for candidate in range(count):
        total = shared
        before = asked
        for part in range(rows.shape[0]):
            row = masks[rows[part, candidate]]
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & row[word]
            before = left
        sums[candidate] = total + _leaves_left(left, arrays)


@compiled
def sum_numbered(asked, shared, rows, count, arrays):  # type: ignore[no-untyped-def]
    """`sum_leaves` from rows of numbers."""
    words, parts = np.uint64(asked.shape[0]), rows.shape[0]
    codes, units = rows_of(arrays, of.CODES, asked.shape[0], np.uint8), array_of(arrays, of.ROW_UNITS, np.int64)
    masks = array_of(arrays, of.DISTINCT, np.uint64)
    left, sums = array_of(arrays, of.LEFT, np.uint64), array_of(arrays, of.SUMS, np.int64)
    for candidate in range(count):
        total = shared
        before = asked
        for part in range(parts):
            row, first = codes[rows[part, candidate]], np.uint64(part) * words
            total += units[rows[part, candidate]]
            for word in range(words):
                left[word] = before[word] & masks[(first + word) * _ROOM + np.uint64(row[word])]
            before = left
        sums[candidate] = total + _leaves_left(left, arrays)


@compiled
def _leaves_left(left, arrays):  # type: ignore[no-untyped-def]
    """Sum of every tree's lowest leaf that is left."""
    leaves, more_words = array_of(arrays, of.LEAVES, np.int32), array_of(arrays, of.MORE_WORDS, np.uint64)
    more_shifts = array_of(arrays, of.MORE_SHIFTS, np.uint64)
    summed = np.int32(0)
    for word in range(np.uint64(left.shape[0])):
        summed += leaves[(word << _LEAF_BITS) + np.uint64(trailing_zeros(left[word]))]
    for n in range(more_words.shape[0]):
        word, shift = more_words[n], more_shifts[n]
        summed += leaves[(word << _LEAF_BITS) + shift + np.uint64(trailing_zeros(left[word] >> shift))]
    return summed


@compiled
def sum_by_table(asked, shared, rows, count, arrays):  # type: ignore[no-untyped-def]
    """The same of one part beside the request's, where there are many candidates: each number's leaves are added up once."""
    words = np.uint64(asked.shape[0])
    counts, table = array_of(arrays, of.COUNTS, np.int64), array_of(arrays, of.TABLE, np.int32)
    masks = array_of(arrays, of.DISTINCT, np.uint64)
    leaves, more_words = array_of(arrays, of.LEAVES, np.int32), array_of(arrays, of.MORE_WORDS, np.uint64)
    more_shifts = array_of(arrays, of.MORE_SHIFTS, np.uint64)
    for word in range(words):
        at, first = word * _ROOM, word << _LEAF_BITS
        for code in range(np.uint64(counts[word])):
            table[at + code] = leaves[first + np.uint64(trailing_zeros(asked[word] & masks[at + code]))]
    for n in range(more_words.shape[0]):
        word, shift = more_words[n], more_shifts[n]
        at, first = word * _ROOM, (word << _LEAF_BITS) + shift
        for code in range(np.uint64(counts[word])):
            table[at + code] += leaves[first + np.uint64(trailing_zeros((asked[word] & masks[at + code]) >> shift))]
    codes, units = rows_of(arrays, of.CODES, asked.shape[0], np.uint8), array_of(arrays, of.ROW_UNITS, np.int64)
    sums = array_of(arrays, of.SUMS, np.int64)
    fours = words & ~np.uint64(3)
    for candidate in range(count):
        row = codes[rows[0, candidate]]
        a, b, c, d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)  # four sums, that none waits for the one before
        for word in range(np.uint64(0), fours, np.uint64(4)):
            at = word * _ROOM
            a += table[at + np.uint64(row[word])]
            b += table[at + _ROOM + np.uint64(row[word + np.uint64(1)])]
            c += table[at + np.uint64(2) * _ROOM + np.uint64(row[word + np.uint64(2)])]
            d += table[at + np.uint64(3) * _ROOM + np.uint64(row[word + np.uint64(3)])]
        for word in range(fours, words):
            a += table[word * _ROOM + np.uint64(row[word])]
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
