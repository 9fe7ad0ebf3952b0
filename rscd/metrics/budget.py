"""The least score that keeps false alarms within a budget, with a guarantee.

*Fraction of false alarms* among the polygons kept: it need not fall as the least score rises, so
bounds for monotone risks do not apply. The scores of a grid that was fixed beforehand are tested
from the strictest to the loosest ("Learn then Test", Angelopoulos et al. 2021, arXiv 2110.01052).
The hypothesis "more than the budget is false at this score" has the exact p-value of a binomial
tail, as of the polygons at or above a fixed score each is false with the same probability. The
level is shared by `STARTS` and carried on from a rejected hypothesis to the next (the fallback
procedure of Wiens and Dmitrienko 2005), which keeps the probability of any wrong rejection below
1 - confidence however the tests depend on each other.

*False alarms per square kilometre* fall as the least score rises: the upper limit of a Poisson rate
at one score after another, up to the first above the budget, is enough (Bates et al. 2021,
"Distribution-free, risk-controlling prediction sets").

MAPIE has the first with p-values of Hoeffding and Bentkus for estimators of scikit-learn, a further
dependency; the exact tail is stronger where a loss is 0 or 1, and takes the lines below.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, chi2

from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, Float64Array

CONFIDENCE = 0.9
"""How often the budget is kept, over repeated reviews."""

GRID: Float64Array = np.arange(100, -1, -1) / 100
"""Least scores that are tested, in this order."""

STARTS = (0.8, 0.6, 0.4, 0.2, 0.0)
"""Scores that have a part of the level of their own, as fractions of the way from floor to 1."""


_SLACK = 1e-9
"""Hundredths are no binary fractions."""


@dataclass(frozen=True)
class Budget:
    """How many false alarms are allowed; one of both."""

    text: str
    """As it was given."""
    fraction: float | None = None
    """Of the polygons that are kept."""
    per_km2: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """``10%`` or ``5/km2``.

        Raises:
            UsageError: for anything else.
        """
        number, unit = text.strip(), ""
        for end in ("%", "/km2"):
            if number.endswith(end):
                number, unit = number.removesuffix(end), end
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if unit == "%" and 0 < value < 100:
            return cls(text, fraction=value / 100)
        if unit == "/km2" and 0 < value < math.inf:
            return cls(text, per_km2=value)
        raise UsageError(
            f"expected --max-false-alarms as 10% (of the polygons) or 5/km2, found {text!r}"
        )


@dataclass(frozen=True)
class LeastScore:
    """A least score that keeps the budget."""

    score: float
    kept: int
    """Reviewed polygons at or above it."""
    false: int
    """False alarms among these."""


def for_fraction(
    scores: Float64Array,
    false: BoolArray,
    budget: float,
    confidence: float = CONFIDENCE,
    floor: float = 0.0,
) -> LeastScore | None:
    """The least score at which at most a fraction of the polygons kept is false.

    With probability ``confidence`` or more, over random reviews, the fraction of false alarms among
    all such polygons at or above the score is no larger than the budget.

    Args:
        scores: (N,) of reviewed polygons, chosen at random among all from ``floor`` on.
        false: (N,) which are false alarms.
        budget: largest fraction, above 0 and below 1.
        confidence: above 0 and below 1.
        floor: the score below which no polygon was there to review.

    Returns:
        None where no score can be shown to keep the budget.
    """
    kept, wrong = _counts(scores, false)
    p_values = binom.cdf(wrong, kept, budget)
    starts = np.searchsorted(-GRID, [-(floor + way * (1 - floor)) - _SLACK for way in STARTS])
    own = np.bincount(np.minimum(starts, _last(floor)), minlength=len(GRID))
    level, found = 0.0, None
    for index in range(_last(floor) + 1):
        level += own[index] * (1 - confidence) / len(STARTS)
        if level and kept[index] and p_values[index] <= level:
            found = index
        else:
            level = 0.0
    return None if found is None else _at(found, kept, wrong)


def for_density(
    scores: Float64Array,
    false: BoolArray,
    budget: float,
    area_km2: float,
    confidence: float = CONFIDENCE,
    floor: float = 0.0,
) -> LeastScore | None:
    """The least score at which there are at most so many false alarms per square kilometre.

    With probability ``confidence`` or more their expected number is no larger than the budget,
    where false alarms lie independently of each other.

    Args:
        scores: as for `for_fraction`.
        false: likewise.
        budget: false alarms per square kilometre, above 0.
        area_km2: ground that was searched, times the fraction of its polygons that was reviewed.
        confidence: above 0 and below 1.
        floor: the score below which no polygon was there to review.
    """
    kept, wrong = _counts(scores, false)
    most = chi2.ppf(confidence, 2 * (wrong + 1)) / 2 / area_km2  # Garwood 1936
    within = most[: _last(floor) + 1] <= budget
    passed = int(np.argmin(within)) if not within.all() else len(within)
    return None if passed == 0 else _at(passed - 1, kept, wrong)


def reviews_needed(budget: float, confidence: float = CONFIDENCE, rate: float = 0.0) -> int | None:
    """How many polygons at or above one score show that the budget is kept.

    Args:
        budget: largest fraction of false alarms.
        confidence: as for `for_fraction`.
        rate: fraction of false alarms that is found.

    Returns:
        None where the rate is not below the budget.
    """
    if rate >= budget:
        return None
    level = (1 - confidence) / len(STARTS)
    tried = np.unique(np.geomspace(1, 1e6, 4000).astype(int)) if rate else np.arange(1, 10_000)
    enough = binom.cdf(np.ceil(rate * tried), tried, budget) <= level
    return int(tried[np.argmax(enough)]) if enough.any() else None


def area_needed_km2(budget: float, confidence: float = CONFIDENCE) -> float:
    """Ground without a single false alarm that shows a budget per square kilometre."""
    return -math.log(1 - confidence) / budget


def best_rate(scores: Float64Array, false: BoolArray, least: int) -> tuple[float, float] | None:
    """The score of the grid with the lowest fraction of false alarms, and that fraction.

    Args:
        scores: as for `for_fraction`.
        false: likewise.
        least: polygons that must be kept.
    """
    kept, wrong = _counts(scores, false)
    enough = np.flatnonzero(kept >= max(least, 1))
    if not len(enough):
        return None
    best = enough[np.argmin(wrong[enough] / kept[enough])]
    return float(GRID[best]), float(wrong[best] / kept[best])


def _last(floor: float) -> int:
    """Position in the grid of the least score that is not below the floor."""
    return int(np.count_nonzero(floor - _SLACK <= GRID)) - 1


def _counts(scores: Float64Array, false: BoolArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(G,) polygons and false alarms at or above each score of the grid."""
    kept, wrong = (
        len(own) - np.searchsorted(np.sort(own), GRID - _SLACK) for own in (scores, scores[false])
    )
    return kept, wrong


def _at(index: int, kept: NDArray[np.int64], wrong: NDArray[np.int64]) -> LeastScore:
    return LeastScore(float(GRID[index]), int(kept[index]), int(wrong[index]))
