"""Personal ids are hashed with this installation's key before anything is written, looked up or logged.

HMAC-SHA256 (RFC 2104) of the column's canonical text. Without the key nobody can test whether a known person is in the tables.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from conf.errors import DataError
from conf.files import first_wins
from conf.settings import Settings

_BLOCK = 64  # bytes, SHA-256's
MIN_KEY_BYTES = 16


class IdKey:
    """The installation's key. `repr` shows its fingerprint only."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise DataError(f"the id key has {len(key)} bytes, expected at least {MIN_KEY_BYTES} (hex in CLICKODDS_ID_KEY)")
        self._inner, self._outer = (hashlib.sha256(pad) for pad in self._padded(key))
        self._key = key
        self.fingerprint = hmac.new(key, b"clickodds id key fingerprint", hashlib.sha256).hexdigest()[:16]

    @staticmethod
    def _padded(key: bytes) -> tuple[bytes, bytes]:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)

    @property
    def pads(self) -> tuple[bytes, bytes]:
        """Inner and outer pad, for an engine that has sha2 but no HMAC. As secret as the key."""
        return self._padded(self._key)

    def digest(self, text: str) -> str:
        """64 hex digits. A few times faster than `hmac.digest`: both pads are hashed beforehand."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()

    def __repr__(self) -> str:
        return f"IdKey({self.fingerprint})"


def load_id_key(settings: Settings, *, create: bool = False) -> IdKey:
    """The key from CLICKODDS_ID_KEY (hex), else from `<state>/id.key`; `create` makes that file at first run, mode 0600."""
    if settings.id_key is not None:
        try:
            return IdKey(bytes.fromhex(settings.id_key.get_secret_value()))
        except ValueError:
            raise DataError("CLICKODDS_ID_KEY: found text that is not hex, expected 32 or more hex digits") from None
    path = settings.state / "id.key"
    if create:
        _create(path)
    if not path.is_file():
        raise DataError(f"{path}: no id key yet, expected the file that jobs/ingest.py makes, or CLICKODDS_ID_KEY")
    return IdKey(bytes.fromhex(path.read_text().strip()))


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    first_wins(fresh, path)
