"""One process that serves a contract: what it needs is made here, run, drained, and ended."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import uvicorn

import serving.lean  # noqa: F401  # before anything that imports xgboost or pyarrow
from conf.contract_file import load_contract
from conf.personal import load_id_key
from conf.redis_address import parse_address
from conf.served import served_folder
from conf.settings import Settings
from feature_repo.catalogue import raw_schema
from models.published import Champion
from serving.acceptor import Acceptor
from serving.app import create_app
from serving.cells import Cells
from serving.fast_path import FastPath
from serving.memory import give_back_what_is_large
from serving.metrics import Metrics
from serving.native import FOLDER
from serving.protocol import Bounds, Protocol, bounded, check_connections
from serving.reload import Reloader
from serving.served_log import LogLimits, ServedLog
from serving.state import InForce, ServingState, first_state, warmed
from serving.traces import traced_if_configured

SWITCH_S = 0.0005  # a thread that loads a model gives the interpreter back so often; a request waits no longer for it
# Once for all answers. A page of ours may not be framed, an answer may not be kept by what lies between.
SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "frame-ancestors 'none'"),
]


@dataclass(frozen=True)
class Place:
    """Where a worker stands among the others. lifeline: a file descriptor that ends when the parent has; None: there is none."""

    slot: int = 0
    workers: int = 1
    cells: int | None = None
    lifeline: int | None = None


class Server(uvicorn.Server):
    """uvicorn's, with what runs beside the requests."""

    def __init__(
        self, config: uvicorn.Config, said: str, reloader: Reloader, served_log: ServedLog, place: Place, drain_s: float
    ) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._said = said
        self._reloader = reloader
        self._served_log = served_log
        self._place = place
        self._beside: list[asyncio.Task[None]] = []
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._acceptors = [Acceptor(listener, self._connection) for listener in sockets or ()]
        self._served_log.start()
        self._beside = [
            asyncio.create_task(self._reloader.run()),
            asyncio.create_task(check_connections(self.server_state.connections, every_s=0.5)),
        ]
        if self._place.lifeline is not None:
            asyncio.get_running_loop().add_reader(self._place.lifeline, self._orphaned)
        gc.collect()
        gc.freeze()  # what is there by now stays: a full collection would look at all of it, in the middle of a request
        print(self._said, flush=True)  # noqa: T201  # whoever started the server waits for this line

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._place.lifeline is not None:
            asyncio.get_running_loop().remove_reader(self._place.lifeline)
        for acceptor in self._acceptors:
            acceptor.close()
        if signal.SIGINT not in self._captured_signals:  # a person with Ctrl-C waits for no client
            Protocol.linger_s = self._drain_s
        await super().shutdown(sockets)
        for task in self._beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._served_log.close)

    def _connection(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _orphaned(self) -> None:
        """The parent is gone: nobody would stop this process any more."""
        self.should_exit = True


def prepared(settings: Settings, where: str, place: Place) -> Server:
    """A server, ready to run. where: its address, for a person. Raises ClickoddsError."""
    contract = load_contract(settings.contract)
    id_key = load_id_key(settings)
    section = settings.serving
    root = settings.bundles(contract.name)
    made_for = contract.hash, id_key.fingerprint
    in_force = InForce(first_state(root, *made_for))
    metrics = Metrics(Cells(place.cells, workers=place.workers, slot=place.slot))
    fast = FastPath(contract, id_key, parse_address(settings.redis), section, metrics, compiled=settings.state / FOLDER)
    limits = LogLimits(section.log.share, section.log.max_waiting, section.log.max_mb << 20, section.log.every.total_seconds())
    served_log = ServedLog(served_folder(settings.state, contract.name, *made_for), raw_schema(contract), limits, metrics)
    app = create_app(
        contract=contract, in_force=in_force, fast=fast, settings=section, metrics=metrics, served_log=served_log
    )

    async def prepare(champion: Champion) -> ServingState:
        return await fast.ready(ServingState(*made_for, await asyncio.to_thread(warmed, champion)))

    reloader = Reloader(root, in_force, metrics, prepare=prepare, every_s=section.reload_every.total_seconds())
    drain_s = section.drain.total_seconds()
    bounds = Bounds(
        head=section.max_head_kb << 10, body=section.max_body_kb << 10, request_s=section.request_timeout.total_seconds(),
        connections=section.max_connections,
    )  # fmt: skip
    traced = traced_if_configured(app)
    express = app.express if traced is app else None  # a span needs a scope
    config = uvicorn.Config(
        traced, workers=1, access_log=False, log_config=None, log_level=logging.WARNING, http=bounded(bounds, metrics, express),
        ws="none", proxy_headers=False, server_header=False, headers=SECURITY_HEADERS,
        timeout_keep_alive=int(section.keep_alive.total_seconds()), timeout_graceful_shutdown=int(2 * drain_s) + 1,
    )  # fmt: skip
    return Server(config, f"serving {contract.name} at {where}: {in_force.state.said}", reloader, served_log, place, drain_s)


def serve(settings: Settings, listener: socket.socket, place: Place = Place()) -> int:
    """Serve until SIGTERM or SIGINT, then answer what is asked still and return the exit code. Raises ClickoddsError."""
    sys.setswitchinterval(SWITCH_S)
    give_back_what_is_large()
    server = prepared(settings, address(listener), place)
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again when all is answered
    try:
        with listener:
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    return 0


def address(listener: socket.socket) -> str:
    """Of a listening socket, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
