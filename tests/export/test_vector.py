"""Change polygons as tables and files, read back with independent readers."""

import datetime
import hashlib
import json
import sqlite3
import time
import warnings
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from rscd.base.errors import OutputError, UsageError
from rscd.export import vector
from rscd.export.style import (
    SCORE_CLASSES,
    change_qml,
    error_qml,
    event_qml,
    image_qml,
    is_own_qml,
    object_qml,
    point_qml,
    probability_qml,
    review_qml,
)
from rscd.export.vector import SUFFIXES, change_polygons, vector_files, write_vector
from rscd.geo.measure import Ground

COLUMNS = ["id", "kind", "class", "score", "area_m2", "t1", "t2", "model", "geometry"]
UTM = CRS.from_epsg(32631)
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
GROUND = Ground(UTM, TRANSFORM)
PROVENANCE = {"model": "cva", "inputs": ["t1.tif", "Großstadt.tif"], "threshold": 0.5}


@pytest.fixture
def rasters(tmp_path: Path) -> tuple[Path, Path]:
    """A building with a courtyard, a small and a single-pixel change; paths of mask and prob."""
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 5:20] = 1
    mask[8:12, 10:14] = 0
    mask[20:23, 30:34] = 1
    mask[30, 50] = 1
    mask[35:, :] = 255
    prob = np.where(mask == 1, 0.75, 0.1).astype(np.float32)
    prob[20:23, 30:34] = 0.987654
    return write(tmp_path / "mask.tif", mask), write(tmp_path / "prob.tif", prob)


def write(path: Path, array: NDArray[Any]) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", width=array.shape[1], height=array.shape[0],
        count=1, dtype=array.dtype, crs=UTM, transform=TRANSFORM,
    ) as dataset:  # fmt: skip
        dataset.write(array, 1)
    return path


@pytest.fixture
def found(rasters: tuple[Path, Path]) -> geopandas.GeoDataFrame:
    return change_polygons(*rasters, GROUND, model="cva", t1="2019-05-01", t2="2021-05-01")


def read(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return geopandas.read_file(path, **({"layer": "changes"} if path.suffix == ".gpkg" else {}))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def table(geometry: list[shapely.Polygon], crs: int | CRS | str | None) -> geopandas.GeoDataFrame:
    """A table of `change_polygons` around any geometries."""
    rows = {"id": range(1, len(geometry) + 1), "score": 0.5, "area_m2": 1.0}
    frame = geopandas.GeoDataFrame(rows, geometry=geometry, crs=crs)
    for name in ("kind", "class", "t1", "t2", "model"):
        frame[name] = pd.array(["changed"] * len(frame), dtype="string")
    return frame[COLUMNS]


# --- the table ----------------------------------------------------------------------------------


def test_rows_say_what_the_pixels_say(found: geopandas.GeoDataFrame) -> None:
    assert list(found.columns) == COLUMNS
    assert found["id"].tolist() == [1, 2, 3]
    assert set(found["kind"]) == {"changed"}
    assert found["class"].isna().all()
    assert found["score"].tolist() == [0.75, 0.9877, 0.75]
    np.testing.assert_allclose(found["area_m2"], [13_400, 1_200, 100], rtol=1e-3)
    assert set(found["t1"]) == {datetime.date(2019, 5, 1)}
    assert found.geometry[2].equals(shapely.box(500_500, 4_999_690, 500_510, 4_999_700))
    assert found.crs == "EPSG:32631"


def test_small_polygons_are_dropped_before_simplification(rasters: tuple[Path, Path]) -> None:
    kept = change_polygons(*rasters, GROUND, min_area_m2=500, simplify_m=25)
    assert kept["id"].tolist() == [1, 2]
    np.testing.assert_allclose(kept["area_m2"], [13_400, 1_200], rtol=1e-3)


def test_doubtful_polygons_are_dropped_where_there_is_a_score(rasters: tuple[Path, Path]) -> None:
    kept = change_polygons(*rasters, GROUND, min_score=0.8)
    assert kept["score"].tolist() == [0.9877]
    assert kept["id"].tolist() == [1]
    assert len(change_polygons(*rasters, GROUND, min_score=0.75)) == 3
    assert len(change_polygons(rasters[0], None, GROUND, min_score=0.8)) == 3


def test_without_crs(rasters: tuple[Path, Path]) -> None:
    found = change_polygons(*rasters, Ground(None, Affine.identity()))
    assert found.crs is None
    assert found["area_m2"].isna().all()
    assert change_polygons(*rasters, Ground(None, Affine.identity(), 2))["area_m2"][2] == 4.0
    wishes: tuple[dict[str, Any], ...] = ({"min_area_m2": 1.0}, {"simplify_m": 1.0})
    for wish in wishes:
        with pytest.raises(UsageError, match="--gsd"):
            change_polygons(*rasters, Ground(None, Affine.identity()), **wish)


def test_without_probability(rasters: tuple[Path, Path]) -> None:
    assert change_polygons(rasters[0], None, GROUND)["score"].isna().all()


def test_a_polygon_of_just_the_least_area_is_kept(rasters: tuple[Path, Path]) -> None:
    """Without CRS and with 2 m pixels a single pixel has 4 m2, in floating-point numbers too."""
    ground = Ground(None, Affine.identity(), 2.0)
    found = change_polygons(*rasters, ground, min_area_m2=4.0)
    assert found["area_m2"].min() == 4.0
    assert len(found) == 3
    assert len(change_polygons(*rasters, ground, min_area_m2=np.nextafter(4.0, 5.0))) == 2


@pytest.mark.parametrize(
    ("t1", "t2", "said"),
    [
        ("2023-01-01", "2019-01-01", "t1 no later than t2, found 2023-01-01 and 2019-01-01; swap"),
        ("2020", None, "2019-07-14 for --t1-date, found the year 2020; .* 2020-07-01"),
        (None, "2020-05", "found the month 2020-05; .* such as 2020-05-15"),
        (None, "July", "--t2-date, found 'July'; give the day as YYYY-MM-DD"),
        ("20190714", None, "found '20190714'"),
        ("2019-02-30", None, "found '2019-02-30'"),
    ],
)
def test_dates_that_cannot_be(
    rasters: tuple[Path, Path], t1: str | None, t2: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        change_polygons(*rasters, GROUND, t1=t1, t2=t2)


def test_a_date_with_time_is_its_day(rasters: tuple[Path, Path]) -> None:
    found = change_polygons(*rasters, GROUND, t1="2019-05-01T23:59:59+02:00", t2="2019-05-01")
    assert set(found["t1"]) == set(found["t2"]) == {datetime.date(2019, 5, 1)}


@pytest.mark.parametrize(("suffix", "kind"), [(".gpkg", "OFTDate"), (".geojson", "OFTDate")])
def test_dates_are_dates(
    tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str, kind: str
) -> None:
    write_vector(found, tmp_path / f"a{suffix}", provenance={})
    about = pyogrio.read_info(tmp_path / f"a{suffix}", layer="changes")
    kinds = dict(zip(about["fields"], about["ogr_types"], strict=True))
    assert kinds["t1"] == kinds["t2"] == kind
    write_vector(found, tmp_path / "a.parquet", provenance={})
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    assert str(schema.field("t1").type) == str(schema.field("t2").type) == "date32[day]"


def test_unknown_kind(rasters: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="expected kind appeared, vanished, changed"):
        change_polygons(*rasters, GROUND, kind="new")


def test_an_empty_table_has_the_same_types(
    rasters: tuple[Path, Path], tmp_path: Path, found: geopandas.GeoDataFrame
) -> None:
    nothing = write(tmp_path / "nothing.tif", np.zeros((40, 60), np.uint8))
    empty = change_polygons(nothing, rasters[1], GROUND, min_area_m2=1, simplify_m=1)
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, found.dtypes)
    assert empty.crs == found.crs


# --- the files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_read_back_as_the_table(
    tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str
) -> None:
    path = tmp_path / f"change{suffix}"
    before = set(tmp_path.iterdir())
    write_vector(found, path, provenance=PROVENANCE)
    assert set(tmp_path.iterdir()) - before == set(vector_files(path))
    again = read(path)
    assert list(again.columns) == COLUMNS
    for name in COLUMNS[:-1]:
        expected = found[name].astype(object).where(found[name].notna(), None).tolist()
        got = again.sort_values("id")[name]
        if pd.api.types.is_datetime64_any_dtype(got):
            got = got.dt.date
        assert got.astype(object).where(got.notna(), None).tolist() == expected
    placed = again.sort_values("id").to_crs(UTM).geometry.to_numpy()
    distance = shapely.hausdorff_distance(placed, found.geometry.to_numpy())
    assert (distance < (0.02 if suffix == ".geojson" else 1e-9)).all()
    assert again.crs == ("EPSG:4326" if suffix == ".geojson" else "EPSG:32631")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_input_same_bytes(tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_vector(found, tmp_path / folder / f"change{suffix}", provenance=PROVENANCE)
        time.sleep(0.01)
    write_vector(found, tmp_path / "second" / f"change{suffix}", provenance=PROVENANCE)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_a_package_does_not_say_in_how_many_commits_it_was_written(
    tmp_path: Path, found: geopandas.GeoDataFrame
) -> None:
    """GDAL needs a varying number of them, so that bytes would differ in one run of a few."""
    path = tmp_path / "change.gpkg"
    for table in (found, found[:0]):
        write_vector(table, path, provenance=PROVENANCE)
        head = path.read_bytes()[:100]
        assert head[24:28] == head[92:96] == (1).to_bytes(4, "big")
        with closing(sqlite3.connect(path)) as package:
            assert package.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_file_holds_the_date_of_today(
    tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str
) -> None:
    path = tmp_path / f"change{suffix}"
    write_vector(found, path, provenance=PROVENANCE)
    assert time.strftime("%Y-%m-%d").encode() not in path.read_bytes()


def test_geopackages_of_two_threads_do_not_touch_each_other(
    tmp_path: Path, found: geopandas.GeoDataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread writes its package while another is between GDAL and the style."""
    write_vector(found, tmp_path / "alone.gpkg", provenance=PROVENANCE)
    write_ogr = vector._write_ogr
    nested: list[str] = []

    def interrupted(
        polygons: geopandas.GeoDataFrame, where: Any, *args: Any, **keywords: Any
    ) -> None:
        if not nested:  # what another thread does at this moment
            nested.append(where)
            write_vector(found, tmp_path / "other.gpkg", provenance=PROVENANCE)
        write_ogr(polygons, where, *args, **keywords)

    monkeypatch.setattr(vector, "_write_ogr", interrupted)
    monkeypatch.setattr(pyogrio, "set_gdal_config_options", None)  # holds for the whole process
    write_vector(found, tmp_path / "one.gpkg", provenance=PROVENANCE)
    alone, other, one = (
        (tmp_path / f"{name}.gpkg").read_bytes() for name in ("alone", "other", "one")
    )
    assert one == other == alone


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_results_are_valid_layers(
    tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str
) -> None:
    path = tmp_path / f"change{suffix}"
    write_vector(found[:0], path, provenance=PROVENANCE)
    again = read(path)
    assert len(again) == 0
    if suffix == ".geojson":  # without features the format has no columns
        assert json.loads(path.read_text())["features"] == []
        return
    assert list(again.columns) == COLUMNS
    assert again.crs == "EPSG:32631"
    if suffix != ".parquet":
        info = pyogrio.read_info(path, layer="changes")
        full = tmp_path / f"full{suffix}"
        write_vector(found, full, provenance=PROVENANCE)
        expected = pyogrio.read_info(full, layer="changes")
        assert info["ogr_types"] == expected["ogr_types"]
        assert info["geometry_type"] == "Polygon"
    else:
        full = tmp_path / "full.parquet"
        write_vector(found, full, provenance=PROVENANCE)
        types = [pyarrow.parquet.read_schema(file).types for file in (path, full)]
        assert types[0] == types[1]


def test_provenance_is_found_again(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    for suffix in SUFFIXES:
        write_vector(found, tmp_path / f"change{suffix}", provenance=PROVENANCE)
    texts = {
        "geojson": (tmp_path / "change.geojson.json").read_text(),
        "fgb": (tmp_path / "change.fgb.json").read_text(),
        "gpkg": pyogrio.read_info(tmp_path / "change.gpkg", layer="changes")["layer_metadata"][
            "provenance"
        ],
        "parquet": pyarrow.parquet.read_schema(tmp_path / "change.parquet").metadata[b"provenance"],
    }
    for text in texts.values():
        assert json.loads(text) == PROVENANCE
    names = {path.name for path in tmp_path.iterdir()} - {"mask.tif", "prob.tif"}
    assert names == {
        "change.geojson", "change.geojson.json", "change.fgb", "change.fgb.json",
        "change.gpkg", "change.parquet", "change.qml",
    }  # fmt: skip


def test_geopackages_hold_coordinates_of_more_digits_than_text_of_their_extent(
    tmp_path: Path, found: geopandas.GeoDataFrame
) -> None:
    off = found.set_geometry(found.geometry.translate(1 / 3e7, -1 / 7e6))
    assert any(float(f"{bound:.15g}") != bound for bound in off.total_bounds)
    write_vector(off, tmp_path / "change.gpkg", provenance=PROVENANCE)
    assert (read(tmp_path / "change.gpkg").total_bounds == off.total_bounds).all()


def test_geopackage_names_its_default_style(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    write_vector(found, tmp_path / "change.gpkg", provenance=PROVENANCE)
    with sqlite3.connect(tmp_path / "change.gpkg") as connection:
        row = connection.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
        ).fetchall()
        check = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    assert row == [("changes", "geom", 1, change_qml())]
    assert check == ("ok",)


def test_layer_options_reach_the_driver(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    write_vector(
        found, tmp_path / "a.gpkg", provenance={}, layer_options={"geometry_name": "shape"}
    )
    assert pyogrio.read_info(tmp_path / "a.gpkg", layer="changes")["geometry_name"] == "shape"
    write_vector(
        found, tmp_path / "a.parquet", provenance={}, layer_options={"COMPRESSION": "zstd"}
    )
    column = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unknown_layer_options_are_usage_errors(
    tmp_path: Path, found: geopandas.GeoDataFrame, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(UsageError, match=r"FOO.*--lco"):
        write_vector(found, path, provenance={}, layer_options={"FOO": "1"})
    assert not list(tmp_path.glob("*a.*"))


def test_unknown_suffix(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    with pytest.raises(UsageError, match=r"\.geojson, \.gpkg, \.fgb, \.parquet, found '\.shp'"):
        write_vector(found, tmp_path / "change.shp", provenance={})


def test_replaces_what_was_there(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"change{suffix}"
        path.write_text("old")
        (tmp_path / f".change{suffix}.partial").mkdir()  # a killed run's
        write_vector(found, path, provenance={})
        assert len(read(path)) == 3
    assert not list(tmp_path.glob(".*"))


def test_missing_folder(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(OutputError, match="No such file or directory; choose a folder"):
            write_vector(found, tmp_path / "none" / f"change{suffix}", provenance={})


def many() -> geopandas.GeoDataFrame:
    return table([shapely.box(i, 0, i + 1, 1).segmentize(0.1) for i in range(1000)], 32631)


@pytest.mark.posix
@pytest.mark.parametrize("missing", [1, 200_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, suffix: str, missing: int
) -> None:
    """A limit on file size stands in for the full disk."""
    import resource

    path = tmp_path / f"change{suffix}"
    write_vector(many(), path, provenance={})
    limit = path.stat().st_size - min(missing, path.stat().st_size // 2)
    for sidecar in vector_files(path)[:-1]:
        sidecar.unlink()
    path.write_text("old")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        with pytest.raises(OutputError, match="expected to write") as error:
            write_vector(many(), path, provenance={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_failure_between_the_files_leaves_nothing(
    tmp_path: Path, found: geopandas.GeoDataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    broken = vector._Format(fail)
    monkeypatch.setitem(vector._FORMATS, ".geojson", broken)
    with pytest.raises(OutputError, match="No space left on device"):
        write_vector(found, tmp_path / "change.geojson", provenance={})
    assert {path.name for path in tmp_path.iterdir()} <= {"mask.tif", "prob.tif"}


# --- RFC 7946 -----------------------------------------------------------------------------------


def geojson(
    path: Path, geometry: list[shapely.Polygon], crs: CRS | str | None, **keywords: Any
) -> dict[str, Any]:
    write_vector(table(geometry, crs), path, provenance={}, **keywords)
    return json.loads(path.read_text(), parse_float=str)


def positions(coordinates: list[Any]) -> list[list[str]]:
    if isinstance(coordinates[0], list):
        return [position for part in coordinates for position in positions(part)]
    return [coordinates]


def test_geojson_is_rfc_7946(tmp_path: Path, found: geopandas.GeoDataFrame) -> None:
    write_vector(found, tmp_path / "change.geojson", provenance={})
    document = json.loads((tmp_path / "change.geojson").read_text(), parse_float=str)
    assert "crs" not in document
    for feature in document["features"]:
        for lon, lat in positions(feature["geometry"]["coordinates"]):
            assert len(lon.partition(".")[2]) <= 7
            assert len(lat.partition(".")[2]) <= 7
        exterior, *holes = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(np.array(exterior, float)).is_ccw
        assert not any(shapely.LinearRing(np.array(hole, float)).is_ccw for hole in holes)
    holes = [len(feature["geometry"]["coordinates"]) - 1 for feature in document["features"]]
    assert holes == [1, 0, 0]


@pytest.mark.parametrize(
    ("epsg", "box"),
    [
        (3832, (3_333_000, -1_800_000, 3_345_000, -1_790_000)),  # Fiji, PDC Mercator
        (32601, (290_000, 1_000_000, 310_000, 1_010_000)),
        (32760, (820_000, 8_200_000, 840_000, 8_210_000)),
        (4326, (179.9, -17, 180.1, -16.9)),
        (4326, (-180.1, -17, -179.9, -16.9)),
        (3031, (-50_000, -1_500_000, 50_000, -1_400_000)),  # Antarctica, polar stereographic
    ],
)
def test_polygons_are_cut_at_the_antimeridian(
    tmp_path: Path, epsg: int, box: tuple[float, int, float, float]
) -> None:
    crs = CRS.from_epsg(epsg)
    if epsg in {32601, 32760}:  # move the box onto the line
        x, _ = rasterio.warp.transform("EPSG:4326", crs, [180.0], [9.0 if epsg == 32601 else -16])
        box = (x[0] - 10_000, box[1], x[0] + 10_000, box[3])
    polygon = shapely.box(*box)
    hole = shapely.box(*shapely.box(*box).centroid.buffer((box[2] - box[0]) / 5).bounds)
    document = geojson(tmp_path / "a.geojson", [polygon - hole], crs)
    (feature,) = document["features"]
    points = np.array(positions(feature["geometry"]["coordinates"]), float)
    assert (np.abs(points[:, 0]) <= 180).all()
    assert feature["geometry"]["type"] == "MultiPolygon"
    text = json.loads((tmp_path / "a.geojson").read_text())
    parts = shapely.geometry.shape(text["features"][0]["geometry"])
    assert parts.is_valid
    assert all(part.exterior.is_ccw for part in parts.geoms)
    assert max(part.bounds[2] - part.bounds[0] for part in parts.geoms) < 5
    assert {part.bounds[0] > 0 for part in parts.geoms} == {True, False}
    back = geopandas.GeoSeries(list(parts.geoms), crs="EPSG:4326").to_crs(crs)
    if epsg == 4326:  # there the two sides are far apart
        east = box[0] > 0
        turn = [360.0 if east else -360.0, 0.0]
        other = [part.bounds[0] < 0 if east else part.bounds[0] > 0 for part in back]
        back = [
            shapely.transform(part, lambda p: p + turn) if move else part
            for part, move in zip(back, other, strict=True)
        ]
    difference = shapely.union_all(list(back)).symmetric_difference(polygon - hole)
    assert difference.area < 1e-3 * polygon.area


def test_polygons_around_a_pole_have_no_outline_in_degrees(tmp_path: Path) -> None:
    around = shapely.box(-5000, -4000, 5000, 6000)
    with pytest.raises(OutputError, match=r"found one around a pole; write \.gpkg"):
        geojson(tmp_path / "a.geojson", [around], CRS.from_epsg(3413))
    assert not list(tmp_path.iterdir())


def test_long_edges_follow_the_ground(tmp_path: Path) -> None:
    crs = CRS.from_epsg(32631)
    document = geojson(tmp_path / "a.geojson", [shapely.box(6e5, 6e6, 7e5, 6.1e6)], crs)
    lon, lat = np.array(positions(document["features"][0]["geometry"]["coordinates"]), float).T
    x, y = rasterio.warp.transform(
        "EPSG:4326", crs, (lon[:-1] + lon[1:]) / 2, (lat[:-1] + lat[1:]) / 2
    )
    off = np.minimum.reduce(
        [np.abs(np.array(x) - 6e5), np.abs(np.array(x) - 7e5),
         np.abs(np.array(y) - 6e6), np.abs(np.array(y) - 6.1e6)]
    )  # fmt: skip
    assert off.max() < 0.1  # metres; the corners alone would leave 200


@given(st.floats(-179.99, 179.99), st.floats(-60, 60), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_tiny_polygons_stay_valid_in_seven_decimals(lon: float, lat: float, pixels: int) -> None:
    size = 3e-7 * np.array([pixels, 1])
    ell = shapely.box(lon, lat, *(np.array([lon, lat]) + size))
    geometry = vector.lonlat_outlines(table([ell], "EPSG:4326"))
    assert shapely.is_valid(geometry).all()
    assert not shapely.is_empty(geometry).any()


def test_flat_polygons_are_reported_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speck = shapely.box(10, 50, 10 + 1e-9, 50 + 1e-9)
    assert len(geojson(tmp_path / "a.geojson", [speck], "EPSG:4326")["features"]) == 1
    assert "1 polygons are flat" in caplog.text


def test_geojson_without_crs_needs_permission(tmp_path: Path) -> None:
    box = [shapely.box(3, 4, 7, 9)]
    with pytest.raises(UsageError, match="--pixel-coordinates"):
        geojson(tmp_path / "a.geojson", box, None)
    document = geojson(tmp_path / "a.geojson", box, None, pixel_coordinates=True)
    assert "crs" not in document
    points = np.array(positions(document["features"][0]["geometry"]["coordinates"]), float)
    assert (points.min(axis=0) == [3, 4]).all()
    assert (points.max(axis=0) == [7, 9]).all()


def test_pictures_are_written_in_threads_without_warnings(tmp_path: Path) -> None:
    """Warnings are errors here: each thread's own filters would be taken away by another one."""
    table = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)])
    before, paths = list(warnings.filters), [tmp_path / f"{n}.fgb" for n in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(partial(write_vector, table, provenance={}), paths))
    assert all(map(Path.exists, paths))
    assert warnings.filters == before


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_other_formats_take_pixel_coordinates(tmp_path: Path, suffix: str) -> None:
    write_vector(table([shapely.box(3, 4, 7, 9)], None), tmp_path / f"a{suffix}", provenance={})
    assert read(tmp_path / f"a{suffix}").total_bounds.tolist() == [3, 4, 7, 9]


# --- styles -------------------------------------------------------------------------------------


STYLES = {
    "change": change_qml(),
    "event": event_qml(),
    "footprints": event_qml(dated=False),
    "object": object_qml(),
    "error": error_qml(),
    "point": point_qml(),
    "review": review_qml(),
    "probability": probability_qml(),
    "image": image_qml((3, 2, 1), (0.0, 0.5, 1.0), (9.0, 9.5, 10.0), 4),
    "grey": image_qml((2,), (0.0,), (1.0,)),
}


@pytest.mark.parametrize("name", STYLES)
def test_own_styles_are_known_until_they_are_changed(name: str) -> None:
    text = STYLES[name]
    assert ET.fromstring(text).tag == "qgis"
    assert is_own_qml(text)
    assert not is_own_qml(text.replace("</qgis>", " </qgis>"))
    assert not is_own_qml(text.replace("made by rscd: ", "made by rscd: 0"))


def test_layers_without_dates_are_shown_at_all_times() -> None:
    assert "<temporal" in STYLES["event"]
    assert "<temporal" not in STYLES["footprints"]


def test_styles_are_well_formed_and_cover_every_score() -> None:
    for text in (change_qml(), probability_qml()):
        assert ET.fromstring(text).tag == "qgis"
    bounds = [bound for lower, upper, _ in SCORE_CLASSES for bound in (lower, upper)]
    assert bounds[0] == 0.0
    assert bounds[-1] == 1.0
    assert bounds[1:-1:2] == bounds[2:-1:2]
    assert ET.fromstring(change_qml()).attrib["labelsEnabled"] == "0"
