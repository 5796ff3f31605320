"""A file that ends too early loses its rest only, and that is counted; what cannot be told from a network's fault is raised."""

import argparse
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.contract import Contract
from jobs.command import Context
from jobs.damage import damaged_paths
from jobs.ingest import ingest
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
    found = [path.rpartition("/")[2] for path in damaged_paths(spark, paths)]
    assert found == ["cut.gz", "cut in its header.gz", "checksum of another.gz", "no gzip at all.gz"]
    with pytest.raises(Exception, match="does not exist"):
        damaged_paths(spark, [(tmp_path / "gone.gz").as_uri()])
