"""Polygons: the sparse way against the dense matrix and against pixels."""

from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import rscd.events.polygons as subject
from rscd.base.errors import UsageError
from rscd.events.polygons import polygon_events, polygon_overlaps, repaired
from rscd.geo.polygons import iou

SHAPE = (8, 10)


def array(*geometries: Any) -> NDArray[Any]:
    found = np.empty(len(geometries), object)
    found[:] = geometries
    return found


def box(*bounds: int) -> shapely.Polygon:
    return shapely.box(*bounds)


def outlined(labels: NDArray[Any], transform: Affine) -> NDArray[Any]:
    """Pixel-edge polygons of a label image: one per label, of several parts where it has them."""
    parts: dict[int, list[Any]] = {}
    traced = rasterio.features.shapes(labels, mask=labels > 0, transform=transform, connectivity=4)
    for outline, value in traced:
        parts.setdefault(int(value), []).append(shapely.geometry.shape(outline))
    count = int(labels.max())
    return array(*(shapely.union_all(parts.get(k, [])) for k in range(1, count + 1)))


def pixel_iou(labels1: NDArray[Any], labels2: NDArray[Any]) -> NDArray[Any]:
    """(M,N) IoU of the objects of two label images, counted pixel by pixel."""
    first, second = (
        np.stack([labels.ravel() == k for k in range(1, labels.max() + 1)] or [labels.ravel() < 0])
        for labels in (labels1, labels2)
    )
    common = (first[:, None] & second[None]).sum(-1)
    return (common / np.maximum((first[:, None] | second[None]).sum(-1), 1))[
        : labels1.max(), : labels2.max()
    ]


labels = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 6))
transforms = st.sampled_from(
    [
        Affine.identity(),
        Affine(0.3, 0, 431_234.567, 0, -0.3, 5_412_345.678),
        Affine(2e-6, 0, 11.5, 0, -3e-6, 48.1),
        Affine(0.4, 0.3, 1000, 0.3, -0.4, 2000),
    ]
)

number = st.integers(0, 6)
rectangles = st.builds(
    lambda x, y, w, h: box(x, y, x + w, y + h), number, number, number.map(lambda n: n + 1), number
)
rings = st.lists(st.tuples(number, number), min_size=3, max_size=7, unique=True).map(
    shapely.Polygon
)  # many cross themselves
holed = st.builds(
    lambda x, y: shapely.difference(box(x, y, x + 5, y + 4), box(x + 1, y + 1, x + 3, y + 3)),
    number,
    number,
)
several = st.lists(rectangles, min_size=2, max_size=3).map(shapely.MultiPolygon)  # may overlap
shapes = st.lists(st.one_of(rectangles, rings, holed, several), max_size=6).map(
    lambda found: repaired(array(*found))[0]
)


@given(labels, labels, transforms)
@settings(max_examples=60, deadline=None)
def test_pixels_sparse_and_dense_agree(
    labels1: NDArray[Any], labels2: NDArray[Any], transform: Affine
) -> None:
    first, second = (outlined(image, transform) for image in (labels1, labels2))
    dense = iou(first[:, None], second[None, :])
    sparse = polygon_overlaps(first, second)
    pixels = pixel_iou(labels1, labels2)
    np.testing.assert_allclose(sparse.dense(), dense, atol=2e-7)
    np.testing.assert_allclose(pixels, sparse.dense(), atol=2e-7)
    # touching is not meeting, whatever the transform
    np.testing.assert_array_equal(sparse.dense() > 0, pixels > 0)
    for found, axis in zip(sparse.sums(), (1, 0), strict=True):
        np.testing.assert_allclose(found, dense.sum(axis=axis), atol=1e-6)


@given(shapes, shapes, st.sampled_from([0.0, 0.05, 0.5]))
@settings(max_examples=150, deadline=None)
def test_sparse_equals_dense_on_any_shape(
    first: NDArray[Any], second: NDArray[Any], delta: float
) -> None:
    dense = iou(first[:, None], second[None, :])
    events = polygon_events(first, second, delta=delta)
    np.testing.assert_allclose(events.overlaps.dense(), dense, atol=1e-9)
    clear1, clear2 = (np.abs(dense.sum(axis=axis) - delta) > 1e-8 for axis in (1, 0))
    empty = np.abs(dense) < 1e-8
    if delta == 0:
        clear1, clear2 = (empty | (dense > 1e-8)).all(axis=1), (empty | (dense > 1e-8)).all(axis=0)
    at_most1, at_most2 = (dense.sum(axis=axis) <= delta + 1e-9 for axis in (1, 0))
    np.testing.assert_array_equal(events.vanished[clear1], at_most1[clear1])
    np.testing.assert_array_equal(events.appeared[clear2], at_most2[clear2])


@given(shapes, shapes, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_chunks_and_threads_change_nothing(
    first: NDArray[Any], second: NDArray[Any], chunk: int, threads: int
) -> None:
    whole = polygon_overlaps(first, second, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "_CHUNK", chunk)
        cut = polygon_overlaps(first, second, threads=threads)
    for name in ("first", "second", "iou"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    assert cut.counts == whole.counts


@given(shapes, shapes)
@settings(max_examples=60, deadline=None)
def test_swapping_the_dates_transposes(first: NDArray[Any], second: NDArray[Any]) -> None:
    there, back = polygon_events(first, second), polygon_events(second, first)
    np.testing.assert_allclose(back.overlaps.dense(), there.overlaps.dense().T, atol=1e-12)
    np.testing.assert_array_equal(back.appeared, there.vanished)


@given(st.lists(st.one_of(rings, holed, several, st.none()), max_size=5))
@settings(max_examples=100, deadline=None)
def test_repairing_gives_valid_polygons_of_the_same_number(found: list[Any]) -> None:
    polygons, bad = repaired(array(*found))
    assert len(polygons) == len(bad) == len(found)
    assert shapely.is_valid(polygons).all()
    assert set(shapely.get_type_id(polygons)) <= {3, 6}
    again, bad_again = repaired(polygons)
    assert not bad_again.any()
    assert shapely.equals_exact(again, polygons).all()


def test_by_hand() -> None:
    square, half, far = box(0, 0, 10, 10), box(5, 0, 15, 10), box(50, 0, 60, 10)
    events = polygon_events(array(square, far), array(half))
    assert events.overlaps.dense().tolist() == [[pytest.approx(1 / 3)], [0.0]]
    assert events.vanished.tolist() == [False, True]
    assert events.appeared.tolist() == [False]
    assert polygon_events(array(square), array(half), delta=1 / 3).appeared.tolist() == [True]


def test_touching_contained_and_nested_in_a_hole() -> None:
    square = array(box(0, 0, 10, 10))
    beside, corner, within = box(10, 0, 20, 10), box(10, 10, 12, 12), box(1, 1, 2, 2)
    found = polygon_events(square, array(beside, corner, within)).appeared.tolist()
    assert found == [True, True, False]
    ring = array(shapely.difference(box(0, 0, 9, 9), box(3, 3, 6, 6)))
    assert polygon_events(ring, array(box(4, 4, 5, 5))).appeared.tolist() == [True]
    disc = shapely.Point(4.5, 4.5).buffer(1.5)  # touches the hole's rim
    assert polygon_events(ring, array(disc)).appeared.tolist() == [True]


def test_a_wall_drawn_twice_is_no_overlap() -> None:
    # the same slanted walls with different vertices: half of them meet in a sliver
    rng = np.random.default_rng(0)
    slivers = 0
    for _ in range(50):
        start = np.array([431_000, 5_400_000]) + rng.uniform(0, 20, 2)
        wall = rng.uniform(-15, 15, 2)
        out = np.array([-wall[1], wall[0]])
        end, between = start + wall, start + rng.uniform(0.2, 0.8) * wall
        one = shapely.Polygon([start, end, end + out, start + out])
        other = shapely.Polygon([start, between, end, end - out, start - out])
        slivers += shapely.area(shapely.intersection(one, other)) > 0
        assert polygon_events(array(one), array(other)).appeared.tolist() == [True]
    assert slivers


def test_small_overlaps_can_be_forgiven() -> None:
    first, second = array(box(0, 0, 10, 10), box(20, 0, 30, 10)), array(box(9, 0, 21, 10))
    strict = polygon_events(first, second)
    assert strict.vanished.tolist() == [False, False]
    lenient = polygon_events(first, second, min_overlap=10.0)
    assert lenient.vanished.tolist() == [True, True]
    assert lenient.appeared.tolist() == [True]
    each = polygon_events(first, second, min_overlap=np.array([10.0, 9.0]))
    assert each.vanished.tolist() == [True, False]


def test_bow_ties_keep_both_halves() -> None:
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    polygons, bad = repaired(array(bow_tie, box(0, 0, 1, 1), shapely.LineString([(0, 0), (1, 1)])))
    assert bad.tolist() == [True, False, False]
    assert polygons[0].area == pytest.approx(2)
    assert polygons[2].is_empty


def test_dense_and_sparse_without_polygons() -> None:
    none, one = array(), array(box(0, 0, 1, 1))
    assert polygon_events(none, one).appeared.tolist() == [True]
    assert polygon_events(one, none).vanished.tolist() == [True]
    assert polygon_events(none, none).overlaps.counts == (0, 0)
    empty = array(shapely.Polygon())
    assert iou(empty[:, None], empty).tolist() == [[0.0]]
    with pytest.raises(UsageError, match="delta"):
        polygon_events(one, one, delta=-1)
