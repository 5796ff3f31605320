"""API keys. The settings hold their sha256 only, so that whoever reads the settings cannot ask.

A key has 256 random bits: a plain hash of it cannot be guessed, and costs a microsecond where a password's costs milliseconds.

    python -m serving.keys      # a new key for a caller, and its hash for the settings serving.keys or serving.explain_keys
"""

import argparse
import hashlib
import hmac
import secrets
import sys
from collections.abc import Iterable, Sequence

_SCHEME = b"bearer "


class Keys:
    """hashes: hex sha256 of each key that opens."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = [bytes.fromhex(each) for each in hashes]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def open_to(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether an ASGI scope's headers bring one of the keys, as `authorization: Bearer KEY`. Its time tells nothing."""
        said = b""
        for name, value in headers:
            if name == b"authorization":
                said = value
        found = hashlib.sha256(said[len(_SCHEME) :].strip()).digest()
        same = [hmac.compare_digest(found, each) for each in self._hashes]  # all of them, whichever it is
        return any(same) and said[: len(_SCHEME)].lower() == _SCHEME


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    key = secrets.token_urlsafe(32)
    print(f"key   {key}\nhash  {hashlib.sha256(key.encode()).hexdigest()}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
