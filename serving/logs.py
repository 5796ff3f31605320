"""What the server says of itself, on stderr: lines for a person, or an object a line for a machine that gathers them."""

import json
import logging
import sys
import time
from datetime import UTC, datetime

_PLAIN = "%(asctime)s %(message)s"
_SELDOM_S = 60.0


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message; request_id where there is one; trace where something broke."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if request_id := getattr(record, "request_id", None):
            said["request_id"] = request_id
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class Seldom:
    """A warning that every request may have cause to give: the first in a minute is written, metrics count them all."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._next_s = logger, 0.0

    def warning(self, message: str, *args: object) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + _SELDOM_S
            self._logger.warning(message, *args)


def say_on_stderr(*, json_lines: bool) -> None:
    """Warnings and errors of everything in this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter(_PLAIN, datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
