"""A fit that goes on from what an interrupted one kept ends in the bytes of an undisturbed one."""

from pathlib import Path

import numpy as np
import pytest

from conf.settings import load_settings
from models.boosting import SEGMENT, Kept, Start, boost
from models.shards import Shard

ROWS, ROUNDS = 4_000, 2 * SEGMENT + 7


def a_champion(vectors: np.ndarray) -> np.ndarray:
    """Margins to start from, others for each row."""
    return np.where(np.isnan(vectors[:, 0]), -2.0, vectors[:, 1] / 4 - 2.0).astype(np.float64)


@pytest.mark.parametrize("start", [None, a_champion])
@pytest.mark.parametrize("preset", load_settings().train.presets)
def test_resumed_from_any_segment(preset: str, start: Start | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((ROWS, 6)).astype(np.float32)
    vectors[rng.random(vectors.shape) < 0.1] = np.nan
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(2 - np.nan_to_num(vectors[:, 0])))).astype(np.int8)
    shard = Shard(vectors, labels, np.arange(ROWS), np.arange(ROWS, dtype=np.uint64))

    def fitted(kept: Kept | None) -> bytes:
        of = load_settings().train.presets[preset]
        return bytes(boost(shard, of, rounds=ROUNDS, seed=3, threads=2, kept=kept, start=start).save_raw("ubj"))

    undisturbed = fitted(None)
    kept = Kept(tmp_path, "a training")
    assert fitted(kept) == undisturbed
    assert len(list(tmp_path.iterdir())) == 3
    for lost in (ROUNDS, 2 * SEGMENT, SEGMENT):
        for path in tmp_path.iterdir():
            if int(path.stem[-5:]) >= lost:
                path.unlink()
        assert fitted(kept) == undisturbed, f"{lost} rounds and more were lost"
