"""The arrays of a scorer, as serving/scorer.py makes them and serving/kernels.py reads them: by place in a list of addresses.

Every part of the vector has such a list, part 0 that of the request. The first ones say what is asked of the part's features.
Nodes are the trees' inner ones that ask the part, ordered by feature and threshold.
"""

BLOCK = 64  # nodes
NUMBERS = 256  # that a byte holds
ROOM = NUMBERS + 8  # a word's in DISTINCT and TABLE; not a power of two, whose lines would share few sets of the cache
BY_MASK, BY_NUMBER, BY_TABLE = 0, 1, 2  # ways to add up leaves

ASKED = (
    STARTS,  # (features + 1,) int32: where a feature's nodes begin
    THRESHOLDS,  # (nodes,) float32: x >= threshold leaves only the mask's leaves in the word
    WORDS,  # (nodes,) uint32
    MASKS,  # (nodes,) uint64
    # (features + 1 + blocks, words) uint64: what is left by all of a feature's nodes that send missing values right; by no node;
    # and by a feature's first 1, 2, 3 ... blocks of BLOCK nodes
    TOGETHER,
    BLOCKS,  # (features,) int32: from which row on the last ones are
    COLUMNS,  # (terms,) int32: of the ridge part, see models/ridge.py: positions in the part's vector
    MEANS,  # (terms,) float64, and so are the others
    SCALES,
    WEIGHTS,
    WEIGHTS_MISSING,
) = range(11)

KEPT = (
    ROW_UNITS,  # (rows,) int64: the ridge part's of each row that is kept
    ROW_MASKS,  # (rows, words) uint64: what each leaves
    CODES,  # (rows, words) uint8: the same by numbers
    DISTINCT,  # (words, ROOM) uint64: the mask of a number; of the request for each part
    COUNTS,  # (words,) int64: how many numbers there are; of the request for each part
    CHOSEN,  # (features,) uint32, to work with, and so are the others
    BEGIN,
) = range(11, 18)

OF_THE_REQUEST = (
    LEAVES,  # (words * 64,) int32: a leaf's value at its bit
    MORE_WORDS,  # (trees,) uint64: of those trees that do not begin at bit 0 of their word
    MORE_SHIFTS,  # (trees,) uint64: where they do
    AT,  # (points,) float64: the calibrator's; none where it has none
    TO,
    VALUES,  # (features,) float64: the request's
    ROWS,  # (parts, room) int64: of the candidates
    MARGINS,  # (room,) float64: found
    MINUS_ODDS,  # (room,) float64: found
    VECTOR,  # (features,) float32, to work with, and so are the others
    LEFT_BY_REQUEST,  # (words,) uint64
    LEFT,
    SUMS,  # (room,) int64
    TABLE,  # (words, ROOM) int32
) = range(18, 32)
