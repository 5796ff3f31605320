"""Delta tables of one contract: every read and write goes through here, so that no job takes another contract's table."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from conf.errors import DataError
from conf.personal import IdKey
from conf.tables import Tables

_CONTRACT = "clickodds.contract_hash"
_ID_KEY = "clickodds.id_key_fingerprint"
_COMMIT = re.compile(r"\d{20}\.json")


@dataclass(frozen=True)
class Warehouse:
    """Reads and writes the tables of one contract, each marked with the contract's hash and the id key's fingerprint."""

    spark: SparkSession
    tables: Tables
    id_key: IdKey
    _checked: set[str] = field(default_factory=set)  # tables whose marks were read in this session

    def exists(self, table: str) -> bool:
        return table in self._checked or bool(DeltaTable.isDeltaTable(self.spark, self.tables.path(table)))

    def read(self, table: str) -> DataFrame:
        """The whole table. Raises DataError where it does not exist yet or was made by another contract or id key."""
        self._check(table)
        return self.spark.read.format("delta").load(self.tables.path(table))

    def append(self, table: str, rows: DataFrame, *, partition_by: Sequence[str]) -> int:
        """Add rows in one commit; makes the table at first. Returns how many."""
        return self._write(table, rows, partition_by, "append")

    def replace(self, table: str, rows: DataFrame, *, partition_by: Sequence[str]) -> int:
        """Put rows in the place of all there are, in one commit: a reader sees the old table or the new. Returns how many."""
        return self._write(table, rows, partition_by, "overwrite")

    def count(self, table: str) -> int:
        return self.read(table).count()

    def version(self, table: str) -> int:
        """The Delta version that `read` sees now."""
        return self._newest_commit(table)[0]

    def _write(self, table: str, rows: DataFrame, partition_by: Sequence[str], mode: str) -> int:
        self._create(table, rows, partition_by)
        before = self.version(table)
        rows.write.format("delta").mode(mode).save(self.tables.path(table))
        version, commit = self._newest_commit(table)
        # no rows: Delta leaves the figure out, or commits nothing
        return int(commit["operationMetrics"].get("numOutputRows", 0)) if version > before else 0

    def _create(self, table: str, rows: DataFrame, partition_by: Sequence[str]) -> None:
        """Make the table, empty. With its first rows in the same commit it would be cheaper, but a path that holds the files of a
        killed write counts as an existing table to Spark, and the next run would be refused."""
        if self.exists(table):
            self._check(table)
            return
        builder = DeltaTable.createIfNotExists(self.spark).location(self.tables.path(table)).addColumns(rows.schema)
        builder = builder.property(_CONTRACT, self.tables.contract.hash).property(_ID_KEY, self.id_key.fingerprint)
        (builder.partitionedBy(*partition_by) if partition_by else builder).execute()

    def _newest_commit(self, table: str) -> tuple[int, dict[str, Any]]:
        """Version and `commitInfo` of the newest commit, from Delta's own log file: asking Spark takes a second a time."""
        jvm: Any = self.spark._jvm
        log = jvm.org.apache.hadoop.fs.Path(self.tables.path(table), "_delta_log")
        files = log.getFileSystem(self.spark._jsc.hadoopConfiguration())
        names = (str(status.getPath().getName()) for status in files.listStatus(log))
        newest = max(name for name in names if _COMMIT.fullmatch(name))
        stream = files.open(jvm.org.apache.hadoop.fs.Path(log, newest))
        try:
            actions = [json.loads(line) for line in bytes(stream.readAllBytes()).splitlines()]
        finally:
            stream.close()
        return int(newest.partition(".")[0]), next(action["commitInfo"] for action in actions if "commitInfo" in action)

    def _check(self, table: str) -> None:
        path = self.tables.path(table)
        if table in self._checked:
            return
        if not self.exists(table):
            job = f"jobs/{self.tables.made_by[table]}.py"
            raise DataError(f"{path}: no such table yet, expected the one that {job} writes: run it first")
        found = {row.key: row.value for row in self.spark.sql(f"SHOW TBLPROPERTIES {_by_path(path)}").collect()}
        if found.get(_CONTRACT) != self.tables.contract.hash:
            raise DataError(
                f"{path}: made with contract {str(found.get(_CONTRACT))[:12]}, expected {self.tables.contract.hash[:12]} "
                f'("{self.tables.contract.name}" as it reads now): give the changed contract another name, '
                "or remove the folder and ingest again"
            )
        if found.get(_ID_KEY) != self.id_key.fingerprint:
            raise DataError(
                f"{path}: ids were hashed with key {found.get(_ID_KEY)}, expected {self.id_key.fingerprint}: "
                "restore that key (CLICKODDS_ID_KEY, or id.key in the state folder)"
            )
        self._checked.add(table)


def _by_path(path: str) -> str:
    """A Delta table's name in SQL."""
    return "delta.`" + path.replace("`", "``") + "`"
