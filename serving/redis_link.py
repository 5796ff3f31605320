"""One connection to Redis without a client library's cost: bytes out, replies in order, a deadline for each, a breaker for all.

redis-py spends more on a pipeline of five commands than the rest of an answer takes. What is left out is what a reader of hashes
does not need; the replies are parsed by hiredis.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import hiredis
import msgspec

from conf.redis_address import RedisAddress
from serving.deadlines import Deadlines
from serving.freshness import Reason

_LATE_TO_OPEN = 3  # answers in a row that came too late or not at all
_PROBE_S = 0.1  # between two questions whether Redis is back
_CONNECT_S = 1.0
_SILENT_S = 2.0  # a connection that leaves a PING unanswered for so long is given up
_TOGETHER = 16  # commands
_MORE: Any = object()

Told = Callable[["list[Any] | LinkError"], None]
OnPush = Callable[[Sequence[Any]], None]

log = logging.getLogger("clickodds.serving")


class LinkError(ConnectionError):
    """Redis cannot be reached, or does not let us in."""


class Link(Protocol):
    """Connections to all that hold the data. nodes: each of them; lost: done when it can ask no more."""

    lost: "asyncio.Future[Any]"

    @property
    def nodes(self) -> Sequence["RedisLink"]: ...
    def ask(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]": ...
    def ask_then(self, commands: Sequence[bytes], told: "Told") -> None: ...
    def close(self) -> None: ...


Connect = Callable[[RedisAddress, OnPush | None], Awaitable[Link]]


class _Ask(msgspec.Struct, gc=False):
    count: int
    told: Told
    replies: list[Any] = []


class RedisLink(asyncio.Protocol):
    """An open connection. A reply may be a hiredis.ReplyError; what was pushed goes to `on_push`."""

    def __init__(self, on_push: OnPush | None = None) -> None:
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[_Ask] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Any] = self._loop.create_future()

    @classmethod
    async def connect(cls, address: RedisAddress, on_push: OnPush | None = None) -> "RedisLink":
        """An authenticated connection that speaks RESP3. Raises LinkError."""
        link: RedisLink | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: cls(on_push), address.host, address.port, ssl=address.ssl_context()
                )
                user = ["AUTH", address.username or "default", address.password] if address.password else []
                said = await link.ask([command("HELLO", "3", *user), command("SELECT", str(address.db))])
        except (OSError, TimeoutError) as error:
            if link:
                link.close()
            raise LinkError(str(error) or "no answer") from None
        if wrong := next((reply for reply in said if isinstance(reply, Exception)), None):
            link.close()
            raise LinkError(str(wrong))
        return link

    @property
    def nodes(self) -> Sequence["RedisLink"]:
        """Every connection there is: this one."""
        return [self]

    def ask(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        """Send commands; the future holds their replies, or LinkError. It may be cancelled: its replies are dropped."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self.ask_then(commands, partial(_settle, future))
        return future

    def ask_then(self, commands: Sequence[bytes], told: Told) -> None:
        """The same for who has no coroutine: `told` is called once, maybe at once, with the replies or LinkError.

        It may not raise: others are told after it.
        """
        if self._transport is None or self._transport.is_closing():
            told(LinkError("the connection is closed"))
            return
        self._waiting.append(_Ask(len(commands), told))
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent += commands
        if len(self._unsent) >= _TOGETHER:
            self._send()

    def _send(self) -> None:
        """What one look of the loop found to ask goes out by one call of the system's, but none waits for too many others."""
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        answered: list[_Ask] = []
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push:
                        self._on_push(reply)
                    continue
                ask = self._waiting[0]
                ask.replies.append(reply)
                if len(ask.replies) == ask.count:
                    answered.append(self._waiting.popleft())
        except (hiredis.ProtocolError, IndexError):  # not Redis, or more replies than questions
            self.close()
        for ask in answered:
            ask.told(ask.replies)

    def connection_lost(self, error: Exception | None) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for ask in waiting:
            ask.told(LinkError(str(error or "the connection was closed")))
        if not self.lost.done():
            self.lost.set_result(None)


def _settle(future: "asyncio.Future[list[Any]]", said: list[Any] | LinkError) -> None:
    """What `ask_then` says, to a future that may have been cancelled."""
    if future.done():
        return
    if isinstance(said, LinkError):
        future.set_exception(said)
    else:
        future.set_result(said)


class _Question(msgspec.Struct, gc=False):
    """To the reader, until it is answered or late."""

    reader: "RedisReader"
    seconds: float
    done: Callable[[list[Any] | Reason], None]
    ended: bool = False

    def told(self, said: list[Any] | LinkError) -> None:
        if not self.ended:
            self._end(self.reader.judged(said))

    def late(self) -> None:
        self._end(self.reader.was_late(self.seconds))

    def _end(self, said: list[Any] | Reason) -> None:
        self.ended = True
        try:
            self.done(said)
        except Exception:  # one asker's trouble is not the next one's, who is answered or late at the same moment
            log.exception("an answer of redis could not be used")


class RedisReader:
    """Asks within a deadline, and asks no more where answers fail to come, until a probe is answered in time.

    `start` is called once in the running loop. deadline_s: what a probe has, and the most that any question gets. connect: makes
    what answers, of serving/redis_cluster.py.
    """

    def __init__(self, address: RedisAddress, *, deadline_s: float, connect: Connect) -> None:
        self._address, self._deadline_s, self._connect = address, deadline_s, connect
        self._link: Link | None = None
        self._closed = False  # of the breaker: questions pass
        self._late = 0
        self._tending: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._why = ""

    @property
    def available(self) -> bool:
        return self._closed

    async def start(self) -> None:
        """Connect, if Redis answers in time; go on trying if not."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        await self._mend()
        self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        if self._tending:
            self._tending.cancel()
            with suppress(asyncio.CancelledError):
                await self._tending
        self._drop()

    async def ask(self, commands: Sequence[bytes], seconds: float = math.inf) -> list[Any] | Reason:
        """A reply for each command, or why there is none. Never raises."""
        future: asyncio.Future[list[Any] | Reason] = self._loop.create_future()
        self.ask_then(commands, seconds, lambda said: None if future.done() else future.set_result(said))
        return await future

    def ask_then(self, commands: Sequence[bytes], seconds: float, done: Callable[[list[Any] | Reason], None]) -> None:
        """`ask` for who has no coroutine: `done` is called, maybe at once, with what it returns."""
        if not self._closed or self._link is None:
            done(Reason.REDIS_UNAVAILABLE)
            return
        question = _Question(self, seconds, done)
        self._deadlines.add(min(seconds, self._deadline_s), question)
        self._link.ask_then(commands, question.told)

    def judged(self, said: list[Any] | LinkError) -> list[Any] | Reason:
        """Replies as they are; an error breaks the breaker's circuit."""
        error = said if isinstance(said, LinkError) else said[0]
        if isinstance(error, Exception):  # the first reply's such as: it is loading its data
            self._break(str(error))
            return Reason.REDIS_UNAVAILABLE
        self._late = 0
        return said  # type: ignore[return-value]  # no error

    def was_late(self, seconds: float) -> Reason:
        """A question with so many seconds was not answered in them."""
        self._late += seconds >= self._deadline_s / 2  # a caller in a great hurry says nothing of Redis
        if self._late >= _LATE_TO_OPEN:
            self._break(f"{self._late} answers in a row took longer than {self._deadline_s * 1000:.0f} ms")
        return Reason.REDIS_LATE

    def _break(self, why: str) -> None:
        if self._closed:
            log.warning("redis at %s: %s; not asked until it answers again", self._address, why)
        self._closed = False
        self._wake.set()

    def _drop(self) -> None:
        if self._link:
            self._link.close()
        self._link = None

    async def _tend(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while not self._closed:
                await asyncio.sleep(_PROBE_S)
                try:
                    await self._mend()
                except Exception:  # or nobody would ever ask again
                    log.exception("redis at %s could not be probed", self._address)

    async def _mend(self) -> None:
        """One probe; closes the breaker where it is answered in time."""
        try:
            if self._link is None or self._link.lost.done():
                self._link = await self._connect(self._address, None)
            start = self._loop.time()
            async with asyncio.timeout(_SILENT_S):
                said = await asyncio.gather(*(node.ask([command("PING")]) for node in self._link.nodes))
            if wrong := next((reply for (reply,) in said if isinstance(reply, Exception)), None):
                raise LinkError(str(wrong))
            if self._loop.time() - start <= self._deadline_s:
                self._closed, self._late = True, 0
                log.info("redis at %s answers", self._address)
                self._why = ""
                return
            why = "answers too late"
        except (LinkError, TimeoutError) as error:
            self._drop()
            why = str(error) or "no answer"
        if why != self._why:
            log.warning("redis at %s: %s", self._address, why)
        self._why = why
        self._wake.set()


def command(*parts: str | bytes) -> bytes:
    """A command in Redis' protocol."""
    encoded = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)
