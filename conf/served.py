"""The served log: what a server writes of its answers, and the table `predictions` that a job makes of it.

One row is one candidate of an answered request: its raw values as they were used, and what they were answered with.
"""

from pathlib import Path

import pyarrow as pa

ID = ("request_id", "candidate_number")  # of a row, within one answer; callers may repeat their ids
SUFFIX = ".parquet"

ANSWERED = (
    pa.field("request_id", pa.string(), nullable=False),
    pa.field("candidate_number", pa.int32(), nullable=False),  # from 0, in the order asked
    pa.field("as_of_us", pa.int64()),  # the clock of all counters; null where it was not read, or parts have another
    pa.field("margin", pa.float64()),  # log odds before calibration; null where no model answered
    pa.field("ctr", pa.float64(), nullable=False),
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("model_identity", pa.string(), nullable=False),
    pa.field("reasons", pa.list_(pa.string()), nullable=False),
)


def served_schema(raw: pa.Schema) -> pa.Schema:
    """The columns of a file, and of the table but for source_file and date. raw: of the contract's raw values."""
    return pa.schema([*ANSWERED, *raw])


def served_folder(state: Path, contract: str, contract_hash: str, id_key_fingerprint: str) -> Path:
    """Where servers write and the job reads: files of another contract or id key lie in another folder."""
    return state / "served" / contract / f"{contract_hash[:12]}-{id_key_fingerprint}"
