"""What a server begins with, whatever was published before."""

from pathlib import Path

import pytest

from conf.contract import Contract
from models.bundle import save_bundle
from models.published import publish
from serving.state import ServingState, first_state
from tests.serving.parts import ID_KEY, make_bundle

SEALED = ["trees.ubj", "features.json", "calibrator.json", "metrics.json", "manifest.json"]


def _publish(root: Path, contract: Contract, version: str, **changes: object) -> Path:
    bundle = make_bundle(contract, **changes)
    save_bundle(bundle, root.parent / version, {})
    publish(root, root.parent / version, version)
    return root / bundle.identity


def _tamper(path: Path) -> None:
    data = path.read_bytes()
    turned = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    changed = data.replace(b'"trees"', b'"prior"') if path.name == "manifest.json" else turned
    assert changed != data
    path.write_bytes(changed)


def _first(root: Path, contract: Contract) -> ServingState:
    return first_state(root, contract.hash, ID_KEY.fingerprint)


def _version(state: ServingState) -> str | None:
    return state.champion.version if state.champion else None


def test_nothing_published_is_refused_with_the_next_step(tmp_path: Path, demo: Contract) -> None:
    state = _first(tmp_path / "bundles", demo)
    assert state.champion is None
    assert "jobs/promote.py" in str(state.refusal)


def test_the_newest_that_verifies_serves(tmp_path: Path, demo: Contract) -> None:
    root = tmp_path / "bundles"
    _publish(root, demo, "1", metrics={"number": 1}, trees=None, kind="prior")
    newest = _publish(root, demo, "2")
    state = _first(root, demo)
    assert (_version(state), state.said) == ("2", "ready")
    _tamper(newest / "trees.ubj")
    state = _first(root, demo)
    assert (_version(state), state.refusal) == ("1", None)
    assert "trees.ubj" in state.said


@pytest.mark.parametrize("file", SEALED)
def test_with_one_tampered_bundle_its_prior_rates_serve_if_they_verify(file: str, tmp_path: Path, demo: Contract) -> None:
    root = tmp_path / "bundles"
    _tamper(_publish(root, demo, "7") / file)
    state = _first(root, demo)
    if file in ("features.json", "manifest.json"):
        assert state.champion is None
        assert "expected" in str(state.refusal)
    else:
        assert state.champion is not None
        assert (state.champion.version, state.champion.bundle.kind, state.refusal) == ("prior of 7", "prior", None)
        assert state.champion.bundle.fitted == make_bundle(demo).fitted
        assert file in state.said


def test_a_bundle_of_another_contract_gives_way_to_one_before_it(tmp_path: Path, demo: Contract) -> None:
    root = tmp_path / "bundles"
    _publish(root, demo, "1")
    _publish(root, demo, "2", contract_hash="0123456789ab" + "0" * 52)
    state = _first(root, demo)
    assert _version(state) == "1"
    assert "0123456789ab" in state.said


def test_a_broken_pointer_is_refused(tmp_path: Path, demo: Contract) -> None:
    root = tmp_path / "bundles"
    _publish(root, demo, "1")
    (root / "champion.json").write_text("{")
    assert "champion.json" in str(_first(root, demo).refusal)
