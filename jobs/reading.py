"""Reads a log's files as text columns: nothing is interpreted here, so that nothing unreadable is lost here."""

import re
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.contract import Files
from conf.errors import DataError

CORRUPT = "__corrupt"  # a row that cannot be split
FILE = "__file"  # its path below the data folder
ARRIVED = "__arrived"  # when its file was last written
POSITION = "__position"  # the row's number in its file, where the format tells
LINE = "__line"  # JSON only: the line itself
_PAST_DAMAGE = "ignorecorruptfiles"
_NO_TEXT = r"[\x00\uFFFD]"  # a NUL, or what a reader puts where bytes are not of the encoding
REST_UNREADABLE = "rest of the file: unreadable"  # stands in CORRUPT for what a damaged file has lost
OWN = (CORRUPT, FILE, ARRIVED, POSITION, LINE)


def list_files(spark: SparkSession, folder: str, files: Files) -> DataFrame:
    """(path, source_file, length, modified) of the files that match, by name. Raises DataError where the folder is not there."""
    below, _, pattern = files.files.rpartition("/")
    reader = spark.read.format("binaryFile").option("pathGlobFilter", pattern).option("recursiveFileLookup", "true")
    try:
        found = reader.load(f"{_literal(folder.rstrip('/'))}/{below}" if below else _literal(folder))
    except Exception as error:
        raise DataError(f"{folder}: cannot be read, expected a folder with the log's files ({type(error).__name__})") from None
    name = F.substring_index(F.col("path"), _base(spark, folder) + "/", -1)
    return found.select("path", name.alias("source_file"), "length", F.col("modificationTime").alias("modified"))


def read_rows(
    spark: SparkSession, folder: str, files: Files, paths: Sequence[str], needed: Sequence[str], *, past_damage: bool = False
) -> DataFrame:
    """Rows of `paths`: every column as text, plus where each row came from.

    needed: the raw columns that the contract names. past_damage: take what can be read of a damaged file, and leave out the
    rest, instead of failing at it (jobs/damage.py). Raises DataError where a CSV header or a Parquet schema lacks one.
    """
    names = [_literal(path) for path in paths]
    match files.format:
        case "csv":
            rows = _read_csv(spark, files, names, past_damage)
        case "json":
            rows = _read_json(spark, files, names, needed, past_damage)
        case "parquet":
            rows = _read_parquet(spark, files, names)
    if lacking := [name for name in needed if name not in rows.columns]:
        there = ", ".join(name for name in rows.columns if name not in OWN)
        raise DataError(f"{paths[0]}: lacks the column(s) {', '.join(lacking)} that the contract names; found {there}")
    decoded = F.url_decode(F.replace(F.col(FILE), F.lit("+"), F.lit("%2B")))  # Spark's metadata column encodes names
    return rows.withColumn(FILE, F.substring_index(decoded, _base(spark, folder) + "/", -1))


def _literal(path: str) -> str:
    """The path as Spark takes it for itself, not for a pattern."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", path)


def _base(spark: SparkSession, folder: str) -> str:
    """The folder as Spark writes it in file paths."""
    path = spark._jvm.org.apache.hadoop.fs.Path(folder)  # type: ignore[union-attr]
    return str(path.getFileSystem(spark._jsc.hadoopConfiguration()).makeQualified(path).toUri().getPath()).rstrip("/")


def _origin() -> list[F.Column]:  # type: ignore[name-defined]
    path, arrived = F.col("_metadata.file_path"), F.col("_metadata.file_modification_time")
    return [path.alias(FILE), arrived.alias(ARRIVED)]


def _read_csv(spark: SparkSession, files: Files, paths: Sequence[str], past_damage: bool) -> DataFrame:
    given = {name.lower(): value for name, value in files.options.items()}
    options = {"header": True, **given, "inferschema": False, "mode": "PERMISSIVE", "columnnameofcorruptrecord": CORRUPT}
    options[_PAST_DAMAGE] = past_damage
    # a file without a line has no names to give
    headers = (spark.read.options(**options).csv(path).columns for path in paths)
    names = next(filter(None, headers), [])
    schema = T.StructType([T.StructField(name, T.StringType()) for name in (*names, CORRUPT)])
    reader = spark.read.options(**options)
    # enforceSchema=false: a file whose header differs is an error, not a silent shift of its columns
    rows = reader.option("enforceSchema", False).schema(schema).csv(list(paths))
    no_text = F.concat_ws("", *[F.col("`" + name.replace("`", "``") + "`") for name in names]).rlike(_NO_TEXT)
    corrupt = F.coalesce(CORRUPT, F.when(no_text, F.lit("")))
    return rows.withColumn(CORRUPT, corrupt).select("*", *_origin(), F.lit(None).cast("bigint").alias(POSITION))


def _read_json(spark: SparkSession, files: Files, paths: Sequence[str], needed: Sequence[str], past_damage: bool) -> DataFrame:
    schema = T.StructType([T.StructField(name, T.StringType()) for name in dict.fromkeys(needed)])
    options = {**{k: str(v) for k, v in files.options.items()}, "mode": "PERMISSIVE"}
    text = spark.read.option(_PAST_DAMAGE, past_damage).text(list(paths))
    lines = text.select("value", *_origin()).where(F.trim("value") != "")
    # read as the one element of an array: of two rows in a line the parser would keep the first and drop the other unsaid
    element = F.from_json(F.concat(F.lit("["), "value", F.lit("]")), T.ArrayType(schema), options)
    parsed = lines.withColumn("parsed", element).withColumn("row", F.when(F.size("parsed") == 1, F.col("parsed")[0]))
    corrupt = F.when(F.col("row").isNull() | ~F.is_valid_utf8("value"), F.col("value")).alias(CORRUPT)
    columns = [F.col("row").getField(name).alias(name) for name in dict.fromkeys(needed)]
    return parsed.select(*columns, corrupt, FILE, ARRIVED, F.lit(None).cast("bigint").alias(POSITION), F.col("value").alias(LINE))


def _read_parquet(spark: SparkSession, files: Files, paths: Sequence[str]) -> DataFrame:
    rows = spark.read.options(**files.options).parquet(*paths)
    texts = [_as_text(field) for field in rows.schema.fields]
    position = F.col("_metadata.row_index").alias(POSITION)
    return rows.select(*texts, F.lit(None).cast("string").alias(CORRUPT), *_origin(), position)


def _as_text(field: T.StructField) -> F.Column:  # type: ignore[name-defined]
    column = F.col("`" + field.name.replace("`", "``") + "`")
    match field.dataType:
        case T.TimestampType():
            return F.date_format(column, "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX").alias(field.name)
        case T.DoubleType() | T.FloatType():  # 7.0 is the text 7, as an integer column would give it
            whole = (column == F.floor(column)) & (F.abs(column) < 2**53)
            return F.when(whole, column.cast("bigint").cast("string")).otherwise(column.cast("string")).alias(field.name)
        case T.StructType() | T.ArrayType() | T.MapType():
            return F.to_json(column).alias(field.name)
        case _:
            return column.cast("string").alias(field.name)
