"""From a training set to a bundle: how many rounds, a model to be judged, the model to be registered.

The recipe is judged on a model that ends before the test slice, fitted state included; the registered one is the same recipe on
all rows, because the newest hours matter most.
"""

import logging
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame

from conf.contract import Contract
from conf.errors import DataError
from conf.settings import Train
from models.bundle import Bundle
from models.fitting import fit_state
from models.merging import merge
from models.metrics import Histogram, score_histogram, summarize
from models.split import Slice, Split, time_split, utc
from models.trees import fit_seeds, stopped_rounds
from models.vectors import training_frame

log = logging.getLogger("clickodds")


@dataclass(frozen=True)
class Training:
    """The bundle to register, its metrics in it; and what is worth logging of how it came to be."""

    bundle: Bundle
    histogram: Histogram
    split: Split
    rounds: int


def train_bundle(rows: DataFrame, contract: Contract, recipe: Train, id_key_fingerprint: str) -> Training:
    """Fit, judge, refit. rows: raw values of the contract with impression_id, label and weight.

    Raises DataError for rows that nothing can be learned from: see `time_split`; and no clicks before the test slice.
    """
    split = time_split(rows)
    _require_learnable(split.earlier)
    judged_on, registered_on = (fit_state(rows, contract, recipe, part) for part in (split.earlier, split.everything))
    workers = recipe.num_workers
    with (
        training_frame(rows.where(split.earlier.within()), judged_on, workers) as earlier,
        training_frame(rows, registered_on, workers) as everything,
    ):
        # The number of rounds is all that is chosen on the early-stopping rows, so they may stand in the fitted state meanwhile.
        rounds = stopped_rounds(earlier, split, recipe)
        fits = fit_seeds([(earlier, split.earlier), (everything, split.everything)], recipe, rounds)
    judged, bundle = (
        Bundle(
            "trees", contract.hash, id_key_fingerprint, fitted,
            trees=merge(boosters, base_rate=fitted.base_rate, names=fitted.names),
        )
        for fitted, boosters in zip((judged_on, registered_on), fits, strict=True)
    )  # fmt: skip
    histogram = score_histogram(rows.where(split.test.within()), judged, constant=judged_on.base_rate)
    if not split.test.clicks:
        log.warning("train: no clicks in the %d rows of the test slice: no AUC, no calibration ratio", split.test.rows)
    metrics = {"test": summarize(histogram), "slices": split.described()}
    return Training(replace(bundle, metrics=metrics), histogram, split, rounds)


def prior_bundle(rows: DataFrame, contract: Contract, recipe: Train, id_key_fingerprint: str) -> Bundle:
    """A bundle that answers each row's prior rate. Raises DataError as `train_bundle` does."""
    fitted = fit_state(rows, contract, recipe, time_split(rows).everything)
    return Bundle("prior", contract.hash, id_key_fingerprint, fitted)


def _require_learnable(part: Slice) -> None:
    if not part.learnable:
        raise DataError(
            f"training set: {part.clicks:,} clicks in the {part.rows:,} rows before the test slice ({utc(part.until_us)}), "
            "expected both labels there, or no model can be tested; train on a longer log"
        )
