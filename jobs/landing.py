"""Files of a data folder that a job makes: written aside by Spark, then moved to names that can be told beforehand.

By Hadoop's file systems, so a folder may lie on a disk or in an object store.
"""

import json
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from conf.errors import DataError

TRUTH = "truth"  # the folder beside a simulated log


def file_name(pattern: str, tag: str) -> str:
    """A name that matches a contract's file pattern: ("impressions*.json*", "00007") -> impressions-00007.json.gz."""
    head, star, tail = pattern.partition("*")
    if not star or any(mark in pattern for mark in "?[{\\"):
        raise DataError(f"files: found {pattern}, expected a name with a *, and no other mark, to write several files")
    joint = "-" if head[-1:].isalnum() else ""
    name = head + joint + tag + (tail[:-1] + ".gz" if tail.endswith("*") else tail)
    return name.replace("*", "")


class Landing:
    """A folder with a staging part, hidden from readers by its dot, that goes away when all is done."""

    def __init__(self, spark: SparkSession, folder: str) -> None:
        self._jvm: Any = spark._jvm
        self._folder = self._path(folder.rstrip("/"))
        self._fs: Any = self._folder.getFileSystem(spark._jsc.hadoopConfiguration())
        self._folder = self._fs.makeQualified(self._folder)
        self._staging = self._path(self._folder, ".staging")
        self._fs.setWriteChecksum(False)  # or a local folder gets a .crc file beside each file

    def begin(self, mine: tuple[str, ...]) -> None:
        """Empty the folder of an earlier run that did not come to its end: whatever matches the patterns `mine`.

        Raises DataError where there is something that no such run left.
        """
        begun = self._fs.exists(self._staging)
        if self._fs.exists(self._folder):
            for status in self._fs.listStatus(self._folder):
                name = status.getPath().getName()
                if begun and any(fnmatchcase(name, pattern) for pattern in mine):
                    self._fs.delete(status.getPath(), True)
                elif not status.getPath().equals(self._staging):
                    raise DataError(f"{self._folder}: found {name}, expected a new or empty folder")
        self._fs.delete(self._staging, True)
        self._fs.mkdirs(self._staging)

    def write_text(self, rows: DataFrame, pattern: str, tag: str) -> int:
        """One file for each partition with rows, named by `pattern`; gzip where that ends so. Returns how many."""
        compression = "gzip" if file_name(pattern, tag).endswith(".gz") else "none"
        aside = self._path(self._staging, f"text-{tag}-{abs(hash(pattern))}")
        rows.write.mode("overwrite").option("compression", compression).text(aside.toString())
        return self._move(aside, self._folder, lambda number: file_name(pattern, f"{tag}{number:05d}"))

    def write_parquet(self, rows: DataFrame, name: str) -> int:
        """A folder `name` of Parquet files. Returns how many."""
        aside, target = self._path(self._staging, name), self._path(self._folder, name)
        rows.write.mode("overwrite").parquet(aside.toString())
        self._fs.mkdirs(target)
        return self._move(aside, target, lambda number: f"part-{number:05d}.parquet")

    def write_bytes(self, content: bytes, name: str) -> None:
        stream = self._fs.create(self._path(self._folder, name), True)
        try:
            stream.write(bytearray(content))
        finally:
            stream.close()

    def cut_gzip(self, name: str) -> int:
        """Leave the first half of a gzip file. Returns how many whole lines can still be read of it."""
        stream = self._fs.open(self._path(self._folder, name))
        try:
            whole = bytes(stream.readAllBytes())
        finally:
            stream.close()
        half = whole[: len(whole) // 2]
        self.write_bytes(half, name)
        return zlib.decompressobj(wbits=31).decompress(half).count(b"\n")

    def write_json(self, value: Mapping[str, Any], name: str) -> None:
        self.write_bytes(json.dumps(value, indent=1).encode() + b"\n", name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object written by `write_json`, None where there is none."""
        path = self._path(self._folder, name)
        if not self._fs.exists(path):
            return None
        stream = self._fs.open(path)
        try:
            return dict(json.loads(bytes(stream.readAllBytes())))
        finally:
            stream.close()

    def end(self) -> None:
        self._fs.delete(self._staging, True)

    def _move(self, aside: Any, target: Any, name: Any) -> int:
        parts = sorted(s.getPath().getName() for s in self._fs.listStatus(aside) if s.getPath().getName().startswith("part-"))
        for part in parts:
            number = int(part.split("-")[1])
            self._fs.rename(self._path(aside, part), self._path(target, name(number)))
        return len(parts)

    def _path(self, *parts: Any) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(*parts)
