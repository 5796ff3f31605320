"""A Feast view as the engine sees it: its layout in Redis, and the rows of its Delta table that belong there."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from feast import BatchFeatureView, FeatureView, StreamFeatureView
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.repo_config import RepoConfig
from feast.table_format import DeltaFormat
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.errors import DataError
from feature_repo.redis_layout import AT, KEY_TYPES, REDIS_KEY, VALUE_TYPES, ViewLayout

_SPARK_TYPES = {
    "String": "string", "Int64": "bigint", "Int32": "int", "Bool": "boolean", "Float64": "double", "Float32": "float",
}  # fmt: skip
_PLACE, _CREATED = "__place", "__created"
_RESERVED = (AT, REDIS_KEY, _PLACE, _CREATED)  # columns of the engine's own


def layout_of(view: FeatureView, config: RepoConfig) -> ViewLayout:
    """Keys and features with their types. Raises DataError for a view that the engine cannot move."""
    _delta_source(view)
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return ViewLayout(
        project=config.project,
        view=name,
        keys=_typed(view.name, view.entity_columns, list(KEY_TYPES)),
        features=_typed(view.name, view.features, list(VALUE_TYPES)),
    )


def _delta_source(view: FeatureView) -> SparkSource:
    source = view.batch_source
    if isinstance(source, SparkSource) and not isinstance(view, BatchFeatureView | StreamFeatureView):
        if isinstance(source.table_format, DeltaFormat) and source.path and not (source.query or source.field_mapping):
            return source
    said = f"{type(view).__name__} on {type(source).__name__}"
    raise DataError(f"view {view.name}: found {said}, expected a FeatureView on a SparkSource with the path of a Delta table")


def _typed(view: str, columns: list[Any], known: list[str]) -> tuple[tuple[str, str], ...]:
    if not columns:
        raise DataError(f"view {view}: found no entity or no feature, expected at least one of each")
    for column in columns:
        if str(column.dtype) not in known:
            raise DataError(f"view {view}: {column.name}: found the type {column.dtype}, expected one of {', '.join(known)}")
        if column.name in _RESERVED:
            raise DataError(f"view {view}: found a column {column.name}, expected another name: the engine has one so named")
    return tuple((column.name, str(column.dtype)) for column in columns)


def source_rows(spark: SparkSession, view: FeatureView, start: datetime, end: datetime) -> DataFrame:
    """The table's rows from start to end, both included. Delta leaves out files whose times lie outside."""
    source = _delta_source(view)
    at = F.col(source.timestamp_field)
    return spark.read.format("delta").load(source.path).where(at.between(F.lit(start), F.lit(end)))


def newest(view: FeatureView, layout: ViewLayout) -> Callable[[DataFrame], DataFrame]:
    """Source rows -> of each key the newest, of two at the same time the one created later; keys, features, AT.

    Keys are compared as Redis will have them: of an Int64 that the table has as text, "1" and "01" are one.
    """

    def transform(rows: DataFrame) -> DataFrame:
        source = _delta_source(view)
        at = F.unix_micros(F.col(source.timestamp_field).cast("timestamp")).alias(AT)
        created = F.col(source.created_timestamp_column) if source.created_timestamp_column else F.lit(None)
        key = Window.partitionBy(*[name for name, _ in layout.keys])
        columns = [*_cast(layout.keys), *_cast(layout.features), at]
        found = rows.select(*columns, created.alias(_CREATED))
        placed = found.withColumn(_PLACE, F.row_number().over(key.orderBy(F.desc(AT), F.desc(_CREATED))))
        return placed.where(F.col(_PLACE) == 1).drop(_PLACE, _CREATED)

    return transform


def distinct_keys(layout: ViewLayout) -> Callable[[DataFrame], DataFrame]:
    """Rows -> their keys, each once."""
    return lambda rows: rows.select(*_cast(layout.keys)).distinct()


def _cast(columns: Sequence[tuple[str, str]]) -> list[Column]:
    return [F.col(name).cast(_SPARK_TYPES[kind]).alias(name) for name, kind in columns]
