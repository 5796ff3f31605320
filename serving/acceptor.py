"""Takes new connections as they come.

uvloop's own server takes one in each round of the loop. Where many requests are ready a round takes long, so that new connections
would wait for seconds, unseen by any bound, while old ones are answered at once.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

_AT_ONCE = 256  # connections in one round; the rest follow in the next
_PAUSE_S = 0.1  # where the process may open no more files


class Acceptor:
    """Of one listening socket, until `close`. `protocol` makes that of a connection."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener, self._protocol = listener, protocol
        self._loop = asyncio.get_running_loop()
        self._opening = set[asyncio.Task[Any]]()
        self._closed = False
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more; the socket stays open."""
        self._closed = True
        self._loop.remove_reader(self._listener)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._take)

    def _take(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another worker was quicker, or the caller has gone
                return
            except OSError:
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_PAUSE_S, self._listen)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
