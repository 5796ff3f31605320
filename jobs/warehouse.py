"""Delta tables of one contract: every read and write goes through here, so that no job takes another contract's table."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from delta import exceptions as conflicts
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, DataFrameWriter, Row, SparkSession

from conf.errors import DataError, UnavailableError
from conf.personal import IdKey
from conf.tables import Tables

_CONTRACT = "clickodds.contract_hash"
_ID_KEY = "clickodds.id_key_fingerprint"
_COMMIT = re.compile(r"\d{20}\.json")
_LEAVES_ROWS_ALONE = {"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES"}
_CONFLICTS = (
    conflicts.ConcurrentAppendException,
    conflicts.ConcurrentDeleteDeleteException,
    conflicts.ConcurrentDeleteReadException,
    conflicts.ConcurrentTransactionException,
    conflicts.ConcurrentWriteException,
    conflicts.MetadataChangedException,
    conflicts.ProtocolChangedException,
    conflicts.DeltaConcurrentModificationException,
)

EVERYTHING = date(1970, 1, 1)  # rebuilt since then: no event is older
Note = Mapping[str, Any]  # what a commit says of itself, as JSON


@dataclass(frozen=True)
class Warehouse:
    """Reads and writes the tables of one contract, each marked with the contract's hash and the id key's fingerprint."""

    spark: SparkSession
    tables: Tables
    id_key: IdKey
    _checked: set[str] = field(default_factory=set)  # tables whose marks were read in this session
    _few: dict[str, tuple[int, list[Row]]] = field(default_factory=dict)  # version and rows of small tables

    def exists(self, table: str) -> bool:
        return table in self._checked or bool(DeltaTable.isDeltaTable(self.spark, self.tables.path(table)))

    def read(self, table: str) -> DataFrame:
        """The whole table, at each action as it is then. Raises DataError where it does not exist yet or is another contract's or
        id key's."""
        self._check(table)
        return self.spark.read.format("delta").load(self.tables.path(table))

    def read_now(self, table: str) -> DataFrame:
        """The whole table as it is now, whatever others add later. Raises as `read` does."""
        return self.pinned(table)[1]

    def pinned(self, table: str) -> tuple[int, DataFrame]:
        """The same and its Delta version, for a job that says which one it read."""
        self._check(table)
        version = self.version(table)
        return version, self.spark.read.format("delta").option("versionAsOf", version).load(self.tables.path(table))

    def add_new(self, table: str, rows: DataFrame, *, same: str, partition_by: Sequence[str]) -> int:
        """Add the rows that have no like in the table, in one commit; makes the table at first. Returns how many.

        same: SQL over `t` (the table) and `s` (a row) that says when the two are one. Rows must differ among each other. Of two
        writers at the same time one raises UnavailableError: Delta checks that what a merge did not find is still not there.
        """
        with _one_of_two_writers(table):
            self._create(table, rows, partition_by)
            target = DeltaTable.forPath(self.spark, self.tables.path(table)).alias("t")
            merged = target.merge(rows.alias("s"), same).whenNotMatchedInsertAll().execute()
        return int(merged.collect()[0]["num_inserted_rows"])

    def add_entries(self, table: str, rows: Sequence[tuple[Any, ...]], schema: str, *, same: str) -> None:
        """Add a few rows that must all be new, see `add_new`. Raises UnavailableError where another writer came first."""
        added = self.add_new(table, self.spark.createDataFrame(rows, schema), same=same, partition_by=[])
        if added != len(rows):
            said = f"{table}: another job wrote it meanwhile, {added} of {len(rows)} rows are new"
            raise UnavailableError(f"{said}: run this one again")

    def replace(
        self, table: str, rows: DataFrame, *, partition_by: Sequence[str], since: date = EVERYTHING, note: Note | None = None
    ) -> int:
        """Put rows in the place of all there are, or of those from the date `since` on. Returns how many rows that makes.

        One commit: a reader sees the old table or the new. `note`, and `since` with it, goes into the commit: see `note`.
        """
        writer = rows.write.mode("overwrite")
        if since > EVERYTHING:
            writer = writer.option("replaceWhere", f"date >= '{since.isoformat()}'")
        return self._write(table, rows, partition_by, writer, {"since": since.isoformat(), **(note or {})})

    def note(self, table: str) -> Note:
        """What the newest commit that changed a table's rows says of itself; empty where there is none."""
        if not self.exists(table):
            return {}
        _, commit = self._newest_commit(table)
        if commit["operation"] not in _LEAVES_ROWS_ALONE:
            return _parsed(commit.get("userMetadata"))
        return next((_parsed(row.userMetadata) for row in self._history(table) if row.operation not in _LEAVES_ROWS_ALONE), {})

    def notes_after(self, table: str, version: int) -> list[Note] | None:
        """Notes of the commits after `version` that changed a table's rows, an empty one where a writer left none.

        None where Delta's log does not go back to `version`: it forgets a commit after a month.
        """
        commits = self._history(table)
        if version not in {row.version for row in commits}:
            return None
        newer = [row for row in commits if row.version > version and row.operation not in _LEAVES_ROWS_ALONE]
        return [_parsed(row.userMetadata) for row in newer]

    def compact(self, table: str) -> tuple[int, int]:
        """Put small files of a partition together, and remove those that nothing needed for a week. Files before and after."""
        self._check(table)
        target = DeltaTable.forPath(self.spark, self.tables.path(table))
        before = self._files(target)
        with _one_of_two_writers(table):
            target.optimize().executeCompaction()
        target.vacuum()
        return before, self._files(target)

    @staticmethod
    def _files(target: DeltaTable) -> int:
        return int(target.detail().select("numFiles").collect()[0][0])

    def _history(self, table: str) -> list[Row]:
        """Delta's commits, newest first. It takes Spark a second."""
        history = DeltaTable.forPath(self.spark, self.tables.path(table)).history()
        return history.select("version", "operation", "userMetadata").collect()

    def few(self, table: str) -> list[Row]:
        """All rows of a table that a person writes or reads, such as `holds`: asked for often, read once a commit."""
        version = self.version(table)
        if self._few.get(table, (None, []))[0] != version:
            self._few[table] = version, self.read(table).collect()
        return self._few[table][1]

    def count(self, table: str) -> int:
        return self.read(table).count()

    def version(self, table: str) -> int:
        """The Delta version that `read` sees now."""
        return self._newest_commit(table)[0]

    def _write(
        self, table: str, rows: DataFrame, partition_by: Sequence[str], writer: DataFrameWriter, note: Note | None = None
    ) -> int:
        with _one_of_two_writers(table):
            self._create(table, rows, partition_by)
            before = self.version(table)
            if note is not None:
                writer = writer.option("userMetadata", json.dumps(note))
            writer.format("delta").save(self.tables.path(table))
        version, commit = self._newest_commit(table)
        # no rows: Delta leaves the figure out, or commits nothing
        return int(commit["operationMetrics"].get("numOutputRows", 0)) if version > before else 0

    def _create(self, table: str, rows: DataFrame, partition_by: Sequence[str]) -> None:
        """Make the table, empty. With its first rows in the same commit it would be cheaper, but a path that holds the files of a
        killed write counts as an existing table to Spark, and the next run would be refused."""
        if self.exists(table):
            self._check(table)
            return
        self._clear_unborn(table)
        builder = DeltaTable.createIfNotExists(self.spark).location(self.tables.path(table)).addColumns(rows.schema)
        builder = builder.property(_CONTRACT, self.tables.contract.hash).property(_ID_KEY, self.id_key.fingerprint)
        (builder.partitionedBy(*partition_by) if partition_by else builder).execute()

    def _clear_unborn(self, table: str) -> None:
        """Remove the log, without any commit, that a run killed while it made the table has left: Delta would refuse the path."""
        files, log = self._log_folder(table)
        if files.exists(log) and not _commits(files, log):
            files.delete(log, True)

    def _log_folder(self, table: str) -> tuple[Any, Any]:
        """The file system and the folder of Delta's log."""
        jvm: Any = self.spark._jvm
        log = jvm.org.apache.hadoop.fs.Path(self.tables.path(table), "_delta_log")
        return log.getFileSystem(self.spark._jsc.hadoopConfiguration()), log

    def _newest_commit(self, table: str) -> tuple[int, dict[str, Any]]:
        """Version and `commitInfo` of the newest commit, from Delta's own log file: asking Spark takes a second a time."""
        files, log = self._log_folder(table)
        commits = _commits(files, log)
        newest = max(commits)
        stream = files.open(commits[newest])
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
            job = f"jobs/{self.tables.maker(table)}.py"
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


def _commits(files: Any, log: Any) -> dict[str, Any]:
    """Name -> path of the commits in a log folder."""
    paths = {str(status.getPath().getName()): status.getPath() for status in files.listStatus(log)}
    return {name: path for name, path in paths.items() if _COMMIT.fullmatch(name)}


def _parsed(metadata: str | None) -> Note:
    return dict(json.loads(metadata)) if metadata else {}


def _by_path(path: str) -> str:
    """A Delta table's name in SQL."""
    return "delta.`" + path.replace("`", "``") + "`"


@contextmanager
def _one_of_two_writers(table: str) -> Iterator[None]:
    """Raises UnavailableError for the writer whose commit Delta refused because another one came first."""
    try:
        yield
    except _CONFLICTS as error:
        raise UnavailableError(f"{table}: another job wrote it meanwhile ({type(error).__name__}): run this one again") from error
    except AnalysisException as error:
        if error.getCondition() not in ("TABLE_OR_VIEW_ALREADY_EXISTS", "DELTA_TABLE_ALREADY_EXISTS"):
            raise
        raise UnavailableError(f"{table}: another job made it meanwhile: run this one again") from error
