"""Areas on the ground: pixels, polygons and formulas agree."""

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.geo.measure import Ground, _LonLat

GRIDS = [
    ("EPSG:4326", Affine(0.01, 0, 10, 0, -0.01, 70), (1000, 200)),
    ("EPSG:4326", Affine(1, 0, -180, 0, -1, 90), (180, 360)),
    ("EPSG:4326", Affine(0.05, 0, 175, 0, -0.05, -60), (300, 300)),
    ("EPSG:32633", Affine(10, 0, 500_000, 0, -10, 5e6), (700, 900)),
    ("EPSG:3857", Affine(500, 0, 1e6, 0, -500, 8e6), (500, 400)),
    ("EPSG:3413", Affine(5000, 0, -2e6, 0, -5000, 2e6), (800, 800)),
    ("EPSG:2154", Affine(0.5, 0.2, 6e5, 0.2, -0.5, 6.6e6), (200, 150)),
    ("EPSG:2263", Affine(2, 0, 1e6, 0, 2, 2e5), (90, 1)),
]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pixels_together_are_as_large_as_their_polygon(data: st.DataObject) -> None:
    """The sum over pixels and the area of the outline are found in two ways that share nothing."""
    crs, transform, shape = data.draw(st.sampled_from(GRIDS))
    (row, bottom), (col, right) = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in shape
    )
    ground = Ground(crs, transform)
    mask = np.zeros(shape, bool)
    mask[row:bottom, col:right] = True
    expected = ground.areas_m2(np.array([shapely.box(col, row, right, bottom)]))[0]
    areas = ground.pixel_areas_m2(shape)
    assert areas.total(mask) == pytest.approx(expected, rel=1e-5)
    strips = (areas.total(mask[top : top + 37], top) for top in range(0, shape[0], 37))
    assert sum(strips) == pytest.approx(areas.total(mask), rel=1e-9)
    part = areas.total(mask[row:bottom, col:right], row, col)
    assert part == pytest.approx(areas.total(mask), rel=1e-9)


def test_pixels_of_pictures_have_the_area_that_is_stated() -> None:
    mask = np.ones((3, 5), bool)
    assert Ground(None, Affine.identity(), 2).pixel_areas_m2((3, 5)).total(mask) == 60
    assert np.isnan(Ground(None, Affine.identity()).pixel_areas_m2((3, 5)).total(mask))


def test_the_pixels_of_a_huge_grid_are_not_held() -> None:
    areas = Ground("EPSG:32633", Affine(0.1, 0, 5e5, 0, -0.1, 5e6)).pixel_areas_m2((10**6, 10**6))
    assert areas.nodes.nbytes < 20e6
    assert areas.total(np.ones((1, 10**6), bool), 5) == pytest.approx(1e4, rel=2e-3)


@pytest.mark.parametrize(("crs", "transform", "shape"), [*GRIDS, (None, Affine.identity(), (4, 3))])
def test_single_pixels_add_up_to_all(
    crs: str | None, transform: Affine, shape: tuple[int, int]
) -> None:
    areas = Ground(crs, transform, 2 if crs is None else None).pixel_areas_m2(shape)
    rows, cols = np.divmod(np.arange(0, shape[0] * shape[1], 7), shape[1])
    mask = np.zeros(shape, bool)
    mask[rows, cols] = True
    assert areas.at(rows, cols).sum() == pytest.approx(areas.total(mask), rel=1e-9)
    one = np.ones((1, 1), bool)
    row, col = int(rows[-1]), int(cols[-1])
    assert areas.at(rows, cols)[-1] == pytest.approx(areas.total(one, row, col), rel=1e-9)


@pytest.mark.parametrize("lat", [-80.0, -33.0, 0.0, 20.0, 47.0, 75.0])
def test_a_degree_is_as_long_as_the_geodesic_says(lat: float) -> None:
    lonlat = _LonLat.of(pyproj.CRS(4326))
    assert lonlat is not None
    east, north = lonlat.metres_per_degree(np.array([lat]))
    geod, step = pyproj.Geod(ellps="WGS84"), 1e-3
    along = geod.inv(10, lat, 10 + step, lat)[2] / step
    up = geod.inv(10, lat - step / 2, 10, lat + step / 2)[2] / step
    assert east[0] == pytest.approx(along, rel=1e-7)
    assert north[0] == pytest.approx(up, rel=1e-7)
