"""A Feast repository of a test's own: Delta tables of rows, views on them, and stores that move them by one engine or another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from pyspark.sql import SparkSession

from tests.serving.parts import quiet

OURS, LOCAL = "feature_repo.engine.RedisEngine", "local"
START = datetime(2026, 3, 1, tzinfo=UTC)
EVERYTHING = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_FEAST_SETS = "spark.sql.parser.quotedRegexColumnNames"
_SPARK = {
    "String": "string", "Int64": "bigint", "Int32": "int", "Bool": "boolean", "Float64": "double", "Float32": "float",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """A view's name, join keys and features: name -> Feast's type."""

    name: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    ttl: timedelta = timedelta(0)

    @property
    def schema(self) -> str:
        columns = ", ".join(f"{name} {_SPARK[kind]}" for name, kind in (self.keys | self.features).items())  # type: ignore[operator]
        return f"{columns}, at timestamp, created timestamp"


def write_table(spark: SparkSession, folder: Path, view: View, rows: Sequence[tuple[Any, ...]], mode: str = "overwrite") -> None:
    """The view's table: values in the schema's order."""
    made = spark.createDataFrame(rows, view.schema)
    made.write.format("delta").mode(mode).save(str(folder / view.name))


def feast_store(folder: Path, address: str, views: Sequence[View], engine: str, **settings: Any) -> Any:
    """A FeatureStore with the views applied, in a registry of its engine's own."""
    with quiet():
        from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType, types
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
        from feast.table_format import DeltaFormat

        batch = {"type": engine} | ({"leases": str(folder / "leases")} | settings if engine == OURS else {})
        config = RepoConfig(
            project="demo",
            provider="local",
            registry=str(folder / f"{engine}.db"),
            offline_store={"type": "spark"},
            online_store={"type": "redis", "connection_string": f"{address},db=0"},
            batch_engine=batch,
            entity_key_serialization_version=3,
        )
        kinds = {name: ValueType[kind.upper()] for view in views for name, kind in view.keys.items()}
        entities = {name: Entity(name=name, join_keys=[name], value_type=kind) for name, kind in kinds.items()}
        made = [
            FeatureView(
                name=view.name,
                entities=[entities[name] for name in view.keys],
                schema=[Field(name=n, dtype=getattr(types, kind)) for n, kind in [*view.keys.items(), *view.features.items()]],
                source=SparkSource(
                    name=f"{view.name}_source",
                    path=str(folder / view.name),
                    table_format=DeltaFormat(),
                    timestamp_field="at",
                    created_timestamp_column="created",
                ),
                ttl=view.ttl,
            )
            for view in views
        ]
        store = FeatureStore(config=config)
        store.apply([*entities.values(), *made])
    return store


def move(spark: SparkSession, store: Any, start: datetime, end: datetime) -> None:
    try:
        with quiet():
            store.materialize(start, end)
    finally:
        spark.conf.unset(_FEAST_SETS)


def client_of(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port), driver_info=None)  # a Redis before 7.2 refuses its name, and counts that


def dumps(client: Any) -> dict[bytes, bytes]:
    """Every key as DUMP has it."""
    keys = client.keys()
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))
