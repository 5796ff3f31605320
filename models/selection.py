"""What to train, chosen on later slices that the candidate has not seen: preset, number of trees, ridge or not, calibrator.

Run by every training worker together; they end with the same choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from conf.settings import Train, TreePreset
from feature_repo.vectorize import Float32
from models.boosting import Start
from models.calibration import Calibrator, Scored, choose_calibrator
from models.collective import total
from models.folds import Fold, best_rounds, fit_fold, folds_of, learnable, sampled
from models.lean import xgb
from models.masking import Masks
from models.merging import margins_of
from models.ridge import Ridge, fit_ridge
from models.shards import Shard

FALLBACK_ROUNDS = 100  # where no fold can judge; at a learning rate of 0.05 short of overfitting on every log tried
REFIT_ROUNDS = 1.1  # of the chosen ones, for a model that is fitted on more rows than the folds were

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """preset: of the trees. rounds: trees a seed. ridge: its C, None for trees alone. folds: how many there were to choose by.

    losses: candidate -> logloss on the later slices of all folds, in nats a row.
    """

    preset: str
    rounds: int
    ridge: float | None
    calibrator: Calibrator
    folds: int
    losses: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"calibrator": self.calibrator.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "calibrator": Calibrator.from_dict(values["calibrator"])})


def choose(
    shard: Shard, recipe: Train, cuts: Sequence[int], masks: Masks, counters: Sequence[int], negatives: float,
    start: Start | None = None,
) -> Choice:  # fmt: skip
    """The candidate of least logloss over the folds; with a model to start from, of trees alone, which are added to it.

    cuts: event times, microseconds; a fold for each but the first, scored up to it. counters: the ridge's columns. negatives: the
    share of rows without a click that were kept.
    """
    sample = sampled(shard, recipe.selection_rows)
    folds = [fold for fold in folds_of(sample, cuts, masks) if learnable(fold.train) and learnable(fold.later)]
    if not folds:
        rounds_blind = min(FALLBACK_ROUNDS, recipe.max_rounds)
        strength_blind = recipe.ridge_strengths[0] if start is None else None
        return Choice(next(iter(recipe.presets)), rounds_blind, strength_blind, Calibrator(), 0, {})
    labels = np.concatenate([fold.later.labels for fold in folds])
    number = np.concatenate([np.full(len(fold.later), n) for n, fold in enumerate(folds)])
    level = np.concatenate([fold.level.log_odds(fold.later.vectors) for fold in folds])
    scored: dict[tuple[str, float | None], Float64] = {}
    rounds: dict[str, int] = {}
    ridges = _ridge_margins(folds, counters, recipe.ridge_strengths) if start is None else {}
    for name, of_trees in recipe.presets.items():
        rounds[name], trees = _tree_margins(folds, of_trees, recipe, start)
        scored[name, None] = trees + level
        scored |= {(name, strength): (trees + ridge) / 2 + level for strength, ridge in ridges.items()}
    losses = {chosen: _logloss(margins, labels) for chosen, margins in scored.items()}
    preset, strength = min(losses, key=lambda chosen: losses[chosen])
    margins = scored[preset, strength] + np.log(negatives)
    parts = [number == n for n in range(len(folds))]
    slices = [Scored(margins[rows], labels[rows], np.ones(rows.sum()), negatives) for rows in parts]
    calibrator = choose_calibrator(slices)
    said = {f"{name}{f' + ridge {strength:g}' if strength else ''}": loss for (name, strength), loss in losses.items()}
    return Choice(preset, max(1, round(REFIT_ROUNDS * rounds[preset])), strength, calibrator, len(folds), said)


def _tree_margins(folds: Sequence[Fold], preset: TreePreset, recipe: Train, start: Start | None) -> tuple[int, Float64]:
    """The number of rounds that served the later slices best, all folds together, and the margins there after as many."""
    fitted = [fit_fold(fold, preset, recipe, start) for fold in folds]
    best = best_rounds([losses for _, losses in fitted])
    margins = [_margins(booster, fold.later.vectors, best, start) for (booster, _), fold in zip(fitted, folds, strict=True)]
    return best, np.concatenate(margins)


def _margins(booster: xgb.Booster, vectors: Float32, rounds: int, start: Start | None) -> Float64:
    end = min(rounds, booster.num_boosted_rounds())
    base = None if start is None else start(vectors)
    return margins_of(booster, vectors, iteration_range=(0, end), base_margin=base)


def _ridge_margins(folds: Sequence[Fold], counters: Sequence[int], strengths: Sequence[float]) -> dict[float, Float64]:
    fitted: list[list[Ridge]] = [fit_ridge(fold.train.vectors, fold.train.labels, counters, strengths) for fold in folds]
    return {
        strength: np.concatenate([ridges[n].log_odds(fold.later.vectors) for ridges, fold in zip(fitted, folds, strict=True)])
        for n, strength in enumerate(strengths)
    }


def _logloss(margins: Float64, labels: npt.NDArray[np.int8]) -> float:
    """Nats a row, over all workers."""
    loss = np.logaddexp(0.0, margins) - labels * margins
    summed, rows = total(np.array([loss.sum(), float(len(labels))]))
    return float(summed / rows)
