"""One timed training of bench/train.py, in a process of its own: `python -m bench.train_engines ours|native ROWS WORKERS ROUNDS`.

The clock runs from the rows in memory to the model's bytes. The last line is JSON: wall_s, cpu_s and a logloss, by which the two
can be told to have done the same.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from bench.measure import Cost, cost
from conf.settings import load_settings
from models.boosting import Kept, boost, matrix_of, parameters_of
from models.lean import xgb
from models.shards import SCHEMA, Shard, shard_columns
from models.workers import on_workers

FEATURES = 40
PRESET = "deep"
_BLOCK = 50_000  # rows that are simulated at once, by a seed of their own
_SEED, _HELD_OUT = 1, 10**6


def main() -> int:
    engine, rows, workers, rounds = sys.argv[1], *map(int, sys.argv[2:5])
    threads = 2 if workers == 1 else 1
    print(json.dumps({"ours": _ours, "native": _native}[engine](rows, workers, threads, rounds)))
    return 0


def _ours(rows: int, workers: int, threads: int, rounds: int) -> dict[str, float]:
    """The workers' stage on rows that lie in Spark's memory, as `sharded` gives them; segments are kept, as ever."""
    preset = load_settings().train.presets[PRESET]

    def task(shard: Shard) -> Mapping[str, bytes]:
        with TemporaryDirectory() as segments:
            kept = Kept(Path(segments), "bench")
            return {"trees": bytes(boost(shard, preset, rounds=rounds, seed=0, threads=threads, kept=kept).save_raw("ubj"))}

    memory_gb = math.ceil(2 + 4 * rows / 10**7)  # the rows lie in the part of it that Spark caches in
    session = SparkSession.builder.appName("bench train").master(f"local[{max(2, workers)}]")
    spark = session.config("spark.driver.memory", f"{memory_gb}g").getOrCreate()
    shards = _in_memory(spark, rows, workers)
    with cost() as spent:
        model = on_workers(shards, workers, threads, FEATURES, task)["trees"]
    spark.stop()
    return _figures(spent, model)


def _native(rows: int, workers: int, threads: int, rounds: int) -> dict[str, float]:
    """`xgboost.train` on the same matrix."""
    shard = _simulated(range(rows // _BLOCK))
    preset = load_settings().train.presets[PRESET]
    with cost() as spent:
        parameters = parameters_of(preset, 0, threads, len(shard), float(shard.labels.sum()))
        model = bytes(xgb.train(parameters, matrix_of(shard, preset), rounds).save_raw("ubj"))
    return _figures(spent, model)


def _in_memory(spark: SparkSession, rows: int, workers: int) -> DataFrame:
    """A partition for each worker, cached."""

    def simulated(blocks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in blocks:
            for number in np.asarray(batch.column(0)):
                yield pa.RecordBatch.from_pydict(shard_columns(_simulated([number])))

    cached = spark.range(0, rows // _BLOCK, 1, workers).mapInArrow(simulated, SCHEMA).cache()
    if (found := cached.count()) != rows:
        raise SystemExit(f"{found:,} rows in memory, expected {rows:,}")
    return cached


def _simulated(blocks: Sequence[int]) -> Shard:
    """Blocks of rows by their numbers: half the features fine-grained, half of few values, some missing; about 6 % clicks."""
    vectors, labels = np.empty((len(blocks) * _BLOCK, FEATURES), np.float32), np.empty(len(blocks) * _BLOCK, np.int8)
    for place, number in enumerate(blocks):
        rng = np.random.default_rng([_SEED, number])
        rows = slice(place * _BLOCK, (place + 1) * _BLOCK)
        block = vectors[rows]
        rng.standard_normal(dtype=np.float32, out=block)
        np.round(block[:, ::2] * 4, out=block[:, ::2])
        log_odds = block[:, 0] / 8 + np.sin(2 * block[:, 1]) + block[:, 3] * block[:, 5] / 2 - 3.2
        labels[rows] = rng.random(_BLOCK) < 1 / (1 + np.exp(-log_odds))
        block[:, ::4][rng.random((_BLOCK, FEATURES // 4)) < 0.1] = np.nan
    return Shard(vectors, labels, np.zeros(len(labels), np.int64), np.zeros(len(labels), np.uint64))


def _figures(spent: Cost, model: bytes) -> dict[str, float]:
    held_out = _simulated([_HELD_OUT])
    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    rate = booster.inplace_predict(held_out.vectors)
    loss = -np.mean(np.where(held_out.labels == 1, np.log(rate), np.log1p(-rate)))
    return {"wall_s": spent.wall_s, "cpu_s": spent.cpu_s, "logloss": float(loss)}


if __name__ == "__main__":
    sys.exit(main())
