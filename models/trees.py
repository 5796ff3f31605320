"""Boosted trees on Spark by the recipe for small logs: shallow, slow, strongly shrunk, averaged over seeds.

The defaults in conf/base.yaml held on three real logs (docs/adr); nothing here is tuned to one.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xgboost as xgb
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame

from conf.settings import Train
from models.split import Slice, Split
from models.vectors import FEATURES

log = logging.getLogger("clickodds")

REFIT_ROUNDS = 1.1  # of the stopped rounds, when the model is fitted on all rows that early stopping saw in two parts
FALLBACK_ROUNDS = 100  # where early stopping cannot judge; at a learning rate of 0.05 short of overfitting on every log tried
_STOP = "is_stop"


def stopped_rounds(frame: DataFrame, split: Split, recipe: Train) -> int:
    """How many trees a model of this recipe gets: 1.1 times those that served the early-stopping slice best (logloss).

    frame: vectors of the rows before the test. One seed decides, the others would say nearly the same. Where train or stop slice
    lack one of the labels there is nothing to judge by: a warning, and FALLBACK_ROUNDS.
    """
    for name, part in (("train", split.train), ("early-stopping", split.stop)):
        if not part.learnable:
            rounds = min(FALLBACK_ROUNDS, recipe.max_rounds)
            log.warning("train: %d clicks in the %d rows of the %s slice: %d rounds, fixed", part.clicks, part.rows, name, rounds)
            return rounds
    booster = _fit(
        frame.where(split.earlier.within()).withColumn(_STOP, split.stop.within()), recipe, split.train, seed=0,
        rounds=recipe.max_rounds,
        early_stopping_rounds=recipe.early_stopping_rounds, eval_metric="logloss", validation_indicator_col=_STOP,
    )  # fmt: skip
    best = int(booster.best_iteration) + 1
    log.info("train: early stopping at %d of %d rounds", best, recipe.max_rounds)
    return max(1, round(REFIT_ROUNDS * best))


def fit_seeds(parts: Sequence[tuple[DataFrame, Slice]], recipe: Train, rounds: int) -> list[list[xgb.Booster]]:
    """For each vector frame, on its rows in the slice, one Booster of `rounds` trees for each seed.

    As many fits run at once as there are task slots for; each gives what it would alone.
    """
    frame = parts[0][0]
    slots = max(1, frame.sparkSession.sparkContext.defaultParallelism // recipe.num_workers)

    def fit(part: tuple[DataFrame, Slice], seed: int) -> xgb.Booster:
        rows = part[0].where(part[1].within())
        # without this the logloss of every round on the training rows is computed, for nobody, in as much time as the trees
        return _fit(rows, recipe, part[1], seed=seed, rounds=rounds, disable_default_eval_metric=True)

    run = inheritable_thread_target(frame.sparkSession)(fit)
    with ThreadPoolExecutor(max_workers=min(slots, len(parts) * recipe.seeds)) as pool:
        started = [[pool.submit(run, part, seed) for seed in range(recipe.seeds)] for part in parts]
        return [[fitting.result() for fitting in fits] for fits in started]


def _fit(rows: DataFrame, recipe: Train, part: Slice, *, seed: int, rounds: int, **more: Any) -> xgb.Booster:
    from xgboost.spark import SparkXGBClassifier  # scikit-learn with it: seconds that --help need not wait for

    for name in ("XGBoost-PySpark", "SparkXGBClassifier"):
        logging.getLogger(name).setLevel(logging.WARNING)
    classifier = SparkXGBClassifier(
        features_col=FEATURES,
        label_col="label",
        num_workers=recipe.num_workers,
        missing=float("nan"),
        n_estimators=rounds,
        random_state=seed,
        seed_per_iteration=True,
        base_score=part.clicks / part.rows,  # the margin all trees start from; models/merging.py counts on it
        tree_method="hist",
        max_depth=recipe.depth,
        learning_rate=recipe.learning_rate,
        reg_lambda=recipe.l2,
        subsample=recipe.subsample,
        colsample_bytree=recipe.colsample,
        max_bin=recipe.max_bins,
        min_child_weight=min(20.0, max(1.0, 0.05 * part.clicks)),
        verbosity=0,
        verbose=False,
        **more,
    )
    booster: xgb.Booster = classifier.fit(rows).get_booster()
    return booster
