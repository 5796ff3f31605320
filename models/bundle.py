"""The model bundle: one folder with everything that turns raw values into a probability, and a manifest that seals it.

No pickle: the Booster in XGBoost's own format, all else JSON. A bundle's identity is the hash of what it answers with; where it
came from (provenance) and how well it did (metrics) are sealed too but no part of the identity, so that an equal model is known
as equal.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.errors import BundleError
from feature_repo.vectorize import Fitted, prior_rate, vectorize
from models import golden
from models.calibration import Calibrator
from models.lean import xgb
from models.merging import margins_of
from models.ridge import Ridge

FORMAT = 2
MANIFEST = "manifest.json"
TREES = "trees.ubj"
FEATURES = "features.json"
RIDGE = "ridge.json"
CALIBRATOR = "calibrator.json"
METRICS = "metrics.json"
GOLDEN = "golden.arrow"

Kind = Literal["trees", "prior"]


@dataclass(frozen=True)
class Bundle:
    """kind "trees": vectorize, add the margins of trees and ridge, calibrate. kind "prior": each row's prior rate."""

    kind: Kind
    contract_hash: str
    id_key_fingerprint: str
    fitted: Fitted
    calibrator: Calibrator = Calibrator()
    trees: bytes | None = None  # XGBoost's UBJSON
    ridge: Ridge | None = None
    golden: bytes | None = None  # see models/golden.py
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def booster(self) -> xgb.Booster:
        """The trees, single-threaded: a request is too small to share."""
        if self.trees is None:
            raise BundleError("a bundle of prior rates has no trees")
        booster = xgb.Booster({"nthread": 1})
        booster.load_model(bytearray(self.trees))
        return booster

    def margins(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Log odds, one per row of `vectors`. Exact: every partial sum lies on the grid of models/merging.py."""
        trees = margins_of(self.booster, vectors)
        return trees if self.ridge is None else trees + self.ridge.log_odds(vectors)

    def probabilities(self, raw: pa.RecordBatch) -> npt.NDArray[np.float64]:
        """Click probabilities in (0, 1), float64, one per row of raw values."""
        if self.kind == "prior":
            return prior_rate(raw, self.fitted)
        return self.calibrator.probabilities(self.margins(vectorize(raw, self.fitted)))

    def with_golden(self, raw: pa.RecordBatch) -> Self:
        """The bundle with these raw rows, and its answers to them, as its golden ones."""
        return replace(self, golden=golden.seal(raw, self.probabilities(raw)))

    @cached_property
    def identity(self) -> str:
        """sha256 (hex) of what the bundle answers with."""
        files = {name: _sha256(data) for name, data in self._files().items() if name != METRICS}
        return _identity(self.kind, self.contract_hash, self.id_key_fingerprint, files)

    def _files(self) -> dict[str, bytes]:
        files = {
            FEATURES: _json(self.fitted.to_dict()),
            CALIBRATOR: _json(self.calibrator.to_dict()),
            METRICS: _json(dict(self.metrics)),
        }
        if self.ridge is not None:
            files[RIDGE] = _json(self.ridge.to_dict())
        binary = {TREES: self.trees, GOLDEN: self.golden}
        return files | {name: data for name, data in binary.items() if data is not None}


def save_bundle(bundle: Bundle, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a bundle into a new or empty folder, the manifest last.

    provenance: Delta versions read, commit, lock hash, whatever else tells where it came from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = bundle._files()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "format": FORMAT,
        "identity": bundle.identity,
        "kind": bundle.kind,
        "contract_hash": bundle.contract_hash,
        "id_key_fingerprint": bundle.id_key_fingerprint,
        "files": {name: _sha256(data) for name, data in sorted(files.items())},
        "provenance": dict(provenance),
    }
    (folder / MANIFEST).write_bytes(_json(manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle. Raises BundleError where there is none or it is of another format."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST}: {error}, expected a bundle made by jobs/train.py") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{folder / MANIFEST}: found another format, expected {FORMAT}")
    expected = {"identity": str, "kind": str, "contract_hash": str, "id_key_fingerprint": str, "files": dict}
    if wrong := [name for name, kind in expected.items() if not isinstance(manifest.get(name), kind)]:
        raise BundleError(f"{folder / MANIFEST}: lacks {', '.join(wrong)}, expected what jobs/train.py writes")
    return manifest


def seal(folder: Path) -> str:
    """The hash (hex) of a bundle's manifest, which holds the hashes of all its files. Raises BundleError where there is none."""
    read_manifest(folder)
    return _sha256((folder / MANIFEST).read_bytes())


def load_bundle(folder: Path, *, identity: str | None = None) -> Bundle:
    """Verify every file against the manifest (and the manifest against `identity`), load, and answer the golden rows again.

    Raises BundleError.
    """
    manifest = read_manifest(folder)
    sealed: dict[str, str] = manifest["files"]
    data = {name: _verified(folder / name, expected) for name, expected in sealed.items() if Path(name).name == name}
    if missing := {FEATURES, CALIBRATOR, METRICS} - set(data):
        raise BundleError(f"{folder}: lacks {', '.join(sorted(missing))}")
    answering = {name: expected for name, expected in sealed.items() if name != METRICS}
    found = _identity(manifest["kind"], manifest["contract_hash"], manifest["id_key_fingerprint"], answering)
    for expected in {manifest["identity"], identity or found}:
        if found != expected:
            raise BundleError(f"{folder}: its identity is {found[:12]}, expected {expected[:12]}: not the bundle that was made")
    if (manifest["kind"] == "trees") != (TREES in data):
        raise BundleError(f"{folder}: kind {manifest['kind']} {'without' if TREES not in data else 'with'} {TREES}")
    try:
        bundle = Bundle(
            kind=manifest["kind"],
            contract_hash=manifest["contract_hash"],
            id_key_fingerprint=manifest["id_key_fingerprint"],
            fitted=Fitted.from_dict(json.loads(data[FEATURES])),
            calibrator=Calibrator.from_dict(json.loads(data[CALIBRATOR])),
            trees=data.get(TREES),
            ridge=Ridge.from_dict(json.loads(data[RIDGE])) if RIDGE in data else None,
            golden=data.get(GOLDEN),
            metrics=json.loads(data[METRICS]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder}: {error}, expected what this release writes: run jobs/train.py again") from None
    _check_golden(bundle, folder)
    return bundle


def load_prior(folder: Path, *, identity: str) -> Bundle:
    """The prior rates that every bundle ships: a bundle of kind "prior" from its features.json, which must verify.

    For a bundle whose trees are damaged, or give other bits here than where they were made. Raises BundleError.
    """
    manifest = read_manifest(folder)
    sealed: dict[str, str] = manifest["files"]
    made_for = manifest["contract_hash"], manifest["id_key_fingerprint"]
    answering = {name: expected for name, expected in sealed.items() if name != METRICS}
    if FEATURES not in sealed or _identity(manifest["kind"], *made_for, answering) != identity:
        raise BundleError(f"{folder / MANIFEST}: not the manifest of {identity[:12]}, so not even its prior rates can be read")
    fitted = json.loads(_verified(folder / FEATURES, sealed[FEATURES]))
    return Bundle("prior", *made_for, Fitted.from_dict(fitted))


def _check_golden(bundle: Bundle, folder: Path) -> None:
    if bundle.golden is None:
        return
    raw, expected = golden.opened(bundle.golden)
    found = bundle.probabilities(raw)
    if wrong := int(np.sum(found != expected)):
        worst = int(np.argmax(np.abs(found - expected)))
        raise BundleError(
            f"{folder / GOLDEN}: {wrong} of {len(expected)} golden rows are answered otherwise than when the bundle was made, "
            f"such as {found[worst]!r}, expected {expected[worst]!r}: install the packages that made it (requirements.lock)"
        )


def _verified(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}, expected a file of the bundle") from None
    if (found := _sha256(data)) != expected:
        raise BundleError(f"{path}: sha256 is {found[:12]}, expected {expected[:12]}: changed after it was made; not loaded")
    return data


def _identity(kind: str, contract_hash: str, fingerprint: str, files: Mapping[str, str]) -> str:
    return _sha256(_json([FORMAT, kind, contract_hash, fingerprint, dict(files)]))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
