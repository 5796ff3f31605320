"""One connection to Redis that takes ready-made commands in bulk: send, work on, send more, then receive as many replies.

No client library: one makes objects of every command and reply, and its import costs each worker more than most loads take. A
connection that breaks is made again, and what was not answered is sent again; so commands must bear being sent twice. A server
that has started anew in between may have lost what it had answered: that is an error.
"""

import socket
import time
from collections import deque
from typing import Any, Self

import hiredis

from conf.errors import ClickoddsError, DataError, UnavailableError
from conf.redis_address import RedisAddress

_TIMEOUT_S = 10.0
_FIRST_S = 1.0  # for the first connection: where Redis is gone, a worker's next tasks should not all wait for it
_LONGEST_PAUSE_S = 2.0
_INCOMPLETE = ...  # not the reader's own False, which a reply of 0 is equal to
_MENDED_THERE = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")  # errors of the server's own
_LATER = ("LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN")  # errors that pass


class Wire:
    """A connection for the block. `patience_s`: how long a Redis that is away is waited for. `run_id`: of the server's process,
    where it must be a certain one."""

    def __init__(self, address: RedisAddress, *, patience_s: float, run_id: str | None = None) -> None:
        if address.more_hosts:
            raise ClickoddsError(
                f"settings: redis: found {1 + len(address.more_hosts)} hosts, expected one: a cluster is read by the server, and "
                "written by Feast's own engine (docs/materialize.md)"
            )
        self._address = address
        self._patience_s = patience_s
        self.run_id = run_id
        self._socket: socket.socket | None = None
        self._reader = self._new_reader()
        self._pending: deque[tuple[bytes, int]] = deque()
        self._found: list[Any] = []  # replies read so far and not received

    def __enter__(self) -> Self:
        self._replies(0, min(_FIRST_S, self._patience_s))
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def exchange(self, commands: bytes, replies: int) -> list[Any]:
        """Send and receive at once, where nothing else is on its way."""
        self.send(commands, replies)
        return self.receive()

    def ask(self, *words: str | bytes) -> Any:
        """The reply to one command."""
        return self.exchange(_packed(*words), 1)[0]

    def send(self, commands: bytes, replies: int) -> None:
        """Hand over commands; each is to be followed by a `receive`, later ones may go out before it."""
        self._pending.append((commands, replies))
        try:
            self._send_now(commands)
        except OSError:
            self._close()  # half a command may be out: `receive` begins anew, with all that is not answered

    def receive(self) -> list[Any]:
        """The replies to the oldest that was sent. Raises UnavailableError where Redis is full, away for longer than
        patience_s, or was restarted; DataError where it refuses a command or the password."""
        found = self._replies(self._pending[0][1], self._patience_s)
        self._pending.popleft()
        return found

    def receive_all(self) -> None:
        """Until everything that was sent is answered."""
        while self._pending:
            self.receive()

    def _replies(self, number: int, patience_s: float) -> list[Any]:
        deadline = time.monotonic() + patience_s
        pause = 0.05
        while True:
            try:
                if self._socket is None:
                    self._connect()
                    self._send_now(b"".join(commands for commands, _ in self._pending))
                return self._read(number)
            except (OSError, _TryLaterError, hiredis.HiredisError) as error:
                self._close()
                if time.monotonic() + pause > deadline:
                    waited = f" for {patience_s:g} s" if patience_s else ""
                    said = f"redis at {self._address} does not answer{waited} ({error})"
                    raise UnavailableError(f"{said}; start it, or set CLICKODDS_REDIS") from None
            except ClickoddsError:
                self._close()
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _connect(self) -> None:
        address = self._address
        self._socket = socket.create_connection((address.host, address.port), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context := address.ssl_context():
            self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
        self._reader, self._found = self._new_reader(), []
        if address.password is not None:
            self._introduce("AUTH", *([address.username] if address.username else []), address.password)
        if address.db:
            self._introduce("SELECT", str(address.db))
        run_id = _field(self._introduce("INFO", "server"), "run_id")
        if self.run_id is not None and run_id != self.run_id:
            said = f"redis at {address} was restarted meanwhile and may have lost what it was given"
            raise UnavailableError(f"{said}: run this again, where it keeps no append-only file from 1970 on")
        self.run_id = run_id

    def _new_reader(self) -> hiredis.Reader:
        return hiredis.Reader(replyError=self._refuse, notEnoughData=_INCOMPLETE)

    def _introduce(self, *words: str | bytes) -> Any:
        self._send_now(_packed(*words))
        return self._read(1)[0]

    def _send_now(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.sendall(data)

    def _read(self, number: int) -> list[Any]:
        while len(self._found) < number:
            data = self._socket.recv(1 << 16) if self._socket is not None else b""
            if not data:
                raise ConnectionError("closed by Redis")
            self._reader.feed(data)
            self._found += iter(self._reader.gets, _INCOMPLETE)
        found, self._found = self._found[:number], self._found[number:]
        return found

    def _refuse(self, said: str) -> Exception:
        """Called by the reader for an error among the replies."""
        if said.startswith(_LATER):
            raise _TryLaterError(said)
        if said.startswith(_MENDED_THERE):
            full = " is full (maxmemory)" if said.startswith("OOM") else " takes nothing"
            raise UnavailableError(f"redis at {self._address}{full}: {said}")
        raise DataError(f"redis at {self._address} refuses what it is given: {said}")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


class _TryLaterError(Exception):
    """Redis says that it will answer later."""


def _packed(*words: str | bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it says a tuple of one, and takes any
    return packed


def _field(info: bytes, name: str) -> str:
    found = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return found.get(name, "")
