"""The bundle that serves: a folder of published bundles and one pointer file, swapped at once. It names those before, too.

Whoever changes the pointer holds the lease `champion-<contract>` (models/promotion.py).

MLflow's alias `champion` is the record; this is its copy for serving, which reads files and asks no registry.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.errors import BundleError
from conf.files import write_whole
from models.bundle import Bundle, load_bundle, read_manifest

_POINTER = "champion.json"
_REMEMBERED = 20  # champions before this one, newest first


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
    named = {"version": version, "identity": identity}
    try:
        before = _pointer(root) if _exists(root) else None
    except BundleError:
        before = None  # a broken pointer is mended by the next one
    past = [{name: before[name] for name in named}, *before["before"]] if before else []
    _point(root, named, [one for one in past if one != named])


def _point(root: Path, champion: Mapping[str, str], before: Sequence[Mapping[str, str]], left: str | None = None) -> None:
    write_whole(root / _POINTER, json.dumps({**champion, "before": before[:_REMEMBERED], "left": left}) + "\n")


def roll_back(root: Path, contract_hash: str, id_key_fingerprint: str) -> tuple[str, Champion]:
    """Point to the newest champion before this one that verifies and is of this contract and id key.

    Returns the version that served, and the champion. Until `settle_rollback` was called the next call returns the same again, so
    that one that was interrupted goes no further back. Raises BundleError where there is none.
    """
    pointer = _pointer(root) if _exists(root) else {"before": [], "left": None}
    if pointer["left"] is not None:
        bundle = load_bundle(root / pointer["identity"], identity=pointer["identity"])
        return pointer["left"], Champion(pointer["version"], bundle)
    for place, one in enumerate(pointer["before"]):
        try:
            bundle = load_bundle(root / one["identity"], identity=one["identity"])
        except BundleError:
            continue
        if (bundle.contract_hash, bundle.id_key_fingerprint) == (contract_hash, id_key_fingerprint):
            _point(root, one, pointer["before"][place + 1 :], left=pointer["version"])
            return pointer["version"], Champion(one["version"], bundle)
    raise BundleError(f"{root / _POINTER}: found no champion before this one that may serve, expected one: run jobs/promote.py")


def settle_rollback(root: Path) -> None:
    """Everybody knows of it: the next rollback is another one."""
    pointer = _pointer(root)
    _point(root, {name: pointer[name] for name in ("version", "identity")}, pointer["before"])


def _verifies(folder: Path, identity: str) -> bool:
    try:
        load_bundle(folder, identity=identity)
    except BundleError:
        return False
    return True


@dataclass(frozen=True)
class Named:
    """A published bundle by its names, not loaded yet."""

    version: str
    identity: str

    def load(self, root: Path) -> Champion:
        """Verified. Raises BundleError."""
        return Champion(self.version, load_bundle(root / self.identity, identity=self.identity))


def named_champions(root: Path) -> list[Named]:
    """The champion and those before it, newest first; empty where nothing was ever published. Raises BundleError."""
    if not _exists(root):
        return []
    pointer = _pointer(root)
    return [Named(one["version"], one["identity"]) for one in (pointer, *pointer["before"])]


def load_champion(root: Path) -> Champion | None:
    """The published champion, verified; None where nothing was ever published. Raises BundleError."""
    named = named_champions(root)
    return named[0].load(root) if named else None


def pointer_stamp(root: Path) -> tuple[int, int, int] | None:
    """Changes whenever another champion is published; None where none was. One look at a file's entry, nothing is read."""
    try:
        found = (root / _POINTER).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _exists(root: Path) -> bool:
    return (root / _POINTER).is_file()


def _pointer(root: Path) -> dict[str, Any]:
    path = root / _POINTER
    try:
        pointer = json.loads(path.read_bytes())
        named = {name: str(pointer[name]) for name in ("version", "identity")}
        before = [{name: str(one[name]) for name in named} for one in pointer.get("before", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path}: not readable, expected version and identity; run jobs/promote.py") from None
    return {**named, "before": before, "left": pointer.get("left")}
