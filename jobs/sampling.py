"""Which labelled impressions are trained on: all that were clicked, and the contract's share of the others."""

from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Sampling

_PARTS = 1_000_000


def sampled(sampling: Sampling) -> Callable[[DataFrame], DataFrame]:
    """Keep rows by a hash of `impression_id`, the same ones on every run, and add `weight`: how many rows each stands for."""

    def transform(labels: DataFrame) -> DataFrame:
        clicked = F.col("label") == 1
        draw = F.pmod(F.xxhash64(F.lit("negatives"), "impression_id"), F.lit(_PARTS))
        kept = labels.where(clicked | (draw < F.lit(round(sampling.negatives * _PARTS))))
        return kept.withColumn("weight", F.when(clicked, F.lit(1.0)).otherwise(F.lit(1 / sampling.negatives)))

    return transform
