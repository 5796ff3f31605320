"""Codes of a category's values, as `vectorize` gives them, by the value as it stands in a request."""

from collections.abc import Sequence
from typing import Any

from serving.canonical import Text

_REMEMBERED = 200_000  # values; a category has fewer, except in an attack
_LONGEST = 128  # characters of one


class Category(dict[Any, float]):
    """Value -> code. missing: the code of a missing value. A value that comes again costs one look-up."""

    def __init__(self, words: Sequence[str], text: Text, missing: float) -> None:
        super().__init__()
        self._codes = {word: code for code, word in enumerate(words)}
        self._words, self._text, self.missing = words, text, missing

    def __missing__(self, value: Any) -> float:
        text = self._text(value)
        code = self.missing if text is None else self._codes.get(text, len(self._words))
        if text is not None and len(text) > _LONGEST:  # memory is bounded by values, and these would make it another bound
            return code
        if len(self) >= _REMEMBERED:
            self.clear()
        self[value] = code
        return code

    @property
    def every_kind(self) -> list[str | None]:
        """A value of each code: the words, one that is none of them, a missing one."""
        return [*self._words, "".join(self._words) + " ", None]

    def codes(self, values: Sequence[Any]) -> list[float]:
        """Of a request's values."""
        return [self[value] for value in values]
