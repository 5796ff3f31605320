"""A category's codes, and the memory of them."""

import pytest

from serving import category
from serving.category import Category

WORDS, MISSING = ["b", "a"], -1.0


def _text(value: str | int | bool | None) -> str | None:
    return None if value is None else str(value)


def test_a_value_has_its_word_s_code_and_others_the_next_one() -> None:
    codes = Category(WORDS, _text, MISSING)
    for _ in range(2):
        assert codes.codes(["a", "b", "c", None, 7]) == [1, 0, 2, MISSING, 2]
    assert codes.codes(codes.every_kind) == [0, 1, 2, MISSING]


def test_what_is_remembered_is_bounded_in_number_and_in_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(category, "_REMEMBERED", 10)
    codes = Category(WORDS, _text, MISSING)
    for number in range(100):
        assert codes["x" * 129 + str(number)] == 2
    assert not codes
    for number in range(100):
        assert codes[number] == 2
        assert len(codes) <= 10
    assert codes["a"] == 1
