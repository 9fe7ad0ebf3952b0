"""Right angles: none where they would be wrong, and never an overlap."""

from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from rscd.geo.measure import Ground
from rscd.geo.polygons import iou
from rscd.geo.regularize import LARGEST_AREA_ERROR, LEAST_IOU, Square, regularize


def outlines(mask: NDArray[Any]) -> NDArray[Any]:
    """Pixel outlines of the 4-connected regions of a mask."""
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask.astype(bool), connectivity=4)
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], dtype=object)


def drawn(*polygons: shapely.Polygon, size: int = 80) -> NDArray[Any]:
    """Pixel outlines of polygons drawn on a grid."""
    mask = rasterio.features.rasterize(polygons, (size, size), dtype="uint8")
    return outlines(mask)


def angles(polygon: shapely.Polygon) -> NDArray[Any]:
    """Turns at the corners, in degrees from 0 to 180."""
    edges = np.diff(shapely.get_coordinates(polygon.exterior), axis=0)
    heading = np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
    return np.abs((heading - np.roll(heading, 1) + 180) % 360 - 180)


def turned(polygon: shapely.Polygon, degrees: float) -> shapely.Polygon:
    return shapely.affinity.rotate(polygon, degrees)


RECTANGLE = shapely.box(20, 25, 58, 50)
CORNER = shapely.Polygon([(20, 20), (60, 20), (60, 40), (40, 40), (40, 60), (20, 60)])


@pytest.mark.parametrize("degrees", [0, 7, 20, 33, 45, 61, 80])
@pytest.mark.parametrize(("shape", "corners"), [(RECTANGLE, 4), (CORNER, 6)])
def test_buildings_get_their_corners_back(
    shape: shapely.Polygon, corners: int, degrees: int
) -> None:
    true = turned(shape, degrees)
    [found] = regularize(drawn(true))
    assert len(found.exterior.coords) - 1 == corners
    np.testing.assert_allclose(angles(found), 90, atol=1e-6)
    assert found.intersection(true).area / found.union(true).area > 0.92


CIRCLE = shapely.Point(40, 40).buffer(20)
CUT = shapely.box(15, 20, 65, 60).intersection(turned(shapely.box(13, 13, 67, 67), 45))


PIXELS = Square(tolerance=1.5, shortest=3)
"""As for pixels larger than half a metre."""


@pytest.mark.parametrize("degrees", [0, 7, 20, 45])
@pytest.mark.parametrize("shape", [CORNER, CIRCLE, CUT], ids=["corner", "round", "cut corners"])
def test_no_corner_lies_far_outside(shape: shapely.Polygon, degrees: int) -> None:
    [before] = drawn(turned(shape, degrees))
    [after] = regularize(np.array([before]), PIXELS)
    assert len(after.exterior.coords) - 1 <= 16
    assert iou(after, before) >= LEAST_IOU
    corners = shapely.points(shapely.get_coordinates(after))
    assert shapely.distance(corners, before).max() <= PIXELS.shortest


def test_round_outlines_are_simplified() -> None:
    before = drawn(CIRCLE)
    assert regularize(before, PIXELS)[0].equals(before[0].simplify(PIXELS.tolerance))


def noise(seed: int, blur: int = 4, share: float = 0.5) -> NDArray[Any]:
    """Outlines of blobs of any shape, close to each other."""
    smooth = uniform_filter(np.random.default_rng(seed).random((60, 60)), blur)
    return outlines(smooth > np.quantile(smooth, share))


def village(seed: int) -> NDArray[Any]:
    """Uneven outlines of turned rectangles, close to each other."""
    rng = np.random.default_rng(seed)
    houses = [
        turned(shapely.box(x, y, x + rng.uniform(8, 15), y + rng.uniform(8, 15)), degrees)
        for x in range(5, 95, 17)
        for y, degrees in zip(range(5, 95, 17), rng.uniform(0, 90, 6), strict=True)
    ]
    mask = rasterio.features.rasterize(houses, (110, 110), dtype="float64")
    return outlines(uniform_filter(mask + rng.normal(0, 0.3, mask.shape), 3) > 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 6), st.floats(0.4, 0.6))
def test_whatever_comes_is_valid_of_about_the_area_and_overlaps_nothing(
    seed: int, blur: int, share: float
) -> None:
    before = noise(seed, blur, share)
    after = regularize(before, PIXELS)
    assert len(after) == len(before)
    assert shapely.is_valid(after).all()
    ratio = shapely.area(after) / shapely.area(before)
    assert (np.abs(ratio - 1) <= LARGEST_AREA_ERROR + 1e-9).all()
    first, second = shapely.STRtree(after).query(after, predicate="intersects")
    pairs = first < second
    common = shapely.intersection(after[first[pairs]], after[second[pairs]])
    assert shapely.area(common).sum() == 0


@pytest.mark.parametrize("seed", range(4))
def test_an_outline_is_squared_where_that_is_close_and_simplified_elsewhere(seed: int) -> None:
    before = village(seed)
    after = regularize(before, PIXELS)
    simple = shapely.simplify(before, PIXELS.tolerance)
    unchanged = shapely.equals_exact(after, before) & ~shapely.equals_exact(simple, before)
    other = ~(shapely.equals_exact(after, simple) | unchanged)
    assert 0 < other.sum() < len(before)
    area = shapely.area(before)
    assert (abs(shapely.area(simple) - area) > LARGEST_AREA_ERROR * area)[unchanged].all()
    assert (iou(after, before)[other] >= LEAST_IOU).all()
    for squared, original in zip(after[other], before[other], strict=True):
        np.testing.assert_allclose(angles(squared), 90, atol=1e-6)
        corners = shapely.points(shapely.get_coordinates(squared))
        assert original.distance(corners).max() <= PIXELS.shortest


def test_where_right_angles_overlap_both_outlines_are_simplified() -> None:
    shed = turned(shapely.box(70, 40, 100, 70), 20)
    hall = shapely.box(5, 5, 75, 115).difference(shed.envelope.buffer(1, join_style="mitre"))
    coarse = Square(tolerance=1.5, shortest=12)
    before = drawn(hall, shed, size=120)
    simple = shapely.simplify(before, coarse.tolerance)
    alone = [regularize(before[i : i + 1], coarse)[0] for i in (0, 1)]
    assert shapely.intersection(*alone).area > 1
    assert not shapely.equals_exact(alone, simple).any()
    for order in ([0, 1], [1, 0]):
        assert shapely.equals_exact(regularize(before[order], coarse), simple[order]).all()


@pytest.mark.parametrize("seed", range(4))
def test_neither_order_nor_chunks_count(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = village(seed)
    after = regularize(before, PIXELS)
    order = np.random.default_rng(seed).permutation(len(before))
    monkeypatch.setattr("rscd.geo.polygons._CHUNK_POLYGONS", 2)
    assert shapely.equals_exact(regularize(before[order], PIXELS), after[order]).all()


def test_a_courtyard_stays_a_hole() -> None:
    ring = turned(RECTANGLE.buffer(8, join_style="mitre"), 20).difference(turned(RECTANGLE, 20))
    [found] = regularize(drawn(ring))
    assert len(found.interiors) == 1
    assert shapely.Polygon(found.interiors[0]).area == pytest.approx(RECTANGLE.area, rel=0.1)


def test_nothing_is_nothing() -> None:
    assert len(regularize(np.empty(0, dtype=object))) == 0


@pytest.mark.parametrize("gsd_m", [0.25, 0.5, 1.0])
def test_metres_count_whatever_the_pixels(gsd_m: float) -> None:
    true = turned(shapely.box(20, 20, 44, 36), 25)  # metres
    pixels = shapely.affinity.scale(true, 1 / gsd_m, 1 / gsd_m, origin=(0, 0))
    ground = Ground(None, Affine.identity(), gsd_m)
    [found] = ground.regularize(drawn(pixels, size=int(70 / gsd_m)))
    assert len(found.exterior.coords) - 1 == 4
    assert found.area * gsd_m**2 == pytest.approx(true.area, rel=0.1)


def test_right_angles_are_right_on_the_ground_in_degrees_as_well() -> None:
    # pixels of 60 degrees north are half as wide as high
    step = 0.5 / 111_320
    grid = Affine(2 * step, 0, 20.0, 0, -2 * step, 60.0)
    wide = turned(shapely.box(0, 0, 24, 14), 25)
    pixels = shapely.transform(wide, lambda xy: np.column_stack([xy[:, 0] + 30, xy[:, 1] / 2 + 30]))
    ground = Ground("EPSG:4326", grid)
    [found] = ground.regularize(drawn(pixels))
    metres = shapely.transform(found, lambda xy: xy * [1, 2])
    np.testing.assert_allclose(angles(metres), 90, atol=1)
