"""Areas and accuracies from a stratified random sample, with their standard errors.

The estimators are those of Stehman (2014), "Estimating area and map accuracy for stratified random
sampling when the strata are different from the map classes", International Journal of Remote
Sensing 35: totals and ratios of two indicators of a unit. Where the strata are the classes of the
map they are those of Olofsson et al. (2014), "Good practices for estimating area and assessing
accuracy of land change", Remote Sensing of Environment 148, but for the finite population
correction, which Olofsson leaves out.

Both count units of one size. Pixels of a grid in degrees have different areas; here each unit
counts with its own. With units of one size the formulas are the published ones.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from rscd.base.types import Float64Array

CONFIDENCE = 0.95
"""Of intervals, where nothing else is asked for."""


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error."""

    value: float
    """NaN where it is 0/0."""
    standard_error: float
    least: float = 0.0
    """The least possible value; intervals end there."""
    most: float = math.inf

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Both ends of the interval, by the normal distribution.

        Args:
            confidence: how often such intervals contain the truth, above 0 and below 1.
        """
        half = float(norm.ppf((1 + confidence) / 2)) * self.standard_error
        return max(self.least, self.value - half), min(self.most, self.value + half)


@dataclass(frozen=True, eq=False)
class StratifiedSample:
    """Units drawn at random and without replacement in each of H strata."""

    stratum: NDArray[np.intp]
    """(n,) from 0 to H - 1, of each drawn unit."""
    sizes: NDArray[np.int64]
    """(H,) units in each stratum, drawn or not."""
    areas: Float64Array
    """(H,) area of each stratum."""
    unit_areas: Float64Array
    """(n,) area of each drawn unit, in the same unit."""

    def __post_init__(self) -> None:
        drawn = self.drawn
        few = (drawn < 2) & (drawn < self.sizes)
        if few.any() or (drawn > self.sizes).any():
            raise ValueError(
                f"expected at least 2 units and at most all in each stratum, found "
                f"{drawn.tolist()} of {self.sizes.tolist()}"
            )

    @property
    def drawn(self) -> NDArray[np.int64]:
        """(H,) number of drawn units."""
        return np.bincount(self.stratum, minlength=len(self.sizes)).astype(np.int64)

    def total(self, y: NDArray[Any]) -> Estimate:
        """Area of the units with an attribute (Stehman 2014, the estimator of a mean times N).

        Args:
            y: (n,) 1 or True where a drawn unit has it.
        """
        values = np.asarray(y, np.float64)
        found = float(self._stands_for @ values)
        return Estimate(found, math.sqrt(self._variance(values)), most=float(self.areas.sum()))

    def ratio(self, y: NDArray[Any], x: NDArray[Any]) -> Estimate:
        """Area of the units with one attribute over that with another.

        Args:
            y: (n,) the first.
            x: (n,) the second; accuracies have ``y`` within ``x``.
        """
        above, below = np.asarray(y, np.float64), np.asarray(x, np.float64)
        whole = float(self._stands_for @ below)
        if whole == 0:
            return Estimate(math.nan, math.nan, most=1.0)
        share = float(self._stands_for @ above) / whole
        variance = self._variance(above - share * below) / whole**2
        return Estimate(share, math.sqrt(variance), most=1.0)

    @property
    def _stands_for(self) -> Float64Array:
        """(n,) the area of the stratum that each drawn unit stands for; they add up to it."""
        seen = np.bincount(self.stratum, self.unit_areas, len(self.sizes))
        return self.unit_areas * (self.areas / np.where(seen > 0, seen, 1.0))[self.stratum]

    def _variance(self, values: Float64Array) -> float:
        """Of the estimated total of some values, by linearisation where units differ in area."""
        total = 0.0
        for index, size in enumerate(self.sizes.tolist()):
            mine = self.stratum == index
            n = int(np.count_nonzero(mine))
            if n < 2:
                continue
            weight = self.unit_areas[mine] / self.unit_areas[mine].mean()
            residual = weight * (values[mine] - np.average(values[mine], weights=weight))
            spread = float(residual @ residual) / (n - 1)
            total += float(self.areas[index]) ** 2 * (1 - n / size) * spread / n
        return total


def share_of(hits: int, tried: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a fraction from a simple random sample (Clopper and Pearson 1934).

    It contains the truth at least as often as it says, also for 0 or all hits.

    Args:
        hits: those with the attribute.
        tried: all, at least 1.
        confidence: above 0 and below 1.
    """
    found = binomtest(hits, tried).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def unseen_share(tried: int, confidence: float = CONFIDENCE) -> float:
    """The fraction that may have an attribute which none of a simple random sample has.

    Args:
        tried: size of the sample, at least 1.
        confidence: that it is no more than this.
    """
    return float(1 - (1 - confidence) ** (1 / tried))
