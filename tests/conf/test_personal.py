"""The id key: made once, kept private, and the digest is plain HMAC-SHA256."""

import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import DataError
from conf.personal import IdKey, load_id_key
from conf.settings import load_settings


@given(st.binary(min_size=16, max_size=100), st.text())
def test_digest_is_hmac_sha256(key: bytes, text: str) -> None:
    clean = text.encode("utf-8", "replace").decode()
    assert IdKey(key).digest(clean) == hmac.new(key, clean.encode(), hashlib.sha256).hexdigest()


def test_the_key_is_made_at_first_run_and_kept(tmp_path: Path) -> None:
    settings = load_settings().model_copy(update={"state": tmp_path / "state"})
    with pytest.raises(DataError, match="no id key yet"):
        load_id_key(settings)
    made = load_id_key(settings, create=True)
    assert stat.S_IMODE((tmp_path / "state" / "id.key").stat().st_mode) == 0o600
    assert load_id_key(settings, create=True).fingerprint == made.fingerprint == load_id_key(settings).fingerprint
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["id.key"]


def test_neither_repr_nor_fingerprint_shows_the_key() -> None:
    key = b"sixteen bytes ok"
    assert key.hex() not in repr(IdKey(key)) + IdKey(key).fingerprint


def test_a_short_key_is_refused() -> None:
    with pytest.raises(DataError, match="expected at least 16"):
        IdKey(b"short")
