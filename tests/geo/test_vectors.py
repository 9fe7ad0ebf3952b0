"""Polygons of any file, and what becomes of them in another CRS."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS, Transformer

from rscd.errors import DataError
from rscd.geo.vectors import (
    MOST_PARTS,
    VECTOR_SUFFIXES,
    carried,
    carried_bounds,
    cut_edges,
    exist,
    is_vector,
    read_layer,
)

UTM, DEGREES = CRS(32633), CRS(4326)
WRITABLE = (".geojson", ".gpkg", ".fgb", ".parquet", ".shp")


def squares(count: int, crs: CRS = UTM) -> geopandas.GeoDataFrame:
    left = 500_000.0 + 100 * np.arange(count)
    boxes = shapely.box(left, 5_000_000, left + 50, 5_000_050)
    return geopandas.GeoDataFrame({"n": np.arange(count)}, geometry=boxes, crs=UTM).to_crs(crs)


def write(frame: geopandas.GeoDataFrame, path: Path, **options: str) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, **options)
    return path


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("crs", [UTM, DEGREES])
def test_every_format_gives_the_same_features(tmp_path: Path, suffix: str, crs: CRS) -> None:
    path = write(squares(5, crs), tmp_path / f"squares{suffix}")
    assert is_vector(path)
    whole = read_layer(path, "polygons in", columns=["n"])
    assert sorted(whole["n"]) == [0, 1, 2, 3, 4]  # FlatGeobuf sorts by place
    bounds = (500_110.0, 4_999_000.0, 500_240.0, 5_001_000.0)  # touches the second and the third
    part = read_layer(path, "polygons in", columns=["n"], within=(bounds, UTM))
    assert set(part["n"]) == {1, 2}
    bare = read_layer(path, "polygons in", columns=[])
    assert list(bare.columns) == ["geometry"]
    assert len(bare) == 5


def test_layers_are_named_behind_the_file(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    write(squares(2), path, layer="a")
    write(squares(3), path, layer="b")
    assert len(read_layer(f"{path}|layername=b", "polygons in")) == 3
    assert is_vector(f"{path}|layername=b")
    for wrong, said in (
        (str(path), r"expected one layer of polygons in .*two\.gpkg, found a, b; choose one with"),
        (f"{path}|layername=c", "expected layer c in .*found a, b"),
        (str(tmp_path / "none.gpkg"), "no file at"),
    ):
        with pytest.raises(DataError, match=said):
            read_layer(wrong, "polygons in")


def test_conditions_are_for_what_knows_sql(tmp_path: Path) -> None:
    table = write(squares(4), tmp_path / "s.gpkg")
    assert read_layer(table, "polygons in", where="n > 1")["n"].tolist() == [2, 3]
    with pytest.raises(DataError, match=r"found GeoParquet .*write it as \.gpkg"):
        read_layer(write(squares(4), tmp_path / "s.parquet"), "polygons in", where="n > 1")


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    for suffix in sorted(VECTOR_SUFFIXES):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(b"no polygons")
        with pytest.raises(DataError, match=r"expected polygons in .*noise") as error:
            read_layer(path, "polygons in")
        assert "\n" not in str(error.value)


def test_long_edges_bend() -> None:
    """The middle of an edge of 100 km lies where the straight line of its own CRS runs."""
    line = shapely.linestrings([[400_000, 5_000_000], [500_000, 5_000_000]])
    (found,) = carried(np.array([line], object), UTM, DEGREES)
    to_degrees = Transformer.from_crs(UTM, DEGREES, always_xy=True)
    middle = shapely.points(*to_degrees.transform(450_000, 5_000_000))
    chord = shapely.linestrings(np.array(found.coords)[[0, -1]])
    assert shapely.distance(found, middle) < 1e-7  # degrees: a centimetre
    assert shapely.distance(chord, middle) > 1e-3  # a hundred metres beside


def test_short_edges_keep_their_points_and_extents_bound_them() -> None:
    small = squares(3).geometry.to_numpy()
    assert shapely.equals_exact(cut_edges(small, UTM), small).all()
    absurd = shapely.linestrings([[0, 0], [1e12, 0]])  # metres taken for degrees
    (found,) = cut_edges(np.array([absurd], object), DEGREES)
    assert len(found.coords) <= MOST_PARTS + 1


def test_what_does_not_exist_elsewhere_is_told_apart() -> None:
    there = np.array([shapely.box(10, 50, 11, 51), shapely.box(10, 95, 11, 96)], object)
    assert exist(carried(there, DEGREES, UTM)).tolist() == [True, False]
    assert carried(there, None, UTM) is there
    assert carried(there, UTM, UTM) is there


def test_carried_rectangles_hold_what_they_held() -> None:
    bounds = (400_000.0, 5_000_000.0, 600_000.0, 5_200_000.0)
    found = carried_bounds(bounds, UTM, DEGREES)
    assert found is not None
    back = Transformer.from_crs(UTM, DEGREES, always_xy=True)
    x, y = np.meshgrid(np.linspace(4e5, 6e5, 30), np.linspace(5e6, 5.2e6, 30))
    lon, lat = back.transform(x.ravel(), y.ravel())
    left, bottom, right, top = found
    assert left < lon.min() < lon.max() < right
    assert bottom < lat.min() < lat.max() < top
    fiji = (-16_000.0, 8_000_000.0, 1_200_000.0, 8_100_000.0)
    assert carried_bounds(fiji, CRS(32760), DEGREES) is None  # across the antimeridian
