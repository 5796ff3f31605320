"""The candidates' counters, in memory: read when the server starts, and again whenever Redis says that a key was written.

Candidates are few and shared, so a request need not ask for them. Redis names every written key of theirs (client tracking in
broadcast mode); those are read in batches, so that a change shows in answers within a fraction of a second. What was missed is
found when all keys are read again: after every broken connection, and every few minutes.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from conf.contract import ALL_KEY, AS_OF, CLOCK, Contract
from conf.redis_address import RedisAddress
from feature_repo.redis_layout import LayoutError, is_key, key_prefix, redis_key, scan_pattern
from feature_repo.vectorize import Float64
from serving.key_reader import KeyReader, clock_command, decode_clock
from serving.logs import Seldom
from serving.redis_link import Connect, Link, LinkError, command
from serving.resident_key import Moves, ResidentKey
from serving.sides import key_side

_TOGETHER = 200  # keys that are read and recomputed in one go: about a millisecond in which no request is answered
_PAUSE_S = 0.05  # in which written keys gather
_RETRY_S = 0.25
_ALIVE_S = 1.0  # of silence, after which Redis is asked whether it is there
_SILENT_S = 2.0  # a connection that does not answer that within so long is given up
_SCAN = "1000"

log = logging.getLogger("clickodds.serving")


class Listener(Protocol):
    """Who works with the counters."""

    def changed(self, key: str, rows: Sequence[int]) -> None:
        """These rows of a key have new counters."""

    async def published(self, everything: Float64, as_of_us: int | None) -> None:
        """All counters are at least as new as this clock; `everything`: the counters of the key `all`."""


class Residents:
    """`keys`: candidate-side keys by name. `moves`: of all of them. `listeners` are told of changes for as long as somebody
    else holds them.

    Runs from `start` to `close`, and never raises. refreshed: is told, of each batch of written keys, the seconds from Redis'
    naming the first of them until all were in memory.
    """

    def __init__(
        self, contract: Contract, address: RedisAddress, *, limit: int, reconcile_s: float, refreshed: Callable[[float], None],
        connect: Connect,
    ) -> None:  # fmt: skip
        self._contract, self._address, self._reconcile_s, self._refreshed = contract, address, reconcile_s, refreshed
        self._connect = connect
        candidate_side = [key for key in contract.keys if key_side(contract, key) == "candidate"]
        self.moves = Moves()
        self.keys = {key: ResidentKey(KeyReader(contract, key), limit, self.moves) for key in candidate_side}
        self._all = KeyReader(contract, ALL_KEY)
        self._scope = redis_key(contract.name, {})
        self._clock = clock_command(contract.name, CLOCK, AS_OF)
        self.everything = np.array(self._all.unavailable)
        self.as_of_us: int | None = None
        self.listeners = WeakSet[Listener]()  # whoever is needed no more is told no more
        self._written: set[bytes] = set()
        self._told = asyncio.Event()
        self._since_s: float | None = None  # when Redis named the first of `_written`
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why = ""
        self._unreadable = Seldom(log)

    async def start(self, wait_s: float) -> None:
        """Begin to follow Redis; returns when everything is read, or after wait_s."""
        self._task = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), wait_s)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            link: Link | None = None
            try:
                link = await self._connect(self._address, self._pushed)
                await self._follow(link)
            except (LinkError, LayoutError, TimeoutError) as error:
                why = str(error) or "no answer"
                if why != self._why:
                    log.warning("candidates are not kept fresh: %s", why)
                self._why = why
            except Exception:
                log.exception("candidates are not kept fresh")
            finally:
                if link:
                    link.close()
            await asyncio.sleep(_RETRY_S)

    async def _follow(self, link: Link) -> None:
        """Until the connection breaks: LinkError."""
        prefixes = dict.fromkeys(key_prefix(columns) for columns in self._columns())
        tracking = command("CLIENT", "TRACKING", "ON", "BCAST", *(p for x in prefixes for p in ("PREFIX", x)))
        for node in link.nodes:
            await self._ask(node, [tracking])
        while True:
            await self._read_all(link)
            log.info("candidates are kept fresh: %s", ", ".join(f"{t.count - 2} of {key}" for key, t in self.keys.items()))
            self._why = ""
            self._filled.set()
            next_s = asyncio.get_running_loop().time() + self._reconcile_s
            while (left := next_s - asyncio.get_running_loop().time()) > 0:
                if not self._written:
                    self._told.clear()
                    told = asyncio.ensure_future(self._told.wait())
                    await asyncio.wait([told, link.lost], timeout=min(left, _ALIVE_S), return_when=asyncio.FIRST_COMPLETED)
                    told.cancel()
                    if link.lost.done():
                        raise LinkError("the connection was closed")
                    if not self._written:  # nothing to say, or nothing arrives any more
                        async with asyncio.timeout(_SILENT_S):
                            for node in link.nodes:
                                await self._ask(node, [command("PING")])
                        continue
                await asyncio.sleep(_PAUSE_S)
                await self._read_written(link)

    def _pushed(self, message: Sequence[Any]) -> None:
        if message[0] == b"invalidate" and message[1]:  # null: the whole store was flushed
            self._written.update(message[1])
        else:
            self._written.update(redis_key for table in self.keys.values() for redis_key in table.redis_keys)
            self._written.add(self._scope)
        if self._since_s is None:
            self._since_s = asyncio.get_running_loop().time()
        self._told.set()

    async def _read_written(self, link: Link) -> None:
        """The clock first: what is read after it, in a second round where need be, is at least as new as it says."""
        since_s, self._since_s = self._since_s, None
        clock_moved = self._scope in self._written
        self._written.discard(self._scope)
        everything, as_of_us = await self._read_clock(link) if clock_moved else (self.everything, self.as_of_us)
        await self._read(link, self._taken())
        if clock_moved:
            for node in link.nodes:
                await self._ask(node, [command("PING")])  # what was written before the clock has been told by now
            await self._read(link, self._taken())
            await self._publish(everything, as_of_us)
        if since_s is not None:
            self._refreshed(asyncio.get_running_loop().time() - since_s)

    def _taken(self) -> set[bytes]:
        """The written keys; the clock, written again meanwhile, stays for the next time."""
        taken, self._written = self._written - {self._scope}, self._written & {self._scope}
        return taken

    async def _read_all(self, link: Link) -> None:
        self._written.clear()
        self._since_s = None
        everything, as_of_us = await self._read_clock(link)
        for key, columns in zip(self.keys, self._columns(), strict=False):
            found = set(self.keys[key].redis_keys)
            pattern = scan_pattern(columns, self._contract.name)
            for node in link.nodes:
                cursor = b""
                while cursor != b"0":
                    ((cursor, some),) = await self._ask(node, [command("SCAN", cursor or "0", "MATCH", pattern, "COUNT", _SCAN)])
                    found.update(some)
            await self._read(link, found)
        await self._publish(everything, as_of_us)

    async def _read(self, link: Link, redis_keys: set[bytes]) -> None:
        for columns in {columns for columns in self._columns() if columns}:
            prefix = key_prefix(columns)
            ours = [k for k in redis_keys if is_key(k, prefix, len(columns), self._contract.name)]
            for key, table in self.keys.items():
                if set(table.reader.columns) == set(columns):
                    for start in range(0, len(ours), _TOGETHER):
                        some = ours[start : start + _TOGETHER]
                        changed = self._put(table, some, await self._replies(link, [table.reader.hmget(k) for k in some]))
                        for listener in self.listeners if changed else ():
                            listener.changed(key, changed)

    def _put(self, table: ResidentKey, redis_keys: Sequence[bytes], replies: Sequence[Any]) -> list[int]:
        """The rows that changed. One entity that cannot be read must not keep the others from being fresh."""
        try:
            return table.put(redis_keys, replies)
        except LayoutError:
            changed: list[int] = []
        unreadable: list[bytes] = []
        for one, reply in zip(redis_keys, replies, strict=True):
            try:
                changed += table.put([one], [reply])
            except LayoutError as error:
                unreadable.append(one)
                self._unreadable.warning("a candidate is not kept in memory, %r: %s", one, error)
        table.forget(unreadable)
        return changed

    async def _read_clock(self, link: Link) -> tuple[Float64, int | None]:
        clock, counters = await self._ask(link, [self._clock, self._all.hmget(self._scope)])
        return np.array(self._all.row(counters)), decode_clock(clock)

    async def _publish(self, everything: Float64, as_of_us: int | None) -> None:
        same = self.as_of_us == as_of_us and np.array_equal(self.everything, everything, equal_nan=True)
        self.everything, self.as_of_us = everything, as_of_us
        for listener in () if same else list(self.listeners):  # a reload adds one meanwhile
            await listener.published(everything, as_of_us)

    async def _ask(self, link: Link, commands: Sequence[bytes]) -> list[Any]:
        replies = await self._replies(link, commands)
        if wrong := next((reply for reply in replies if isinstance(reply, Exception)), None):
            raise LayoutError(str(wrong))
        return replies

    @staticmethod
    async def _replies(link: Link, commands: Sequence[bytes]) -> list[Any]:
        """Errors among them."""
        async with asyncio.timeout(10):
            return await link.ask(commands)

    def _columns(self) -> list[tuple[str, ...]]:
        return [*(table.reader.columns for table in self.keys.values()), ()]
