"""Moving the alias `champion`, and what serves while nothing deserves it."""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from conf.contract import Contract
from conf.errors import BundleError
from conf.lease import lease
from models.bundle import Bundle, save_bundle
from models.published import load_champion, publish
from models.tracking import Registry, Version

PRIOR = "prior"


def turn(state: Path, contract: Contract) -> AbstractContextManager[None]:
    """Held while the champion is judged and moved: what one reads the other must not have begun to change. See conf/lease.py."""
    return lease(state / "leases", f"champion-{contract.name}")


def checked(candidate: Version, contract: Contract, id_key_fingerprint: str) -> Bundle:
    """The candidate's bundle, able to serve. Raises BundleError: changed since it was made, or made for something else."""
    where = f"{contract.name} version {candidate.number}"
    bundle = candidate.bundle()
    if bundle.contract_hash != contract.hash:
        raise BundleError(
            f"{where}: made with contract {bundle.contract_hash[:12]}, expected {contract.hash[:12]}: "
            "run jobs/train.py with this contract"
        )
    if bundle.id_key_fingerprint != id_key_fingerprint:
        raise BundleError(f"{where}: ids were hashed with key {bundle.id_key_fingerprint}, expected {id_key_fingerprint}")
    return bundle


def crown(registry: Registry, candidate: Version, root: Path) -> None:
    """Make the candidate the champion: published first, then the alias, so that the alias never names what cannot serve.

    Raises BundleError where the published copy does not verify. The champion of now is left as it is.
    """
    try:
        current = load_champion(root)
    except BundleError:
        current = None  # what serves is broken: all the more reason to publish
    if current is None or (current.version, current.bundle.identity) != (candidate.number, candidate.identity):
        publish(root, candidate.folder, candidate.number)
        load_champion(root)
    registry.crown(candidate.number)


def servable(root: Path, contract: Contract, id_key_fingerprint: str) -> bool:
    """Whether something is published that verifies and may serve this contract and id key."""
    try:
        champion = load_champion(root)
    except BundleError:
        return False
    wanted = (contract.hash, id_key_fingerprint)
    return champion is not None and (champion.bundle.contract_hash, champion.bundle.id_key_fingerprint) == wanted


def publish_prior(bundle: Bundle, root: Path) -> None:
    """Let a bundle of prior rates serve, under the version "prior"."""
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(bundle, Path(folder), {"contract_hash": bundle.contract_hash})
        publish(root, Path(folder), PRIOR)
