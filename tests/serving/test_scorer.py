"""The masks' margins are the bundle's, to the bit."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from feature_repo.catalogue import Feature
from feature_repo.vectorize import Fitted, Float32
from models.bundle import Bundle
from models.calibration import Calibrator
from models.merging import merge
from models.ridge import Ridge
from serving.scorer import BoosterScorer, MaskScorer, NotCompilable, Scorer, make_scorer
from serving.sides import Part

FEATURES = tuple(Feature(f"f{n}", "number") for n in range(12))
REQUEST, AD, CROSS = (0, 3, 4, 5, 11), (1, 2, 10), (9, 6, 7, 8)
ROWS = 500
DRAW = np.random.default_rng(8)
AT_FIRST = DRAW.bit_generator.state


@pytest.fixture(autouse=True)
def _drawn_anew() -> None:
    """What a test draws does not hang on the tests before it."""
    DRAW.bit_generator.state = AT_FIRST


def _vectors(rows: int, draw: np.random.Generator) -> Float32:
    """Values on a coarse grid, so that many equal a threshold; one in eight is missing, some are infinite."""
    vectors = (draw.integers(-8, 9, (rows, len(FEATURES))) / 4).astype(np.float32)
    vectors[draw.random(vectors.shape) < 1 / 8] = np.nan
    vectors[draw.random(vectors.shape) < 1 / 50] = np.inf
    return vectors


def _trained(trees: int, depth: int) -> xgb.Booster:
    vectors = _vectors(3_000, DRAW)
    vectors[np.isinf(vectors)] = 3
    truth = np.nan_to_num(vectors, nan=1.0)
    labels = (truth[:, 0] * truth[:, 1] + truth[:, 9] - truth[:, 3] + DRAW.normal(size=3_000) > 0).astype(int)
    settings = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.2, "nthread": 1, "min_child_weight": 0.1}
    settings["base_score"] = 0.5  # XGBoost's own is the labels' mean
    return xgb.train(settings, xgb.DMatrix(vectors, label=labels), trees)


def _ridge() -> Ridge:
    columns = (1, 3, 7, 10)
    weights, missing, means = (tuple(DRAW.normal(size=4).tolist()) for _ in range(3))
    return Ridge(columns, means, (0.5, 1.5, 1e-3, 2.0), weights, missing, -0.7)


def _bundle(booster: xgb.Booster, **parts: Any) -> Bundle:
    fitted = Fitted(FEATURES, "UTC", "7d", 0.05, 20.0, {})
    trees = merge([booster], names=fitted.names, base_rate=0.05)
    return Bundle("trees", "contract", "key", fitted, **({"trees": trees} | parts))


def _parts(*of: Sequence[int]) -> list[Part]:
    return [Part(tuple(FEATURES[p] for p in positions), tuple(positions)) for positions in of]


def _asked(
    scorer: Scorer, parts: Sequence[Part], requests: int, candidates: int, calibrator: Calibrator = Calibrator()
) -> tuple[Any, Any]:
    """Margins of many requests, each of random kept rows, and the whole vectors that they stand for."""
    kept = [np.ascontiguousarray(_vectors(ROWS, DRAW)[:, part.positions]) for part in parts[1:]]
    for number, vectors in enumerate(kept):
        scorer.write(number + 1, vectors, np.arange(number * ROWS, (number + 1) * ROWS))
    found, whole = [], []
    for _ in range(requests):
        request = np.ascontiguousarray(_vectors(1, DRAW)[0, parts[0].positions])
        rows = DRAW.integers(ROWS, size=(len(parts) - 1, candidates))
        margins, probabilities = scorer.answer(request.tolist(), rows + ROWS * np.arange(len(parts) - 1)[:, None])
        np.testing.assert_array_equal(probabilities, calibrator.probabilities(margins))
        found.append(margins)
        vectors = np.empty((candidates, len(FEATURES)), dtype=np.float32)
        vectors[:, parts[0].positions] = request
        for part, of_part, chosen in zip(parts[1:], kept, rows, strict=True):
            vectors[:, part.positions] = of_part[chosen]
        whole.append(vectors)
    return np.concatenate(found), np.concatenate(whole)


@pytest.mark.parametrize("ridge", [False, True])
@pytest.mark.parametrize(("trees", "depth"), [(40, 6), (200, 2), (30, 1), (60, 4)])
def test_20000_margins_equal_the_bundle_s(trees: int, depth: int, ridge: bool) -> None:
    bundle = _bundle(_trained(trees, depth), ridge=_ridge() if ridge else None)
    parts = _parts(REQUEST, AD, CROSS)
    scorer = MaskScorer(bundle, parts, 2 * ROWS)
    assert isinstance(make_scorer(bundle, parts, 1), MaskScorer)
    found, whole = _asked(scorer, parts, 100, 200)
    np.testing.assert_array_equal(found, bundle.margins(whole))
    assert len(np.unique(found)) > 100


@pytest.mark.parametrize(
    ("of", "depth", "candidates", "numbered"),
    [
        ((REQUEST + CROSS, AD), 3, 200, True), ((REQUEST + CROSS, AD), 3, 20, True), ((REQUEST, AD, CROSS), 3, 200, True),
        ((REQUEST, AD + CROSS), 6, 200, False),
    ],
)  # fmt: skip
def test_rows_are_numbers_while_a_byte_holds_them(
    of: Sequence[Sequence[int]], depth: int, candidates: int, numbered: bool
) -> None:
    bundle = _bundle(_trained(60, depth), ridge=_ridge())
    parts = _parts(*of)
    scorer = MaskScorer(bundle, parts, 2 * ROWS)
    found, whole = _asked(scorer, parts, 40, candidates)
    assert scorer._numbered == numbered
    np.testing.assert_array_equal(found, bundle.margins(whole))
    assert (scorer._counts > 1).any()


def _points(number: int) -> Calibrator:
    """Through so many points at most, of which some are at margins that trees give."""
    at = np.unique(DRAW.normal(-3, 2, number).round(int(DRAW.integers(1, 9))))
    to = np.sort(DRAW.normal(-3, 2, len(at)).round(2))  # some are equal
    return Calibrator("isotonic", at=tuple(at.tolist()), to=tuple(to.tolist()))


@pytest.mark.parametrize(
    "calibrator",
    [
        *map(_points, (1, 2, 3, 40, 300)), Calibrator("shift", (0.1,)), Calibrator("platt", (0.9, 0.1)),
        Calibrator("beta", (1.1, 0.9, 0.2)),
    ],
)  # fmt: skip
def test_probabilities_are_the_calibrator_s(calibrator: Calibrator) -> None:
    bundle = _bundle(_trained(30, 3), calibrator=calibrator)
    for parts in (_parts(REQUEST, AD, CROSS), _parts(REQUEST + CROSS, AD)):
        for candidates in (1, 7, 100, 1000):
            found, whole = _asked(MaskScorer(bundle, parts, 2 * ROWS), parts, 3, candidates, calibrator)
            np.testing.assert_array_equal(found, bundle.margins(whole))
    at = np.array(calibrator.at)
    if len(at) > 1:  # and at the points themselves, where one line ends and the next begins
        kernels = pytest.importorskip("serving.kernels")
        values = np.concatenate([at, np.nextafter(at, -9), np.nextafter(at, 9)])
        to = np.array(calibrator.to)
        assert [kernels.interpolated(value, at, to) for value in values] == np.interp(values, at, to).tolist()


def test_one_part_may_ask_nothing() -> None:
    bundle = _bundle(_trained(20, 3))
    for parts in (_parts((*REQUEST, *AD, *CROSS), ()), _parts((), (*REQUEST, *AD, *CROSS))):
        found, whole = _asked(MaskScorer(bundle, parts, 2 * ROWS), parts, 5, 50)
        np.testing.assert_array_equal(found, bundle.margins(whole))


def test_small_trees_share_a_word() -> None:
    parts = _parts(REQUEST, AD, CROSS)
    scorer = MaskScorer(_bundle(_trained(160, 2)), parts, 1)
    assert scorer._model.words == -(-(160 * 4 + 1) // 64)


def test_filled_beside_the_old_rows() -> None:
    """An emptied scorer's rows are its own."""
    parts = _parts(REQUEST, AD, CROSS)
    bundle = _bundle(_trained(20, 3), ridge=_ridge())
    first = MaskScorer(bundle, parts, 2 * ROWS)
    before, whole = _asked(first, parts, 1, 20)
    other = first.emptied()
    found, expected = _asked(other, parts, 5, 20)
    np.testing.assert_array_equal(found, bundle.margins(expected))
    np.testing.assert_array_equal(before, bundle.margins(whole))


def test_the_booster_answers_where_masks_cannot(caplog: pytest.LogCaptureFixture) -> None:
    parts = _parts(REQUEST, AD, CROSS)
    large, unmerged = _bundle(_trained(3, 8)), _trained(3, 3)
    off_grid = _bundle(unmerged, trees=bytes(unmerged.save_raw("ubj")))
    for bundle, why in ((large, "leaves, expected at most 64"), (off_grid, "2**-20")):
        scorer = make_scorer(bundle, parts, 2 * ROWS)
        assert isinstance(scorer, BoosterScorer)
        assert why in caplog.messages[-1]
        found, whole = _asked(scorer, parts, 5, 20)
        np.testing.assert_array_equal(found, bundle.margins(whole))


def _changed(booster: xgb.Booster, **changes: Any) -> bytes:
    """A model with other values in its first tree."""
    document = json.loads(bytes(booster.save_raw("json")))
    document["learner"]["gradient_booster"]["model"]["trees"][0].update(changes)
    other = xgb.Booster()
    other.load_model(bytearray(json.dumps(document).encode()))
    return bytes(other.save_raw("ubj"))


def test_what_a_float32_sum_does_not_hold_is_not_compiled() -> None:
    bundle = _bundle(_trained(2, 1))
    large = _changed(bundle.booster, split_conditions=[0.5, 17.0, 2.0**-20])
    with pytest.raises(NotCompilable, match="float32"):
        MaskScorer(_bundle(_trained(2, 1), trees=large), _parts(REQUEST, AD, CROSS), 1)
