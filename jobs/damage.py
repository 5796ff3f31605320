"""Compressed files that end too early or are spoiled within: what can be read of them is kept, and that there was more is known.

Spark fails the whole job at such a file, or, told to go on, leaves its rest out unsaid.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import reduce
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession

from conf.contract import Files
from jobs.reading import ARRIVED, CORRUPT, FILE, REST_UNREADABLE, read_rows

_DECOMPRESSORS = "org.apache.hadoop.io.compress."
_BUFFER = 1 << 16


def damaged_paths(spark: SparkSession, paths: Sequence[str]) -> list[str]:
    """Those of `paths` that cannot be decompressed to their end.

    Reads each compressed file once, on the driver: to be asked after Spark has failed at one of them, not before. Only what a
    decompressor complains of is damage; an error on the way to the file is raised, since another try may read it whole.
    """
    return [path for path in paths if _is_damaged(spark, path)]


def read_past_damage(
    spark: SparkSession, folder: str, files: Files, paths: Sequence[str], needed: Sequence[str],
    damaged: Collection[tuple[str, str, datetime]],
) -> DataFrame:  # fmt: skip
    """Like `read_rows`, with the readable part of the damaged files, given as (path, source_file, modified).

    Each of those ends in one row more that cannot be split, REST_UNREADABLE, so that its loss is counted and quarantined.
    """
    spoiled = [path for path, _, _ in damaged]
    parts = [read_rows(spark, folder, files, spoiled, needed, past_damage=True)]
    if whole := [path for path in paths if path not in spoiled]:
        parts.append(read_rows(spark, folder, files, whole, needed))
    rests = [(REST_UNREADABLE, source_file, modified) for _, source_file, modified in damaged]
    parts.append(spark.createDataFrame(rests, f"{CORRUPT} string, {FILE} string, {ARRIVED} timestamp"))
    return reduce(lambda some, more: some.unionByName(more, allowMissingColumns=True), parts)


def _is_damaged(spark: SparkSession, name: str) -> bool:
    jvm: Any = spark._jvm
    conf = spark._jsc.hadoopConfiguration()
    path = jvm.org.apache.hadoop.fs.Path(name)
    codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
    if codec is None:
        return False
    try:
        stream = codec.createInputStream(path.getFileSystem(conf).open(path))
        jvm.org.apache.hadoop.io.IOUtils.copyBytes(stream, jvm.java.io.OutputStream.nullOutputStream(), _BUFFER, True)
    except Py4JJavaError as error:
        if error.java_exception.getStackTrace()[0].getClassName().startswith(_DECOMPRESSORS):
            return True
        raise
    return False
