"""Settings of a run: everything below its own folder, whatever the installation's own settings say."""

import os
import signal
from pathlib import Path
from types import FrameType

from conf.environment import environment
from conf.settings import Settings

# The compiler that warms up fast: a run of a minute or two ends before the optimizing one pays for itself (simulating 200,000
# impressions takes 30 s of CPU instead of 53).
_SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1"


def run_settings(settings: Settings, folder: Path, contract: Path, redis: str) -> Settings:
    """The installation's settings with tables, models and bundles in `folder`."""
    own = {"warehouse": str(folder / "warehouse"), "mlflow": f"sqlite:///{folder / 'mlflow.db'}"}
    return settings.model_copy(update={"state": folder, "contract": contract, "redis": redis, **own})


def child_environment(settings: Settings) -> dict[str, str]:
    """Variables of a child of this run."""
    own = {"CLICKODDS_WAREHOUSE": str(settings.warehouse), "CLICKODDS_MLFLOW": str(settings.mlflow)}
    return {"SPARK_SUBMIT_OPTS": _SHORT_LIVED_JVM, **os.environ, **environment(settings), **own}


def stop_politely() -> None:
    """Let SIGTERM unwind like Ctrl-C does, so that children are stopped then too."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    signal.signal(signal.SIGHUP, unwind)
