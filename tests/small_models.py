"""A bundle of few trees and a ridge regression, fitted in this process on a table of tests/training_rows.py."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import Fitted, vectorize
from models.assembly import counters_of
from models.bundle import Bundle
from models.lean import xgb
from models.merging import merge
from models.ridge import fit_ridge
from models.split import Slice, Split


def small_bundle(contract: Contract, table: pa.Table) -> Bundle:
    """Half trees, half ridge, as a training makes them; every negative kept."""
    raw = table.combine_chunks().to_batches()[0]
    labels = np.asarray(raw.column("label"), dtype=np.int8)
    words = {name: tuple(sorted(filter(None, raw.column(name).unique().to_pylist())))
             for name, column in contract.columns.items() if column.type == "category"}  # fmt: skip
    fitted = Fitted.of(contract, base_rate=float(labels.mean()), strength=20.0, vocabularies=words)
    vectors = vectorize(raw, fitted)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.2, "nthread": 1, "base_score": fitted.base_rate}
    booster = xgb.train(parameters, xgb.DMatrix(vectors, labels), 15)
    ridge = fit_ridge(vectors, labels, counters_of(fitted.features), [0.01])[0].scaled(0.5, 0.0)
    trees = merge([booster], base_rate=fitted.base_rate, names=fitted.names, share=0.5)
    return Bundle("trees", contract.hash, "key", fitted, trees=trees, ridge=ridge)


def eighths(table: pa.Table) -> Split:
    """Test and one fold of an eighth of the rows each; the table's rows by rising time."""
    times = np.asarray(table.column(EVENT_TIMESTAMP).cast(pa.int64()))
    ends = [int(times[0]), int(times[len(times) * 6 // 8]), int(times[len(times) * 7 // 8]), int(times[-1]) + 1]
    counted = [(int((at := (times >= low) & (times < high)).sum()), pc.sum(table.column("label").filter(pa.array(at))).as_py())
               for low, high in ((ends[0], ends[2]), (ends[2], ends[3]))]  # fmt: skip
    return Split(Slice(ends[0], ends[2], *counted[0]), Slice(ends[2], ends[3], *counted[1]), (ends[1], ends[2]))
