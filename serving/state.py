"""What a request is answered with: one immutable object, read once per request; a reload puts another in its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.errors import BundleError
from models.bundle import load_prior
from models.published import Champion, Named, named_champions
from serving.engine import Engine


@dataclass(frozen=True)
class ServingState:
    """The champion, None where there is none, and what it must have been made for.

    faults: why a newer one does not serve, the newest first.
    """

    contract_hash: str
    id_key_fingerprint: str
    champion: Champion | None
    faults: tuple[str, ...] = ()
    engine: Engine | None = None  # the champion made ready for the hot route

    @property
    def compiled(self) -> bool:
        """Whether the kernels answer, and not the Booster."""
        return self.engine is not None and self.engine.compiled

    @property
    def refusal(self) -> str | None:
        """Why nothing can be predicted, with the next step; None where all is well."""
        if self.champion is None:
            return self.faults[0] if self.faults else "no model was promoted yet: run jobs/train.py, then jobs/promote.py"
        return misfit(self.champion, self.contract_hash, self.id_key_fingerprint)

    @property
    def said(self) -> str:
        """For a person, in a few words."""
        if self.refusal:
            return self.refusal
        return f"ready, but not with the newest model: {self.faults[0]}" if self.faults else "ready"


@dataclass
class InForce:
    """The state in force. A request reads `state` once and keeps what it read."""

    state: ServingState


def misfit(champion: Champion, contract_hash: str, id_key_fingerprint: str) -> str | None:
    """Why a champion cannot serve here, with the next step; None where it can."""
    bundle = champion.bundle
    if bundle.contract_hash != contract_hash:
        return (
            f"model {champion.version} was made for contract {bundle.contract_hash[:12]}, "
            f"this server has contract {contract_hash[:12]}: serve its contract, or run jobs/pipeline.py with this one"
        )
    if bundle.id_key_fingerprint != id_key_fingerprint:
        return (
            f"model {champion.version} was made with id key {bundle.id_key_fingerprint}, "
            f"this server has id key {id_key_fingerprint}: set CLICKODDS_ID_KEY to the key of the model's tables"
        )
    return None


def first_state(root: Path, contract_hash: str, id_key_fingerprint: str) -> ServingState:
    """What a server begins with: the newest champion below `root` that verifies and fits, else the newest's prior rates.

    So a worker that is started again serves what its siblings kept, whatever was published since.
    """
    faults: list[str] = []
    try:
        named = named_champions(root)
    except BundleError as error:
        return ServingState(contract_hash, id_key_fingerprint, None, (str(error),))
    for one in named:
        try:
            champion = warmed(one.load(root))
        except BundleError as error:
            faults.append(str(error))
            continue
        if (fault := misfit(champion, contract_hash, id_key_fingerprint)) is None:
            return ServingState(contract_hash, id_key_fingerprint, champion, tuple(faults))
        faults.append(fault)
    return ServingState(contract_hash, id_key_fingerprint, _prior(root, named, contract_hash, id_key_fingerprint), tuple(faults))


def warmed(champion: Champion) -> Champion:
    """With all parsed that the first request would otherwise wait for."""
    if champion.bundle.kind == "trees":
        champion.bundle.booster  # noqa: B018
    return champion


def _prior(root: Path, named: Sequence[Named], contract_hash: str, id_key_fingerprint: str) -> Champion | None:
    for one in named:
        try:
            champion = Champion(f"prior of {one.version}", load_prior(root / one.identity, identity=one.identity))
        except BundleError:
            continue
        if misfit(champion, contract_hash, id_key_fingerprint) is None:
            return champion
    return None
