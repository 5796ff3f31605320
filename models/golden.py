"""Golden rows: a few raw rows and what the bundle answered them with when it was made, sealed with it.

Whoever loads the bundle answers them again: another XGBoost, another NumPy or another CPU that gives another bit is found out
before the first request.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROWS = 64
CTR = "golden_ctr"

Float64 = npt.NDArray[np.float64]


def seal(raw: pa.RecordBatch, answers: Float64) -> bytes:
    """Rows and answers (rows,) as one Arrow stream; the same rows give the same bytes."""
    plain = pa.RecordBatch.from_arrays(raw.columns, schema=raw.schema.remove_metadata())
    batch = plain.append_column(CTR, pa.array(answers))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def opened(sealed: bytes) -> tuple[pa.RecordBatch, Float64]:
    """Raw rows and their answers."""
    with pa.ipc.open_stream(sealed) as reader:
        batch = reader.read_next_batch()
    return batch.drop_columns([CTR]), np.asarray(batch.column(CTR), dtype=np.float64)
