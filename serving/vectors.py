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


class PartVectors:
    """Inputs of a row are the counters of `keys` in order, each in the order of `counters`, then the part's direct values."""

    def __init__(self, part: Part, keys: Sequence[str], counters: Sequence[str], fitted: Fitted) -> None:
        place = {raw_counter(key, counter): n for n, (key, counter) in enumerate((k, c) for k in keys for c in counters)}

        def places(kind: str, what: str) -> npt.NDArray[np.intp]:
            found = [place[raw_counter(f.key, f"{what}_{f.window}")] for f in part.features if f.kind == kind]
            return np.array(found, dtype=np.intp)

        self._clicks, self._impressions = places("log_ratio", "clicks"), places("log_ratio", "impressions")
        self._logged = places("log_impressions", "impressions")
        self._counters = len(place)
        self._strength = fitted.strength
        self.width = len(part.features)
        self.direct = tuple(f for f in part.features if f.kind not in ("log_ratio", "log_impressions"))

    def __call__(self, rows: Float64, prior: float) -> Float32:
        """(rows, features) of the part, in its order. rows: (rows, inputs); prior: as feature_repo/vectorize.py's prior_rate."""
        made = np.empty((len(rows), self.width), dtype=np.float32)
        ratios = len(self._clicks)
        direct = ratios + len(self._logged)
        if direct:
            clicks, impressions = rows.take(self._clicks, 1), rows.take(self._impressions, 1)
            made[:, :ratios] = log_ratio(clicks, impressions, prior=prior, strength=self._strength)
            made[:, ratios:direct] = np.log1p(rows.take(self._logged, 1))
        made[:, direct:] = rows[:, self._counters :]
        return made
