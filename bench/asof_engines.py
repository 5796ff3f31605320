"""One engine's as-of join on the files of bench/asof_data.py, in its own process: `python -m bench.asof_engines ours FOLDER`.

The first run leaves its result in `<folder>/<impressions>/result_<way>`, WARM_UPS more follow (Feast: none), the rounds after
them are measured. Prints the costs of each way as one line of JSON.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
from pyspark.sql import DataFrame, SparkSession

from bench.asof_data import CREATED, ROWS, SOURCES, TIME, TTL, VALUES, Source, result_columns, write_data
from bench.measure import Cost, cost
from jobs.asof import History, as_of_join
from jobs.session import spark_session

WARM_UPS = 3  # the JVM compiles that long
_Costs = dict[str, list[Cost]]


def _rounds(count: int, run: Callable[[], object], *, warm_ups: int = WARM_UPS) -> list[Cost]:
    measured = []
    for _ in range(warm_ups + count):
        with cost() as one:
            run()
        measured.append(one)
    return measured[warm_ups:]


def _ours(folder: Path, impressions: str, rounds: int) -> _Costs:
    with spark_session("bench") as spark:
        left = spark.read.parquet(str(folder / impressions / ROWS))
        histories = [_history(spark, folder, source) for source in SOURCES]
        joined = as_of_join(left, histories, time="event_timestamp")
        results = folder / impressions
        joined.select(*result_columns()).write.parquet(str(results / "result_ours"))
        unwritten = _rounds(rounds, lambda: joined.write.format("noop").mode("overwrite").save())
        delta = joined.write.format("delta")
        delta.save(str(results / "result_ours_written"))
        written = _rounds(rounds, lambda: delta.mode("overwrite").save(str(results / "delta")))
        return {"ours": unwritten, "ours_written": written}


def _history(spark: SparkSession, folder: Path, source: Source) -> History:
    return History(spark.read.parquet(str(folder / source.table)), source.on, TIME, CREATED, source.values, TTL)


def _duckdb_query(folder: Path, impressions: str) -> str:
    joins, values = [], []
    for source in SOURCES:
        keys = " AND ".join(f"i.{name} = {source.table}.{name}" for name in source.on)
        rows = f"'{folder / source.table}/*.parquet' AS {source.table}"
        joins.append(f"ASOF LEFT JOIN {rows} ON {keys} AND i.event_timestamp >= {source.table}.{TIME}")
        holds = f"i.event_timestamp < {source.table}.{TIME} + INTERVAL {TTL.days} DAY"
        values += [f"CASE WHEN {holds} THEN {source.table}.{name} END AS {alias}" for name, alias in source.values.items()]
    return f"SELECT i.*, {', '.join(values)} FROM '{folder / impressions / ROWS}/*.parquet' AS i {' '.join(joins)}"  # noqa: S608


def _duckdb(folder: Path, impressions: str, rounds: int) -> _Costs:
    query = _duckdb_query(folder, impressions)
    connection = duckdb.connect(config={"threads": 2})
    result = folder / impressions / "result_duckdb"
    result.mkdir()
    connection.execute(f"COPY ({query}) TO '{result}/all.parquet' (FORMAT parquet)")
    return {"duckdb": _rounds(rounds, lambda: connection.execute(query).to_arrow_table())}


def _feast_spark(folder: Path, impressions: str, rounds: int) -> _Costs:
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkOfflineStoreConfig
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.types import Int64, String

    columns = dict.fromkeys(name for source in SOURCES for name in source.on)
    entities = {name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in columns}
    views = [
        FeatureView(
            name=source.table,
            entities=[entities[name] for name in source.on],
            schema=[Field(name=name, dtype=String) for name in source.on] + [Field(name=name, dtype=Int64) for name in VALUES],
            source=SparkSource(
                name=f"{source.table}_source", path=str(folder / source.table), file_format="parquet",
                timestamp_field=TIME, created_timestamp_column=CREATED,
            ),
            ttl=TTL,
        )
        for source in SOURCES
    ]  # fmt: skip
    with spark_session("bench") as spark:
        store = FeatureStore(
            config=RepoConfig(
                project="bench", provider="local", registry=str(folder / "registry.db"),
                online_store={"type": "sqlite", "path": str(folder / "online.db")},
                offline_store=SparkOfflineStoreConfig(), entity_key_serialization_version=3,
            )
        )  # fmt: skip
        store.apply([*entities.values(), *views])
        left = spark.read.parquet(str(folder / impressions / ROWS))
        features = [f"{source.table}:{name}" for source in SOURCES for name in VALUES]

        def asked() -> DataFrame:
            # Feast's types know pandas alone
            entity_rows: Any = left
            job: Any = store.get_historical_features(entity_df=entity_rows, features=features, full_feature_names=True)
            rows: DataFrame = job.to_spark_df()
            return rows

        asked().select(*result_columns()).write.parquet(str(folder / impressions / "result_feast_spark"))
        measured = _rounds(rounds, lambda: asked().write.format("noop").mode("overwrite").save(), warm_ups=0)
        return {"feast_spark": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[*ENGINES, "data"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("impressions", help="table of impressions")
    parser.add_argument("numbers", type=int, nargs="+", help="rounds; of data, the rows of the tables impressions and few")
    args = parser.parse_args()
    if args.engine == "data":
        with spark_session("bench") as spark:
            write_data(spark, args.folder, dict(zip((args.impressions, "few"), args.numbers, strict=True)))
        print("{}")
        return
    costs = ENGINES[args.engine](args.folder, args.impressions, args.numbers[0])
    print(json.dumps({name: [asdict(one) for one in rounds] for name, rounds in costs.items()}))


ENGINES = {"ours": _ours, "duckdb": _duckdb, "feast_spark": _feast_spark}

if __name__ == "__main__":
    main()
