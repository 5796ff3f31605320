"""One engine's materialization in a process of its own: `python -m bench.materialize_engines ours FOLDER HOST:PORT full`.

Moves the view twice, into an emptied Redis: cold, from the process's start, and warm. `data` writes the view's Delta table and
`floor` sends Redis the commands of `ours`, made beforehand. The last line is JSON. `paced` is ours at its default rate limit: it
moves the increment, says "warm", waits for a line, moves the table and says "wrote" and the seconds. `hourly` is ours in a Spark
session that it finds, as in jobs/hourly.py; one that it starts for itself is set up for a single run.
"""

import argparse
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from bench.materialize_processes import HOURLY, PACED
from bench.measure import Cost, cost
from feature_repo.redis_layout import AT, ViewLayout

PROJECT, VIEW, KEY = "bench", "users", "user_id"
INTEGERS, DOUBLES, FLOATS = [f"i{n}" for n in range(4)], [f"d{n}" for n in range(4)], [f"f{n}" for n in range(2)]
START = datetime(2026, 3, 1, tzinfo=UTC)
FULL, INCREMENT = (START, START + timedelta(hours=2)), (START + timedelta(hours=3), START + timedelta(hours=3))
_TYPES = {"feast_local": "local", "feast_spark": "spark.engine", "ours": "feature_repo.engine.RedisEngine"}
_SENT = 2_048  # rows at once
_COLD, _WARM = "cold", "warm"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[*_TYPES, "data", "floor", PACED, HOURLY])
    parser.add_argument("folder", type=Path)
    parser.add_argument("address")
    parser.add_argument("what", help="full, increment; of data and floor how many keys")
    args = parser.parse_args()
    if args.engine == "data":
        _write(args.folder, int(args.what))
        for engine in _TYPES:
            _apply(_store(engine, args.folder, args.address), args.folder)
        return 0
    if args.engine == "floor":
        print(json.dumps({_WARM: _floor(args.folder, args.address)}))
        return 0
    if args.engine == PACED:
        _paced(_store("ours", args.folder, args.address, limited=True))
        return 0
    if args.engine == HOURLY:
        SparkSession.builder.appName("bench hourly").getOrCreate()
    with cost() as cold:
        store = _store("ours" if args.engine == HOURLY else args.engine, args.folder, args.address)
        interval = FULL if args.what == "full" else INCREMENT
        store.materialize(*interval)
    digest = "" if args.engine == HOURLY else digest_of(args.address)  # one of ours is enough
    if args.what == "full":
        _client(args.address).flushall()
    with cost() as warm:
        store.materialize(*interval)
    print()
    print(json.dumps({_COLD: _figures(cold), _WARM: _figures(warm), "digest": digest}))
    return 0


def _paced(store: Any) -> None:
    store.materialize(*INCREMENT)
    print("\nwarm", flush=True)
    sys.stdin.readline()
    with cost() as spent:
        store.materialize(*FULL)
    print(f"\nwrote {spent.wall_s:.1f}", flush=True)


def _figures(spent: Cost) -> dict[str, float]:
    return {"wall_s": round(spent.wall_s, 2), "cpu_s": round(spent.cpu_s, 2)}


def _write(folder: Path, keys: int) -> None:
    """A row a key at hour 2, of three in ten an older one, of one in a hundred a newer; a twentieth of the values is null."""
    spark = SparkSession.builder.appName("bench data").getOrCreate()

    def rows(share: float, hour: int) -> Any:
        def drawn(name: str) -> Column:
            return F.xxhash64(F.col("id"), F.lit(name), F.lit(hour))

        def sometimes(name: str, value: Column) -> Column:
            return F.when(F.pmod(drawn(name + "?"), F.lit(20)) > 0, value).alias(name)

        unit = {name: F.pmod(drawn(name), F.lit(10**9)) / 10**9 for name in (*DOUBLES, *FLOATS)}
        at = F.lit(START + timedelta(hours=hour))
        chosen = spark.range(keys).where(F.pmod(F.xxhash64("id", F.lit(hour)), F.lit(1_000)) < F.lit(round(share * 1_000)))
        return chosen.select(
            F.format_string("u%09d", "id").alias(KEY),
            *[sometimes(name, F.pmod(drawn(name), F.lit(10 ** (2 * n + 1)))) for n, name in enumerate(INTEGERS)],
            *[sometimes(name, unit[name]) for name in DOUBLES],
            *[sometimes(name, unit[name].cast("float")) for name in FLOATS],
            at.alias("at"), at.alias("created"), F.lit(hour).alias("hour"),
        )  # fmt: skip

    made = rows(0.3, 1).union(rows(1, 2)).union(rows(0.01, 3))
    made.write.format("delta").partitionBy("hour").save(str(folder / "table"))
    spark.stop()


def _store(engine: str, folder: Path, address: str, *, limited: bool = False) -> Any:
    from feast import FeatureStore, RepoConfig

    ours = {"leases": str(folder / "leases")} | ({} if limited else {"max_rows_per_s": 0})
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(folder / f"{engine}.db"),
        offline_store={"type": "spark"},
        online_store={"type": "redis", "connection_string": f"{address},db=0"},
        batch_engine={"type": _TYPES[engine]} | (ours if engine == "ours" else {}),
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def _apply(store: Any, folder: Path) -> None:
    from feast import Entity, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.table_format import DeltaFormat
    from feast.types import Float32, Float64, Int64, String

    user = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.STRING)
    types = {KEY: String} | dict.fromkeys(INTEGERS, Int64) | dict.fromkeys(DOUBLES, Float64) | dict.fromkeys(FLOATS, Float32)
    source = SparkSource(
        name="source", path=str(folder / "table"), table_format=DeltaFormat(), timestamp_field="at",
        created_timestamp_column="created",
    )  # fmt: skip
    view = FeatureView(
        name=VIEW, entities=[user], schema=[Field(name=n, dtype=t) for n, t in types.items()], source=source, ttl=timedelta(0)
    )
    store.apply([user, view])


def _floor(folder: Path, address: str) -> dict[str, float]:
    """Redis' own pace: what our workers send for every key, made beforehand, on one connection that never waits for an answer."""
    commands, rows = b"".join(_commands(folder)), 0
    _client(address).flushall()
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        rows = commands.count(b"$4\r\nHGET\r\n")
        begun = time.perf_counter()
        sender = threading.Thread(target=connection.sendall, args=(commands,))
        sender.start()
        answered = 0
        while answered < 2 * rows:  # a line each: nothing there, and fields added
            answered += connection.recv(1 << 16).count(b"\n")
        wall_s = time.perf_counter() - begun
        sender.join()
    return {"wall_s": round(wall_s, 2), "cpu_s": 0.0}


def _commands(folder: Path) -> Iterator[bytes]:
    spark = SparkSession.builder.appName("bench floor").getOrCreate()
    names = [*INTEGERS, *DOUBLES, *FLOATS]
    table = spark.read.format("delta").load(str(folder / "table")).where("hour = 2")
    rows = table.select(KEY, *names, F.unix_micros("at").alias(AT)).toArrow()
    spark.stop()
    kinds = dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(DOUBLES, "Float64") | dict.fromkeys(FLOATS, "Float32")
    layout = ViewLayout(PROJECT, VIEW, ((KEY, "String"),), tuple(kinds.items()))
    for batch in rows.to_batches(max_chunksize=_SENT):
        keys = layout.redis_keys(batch)
        yield layout.ask_time(keys) + layout.write(keys, batch)


def _client(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port))


def digest_of(address: str) -> str:
    """Of all keys' DUMPs, in whatever order they come."""
    client, total, number = _client(address), 0, 0
    batch: list[bytes] = []

    def add() -> None:
        nonlocal total, number
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.dump(key)
            for key, dump in zip(batch, pipe.execute(), strict=True):
                total += int.from_bytes(hashlib.blake2b(key + dump, digest_size=16).digest())
                number += 1
        batch.clear()

    for key in client.scan_iter(count=2_000):  # nothing is written meanwhile: each key comes once, unless the table is resized
        batch.append(key)
        if len(batch) == 2_000:
            add()
    add()
    return f"{number}:{total % 2**128:032x}"


if __name__ == "__main__":
    raise SystemExit(main())
