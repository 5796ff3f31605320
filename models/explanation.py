"""Why a probability is what it is: raw values, vector, and what each part of a bundle adds. Served and batch rows alike.

The same code explains both sides, so that two explanations of one instant can be laid side by side: the first line that differs
is the answer to "why do the two numbers differ?".
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.vectorize import Float32, prior_rate, vectorize
from models.bundle import Bundle
from models.lean import xgb
from models.merging import GRID

Float64 = npt.NDArray[np.float64]


def explained(bundle: Bundle, raw: pa.RecordBatch) -> list[dict[str, Any]]:
    """An entry for each row of raw values, ready for JSON: missing values are None.

    trees: log odds that each feature adds to their `base`, by XGBoost's TreeSHAP; their sum is the trees' margin up to rounding,
    for they are floats. ridge: the terms of each column, exact. margin, log_odds, ctr: exact, as served.
    """
    priors = prior_rate(raw, bundle.fitted).tolist()
    rows = [{"raw": row, "prior": prior} for row, prior in zip(raw.to_pylist(), priors, strict=True)]
    if bundle.kind == "prior":
        return [_plain({**row, "ctr": row["prior"]}) for row in rows]
    vectors = vectorize(raw, bundle.fitted)
    margins = bundle.margins(vectors)
    log_odds = bundle.calibrator.log_odds(margins)
    answers = bundle.calibrator.probabilities(margins)
    by_feature, base = tree_contributions(bundle, vectors)
    terms = bundle.ridge.terms(vectors) * GRID if bundle.ridge else None
    for number, row in enumerate(rows):
        row["vector"] = _named(bundle.fitted.names, vectors[number])
        row["trees"] = {"base": base, **_named(bundle.fitted.names, by_feature[number])}
        if bundle.ridge and terms is not None:
            columns = [bundle.fitted.names[column] for column in bundle.ridge.columns]
            row["ridge"] = {"base": round(bundle.ridge.intercept / GRID) * GRID, **_named(columns, terms[number])}
        row["margin"] = float(margins[number])
        row["calibrator"] = {"kind": bundle.calibrator.kind, "adds": float(log_odds[number] - margins[number])}
        row["log_odds"] = float(log_odds[number])
        row["ctr"] = float(answers[number])
    return [_plain(row) for row in rows]


def tree_contributions(bundle: Bundle, vectors: Float32) -> tuple[Float64, float]:
    """(rows, features) log odds that each feature adds in the trees, and the log odds to which they are added.

    By XGBoost (TreeSHAP, Lundberg et al. 2020), against the mean over the training rows.
    """
    booster = bundle.booster
    matrix = xgb.DMatrix(vectors, feature_names=booster.feature_names, feature_types=booster.feature_types)
    found = np.asarray(booster.predict(matrix, pred_contribs=True), dtype=np.float64)
    return found[:, :-1], float(found[0, -1])


def _named(names: Sequence[str], values: npt.NDArray[Any]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _plain(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if hasattr(value, "isoformat") else value
