"""What a model card says, gathered after a training: two Spark jobs on samples, and what the training knows already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame

from conf.contract import Contract
from conf.settings import Train
from feature_repo.catalogue import Feature
from models.comparison import Comparison, compare_sample
from models.contributions import Contributions, contributions_of_sample
from models.metrics import Histogram
from models.tracking import Run
from models.training import Training

RECENT = 10


@dataclass(frozen=True)
class Facts:
    """metrics: the bundle's. histogram: of the test slice. origin: the provenance. comparison: None where it is not wanted.

    recent: the trainings before this one, newest first.
    """

    contract: Contract
    recipe: Train
    features: Sequence[Feature]
    metrics: Mapping[str, Any]
    histogram: Histogram
    origin: Mapping[str, Any]
    comparison: Comparison | None
    contributions: Contributions
    recent: Sequence[Run]


def gather(
    rows: DataFrame, made: Training, contract: Contract, recipe: Train, origin: Mapping[str, Any], recent: Sequence[Run]
) -> Facts:
    """rows: those that were trained on. Quality is the judged model's, contributions are the registered one's."""
    most = recipe.baseline_rows
    return Facts(
        contract, recipe, made.bundle.fitted.features, made.bundle.metrics, made.histogram, origin,
        compare_sample(rows, made.judged, made.split, contract, most) if most else None,
        contributions_of_sample(rows, made.bundle, made.split.test), recent,
    )  # fmt: skip
