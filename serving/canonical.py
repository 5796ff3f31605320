"""A request's values as the tables have them: canonical text, personal columns as their digest."""

from collections.abc import Callable

from conf.canonical import canonical_text
from conf.contract import Contract
from conf.personal import IdKey

Text = Callable[[str | int | bool | None], str | None]
RequestValue = str | int | float | bool | None
RawValue = str | float | None  # canonical text, digest or number


def raw_text(contract: Contract, id_key: IdKey, name: str) -> Text:
    """What turns a value of the text column `name` into what is looked up; None where it is missing."""
    if not contract.columns[name].personal:
        return canonical_text

    def digest(value: str | int | bool | None) -> str | None:
        text = canonical_text(value)
        return None if text is None else id_key.digest(text)

    return digest
