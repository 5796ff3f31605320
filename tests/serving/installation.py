"""A server as its users start it: a process on an installation of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2

from conf.contract import Contract
from conf.settings import ROOT
from models.bundle import save_bundle
from models.published import publish
from tests.serving.both_routes import exact_bundle
from tests.serving.parts import COMPILED, KEY, make_bundle


@dataclass
class Installation:
    """A state folder with an id key, and how to start a server on it."""

    state: Path
    redis: str
    settings: dict[str, str] = field(default_factory=dict)  # CLICKODDS_SERVING__NAME, by name

    @classmethod
    def make(cls, state: Path, redis: str, settings: dict[str, str] | None = None) -> Self:
        """A new one, with the tests' id key."""
        state.mkdir(exist_ok=True)
        (state / "id.key").write_text(KEY.hex())
        COMPILED.mkdir(parents=True, exist_ok=True)
        (state / "kernels").symlink_to(COMPILED)
        patient = {"redis_deadline_ms": "500", "queue_age_ms": "30000"}  # the machine may be busy
        return cls(state, redis, patient | (settings or {}))

    def environment(self) -> dict[str, str]:
        own = {"CLICKODDS_STATE": str(self.state), "CLICKODDS_REDIS": self.redis, "PYTHONPATH": str(ROOT)}
        own |= {f"CLICKODDS_SERVING__{name.upper()}": value for name, value in self.settings.items()}
        return {k: v for k, v in os.environ.items() if not k.startswith("CLICKODDS_")} | own

    def publish(self, contract: Contract, version: str = "7", **changes: Any) -> Path:
        """Make and publish a bundle as training does, so that the kernels answer; returns the published folder."""
        exact = exact_bundle(contract)
        bundle = make_bundle(contract, **({"trees": exact.trees, "ridge": exact.ridge} | changes))
        save_bundle(bundle, self.state / "made", {})
        publish(self.state / "bundles" / contract.name, self.state / "made", version)
        shutil.rmtree(self.state / "made")
        return self.state / "bundles" / contract.name / bundle.identity

    @contextmanager
    def started(
        self, *arguments: str, program: tuple[str, ...] = ("-m", "serving"), code: int = 0
    ) -> Iterator["Running"]:
        """A running server, and what it said when it was there; ended by Ctrl-C unless it has ended, with this code."""
        command = [sys.executable, *program, "--port", "0", *arguments]
        with (self.state / "stderr").open("a") as stderr:
            server = subprocess.Popen(
                command, env=self.environment(), cwd="/", stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
            )
        assert server.stdout is not None
        try:
            said = server.stdout.readline()
            address = re.search(r"http://[\d.]+:(\d+)", said)
            assert address, f"no address in {said!r}: {self.log()}"
            yield Running(server, address[0], int(address[1]), said)
            if server.poll() is None:
                server.send_signal(signal.SIGINT)
            assert server.wait(30) == code, self.log()
            assert "the Booster answers" not in self.log()
        finally:
            server.kill()
            server.wait()
            server.stdout.close()

    @contextmanager
    def serving(self, *arguments: str, program: tuple[str, ...] = ("-m", "serving")) -> Iterator[tuple[httpx2.Client, str]]:
        """A client of a running server, and the line it said when it was there."""
        with (
            self.started(*arguments, program=program) as server,
            httpx2.Client(base_url=server.address, trust_env=False) as client,
        ):
            yield client, server.said

    def log(self) -> str:
        """What servers have said on stderr."""
        return (self.state / "stderr").read_text()


@dataclass(frozen=True)
class Running:
    """A server process that listens."""

    process: subprocess.Popen[str]
    address: str
    port: int
    said: str

    def workers(self) -> list[int]:
        """Processes that it has started and that live, oldest first."""
        command = ["ps", "-o", "pid=,stat=", "--ppid", str(self.process.pid)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = [line.split() for line in found.stdout.splitlines()]
        return [int(pid) for pid, state in rows if not state.startswith("Z")]
