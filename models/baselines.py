"""What a model must beat: answers that cost less to make, fitted on the same rows and scored on the same later ones.

For one process, on tables in memory: a bench and a model card score samples, not logs. XGBoost has one thread, as a Spark task
has one core: two that wait for each other on a busy machine take five times as long.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.contract import Contract
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter
from feature_repo.vectorize import Fitted, Float32, prior_rate, smoothed_rate, vectorize
from models.calibration import FARTHEST
from models.lean import xgb
from models.level import level_of
from models.masking import without

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_HASHED = 1 << 18  # places of FTRL's weights
_LEAF_TREES, _LEAF_DEPTH = 60, 4


@dataclass(frozen=True)
class Rows:
    """Raw rows with labels, by rising time. vectors: of the same rows, (rows, features), as trees see them: without the level."""

    raw: pa.RecordBatch
    vectors: Float32
    labels: npt.NDArray[np.int8]

    @classmethod
    def of(cls, raw: pa.Table, fitted: Fitted) -> "Rows":
        """From a table, not empty, with `raw_schema`, label and impression_id."""
        batch = raw.sort_by([(EVENT_TIMESTAMP, "ascending"), ("impression_id", "ascending")]).combine_chunks().to_batches()[0]
        vectors = without(vectorize(batch, fitted), level_of(fitted.features))
        return cls(batch, vectors, np.asarray(batch.column("label"), dtype=np.int8))

    def first(self, rows: int) -> "Rows":
        return self._cut(0, rows)

    def parted(self, at_us: int) -> tuple["Rows", "Rows"]:
        """Its rows before an event time (microseconds since the epoch), and those from it on."""
        times = np.asarray(self.raw.column(EVENT_TIMESTAMP).cast(pa.int64()), dtype=np.int64)
        at = int(np.searchsorted(times, at_us))
        return self._cut(0, at), self._cut(at, len(times))

    def _cut(self, begin: int, end: int) -> "Rows":
        return Rows(self.raw.slice(begin, end - begin), self.vectors[begin:end], self.labels[begin:end])


def baselines(
    train: Rows, stop: Rows, test: Rows, contract: Contract, fitted: Fitted
) -> tuple[dict[str, Float64], dict[str, str]]:
    """Name -> click probabilities of `test` (rows,), the simplest first; and of each that could not be fitted, why.

    stop: the last rows of `train`, where rounds are chosen before a refit. Fitted to the rows that are there, then corrected for
    the negatives that are not: their margins lack the log of the share that was kept.
    """
    answers = {
        "constant": np.full(len(test.labels), fitted.base_rate),
        "trailing": prior_rate(test.raw, fitted),
        "ad rate": _ad_rate(test, contract, fitted),
    }
    margins: dict[str, Float64] = {}
    left_out: dict[str, str] = {}
    for name, fit in {"lr": _one_hot, "ftrl": _ftrl, "xgb": _xgboost, "leaves + lr": _leaves}.items():
        try:
            if not 0 < train.labels.sum() < len(train.labels):
                raise ValueError("the rows to fit it to are all clicked, or none of them is")
            margins[name] = fit(train, stop, test, contract)
        except (ValueError, ArithmeticError) as error:  # XGBoost's and scikit-learn's are ValueErrors
            left_out[name] = str(error).partition("\n")[0]
    if "xgb" in margins and "ftrl" in margins:
        margins["xgb + ftrl"] = (margins["xgb"] + margins["ftrl"]) / 2
    correction = math.log(contract.sampling.negatives)
    return answers | {name: _probabilities(margin + correction) for name, margin in margins.items()}, left_out


def _ad_rate(rows: Rows, contract: Contract, fitted: Fitted) -> Float64:
    """The candidate's own rate over the longest window, shrunk to the prior; the prior where it is counted under no key."""
    prior = prior_rate(rows.raw, fitted)
    key = contract.key_of(contract.candidate)
    if key is None:
        return prior
    window = contract.longest_window
    counts = [rows.raw.column(raw_counter(key, f"{what}_{window}")) for what in ("clicks", "impressions")]
    clicks, shown = (np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64) for column in counts)
    return np.asarray(smoothed_rate(clicks, np.maximum(shown, clicks), prior=prior, strength=fitted.strength), dtype=np.float64)


def _one_hot(train: Rows, _: Rows, test: Rows, contract: Contract) -> Float64:
    """Logistic regression on one-hot ids, categories and hours, without counters."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    design = encoder.fit_transform(_words(train, contract))
    model = LogisticRegression(C=1.0, max_iter=300).fit(design, train.labels)
    return np.asarray(model.decision_function(encoder.transform(_words(test, contract))), dtype=np.float64)


def _words(rows: Rows, contract: Contract) -> npt.NDArray[np.object_]:
    columns = [pc.fill_null(rows.raw.column(n), "").to_pylist() for n, c in contract.columns.items() if c.type != "number"]
    hours = (np.asarray(rows.raw.column(EVENT_TIMESTAMP).cast(pa.int64())) // 3_600_000_000 % 24).astype(str).tolist()
    return np.array([*columns, hours], dtype=object).T


def _ftrl(train: Rows, _: Rows, test: Rows, contract: Contract) -> Float64:
    """FTRL-Proximal on hashed words and their pairs, one pass in time. Source: McMahan et al. 2013, algorithm 1."""
    places = [_places(_words(rows, contract)) for rows in (train, test)]
    alpha, beta, l1, l2 = 0.05, 1.0, 1.0, 1.0
    z, n = np.zeros(_HASHED), np.zeros(_HASHED)
    bias = math.log(train.labels.mean() / (1 - train.labels.mean()))

    def weights(at: Int64) -> Float64:
        shrunk = -(z[at] - np.sign(z[at]) * l1) / ((beta + np.sqrt(n[at])) / alpha + l2)
        return np.asarray(np.where(np.abs(z[at]) <= l1, 0.0, shrunk), dtype=np.float64)

    for at, label in zip(places[0], train.labels.tolist(), strict=True):
        w = weights(at)
        g = 1 / (1 + math.exp(-(bias + float(w.sum())))) - label
        sigma = (np.sqrt(n[at] + g * g) - np.sqrt(n[at])) / alpha
        z[at] += g - sigma * w
        n[at] += g * g
    return np.asarray(bias + weights(places[1]).sum(axis=1), dtype=np.float64)


def _places(words: npt.NDArray[np.object_]) -> Int64:
    """(rows, words and pairs of them) places, the same in every process."""
    from sklearn.utils import murmurhash3_32

    columns = []
    for number in range(words.shape[1]):
        values, where = np.unique(words[:, number].astype(str), return_inverse=True)
        hashes = np.array([murmurhash3_32(f"{number}={value}", positive=True) for value in values.tolist()], dtype=np.uint64)
        columns.append(hashes[where])
    pairs = [one * np.uint64(0x9E3779B97F4A7C15) + other for one, other in combinations(columns, 2)]
    return (np.stack([*columns, *pairs], axis=1) % np.uint64(_HASHED)).astype(np.int64)


def _xgboost(train: Rows, stop: Rows, test: Rows, _: Contract) -> Float64:
    """XGBoost with its defaults, on the same vectors, for as many rounds as early stopping in time says; 100 where it cannot.

    From the click rate, as it begins by itself, it overshoots where clicks are rare; from 0.5, as it once did, it takes longer.
    The one that does better where both are stopped.
    """
    before = train.first(len(train.labels) - len(stop.labels))
    parameters = {"objective": "binary:logistic", "eval_metric": "logloss", "nthread": 1, "seed": 0, "verbosity": 0}
    if not (0 < before.labels.sum() and 0 < stop.labels.sum()):
        return _margins(xgb.train(parameters, _matrix(train), 100), test)
    rows, later = _matrix(before), [(_matrix(stop), "stop")]
    stopping = {"evals": later, "early_stopping_rounds": 50, "verbose_eval": False}
    starts: tuple[dict[str, float], ...] = ({}, {"base_score": 0.5})
    fits = [xgb.train({**parameters, **start}, rows, 300, **stopping) for start in starts]
    fit, start = min(zip(fits, starts, strict=True), key=lambda one: float(one[0].best_score))
    whole = xgb.train({**parameters, **start}, _matrix(train), fit.best_iteration + 1)  # all rows, as the others have
    return _margins(whole, test)


def _leaves(train: Rows, _: Rows, test: Rows, contract: Contract) -> Float64:
    """The leaf that each of a few trees puts a row in, one-hot, into a logistic regression. Source: He et al. 2014."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    parameters = {"objective": "binary:logistic", "max_depth": _LEAF_DEPTH, "eta": 0.1, "nthread": 1, "seed": 0, "verbosity": 0}
    trees = xgb.train(parameters, _matrix(train), _LEAF_TREES)
    encoder = OneHotEncoder(handle_unknown="ignore")
    design = encoder.fit_transform(trees.predict(_matrix(train), pred_leaf=True))
    model = LogisticRegression(C=0.01, max_iter=300).fit(design, train.labels)
    leaves = encoder.transform(trees.predict(_matrix(test), pred_leaf=True))
    return np.asarray(model.decision_function(leaves), dtype=np.float64)


def _margins(booster: xgb.Booster, rows: Rows, rounds: int = 0) -> Float64:
    """By the first rounds, or by all."""
    margins = booster.inplace_predict(rows.vectors, iteration_range=(0, rounds), predict_type="margin")
    return np.asarray(margins, dtype=np.float64)


def _matrix(rows: Rows) -> xgb.DMatrix:
    return xgb.DMatrix(rows.vectors, rows.labels)


def _probabilities(margins: Float64) -> Float64:
    return np.asarray(1 / (1 + np.exp(-np.clip(margins, -FARTHEST, FARTHEST))), dtype=np.float64)
