"""What vectors need beyond raw values, learned from training rows by aggregates that Spark computes where the rows lie."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.settings import Train
from feature_repo.catalogue import LEVEL, catalogue
from feature_repo.vectorize import Fitted
from models.split import Slice

WEEKS = 4  # of a log whose trees may see the day of the week; where it came once or twice it tells the date
_WEEK_US, _HOUR_US = 7 * 86_400_000_000, 3_600_000_000
MAX_VOCABULARY = 10_000  # values of one column; a column with more is an id, and ids enter through their counters


def fit_state(rows: DataFrame, contract: Contract, recipe: Train, part: Slice, told: Slice | None = None) -> Fitted:
    """The fitted state of the rows of `part`, a slice of `rows` with both labels: features, base rate and vocabularies.

    told: the slice whose length decides on features that short logs cannot tell (default: part).
    A category's values stand by falling count, then by text; those with fewer than `recipe.rare_below` rows are "other".
    """
    return Fitted.of(
        contract,
        base_rate=part.click_rate(contract.sampling.negatives),
        strength=recipe.prior_impressions,
        vocabularies=_vocabularies(rows.where(part.within()), contract, recipe.rare_below),
        without=_untold(contract, told or part),
    )


def _untold(contract: Contract, part: Slice) -> set[str]:
    """Features that a log of its length cannot tell: the day of the week, and the level while its window was never full."""
    span_us = part.until_us - part.from_us
    window_us = contract.window_hours[contract.longest_window] * _HOUR_US
    return {name for name, least in (("day_of_week", WEEKS * _WEEK_US), (LEVEL, window_us)) if span_us < least}


def _vocabularies(rows: DataFrame, contract: Contract, rare_below: int) -> dict[str, tuple[str, ...]]:
    columns = [feature.column for feature in catalogue(contract) if feature.kind == "category"]
    if not columns:
        return {}
    pairs = F.array(*(F.struct(F.lit(name).alias("name"), F.col(name).alias("value")) for name in columns))
    values = rows.select(F.explode(pairs).alias("pair")).select("pair.*").where(F.col("value").isNotNull())
    counts = values.groupBy("name", "value").count()
    by_frequency = Window.partitionBy("name").orderBy(F.desc("count"), "value")
    kept = (
        counts.where(F.col("count") >= rare_below)
        .withColumn("rank", F.row_number().over(by_frequency))
        .where(F.col("rank") <= MAX_VOCABULARY)
        .orderBy("name", "rank")
        .collect()
    )
    return {name: tuple(row["value"] for row in kept if row["name"] == name) for name in columns}
