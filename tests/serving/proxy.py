"""A TCP proxy that can be slow, and forget connections: what a network between two machines may be."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Proxy:
    """delay_s: of every chunk from the other side."""

    port: int
    delay_s: float = 0.0
    made: int = 0  # connections
    forgotten: int = 0  # so many of the first

    def forget(self) -> None:
        """The connections that there are carry nothing any more, and are not closed: as behind a firewall that was restarted."""
        self.forgotten = self.made


@contextmanager
def proxy(target_port: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """In front of a port of the loopback, in a thread of its own; callers are to speak TLS where it is given."""
    found = Proxy(0)
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def pump(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError):
            while chunk := await reader.read(1 << 16):
                if slow:
                    await asyncio.sleep(found.delay_s)
                if number > found.forgotten:
                    writer.write(chunk)
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.made += 1
        number = found.made
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(pump(number, reader, back, slow=False), pump(number, there, writer, slow=True))

    async def listen() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        found.port = server.sockets[0].getsockname()[1]
        ready.set()
        with suppress(asyncio.CancelledError):
            await server.serve_forever()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()

    task = loop.create_task(listen())
    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
