"""Strata do not depend on how a map is cut, and draws are random, seeded and complete."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import binary_dilation

from rscd.base.errors import DataError, UsageError
from rscd.base.types import IGNORE
from rscd.evaluation import strata as module
from rscd.evaluation.strata import Strata, allocate, count_strata, draw
from rscd.geo.tiles import Box

GRID = GeoBox((40, 55), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")


def a_map(seed: int = 0, shape: tuple[int, int] = (40, 55)) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    found = (random.random(shape) < 0.02).astype(np.uint8)
    found[5:12, 30:] = IGNORE
    return found


def reader(classes: NDArray[Any], seen: list[Any] | None = None) -> Callable[..., Any]:
    def read(box: Box) -> NDArray[Any]:
        if seen is not None:
            seen.append(box)
        return classes[box.slices]

    return read


def test_near_is_no_change_within_so_many_pixels() -> None:
    classes = a_map()
    found = Strata(near_px=2).divide(classes)
    close = binary_dilation(classes == 1, np.ones((5, 5))) & (classes == 0)
    np.testing.assert_array_equal(found == 0, classes == 1)
    np.testing.assert_array_equal(found == 1, close)
    np.testing.assert_array_equal(found == 2, (classes == 0) & ~close)
    np.testing.assert_array_equal(found == IGNORE, classes == IGNORE)


def test_without_near_all_other_pixels_are_no_change() -> None:
    found = Strata(("no-change", "change")).divide(a_map())
    np.testing.assert_array_equal(found, a_map())


def test_counts_and_draws_see_the_map_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 7 pixels: the halo of each reaches into others."""
    classes, strata = a_map(), Strata(near_px=3)
    whole = strata.divide(classes)
    monkeypatch.setattr(module, "SQUARE_PX", 7)
    census = count_strata(reader(classes), GRID, strata)
    sizes = [int(np.count_nonzero(whole == h)) for h in range(3)]
    assert census.sizes.tolist() == sizes
    drawn = draw(reader(classes), GRID, strata, census, sizes, np.random.default_rng(0))
    again = np.full(classes.shape, IGNORE)
    again[drawn.rows, drawn.cols] = drawn.stratum  # all pixels, each once
    np.testing.assert_array_equal(again, whole)
    assert len(drawn.rows) == sum(sizes)
    assert census.areas_m2 == pytest.approx(np.multiply(sizes, 100), rel=2e-3)  # UTM's scale


def test_every_pixel_of_a_stratum_is_drawn_equally_often() -> None:
    classes, strata = a_map(), Strata(("change", "no-change"))
    census = count_strata(reader(classes), GRID, strata)
    size = int(census.sizes[0])
    hits = np.zeros(classes.shape)
    random = np.random.default_rng(1)
    for _ in range(300):
        drawn = draw(reader(classes), GRID, strata, census, [5, 1], random)
        mine = drawn.stratum == 0
        hits[drawn.rows[mine], drawn.cols[mine]] += 1
    found = hits[classes == 1]
    expected = 300 * 5 / size
    assert hits[classes != 1].sum() == 0
    chi2 = ((found - expected) ** 2 / expected).sum() / (1 - 5 / size)
    assert chi2 < size - 1 + 5 * np.sqrt(2 * (size - 1))


def test_only_squares_with_a_drawn_pixel_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SQUARE_PX", 8)
    classes, strata = a_map(), Strata(near_px=2)
    seen: list[Any] = []
    census = count_strata(reader(classes, seen), GRID, strata)
    assert len(seen) == 35
    assert max(box.height * box.width for box in seen) <= 12 * 12
    seen.clear()
    draw(reader(classes, seen), GRID, strata, census, [1, 1, 1], np.random.default_rng(0))
    assert 1 <= len(seen) <= 3


def test_a_map_that_changes_meanwhile_is_noticed() -> None:
    classes, strata = a_map(), Strata(("change", "no-change"))
    census = count_strata(reader(classes), GRID, strata)
    with pytest.raises(DataError, match="stays as it is"):
        draw(reader(1 - classes % 2), GRID, strata, census, [3, 3], np.random.default_rng(0))


sizes = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 10**9), min_size=1)


@settings(max_examples=50)
@given(sizes, st.integers(1, 400), st.integers(1, 60))
def test_points_are_all_given_within_their_bounds(
    sizes: dict[str, int], number: int, least: int
) -> None:
    floor = {name: min(size, least) for name, size in sizes.items()}
    if sum(floor.values()) > number:
        with pytest.raises(UsageError, match="--min-per-stratum"):
            allocate(sizes, number, least)
        return
    if sum(sizes.values()) < number:
        with pytest.raises(DataError, match="pixels with data"):
            allocate(sizes, number, least)
        return
    given_points = allocate(sizes, number, least)
    assert sum(given_points.values()) == number
    for name, size in sizes.items():
        assert floor[name] <= given_points[name] <= size


def test_the_rest_goes_by_size() -> None:
    assert allocate({"a": 900, "b": 100}, 200, 50) == {"a": 140, "b": 60}


@pytest.mark.parametrize(
    "names", [("change",), ("near", "no-change"), ("change", "change", "no-change"), ("x",)]
)
def test_strata_that_leave_pixels_out_or_are_unknown_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--strata"):
        Strata(names)
