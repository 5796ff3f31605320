"""A file that ends too early loses its rest only, and that is counted; what cannot be told from a network's fault is raised."""

import argparse
import gzip
import json
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract, Files
from jobs.command import Context
from jobs.damage import damaged_paths, read_past_damage
from jobs.ingest import ingest
from jobs.reading import CORRUPT, REST_UNREADABLE
from tests.logs import changed, click, deliver, impression


def test_of_a_cut_gzip_the_readable_rows_are_taken_and_the_rest_is_counted(
    make_context: Callable[[Contract], Context], demo_contract: Contract, tmp_path: Path
) -> None:
    folder = deliver(tmp_path / "log", [impression(n, n) for n in range(3)], [click(1, 10)])
    lines = "".join(json.dumps(impression(n, n * 37 % 1000)) + "\n" for n in range(100, 400))
    whole = gzip.compress(lines.encode(), mtime=0)
    cut = whole[: len(whole) // 2]
    (folder / "impressions-1.json.gz").write_bytes(cut)
    readable = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n")
    assert 0 < readable < 300

    context = make_context(changed(demo_contract, limits={"refused": "40%"}))
    found = ingest(context, argparse.Namespace(data=str(folder), as_of=None))
    assert [found[f"impressions {what}"] for what in ("raw", "accepted", "refused")] == [3 + readable + 1, 3 + readable, 1]
    audit = {row.source_file: (row.raw, row.accepted, row.refused) for row in context.warehouse.read("audit").collect()}
    assert audit["impressions-1.json.gz"] == (readable + 1, readable, 1)
    assert audit["impressions-0.json.gz"] == (3, 3, 0)
    refused = context.warehouse.read("quarantine").collect()
    assert [(row.source_file, row.reason) for row in refused] == [("impressions-1.json.gz", "rest of the file: unreadable")]


def test_a_parquet_file_without_its_footer_is_one_refused_row(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(5).selectExpr("id AS n").coalesce(1).write.parquet(str(tmp_path / "made"))
    whole = next((tmp_path / "made").glob("*.parquet")).read_bytes()
    (tmp_path / "log").mkdir()
    for name, content in (("whole", whole), ("cut", whole[:-20]), ("stub", b"PAR")):
        (tmp_path / "log" / f"{name}.parquet").write_bytes(content)
    paths = [(tmp_path / "log" / f"{name}.parquet").as_uri() for name in ("whole", "cut", "stub")]
    files = Files(files="*.parquet", format="parquet")
    spoiled = damaged_paths(spark, files, paths)
    assert spoiled == paths[1:]

    damaged = [(path, path.rpartition("/")[2], datetime(2026, 3, 1)) for path in spoiled]  # noqa: DTZ001  # as Spark lists them
    for there, rows in ((paths, 5), (spoiled, 0)):
        read = read_past_damage(spark, str(tmp_path / "log"), files, there, ["n"], damaged).collect()
        assert sorted(row["n"] for row in read if row["n"] is not None) == [str(n) for n in range(rows)]
        assert [row[CORRUPT] for row in read if row["n"] is None] == [REST_UNREADABLE] * 2


def test_damage_is_what_a_decompressor_complains_of(
    make_context: Callable[[Contract], Context], demo_contract: Contract, tmp_path: Path
) -> None:
    spark = make_context(demo_contract).warehouse.spark
    whole = gzip.compress(b"a row\n" * 5000, mtime=0)
    files = {
        "whole.gz": whole, "two members.gz": whole + whole, "nothing in it.gz": gzip.compress(b""), "not packed.txt": b"a row",
        "cut.gz": whole[:-20], "cut in its header.gz": whole[:5], "checksum of another.gz": whole[:-8] + bytes(8),
        "no gzip at all.gz": b"plain text",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [(tmp_path / name).as_uri().replace("%20", " ") for name in files]
    files_of_text = Files(files="*", format="csv")
    found = [path.rpartition("/")[2] for path in damaged_paths(spark, files_of_text, paths)]
    assert found == ["cut.gz", "cut in its header.gz", "checksum of another.gz", "no gzip at all.gz"]
    with pytest.raises(Exception, match="does not exist"):
        damaged_paths(spark, files_of_text, [(tmp_path / "gone.gz").as_uri()])
