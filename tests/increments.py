"""A log that comes in pieces: its rows, and what the tables below ingest hold."""

import argparse
import random
from typing import Any

from pyspark.sql import functions as F

from jobs.build_training_set import build_training_set
from jobs.command import Context
from jobs.count import count
from jobs.label import label
from tests.logs import click, impression

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BELOW = (label, count, build_training_set)


def arguments(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"as_of": None, "full": False} | values)


def contents(context: Context) -> dict[str, Any]:
    """Each table below ingest: rows, and the sum of their hashes."""
    names = [*context.warehouse.tables.made_by]
    found = {}
    for table in names[names.index("labels") :]:
        rows = context.warehouse.read(table)
        whole = F.xxhash64(*rows.columns).cast("decimal(38,0)").alias("row")
        found[table] = tuple(rows.select(whole).agg(F.count("*"), F.sum("row")).collect()[0])
    return found


def days_of_log(days: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Impressions and clicks of a few users over `days`; some known hours late, some clicks past the window."""
    rng = random.Random(seed)
    shown, clicked = [], []
    for number in range(days * 40):
        at = rng.randrange(days * DAY_MS)
        known = at + rng.choice([0, 500, HOUR_MS, 20 * HOUR_MS])
        who, ad = f"u{rng.randrange(4)}", f"a{rng.randrange(3)}"
        shown.append(impression(number, at, received_at=known, user_id=who, ad_id=ad))
        if rng.random() < 0.4:
            later = at + rng.choice([1, 60_000, HOUR_MS, 3 * HOUR_MS])
            clicked.append(click(number, later, later + rng.choice([0, HOUR_MS, 5 * HOUR_MS])))
            if rng.random() < 0.3:
                clicked.append(click(number, later + 2, later + rng.choice([2, HOUR_MS])))
    return shown, clicked
