"""From a margin (log odds) to a probability. Today's calibrator is "none"; its place in the bundle is kept."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Calibrator:
    """kind "none": the margin as it is, plus `shift` in log odds: the correction for downsampled negatives, 0 where none were."""

    kind: Literal["none"] = "none"
    shift: float = 0.0

    def probabilities(self, margins: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Click probabilities in (0, 1), float64, one per margin."""
        return 1.0 / (1.0 + np.exp(-(margins.astype(np.float64) + self.shift)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**values)
