"""Small raw logs for tests, written as a publisher would deliver them."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from conf.contract import Contract


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON lines, gzip where the name ends so; a row that is text already stands as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


BASE_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z: what small times in tests are counted from


def _at(time: Any) -> Any:
    return BASE_MS + time if isinstance(time, int) and 0 <= time < 10**9 else time


def impression(number: int | str, at_ms: int, **values: Any) -> dict[str, Any]:
    """An impression of the demo contract, known a second after it was served."""
    at_ms = _at(at_ms)
    row = {
        "impression_id": f"i{number}",
        "served_at": at_ms,
        "received_at": at_ms + 1000,
        "user_id": "u1",
        "placement_id": "home",
        "device": "phone",
        "age": 30,
        "ad_id": "a1",
        "campaign_id": "c1",
    }
    return row | {name: _at(value) if name.endswith("_at") else value for name, value in values.items()}


def click(number: int | str, at_ms: int, known_ms: int | None = None) -> dict[str, Any]:
    """A click on impression `number`, known at once unless told."""
    at_ms, known_ms = _at(at_ms), _at(known_ms)
    return {"impression_id": f"i{number}", "clicked_at": at_ms, "received_at": at_ms if known_ms is None else known_ms}


def deliver(folder: Path, impressions: Iterable[Mapping[str, Any] | str], clicks: Iterable[Mapping[str, Any] | str]) -> Path:
    """A data folder of the demo contract with one file of each log."""
    write_lines(folder / "impressions-0.json.gz", impressions)
    write_lines(folder / "clicks-0.json", clicks)
    return folder


def changed(contract: Contract, **update: Any) -> Contract:
    """The contract with some of its parts replaced, validated anew."""
    return Contract.model_validate(contract.model_dump(by_alias=True, exclude_defaults=True) | update)


def as_yaml(contract: Contract) -> str:
    """The text of a contract file, in the contract's own order, which is the order of the model's inputs."""
    return yaml.safe_dump(contract.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=False)
