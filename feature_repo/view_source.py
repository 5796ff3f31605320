"""A Feast view as the engine sees it: its layout in Redis, and the rows of its Delta table that belong there."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from feast import BatchFeatureView, FeatureView, StreamFeatureView
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.repo_config import RepoConfig
from feast.table_format import DeltaFormat
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.errors import DataError
from feature_repo.redis_layout import AT, KEY_TYPES, VALUE_TYPES, ViewLayout

_SPARK_TYPES = {
    "String": "string", "Int64": "bigint", "Int32": "int", "Bool": "boolean", "Float64": "double", "Float32": "float",
}  # fmt: skip


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
    return tuple((column.name, str(column.dtype)) for column in columns)


def source_rows(spark: SparkSession, view: FeatureView, start: datetime, end: datetime) -> DataFrame:
    """The table's rows from start to end, both included. Delta leaves out files whose times lie outside."""
    source = _delta_source(view)
    at = F.col(source.timestamp_field)
    return spark.read.format("delta").load(source.path).where(at.between(F.lit(start), F.lit(end)))


def newest(view: FeatureView, layout: ViewLayout) -> Callable[[DataFrame], DataFrame]:
    """Source rows -> of each key the newest, of two at the same time the one created later; keys, features, AT."""

    def transform(rows: DataFrame) -> DataFrame:
        source = _delta_source(view)
        newest_first = [F.desc(name) for name in (source.timestamp_field, source.created_timestamp_column) if name]
        place = F.row_number().over(Window.partitionBy(*[name for name, _ in layout.keys]).orderBy(*newest_first))
        at = F.unix_micros(F.col(source.timestamp_field).cast("timestamp")).alias(AT)
        columns = [F.col(name).cast(_SPARK_TYPES[kind]).alias(name) for name, kind in (*layout.keys, *layout.features)]
        return rows.withColumn("__place", place).where("__place = 1").select(*columns, at)

    return transform


def distinct_keys(layout: ViewLayout) -> Callable[[DataFrame], DataFrame]:
    """Rows -> their keys, each once."""
    columns = [F.col(name).cast(_SPARK_TYPES[kind]).alias(name) for name, kind in layout.keys]
    return lambda rows: rows.select(*columns).distinct()
