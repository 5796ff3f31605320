"""The canonical text of ids and categories: what a log's value and a request's value must agree on.

Text stands as it is, an integer as its decimal digits, true and false as those words; empty text is missing.
The batch side says the same as column expressions in jobs/parsing.py; tests/jobs/test_reading.py holds the two equal.
"""


def canonical_text(value: str | int | bool | None) -> str | None:
    """Canonical text of a request's value, None where it is missing."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
