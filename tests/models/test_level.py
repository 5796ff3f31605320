"""The level: answers follow half of what the trailing rate of everything has moved, and trees never see it."""

import numpy as np
import pytest

from conf.contract import Contract
from models.bundle import Bundle
from models.level import FOLLOWED, level_of, level_term
from models.masking import Masks, masked
from models.shards import Shard
from tests.small_models import small_bundle
from tests.training_rows import DAY_US, training_table


@pytest.fixture(scope="module")
def bundle(demo_contract: Contract) -> Bundle:
    return small_bundle(demo_contract, training_table(demo_contract, 4_000))


def test_half_of_what_the_level_moved_is_followed_and_a_missing_one_adds_nothing(bundle: Bundle) -> None:
    (place,) = level_of(bundle.fitted.features)
    vectors = np.full((4, len(bundle.fitted.features)), np.nan, np.float32)
    vectors[:, place] = [np.nan, -3.0, -2.5, -2.0]
    unknown, *known = bundle.margins(vectors).tolist()
    assert np.diff(known) == pytest.approx([FOLLOWED / 2] * 2, abs=1e-5)
    assert bundle.ridge is not None
    mean = bundle.ridge.means[bundle.ridge.columns.index(place)]
    assert known[1] - unknown == pytest.approx(FOLLOWED * (-2.5 - mean), abs=1e-5)


def test_trees_never_see_the_level(bundle: Bundle) -> None:
    (place,) = level_of(bundle.fitted.features)
    assert bundle.fitted.names[place] not in bundle.booster.get_score(importance_type="weight")


def test_the_mean_is_that_of_the_whole_rows() -> None:
    vectors = np.array([[1.0, -3.0], [2.0, np.nan], [np.nan, -2.0]], np.float32)
    shard = Shard(vectors, np.array([0, 1, 0], np.int8), np.zeros(3, np.int64), np.zeros(3, np.uint64))
    assert level_term(shard, (1,)).means == (-2.5,)
    assert level_term(shard.where(np.isnan(vectors[:, 1])), (1,)).log_odds(vectors).tolist() == [0.0, 0.0, 0.0], "never known"
    newest = Shard(vectors, shard.labels, np.array([0, 0, 2 * DAY_US]), shard.draws)
    assert level_term(newest, (1,)).log_odds(vectors)[1] == FOLLOWED * 0.5, "where it is missing, that of the newest day"
    assert level_term(shard, ()).log_odds(vectors).tolist() == [0.0, 0.0, 0.0], "a bundle without a level"
    hidden = masked(shard, Masks(0.0, {}, hidden=(1,)))
    assert np.isnan(hidden.vectors[:, 1]).all()
    assert hidden.vectors[0, 0] == 1.0
