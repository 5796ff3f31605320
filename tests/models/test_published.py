"""Champions that come and go in a folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from conf.contract import Contract
from conf.errors import BundleError
from models.bundle import Bundle, save_bundle
from models.calibration import Calibrator
from models.published import load_champion, publish, roll_back, settle_rollback
from tests.small_models import small_bundle
from tests.training_rows import training_table


@pytest.fixture(scope="module")
def bundles(demo_contract: Contract) -> list[Bundle]:
    one = small_bundle(demo_contract, training_table(demo_contract, 2_000))
    return [replace(one, calibrator=Calibrator("shift", (shift,)), golden=None) for shift in (0.1, 0.2, 0.3)]


def test_a_rollback_that_was_interrupted_goes_no_further_back(bundles: list[Bundle], tmp_path: Path) -> None:
    root = tmp_path / "published"
    for number, bundle in enumerate(bundles, 1):
        save_bundle(bundle, tmp_path / str(number), {})
        publish(root, tmp_path / str(number), str(number))
    of = (bundles[0].contract_hash, bundles[0].id_key_fingerprint)

    def back() -> tuple[str, str]:
        before, champion = roll_back(root, *of)
        found = load_champion(root)
        assert found is not None
        assert (found.version, found.bundle.identity) == (champion.version, champion.bundle.identity)
        return before, champion.version

    assert [back(), back()] == [("3", "2"), ("3", "2")], "nobody was told of the first"
    settle_rollback(root)
    assert back() == ("2", "1")
    publish(root, tmp_path / "3", "3")
    assert back() == ("3", "1"), "a promotion in between ends what was begun"
    settle_rollback(root)
    with pytest.raises(BundleError, match="no champion before this one"):
        roll_back(root, *of)
