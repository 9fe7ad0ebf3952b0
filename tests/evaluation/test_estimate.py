"""The area of change from answered points: against the truth, another map, and half-done work."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import DataError, GridMismatchError
from rscd.evaluation.estimate import estimate_areas
from rscd.evaluation.sample_points import PointOptions, sample_points, write_points
from rscd.geo.grid import apply
from rscd.geo.measure import Ground

SHAPE = (60, 80)
PLACE: dict[str, Any] = {
    "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000),
    "crs": "EPSG:32633",
}


def blobs(seed: int, share: float = 0.1) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    coarse = random.random((SHAPE[0] // 5, SHAPE[1] // 5)) < share
    return np.kron(coarse, np.ones((5, 5))).astype(np.uint8)


TRUTH = blobs(0)
MAP = np.roll(TRUTH, (1, 2), (0, 1)) * (blobs(1, 0.85) == 1) | blobs(2, 0.02)
MAP[:5] = 255


@pytest.fixture
def place(tmp_path: Path, write_tif: Callable[..., Path]) -> Any:
    """``place(name, mask)`` and ``place.points(mask_path, **options)``, answered from the truth."""

    class Place:
        folder = tmp_path

        def raster(
            self, name: str = "change.tif", mask: NDArray[Any] = MAP, **profile: Any
        ) -> Path:
            return write_tif(tmp_path / name, mask, nodata=255, **{**PLACE, **profile})

        def points(
            self,
            path: Path,
            change: Callable[..., Any] | None = None,
            truth: NDArray[Any] = TRUTH,
            transform: Affine = PLACE["transform"],
            **options: Any,
        ) -> Path:
            drawn = sample_points(path, PointOptions(**options))
            table = drawn.table
            x, y = table.geometry.x.to_numpy(), table.geometry.y.to_numpy()
            cols, rows = apply(~transform, x, y)
            hit = truth[rows.astype(int), cols.astype(int)] == 1
            table["reference"] = np.where(hit, "change", "no change")
            answered = table if change is None else change(table.copy())
            write_points(replace(drawn, table=answered), tmp_path / "points.gpkg")
            return tmp_path / "points.gpkg"

    return Place()


def test_the_truth_lies_within_the_interval_of_every_number(place: Any) -> None:
    path = place.raster()
    report = estimate_areas(place.points(path, number=600, seed=1), path, 0.999)
    known = MAP != 255
    true, mapped = TRUTH[known] == 1, MAP[known] == 1
    facts = {
        "overall accuracy": (true == mapped).mean(),
        "user's accuracy, change": true[mapped].mean(),
        "user's accuracy, no-change": (~true)[~mapped].mean(),
        "producer's accuracy, change": mapped[true].mean(),
        "producer's accuracy, no-change": (~mapped)[~true].mean(),
    }
    assert report.accuracies.keys() == facts.keys()
    for name, fact in facts.items():
        low, high = report.accuracies[name].interval(0.999)
        assert low <= fact <= high, name
        assert 0 < high - low < 0.4, name
    scale = report.total / known.sum()
    low, high = report.change.interval(0.999)
    assert low <= true.sum() * scale <= high
    assert report.mapped == pytest.approx(mapped.sum() * scale, rel=1e-4)
    assert sum(report.matrix.values()) == pytest.approx(report.total)
    assert report.unit == "m2"
    assert scale == pytest.approx(100, rel=2e-3)


def test_all_pixels_drawn_give_the_truth_without_error(place: Any) -> None:
    path = place.raster()
    pixels = int((MAP != 255).sum())
    report = estimate_areas(place.points(path, number=pixels), path)
    scale = report.total / pixels
    assert report.change.value == pytest.approx((TRUTH[MAP != 255] == 1).sum() * scale, rel=1e-4)
    assert report.change.standard_error == 0
    assert report.accuracies["overall accuracy"].standard_error == 0
    assert not report.notes


def test_points_of_one_map_judge_another(place: Any) -> None:
    path = place.raster()
    other_mask = np.roll(TRUTH, 3, 1)
    other_mask[-10:] = 255
    other = place.raster("other.tif", other_mask)
    known = (MAP != 255) & (other_mask != 255)
    true, mapped = TRUTH[known] == 1, other_mask[known] == 1
    facts = {
        "overall accuracy": (true == mapped).mean(),
        "user's accuracy, change": true[mapped].mean(),
        "producer's accuracy, change": mapped[true].mean(),
    }
    every = estimate_areas(place.points(path, number=int((MAP != 255).sum())), other)
    for name, fact in facts.items():
        assert every.accuracies[name].value == pytest.approx(fact, rel=1e-3)
    assert every.change.value == pytest.approx(true.sum() * 100, rel=2e-3)  # UTM's scale
    report = estimate_areas(place.points(path, number=900, seed=2), other, 0.999)
    for name, fact in facts.items():
        low, high = report.accuracies[name].interval(0.999)
        assert low <= fact <= high, name
    low, high = report.change.interval(0.999)
    assert low <= true.sum() * 100 <= high
    assert any("another map" in note for note in report.notes)
    assert any("no data at" in note for note in report.notes)


def test_areas_of_a_grid_in_degrees(place: Any) -> None:
    """From 60 to 66 degrees north pixels shrink by a fifth; change lies in the south alone."""
    profile: dict[str, Any] = {"transform": Affine(0.1, 0, 10, 0, -0.1, 66), "crs": "EPSG:4326"}
    truth = np.zeros(SHAPE, np.uint8)
    truth[40:] = blobs(3, 0.4)[40:]
    path = place.raster(mask=np.roll(truth, 1, 0), **profile)
    points = place.points(
        path, truth=truth, transform=profile["transform"], number=truth.size, least=1
    )
    report = estimate_areas(points, path)
    areas = Ground("EPSG:4326", profile["transform"]).pixel_areas_m2(SHAPE)
    assert report.change.value == pytest.approx(areas.total(truth == 1), rel=1e-6)
    assert report.total == pytest.approx(areas.total(truth < 2), rel=1e-6)


def test_without_a_pixel_size_pixels_are_counted(place: Any) -> None:
    path = place.raster(crs=None, transform=None)
    points = place.points(path, transform=Affine(1, 0, 0, 0, -1, 0), number=400)
    report = estimate_areas(points, path)
    assert report.unit == "px"
    assert report.total == (MAP != 255).sum()
    assert report.mapped == (MAP == 1).sum()


def test_unsure_and_open_points_do_not_count_and_are_named(place: Any) -> None:
    def change(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
        table.loc[table["id"] <= 9, "reference"] = "unsure"
        table.loc[table["id"] > 380, "reference"] = None
        return table

    path = place.raster()
    report = estimate_areas(place.points(path, change, number=400), path)
    assert sum(own.unsure for own in report.strata) == 9
    assert sum(own.open for own in report.strata) == 20
    assert report.unsure_range is not None
    low, high = report.unsure_range
    assert low < report.change.value < high
    text = report.text()
    assert "9 unsure points do not count" in text
    assert "the first by id, a random sample as well" in text
    plain = json.loads(json.dumps(report.json()))
    assert plain["strata"]["near"]["unanswered"] == report.strata[1].open
    assert plain["area_of_change"]["interval"][0] < plain["area_of_change"]["estimate"]


def test_answers_picked_by_hand_are_said_aloud(place: Any) -> None:
    def change(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
        table.loc[table.geometry.y > table.geometry.y.median(), "reference"] = None
        return table

    path = place.raster()
    report = estimate_areas(place.points(path, change, number=400), path)
    assert any("not the first by id" in note for note in report.notes)


def test_what_no_point_shows_is_said_aloud(place: Any) -> None:
    def change(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
        table["reference"] = np.where(table["map"] == 1, "Change", "no_change")
        return table[table["id"] != 7]

    path = place.raster()
    report = estimate_areas(place.points(path, change, number=300), path)
    assert report.accuracies["overall accuracy"].value == 1
    assert any("no point contradicts that overall accuracy is 1" in n for n in report.notes)
    assert any("could be, which the interval leaves out" in n for n in report.notes)
    assert any("1 drawn points are no longer in the file" in n for n in report.notes)


def test_a_map_without_change_has_no_users_accuracy_of_it(place: Any) -> None:
    path = place.raster(mask=np.zeros(SHAPE, np.uint8))
    report = estimate_areas(place.points(path, number=300), path)
    assert math.isnan(report.accuracies["user's accuracy, change"].value)
    assert report.json()["accuracy"]["user's accuracy, change"]["estimate"] is None
    assert "none" in report.text()
    assert report.change.value > 0


def few(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    table.loc[table["stratum"] == "near", "reference"] = None
    return table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (few, "at least 2 points of stratum near .* found 0 of "),
        (lambda t: t.assign(reference="perhaps"), "found 'perhaps'"),
        (lambda t: t.drop(columns="stratum_m2"), "none named stratum_m2"),
        (lambda t: t[:0], "found none; draw them"),
        (lambda t: t.assign(stratum_m2=t["id"] * 1.0), "points of different draws"),
        (lambda t: t.assign(stratum_points=3), "not drawn at random"),
    ],
)
def test_points_that_say_too_little_are_refused(
    place: Any, change: Callable[..., Any], words: str
) -> None:
    path = place.raster()
    with pytest.raises(DataError, match=words):
        estimate_areas(place.points(path, change, number=200), path)


def test_a_map_elsewhere_is_refused(place: Any) -> None:
    path = place.raster()
    points = place.points(path)
    far = place.raster("far.tif", transform=Affine(10, 0, 900_000, 0, -10, 5_000_000))
    with pytest.raises(DataError, match="found none; check map and CRS"):
        estimate_areas(points, far)
    with pytest.raises(GridMismatchError, match="the points"):
        estimate_areas(points, place.raster("plain.tif", crs=None, transform=None))
