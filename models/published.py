"""The bundle that serves: a folder of published bundles and one pointer file, swapped at once.

MLflow's alias `champion` is the record; this is its copy for serving, which reads files and asks no registry.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from conf.errors import BundleError
from conf.files import write_whole
from models.bundle import Bundle, load_bundle, read_manifest

_POINTER = "champion.json"


@dataclass(frozen=True)
class Champion:
    """A published bundle and the version it is known by (the registry's, or "prior")."""

    version: str
    bundle: Bundle


def publish(root: Path, source: Path, version: str) -> None:
    """Copy a bundle below `root` and point to it. A reader sees the old champion or the new, never half of one."""
    identity = read_manifest(source)["identity"]
    target = root / identity
    copy = root / f".{identity}.{os.getpid()}"
    if not _verifies(target, identity):
        if target.exists():  # broken since it was published: what serves from memory does not mind
            target.rename(copy.with_suffix(".broken"))
        shutil.copytree(source, copy)
        copy.rename(target)
    write_whole(root / _POINTER, json.dumps({"version": version, "identity": identity}) + "\n")


def _verifies(folder: Path, identity: str) -> bool:
    try:
        load_bundle(folder, identity=identity)
    except BundleError:
        return False
    return True


def load_champion(root: Path) -> Champion | None:
    """The published champion, verified; None where nothing was ever published. Raises BundleError."""
    path = root / _POINTER
    if not path.is_file():
        return None
    try:
        pointer = json.loads(path.read_bytes())
        version, identity = str(pointer["version"]), str(pointer["identity"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{path}: not readable, expected version and identity; run jobs/promote.py") from None
    return Champion(version, load_bundle(root / identity, identity=identity))
