"""A model's parts as the workers fit them, and put together: trees of every seed, averaged, and the ridge beside them."""

import json
from collections.abc import Mapping, Sequence
from math import log as ln

import numpy as np
import numpy.typing as npt

from conf.settings import Train
from feature_repo.catalogue import Feature
from feature_repo.vectorize import Fitted, Float32
from models.absence import absences, from_json, to_json
from models.boosting import Kept, Start, boost
from models.bundle import Bundle
from models.lean import xgb
from models.level import level_term
from models.masking import Masks
from models.merging import margins_of, merge
from models.ridge import Ridge, fit_ridge
from models.selection import Choice
from models.shards import Shard

Float64 = npt.NDArray[np.float64]

_COUNTERS = ("log_ratio", "log_impressions")
_TREES, _RIDGE, _LEVEL, _ABSENCES = "trees", "ridge", "level", "absences"


def counters_of(features: Sequence[Feature]) -> list[int]:
    """Positions of what the ridge regression sees."""
    return [n for n, feature in enumerate(features) if feature.kind in _COUNTERS]


def fit_model(
    shard: Shard, choice: Choice, recipe: Train, counters: Sequence[int], *, kept: Kept | None = None, purpose: str = "",
    start: Start | None = None,
) -> dict[str, bytes]:  # fmt: skip
    """The parts, by all workers together, each with its rows. start: of a model that the parts go on from."""
    made = {}
    for seed in range(recipe.seeds):
        length = {"rounds": choice.rounds, "threads": recipe.threads}
        booster = boost(shard, recipe.presets[choice.preset], **length, seed=seed, kept=kept, purpose=purpose, start=start)
        made[f"{_TREES} {seed}"] = bytes(booster.save_raw("ubj"))
    if choice.ridge is not None:
        ridge = fit_ridge(shard.vectors, shard.labels, counters, [choice.ridge])[0]
        made[_RIDGE] = json.dumps(ridge.to_dict()).encode()
    return made


def with_level(made: Mapping[str, bytes], shard: Shard, columns: Sequence[int]) -> dict[str, bytes]:
    """The parts, and what follows the level, if a column holds it. shard: whole rows. By all workers together."""
    return dict(made) if not columns else {**made, _LEVEL: json.dumps(level_term(shard, columns).to_dict()).encode()}


def with_absences(made: Mapping[str, bytes], shard: Shard, masks: Masks, negatives: float) -> dict[str, bytes]:
    """The parts, and what the model lacks without a key. shard: whole rows. By all workers together."""
    boosters = _boosters(made)
    ridge = Ridge.from_dict(json.loads(made[_RIDGE])) if _RIDGE in made else None

    def margins(vectors: Float32) -> Float64:
        trees = np.asarray(np.mean([margins_of(booster, vectors) for booster in boosters], axis=0))
        return trees if ridge is None else (trees + ridge.log_odds(vectors)) / 2

    return {**made, _ABSENCES: to_json(absences(shard, masks, negatives, margins))}


def grown(made: Mapping[str, bytes], start: Bundle) -> tuple[bytes, Ridge | None]:
    """The trees of a model with new ones added to it, as one Booster, and its ridge regression with the level of the new rows."""
    trees = merge(_boosters(made), names=start.fitted.names, onto=start.booster)
    if _LEVEL not in made or start.ridge is None:
        return trees, start.ridge
    level = Ridge.from_dict(json.loads(made[_LEVEL]))
    return trees, start.ridge.without(level.columns).plus(level)


def assembled(made: Mapping[str, bytes], fitted: Fitted, negatives: float) -> tuple[bytes, Ridge | None]:
    """The trees as one Booster, and the ridge regression with the level's term: their margins add up to the model's.

    negatives: the share of rows without a click that were trained on: its log is the whole correction, in trees as in ridge.
    """
    share = 0.5 if _RIDGE in made else 1.0
    lacks = from_json(made[_ABSENCES]) if _ABSENCES in made else ()
    trees = merge(_boosters(made), base_rate=fitted.base_rate, names=fitted.names, share=share, absences=lacks)
    ridge = Ridge.from_dict(json.loads(made[_RIDGE])).scaled(share, share * ln(negatives)) if _RIDGE in made else None
    level = Ridge.from_dict(json.loads(made[_LEVEL])) if _LEVEL in made else None
    return trees, ridge.plus(level) if ridge and level else ridge or level


def _boosters(made: Mapping[str, bytes]) -> list[xgb.Booster]:
    boosters = []
    for name, model in made.items():
        if name.startswith(_TREES):
            boosters.append(xgb.Booster({"nthread": 1}))
            boosters[-1].load_model(bytearray(model))
    return boosters
