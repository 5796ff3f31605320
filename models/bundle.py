"""The model bundle: one folder with everything that turns raw values into a probability, and a manifest that seals it.

No pickle: the Booster in XGBoost's own format, all else JSON. A bundle's identity is the hash of what it answers with; where it
came from (provenance) and how well it did (metrics) are sealed too but no part of the identity, so that an equal model is known
as equal.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost as xgb

from conf.errors import BundleError
from feature_repo.vectorize import Fitted, prior_rate, vectorize
from models.calibration import Calibrator

FORMAT = 1
MANIFEST = "manifest.json"
TREES = "trees.ubj"
FEATURES = "features.json"
CALIBRATOR = "calibrator.json"
METRICS = "metrics.json"

Kind = Literal["trees", "prior"]


@dataclass(frozen=True)
class Bundle:
    """kind "trees": vectorize, sum trees, calibrate. kind "prior": each row's prior rate, for when no model may serve."""

    kind: Kind
    contract_hash: str
    id_key_fingerprint: str
    fitted: Fitted
    calibrator: Calibrator = Calibrator()
    trees: bytes | None = None  # XGBoost's UBJSON
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def booster(self) -> xgb.Booster:
        """The trees, single-threaded: a request is too small to share."""
        if self.trees is None:
            raise BundleError("a bundle of prior rates has no trees")
        booster = xgb.Booster({"nthread": 1})
        booster.load_model(bytearray(self.trees))
        return booster

    def margins(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log odds, one per row of `vectors`. Exact: every partial sum lies on the grid of models/trees.py."""
        return np.asarray(self.booster.inplace_predict(vectors, predict_type="margin"), dtype=np.float32)

    def probabilities(self, raw: pa.RecordBatch) -> npt.NDArray[np.float64]:
        """Click probabilities in (0, 1), float64, one per row of raw values."""
        if self.kind == "prior":
            return prior_rate(raw, self.fitted)
        return self.calibrator.probabilities(self.margins(vectorize(raw, self.fitted)))

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
        return files | ({TREES: self.trees} if self.trees is not None else {})


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


def load_bundle(folder: Path, *, identity: str | None = None) -> Bundle:
    """Verify every file against the manifest (and the manifest against `identity`), then load. Raises BundleError."""
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
    return Bundle(
        kind=manifest["kind"],
        contract_hash=manifest["contract_hash"],
        id_key_fingerprint=manifest["id_key_fingerprint"],
        fitted=Fitted.from_dict(json.loads(data[FEATURES])),
        calibrator=Calibrator.from_dict(json.loads(data[CALIBRATOR])),
        trees=data.get(TREES),
        metrics=json.loads(data[METRICS]),
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
