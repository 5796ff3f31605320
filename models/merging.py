"""Several Boosters averaged into one whose margins are the same to the bit in every order and on every engine.

Leaf values are multiples of 2**-20 (of 2**-19 where margins may reach 16, and so on) and small enough that every partial sum of
a row's leaves is a float32: adding them rounds nothing. The intercept is one more tree of a single leaf, because XGBoost keeps
`base_score` as a probability and its margin would lie off the grid; base_score becomes 0.5, whose margin is 0.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from conf.errors import DataError
from feature_repo.vectorize import Float32
from models.lean import xgb

GRID = 2.0**-20
_EXACT = 2.0**24  # a float32 holds every multiple of the grid below so many of it
_COARSEST = 2.0**-16  # margins beyond 256 are no log odds of a click
_CHECKED_ROWS = 512
_LARGEST = float(np.finfo(np.float32).max)

Tree = dict[str, Any]
Float64 = npt.NDArray[np.float64]


def margins_of(booster: xgb.Booster, vectors: Float32, **limits: Any) -> Float64:
    """Log odds (rows,) of vectors (rows, features). limits: as XGBoost's inplace_predict takes them."""
    found = booster.inplace_predict(vectors, predict_type="margin", **limits)
    return np.asarray(found, dtype=np.float64).reshape(len(vectors))  # of no rows XGBoost makes (0, 0)


def merge(
    boosters: Sequence[xgb.Booster], *, names: Sequence[str], base_rate: float = 0.5, share: float = 1.0,
    onto: xgb.Booster | None = None, absences: Sequence[tuple[Sequence[int], float]] = (),
) -> bytes:  # fmt: skip
    """The average of the boosters' margins as one Booster, UBJSON; the same boosters give the same bytes.

    base_rate: clicks per impression that the trees start from, in (0, 1): the base_score that they were fitted with, or, where
    only a share of the negatives was trained on, the rate among all. Its log odds differ by the log of that share, which is the
    whole correction: q = p / (p + (1 - p) / kept). names: the features', in order. share: what the margin is
    multiplied by, where it is one part of the model's. onto: a merged model that the boosters were fitted on top of.
    absences: features, and what is added where all of them are missing (models/absence.py); each is one more tree.
    Raises DataError where the sum would not be exact (margins of 256 and more, or a reloaded model that answers otherwise).
    """
    documents = [json.loads(bytes(booster.save_raw("json"))) for booster in boosters]
    trees = [tree for document in documents for tree in _model(document)["trees"]]
    for tree in trees:
        _set_leaves(tree, lambda value: value * share / len(boosters))
    trees += [_single_leaf(share * math.log(base_rate / (1 - base_rate)), len(names))] if onto is None else trees_of(onto)
    trees += [_missing_tree(features, margin, len(names)) for features, margin in absences]
    grid = _grid(trees)
    for tree in trees:
        _set_leaves(tree, lambda value: round(value / grid) * grid)
    booster = assemble(documents[0], trees, names)
    check(booster, trees)
    return bytes(booster.save_raw("ubj"))


def assemble(template: dict[str, Any], trees: Sequence[Tree], names: Sequence[str]) -> xgb.Booster:
    """A Booster of these trees in this order; objective and format follow `template`, a model in XGBoost's JSON."""
    document: dict[str, Any] = json.loads(json.dumps(template))
    learner, model = document["learner"], _model(document)
    model["trees"] = [{**tree, "id": index} for index, tree in enumerate(trees)]
    model["tree_info"] = [0] * len(trees)
    model["iteration_indptr"] = list(range(len(trees) + 1))
    model["gbtree_model_param"] |= {"num_trees": str(len(trees)), "num_parallel_tree": "1"}
    learner["attributes"] = {}  # best_iteration would cut the trees of the other seeds
    learner["feature_names"] = list(names)
    learner["feature_types"] = ["float"] * len(names)
    parameters = learner["learner_model_param"]
    parameters["base_score"] = "[5E-1]" if str(parameters["base_score"]).startswith("[") else "5E-1"
    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(json.dumps(document).encode()))
    return booster


def trees_of(booster: xgb.Booster) -> list[Tree]:
    """The trees as they stand in XGBoost's JSON."""
    trees: list[Tree] = _model(json.loads(bytes(booster.save_raw("json"))))["trees"]
    return trees


def check(booster: xgb.Booster, trees: Sequence[Tree]) -> None:
    """Raises DataError unless the reloaded booster's margins are the exact sums of the trees' leaves."""
    reloaded = xgb.Booster({"nthread": 1})
    reloaded.load_model(booster.save_raw("ubj"))
    rows = _probing_rows(trees, booster.num_features())
    matrix = xgb.DMatrix(rows, feature_names=booster.feature_names, feature_types=booster.feature_types)
    leaves = reloaded.predict(matrix, pred_leaf=True).reshape(len(rows), len(trees)).astype(int)
    values = [np.asarray(tree["split_conditions"], dtype=np.float64) for tree in trees]
    exact = np.sum([values[index][leaves[:, index]] for index in range(len(trees))], axis=0)
    found = reloaded.inplace_predict(rows, predict_type="margin")
    if wrong := int(np.sum(found.astype(np.float64) != exact)):
        raise DataError(f"model: {wrong} of {len(rows)} reloaded margins are not the sum of their leaves, expected all")


def _model(document: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = document["learner"]["gradient_booster"]["model"]
    return model


def _leaves(tree: Tree) -> list[int]:
    return [node for node, child in enumerate(tree["left_children"]) if child == -1]


def _grid(trees: Sequence[Tree]) -> float:
    """The finest grid on which no sum of the trees' leaves needs more than a float32's 24 bits."""
    largest = sum(max(abs(tree["split_conditions"][leaf]) for leaf in _leaves(tree)) for tree in trees)
    grid = GRID
    while largest + len(trees) * grid >= grid * _EXACT:
        grid *= 2
    if grid > _COARSEST:
        raise DataError(f"model: margins may reach {largest:.0f} in log odds, expected less than 256: use fewer rounds")
    return grid


def _set_leaves(tree: Tree, value_of: Callable[[float], float]) -> None:
    for leaf in _leaves(tree):
        tree["split_conditions"][leaf] = value_of(tree["split_conditions"][leaf])


def _single_leaf(margin: float, num_feature: int) -> Tree:
    return _missing_tree((), margin, num_feature)


def _missing_tree(features: Sequence[int], margin: float, num_feature: int) -> Tree:
    """Adds `margin` where all the features are missing, nothing where one is there: a chain of nodes with a leaf to the left.

    Node 2i asks for feature i: a value is less than the largest float32 and goes left, a missing one goes right by default.
    """
    depth = len(features)
    nodes = 2 * depth + 1
    asks = [node % 2 == 0 and node < nodes - 1 for node in range(nodes)]
    return {  # XGBoost's reader tells 0 from 0.0
        "default_left": [0] * nodes,
        "split_type": [0] * nodes,
        "split_indices": [features[node // 2] if asks[node] else 0 for node in range(nodes)],
        **{name: [] for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes")},
        "loss_changes": [0.0] * nodes,
        "base_weights": [0.0] * (nodes - 1) + [margin],
        "split_conditions": [_LARGEST if asks[node] else 0.0 for node in range(nodes - 1)] + [margin],
        "left_children": [node + 1 if asks[node] else -1 for node in range(nodes)],
        "right_children": [node + 2 if asks[node] else -1 for node in range(nodes)],
        "parents": [2147483647] + [node - 1 if node % 2 else node - 2 for node in range(1, nodes)],
        "sum_hessian": [1.0 if asks[node] or node == nodes - 1 else 0.99 for node in range(nodes)],
        "tree_param": {"num_deleted": "0", "num_feature": str(num_feature), "num_nodes": str(nodes), "size_leaf_vector": "1"},
    }


def _probing_rows(trees: Sequence[Tree], num_feature: int) -> npt.NDArray[np.float32]:
    """Rows on both sides of the trees' thresholds, one value in six missing."""
    thresholds: list[list[float]] = [[0.0] for _ in range(num_feature)]
    for tree in trees:
        for node, child in enumerate(tree["left_children"]):
            if child != -1:
                thresholds[tree["split_indices"][node]].append(tree["split_conditions"][node])
    draw = np.random.default_rng(0)
    rows = np.empty((_CHECKED_ROWS, num_feature), dtype=np.float32)
    for index, values in enumerate(thresholds):
        chosen = draw.choice(np.asarray(values, dtype=np.float32), _CHECKED_ROWS)
        rows[:, index] = np.where(draw.uniform(size=_CHECKED_ROWS) < 0.5, chosen, np.nextafter(chosen, np.float32(-np.inf)))
    rows[draw.uniform(size=rows.shape) < 1 / 6] = np.nan
    return rows
