"""The least score keeps its budget as often as it says: simulations of 1,000 reviews."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid

from rscd.metrics.budget import (
    GRID,
    LeastScore,
    area_needed_km2,
    best_rate,
    for_density,
    for_fraction,
    reviews_needed,
)

REVIEWS = 1000
SIGMAS = 3 * np.sqrt(0.1 * 0.9 / REVIEWS)

# probability that a polygon of a score is false; scores are uniform from 0.3 to 1
Falsehood = Callable[[Any], Any]

FALLING: dict[str, Falsehood] = {
    "falling": lambda s: 0.5 * (1 - s),
    "steep": lambda s: 0.9 * np.exp(-8 * (s - 0.3)),
}
UNEVEN: dict[str, Falsehood] = {
    "constant just above": lambda s: np.full_like(s, 0.101),
    "rising at the top": lambda s: np.where(s > 0.9, 0.3, 0.02),
    "a bad band": lambda s: np.where((s > 0.55) & (s < 0.7), 0.6, 0.03),
}


def rate_from(p: Falsehood, t: float) -> float:
    """Fraction of false alarms at or above a score."""
    s = np.linspace(max(t, 0.3), 1, 4001)
    return float(np.trapezoid(p(s), s) / (s[-1] - s[0]))


def drawn(p: Falsehood, n: int, random: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    scores = random.uniform(0.3, 1, n)
    return scores, random.random(n) < p(scores)


@pytest.mark.parametrize(
    ("name", "n"), [*((name, 150) for name in FALLING | UNEVEN), ("falling", 40), ("steep", 400)]
)
def test_the_fraction_is_kept_as_often_as_promised(name: str, n: int) -> None:
    p = (FALLING | UNEVEN)[name]
    random = np.random.default_rng(7)
    rates = {round(float(t), 2): rate_from(p, t) for t in GRID if t < 1}
    broken = found = 0
    for _ in range(REVIEWS):
        chosen = for_fraction(*drawn(p, n, random), 0.1, 0.9, floor=0.3)
        if chosen is not None:
            found += 1
            broken += rates[round(chosen.score, 2)] > 0.1
    assert broken / REVIEWS <= 0.1 + SIGMAS
    if n == 400:
        assert found > 0.8 * REVIEWS


def score_of(found: LeastScore | None) -> float:
    assert found is not None
    return found.score


def test_more_reviews_allow_a_lower_score() -> None:
    p, random = FALLING["falling"], np.random.default_rng(0)
    ideal = next(t for t in GRID[::-1] if t >= 0.3 and rate_from(p, t) <= 0.1)
    few, many = (
        np.median([score_of(for_fraction(*drawn(p, n, random), 0.1, floor=0.3)) for _ in range(30)])
        for n in (2000, 20_000)
    )
    assert ideal <= many < few
    assert many < ideal + 0.06


@pytest.mark.parametrize("name", FALLING)
def test_the_density_is_kept_as_often_as_promised(name: str) -> None:
    p, random = FALLING[name], np.random.default_rng(3)
    per_km2, area, budget = 60, 4.0, 6.0
    s = np.linspace(0.3, 1, 7001)
    below = cumulative_trapezoid(p(s), s, initial=0) / 0.7
    density = {round(float(t), 2): per_km2 * (below[-1] - np.interp(t, s, below)) for t in GRID}
    broken = 0
    for _ in range(REVIEWS):
        reviewed = drawn(p, random.poisson(per_km2 * area), random)
        chosen = for_density(*reviewed, budget, area, 0.9, floor=0.3)
        assert chosen is not None
        broken += density[round(chosen.score, 2)] > budget
    assert 0.02 < broken / REVIEWS <= 0.1 + SIGMAS


reviews = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80)


@settings(max_examples=40)
@given(reviews, st.floats(0.02, 0.9))
def test_what_is_counted_is_what_is_kept(reviews: list[tuple[float, bool]], budget: float) -> None:
    scores, false = (np.array(column) for column in zip(*reviews, strict=True))
    for chosen in (for_fraction(scores, false, budget), for_density(scores, false, budget, 100)):
        if chosen is not None:
            kept = scores >= chosen.score - 1e-9
            assert (chosen.kept, chosen.false) == (kept.sum(), false[kept].sum())
    found = for_fraction(scores, false, budget)
    assert found is None or found.false / found.kept <= budget


def test_no_score_below_the_floor() -> None:
    scores, false = np.linspace(0.5, 1, 400), np.zeros(400, bool)
    assert score_of(for_fraction(scores, false, 0.1, floor=0.5)) == 0.5
    assert score_of(for_density(scores, false, 5, 100, floor=0.47)) == 0.47


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.3, 0.9999])
def test_as_many_reviews_as_are_said_to_be_needed_are_enough(budget: float) -> None:
    needed = reviews_needed(budget)
    assert needed is not None
    for n, enough in ((needed, True), (needed - 1, False)):
        found = for_fraction(np.full(n, 0.8), np.zeros(n, bool), budget)
        assert (found is not None) == enough
    assert reviews_needed(budget, rate=budget) is None
    more = reviews_needed(budget, rate=budget / 2)
    assert more is not None
    false = np.arange(more) < np.ceil(more * budget / 2)
    assert for_fraction(np.full(more, 0.8), false, budget) is not None


def test_as_much_ground_as_is_said_to_be_needed_is_enough() -> None:
    area = area_needed_km2(5)
    nothing = np.array([]), np.array([], bool)
    assert score_of(for_density(*nothing, 5, area * 1.001)) == 0
    assert for_density(*nothing, 5, area * 0.999) is None


def test_the_best_rate_of_what_was_reviewed() -> None:
    scores, false = np.array([0.9, 0.8, 0.6, 0.4]), np.array([True, False, False, True])
    assert best_rate(scores, false, 3) == pytest.approx((0.6, 1 / 3))
    assert best_rate(scores, false, 5) is None
