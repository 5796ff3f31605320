"""From a training set to a bundle: what to train, a model to be judged, the model to be registered.

The recipe is judged on a model that ends before the test slice, fitted state included; the registered one is the same recipe on
all rows, because the newest hours matter most.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import log as ln

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.errors import DataError
from conf.settings import Train
from feature_repo.catalogue import raw_schema
from models import golden
from models.assembly import assembled, counters_of, fit_model, grown, with_absences, with_level
from models.boosting import Kept, Start
from models.bundle import Bundle
from models.evaluation import CONSTANT, OURS, constant, frequent, qualities, slice_sums
from models.fitting import fit_state
from models.masking import Masks, masked, without
from models.metrics import Histogram, score_histogram, summarize
from models.selection import Choice, choose
from models.shards import Shard, sharded
from models.split import Slice, Split, time_split, utc
from models.workers import on_workers

log = logging.getLogger("clickodds")

_CHOICE = "choice"


@dataclass(frozen=True)
class Training:
    """The bundle to register, its metrics in it; and what is worth logging of how it came to be."""

    bundle: Bundle
    judged: Bundle
    histogram: Histogram
    split: Split
    choice: Choice


def train_bundle(
    rows: DataFrame, contract: Contract, recipe: Train, id_key_fingerprint: str, *, kept: Kept | None = None,
    test_from: datetime | None = None, start: Bundle | None = None,
) -> Training:  # fmt: skip
    """Choose, fit, judge, refit. rows: raw values of the contract with impression_id, label and weight.

    kept: where fits leave their segments. start: a bundle of trees that has seen none of the rows: its trees and ridge stay, new
    trees are added. Raises DataError for rows that nothing can be learned from: see `time_split`; and no
    clicks before the test slice.
    """
    split = time_split(rows, test_from)
    judged, choice = fit_part(rows, split.earlier, split.cuts, contract, recipe, id_key_fingerprint, kept, start)
    _warn_of_folds(choice, len(split.cuts) - 1)
    bundle, _ = fit_part(rows, split.everything, choice, contract, recipe, id_key_fingerprint, kept, start, told=split.earlier)
    test = rows.where(split.test.within())
    histogram = score_histogram(test, judged, constant=judged.fitted.base_rate)
    if not split.test.clicks:
        log.warning("train: no clicks in the %d rows of the test slice: no AUC, no calibration ratio", split.test.rows)
    answers = {OURS: judged.probabilities, CONSTANT: constant(judged.fitted.base_rate)}
    seen = frequent(rows.where(split.earlier.within()), contract)
    found = qualities(slice_sums(test, answers, contract, seen))
    metrics = {
        "test": summarize(histogram), "split": split.described(),
        "choice": choice.to_dict(), "trees_until": split.described()["test"]["until"],
        "slices": [quality.to_dict() for quality in found], "recipe": recipe.model_dump(mode="json"),
    }  # fmt: skip
    if start is not None:
        metrics["warm_start"] = {"of": start.identity, "choice": choice.to_dict()}
        metrics |= {name: start.metrics[name] for name in ("choice", "recipe")}  # what can be fitted anew, as a rival
    bundle = replace(bundle.with_golden(golden_rows(test, contract)), metrics=metrics)
    return Training(bundle, judged, histogram, split, choice)


def fit_rival(
    rows: DataFrame, champion: Bundle, contract: Contract, id_key_fingerprint: str, until: datetime
) -> Bundle | None:
    """The champion's recipe fitted to the rows before a time.

    Of prior rates, those of the rows before. A calibrator that was fitted later has seen what the rival is judged on, and stays
    out. None where the champion has no recipe, or one of another release.
    """
    earlier = time_split(rows, until).earlier
    if champion.kind == "prior":
        rate = earlier.click_rate(contract.sampling.negatives)
        return replace(champion, fitted=replace(champion.fitted, base_rate=rate), golden=None)
    try:
        choice, recipe = Choice.from_dict(champion.metrics["choice"]), Train.model_validate(champion.metrics["recipe"])
    except (KeyError, TypeError, ValueError):
        return None
    if choice.preset not in recipe.presets:
        return None
    if "recalibrated" in champion.metrics and datetime.fromisoformat(champion.metrics["split"]["test"]["until"]) <= until:
        choice = replace(choice, calibrator=champion.calibrator)
    rival, _ = fit_part(rows, earlier, choice, contract, recipe, id_key_fingerprint)
    return rival


def golden_rows(rows: DataFrame, contract: Contract) -> pa.RecordBatch:
    """A few raw rows, chosen by the id's hash."""
    first = rows.orderBy(F.xxhash64(F.lit("golden"), "impression_id"), "impression_id").limit(golden.ROWS)
    schema = raw_schema(contract)
    return first.select(*schema.names).toArrow().cast(schema).combine_chunks().to_batches()[0]


def prior_bundle(rows: DataFrame, contract: Contract, recipe: Train, id_key_fingerprint: str) -> Bundle:
    """A bundle that answers each row's prior rate. Raises DataError as `train_bundle` does."""
    fitted = fit_state(rows, contract, recipe, time_split(rows).everything)
    return Bundle("prior", contract.hash, id_key_fingerprint, fitted)


def fit_part(
    rows: DataFrame, part: Slice, how: Choice | tuple[int, ...], contract: Contract, recipe: Train, fingerprint: str,
    kept: Kept | None = None, start: Bundle | None = None, told: Slice | None = None,
) -> tuple[Bundle, Choice]:  # fmt: skip
    """A bundle of the rows of `part`, by a choice that was made or, from the cuts given, is made on them first.

    start: a bundle that it goes on from. told: the slice whose features it has, where the choice was made on another. Raises
    DataError where `part` has not both labels.
    """
    require_learnable(part)
    fitted = fit_state(rows, contract, recipe, part, told) if start is None else start.fitted
    masks = Masks.of(fitted, recipe.masked)
    counters = counters_of(fitted.features)
    negatives = contract.sampling.negatives

    onto = None if start is None else _margins_before(start, masks.hidden, negatives)

    def task(shard: Shard) -> Mapping[str, bytes]:
        chosen = how if isinstance(how, Choice) else choose(shard, recipe, how, masks, counters, negatives, onto)
        purpose = json.dumps([part.until_us, fitted.to_dict(), start.identity if start else None], sort_keys=True)
        model = fit_model(masked(shard, masks), chosen, recipe, counters, kept=kept, purpose=purpose, start=onto)
        if start is None:  # else they are among the trees it goes on from
            model = with_absences(model, shard, masks, negatives)
        model = with_level(model, shard, masks.hidden)
        return {_CHOICE: json.dumps(chosen.to_dict()).encode(), **model}

    shards = sharded(rows.where(part.within()), fitted, recipe.num_workers)
    made = on_workers(shards, recipe.num_workers, recipe.threads, len(fitted.names), task)
    choice = Choice.from_dict(json.loads(made.pop(_CHOICE)))
    trees, ridge = assembled(made, fitted, negatives) if start is None else grown(made, start)
    return Bundle("trees", contract.hash, fingerprint, fitted, choice.calibrator, trees, ridge), choice


def _margins_before(start: Bundle, hidden: Sequence[int], negatives: float) -> Start:
    """What the trees go on from, among rows of which a share of those without a click was kept. The level is theirs, not its."""
    return lambda vectors: start.margins(without(vectors, hidden)) - ln(negatives)


def _warn_of_folds(choice: Choice, folds: int) -> None:
    if not choice.folds:
        log.warning("train: no fold has clicks on both sides of its cut: %d rounds, fixed, and no calibrator", choice.rounds)
    elif choice.folds < folds:
        log.warning("train: %d of %d folds without clicks on both sides of a cut: the others chose", folds - choice.folds, folds)


def require_learnable(part: Slice) -> None:
    """Raises DataError where the slice lacks clicks, or other rows."""
    if not part.learnable:
        raise DataError(
            f"training set: {part.clicks:,} clicks in the {part.rows:,} rows before the test slice ({utc(part.until_us)}), "
            "expected both labels there, or no model can be tested; train on a longer log"
        )
