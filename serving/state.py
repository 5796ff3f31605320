"""What a request is answered with: one immutable object, read once per request; a reload puts another in its place."""

from dataclasses import dataclass

from models.published import Champion
from serving.engine import Engine


@dataclass(frozen=True)
class ServingState:
    """The champion, None where nothing was promoted yet, and what it must have been made for."""

    contract_hash: str
    id_key_fingerprint: str
    champion: Champion | None
    engine: Engine | None = None  # the champion made ready for the hot route

    @property
    def refusal(self) -> str | None:
        """Why nothing can be predicted, with the next step; None where all is well."""
        if self.champion is None:
            return "no model was promoted yet: run jobs/train.py, then jobs/promote.py"
        bundle = self.champion.bundle
        if bundle.contract_hash != self.contract_hash:
            return (
                f"model {self.champion.version} was made for contract {bundle.contract_hash[:12]}, "
                f"this server has contract {self.contract_hash[:12]}: serve its contract, or run jobs/pipeline.py with this one"
            )
        if bundle.id_key_fingerprint != self.id_key_fingerprint:
            return (
                f"model {self.champion.version} was made with id key {bundle.id_key_fingerprint}, "
                f"this server has id key {self.id_key_fingerprint}: set CLICKODDS_ID_KEY to the key of the model's tables"
            )
        return None
