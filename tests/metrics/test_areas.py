"""Stratified estimates against the published example, all possible samples, and simulation."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.metrics.areas import Estimate, StratifiedSample, share_of, unseen_share

MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED_PX = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 30 * 30 / 10_000


def units(matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Stratum and true class of each unit of an error matrix (rows: strata)."""
    pairs = np.argwhere(np.ones_like(matrix)).repeat(matrix.ravel(), axis=0)
    return pairs[:, 0], pairs[:, 1]


def sample_of(
    stratum: NDArray[Any],
    sizes: NDArray[Any] | list[int],
    areas: NDArray[Any] | None = None,
    unit_areas: NDArray[Any] | None = None,
) -> StratifiedSample:
    sizes = np.asarray(sizes)
    return StratifiedSample(
        stratum,
        sizes,
        sizes.astype(float) if areas is None else areas,
        np.ones(len(stratum)) if unit_areas is None else unit_areas,
    )


def test_the_example_of_olofsson_2014() -> None:
    """Section 5: deforestation, forest gain, stable forest, stable non-forest."""
    stratum, true = units(MATRIX)
    sample = sample_of(stratum, MAPPED_PX)
    areas = [sample.total(true == k) for k in range(4)]
    assert areas[0].value == pytest.approx(235_086, abs=1)
    half = 1.96 * areas[0].standard_error
    assert half == pytest.approx(68_418, rel=5e-4)  # the paper has no finite population correction
    assert areas[0].value * HECTARES == pytest.approx(21_158, abs=1)
    assert half * HECTARES == pytest.approx(6_158, rel=5e-4)
    assert sum(own.value for own in areas) == pytest.approx(10_000_000)
    users = [sample.ratio((true == k) & (stratum == k), stratum == k) for k in range(4)]
    producers = [sample.ratio((true == k) & (stratum == k), true == k) for k in range(4)]
    assert [round(own.value, 2) for own in users] == [0.88, 0.73, 0.93, 0.96]
    assert [round(1.96 * own.standard_error, 2) for own in users] == [0.07, 0.10, 0.04, 0.02]
    assert [round(own.value, 2) for own in producers] == [0.75, 0.85, 0.93, 0.96]
    assert round(1.96 * producers[0].standard_error, 2) == 0.21
    overall = sample.ratio(stratum == true, np.ones(len(true)))
    assert (round(overall.value, 2), round(1.96 * overall.standard_error, 2)) == (0.95, 0.02)


def olofsson(matrix: NDArray[Any], sizes: NDArray[Any]) -> tuple[Any, ...]:
    """Area, user's and producer's accuracy of each class with their variances, as published."""
    n, weight = matrix.sum(1), sizes / sizes.sum()
    cells = weight[:, None] * matrix / n[:, None]
    area = cells.sum(0)
    area_var = ((weight[:, None] * cells - cells**2) / (n - 1)[:, None]).sum(0)
    users = np.diag(matrix) / n
    users_var = users * (1 - users) / (n - 1)
    whole = sizes.sum() * area
    with np.errstate(all="ignore"):
        producers = np.diag(cells) / area
        inside = sizes**2 * (1 - producers) ** 2 * users * (1 - users) / (n - 1)
        share = matrix / n[:, None]
        spread = (sizes**2)[:, None] * share * (1 - share) / (n - 1)[:, None]
        outside = spread.sum(0) - np.diag(spread)
        producers_var = (inside + producers**2 * outside) / whole**2
    overall = np.diag(cells).sum()
    overall_var = (weight**2 * users_var).sum()
    return area, area_var, users, users_var, producers, producers_var, overall, overall_var


matrices = st.integers(2, 4).flatmap(
    lambda k: st.tuples(
        st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k),
        st.lists(st.integers(10**9, 10**11), min_size=k, max_size=k),
    )
)


@settings(max_examples=30)
@given(matrices)
def test_strata_that_are_the_classes_give_the_formulas_of_olofsson(
    drawn: tuple[list[list[int]], list[int]],
) -> None:
    matrix, sizes = np.array(drawn[0]) + np.eye(len(drawn[1]), dtype=int) * 2, np.array(drawn[1])
    stratum, true = units(matrix)
    sample = sample_of(stratum, sizes)
    area, area_var, users, users_var, producers, producers_var, overall, overall_var = olofsson(
        matrix, sizes.astype(float)
    )
    whole, area_sd = sizes.sum(), np.sqrt(np.maximum(area_var, 0))
    for k in range(len(sizes)):
        own = sample.total(true == k)
        assert own.value == pytest.approx(whole * area[k])
        assert own.standard_error == pytest.approx(whole * area_sd[k], rel=1e-6, abs=1e-7 * whole)
        hit = (true == k) & (stratum == k)
        for found, value, variance in (
            (sample.ratio(hit, stratum == k), users[k], users_var[k]),
            (sample.ratio(hit, true == k), producers[k], producers_var[k]),
        ):
            assert found.value == pytest.approx(value)
            assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-6, abs=1e-7)
    found = sample.ratio(stratum == true, np.ones(len(true)))
    assert found.value == pytest.approx(overall)
    assert found.standard_error == pytest.approx(math.sqrt(overall_var), rel=1e-6, abs=1e-7)


def test_over_all_possible_samples_totals_and_variances_are_right_on_average() -> None:
    """Strata are not the classes; every sample of 2 of 5 and 3 of 6 units is tried."""
    first, second = np.array([1, 0, 0, 1, 1]), np.array([0, 1, 0, 0, 0, 1])
    truth = first.sum() + second.sum()
    stratum = np.array([0, 0, 1, 1, 1])
    totals, variances = [], []
    for a in itertools.combinations(range(5), 2):
        for b in itertools.combinations(range(6), 3):
            found = sample_of(stratum, [5, 6]).total(np.concatenate([first[[*a]], second[[*b]]]))
            totals.append(found.value)
            variances.append(found.standard_error**2)
    assert np.mean(totals) == pytest.approx(truth)
    assert np.mean(variances) == pytest.approx(np.var(totals))


def test_units_of_several_sizes_count_with_their_own() -> None:
    random = np.random.default_rng(0)
    size = random.uniform(0.5, 2, 400)
    change = random.random(400) < 0.2 + 0.3 * (size > 1)
    truth = size[change].sum()
    found = []
    for _ in range(600):
        chosen = random.choice(400, 120, replace=False)
        sample = sample_of(np.zeros(120, int), [400], np.array([size.sum()]), size[chosen])
        assert sample.total(np.ones(120)).value == pytest.approx(size.sum())
        found.append(sample.total(change[chosen]))
    values = np.array([own.value for own in found])
    assert abs(values.mean() - truth) < 0.01 * truth
    errors = np.array([own.standard_error for own in found])
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)
    inside = [low <= truth <= high for low, high in (own.interval() for own in found)]
    assert 0.92 < np.mean(inside) < 0.98


def test_a_census_has_no_error() -> None:
    sample = sample_of(np.array([0, 0, 0, 1]), [3, 1])
    assert sample.total(np.array([1, 0, 1, 1])) == Estimate(3.0, 0.0, most=4.0)


def test_nothing_to_divide_by_is_no_number() -> None:
    sample = sample_of(np.zeros(4, int), [10])
    assert math.isnan(sample.ratio(np.zeros(4), np.zeros(4)).value)


@pytest.mark.parametrize(("stratum", "sizes"), [([0, 0, 1], [9, 9]), ([0, 0, 0], [2])])
def test_samples_without_a_variance_are_refused(stratum: list[int], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 2 units"):
        sample_of(np.array(stratum), sizes)


def test_intervals_end_where_the_possible_does() -> None:
    assert Estimate(0.99, 0.1, most=1.0).interval()[1] == 1.0
    assert Estimate(1.0, 10.0).interval()[0] == 0.0
    low, high = Estimate(5.0, 1.0).interval(0.9)
    assert (low, high) == pytest.approx((5 - 1.6449, 5 + 1.6449), abs=1e-4)


@settings(max_examples=10)
@given(st.integers(1, 20), st.floats(0.02, 0.98))
def test_the_exact_interval_covers_as_often_as_it_says(tried: int, share: float) -> None:
    hits = np.arange(tried + 1)
    inside = [low <= share <= high for low, high in (share_of(int(h), tried, 0.9) for h in hits)]
    chance = [math.comb(tried, h) * share**h * (1 - share) ** (tried - h) for h in hits]
    assert np.dot(inside, chance) >= 0.9 - 1e-9


def test_what_no_point_shows() -> None:
    assert unseen_share(300) == pytest.approx(3 / 300, rel=0.01)  # the rule of three
