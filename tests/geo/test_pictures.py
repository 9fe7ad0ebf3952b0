"""Results for pictures without georeferencing lie where QGIS shows the picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from rscd import Options, open_pair, predict
from rscd.base.errors import DataError
from rscd.data.scene_labels import open_layer
from rscd.evaluation.maps import MapOptions, evaluate_maps
from rscd.geo.area import Area
from rscd.geo.grid import apply
from rscd.geo.pictures import PICTURE, is_picture, on_picture, world_file
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box

OPTIONS = Options(model="cva", pixel_coordinates=True, overwrite=True)
WORLD = Affine(0.5, 0.1, 1000, 0.1, -0.5, 2000)
SHAPE = 60, 80
HOUSE = shapely.box(30, 5, 60, 20)
"""In columns and rows."""

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning", "ignore:'crs' was not provided"
)


@pytest.fixture(params=["plain", "world file"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Affine]:
    """Two pictures with a change near the upper edge, and where QGIS shows them."""
    rng = np.random.default_rng(0)
    t1 = rng.integers(40, 90, (*SHAPE, 3)).astype(np.uint8)
    t2 = t1 + rng.integers(0, 5, t1.shape).astype(np.uint8)
    t2[5:20, 30:60] += 90
    for name, image in (("t1", t1), ("t2", t2)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        if request.param == "world file":
            (tmp_path / f"{name}.pgw").write_text(world_file(WORLD))
    transform = WORLD if request.param == "world file" else PICTURE
    return tmp_path / "t1.png", tmp_path / "t2.png", transform


def truth() -> NDArray[Any]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:20, 30:60] = 1
    return mask


def in_qgis(path: Path) -> tuple[Affine, NDArray[Any]]:
    """Transform under which QGIS shows a raster, and its first band."""
    with rasterio.open(path) as dataset:
        plain = dataset.transform.is_identity  # GDAL found none; QGIS then counts rows downwards
        return PICTURE if plain else dataset.transform, dataset.read(1)


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_file(path, layer="changes" if path.suffix == ".gpkg" else None)


def share_alike(a: NDArray[Any], b: NDArray[Any]) -> float:
    return (a == b).mean()


def test_masks_and_polygons_lie_on_the_picture(
    pictures: tuple[Path, Path, Affine], tmp_path: Path
) -> None:
    t1, t2, transform = pictures
    outputs = [tmp_path / f"a{suffix}" for suffix in (".tif", ".png", ".gpkg", ".geojson", ".fgb")]
    predict(open_pair(t1, t2), outputs, OPTIONS, prob=tmp_path / "prob.tif")
    assert in_qgis(t2)[0].almost_equals(transform)
    for path in (outputs[0], outputs[1], tmp_path / "prob.tif"):
        assert in_qgis(path)[0].almost_equals(transform)
    assert share_alike(in_qgis(outputs[0])[1] == 1, truth()) > 0.99
    assert share_alike(in_qgis(outputs[1])[1] == 255, truth()) > 0.99
    for path in outputs[2:]:
        frame = read(path)
        burnt = rasterize(frame.geometry, SHAPE, transform=transform)
        np.testing.assert_array_equal(burnt, in_qgis(outputs[0])[1])


def test_a_part_of_a_picture_lies_on_it(
    pictures: tuple[Path, Path, Affine], tmp_path: Path
) -> None:
    t1, t2, transform = pictures
    x, y = (np.array([25, 70, 70, 25]), np.array([2, 2, 30, 30]))
    corners = shapely.Polygon(np.column_stack(apply(transform, x, y)))
    geopandas.GeoSeries([corners]).to_file(tmp_path / "area.gpkg")
    area = Area.from_file(tmp_path / "area.gpkg")
    outputs = [tmp_path / "a.tif", tmp_path / "a.png", tmp_path / "a.gpkg"]
    predict(open_pair(t1, t2, area=area), outputs, OPTIONS)
    shown = read(outputs[2])
    expected = rasterize([corners], SHAPE, transform=transform) & truth()
    burnt = rasterize(shown.geometry, SHAPE, transform=transform)
    assert share_alike(burnt, expected) > 0.99
    for path, change in zip(outputs[:2], (1, 255), strict=True):
        moved, values = in_qgis(path)
        col, row = (round(float(place)) for place in apply(~transform, moved.c, moved.f))
        height, width = values.shape
        there = expected[row : row + height, col : col + width]
        assert share_alike(values == change, there) > 0.99
        assert there.sum() == expected.sum()


def test_boxes_in_columns_and_rows_are_what_they_were(
    pictures: tuple[Path, Path, Affine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t1, t2, transform = pictures
    if transform != PICTURE:
        pytest.skip("with a world file a box is in its coordinates")
    whole = open_pair(t1, t2)
    down = open_pair(t1, t2, area=Area.from_text("25,2,70,30"))
    assert "rows that count downwards" in caplog.text
    up = open_pair(t1, t2, area=Area.from_text("25,-30,70,-2"))
    assert down == up
    assert down.window == whole.crop(shapely.box(25, -30, 70, -2), mask=False).window
    assert (down.window.row, down.window.col, *down.shape_hw) == (2, 25, 28, 45)
    with pytest.raises(DataError, match=r"y = -row as in QGIS .* found y from -30 to 20"):
        open_pair(t1, t2, area=Area.from_text("25,-30,70,20"))


class TestEvaluation:
    def test_results_are_read_again(
        self, pictures: tuple[Path, Path, Affine], tmp_path: Path
    ) -> None:
        t1, t2, _ = pictures
        cv2.imwrite(str(tmp_path / "truth.png"), truth() * 255)
        if (world := t1.with_suffix(".pgw")).exists():
            (tmp_path / "truth.pgw").write_text(world.read_text())
        names = ["a.tif", "b.png", "a.gpkg", "a.geojson"]
        predict(open_pair(t1, t2), [tmp_path / name for name in names], OPTIONS)
        for name in names:
            report = evaluate_maps(
                tmp_path / name,
                tmp_path / "truth.png",
                MapOptions(predicted_values=(255,) if name == "b.png" else None),
            )
            assert report.counts.hit[1] > 0.98 * report.counts.true[1] == 0.98 * truth().sum()

    def test_polygons_in_columns_and_rows_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As version 0.1 wrote them, and labelling tools do."""
        cv2.imwrite(str(tmp_path / "truth.png"), truth() * 255)
        house = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(HOUSE)}
        old = {"type": "FeatureCollection", "features": [house]}
        (tmp_path / "old.geojson").write_text(json.dumps(old))
        geopandas.GeoSeries([HOUSE]).to_file(tmp_path / "old.gpkg")
        for name in ("old.geojson", "old.gpkg"):
            caplog.clear()
            report = evaluate_maps(tmp_path / name, tmp_path / "truth.png")
            assert report.counts.hit[1] == truth().sum()
            assert f"{name}: y from 5 to 20 is taken as rows that count downwards" in caplog.text

    def test_masks_without_a_transform_are_read_as_before(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        old = write_tif(tmp_path / "old.tif", truth(), crs=None, transform=None)
        new = write_tif(tmp_path / "new.tif", truth(), crs=None, transform=PICTURE)
        for one, other in ((old, new), (new, old), (old, old)):
            report = evaluate_maps(one, other)
            assert report.counts.hit == report.counts.true


def test_a_picture_is_a_grid_of_its_own(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    path = write_tif(tmp_path / "a.tif", truth() + 1, crs=None, transform=None)
    pair = ScenePair.open(path, path)
    assert is_picture(pair.grid)
    assert not is_picture(GeoBox(SHAPE, PICTURE, "EPSG:32633"))
    assert not is_picture(GeoBox(SHAPE, Affine.identity(), None))


@pytest.mark.parametrize(
    ("box", "flips"),
    [
        ((3, -20, 9, -5), False),
        ((3, 5, 9, 20), True),
        ((3, -20, 9, 1), False),
        ((3, -1, 9, 20), True),
        ((3, 0, 9, 1), True),
    ],
)
def test_the_side_on_which_polygons_lie_decides(
    box: tuple[int, int, int, int], flips: bool
) -> None:
    shapes = np.array([shapely.box(*box)], dtype=object)
    (found,) = on_picture(shapes, GeoBox(SHAPE, PICTURE, None), "polygons")
    expected = (box[1], box[3]) if not flips else (-box[3], -box[1])
    assert (found.bounds[1], found.bounds[3]) == expected
    plane = GeoBox(SHAPE, Affine(0.5, 0, 3, 0, -0.5, 9), None)
    assert on_picture(shapes, plane, "polygons") is shapes


def test_training_labels_in_columns_and_rows(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    geopandas.GeoSeries([HOUSE]).to_file(tmp_path / "old.gpkg")
    grid = GeoBox(SHAPE, PICTURE, None)
    layer = open_layer(str(tmp_path / "old.gpkg"), grid)
    np.testing.assert_array_equal(layer.read(grid), truth())
    assert "rows that count downwards" in caplog.text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_picture_is_resampled_the_right_way_up(
    tmp_path: Path, write_tif: Callable[..., Path], order: tuple[int, int]
) -> None:
    """One date without georeferencing, the other of half the resolution on the same plane."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 250, (10, 12)), np.ones((8, 8))).astype(np.uint8)
    coarse = Affine(2, 0, 0, 0, -2, 0)
    paths = [
        write_tif(tmp_path / "a.tif", image, crs=None, transform=None),
        write_tif(tmp_path / "b.tif", image[::2, ::2], crs=None, transform=coarse),
    ]
    pair = ScenePair.open(*(paths[number] for number in order))
    dates, valid = pair.read(Box(0, 0, *pair.shape_hw))
    close_handles()
    assert valid.all()
    assert np.abs(dates[0] - dates[1]).mean() < 12  # at the edges of blocks


def test_an_evaluation_resamples_a_picture_the_right_way_up(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    fine = write_tif(tmp_path / "fine.tif", truth(), crs=None, transform=None)
    coarse = Affine(5, 0, 0, 0, -5, 0)
    rough = write_tif(tmp_path / "rough.tif", truth()[2::5, 2::5], crs=None, transform=coarse)
    for one, other in ((fine, rough), (rough, fine)):
        report = evaluate_maps(one, other)
        assert report.counts.hit == report.counts.true
