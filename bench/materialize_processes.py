"""The processes of bench/materialize.py: an engine, the table's writer, Redis' own pace; each with the product's environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import peak_mib
from conf.environment import environment
from conf.settings import ROOT, load_settings

PACED, HOURLY = "paced", "hourly"
GIVING_WAY = ("chrt", "--idle", "0")  # processors only while nobody else wants them


@contextmanager
def started(engine: str, folder: Path, address: str, what: str, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """`python -m bench.materialize_engines`; killed where the block is left before it ended."""
    command = [sys.executable, "-m", "bench.materialize_engines", engine, str(folder), address, what]
    command = [*GIVING_WAY, *command] if engine == PACED else command  # as beside a server it should
    env = os.environ | environment(load_settings()) | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL} | pipes
    with subprocess.Popen(command, env=env, cwd=ROOT, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def said_by(engine: str, folder: Path, address: str, what: str) -> tuple[dict[str, Any], float]:
    """What it said last, and the peak memory of its processes in MiB; ends the program where it fails."""
    with started(engine, folder, address, what, stderr=subprocess.PIPE) as process, peak_mib(process.pid) as peak:
        out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{engine}: exit code {process.returncode}\n{out[-1_000:]}\n{err[-3_000:]}")
    return json.loads(out.splitlines()[-1]) if out.strip() else {}, peak[0]
