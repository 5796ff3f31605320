"""What an answer without a key lacks: on average it promises what the whole answers do."""

import numpy as np
import pytest

from models.absence import absences, from_json, to_json
from models.masking import Masks
from models.shards import Shard


@pytest.mark.parametrize("negatives", [1.0, 0.25])
def test_answers_without_a_key_promise_as_many_clicks(negatives: float) -> None:
    rng = np.random.default_rng(0)
    rows = 4_000
    vectors = rng.standard_normal((rows, 4)).astype(np.float32)
    labels = (rng.random(rows) < 0.1).astype(np.int8)
    shard = Shard(vectors, labels, np.arange(rows), np.arange(rows, dtype=np.uint64))
    masks = Masks(0.01, {"user": (0, 1), "ad": (2,)})

    def margins(of: np.ndarray) -> np.ndarray:
        """Of a model that takes a missing value for an extreme one."""
        return np.asarray(np.where(np.isnan(of), 1.5, of) @ [0.5, 0.1, 0.8, 0.1] - 2.5, dtype=np.float64)

    found = from_json(to_json(absences(shard, masks, negatives, margins)))
    assert [columns for columns, _ in found] == [[0], [2], [0, 2]]
    weights = np.where(labels == 1, 1.0, 1 / negatives)

    def promised(gone: list[int]) -> float:
        of = vectors.copy()
        of[:, gone] = np.nan
        added = sum(shift for columns, shift in found if np.isnan(of[0, columns]).all())
        return float(weights @ (1 / (1 + np.exp(-(margins(of) + np.log(negatives) + added)))))

    for gone in ([0, 1], [2], [0, 1, 2]):
        assert promised(gone) == pytest.approx(promised([]), rel=1e-6)
    assert abs(found[0][1]) > 0.1, "there was something to add"
