"""Keeps what was answered, for monitoring and replay: lossy by choice, so that it never costs a request its answer.

A request hands over a record, which costs an addition and an append; a thread turns the records into rows and writes them to
files that appear whole. Where memory, the folder or the disk is full, records are let go, and counted.
"""

import logging
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf.served import SUFFIX, served_schema
from serving.metrics import Metrics

Float64 = npt.NDArray[np.float64]

log = logging.getLogger("clickodds.serving")


@dataclass(frozen=True, slots=True)
class Record:
    """One answer. raw: its raw values, a batch of `raw_schema` with a row for each candidate, or what makes it, called in the
    writer's thread. margins: log odds, None where no model answered. margins, scores: shape (candidates,)."""

    request_id: str
    raw: pa.RecordBatch | Callable[[], pa.RecordBatch]
    as_of_us: int | None
    margins: Float64 | None
    scores: Float64
    model_version: str
    model_identity: str
    reasons: Sequence[str]


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
        self._offered, self._finished = 0, 0  # candidates; each counted by one thread alone
        self._trouble = ""
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="served log", daemon=True)

    def wants(self, request_id: str) -> bool:
        """Whether a request is among the sampled ones: asked before a record is made."""
        return self._below > 0 and zlib.crc32(request_id.encode()) < self._below

    def offer(self, record: Record) -> None:
        """Take a record, or count that there is no room. Called by one thread alone, the event loop's."""
        rows = len(record.scores)
        waiting = self._offered - self._finished + rows
        if waiting > self._limits.waiting_rows:
            self._metrics.dropped["queue"].add(rows)
            return
        self._offered += rows
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
            self._write(pa.Table.from_batches([_rows(record, self._schema) for record in records]))
        except Exception as error:  # a full disk, a folder that is gone, and whatever else a file system thinks of
            self._metrics.dropped["disk"].add(rows)
            self._say(f"{type(error).__name__}: {error}")
        else:
            self._metrics.logged.add(rows)
            self._say("")
        finally:
            self._finished += rows

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


def _rows(record: Record, schema: pa.Schema) -> pa.RecordBatch:
    raw = record.raw if isinstance(record.raw, pa.RecordBatch) else record.raw()
    count = raw.num_rows
    answered = {
        "request_id": [record.request_id] * count,
        "candidate_number": list(range(count)),
        "as_of_us": [record.as_of_us] * count,
        "margin": [None] * count if record.margins is None else record.margins,
        "ctr": record.scores,
        "model_version": [record.model_version] * count,
        "model_identity": [record.model_identity] * count,
        "reasons": [list(record.reasons)] * count,
    }
    columns = [pa.array(answered[f.name], f.type) if f.name in answered else raw.column(f.name) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _size(path: Path) -> int:
    """Bytes of a file that another process may take away at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
