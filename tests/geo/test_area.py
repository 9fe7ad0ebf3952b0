"""Areas of interest in any CRS."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from rscd.base.errors import DataError, GridMismatchError, UsageError
from rscd.geo.area import Area

GRID = GeoBox((400, 600), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")


def test_a_rectangle_in_the_scenes_crs_stays_one() -> None:
    geometry, is_box = Area.from_text("500100,4999000,500200,4999500").on(GRID)
    assert geometry.bounds == (500_100, 4_999_000, 500_200, 4_999_500)
    assert is_box
    assert Area.from_text("1,2,3,4", "EPSG:32633").on(GRID)[1]


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1;2;3;4"])
def test_texts_that_are_no_rectangle(text: str) -> None:
    with pytest.raises(UsageError, match="expected --bbox xmin,ymin,xmax,ymax"):
        Area.from_text(text)


@pytest.mark.parametrize("text", ["3,2,1,4", "1,4,3,2", "1,2,1,4", "nan,2,3,4", "0,0,inf,inf"])
def test_rectangles_without_an_inside(text: str) -> None:
    with pytest.raises(UsageError, match="expected --bbox"):
        Area.from_text(text)


def test_an_unknown_crs() -> None:
    with pytest.raises(UsageError, match="expected --bbox-crs such as EPSG:4326, found 'nowhere'"):
        Area.from_text("1,2,3,4", "nowhere")


def test_a_rectangle_of_degrees_is_carried_edge_by_edge() -> None:
    """Points along the bent sides agree with the transformation of each of them."""
    west, south, east, north = 15.005, 45.12, 15.07, 45.15
    geometry, is_box = Area.from_text(f"{west},{south},{east},{north}", "EPSG:4326").on(GRID)
    assert not is_box
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True)
    lon = np.linspace(west, east, 20)
    for lat in (south, north):
        sides = shapely.points(*to_utm.transform(lon, np.full_like(lon, lat)))
        assert shapely.distance(geometry.boundary, sides).max() < 0.05  # metres
    inside = shapely.points(*to_utm.transform([15.006, 15.069], [45.121, 45.149]))
    assert geometry.contains(inside).all()


def test_degrees_come_longitude_first() -> None:
    geometry, _ = Area.from_text("15,45,15.01,45.01", "EPSG:4326").on(GRID)
    assert geometry.centroid.x == pytest.approx(500_394, abs=5)
    assert geometry.centroid.y == pytest.approx(4_983_505, abs=600)


def test_polygons_of_a_file_in_another_crs(tmp_path: Path) -> None:
    triangle = shapely.Polygon([(500_100, 4_998_000), (502_000, 4_998_000), (500_100, 4_999_900)])
    hole = shapely.box(500_300, 4_998_200, 500_500, 4_998_400)
    dense = shapely.segmentize(triangle.difference(hole), 50)  # edges bend from CRS to CRS
    frame = geopandas.GeoDataFrame(geometry=[dense], crs="EPSG:32633")
    for name, crs in (("a.geojson", "EPSG:4326"), ("a.gpkg", "EPSG:3857"), ("b.gpkg", None)):
        path = tmp_path / name
        stored = frame if crs is None else frame.to_crs(crs)
        stored.to_file(path)
        geometry, is_box = Area.from_file(path).on(GRID)
        assert not is_box
        # two crossings between CRS and seven decimals of a degree: a centimetre
        assert geometry.symmetric_difference(dense).area < 100
        assert not geometry.contains(shapely.Point(500_400, 4_998_300))


def test_polygons_that_overlap_or_cross_themselves_are_one_area(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    shapes = [bow, shapely.box(0, 0, 2, 2), shapely.box(1, 0, 4, 2)]
    geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:32633").to_file(path)
    geometry, is_box = Area.from_file(path).on(GRID)
    assert is_box
    assert geometry.bounds == (0, 0, 4, 2)


def test_files_without_polygons(tmp_path: Path) -> None:
    missing = tmp_path / "none.geojson"
    with pytest.raises(DataError, match=r"expected polygons in --aoi .*none\.geojson, found"):
        Area.from_file(missing)
    text = tmp_path / "text.geojson"
    text.write_text("nothing")
    with pytest.raises(DataError, match=r"expected polygons in --aoi, found text at .*text\."):
        Area.from_file(text)
    points = tmp_path / "points.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs="EPSG:4326").to_file(points)
    with pytest.raises(DataError, match="found none"):
        Area.from_file(points)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"expected polygons in --aoi .*table\.csv"):
        Area.from_file(table)
    empty = tmp_path / "empty.gpkg"
    geopandas.GeoDataFrame(geometry=[], crs="EPSG:4326").to_file(empty)
    with pytest.raises(DataError, match="found none"):
        Area.from_file(empty)


def test_an_area_with_a_crs_means_nothing_for_bare_pixels() -> None:
    pixels = GeoBox((10, 10), Affine.identity(), None)
    with pytest.raises(GridMismatchError, match=r"area in pixels .* found EPSG:4326"):
        Area.from_text("1,2,3,4", "EPSG:4326").on(pixels)
    assert Area.from_text("1,2,3,4").on(pixels)[1]


def test_an_area_beyond_the_projection() -> None:
    mercator = GeoBox((10, 10), Affine(1000, 0, 0, 0, -1000, 0), "EPSG:3857")
    pole = Area(shapely.box(-10, 80, 10, 91), CRS("EPSG:4326"))
    with pytest.raises(GridMismatchError, match="area that exists in EPSG:3857"):
        pole.on(mercator)


def test_the_whole_world_is_cut_to_the_scene() -> None:
    geometry, _ = Area.from_text("-180,-90,180,90", "EPSG:4326").on(GRID)
    assert geometry.contains(shapely.box(*GRID.boundingbox.bbox))
