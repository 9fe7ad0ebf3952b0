"""Event polygons of segmented dates: outlines equal pixels, and flags say what they mean."""

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rasterio.features
from affine import Affine
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rscd.base.errors import DataError, UsageError
from rscd.events.pixels import change_labels
from rscd.events.scenes import KINDS, event_polygons
from rscd.segmenters.instances import from_masks, outline
from rscd.segmenters.segmenter import SemanticPrediction

SHAPE = (20, 30)
GRID = GeoBox(SHAPE, Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), "EPSG:32632")
CLASSES = ("house", "building", "grass")


def square(x0: int, y0: int, x1: int, y1: int) -> NDArray[Any]:
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def date(
    masks: list[Any],
    *,
    classes: list[int] | None = None,
    confidence: float = 0.9,
    valid: NDArray[Any] | None = None,
) -> SemanticPrediction:
    stack = np.array(masks).reshape(-1, *SHAPE)
    front = np.asarray(stack.any(axis=0))
    prob = np.full((3, *SHAPE), 0.05, np.float32)
    prob[1, front], prob[2, ~front] = confidence, 0.9
    return SemanticPrediction(
        prob=prob,
        classes=CLASSES,
        n_foreground=2,
        valid=valid,
        instances=from_masks(stack, classes, [confidence] * len(stack)),
    )


STAYS, GOES, COMES = square(2, 2, 8, 8), square(12, 4, 18, 10), square(20, 12, 26, 16)


def test_kinds_classes_and_measures() -> None:
    labels = change_labels(date([STAYS, GOES]), date([STAYS, COMES], classes=[0, 1]))
    table = event_polygons(
        labels, GRID, classes=CLASSES, kinds=KINDS, t1="2019-01-01", model="fake"
    )
    assert table["kind"].tolist() == ["kept", "appeared", "vanished"]
    assert table["class"].tolist() == ["house", "building", "house"]
    assert table["iou_sum"].tolist() == [1.0, 0.0, 0.0]
    assert table["score"].tolist() == [0.9, 0.9, 0.9]
    assert table["flags"].tolist() == ["", "", ""]
    assert table["area_m2"].tolist() == pytest.approx([9, 6, 9], rel=2e-3)
    assert table["t1"].tolist() == [datetime.date(2019, 1, 1)] * 3
    assert table["t2"].isna().all()
    assert table.crs == "EPSG:32632"
    for shape, mask in zip(table.geometry, (STAYS, COMES, GOES), strict=True):
        burnt = rasterio.features.rasterize([shape], SHAPE, transform=GRID.affine)
        np.testing.assert_array_equal(burnt, mask)
    assert event_polygons(labels, GRID, classes=CLASSES)["kind"].tolist() == [
        "appeared",
        "vanished",
    ]
    large = event_polygons(labels, GRID, classes=CLASSES, min_area_m2=7)
    assert large["kind"].tolist() == ["vanished"]
    assert large["id"].tolist() == [1]
    scores = event_polygons(labels, GRID, classes=CLASSES)["score"]
    assert len(event_polygons(labels, GRID, classes=CLASSES, min_score=scores.max() + 0.01)) == 0
    assert len(event_polygons(labels, GRID, classes=CLASSES, min_score=scores.min())) == 2


def test_flags() -> None:
    dark = np.ones(SHAPE, bool)
    dark[:, 18:] = False
    unseen, doubtful, cut = square(22, 5, 27, 9), square(2, 12, 6, 16), square(8, 0, 12, 3)
    first = date([GOES, unseen, cut])
    second = date([doubtful], confidence=0.6, valid=dark)
    assert second.instances is not None
    unknown = from_masks(STAYS[None])  # an object that the semantic map does not know
    second = replace(second, instances=[*second.instances, *unknown])
    labels = change_labels(first, second)
    table = event_polygons(labels, GRID, classes=CLASSES, kinds=KINDS)
    assert dict(zip(table["kind"] + " " + table["flags"], table["area_m2"] > 0, strict=True)) == {
        "appeared unreliable": True,
        "appeared unsupported": True,
        "vanished edge": True,
        "undecidable unreliable,edge,undecidable": True,
    }
    assert len(table) == 5  # GOES ends where the image of t2 does, `cut` at the border


def test_nothing_changed_is_an_empty_table_with_its_schema() -> None:
    labels = change_labels(date([STAYS]), date([STAYS]))
    full = event_polygons(labels, GRID, classes=CLASSES, kinds=KINDS)
    empty = event_polygons(labels, GRID, classes=CLASSES)
    assert len(full) == 1
    assert len(empty) == 0
    assert list(empty.columns) == [
        *("id", "kind", "class", "score", "iou_sum", "area_m2", "flags", "t1", "t2", "model"),
        "geometry",
    ]
    assert (empty.dtypes == full.dtypes).all()
    assert empty.crs == GRID.crs


def test_without_georeferencing() -> None:
    labels = change_labels(date([GOES]), date([]))
    unknown = event_polygons(labels, classes=CLASSES)
    assert unknown["area_m2"].isna().all()
    assert unknown.crs is None
    assert unknown.total_bounds.tolist() == [12, 4, 18, 10]
    assert event_polygons(labels, classes=CLASSES, gsd_m=2)["area_m2"].tolist() == [144]


@given(hnp.arrays(bool, SHAPE))
@settings(max_examples=40, deadline=None)
def test_outlines_are_the_pixels(mask: NDArray[Any]) -> None:
    if not mask.any():
        return
    (instance,) = from_masks(mask[None])
    shape = outline(instance)
    assert shape.is_valid
    assert shape.area == mask.sum()
    np.testing.assert_array_equal(rasterio.features.rasterize([shape], SHAPE), mask)


def test_mistakes_are_named() -> None:
    labels = change_labels(date([GOES]), date([]))
    with pytest.raises(UsageError, match="expected kinds"):
        event_polygons(labels, GRID, classes=CLASSES, kinds=["new"])
    with pytest.raises(DataError, match="as the labels have"):
        event_polygons(labels, GRID[:5, :5], classes=CLASSES)
    with pytest.raises(UsageError, match="--gsd"):
        event_polygons(labels, classes=CLASSES, min_area_m2=5)
