"""A Redis of each test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.redis_server import redis_server
from tests.feature_repo.stores import client_of


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path / "redis") as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    client = client_of(address)
    yield client
    client.close()
