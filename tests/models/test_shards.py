"""What a worker holds: draws that depend on the row alone, and rows that lose a key."""

import numpy as np
import pyarrow as pa
import pytest

from conf.contract import Contract
from feature_repo.catalogue import catalogue
from feature_repo.vectorize import Fitted
from models.masking import Masks, masked
from models.shards import Shard, read_shard, shard_columns


def shard(rows: int, width: int) -> Shard:
    draws = np.random.default_rng(1).integers(0, 2**64, rows, dtype=np.uint64)
    return Shard(np.zeros((rows, width), np.float32), np.zeros(rows, np.int8), np.arange(rows), draws)


def test_rows_come_back_from_arrow_however_it_is_cut_into_batches() -> None:
    rng = np.random.default_rng(2)
    rows = Shard(
        rng.standard_normal((100, 7)).astype(np.float32), rng.integers(0, 2, 100).astype(np.int8), np.arange(100),
        rng.integers(0, 2**64, 100, dtype=np.uint64),
    )  # fmt: skip
    rows.vectors[3, 2] = np.nan
    batch = pa.RecordBatch.from_pydict(shard_columns(rows))
    for batches in ([batch], [batch.slice(0, 30), batch.slice(30, 0), batch.slice(30, 69), batch.slice(99)]):
        found = read_shard(batches, 7)
        assert all(vars(found)[name].tobytes() == column.tobytes() for name, column in vars(rows).items())
    assert read_shard([], 7).vectors.shape == (0, 7)


def test_uniform_draws_are_even_and_of_different_purposes_independent() -> None:
    one = shard(100_000, 1)
    a, b = one.uniform("mask"), one.uniform("choose")
    assert np.histogram(a, 20, (0, 1))[0] == pytest.approx(5_000, abs=300)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert one.where(np.arange(100_000) >= 50_000).uniform("mask").tolist() == a[50_000:].tolist(), "whoever holds the row"


def test_each_row_loses_one_key_all_a_category_or_none(demo_contract: Contract) -> None:
    words = {f.column: ("a", "b") for f in catalogue(demo_contract) if f.kind == "category"}
    fitted = Fitted.of(demo_contract, base_rate=0.05, strength=20.0, vocabularies=words)
    features = fitted.features
    masks = Masks.of(fitted, 0.01)
    assert set(masks.columns) == set(demo_contract.keys)
    vectors = masked(shard(100_000, len(features)), masks).vectors
    missing = np.isnan(vectors)
    lost = {key: missing[:, list(columns)] for key, columns in masks.columns.items()}
    assert all((some.all(axis=1) == some.any(axis=1)).all() for some in lost.values()), "a key is lost whole"
    count = np.sum([some[:, 0] for some in lost.values()], axis=0)
    assert set(count.tolist()) == {0, 1, len(lost)}
    for key in demo_contract.keys:
        alone = (lost[key][:, 0] & (count == 1)).sum()
        assert alone == pytest.approx(1_000, abs=150)
    assert (count == len(lost)).sum() == pytest.approx(1_000, abs=150)
    context = [n for n, feature in enumerate(features) if not feature.key]
    assert not missing[:, context].any()
    assert len(masks.others) == len(words) > 1
    other = np.stack([vectors[:, n] == code for n, code in masks.others.items()])
    assert other.sum(axis=1).tolist() == pytest.approx([1_000] * len(words), abs=150)
    assert not (other.sum(axis=0) + (count > 0) > 1).any(), "one thing a row"
    assert masked(shard(10, 3), Masks(0.0, {})).vectors.tolist() == shard(10, 3).vectors.tolist()
