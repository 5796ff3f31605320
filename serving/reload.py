"""A new champion takes the old one's place while requests are answered, or is refused and the old one stays."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from conf.errors import BundleError
from conf.settings import ROOT
from models.published import Champion, Named, named_champions, pointer_stamp
from serving.metrics import Metrics
from serving.state import InForce, ServingState

VERIFIED_WITHIN_S = 120.0
_NICE = 10  # of the process that verifies: where processors are few, requests come first

log = logging.getLogger("clickodds.serving")


class Reloader:
    """Looks at the pointer file below `root` every so often, off every request's path.

    prepare: makes the state of a verified champion, warm; what takes long of it is for a thread.
    """

    def __init__(
        self, root: Path, in_force: InForce, metrics: Metrics, *,
        prepare: Callable[[Champion], Awaitable[ServingState]], every_s: float,
    ) -> None:  # fmt: skip
        self._root = root
        self._in_force = in_force
        self._metrics = metrics
        self._prepare = prepare
        self._every_s = every_s
        self._seen: tuple[int, int, int] | None = None  # so that what was published since the start is looked at

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            stamp = pointer_stamp(self._root)
            if stamp != self._seen:
                self._seen = stamp
                await self.reload()

    async def reload(self) -> None:
        """Take up what is published now, if it is another than what serves."""
        try:
            named = named_champions(self._root)
            if not named or self._serves(named[0]):
                return
            state = await self._verified(named[0])
        except BundleError as error:
            self._refuse(str(error))
        except Exception as error:
            log.exception("a new champion could not be taken up")
            self._refuse(f"{type(error).__name__}: {error}")
        else:
            self._in_force.state = state
            self._metrics.reloads["loaded"].add()
            log.warning("model %s serves now", named[0].version)

    def _serves(self, named: Named) -> bool:
        champion = self._in_force.state.champion
        return champion is not None and (champion.version, champion.bundle.identity) == (named.version, named.identity)

    async def _verified(self, named: Named) -> ServingState:
        """The state of a champion that a child process and this one have verified. Raises BundleError."""
        command = [sys.executable, "-m", "serving.verify", str(self._root / named.identity), named.identity]
        # not asyncio's own: it forks, and a process of this size takes long to copy
        child = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        with suppress(OSError):  # it may have ended
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICE)
        try:
            _, said = await asyncio.to_thread(child.communicate, timeout=VERIFIED_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise BundleError(f"model {named.version}: not verified within {VERIFIED_WITHIN_S:g} s") from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            lines = said.strip().splitlines()
            raise BundleError(lines[-1] if lines else f"model {named.version}: its verification ended with {child.returncode}")

        state = await self._prepare(await asyncio.to_thread(named.load, self._root))
        if state.refusal:
            raise BundleError(state.refusal)
        return state

    def _refuse(self, why: str) -> None:
        self._metrics.reloads["refused"].add()
        champion = self._in_force.state.champion
        log.error("a new champion is refused, %s stays: %s", f"model {champion.version}" if champion else "no model", why)

