"""Polygons of any file, and what becomes of them in another CRS."""

import json
import shutil
import sqlite3
import struct
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from rscd.base.errors import DataError
from rscd.geo.vectors import (
    MOST_PARTS,
    VECTOR_SUFFIXES,
    carried,
    carried_bounds,
    cut_edges,
    exist,
    is_vector,
    polygonal,
    read_layer,
)
from rscd.geo.wkb import _arc, from_wkb

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
        (str(tmp_path / "none.gpkg"), "no such file"),
    ):
        with pytest.raises(DataError, match=said):
            read_layer(wrong, "polygons in")


def test_conditions_are_for_what_knows_sql(tmp_path: Path) -> None:
    table = write(squares(4), tmp_path / "s.gpkg")
    assert read_layer(table, "polygons in", where="n > 1")["n"].tolist() == [2, 3]
    with pytest.raises(DataError, match=r"found GeoParquet .*write it as \.gpkg"):
        read_layer(write(squares(4), tmp_path / "s.parquet"), "polygons in", where="n > 1")


def three_faced() -> dict[str, bytes]:
    """WKB of a house of 10 by 10 m, its wall and floor, in the types of 3D models and with arcs."""
    x, y = 500_000.0, 5_000_000.0
    roof = [(x, y, 5.0), (x + 10, y, 5.0), (x + 10, y + 10, 5.0), (x, y + 10, 5.0), (x, y, 5.0)]
    floor = [(a, b, 0.0) for a, b, _ in roof]
    wall = [roof[0], roof[1], floor[1], floor[0], roof[0]]
    halves = [[roof[0], roof[1], roof[2], roof[0]], [roof[0], roof[2], roof[3], roof[0]]]

    def face(ring: Sequence[tuple[float, ...]], kind: int) -> bytes:
        points = b"".join(struct.pack(f"<{len(p)}d", *p) for p in ring)
        return b"\x01" + struct.pack("<III", kind, 1, len(ring)) + points

    def many(kind: int, *parts: bytes) -> bytes:
        return b"\x01" + struct.pack("<II", kind, len(parts)) + b"".join(parts)

    circle = b"\x01" + struct.pack("<II", 8, 3) + struct.pack("<6d", x, y, x + 10, y, x, y)
    tin = many(1016, *(face(half, 1017) for half in halves))
    return {
        "polyhedron": many(1015, face(roof, 1003), face(wall, 1003), face(floor, 1003)),
        "tin": tin,
        "multipolygon of faces": many(1006, face(roof, 1003), face(floor, 1003)),
        "collection in collection": many(7, many(7, tin, face([p[:2] for p in roof], 3))),
        "old z": b"\x01" + face(roof, 0x8000_0003)[1:],
        "measured": face(roof, 2003),
        "arcs": many(10, circle),
        "multisurface": many(12, many(10, circle)),
    }


def stored(path: Path, wkb: bytes, z: int) -> Path:
    """A GeoPackage of one geometry as it stands, of a layer that may hold any kind."""
    squares(1).to_file(path, layer="x")
    with closing(sqlite3.connect(path)) as base, base:
        for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
            base.create_function(name, 1, lambda _: 0)
        triggers = base.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall()
        for (trigger,) in triggers:
            base.execute(f'DROP TRIGGER "{trigger}"')
        base.execute("DROP TABLE rtree_x_geom")
        base.execute("DELETE FROM gpkg_extensions")
        base.execute(
            f"UPDATE gpkg_geometry_columns SET geometry_type_name='GEOMETRY', z={z}, m={z}"
        )
        header = b"GP\x00\x01" + struct.pack("<i", 32633)
        base.execute("UPDATE x SET geom=?", (header + wkb,))
    return path


@pytest.mark.filterwarnings("ignore:geometry column type")
@pytest.mark.parametrize("z", [1, 2])
@pytest.mark.parametrize("kind", three_faced())
def test_models_of_buildings_are_their_outlines(tmp_path: Path, kind: str, z: int) -> None:
    path = stored(tmp_path / "model.gpkg", three_faced()[kind], z)
    whole = read_layer(path, "polygons in")
    assert whole["n"].tolist() == [0]
    bounds = (499_000.0, 4_999_000.0, 501_000.0, 5_001_000.0)
    part = read_layer(path, "polygons in", columns=[], within=(bounds, UTM))
    assert part.geometry.iloc[0].equals(whole.geometry.iloc[0])
    (found,) = polygonal(whole.geometry.to_numpy())
    area = 25 * np.pi if kind in ("arcs", "multisurface") else 100
    assert found.is_valid
    assert not found.has_z
    assert found.area == pytest.approx(area, rel=3e-4)
    table = pyarrow.table({"geometry": pyarrow.array([three_faced()[kind]], pyarrow.binary())})
    column = {"encoding": "WKB", "geometry_types": []}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    pyarrow.parquet.write_table(table, tmp_path / "model.parquet")
    (found,) = polygonal(read_layer(tmp_path / "model.parquet", "it").geometry.to_numpy())
    assert found.area == pytest.approx(area, rel=3e-4)


@given(st.integers(0, 60))
def test_plain_geometries_read_as_shapely_reads_them(length: int) -> None:
    box = shapely.box(0, 0, 1, 2)
    shapes = [shapely.Point(1, 2), shapely.LineString([(0, 0), (1, 1)]), box - box.buffer(-0.2),
              shapely.MultiPolygon([box]), shapely.MultiPoint([(1, 2)]), shapely.force_3d(box),
              shapely.GeometryCollection([shapely.Point(0, 0), box])]  # fmt: skip
    for order in (0, 1):
        for flavor in ("iso", "extended"):
            texts = shapely.to_wkb(shapes, byte_order=order, flavor=flavor)
            assert shapely.equals(from_wkb(texts), shapely.force_2d(shapes)).all()
    text = shapely.to_wkb(box)
    if length < len(text):
        with pytest.raises(ValueError, match=r"WKB|buffer"):
            from_wkb(np.array([text[:length]], object))


def test_values_keep_their_types(tmp_path: Path) -> None:
    big = 2**53 + 1
    table = squares(2)
    table["gid"] = pd.array([big, None], dtype="Int64")
    table["flag"] = pd.array([True, None], dtype="boolean")
    for suffix in (".gpkg", ".geojson", ".fgb", ".parquet"):
        frame = table.to_crs(4326) if suffix == ".geojson" else table
        found = read_layer(write(frame, tmp_path / f"t{suffix}"), "it").sort_values("n")
        assert found["gid"].iloc[0] == big, suffix
        assert str(found["gid"].dtype) == "Int64"
        assert found["gid"].isna().tolist() == found["flag"].isna().tolist() == [False, True]
    # an attribute called as GDAL calls the number of a feature
    write(table.rename(columns={"gid": "id"}).to_crs(4326), tmp_path / "id.geojson")
    found = read_layer(tmp_path / "id.geojson", "it")
    assert found["id"].iloc[0] == big
    assert list(read_layer(tmp_path / "id.geojson", "it", columns=["id"])) == ["id", "geometry"]


@pytest.mark.parametrize("place", ["!a/plain", "plain/x!y", "plain/n;s", "a;b/c!d;e", "q?/h#"])
@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet", ".geojson"])
@pytest.mark.parametrize("links", [True, False])
def test_any_path(
    tmp_path: Path, place: str, suffix: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # as on Windows

        def not_allowed(*_: object, **__: object) -> None:
            raise OSError

        monkeypatch.setattr(Path, "symlink_to", not_allowed)
    path = tmp_path / f"{place}{suffix}"
    path.parent.mkdir()
    plain = write(squares(3), tmp_path / f"source{suffix}")
    for file in tmp_path.glob("source.*"):
        file.rename(path.with_name(path.stem + file.suffix))
    assert not plain.exists()
    other = tmp_path / place.rpartition("!")[2]  # the file that was taken in its place
    other.parent.mkdir(parents=True, exist_ok=True)
    assert sorted(read_layer(path, "it")["n"]) == [0, 1, 2]
    if suffix == ".shp":
        assert len(read_layer(f"{path}|layername={path.stem}", "it")) == 3


def test_formats_are_known_by_suffix_and_content(tmp_path: Path) -> None:
    table = squares(2)
    table.to_parquet(tmp_path / "v.geoparquet")
    for name in ("v.pq", "v.parq", "no_suffix"):
        shutil.copy(tmp_path / "v.geoparquet", tmp_path / name)
    table.to_file(tmp_path / "s.shp")
    for name in ("v.shp.zip", "v.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in tmp_path.glob("s.*"):
                archive.write(file, file.name)
    table = table.astype({"n": "int32"})
    pyogrio.write_dataframe(table, tmp_path / "v.gdb", driver="OpenFileGDB", layer="b")
    pyogrio.write_dataframe(table.to_crs(4326), tmp_path / "v.geojsonl", driver="GeoJSONSeq")
    suffixes = ("geoparquet", "pq", "parq", "shp.zip", "zip", "gdb", "geojsonl")
    for path in (tmp_path / f"v.{suffix}" for suffix in suffixes):
        assert is_vector(path)
        assert is_vector(str(path).upper())
        assert sorted(read_layer(path, "it")["n"]) == [0, 1], path
    assert len(read_layer(tmp_path / "no_suffix", "it")) == 2
    assert is_vector("https://host/a.gpkg?sig=1.2")
    assert not is_vector("https://host/a.tif?layer=b.gpkg")


def test_an_index_with_names_is_kept(tmp_path: Path) -> None:
    table = squares(2)
    pairs = [("way", 1), ("relation", 2)]
    table.index = pd.MultiIndex.from_tuples(pairs, names=["element", "id"])
    table.to_parquet(tmp_path / "osm.parquet")
    found = read_layer(tmp_path / "osm.parquet", "it")
    assert found.index.tolist() == ["way/1", "relation/2"]
    assert found["element"].tolist() == ["way", "relation"]
    assert found["id"].tolist() == [1, 2]


def test_numbers_that_gdal_changes_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = squares(1, DEGREES).to_json().replace('"n": 0', f'"n": {2**64}')
    (tmp_path / "big.geojson").write_text(text)
    with caplog.at_level("WARNING"):
        read_layer(tmp_path / "big.geojson", "it")
    lost = ("numbers beyond 2^53 may have been rounded in n", "values are lost while reading")
    assert any(text in caplog.text for text in lost)  # an older GDAL clamps in place of rounding


def test_overlapping_parts_are_united() -> None:
    """As make_valid would not: it cuts out what two parts cover."""
    two = shapely.MultiPolygon([shapely.box(0, 0, 2, 1), shapely.box(1, 0, 3, 1)])
    mixed = shapely.GeometryCollection(
        [shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.Point(9, 9)]), two]
    )
    line = shapely.LineString([(0, 0), (1, 1)])
    found = polygonal(np.array([two, mixed, line, None], object))
    assert shapely.area(found).tolist() == [3, 3, 0, 0]
    assert shapely.is_valid(found).all()


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    for suffix in sorted(VECTOR_SUFFIXES):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(b"no polygons")
        with pytest.raises(DataError, match=r"expected polygons.*noise") as error:
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


@given(
    centre=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    radius=st.floats(1, 100),
    begin=st.floats(0, 2 * np.pi),
    turn=st.floats(0.2, 6) | st.floats(-6, -0.2),
)
def test_an_arc_follows_its_circle_through_its_middle(
    centre: tuple[float, float], radius: float, begin: float, turn: float
) -> None:
    def at(share: float) -> NDArray[Any]:
        angle = begin + share * turn
        return np.array(centre) + radius * np.array([np.cos(angle), np.sin(angle)])

    found = _arc(at(0), at(0.4), at(1))
    assert np.hypot(*(found - centre).T) == pytest.approx(np.full(len(found), radius))
    assert found[-1] == pytest.approx(at(1))
    length = np.hypot(*np.diff([at(0), *found], axis=0).T).sum()
    assert length == pytest.approx(radius * abs(turn), rel=0.02)  # not the other way round
