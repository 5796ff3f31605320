"""Boosted trees on the workers' rows, in segments of rounds that are kept, so that a killed training goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conf.files import write_whole
from conf.settings import TreePreset
from feature_repo.vectorize import Float32
from models.collective import total
from models.lean import xgb
from models.shards import Shard

SEGMENT = 50  # rounds

Float64 = npt.NDArray[np.float64]
Start = Callable[[Float32], Float64]  # from vectors (rows, features) to the log odds (rows,) that trees are added to


@dataclass(frozen=True)
class Kept:
    """Where the segments of one training are kept, and what tells its fits from those of any other."""

    folder: Path
    key: str

    def path(self, fit: Mapping[str, Any], rounds: int) -> Path:
        """The file of the model after so many rounds of a fit."""
        name = hashlib.sha256(json.dumps([self.key, fit], sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}-{rounds:05}.ubj"


def boost(
    shard: Shard, preset: TreePreset, *, rounds: int, seed: int, threads: int, kept: Kept | None = None, purpose: str = "",
    start: Start | None = None,
) -> xgb.Booster:  # fmt: skip
    """`rounds` trees on the rows of all workers; the same rows, order and number of workers give the same bytes.

    start: of a model that they go on from; else the rows' click rate, in the model's base_score. purpose: tells this fit from
    others of the training. Every SEGMENT rounds the first worker keeps the model; a training that is run again goes on from the
    last one that it finds, and ends in the same bytes: a loaded model adds up its leaves in the order in which a growing one did.
    """
    parameters = parameters_of(preset, seed, threads, *_totals(shard))
    matrix = matrix_of(shard, preset, start)
    fit = {"purpose": purpose, "parameters": parameters, "workers": _world()}
    done, booster = _last(kept, fit, rounds, threads)
    if booster is not None and done == rounds:
        return booster
    return xgb.train(parameters, matrix, rounds - done, xgb_model=booster, callbacks=[_Keeping(kept, fit, rounds)])


def parameters_of(preset: TreePreset, seed: int, threads: int, rows: float, clicks: float) -> dict[str, Any]:
    """XGBoost's parameters for a training part of so many rows and clicks, which the margin starts from."""
    return {
        "objective": "binary:logistic",
        "base_score": clicks / rows,
        "tree_method": "hist",
        "max_depth": preset.depth,
        "eta": preset.learning_rate,
        "lambda": preset.l2,
        "subsample": preset.subsample,
        "colsample_bytree": preset.colsample,
        "max_bin": preset.max_bins,
        "min_child_weight": min(20.0, max(1.0, 0.05 * clicks)),
        "seed": seed,
        "seed_per_iteration": True,  # without it a resumed model draws other rows than an undisturbed one
        "disable_default_eval_metric": True,
        "nthread": threads,
        "verbosity": 0,
    }


def matrix_of(shard: Shard, preset: TreePreset, start: Start | None = None, *, bins_of: xgb.DMatrix | None = None) -> xgb.DMatrix:
    """The worker's rows in bins, which all workers agree on, or in those of another matrix."""
    margins = None if start is None else start(shard.vectors)
    return xgb.QuantileDMatrix(shard.vectors, shard.labels, max_bin=preset.max_bins, base_margin=margins, ref=bins_of)


def _totals(shard: Shard) -> tuple[float, float]:
    rows, clicks = total(np.array([len(shard), shard.labels.sum()], dtype=np.float64))
    return float(rows), float(clicks)


def _world() -> int:
    return int(xgb.collective.get_world_size())


class _Keeping(xgb.callback.TrainingCallback):
    """Keeps the model every SEGMENT rounds and after the last, on the first worker."""

    def __init__(self, kept: Kept | None, fit: Mapping[str, Any], rounds: int) -> None:
        self._kept = kept if xgb.collective.get_rank() == 0 else None
        self._fit = fit
        self._rounds = rounds

    def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:
        done = model.num_boosted_rounds()
        if self._kept is not None and (done % SEGMENT == 0 or done == self._rounds):
            self._kept.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._kept.path(self._fit, done), bytes(model.save_raw("ubj")))
        return False  # go on


def _last(kept: Kept | None, fit: Mapping[str, Any], rounds: int, threads: int) -> tuple[int, xgb.Booster | None]:
    """The rounds and the model of the newest segment that the first worker finds, the same on all."""
    found: tuple[int, bytes | None] = (0, None)
    if kept is not None and xgb.collective.get_rank() == 0:
        ends = [*range(SEGMENT, rounds, SEGMENT), rounds]
        there = [end for end in ends if kept.path(fit, end).exists()]
        if there:
            found = (there[-1], kept.path(fit, there[-1]).read_bytes())
    done, model = xgb.collective.broadcast(found, 0) if xgb.collective.is_distributed() else found
    if model is None:
        return 0, None
    booster = xgb.Booster({"nthread": threads})
    booster.load_model(bytearray(model))
    return done, booster
