"""Serve the champion of a contract over HTTP, in one process. Needs a published bundle to be ready, and Redis for fresh features.

Exit codes: 0 stopped by Ctrl-C, 2 usage or settings, 65 the contract, the id key or the bundle is refused, 75 the port is taken.
"""

import argparse
import logging
import socket
import sys

import uvicorn

import serving.lean  # noqa: F401  # before anything that imports xgboost or pyarrow
from conf.contract_file import load_contract
from conf.errors import ClickoddsError, UnavailableError
from conf.personal import load_id_key
from conf.settings import load_settings
from models.published import load_champion
from serving.app import create_app
from serving.fast_path import FastPath
from serving.features import OnlineFeatures, connect_redis
from serving.redis_address import parse_address
from serving.state import ServingState


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, said: str) -> None:
        super().__init__(config)
        self._said = said

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._said, flush=True)  # noqa: T201  # whoever started the server waits for this line


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contract", metavar="FILE", help="the log contract (default: the setting `contract`)")
    parser.add_argument("--env", metavar="NAME", help="read conf/NAME.yaml over conf/base.yaml (default: CLICKODDS_ENV)")
    parser.add_argument("--port", type=int, metavar="PORT", help="0 takes a free one (default: the setting `serving.port`)")
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    try:
        server, listener = _prepare(args.contract, args.env, args.port)
    except ClickoddsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    with listener:
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises the signal again when it has stopped
            pass
    return 0


def _prepare(contract_file: str | None, env: str | None, port: int | None) -> tuple[_Server, socket.socket]:
    settings = load_settings(env)
    contract = load_contract(contract_file or settings.contract)
    id_key = load_id_key(settings)
    champion = load_champion(settings.bundles(contract.name))
    if champion and champion.bundle.kind == "trees":
        champion.bundle.booster  # noqa: B018  # parsed now, not in the first request
    state = ServingState(contract.hash, id_key.fingerprint, champion)
    section = settings.serving
    client = connect_redis(settings.redis, timeout=section.redis_timeout)
    features = OnlineFeatures(contract, id_key, client, timeout=section.redis_timeout, max_age=section.max_feature_age)
    address, compiled = parse_address(settings.redis), settings.state / "numba"
    fast = FastPath(contract, id_key, address, max_age=section.max_feature_age, compiled=compiled)
    app = create_app(contract=contract, state=state, features=features, settings=section, fast=fast)
    listener = _listen(section.host, section.port if port is None else port)
    config = uvicorn.Config(app, workers=1, access_log=False, log_config=None, log_level=logging.WARNING)
    where = f"http://{section.host}:{listener.getsockname()[1]}"
    return _Server(config, f"serving {contract.name} at {where}: {state.refusal or 'ready'}"), listener


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"{host}:{port}: cannot listen ({error}); stop what does, or take --port 0") from None


if __name__ == "__main__":
    sys.exit(main())
