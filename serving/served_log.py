"""Keeps what was answered, for monitoring and replay: lossy by choice, so that it never costs a request its answer.

A request hands over a record, which costs an addition and an append; a thread makes columns of many records together and writes
them to files that appear whole. Where memory, the folder or the disk is full, records are let go, and counted.
"""

import logging
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf.served import SUFFIX, served_schema
from serving.metrics import Metrics

Float64 = npt.NDArray[np.float64]

_BYTES = 512  # that a candidate may take
_TOGETHER = 4000  # candidates

log = logging.getLogger("clickodds.serving")


@dataclass(frozen=True, slots=True)
class Record:
    """One answer. margins: log odds, None where no model answered. margins, scores: shape (candidates,).

    raw: its raw values. batch: makes of those of several records a batch of `raw_schema`, a row for each candidate, and is called
    in the writer's thread; as it stands, raw is such a batch itself.
    """

    request_id: str
    raw: Any
    as_of_us: int | None
    margins: Float64 | None
    scores: Float64
    model_version: str
    model_identity: str
    reasons: Sequence[str]
    batch: Callable[[Sequence[Any]], pa.RecordBatch] = pa.concat_batches
    raw_bytes: int = 0  # of memory, about, that raw holds

    @property
    def room(self) -> int:
        """What it takes of the room for those that wait, in candidates: a long body of few candidates counts for more."""
        return max(len(self.scores), self.raw_bytes // _BYTES)


@dataclass(frozen=True)
class LogLimits:
    """share: of the requests, told by a hash of their ids. waiting_rows: candidates in memory. folder_bytes: of all files that no
    job has taken yet. every_s: between files."""

    share: float
    waiting_rows: int
    folder_bytes: int
    every_s: float


class ServedLog:
    """`offer` what was answered where `wants` says so; `start` and `close` the thread. schema: of the raw values."""

    def __init__(self, folder: Path, schema: pa.Schema, limits: LogLimits, metrics: Metrics) -> None:
        self._folder = folder
        self._schema = served_schema(schema)
        self._limits = limits
        self._metrics = metrics
        self._below = round(limits.share * 2**32)
        self._waiting: deque[Record] = deque()
        self._offered, self._finished = 0, 0  # room; each counted by one thread alone
        self._trouble = ""
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="served log", daemon=True)

    def wants(self, request_id: str) -> bool:
        """Whether a request is among the sampled ones: asked before a record is made."""
        return self._below > 0 and zlib.crc32(request_id.encode()) < self._below

    def offer(self, record: Record) -> None:
        """Take a record, or count that there is no room. Called by one thread alone, the event loop's."""
        room = record.room
        waiting = self._offered - self._finished + room
        if waiting > self._limits.waiting_rows:
            self._metrics.dropped["queue"].add(len(record.scores))
            return
        self._offered += room
        self._waiting.append(record)
        if waiting * 2 > self._limits.waiting_rows:
            self._wake.set()

    def start(self) -> None:
        if self._below:
            self._thread.start()

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait(self._limits.every_s)
            self._wake.clear()
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what is waiting as one file; in the thread. Nothing that goes wrong here is anybody else's trouble."""
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        rows = sum(len(record.scores) for record in records)
        if not records:
            return
        try:
            self._write(pa.Table.from_batches([_rows(some, self._schema) for some in _together(records)]))
        except Exception as error:  # a full disk, a folder that is gone, and whatever else a file system thinks of
            self._metrics.dropped["disk"].add(rows)
            self._say(f"{type(error).__name__}: {error}")
        else:
            self._metrics.logged.add(rows)
            self._say("")
        finally:
            self._finished += sum(record.room for record in records)
            pa.default_memory_pool().release_unused()  # or what the largest file took is kept for good

    def _write(self, table: pa.Table) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if (taken := sum(map(_size, self._folder.iterdir()))) > self._limits.folder_bytes:
            raise OSError(f"{self._folder} holds {taken >> 20} MiB already (serving.log.max_mb): run jobs/ingest_predictions.py")
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:16]}{SUFFIX}"
        aside = self._folder / f".{name}"
        try:
            pq.write_table(table, aside, compression="zstd")
            aside.rename(self._folder / name)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def _say(self, trouble: str) -> None:
        """Once, when it begins and when it ends."""
        if bool(trouble) != bool(self._trouble):
            log.warning("%s", f"the served log lets records go: {trouble}" if trouble else "the served log is written again")
        self._trouble = trouble


def _together(records: Sequence[Record]) -> Iterator[list[Record]]:
    """All of them in order, so many at once that a column's price is shared, so few that no step holds the interpreter long."""
    some: list[Record] = []
    rows = 0
    for record in records:
        some.append(record)
        rows += len(record.scores)
        if rows >= _TOGETHER:
            yield some
            some, rows = [], 0
    if some:
        yield some


def _rows(records: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    counts = [len(record.scores) for record in records]
    of_record = np.repeat(np.arange(len(records)), counts)
    by_record: dict[str, list[Any]] = {
        "request_id": [record.request_id for record in records],
        "as_of_us": [record.as_of_us for record in records],
        "model_version": [record.model_version for record in records],
        "model_identity": [record.model_identity for record in records],
        "reasons": [list(record.reasons) for record in records],
    }
    places = pa.array(of_record)
    columns = {name: pa.array(values, schema.field(name).type).take(places) for name, values in by_record.items()}
    first = np.cumsum(counts) - counts
    columns["candidate_number"] = pa.array((np.arange(len(of_record)) - first[of_record]).astype(np.int32))
    margins = [np.zeros_like(record.scores) if record.margins is None else record.margins for record in records]
    unknown = np.array([record.margins is None for record in records])
    columns["margin"] = pa.array(np.concatenate(margins), mask=unknown[of_record])
    columns["ctr"] = pa.array(np.concatenate([record.scores for record in records]))
    raw = pa.concat_batches([batch([record.raw for record in some]) for batch, some in groupby(records, attrgetter("batch"))])
    arrays = [columns[field.name] if field.name in columns else raw.column(field.name) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _size(path: Path) -> int:
    """Bytes of a file that another process may take away at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
