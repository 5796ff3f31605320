"""The averaged model: the same margins to the bit in any order of trees, on any engine."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from conf.errors import DataError
from models.lean import xgb
from models.merging import GRID, Tree, assemble, check, merge, trees_of

NAMES = [f"feature_{index}" for index in range(6)]
Float32 = npt.NDArray[np.float32]


def rows(count: int = 2_000) -> Float32:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(count, len(NAMES))).astype(np.float32)
    values[draw.uniform(size=values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def boosters() -> list[xgb.Booster]:
    values = rows()
    odds = np.exp(np.nan_to_num(values[:, 0]) - 3)
    labels = (np.random.default_rng(1).uniform(size=len(values)) < odds / (1 + odds)).astype(int)
    parameters = {
        "objective": "binary:logistic", "max_depth": 2, "eta": 0.05, "subsample": 0.8, "base_score": 0.07, "nthread": 1,
    }  # fmt: skip
    return [xgb.train({**parameters, "seed": seed}, xgb.DMatrix(values, labels), 40) for seed in range(3)]


def loaded(model: bytes) -> xgb.Booster:
    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    return booster


def margins(booster: xgb.Booster) -> Float32:
    return np.asarray(booster.inplace_predict(rows(), predict_type="margin"), dtype=np.float32)


def document(booster: xgb.Booster) -> dict[str, object]:
    found: dict[str, object] = json.loads(bytes(booster.save_raw("json")))
    return found


def test_it_is_the_average_of_the_models(boosters: Sequence[xgb.Booster]) -> None:
    merged = loaded(merge(boosters, base_rate=0.07, names=NAMES))
    average = np.mean([margins(booster).astype(np.float64) for booster in boosters], axis=0)
    trees = 3 * 40 + 1
    assert merged.num_boosted_rounds() == trees
    assert np.abs(margins(merged) - average).max() < (trees + 1) * GRID
    assert merged.feature_names == NAMES


def test_the_same_models_give_the_same_bytes(boosters: Sequence[xgb.Booster]) -> None:
    assert merge(boosters, base_rate=0.07, names=NAMES) == merge(boosters, base_rate=0.07, names=NAMES)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_no_order_of_trees_changes_a_bit(boosters: Sequence[xgb.Booster], order: str) -> None:
    merged = loaded(merge(boosters, base_rate=0.07, names=NAMES))
    trees = trees_of(merged)
    shuffle = {"forward": trees, "reverse": trees[::-1], "random": np.random.default_rng(2).permutation(np.array(trees)).tolist()}
    other = assemble(document(merged), shuffle[order], NAMES)
    assert margins(other).tobytes() == margins(merged).tobytes()
    assert margins(merged).astype(np.float64).tolist() == exact(merged, trees)


def exact(booster: xgb.Booster, trees: Sequence[Tree]) -> list[float]:
    """Each row's leaves added as integers of the grid."""
    leaves = booster.predict(xgb.DMatrix(rows(), feature_names=NAMES), pred_leaf=True).astype(int)
    values = [[round(value / GRID) for value in tree["split_conditions"]] for tree in trees]
    return [sum(values[tree][leaf] for tree, leaf in enumerate(row)) * GRID for row in leaves]


def test_what_is_added_where_features_are_missing(boosters: Sequence[xgb.Booster]) -> None:
    plain = loaded(merge(boosters, base_rate=0.07, names=NAMES))
    added = loaded(merge(boosters, base_rate=0.07, names=NAMES, absences=[([1], 0.5), ([0, 1], -0.25)]))
    missing = np.isnan(rows())
    expected = 0.5 * missing[:, 1] - 0.25 * (missing[:, 0] & missing[:, 1])
    assert set(expected.tolist()) == {0.0, 0.25, 0.5}
    assert (margins(added) - margins(plain)).tolist() == expected.tolist()


def test_attributes_of_early_stopping_are_gone(boosters: Sequence[xgb.Booster]) -> None:
    stopped = loaded(bytes(boosters[0].save_raw("ubj")))
    stopped.set_attr(best_iteration="3", best_score="0.2")
    assert loaded(merge([stopped], base_rate=0.07, names=NAMES)).attributes() == {}


def test_leaves_off_the_grid_are_found_out(boosters: Sequence[xgb.Booster]) -> None:
    with pytest.raises(DataError, match="not the sum of their leaves"):
        check(boosters[0], trees_of(boosters[0]))


@pytest.mark.parametrize("times", [8, 40])
def test_larger_margins_lie_on_a_coarser_grid_and_are_exact_too(boosters: Sequence[xgb.Booster], times: int) -> None:
    merged = loaded(merge(boosters, base_rate=0.07, names=NAMES, share=times))
    average = times * np.mean([margins(booster).astype(np.float64) for booster in boosters], axis=0)
    assert np.abs(average).max() > 16
    assert np.abs(margins(merged) - average).max() < 0.01
    assert margins(merged).astype(np.float64).tolist() == exact(merged, trees_of(merged))


def test_margins_too_large_to_be_exact_are_refused(boosters: Sequence[xgb.Booster]) -> None:
    with pytest.raises(DataError, match="expected less than 256"):
        merge(boosters, base_rate=0.07, names=NAMES, share=1_000)
