"""Files that end too early or are spoiled within: what can be read of them is kept, and that there was more is known.

Spark fails the whole job at such a file, or, told to go on, leaves its rest out unsaid. Of a compressed file the beginning can be
read, of a Parquet file without its footer nothing.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import reduce
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import Files
from jobs.reading import ARRIVED, CORRUPT, FILE, LINE, POSITION, REST_UNREADABLE, read_rows

_DECOMPRESSORS = "org.apache.hadoop.io.compress."
_BUFFER = 1 << 16
_PARQUET = b"PAR1"  # the last bytes of every file


def damaged_paths(spark: SparkSession, files: Files, paths: Sequence[str]) -> list[str]:
    """Those of `paths` that cannot be decompressed to their end, or do not end as Parquet where they should be.

    Reads each compressed file once, on the driver: to be asked after Spark has failed at one of them, not before. Only what a
    decompressor complains of is damage; an error on the way to the file is raised, since another try may read it whole.
    """
    return [path for path in paths if (_lacks_footer if files.format == "parquet" else _is_cut)(spark, path)]


def read_past_damage(
    spark: SparkSession, folder: str, files: Files, paths: Sequence[str], needed: Sequence[str],
    damaged: Collection[tuple[str, str, datetime]],
) -> DataFrame:  # fmt: skip
    """Like `read_rows`, with the readable part of the damaged files, given as (path, source_file, modified).

    Each of those ends in one row more that cannot be split, REST_UNREADABLE, so that its loss is counted and quarantined.
    """
    spoiled = [path for path, _, _ in damaged]
    parts = []
    if files.format != "parquet":
        parts.append(read_rows(spark, folder, files, spoiled, needed, past_damage=True))
    if whole := [path for path in paths if path not in spoiled]:
        parts.append(read_rows(spark, folder, files, whole, needed))
    rests = [(REST_UNREADABLE, source_file, modified) for _, source_file, modified in damaged]
    lost = spark.createDataFrame(rests, f"{CORRUPT} string, {FILE} string, {ARRIVED} timestamp")
    nothing = {name: F.lit(None).cast("string") for name in (*needed, LINE)} | {POSITION: F.lit(None).cast("bigint")}
    parts.append(lost.withColumns(nothing))
    return reduce(lambda some, more: some.unionByName(more, allowMissingColumns=True), parts)


def _lacks_footer(spark: SparkSession, name: str) -> bool:
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(name)
    files = path.getFileSystem(spark._jsc.hadoopConfiguration())
    length = files.getFileStatus(path).getLen()
    if length < len(_PARQUET):
        return True
    stream = files.open(path)
    try:
        stream.seek(length - len(_PARQUET))
        return bytes(stream.readNBytes(len(_PARQUET))) != _PARQUET
    finally:
        stream.close()


def _is_cut(spark: SparkSession, name: str) -> bool:
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
