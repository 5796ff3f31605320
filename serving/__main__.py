"""Serve the champion of a contract over HTTP. Needs a published bundle to be ready, and Redis for fresh features.

SIGTERM drains: what is asked is answered, new connections are refused. Exit codes: 0 stopped by SIGTERM or Ctrl-C, 2 usage or
settings, 65 the contract or the id key is refused, 75 the port is taken.
"""

import argparse
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from conf.errors import ClickoddsError, UnavailableError
from conf.settings import Settings, SettingsError, load_settings
from serving.logs import say_on_stderr

_NICE = 10


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contract", metavar="FILE", help="the log contract (default: the setting `contract`)")
    parser.add_argument("--env", metavar="NAME", help="read conf/NAME.yaml over conf/base.yaml (default: CLICKODDS_ENV)")
    parser.add_argument("--port", type=int, metavar="PORT", help="0 takes a free one (default: the setting `serving.port`)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on the port (default: the setting `serving.workers`)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # how serving/workers.py starts one
    args = parser.parse_args()
    try:
        settings = load_settings(args.env)
        say_on_stderr(json_lines=settings.serving.log_format == "json")
        if args.contract:
            settings = settings.model_copy(update={"contract": Path(args.contract).resolve()})
        return _worker(settings, args.worker) if args.worker else _serve(settings, args.port, args.workers)
    except ClickoddsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code


def _serve(settings: Settings, port: int | None, workers: int | None) -> int:
    section = settings.serving
    count = section.workers if workers is None else workers
    if count < 1:
        raise SettingsError(f"--workers: found {count}, expected at least 1")
    listener = _listen(section.host, section.port if port is None else port)
    if count == 1:
        from serving.server import serve  # what it imports takes a second and 100 MB, which a parent of workers needs not

        return serve(settings, listener)
    from serving.workers import Workers, command_of_this_process

    within_s = 2 * section.drain.total_seconds() + 5
    return Workers(command_of_this_process(), count, listener, stopped_within_s=within_s).run()


def _worker(settings: Settings, place: str) -> int:
    _import_gently()
    from serving.server import Place, serve

    slot, workers, handle, cells, lifeline = map(int, place.split(":"))
    return serve(settings, socket.socket(fileno=handle), Place(slot, workers, cells, lifeline))


def _import_gently() -> None:
    """Most of a start is imports. They give way to the workers that answer meanwhile: a thread may be nice for a while, a process
    could not take it back. Threads that libraries start meanwhile stay so; none of them answers."""

    def imported() -> None:
        with suppress(OSError):  # where threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        import serving.server  # noqa: F401

    thread = threading.Thread(target=imported)
    thread.start()
    thread.join()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"{host}:{port}: cannot listen ({error}); stop what does, or take --port 0") from None


if __name__ == "__main__":
    sys.exit(main())
