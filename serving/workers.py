"""Several worker processes on one port: started, watched, started again when one dies, and drained together.

They share the listening socket itself, which this process holds open: what has connected waits in one queue, and a worker that
ends takes nobody's connection with it. (With a socket for each, SO_REUSEPORT, the kernel gives every one a queue of its own and
resets what waits in that of a process that ends.)
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from conf.errors import EXIT_REFUSED, EXIT_USAGE
from serving.cells import Cells

_LOOKS_EVERY_S = 0.1
_STEADY_S = 10.0  # a worker that lived so long did not die of its start
_LONGEST_PAUSE_S = 30.0

log = logging.getLogger("clickodds.serving")


@dataclass
class _Worker:
    """What is in a slot now. said: its first line, when it serves. died: how often in a row soon after its start."""

    process: subprocess.Popen[str] | None = None
    said: str = ""
    started: float = 0.0
    died: int = 0
    next_start: float = field(default_factory=time.monotonic)


class Workers:
    """command: of a worker, which gets `--worker SLOT:WORKERS:SOCKET:CELLS:LIFELINE` of file descriptors besides."""

    def __init__(self, command: Sequence[str], count: int, listener: socket.socket, *, stopped_within_s: float) -> None:
        self._command = list(command)
        self._listener = listener
        self._stopped_within_s = stopped_within_s
        self._workers = [_Worker() for _ in range(count)]
        self._cells = tempfile.TemporaryFile()  # as long as this process lives
        self._cells.truncate(Cells.size_of(count))
        self._lifeline, self._held = os.pipe()  # the workers' end, and ours: it closes when this process ends, however it does
        self._ready = False
        self._ending = False
        self._code = 0

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a worker of the first ones refuses to start; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        while not self._ending:
            for slot, worker in enumerate(self._workers):
                self._look_at(slot, worker)
            if not self._ready and all(worker.said for worker in self._workers):
                self._ready = True
                print(self._workers[0].said, end="", flush=True)  # noqa: T201  # whoever started the server waits for this line
            time.sleep(_LOOKS_EVERY_S)
        self._stop()
        return self._code

    def _look_at(self, slot: int, worker: _Worker) -> None:
        now = time.monotonic()
        if worker.process is not None:
            code = worker.process.poll()
            if code is None:
                self._listen_to(worker)
                return
            if code in (EXIT_USAGE, EXIT_REFUSED) and not self._ready:  # else the others go on, whatever was changed meanwhile
                self._ending, self._code = True, code
                return
            worker.died = 0 if now - worker.started > _STEADY_S else worker.died + 1
            pause = 0.0 if worker.died <= 1 else min(2.0 ** (worker.died - 2), _LONGEST_PAUSE_S)
            log.error("worker %d ended with %d; another one starts in %g s", slot, code, pause)
            self._forget(worker)
            worker.next_start = now + pause
        if now >= worker.next_start:
            self._start(slot, worker)

    def _start(self, slot: int, worker: _Worker) -> None:
        handles = self._listener.fileno(), self._cells.fileno(), self._lifeline
        place = ":".join(map(str, (slot, len(self._workers), *handles)))
        command = [*self._command, "--worker", place]
        # a group of its own, for Ctrl-C is ours to hand on; not a session, between which Linux may share out processors
        worker.started = time.monotonic()
        try:
            worker.process = subprocess.Popen(command, pass_fds=handles, stdout=subprocess.PIPE, text=True, process_group=0)
        except OSError as error:  # no memory, no more processes: the others answer meanwhile
            worker.died += 1
            worker.next_start = worker.started + _LONGEST_PAUSE_S
            log.error("worker %d cannot be started: %s; tried again in %g s", slot, error, _LONGEST_PAUSE_S)

    def _listen_to(self, worker: _Worker) -> None:
        """Take its first line, if it is there: a worker that hangs must not keep this process from being told to end."""
        stdout = worker.process.stdout if worker.process else None
        if stdout is not None and not worker.said and select.select([stdout], [], [], 0)[0]:
            worker.said = stdout.readline()

    def _forget(self, worker: _Worker) -> None:
        if worker.process is not None and worker.process.stdout is not None:
            worker.process.stdout.close()
        worker.process = None

    def _stop(self) -> None:
        """Let every worker answer what it has; one that does not end in time is killed."""
        self._listener.close()  # with the workers' own: from now on a connection is refused
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._stopped_within_s
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("process %d did not end within %g s and is killed", process.pid, self._stopped_within_s)
                process.kill()
                process.wait()
        for worker in self._workers:
            self._forget(worker)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True


def command_of_this_process() -> list[str]:
    """How this process was started, for workers that are started alike."""
    return [sys.executable, "-m", "serving", *sys.argv[1:]]
