"""The same recipe without some of its features, or on fewer rows: what each is worth. All variants are fitted in one stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame

from conf.contract import Contract
from conf.settings import Train
from feature_repo.catalogue import Feature
from feature_repo.vectorize import vectorize
from models.assembly import assembled, counters_of, fit_model, with_level
from models.bundle import Bundle
from models.evaluation import Answer, Float64
from models.fitting import fit_state
from models.folds import learnable
from models.masking import Masks, masked, without
from models.selection import Choice
from models.shards import Shard, sharded
from models.split import Slice
from models.workers import on_workers

CONTEXT, TIME, EVERYTHING = "context", "time of day and week", "the level"


@dataclass(frozen=True)
class Variant:
    """without: positions in the vector that it never sees. rows: the share of training rows that it sees."""

    without: tuple[int, ...] = ()
    rows: float = 1.0


def feature_groups(features: Sequence[Feature]) -> dict[str, tuple[int, ...]]:
    """Group -> positions in the vector: each key, the context columns, time of day and week, the level."""

    def group(feature: Feature) -> str:
        return feature.key or (EVERYTHING if feature.kind == "level" else CONTEXT if feature.column else TIME)

    names = dict.fromkeys(group(feature) for feature in features)
    return {name: tuple(n for n, feature in enumerate(features) if group(feature) == name) for name in names}


def fit_variants(
    rows: DataFrame, part: Slice, choice: Choice, contract: Contract, recipe: Train, variants: Mapping[str, Variant]
) -> dict[str, Answer]:
    """What each variant answers to raw rows, fitted on `part` with one seed by a choice that was made for the whole.

    A variant whose rows have not both labels is left out.
    """
    fitted = fit_state(rows, contract, recipe, part)
    masks = Masks.of(fitted, recipe.masked)
    alone = recipe.model_copy(update={"seeds": 1})
    names = list(variants)

    def task(shard: Shard) -> Mapping[str, bytes]:
        seen = masked(shard, masks)
        fits: dict[str, bytes] = {}
        for number, variant in enumerate(variants.values()):
            some = seen if variant.rows == 1 else seen.where(seen.uniform("curve") < variant.rows)
            if not learnable(some):
                continue
            vectors = without(some.vectors, variant.without)
            counters = [n for n in counters_of(fitted.features) if n not in variant.without]
            parts = fit_model(some.with_vectors(vectors), choice, alone, counters)
            parts = with_level(parts, shard, masks.hidden)
            fits |= {f"{number} {name}": data for name, data in parts.items()}
        return fits

    shards = sharded(rows.where(part.within()), fitted, recipe.num_workers)
    made = on_workers(shards, recipe.num_workers, recipe.threads, len(fitted.names), task)
    answers = {}
    for number, name in enumerate(names):
        start = f"{number} "
        parts = {key.removeprefix(start): data for key, data in made.items() if key.startswith(start)}
        if not parts:
            continue
        trees, ridge = assembled(parts, fitted, contract.sampling.negatives)
        bundle = Bundle("trees", contract.hash, "", fitted, choice.calibrator, trees, ridge)
        answers[name] = withheld(bundle, variants[name].without)
    return answers


def withheld(bundle: Bundle, columns: Sequence[int]) -> Answer:
    """The bundle's answers where these positions of the vector are missing."""

    def answer(raw: pa.RecordBatch) -> Float64:
        vectors = without(vectorize(raw, bundle.fitted), columns)
        return bundle.calibrator.probabilities(bundle.margins(vectors))

    return answer
