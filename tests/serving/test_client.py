"""The client against a server process, and against what is none."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from conf.contract import Contract
from serving.client import Client, PredictError, Values
from tests.serving.installation import Installation, Running

CONTEXT: dict[str, str] = {"user_id": "known", "placement_id": "placement_id-1"}
CANDIDATES: list[Values] = [{"ad_id": "a7", "campaign_id": "c1"}, {"ad_id": 12, "campaign_id": "c1"}]


@pytest.fixture(scope="module")
def server(demo: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    installation = Installation.make(tmp_path_factory.mktemp("served"), "127.0.0.1:1", {"keep_alive": "1s"})
    installation.publish(demo)
    with installation.started() as running:
        yield running


def test_it_asks_and_understands(server: Running) -> None:
    with Client(server.address, timeout_s=10) as client:
        answer = client.predict(CONTEXT, CANDIDATES, request_id="r-1", time=datetime(2026, 3, 1, 10, 30, tzinfo=UTC))
        assert (answer.request_id, answer.model_version, answer.reasons) == ("r-1", "7", ["redis_unavailable"])
        assert [p["ad_id"] for p in answer.predictions] == ["a7", 12]
        assert all(0 < p["ctr"] < 1 for p in answer.predictions)
        with pytest.raises(PredictError, match=r"422: context\.user_id") as refused:
            client.predict({"placement_id": "p"}, CANDIDATES, request_id="r-2")
        assert [error["field"] for error in refused.value.errors] == ["context.user_id"]


def test_a_connection_that_ended_meanwhile_is_made_again(server: Running) -> None:
    with Client(server.address, timeout_s=10) as client:
        first = client.predict(CONTEXT, CANDIDATES, request_id="r-1")
        assert client._connection.sock is not None
        assert client._connection.sock.recv(1) == b"", "the server ends it when keep_alive has passed"
        assert client.predict(CONTEXT, CANDIDATES, request_id="r-1") == first


def test_a_server_that_says_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1) as client, pytest.raises(TimeoutError):
            client.predict(CONTEXT, CANDIDATES, request_id="r-1")


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        Client(address)
