"""What callers may not do to a server: hurry it to death, hold it open, drown it, or ask without a key."""

import hashlib
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conf.contract import Contract
from serving.app import PREDICT
from serving.explain import EXPLAIN
from tests.serving.installation import Installation, Running
from tests.serving.load import load, request_bytes
from tests.serving.test_change_under_load import BODY

KEY, EXPLAIN_KEY = "a key of a caller", "another for those who explain"
LIMITS = {
    "max_head_kb": "4", "max_body_kb": "64", "request_timeout": "1s", "keep_alive": "2s", "max_connections": "30",
    "in_flight": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def limited(demo: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with narrow limits, whose Redis is away."""
    installation = Installation.make(tmp_path_factory.mktemp("limited"), "127.0.0.1:1", LIMITS)
    installation.publish(demo)
    with installation.started() as server:
        yield server


def _talk(server: Running, *parts: bytes, pause_s: float = 0.0, within_s: float = 10.0) -> bytes:
    """Everything that the server says to these bytes before it ends the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=within_s) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:  # it has said what it had to say
                break
            time.sleep(pause_s)
        said = b""
        try:
            while chunk := connection.recv(65536):
                said += chunk
        except ConnectionResetError:
            pass
        return said


def _lives(server: Running) -> None:
    assert httpx2.get(f"{server.address}/livez", trust_env=False, timeout=10).status_code == 200


def test_a_head_that_trickles_is_a_408(limited: Running) -> None:
    said = _talk(limited, b"POST /v1/predict HTTP/1.1\r\n", *[b"x-one: 1\r\n"] * 100, pause_s=0.1)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in said


def test_a_body_that_trickles_is_a_408_and_holds_no_place(limited: Running) -> None:
    head, _, body = request_bytes(BODY).partition(b"\r\n\r\n")
    with ExitStack() as stack:
        for _ in range(10):  # more than may be in flight
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", limited.port), timeout=10))
            slow.sendall(head + b"\r\n\r\n" + body[:10])
        assert httpx2.post(f"{limited.address}{PREDICT}", json=BODY, trust_env=False).status_code == 200
        assert slow.recv(12) == b"HTTP/1.1 408"


def test_a_connection_that_says_nothing_is_ended(limited: Running) -> None:
    assert _talk(limited).startswith(b"HTTP/1.1 408 ")


def test_a_head_too_large_is_a_431(limited: Running) -> None:
    line = b"x-long: " + b"x" * 1000 + b"\r\n"
    at_once = _talk(limited, b"GET /livez HTTP/1.1\r\n" + line * 5 + b"\r\n")
    endless = _talk(limited, b"GET /livez HTTP/1.1\r\n", *[line] * 10_000)
    assert at_once.startswith(b"HTTP/1.1 431 ")
    assert endless == b"" or endless.startswith(b"HTTP/1.1 431 ")
    assert _talk(limited, b"GET /livez HTTP/1.1\r\n" + line * 3 + b"connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_a_413(limited: Running, chunked: bool) -> None:
    content = (b" " * 10_000 for _ in range(100)) if chunked else b" " * 1_000_000
    response = httpx2.post(
        f"{limited.address}{PREDICT}", content=content, headers={"content-type": "application/json"}, trust_env=False
    )
    assert (response.status_code, response.headers["content-type"]) == (413, "application/problem+json")
    assert "64 KiB" in response.json()["detail"]


def test_a_body_that_is_waited_for_is_let_come(limited: Running) -> None:
    head, _, body = request_bytes(BODY).partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as connection:
        connection.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_requests_one_after_the_other_without_waiting_are_answered_in_order(limited: Running) -> None:
    asked = [request_bytes({**BODY, "request_id": f"r-{number}"}) for number in range(5)]
    with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as connection:
        connection.sendall(b"".join(asked))
        said = b""
        while said.count(b"HTTP/1.1 ") < 5 or not said.endswith(b"}"):
            said += connection.recv(65536)
    places = [said.find(f'"r-{number}"'.encode()) for number in range(5)]
    assert places == sorted(places)


def test_any_number_of_connections_leaves_it_alive(limited: Running) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", limited.port), timeout=10))
        time.sleep(0.5)
    time.sleep(0.5)
    _lives(limited)
    page = httpx2.get(f"{limited.address}/metrics", trust_env=False).text
    assert float(page.partition('clickodds_shed_total{reason="connections"}')[2].split()[0]) >= 60


def test_bytes_that_are_no_http_are_refused_and_it_lives(limited: Running) -> None:
    draw = random.Random(7)
    good = request_bytes(BODY)
    for number in range(150):
        mangled = bytearray(good)
        for _ in range(draw.randint(1, 20)):
            mangled[draw.randrange(len(mangled) if number % 2 else 120)] = draw.randrange(256)
        with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as connection:
            connection.sendall(bytes(mangled) if number % 3 else draw.randbytes(2000))
            connection.shutdown(socket.SHUT_WR)
            try:
                said = connection.recv(65536)
            except ConnectionResetError:
                said = b""
        assert not said or b"HTTP/1.1 4" in said[:12] or said[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 503"), (said, bytes(mangled))
    _lives(limited)


def test_a_request_for_another_protocol_is_answered_as_http(limited: Running) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    assert _talk(limited, upgrade).startswith(b"HTTP/1.1 200 ")
    _lives(limited)


def test_too_many_requests_are_shed_with_a_time_to_come_again(demo: Contract, tmp_path: Path) -> None:
    installation = Installation.make(tmp_path, "127.0.0.1:1", {"queue_age_ms": "2"})
    installation.publish(demo)
    many = {**BODY, "candidates": [{"ad_id": number, "campaign_id": "c1"} for number in range(200)]}
    with installation.started() as server:
        with load(server.port, many, callers=50) as found:
            found.wait(400, within_s=60)
        again = [httpx2.post(f"{server.address}{PREDICT}", json=BODY, trust_env=False).status_code for _ in range(20)]
    assert set(found.statuses) <= {200, 503}
    assert found.statuses[200] > 0, "those that are taken are answered"
    shed = [reply for reply in found.replies if reply.status == 503]
    assert shed, "50 callers, and none may wait for 2 ms"
    assert {reply.headers["retry-after"] for reply in shed} == {"1"}
    assert all(reply.json["status"] == 503 for reply in shed)
    assert 200 in again, "and when they are gone it is as before"


@pytest.fixture(scope="module")
def locked(demo: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that asks for keys."""
    hashes = {"keys": KEY, "explain_keys": EXPLAIN_KEY}
    settings = {name: f'["{hashlib.sha256(key.encode()).hexdigest()}"]' for name, key in hashes.items()}
    installation = Installation.make(tmp_path_factory.mktemp("locked"), "127.0.0.1:1", settings)
    installation.publish(demo)
    with installation.started() as server:
        yield server


def _ask(server: Running, path: str, authorization: str | None) -> httpx2.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return httpx2.post(f"{server.address}{path}", json=BODY, headers=headers, trust_env=False, timeout=10)


@pytest.mark.parametrize(("path", "key", "other"), [(PREDICT, KEY, EXPLAIN_KEY), (EXPLAIN, EXPLAIN_KEY, KEY)])
def test_a_key_opens_its_own_path_alone(locked: Running, path: str, key: str, other: str) -> None:
    for wrong in (None, "", "Bearer", f"Bearer {other}", f"Basic {key}", key, f"Bearer {key}x"):
        refused = _ask(locked, path, wrong)
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json"), wrong
        assert refused.headers["www-authenticate"] == "Bearer"
    assert _ask(locked, path, f"Bearer {key}").status_code == 200
    assert _ask(locked, path, f"bearer {key}").status_code == 200


def test_nobody_may_explain_where_no_key_is_set(limited: Running) -> None:
    assert _ask(limited, EXPLAIN, None).status_code == 403


def test_every_answer_has_the_security_headers_and_no_name_of_a_server(limited: Running) -> None:
    nothing = httpx2.get(f"{limited.address}/x", trust_env=False)
    for response in (_ask(limited, PREDICT, None), _ask(limited, EXPLAIN, None), nothing):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "frame-ancestors" in response.headers["content-security-policy"]
        assert "server" not in response.headers


def test_settings_that_are_no_hash_are_refused(demo: Contract, tmp_path: Any) -> None:
    installation = Installation.make(tmp_path, "127.0.0.1:1", {"keys": '["a key in clear"]'})
    with pytest.raises(AssertionError, match=r"serving\.keys"), installation.started():
        pass
