"""Margins of one request's candidates, equal to the bundle's to the bit, at a small part of the Booster's cost.

QuickScorer (Lucchese et al. 2015) turned round. A tree of at most 64 leaves is a word of 64 bits. Every inner node whose answer
is "right" takes away the leaves to its left; when all nodes are answered the lowest bit that is left is the tree's leaf. Nodes
are split by the parts of the vector that they ask (serving/sides.py): what a part's values leave is a row of words, made once
for an ad when its counters change and once for a request, and a candidate's leaves are the AND of its rows. Small trees share a
word. Leaf values are whole numbers of 2**-20 (models/merging.py), and so is the ridge part: sums do not depend on the order.
"""

import json
import logging
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from feature_repo.vectorize import Float32, Float64
from models.bundle import Bundle
from models.merging import GRID, Tree, trees_of
from models.ridge import FARTHEST
from serving.large_pages import beside
from serving.model_arrays import BLOCK, BLOCKS, BY_MASK, BY_NUMBER, BY_TABLE, ROOM
from serving.native import NoMachineCode, addresses_of, functions
from serving.sides import Part

_LEAVES = 64
_EXACT = 2**24  # units: what a float32 sum of the Booster's holds exactly
_ALL = 2**_LEAVES - 1
_PARSED = 8  # trees
_MANY = 32  # candidates for which it pays to ask all that any of them could be first

log = logging.getLogger("clickodds.serving")

Rows = npt.NDArray[np.intp]


class NotCompilable(ValueError):
    """Why trees cannot be turned into masks; the Booster itself answers for them."""


class Scorer(Protocol):
    """rows: what is kept of the parts' vectors, one row for a vector; `of` is a part's number, 0 the request's."""

    def write(self, of: int, vectors: Float32, at: Rows) -> None:
        """Keep vectors (rows, features of the part) in the rows `at`."""

    def answer(self, request: Sequence[float], rows: Rows) -> tuple[Float64, Float64]:
        """(candidates,) log odds, and click probabilities. request: (features,) of part 0. rows: (parts - 1, candidates) of the
        other parts."""

    def emptied(self) -> "Scorer":
        """The same model with no rows kept: to be filled, then put in this one's place."""


def make_scorer(bundle: Bundle, parts: Sequence[Part], rows: int) -> Scorer:
    """Masks where there is machine code and the trees allow it, else the Booster.

    rows: room; what is never written costs nothing.
    """
    try:
        return MaskScorer(bundle, parts, rows)
    except (NotCompilable, NoMachineCode) as error:
        log.warning("trees are not compiled, the Booster answers: %s", error)
        return BoosterScorer(bundle, parts, rows)


class BoosterScorer:
    """Rows are the parts' vectors themselves; each request's are put together and go through the bundle."""

    def __init__(self, bundle: Bundle, parts: Sequence[Part], rows: int) -> None:
        self._bundle, self._parts, self._count = bundle, parts, rows
        self._positions = [np.array(part.positions, dtype=np.intp) for part in parts]
        self._rows = np.empty((rows, max(map(len, self._positions))), dtype=np.float32)

    def write(self, of: int, vectors: Float32, at: Rows) -> None:
        self._rows[at, : vectors.shape[1]] = vectors

    def answer(self, request: Sequence[float], rows: Rows) -> tuple[Float64, Float64]:
        vectors = np.empty((rows.shape[1], sum(map(len, self._positions))), dtype=np.float32)
        vectors[:, self._positions[0]] = np.array(request, dtype=np.float64)
        for number, positions in enumerate(self._positions[1:]):
            vectors[:, positions] = self._rows[rows[number], : len(positions)]
        margins = self._bundle.margins(vectors)
        return margins, self._bundle.calibrator.probabilities(margins)

    def emptied(self) -> "BoosterScorer":
        return BoosterScorer(self._bundle, self._parts, self._count)


class MaskScorer:
    """Raises NotCompilable where the trees are too large, split by category, or are no whole numbers of 2**-20, and
    native.NoMachineCode."""

    def __init__(self, bundle: Bundle, parts: Sequence[Part], rows: int) -> None:
        kernels = functions()
        self._answer, self._write = kernels["answer"], kernels["write"]
        self._model = _Compiled(bundle, parts)
        self._keep(max(rows, 1))

    def _keep(self, rows: int) -> None:
        model = self._model
        words, parts = model.words, len(model.asked) - 1
        self._masks = np.empty((rows, words), dtype=np.uint64)
        self._units = np.empty(rows, dtype=np.int64)
        # A word has few masks, and they have many rows: a row of numbers is an eighth of the memory that a request has to read
        self._numbered = True  # while a byte is enough
        self._codes = np.empty((rows, words), dtype=np.uint8)
        distinct, table = np.zeros((parts, words, ROOM), dtype=np.uint64), np.zeros((words, ROOM), dtype=np.int32)
        self._distinct, self._table, self._counts = beside(distinct, table, np.zeros((parts, words), dtype=np.int64))
        widest = max(len(asked[BLOCKS]) for asked in model.asked)
        self._work = np.empty((2, widest), dtype=np.uint32)  # CHOSEN and BEGIN
        self._left = np.empty((2, words), dtype=np.uint64)
        kept = self._units, self._masks, self._codes
        self._parts = [
            addresses_of([*asked, *kept, distinct, counts, *self._work])
            for asked, distinct, counts in zip(model.asked[1:], self._distinct, self._counts, strict=True)
        ]
        self._make_room(_MANY)

    def _make_room(self, candidates: int) -> None:
        """What a request is worked out in, and where it is: asking NumPy for an address takes longer than many a step."""
        model, features = self._model, len(self._model.asked[0][BLOCKS])
        self._room = candidates
        self._request, self._vector = np.empty(features), np.empty(features, dtype=np.float32)
        self._pack = struct.Struct(f"{features}d").pack_into
        self._asked = np.empty((len(self._counts), candidates), dtype=np.int64)
        self._margins, self._odds = np.empty(candidates), np.empty(candidates)
        self._sums = np.empty(candidates, dtype=np.int64)
        kept = self._units, self._masks, self._codes, self._distinct, self._counts, *self._work
        found = self._request, self._asked, self._margins, self._odds, self._vector, *self._left, self._sums, self._table
        self._addresses = addresses_of([*model.asked[0], *kept, *model.leaves, *model.points, *found])
        self._at = self._addresses.ctypes.data

    def write(self, of: int, vectors: Float32, at: Rows) -> None:
        vectors, at = np.ascontiguousarray(vectors, dtype=np.float32), np.ascontiguousarray(at, dtype=np.int64)
        if vectors.shape != (len(at), len(self._model.asked[of][BLOCKS])) or not np.all((0 <= at) & (at < len(self._masks))):
            raise IndexError(f"found vectors {vectors.shape} for {len(at)} rows, expected the part's, and rows that there are")
        part = self._parts[of - 1].ctypes.data
        if not self._write(part, vectors.ctypes.data, at.ctypes.data, len(at), FARTHEST, GRID):
            self._numbered = False

    def answer(self, request: Sequence[float], rows: Rows) -> tuple[Float64, Float64]:
        model = self._model
        parts, count = rows.shape
        if count > self._room:
            self._make_room(count)
        if not self._numbered:
            way = BY_MASK
        else:
            way = BY_TABLE if parts == 1 and count >= _MANY else BY_NUMBER
        self._pack(self._request, 0, *request)
        self._asked[:, :count] = rows
        self._answer(self._at, way, self._room, count, model.intercept, FARTHEST, GRID)
        margins = self._margins[:count].copy()
        if model.by_points:
            return margins, probabilities_of_minus(self._odds[:count])
        return margins, model.calibrator.probabilities(margins)

    def emptied(self) -> "MaskScorer":
        other = object.__new__(MaskScorer)
        other._answer, other._write, other._model = self._answer, self._write, self._model
        other._keep(len(self._masks))
        return other


def probabilities_of_minus(odds: Float64) -> Float64:
    """From minus the log odds, as Calibrator.probabilities: by NumPy's exponential, which is not everywhere the C library's."""
    powers = np.exp(odds)
    np.add(powers, 1.0, powers)
    return np.divide(1.0, powers, powers)


class _Compiled:
    """A bundle's trees, ridge and calibrator as the kernels take them, see serving/model_arrays.py.

    asked: of each part. leaves: from LEAVES to MORE_SHIFTS; points: AT and TO.
    """

    def __init__(self, bundle: Bundle, parts: Sequence[Part]) -> None:
        trees = _in_turns(bundle.booster)
        _check(bundle, trees)
        words = _pack([tree["left_children"].count(-1) for tree in trees])
        self.words = max(word for word, _ in words) + 1
        leaves = np.zeros(self.words * _LEAVES, dtype=np.int32)
        asked: dict[int, list[_Node]] = {}
        for tree, (word, shift) in zip(trees, words, strict=True):
            for node in _nodes(tree, word, shift, leaves):
                asked.setdefault(tree["split_indices"][node.number], []).append(node)
        more = [(word, shift) for word, shift in words if shift]
        more_words = np.array([word for word, _ in more], dtype=np.uint64)
        more_shifts = np.array([shift for _, shift in more], dtype=np.uint64)
        self.asked = [
            [*_part_nodes([asked.get(p, []) for p in part.positions], self.words), *_part_terms(bundle, part)] for part in parts
        ]
        self.intercept = round(bundle.ridge.intercept / GRID) if bundle.ridge else 0
        self.calibrator = bundle.calibrator
        self.by_points = self.calibrator.kind == "isotonic" and len(self.calibrator.at) > 1
        points = (self.calibrator.at, self.calibrator.to) if self.by_points else ((), ())
        self.points = [np.array(of, dtype=np.float64) for of in points]
        *self.asked[0], leaves = beside(*self.asked[0], leaves)
        self.leaves = [leaves, more_words, more_shifts]


def _in_turns(booster: Any) -> list[Tree]:
    """`trees_of`, a few at a time: who parses JSON gives the interpreter back when all is read, and requests wait for it."""
    rounds = booster.num_boosted_rounds()
    return [tree for at in range(0, rounds, _PARSED) for tree in trees_of(booster[at : min(at + _PARSED, rounds)])]


class _Node:
    """An inner node: what is left of its word when it answers "right"."""

    __slots__ = ("mask", "missing_right", "number", "threshold", "word")

    def __init__(self, tree: Tree, number: int, word: int, left: int) -> None:
        self.number, self.word, self.mask = number, word, _ALL & ~left
        self.threshold = np.float32(tree["split_conditions"][number])
        self.missing_right = not tree["default_left"][number]


def _nodes(tree: Tree, word: int, shift: int, leaves: npt.NDArray[np.int32]) -> list[_Node]:
    """A tree's inner nodes; its leaves' values go to `leaves`, from left to right from bit `shift` on."""
    made: list[_Node] = []

    def bits(number: int) -> int:
        """The leaves below a node."""
        nonlocal shift
        if tree["left_children"][number] == -1:
            leaves[word * _LEAVES + shift] = _units(tree["split_conditions"][number])
            shift += 1
            return 1 << (shift - 1)
        left = bits(tree["left_children"][number])
        made.append(_Node(tree, number, word, left))
        return left | bits(tree["right_children"][number])

    bits(0)
    return made


def _units(leaf: float) -> float:
    """A leaf's value in units; XGBoost's JSON has it as the shortest text of its float32."""
    return float(np.float32(leaf)) / GRID


def _pack(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Word and first bit of each tree, in order."""
    word, used, places = 0, 0, []
    for size in sizes:
        if used + size > _LEAVES:
            word, used = word + 1, 0
        places.append((word, used))
        used += size
    return places


def _part_nodes(by_feature: Sequence[list[_Node]], words: int) -> list[Any]:
    """From STARTS to BLOCKS."""
    ordered = [sorted(asked, key=lambda node: node.threshold) for asked in by_feature]
    nodes = [node for asked in ordered for node in asked]

    def left_by(asked: Sequence[_Node]) -> npt.NDArray[np.uint64]:
        left = np.full(words, _ALL, dtype=np.uint64)
        for node in asked:
            left[node.word] &= np.uint64(node.mask)
        return left

    together = [left_by([node for node in asked if node.missing_right]) for asked in ordered] + [left_by([])]
    blocks = np.zeros(len(ordered), dtype=np.int32)
    for feature, asked in enumerate(ordered):
        blocks[feature] = len(together)
        before = left_by([])
        for start in range(0, len(asked) - BLOCK + 1, BLOCK):
            before = before & left_by(asked[start : start + BLOCK])
            together.append(before)
    return [
        np.cumsum([0, *map(len, by_feature)], dtype=np.int32),
        np.array([node.threshold for node in nodes], dtype=np.float32),
        np.array([node.word for node in nodes], dtype=np.uint32),
        np.array([node.mask for node in nodes], dtype=np.uint64),
        np.array(together, dtype=np.uint64),
        blocks,
    ]


def _part_terms(bundle: Bundle, part: Part) -> list[Any]:
    """From COLUMNS to WEIGHTS_MISSING."""
    ridge = bundle.ridge
    chosen = [(c, n) for n, c in enumerate(ridge.columns) if c in part.positions] if ridge else []
    of = [n for _, n in chosen]

    def doubles(values: Sequence[float]) -> Float64:
        return np.array([values[n] for n in of], dtype=np.float64)

    return [
        np.array([part.positions.index(c) for c, _ in chosen], dtype=np.int32),
        doubles(ridge.means if ridge else ()),
        doubles(ridge.scales if ridge else ()),
        doubles(ridge.weights if ridge else ()),
        doubles(ridge.weights_missing if ridge else ()),
    ]


def _check(bundle: Bundle, trees: Sequence[Tree]) -> None:
    """Raises NotCompilable unless sums of the trees' leaves in units equal the Booster's float32 sums."""
    about = json.loads(bundle.booster.save_config())["learner"]
    base = float(str(about["learner_model_param"]["base_score"]).strip("[]"))
    if base != 0.5:
        raise NotCompilable(f"found base_score {base}, expected 0.5, whose margin is 0")
    largest, coarsest = 0, 0
    for tree in trees:
        values = [v for v, left in zip(tree["split_conditions"], tree["left_children"], strict=True) if left == -1]
        if len(values) > _LEAVES:
            raise NotCompilable(f"found a tree of {len(values)} leaves, expected at most {_LEAVES}")
        if any(tree["split_type"]):
            raise NotCompilable("found a split by category, expected numbers")
        units = [_units(value) for value in values]
        if not all(unit.is_integer() for unit in units):
            raise NotCompilable("found a leaf that is no multiple of 2**-20")
        largest += max(abs(int(unit)) for unit in units)
        for unit in units:
            coarsest |= int(unit)
    grain = coarsest & -coarsest or 1  # all leaves are multiples of it
    if largest >= grain * _EXACT:
        raise NotCompilable("found leaves whose sum a float32 does not hold exactly")
