"""Where a bundle came from: code, packages, tables. Sealed in its manifest, no part of its identity."""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conf.contract import Contract

_ROOMS = ("conf", "feature_repo", "models")


def provenance(root: Path, contract: Contract, table_versions: Mapping[str, int], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest and the run say. root: the repository's. table_versions: table name -> Delta version at training."""
    return {
        "contract": contract.name,
        "contract_hash": contract.hash,
        "commit": _commit(root),
        "code_sha256": _code_sha256(root),
        "lock_sha256": _sha256(root / "requirements.lock"),
        "tables": dict(table_versions),
        "recipe": dict(recipe),
    }


def _code_sha256(root: Path) -> str:
    """Of all code that a model depends on: what was changed since the commit, too."""
    digest = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (root / room).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _commit(root: Path) -> str | None:
    """The commit that is checked out, None outside a clone or without git."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "rev-parse", "HEAD"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or None
