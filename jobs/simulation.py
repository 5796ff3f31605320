"""A simulated click log: who saw what when, with which true probability, and what came of it.

Everything is a column expression of (seed, event number), so that 10^4 and 10^9 events are the same code and any machine draws
the same log. Names come from the contract; the internal columns `rank_<column>` hold which of a column's values was drawn.
Only arithmetic and Spark's StrictMath functions are used: sine and cosine may differ between Java versions, a parabola does not.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Column, Contract, SimulatedColumn
from conf.errors import DataError

Transform = Callable[[DataFrame], DataFrame]

DAY_US = 86_400_000_000
TARGET_CTR = 0.05
INTERACTION = 0.2  # standard deviation of the log odds of each cross of columns that is a key
DRIFT = 0.3  # log odds gained from the first to the last day
DAILY = 0.15  # log odds between the day's mean and its best hour
CYCLE = 0.65  # how uneven the day is: (1 + CYCLE) / (1 - CYCLE) = 4.7 times the events at 18 h than at 6 h
CYCLE_PHASE = 0.0899  # of a day; puts the quietest moment at 6 h UTC
KNOWN_DELAY_US = 2_000_000  # mean time from an event to its arrival
REDELIVERY_DELAY_US = 600_000_000  # mean time from a first to a second delivery
LATE_MARGIN_US = 60_000_000  # a late click is late by more than any rounding of its times
DELAYS_A_WINDOW = 40  # an exponential draw never exceeds 37 means (52 bits), so a click meant in time is in time


@dataclass(frozen=True)
class Faults:
    """A fault run (jobs/simulation_faults.py): most deliveries of an event, a share of clicks, minutes between clocks."""

    copies: int = 3
    known_late: float = 0.01  # of clicks: in the window, known only after the lateness
    skew: int = 5


@dataclass(frozen=True)
class Plan:
    """What to simulate. Shares in [0, 1]; `latent` is a standard deviation of log odds that no column explains."""

    impressions: int = 200_000
    days: int = 14
    start: date = date(2026, 1, 5)
    seed: int = 1
    duplicates: float = 0.01
    late: float = 0.02
    corrupt: float = 0.005
    latent: float = 0.3
    faults: Faults | None = None

    @property
    def start_us(self) -> int:
        return int(datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()) * 1_000_000

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = {name: value.isoformat() if isinstance(value, date) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}


def uniform(plan: Plan, purpose: str, *by: Expression) -> Expression:
    """A draw in (0, 1) for each value of `by`, another one for each purpose."""
    return (F.shiftrightunsigned(hash_of(plan, purpose, *by), 12) + F.lit(0.5)) * F.lit(2.0**-52)


def normal(plan: Plan, purpose: str, *by: Expression) -> Expression:
    """A nearly normal draw, mean 0, variance 1, within 3.5: the sum of a hash's four 16-bit parts (Irwin-Hall)."""
    bits = hash_of(plan, purpose, *by)
    parts = [F.shiftrightunsigned(bits, shift).bitwiseAND(F.lit(0xFFFF)) for shift in (0, 16, 32, 48)]
    return (parts[0] + parts[1] + parts[2] + parts[3] - F.lit(2 * 0xFFFF)) * F.lit(1 / math.sqrt((2.0**32 - 1) / 3))


def exponential_us(plan: Plan, purpose: str, *by: Expression, mean_us: float) -> Expression:
    """Whole microseconds, exponential with the mean given; at most 37 means."""
    return (-F.log(uniform(plan, purpose, *by)) * F.lit(float(mean_us))).cast("long")


def with_times(plan: Plan) -> Transform:
    """Add `event_us` and `known_us`: events in the order of their number, more in the evening than at night."""

    def transform(events: DataFrame) -> DataFrame:
        at = (F.col("id") + uniform(plan, "event", F.col("id"))) * F.lit(plan.days / plan.impressions)
        events = events.withColumn("at", at).withColumn("day", F.floor("at"))
        events = events.withColumn("turn", F.col("at") - F.col("day") + F.lit(CYCLE_PHASE))
        slowed = _wave_integral(_fraction(F.col("turn"))) - F.lit(_PHASE_INTEGRAL)
        bent = F.col("turn") - F.lit(CYCLE_PHASE) + F.lit(CYCLE) * slowed
        # rounding must not push the day's last event into the next day
        within = F.least((bent * F.lit(float(DAY_US))).cast("long"), F.lit(DAY_US - 1))
        events = events.withColumn("event_us", F.lit(plan.start_us) + F.col("day") * F.lit(DAY_US) + F.greatest(within, F.lit(0)))
        known = F.col("event_us") + exponential_us(plan, "known", F.col("id"), mean_us=KNOWN_DELAY_US)
        return events.withColumn("known_us", known).drop("at", "day", "turn")

    return transform


def with_ranks(contract: Contract, plan: Plan) -> Transform:
    """Add `rank_<column>` for each of the contract's columns: 1 is its most frequent value, 0 a missing one."""

    def transform(events: DataFrame) -> DataFrame:
        for name in _parents_first(contract):
            drawn = simulated(contract, name)
            by = F.col("id") if drawn.parent is None else F.col(f"rank_{drawn.parent}")
            rank = _zipf(uniform(plan, f"draw {name}", by), drawn)
            if drawn.missing:
                rank = F.when(uniform(plan, f"missing {name}", by) < F.lit(drawn.missing), F.lit(0)).otherwise(rank)
            events = events.withColumn(f"rank_{name}", rank.cast("long"))
        return events

    return transform


def with_log_odds(contract: Contract, plan: Plan) -> Transform:
    """Add `log_odds`: effects of every column and cross, of hour and day, and the latent part; its level is not settled yet."""

    def transform(events: DataFrame) -> DataFrame:
        elapsed_days = (F.col("event_us") - F.lit(plan.start_us)) / F.lit(float(DAY_US))
        terms = [_effect(contract, plan, name) for name in contract.columns]
        for name, key in contract.keys.items():
            if len(key) > 1:
                terms.append(normal(plan, f"effect {name}", *(F.col(f"rank_{c}") for c in key)) * F.lit(INTERACTION))
        terms.append((elapsed_days / F.lit(plan.days) - F.lit(0.5)) * F.lit(DRIFT))
        terms.append(_wave(_fraction(elapsed_days + F.lit(0.5))) * F.lit(DAILY))  # best at 18 h
        terms.append(normal(plan, "latent", F.col("id")) * F.lit(plan.latent))
        total = F.lit(0.0)
        for term in terms:
            total = total + term
        return events.withColumn("log_odds", total)

    return transform


def with_clicks(contract: Contract, plan: Plan, *, base: float) -> Transform:
    """Add `probability` that a click comes in time, and `click_us`, `click_known_us`, null where nobody clicked.

    Also `clicked` (in time, as a label counts it) and `late` (too late for that). A late click happened after the attribution
    window, or, where the log says when clicks became known, reached us only after the allowed lateness.
    """
    window_us, lateness_us = microseconds(contract.label.attribution_window), microseconds(contract.label.allowed_lateness)

    def transform(events: DataFrame) -> DataFrame:
        event, number = F.col("event_us"), F.col("id")
        clicks_at_all = F.lit(1.0) / (F.lit(1.0) + F.exp(-(F.col("log_odds") + F.lit(base))))
        events = events.withColumn("clicks_at_all", clicks_at_all)
        has_clicked = uniform(plan, "click", number) < F.col("clicks_at_all")
        is_late = uniform(plan, "late", number) < F.lit(plan.late)
        by_arrival = F.lit(contract.clicks.known_time.column is not None) & (uniform(plan, "late how", number) < F.lit(0.5))
        delay = exponential_us(plan, "click delay", number, mean_us=window_us / DELAYS_A_WINDOW)
        too_late = F.lit(window_us + lateness_us + LATE_MARGIN_US)
        click = event + delay + F.when(is_late & ~by_arrival, too_late).otherwise(F.lit(0))
        arrival = exponential_us(plan, "click known", number, mean_us=KNOWN_DELAY_US)
        known = F.when(is_late & by_arrival, event + too_late).otherwise(F.col("click_us")) + arrival
        return (
            events.withColumn("click_us", F.when(has_clicked, click))
            .withColumn("click_known_us", F.when(F.col("click_us").isNotNull(), known))
            .withColumn("late", F.col("click_us").isNotNull() & is_late)
            .withColumn("clicked", F.col("click_us").isNotNull() & ~is_late)
            .withColumn("probability", F.col("clicks_at_all") * F.lit(1 - plan.late))
            .drop("clicks_at_all", "log_odds")
        )

    return transform


def base_log_odds(histogram: Mapping[int, int], *, bins_a_unit: int, ctr: float = TARGET_CTR) -> float:
    """The level that makes the mean probability `ctr`, to three decimals; histogram: floor(log odds * bins_a_unit) -> events."""
    total = sum(histogram.values())
    centres = [((bin_ + 0.5) / bins_a_unit, count / total) for bin_, count in sorted(histogram.items())]
    low, high = -40.0, 40.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        mean = sum(share / (1 + math.exp(-(centre + middle))) for centre, share in centres)
        low, high = (middle, high) if mean < ctr else (low, middle)
    return round(low, 3)


def simulated(contract: Contract, name: str) -> SimulatedColumn:
    """How a column is drawn; the defaults where the contract's `simulate:` does not name it."""
    return contract.simulate.get(name, SimulatedColumn())


def lowest(column: Column, drawn: SimulatedColumn) -> float:
    """The number that rank 1 stands for."""
    if column.min is not None:
        return column.min
    return 1.0 if column.max is None else column.max - drawn.values + 1


def _effect(contract: Contract, plan: Plan, name: str) -> Expression:
    drawn, rank = simulated(contract, name), F.col(f"rank_{name}")
    if contract.columns[name].type != "number":
        return normal(plan, f"effect {name}", rank) * F.lit(drawn.effect)
    slope = math.sqrt(3) * drawn.effect * (1 if _salt(plan, f"effect {name}") % 2 else -1)
    spread = (rank - F.lit(0.5)) / F.lit(float(drawn.values)) * F.lit(2.0) - F.lit(1.0)
    return F.when(rank > F.lit(0), spread * F.lit(slope)).otherwise(F.lit(0.0))


def _zipf(u: Expression, drawn: SimulatedColumn) -> Expression:
    """The inverse of a continuous power law on [1, values + 1), rounded down."""
    size, slope = float(drawn.values + 1), 1 - drawn.zipf
    if abs(slope) < 1e-9:
        drawn_at = F.pow(F.lit(size), u)
    else:
        drawn_at = F.pow(F.lit(1.0) + u * F.lit(size**slope - 1), F.lit(1 / slope))
    return F.greatest(F.lit(1), F.least(F.floor(drawn_at).cast("long"), F.lit(drawn.values)))


def _parents_first(contract: Contract) -> list[str]:
    ordered: list[str] = []

    def visit(name: str, below: tuple[str, ...]) -> None:
        if name in below:
            circle = " -> ".join((*below, name))
            raise DataError(f"simulate.{name}: is a parent of itself ({circle}), expected columns without a circle")
        parent = simulated(contract, name).parent
        if parent is not None and parent not in contract.columns:
            raise DataError(f'simulate.{name}: its parent "{parent}" is not in columns')
        if parent is not None:
            visit(parent, (*below, name))
        if name not in ordered:
            ordered.append(name)

    for name in contract.columns:
        visit(name, ())
    return ordered


def _fraction(x: Expression) -> Expression:
    return x - F.floor(x)


def _wave(x: Expression) -> Expression:
    """Like a sine of one turn, x in [0, 1): 1 at 1/4, -1 at 3/4, in parabolas."""
    rising = F.lit(16.0) * x * (F.lit(0.5) - x)
    return F.when(x < F.lit(0.5), rising).otherwise(F.lit(-16.0) * (x - F.lit(0.5)) * (F.lit(1.0) - x))


def _wave_integral(x: Expression) -> Expression:
    """The integral of `_wave` from 0; the second half mirrors the first."""
    y = F.least(x, F.lit(1.0) - x)
    return F.lit(4.0) * y * y - F.lit(16 / 3) * y * y * y


_PHASE_INTEGRAL = 4 * CYCLE_PHASE**2 - 16 / 3 * CYCLE_PHASE**3


def hash_of(plan: Plan, purpose: str, *by: Expression) -> Expression:
    return F.xxhash64(F.lit(_salt(plan, purpose)), *by)


def _salt(plan: Plan, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{plan.seed}:{purpose}".encode()).digest()[:8], signed=True)


def microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
