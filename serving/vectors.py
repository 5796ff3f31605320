"""The vectors of one part of the catalogue, from rows of plain doubles: what `vectorize` does, laid out for one request.

The formulas are those of feature_repo/vectorize.py, called once over all windows of all keys instead of once for each feature;
they are elementwise, so the same doubles come out. tests/serving/test_vectors.py holds both equal, for every contract.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feature_repo.catalogue import raw_counter
from feature_repo.vectorize import Fitted, Float32, Float64, log_ratio
from serving.sides import Part

_KEPT = 1 << 16


class PartVectors:
    """Inputs of a row are the counters of `keys` in order, each in the order of `counters`, then the part's direct values."""

    def __init__(self, part: Part, keys: Sequence[str], counters: Sequence[str], fitted: Fitted) -> None:
        place = {raw_counter(key, counter): n for n, (key, counter) in enumerate((k, c) for k in keys for c in counters)}

        def places(kind: str, what: str) -> npt.NDArray[np.intp]:
            found = [place[raw_counter(f.key, f"{what}_{f.window}")] for f in part.features if f.kind == kind]
            return np.array(found, dtype=np.intp)

        self._clicks, self._impressions = places("log_ratio", "clicks"), places("log_ratio", "impressions")
        self._logged = places("log_impressions", "impressions")
        self._pairs = list(zip(self._clicks.tolist(), self._impressions.tolist(), strict=True))
        self._alone = self._logged.tolist()
        self._ratios: dict[tuple[float, float], float] = {}  # of the prior that was asked for last
        self._logs: dict[float, float] = {}
        self._prior = np.nan
        self._counters = len(place)
        self._strength = fitted.strength
        self.width = len(part.features)
        self.direct = tuple(f for f in part.features if f.kind not in ("log_ratio", "log_impressions"))

    def __call__(self, rows: Float64, prior: float) -> Float32:
        """(rows, features) of the part, in its order. rows: (rows, inputs); prior: as feature_repo/vectorize.py's prior_rate."""
        made = np.empty((len(rows), self.width), dtype=np.float32)
        direct = len(self._clicks) + len(self._logged)
        if direct:
            made[:, :direct] = self._formulas(rows, prior)
        made[:, direct:] = rows[:, self._counters :]
        return made

    def _formulas(self, rows: Float64, prior: float) -> Float64:
        """(rows, features) of those that are made of counters."""
        clicks, impressions = rows.take(self._clicks, 1), rows.take(self._impressions, 1)
        ratios = log_ratio(clicks, impressions, prior=prior, strength=self._strength)
        return np.concatenate([ratios, np.log1p(rows.take(self._logged, 1))], axis=1)

    def of_one(self, counters: list[float], direct: list[float], prior: float) -> list[float]:
        """(features,) of one row, doubles that are still to be rounded.

        Counters are small numbers, and the same ones come again: their formulas' values are kept.
        """
        if prior != self._prior or len(self._ratios) > _KEPT or len(self._logs) > _KEPT:
            self._ratios, self._logs, self._prior = {}, {}, prior
        ratios, logs = self._ratios, self._logs
        try:
            values = [ratios[counters[c], counters[i]] for c, i in self._pairs]
            values += [logs[counters[i]] for i in self._alone]
        except KeyError:
            row = np.array([counters])
            made = self._formulas(row, prior)[0].tolist()
            for (c, i), value in zip(self._pairs, made, strict=False):
                ratios[counters[c], counters[i]] = value
            for i, value in zip(self._alone, made[len(self._pairs) :], strict=True):
                logs[counters[i]] = value
            values = made
        return values + direct
