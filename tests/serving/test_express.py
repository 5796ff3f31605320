"""A request that goes past uvicorn's parser is answered as one that does not, however it is cut, mixed and interrupted."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.contract import Contract
from conf.redis_server import free_port
from tests.serving.both_routes import Start, exact_bundle
from tests.serving.installation import Installation, Running
from tests.serving.load import request_bytes
from tests.serving.test_change_under_load import BODY

EXPRESS = request_bytes(BODY)
OTHER = EXPRESS.replace(b"host: x\r\n", b"host: x\r\nte: trailers\r\n")  # a header that it leaves to uvicorn
KEPT = EXPRESS.replace(b"host: x\r\n", b"host: x\r\nConnection: Keep-Alive\r\n")
BROKEN = request_bytes({**BODY, "request_id": ""})


@pytest.fixture(scope="module")
def server(demo: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose Redis is away."""
    installation = Installation.make(tmp_path_factory.mktemp("express"), "127.0.0.1:1", {"keep_alive": "1s"})
    installation.publish(demo)
    with installation.started() as running:
        yield running


class Caller:
    """One connection."""

    def __init__(self, server: Running) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self._data = b""

    def reply(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers but for the date, body of the next answer."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            self._more()
        first, *lines = self._data[:end].decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        while len(self._data) < end + 4 + size:
            self._more()
        body, self._data = self._data[end + 4 : end + 4 + size], self._data[end + 4 + size :]
        assert headers.pop("date")
        return int(first.split()[1]), headers, body

    def _more(self) -> None:
        said = self.socket.recv(65536)
        assert said, "the connection has ended"
        self._data += said


def _asked(server: Running, *parts: bytes, replies: int = 1, pause_s: float = 0.0) -> list[tuple[int, dict[str, str], bytes]]:
    caller = Caller(server)
    for part in parts:
        caller.socket.sendall(part)
        time.sleep(pause_s)
    found = [caller.reply() for _ in range(replies)]
    caller.socket.close()
    return found


def test_both_ways_answer_alike(server: Running) -> None:
    (express,), (other,) = _asked(server, EXPRESS), _asked(server, OTHER)
    assert express == other == _asked(server, KEPT)[0]
    assert express[0] == 200
    assert {"x-content-type-options", "cache-control", "content-security-policy"} <= express[1].keys()


def test_a_request_may_come_in_any_pieces(server: Running) -> None:
    whole = _asked(server, EXPRESS)
    for cut in (5, 30, EXPRESS.index(b"\r\n\r\n") + 2, EXPRESS.index(b"\r\n\r\n") + 4, len(EXPRESS) - 40, len(EXPRESS) - 1):
        assert _asked(server, EXPRESS[:cut], EXPRESS[cut:], pause_s=0.02) == whole, cut
    assert _asked(server, *(EXPRESS[at : at + 50] for at in range(0, len(EXPRESS), 50)), pause_s=0.002) == whole


def test_requests_that_do_not_wait_are_answered_in_their_order(server: Running) -> None:
    bodies = [{**BODY, "request_id": f"r-{n}"} for n in range(12)]
    kinds = [EXPRESS, OTHER, BROKEN]
    sent = b"".join(request_bytes(body) if n % 3 else OTHER for n, body in enumerate(bodies))
    replies = _asked(server, sent, replies=12)
    assert [json.loads(r[2])["request_id"] for r in replies] == [f"r-{n}" if n % 3 else BODY["request_id"] for n in range(12)]
    statuses = [r[0] for r in _asked(server, *(kinds[n % 3] for n in range(12)), replies=12)]
    assert statuses == [200, 200, 422] * 4
    cut = len(EXPRESS) + 60
    assert [r[0] for r in _asked(server, (EXPRESS * 2)[:cut], (EXPRESS * 2)[cut:], replies=2, pause_s=0.05)] == [200, 200]


def test_a_head_that_has_begun_is_uvicorn_s_to_end(server: Running) -> None:
    """The second packet is no request of its own, though it looks like one: it goes on with a header of the one before."""
    hidden = b"POST /v1/predict HTTP/1.1\r\nx-note: "
    replies = _asked(server, OTHER + hidden, EXPRESS, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", replies=3, pause_s=0.2)
    assert [status for status, *_ in replies] == [200, 200, 200]
    assert json.loads(replies[2][2]) == {"status": "alive"}


def test_half_a_request_behind_answers_that_nobody_took_has_its_time(demo: Contract, tmp_path: Path) -> None:
    installation = Installation.make(tmp_path, "127.0.0.1:1", {"request_timeout": "8s"})
    installation.publish(demo)
    candidates = [{"ad_id": f"{n} {'x' * 400}", "campaign_id": "c1"} for n in range(100)]
    long = request_bytes({**BODY, "candidates": candidates})
    with installation.started() as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", running.port))
        for _ in range(90):  # 4 MB of answers, more than the system keeps
            connection.sendall(long)
            time.sleep(0.05)
        connection.sendall(long[:1_000])
        said = b""
        while chunk := connection.recv(1 << 16):
            said += chunk
    assert said.count(b"HTTP/1.1 200 ") > 10
    assert b"HTTP/1.1 408 " in said


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"content-length", b"content-length : "), 400), ((b"host: x", b"host : x"), 400), ((b"POST", b"PUT"), 405),
        ((b"content-type: application/json", b"content-type: text/plain"), 400), ((b"HTTP/1.1", b"HTTP/9.9"), 400),
        ((b"host: x", b"host: x\r\ncontent-length: 3"), 400), ((b"host: x", b"transfer-encoding: chunked"), 400),
        ((b"host: x", b"x-deadline-ms: soon"), 422), ((b"host: x", b"x-deadline-ms: 5"), 200),
        ((b"host: x", b"x-deadline-ms: " + b"9" * 400), 422), ((b"host: x", b"x-deadline-ms: " + b"9" * 4400), 422),
        ((b"host: x", b"HOST:x"), 200),
    ],
)  # fmt: skip
def test_a_head_that_is_not_plain_is_read_by_uvicorn(server: Running, change: tuple[bytes, bytes], status: int) -> None:
    assert _asked(server, EXPRESS.replace(*change, 1))[0][0] == status


def test_a_silent_connection_is_closed_after_its_time(server: Running) -> None:
    caller = Caller(server)
    caller.socket.sendall(EXPRESS)
    assert caller.reply()[0] == 200
    assert caller.socket.recv(1) == b""
    caller.socket.close()


def test_a_caller_that_goes_away_leaves_nothing_behind(server: Running) -> None:
    for part in (EXPRESS, EXPRESS[:100], EXPRESS[:-1], EXPRESS * 3):
        caller = Caller(server)
        caller.socket.sendall(part)
        caller.socket.close()
    assert _asked(server, EXPRESS)[0][0] == 200


def test_what_fails_goes_uvicorn_s_way(demo: Contract, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    express = start(demo, exact_bundle(demo), f"127.0.0.1:{free_port()}").client.app.express  # type: ignore[attr-defined]
    said: list[tuple[int, Any]] = []

    async def answer() -> bool:
        head = express.head_of(EXPRESS)
        assert head is not None
        taken: bool = express.answer(EXPRESS, head, lambda *of: said.append(of))
        return taken

    assert asyncio.run(answer())
    monkeypatch.setattr("serving.engine.Engine.score", lambda *_: 1 / 0)
    assert asyncio.run(answer())
    assert [type(body) for _, body in said] == [bytes, type(None)]
    monkeypatch.setattr("serving.hot.HotRoute.prepared", lambda *_: 1 / 0)
    assert not asyncio.run(answer())
    assert express.head_of(EXPRESS.replace(b"/v1/predict", b"/v1/explain")) is None
    assert express.head_of(EXPRESS.replace(b"content-length: ", b"content-length: 999")) is None, "larger than a body may be"
