"""From a margin (log odds) to a probability: as it is, or through a calibrator that has earned its place on later rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from models.collective import total

Float64 = npt.NDArray[np.float64]

Kind = Literal["none", "shift", "platt", "beta", "isotonic"]

FARTHEST = 16.0  # log odds: a probability stays within 1e-7 and 1 - 1e-7
GAIN = 2.0  # nats of log likelihood that each parameter must win on rows it was not fitted to
SHIFT_GAIN = 0.5  # a shift is shrunk by its prior already: less can go wrong
# clicks on the rows that it is fitted to, before it is tried; isotonic counts as many parameters as it has steps
LEAST_CLICKS: dict[Kind, int] = {"shift": 200, "platt": 1_000, "beta": 3_000, "isotonic": 10_000}
PARAMETERS: dict[Kind, int] = {"none": 0, "shift": 1, "platt": 2, "beta": 3}
SHIFT_SPREAD = 0.1  # log odds: the standard deviation of shifts that are believed in beforehand; shrinks what few clicks say
_BINS = 4_096
_ITERATIONS = 50


@dataclass(frozen=True)
class Calibrator:
    """none: the margin m. shift: m + c. platt: a * m + c. beta: -a * log(1 + e^-m) + b * log(1 + e^m) + c (Kull et al. 2017).

    isotonic: through the points (at, to), straight lines between. All in log odds, rising, and clipped to FARTHEST.
    """

    kind: Kind = "none"
    parameters: tuple[float, ...] = ()
    at: tuple[float, ...] = ()
    to: tuple[float, ...] = ()

    def log_odds(self, margins: Float64) -> Float64:
        """Calibrated log odds, one per margin."""
        if self.kind == "isotonic":
            return np.asarray(np.interp(margins, *self._points), dtype=np.float64)
        if self.kind in ("none", "shift"):
            return np.asarray(np.clip(margins + (self.parameters[0] if self.parameters else 0.0), -FARTHEST, FARTHEST))
        made = _design(self.kind, margins) @ np.array(_weights(self.kind, self.parameters))
        return np.asarray(np.clip(made, -FARTHEST, FARTHEST), dtype=np.float64)

    @cached_property
    def _points(self) -> tuple[Float64, Float64]:
        return np.array(self.at), np.array(self.to)

    def probabilities(self, margins: Float64) -> Float64:
        """Click probabilities in (0, 1), float64, one per margin."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.log_odds(np.asarray(margins, dtype=np.float64)))))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**parts)


@dataclass(frozen=True)
class Scored:
    """A worker's rows of a later slice: margins of a model that has not seen them, labels, counts. Shapes (rows,).

    counts: how many training rows each one is. negatives: the share of the rows without a click that those are. The margins are
    of all rows; among those kept, log odds are higher by -log(negatives), and that is where likelihoods are taken: a row that
    stood for twenty would count as evidence twenty times (Prentice and Pyke 1979).
    """

    margins: Float64
    labels: npt.NDArray[np.int8]
    counts: Float64
    negatives: float = 1.0

    @classmethod
    def joined(cls, slices: Sequence[Self]) -> Self:
        """All rows of all slices, which have one share of negatives."""
        columns = zip(*((part.margins, part.labels, part.counts) for part in slices), strict=True)
        margins, labels, counts = (np.concatenate(column) for column in columns)
        return cls(margins, labels, counts, slices[0].negatives)

    @property
    def weights(self) -> Float64:
        """How many rows each one stands for, of all."""
        return np.where(self.labels == 1, self.counts, self.counts / self.negatives)

    @property
    def clicks(self) -> float:
        """Of all workers' rows."""
        return float(total(np.array([float(self.counts @ self.labels)]))[0])


def choose_calibrator(slices: Sequence[Scored], instead_of: Calibrator = Calibrator()) -> Calibrator:
    """The calibrator that gains most on the last slice, fitted on those before, then fitted on all; where none earns it, the one
    that there is.

    Run by all workers together, each with its rows of the slices, oldest first.
    """
    if len(slices) < 2:
        return instead_of
    before, last = Scored.joined(slices[:-1]), slices[-1]
    base = _loss(instead_of, last)
    best: Kind = "none"
    won = 0.0
    for kind, least in LEAST_CLICKS.items():
        if before.clicks >= least:
            fitted = fit_calibrator(kind, before)
            asked = SHIFT_GAIN if kind == "shift" else GAIN * (PARAMETERS.get(kind) or len(fitted.at))
            gain = base - _loss(fitted, last) - asked
            if gain > won:
                best, won = kind, gain
    return fit_calibrator(best, Scored.joined(slices)) if best != "none" else instead_of


def fit_calibrator(kind: Kind, rows: Scored) -> Calibrator:
    """The most likely calibrator of this kind for the rows of all workers; of a shift, with SHIFT_SPREAD as its prior."""
    if kind == "none":
        return Calibrator()
    if kind == "isotonic":
        return _isotonic(rows)
    design = _design(kind, rows.margins)
    sampled = np.log(rows.negatives)
    free = {"shift": [1], "platt": [0, 1], "beta": [0, 1, 2]}[kind]
    weights = np.array(_weights(kind, ()))
    penalty = 1 / SHIFT_SPREAD**2 if kind == "shift" else 1e-9
    start = weights.copy()
    for _ in range(_ITERATIONS):
        p = 1 / (1 + np.exp(sampled - design @ weights))
        gradient = design[:, free].T @ (rows.counts * (p - rows.labels))
        hessian = design[:, free].T @ (design[:, free] * (rows.counts * p * (1 - p))[:, None])
        summed = total(np.vstack([gradient, hessian]))
        step = np.linalg.solve(summed[1:] + penalty * np.eye(len(free)), summed[0] + penalty * (weights - start)[free])
        weights[free] -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-10:
            break
    slopes = weights[:-1]
    if (slopes < 0).any() or not slopes.any():  # it must rise
        return Calibrator()
    return Calibrator(kind, tuple(float(w) for w in weights[free]))


def _weights(kind: Kind, parameters: Sequence[float]) -> list[float]:
    """Of the columns of `_design`; without parameters those that leave the margin as it is."""
    match kind, len(parameters):
        case ("none", _):
            return [1.0, 0.0]
        case ("shift", 1):
            return [1.0, parameters[0]]
        case (_, 0):
            return [1.0, 1.0, 0.0] if kind == "beta" else [1.0, 0.0]
        case _:
            return list(parameters)


def _design(kind: Kind, margins: Float64) -> Float64:
    ones = np.ones_like(margins)
    if kind == "beta":  # m = log p - log(1 - p)
        return np.stack([-np.logaddexp(0.0, -margins), np.logaddexp(0.0, margins), ones], axis=1)
    return np.stack([margins, ones], axis=1)


def _isotonic(rows: Scored) -> Calibrator:
    """Pool adjacent violators over bins of the margin; a step of fewer than 50 clicks is pooled with the next one."""
    number = np.clip(((rows.margins + FARTHEST) * (_BINS / (2 * FARTHEST))).astype(np.int64), 0, _BINS - 1)
    values = (np.ones_like(rows.margins), rows.labels, rows.margins)
    sums = np.stack([np.bincount(number, rows.weights * value, _BINS) for value in values])
    blocks: list[list[float]] = []  # weight, clicks, weighted margins
    for of_bin in total(sums).T.tolist():
        if of_bin[0]:
            blocks.append(of_bin)
        while len(blocks) > 1 and (blocks[-2][1] / blocks[-2][0] >= blocks[-1][1] / blocks[-1][0] or blocks[-2][1] < 50):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    weight, clicked, margin = np.array(blocks).T
    rates = np.maximum.accumulate((clicked + 0.5) / (weight + 1.0))  # the halves keep it from 0 and 1
    to = np.clip(np.log(rates / (1 - rates)), -FARTHEST, FARTHEST)
    return Calibrator("isotonic", at=tuple((margin / weight).tolist()), to=tuple(to.tolist()))


def _loss(calibrator: Calibrator, rows: Scored) -> float:
    """Nats, all workers' rows."""
    margins = calibrator.log_odds(rows.margins) - np.log(rows.negatives)
    return float(total(np.array([np.sum(rows.counts * (np.logaddexp(0.0, margins) - rows.labels * margins))]))[0])
