"""uvicorn's HTTP/1.1 with the bounds that it leaves open: a slow, endless or broken request costs a connection and no more.

The application is called with whole requests only: a body that trickles in waits here, and holds no place among those in flight.
Depends on three methods of uvicorn's protocol that have no public name; tests/serving/test_limits.py would say if they changed.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.door import ARRIVED, Refusal
from serving.express import Express
from serving.metrics import Metrics
from serving.problems import MEDIA_TYPE, problem_body

_PIPELINED = 32  # requests of one connection that wait for the one before them


@dataclass(frozen=True)
class Bounds:
    """head, body: bytes. request_s: from a request's first byte, or a connection's beginning, to its last byte; and an answer's
    that nobody takes. connections: at the same time."""

    head: int
    body: int
    request_s: float
    connections: int


class Protocol(HttpToolsProtocol):
    """One connection. Made by `bounded`."""

    bounds: Bounds
    metrics: Metrics
    express: Express | None = None
    linger_s = 0.0  # how long an idle connection may still ask once the server drains

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.waits_since: float | None = monotonic()  # for a request to be whole, or an answer to be taken; None: for neither
        self._in_head = True
        self._begun = False  # uvicorn's parser has seen a part of a message, and not its end
        self._head = 0
        self._unstarted: tuple[RequestResponseCycle, Any] | None = None
        self._draining = False
        self._refused = False
        self._busy = False  # with a request that went the express way
        self._held = b""  # of one that is not whole yet, or that came meanwhile
        self._idle_since: float | None = None  # after an answer of the express way; uvicorn has a timer for its own

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.bounds.connections:
            self.metrics.shed["connections"].add()
            self.flow = FlowControl(transport)
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # the client may be sending still: what comes is read, or it would never see the answer
        self._idle_since = None
        if self._busy:
            self._held += data
            if len(self._held) > self.bounds.head + self.bounds.body:
                self.flow.pause_reading()
            return
        if self._held:
            data, self._held = self._held + data, b""
        if self.express is None or not self._goes_express(data, self.express):
            self._goes_as_any(data)

    def _goes_express(self, data: bytes, express: Express) -> bool:
        """Whether the request is answered so, or waits for its end to be; see serving/express.py."""
        alone = not self._begun and not self._head and (self.cycle is None or self.cycle.response_complete)
        if not alone or self._draining or self.flow.write_paused or (head := express.head_of(data)) is None:
            return False
        if len(data) > head.size:
            return False
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if len(data) < head.size:
            self._held = data
            if self.waits_since is None:
                self.waits_since = monotonic()
            return True
        self._busy, waited_since = True, self.waits_since
        self.waits_since = None
        if express.answer(data, head, partial(self._answered, data)):
            return True
        self._busy, self.waits_since = False, waited_since
        return False

    def _answered(self, data: bytes, status: int, answer: bytes | Refusal | None) -> None:
        self._busy = False
        if self.transport.is_closing():
            return
        if answer is None:
            self._goes_as_any(data)
        else:
            self.server_state.total_requests += 1
            self._idle_since = monotonic()
            head = _head_of(status, answer, self.server_state.default_headers, close=self._draining)
            self.transport.write(head + (answer if isinstance(answer, bytes) else answer.messages[1]["body"]))
            if self._draining:
                self.transport.close()
                return
        if self._held:
            held, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(held)

    def _goes_as_any(self, data: bytes) -> None:
        """Through uvicorn's parser."""
        if self._in_head:
            self._head += len(data)
        if self.waits_since is None:
            self.waits_since = monotonic()
        super().data_received(data)
        if self._in_head and self._head > self.bounds.head and not self._refused:
            self._refuse(431, f"the request's head is larger than {self.bounds.head >> 10} KiB")

    def on_message_begin(self) -> None:
        self._begun = True
        if self.waits_since is None:  # it came with the end of the one before
            self.waits_since = monotonic()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head > self.bounds.head:  # or its body has come with it
            head = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
            if head > self.bounds.head:
                self._refuse(431, f"the request's head is larger than {self.bounds.head >> 10} KiB")
        if len(self.pipeline) >= _PIPELINED:
            self._refuse(503, "too many requests on one connection that do not wait for their answers")
        if self._refused:
            return
        if self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.expect_100_continue = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refused or self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > self.bounds.body:
            self._refuse(413, f"the body is larger than {self.bounds.body >> 10} KiB (setting serving.max_body_kb)")

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._in_head, self._begun, self._head, self.waits_since = True, False, 0, None
        super().on_message_complete()
        if self._unstarted is not None:
            cycle, app = self._unstarted
            self._unstarted = None
            self._start_asgi_task(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.more_body:
            self._unstarted = cycle, app
            return
        if self._draining:
            cycle.keep_alive = False  # the client asks another worker next
        cycle.scope[ARRIVED] = perf_counter()  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Answer what is here and what a connection asks within linger_s; a client that is just sending sees no reset."""
        self._draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self.loop.call_later(self.linger_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._busy and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def pause_writing(self) -> None:
        self.waits_since = monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The answers are taken. What has come of the next request meanwhile has its time from now on."""
        self.waits_since = monotonic() if self._begun or self._held else None
        if self.waits_since is None and not self._busy:
            self._idle_since = monotonic()
        super().resume_writing()

    def check(self, now: float) -> None:
        """Called every second or so: end the connection where it has waited too long."""
        if self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()
        if self.waits_since is None or now - self.waits_since <= self.bounds.request_s:
            return
        if self._refused or self.flow.write_paused:
            self.transport.abort()
        else:
            self._refuse(408, f"the request was not whole within {self.bounds.request_s:g} s")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "not HTTP/1.1 as this server reads it")
        self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Say why, and read on until the client ends, or `check` ends it: a connection closed at once may lose the answer."""
        self._refused, self._unstarted = True, None
        self.waits_since = monotonic()
        self.metrics.took(0.0, status)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # an answer is on its way already: there is no place for another
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its answer finds nobody
        body = problem_body(status, detail)
        head: Mapping[bytes, bytes] = {
            **dict(self.server_state.default_headers),
            b"content-type": MEDIA_TYPE.encode(),
            b"content-length": str(len(body)).encode(),
            b"connection": b"close",
        }
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head.items())
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()


def bounded(bounds: Bounds, metrics: Metrics, express: Express | None = None) -> type[Protocol]:
    """A protocol with these bounds, as uvicorn's setting `http` takes it."""
    return type("Protocol", (Protocol,), {"bounds": bounds, "metrics": metrics, "express": express})


def _head_of(status: int, answer: bytes | Refusal, headers: list[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """An answer's head, as uvicorn writes it. headers: everybody's, a new list each second."""
    if isinstance(answer, bytes):
        own, size = b"content-type: application/json\r\n", len(answer)
    else:
        own, size = _lines(answer.messages[0]["headers"]), 0
    if size:
        own += b"content-length: %d\r\n" % size
    if close:
        own += b"connection: close\r\n"
    return b"%b%b%b\r\n" % (STATUS_LINE[status], _common(headers), own)


_written: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")


def _common(headers: list[tuple[bytes, bytes]]) -> bytes:
    global _written
    if _written[0] is not headers:
        _written = headers, _lines(headers)
    return _written[1]


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


async def check_connections(connections: set[Any], *, every_s: float) -> None:
    """Look at each connection every so often, until cancelled: a timer for each request would cost each request a microsecond."""
    while True:
        await asyncio.sleep(every_s)
        now = monotonic()
        for connection in list(connections):
            connection.check(now)
