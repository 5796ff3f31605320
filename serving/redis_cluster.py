"""A Redis Cluster with the face of one connection: commands go to the node that holds their key, replies come in their order.

A slot that has moved is followed. A node that is lost, or one that has come, ends the whole: whoever holds it connects again and
finds the nodes that are there by then.
"""

import asyncio
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hiredis

from conf.redis_address import RedisAddress
from serving.redis_link import Link, LinkError, OnPush, RedisLink, Told, command

_SLOTS = 16_384
_ASK_FOR_SLOTS = command("CLUSTER", "SLOTS")
_ASKING = command("ASKING")

Node = tuple[str, int]  # host and port


async def connect(address: RedisAddress, on_push: OnPush | None = None) -> Link:
    """To a single Redis, or to a cluster where the address has several hosts. Raises LinkError."""
    return await (ClusterLink if address.more_hosts else RedisLink).connect(address, on_push)


class ClusterLink:
    """Connections to all primaries. A command's key is its first word after its name."""

    def __init__(self, links: dict[Node, RedisLink], owners: list[RedisLink | None]) -> None:
        self._links, self._owners = links, owners
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Any] = self._loop.create_future()
        for link in links.values():
            link.lost.add_done_callback(self._end)

    @classmethod
    async def connect(cls, address: RedisAddress, on_push: OnPush | None = None) -> "ClusterLink":
        """By the first of the address' hosts that knows the others. Raises LinkError."""
        why = ""
        for host, port in [(address.host, address.port), *address.more_hosts]:
            try:
                return await cls._by(replace(address, host=host, port=port, more_hosts=()), on_push)
            except LinkError as error:
                why = why or str(error)
        raise LinkError(why)

    @classmethod
    async def _by(cls, one: RedisAddress, on_push: OnPush | None) -> "ClusterLink":
        links: dict[Node, RedisLink] = {}
        owners: list[RedisLink | None] = [None] * _SLOTS
        asked = await RedisLink.connect(one)
        try:
            async with asyncio.timeout(1):
                (slots,) = await asked.ask([_ASK_FOR_SLOTS])
            if isinstance(slots, Exception):
                raise LinkError(str(slots))
            for first, last, (host, port, *_), *_ in slots:
                node = (host.decode() if host else one.host), port
                if node not in links:
                    links[node] = await RedisLink.connect(replace(one, host=node[0], port=port), on_push)
                owners[first : last + 1] = [links[node]] * (last + 1 - first)
        except BaseException as error:
            for link in links.values():
                link.close()
            if isinstance(error, TimeoutError):
                raise LinkError("no answer") from None
            raise
        finally:
            asked.close()
        return cls(links, owners)

    @property
    def nodes(self) -> Sequence[RedisLink]:
        return list(self._links.values())

    def ask(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        """As RedisLink's: the future holds the replies, or LinkError, and may be cancelled."""
        return self._loop.create_task(self._asked(commands))

    def ask_then(self, commands: Sequence[bytes], told: Told) -> None:
        """As RedisLink's."""

        def ended(asked: "asyncio.Future[list[Any]]") -> None:
            error = LinkError("the question was given up") if asked.cancelled() else asked.exception()
            told(asked.result() if error is None else error if isinstance(error, LinkError) else LinkError(str(error)))

        self.ask(commands).add_done_callback(ended)

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    async def _asked(self, commands: Sequence[bytes]) -> list[Any]:
        """The first command's node answers before others are asked: a clock must be older than what it vouches for."""
        places: dict[RedisLink, list[int]] = {}
        for place, data in enumerate(commands):
            places.setdefault(self._owner(data), []).append(place)
        replies: list[Any] = [None] * len(commands)

        async def at(link: RedisLink, its: list[int]) -> None:
            for place, reply in zip(its, await link.ask([commands[place] for place in its]), strict=True):
                replies[place] = reply

        first, *others = places.items()
        await at(*first)
        await asyncio.gather(*(at(link, its) for link, its in others))
        for place, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError):
                replies[place] = await self._followed(commands[place], reply)
        return replies

    async def _followed(self, data: bytes, error: Exception) -> Any:
        """The reply of the node that another one named, the error where it named none."""
        kind, *told = str(error).split()
        if kind not in ("MOVED", "ASK"):
            return error
        host, _, port = told[1].rpartition(":")
        link = self._links.get((host, int(port)))
        if link is None:
            self.close()
            raise LinkError(f"{error}: a node that is new")
        if kind == "MOVED":
            self._owners[int(told[0])] = link
        return (await link.ask([data] if kind == "MOVED" else [_ASKING, data]))[-1]

    def _owner(self, data: bytes) -> RedisLink:
        if (link := self._owners[slot_of(_key(data))]) is None:
            self.close()
            raise LinkError("the cluster has slots that are nobody's")
        return link

    def _end(self, _: "asyncio.Future[Any]") -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.close()


def slot_of(key: bytes) -> int:
    """Of a key, or of the part in its first braces, as Redis' cluster specification has it."""
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin)) > begin + 1:
        key = key[begin + 1 : end]
    return crc_hqx(key, 0) % _SLOTS


def _key(data: bytes) -> bytes:
    _, _, _, size, rest = data.split(b"\r\n", 4)
    return rest[: int(size[1:])]
