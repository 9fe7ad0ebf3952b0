"""What a disk loses without a word is noticed before a file takes its name."""

import logging
import os
import sqlite3
import struct
import warnings
from collections.abc import Callable
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
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.shutil import copy

from rscd.base.errors import OutputError
from rscd.export import raster
from rscd.export.flow import FLOW, write_field
from rscd.export.picture import write_mask_picture
from rscd.export.raster import write_mask, write_probability
from rscd.export.vector import SUFFIXES, write_vector
from rscd.geo.changemap import ChangeMap
from rscd.geo.tiles import Box
from rscd.inference.weights import write_weights

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def polygons(count: int = 40) -> geopandas.GeoDataFrame:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 1000, (count, 2)) * 10.0
    sides = rng.integers(1, 9, (count, 2)) * 10.0
    corners += np.array([5e5, 5e6])
    geometry = shapely.box(*corners.T, *(corners + sides).T)
    table = pd.DataFrame({"id": np.arange(1, count + 1), "score": rng.random(count).round(4)})
    table["kind"] = pd.array(["appeared", "vanished"] * (count // 2), "string")
    return geopandas.GeoDataFrame(table, geometry=geometry, crs="EPSG:32633")


def read(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return geopandas.read_file(path, **({"layer": "changes"} if path.suffix == ".gpkg" else {}))


def same_rows(path: Path, other: Path) -> bool:
    """What any reader gets, in the order of ids."""
    one, two = (read(p).sort_values("id", ignore_index=True) for p in (path, other))
    try:
        pd.testing.assert_frame_equal(
            pd.DataFrame(one.drop(columns="geometry")), pd.DataFrame(two.drop(columns="geometry"))
        )
    except AssertionError:
        return False
    return one.crs == two.crs and bool(one.geometry.geom_equals(two.geometry).all())


def losing(monkeypatch: pytest.MonkeyPatch, lose: Callable[..., Any]) -> None:
    """Let a driver end well and the disk lose something of what it wrote."""
    write = pyogrio.write_dataframe

    def written(frame: geopandas.GeoDataFrame, where: Any, *args: Any, **keywords: Any) -> None:
        write(frame, where, *args, **keywords)
        if isinstance(where, Path):
            lose(where)

    monkeypatch.setattr(pyogrio, "write_dataframe", written)


def fails(path: Path, write: Callable[..., Any]) -> bool:
    """Whether writing ends in one clear line."""
    try:
        write()
    except OutputError as error:
        return str(error).startswith(f"expected to write {path}, found: ")
    return False


def zeros(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 9).round(2))
@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb"])
def test_bytes_that_are_lost_are_noticed_or_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, share: float
) -> None:
    path, good = tmp_path / f"c{suffix}", tmp_path / f"good{suffix}"
    write_vector(polygons(), good, provenance={"a": 1})
    path.write_bytes(b"old")
    losing(monkeypatch, lambda p: zeros(p, int(p.stat().st_size * share), 64))
    if fails(path, lambda: write_vector(polygons(), path, provenance={"a": 1})):
        assert path.read_bytes() == b"old"
    else:
        assert same_rows(path, good)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb"])
def test_rows_that_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    write = pyogrio.write_dataframe
    monkeypatch.setattr(
        pyogrio,
        "write_dataframe",
        lambda frame, where, **keywords: write(frame[:-1], where, **keywords),
    )
    lost = "the count" if suffix == ".gpkg" else "40 features"
    with pytest.raises(OutputError, match=f"read-back mismatch in {lost}"):
        write_vector(polygons(), tmp_path / f"c{suffix}", provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb"])
@pytest.mark.parametrize("column", ["score", "kind", "geometry"])
def test_values_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, column: str
) -> None:
    write = pyogrio.write_dataframe

    def written(frame: geopandas.GeoDataFrame, where: Any, **keywords: Any) -> None:
        if len(frame):
            changed = frame[column].copy()
            changed.iloc[7] = changed.iloc[8]
            frame = frame.assign(**{column: changed})
        write(frame, where, **keywords)

    monkeypatch.setattr(pyogrio, "write_dataframe", written)
    with pytest.raises(OutputError, match="read-back mismatch in geometry and attributes"):
        write_vector(polygons(), tmp_path / f"c{suffix}", provenance={})


def without(statement: str) -> Callable[..., Any]:
    def lose(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement)

    return lose


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER rtree_changes_geom_delete",
        "DROP TRIGGER trigger_insert_feature_count_changes",
        "DROP TABLE rtree_changes_geom",
        "DELETE FROM rtree_changes_geom WHERE id = 3",
        "DELETE FROM gpkg_extensions",
        "DELETE FROM gpkg_metadata",
        "UPDATE gpkg_ogr_contents SET feature_count = 39",
        "UPDATE gpkg_contents SET min_x = NULL",
        "UPDATE gpkg_contents SET max_y = max_y + 1",
        "UPDATE gpkg_geometry_columns SET srs_id = 4326",
        "PRAGMA application_id = 0",
        "PRAGMA user_version = 0",
    ],
)
def test_parts_of_a_geopackage_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    losing(monkeypatch, without(statement))
    with pytest.raises(OutputError, match="read-back mismatch"):
        write_vector(polygons(), tmp_path / "c.gpkg", provenance={"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_member_of_a_geojson_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for line in lines if b"resolution" not in line))

    losing(monkeypatch, lose)
    with pytest.raises(OutputError, match="read-back mismatch in the head"):
        write_vector(polygons(), tmp_path / "c.geojson", provenance={})
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_table_that_reads_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pyarrow.parquet.write_table
    monkeypatch.setattr(
        pyarrow.parquet, "write_table", lambda t, *a, **k: write(t.slice(1), *a, **k)
    )
    with pytest.raises(OutputError, match="read-back mismatch in the table"):
        write_vector(polygons(), tmp_path / "c.parquet", provenance={})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [0, 2])
def test_whole_files_pass(tmp_path: Path, suffix: str, count: int) -> None:
    write_vector(polygons()[:count], tmp_path / f"c{suffix}", provenance={"a": 1})
    assert len(read(tmp_path / f"c{suffix}")) == count


def make(
    folder: Path,
    shape: tuple[int, int] = (600, 700),
    transform: Affine = UTM,
    crs: str | None = "EPSG:32633",
) -> ChangeMap:
    folder.mkdir()
    prob = np.random.default_rng(1).random(shape, np.float32)
    prob[:100, :100] = np.nan
    change_map = ChangeMap(folder, GeoBox(shape, transform, crs), 0.5, {"a": 1})
    change_map.prob.create()
    change_map.prob.write(Box(0, 0, *shape), prob)
    change_map.threshold_mask()
    return change_map


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 9).round(2))
@pytest.mark.parametrize(("write", "name"), [(write_mask, "m.tif"), (write_probability, "p.tif")])
def test_bytes_of_a_raster_that_are_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[..., Any],
    name: str,
    share: float,
) -> None:
    change_map = make(tmp_path / "work")
    good, path = tmp_path / "good.tif", tmp_path / name
    write(change_map, good, {}, "")
    path.write_bytes(b"old")
    made_files: list[Path] = []

    def losing_bytes(source: Path, made: Path, **keywords: Any) -> None:
        copy(source, made, **keywords)
        if not made_files:
            zeros(made, int(made.stat().st_size * share), 256)
        made_files.append(made)

    monkeypatch.setattr(raster, "copy", losing_bytes)
    if fails(path, lambda: write(change_map, path, {}, "")):
        assert path.read_bytes() == b"old"
    else:
        for level in (None, 0):
            options = {} if level is None else {"overview_level": level}
            with rasterio.open(path, **options) as one, rasterio.open(good, **options) as two:
                np.testing.assert_array_equal(one.read(), two.read())
                assert one.tags() == two.tags()


@pytest.mark.parametrize("options", [{}, {"BIGTIFF": "YES"}])
def test_a_directory_at_the_end_of_a_raster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Every program reads it, but over the network it takes the whole file."""
    change_map = make(tmp_path / "work", (60, 70))
    write_mask(change_map, tmp_path / "good.tif", options, "")
    first, size, entry, kind = (8, 8, 20, "<Q") if options else (4, 2, 12, "<I")

    def moving(source: Path, made: Path, **keywords: Any) -> None:
        copy(source, made, **keywords)
        data = made.read_bytes()
        (at,) = struct.unpack_from(kind, data, first)
        entries = int.from_bytes(data[at : at + size], "little") * entry
        moved = data[at : at + size + entries + struct.calcsize(kind)]
        end = struct.pack(kind, len(data))
        made.write_bytes(data[:first] + end + data[first + len(end) :] + moved)

    monkeypatch.setattr(raster, "copy", moving)
    with pytest.raises(OutputError, match="read-back mismatch in the layout"):
        write_mask(change_map, tmp_path / "m.tif", options, "")
    assert not (tmp_path / "m.tif").exists()


def test_pixels_of_flow_that_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = GeoBox((300, 300), UTM, "EPSG:32633")
    flow = np.random.default_rng(0).random((2, 300, 300), np.float32)
    pieces = [(Box(0, 0, 300, 300), flow)]
    write_field(grid, pieces, tmp_path / "good.tif", FLOW, {"a": (1, 2)})
    written = rasterio.io.DatasetWriter.write
    monkeypatch.setattr(
        rasterio.io.DatasetWriter, "write", lambda d, a, **k: written(d, np.round(a, 2), **k)
    )
    with pytest.raises(OutputError, match="read-back mismatch in pixels"):
        write_field(grid, pieces, tmp_path / "flow.tif", FLOW, {"a": (1, 2)})
    assert [path.name for path in tmp_path.iterdir()] == ["good.tif"]


def test_what_gdal_only_logs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def logged(*args: Any, **keywords: Any) -> None:
        copy(*args, **keywords)
        if isinstance(args[1], Path):
            logging.getLogger("rasterio._env").error("CPLE_FileIO in p.tif: disk is full")

    monkeypatch.setattr(raster, "copy", logged)
    with pytest.raises(OutputError, match=r"found: p\.tif: disk is full"):
        write_probability(make(tmp_path / "work"), tmp_path / "p.tif", {}, "")


def test_weights_that_read_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3)}
    write_weights(tmp_path / "w.safetensors", tensors, {"name": "x"})
    before = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: os.ftruncate(file, os.fstat(file).st_size - 1))
    with pytest.raises(OutputError, match="read-back mismatch"):
        write_weights(tmp_path / "w.safetensors", tensors, {"name": "y"})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").read_bytes() == before


# --- what lies beside ----------------------------------------------------------------------------

WORLD = "1\n0\n0\n-1\n777000\n888000\n"
PAM = "<PAMDataset><GeoTransform>7,1,0,7,0,-1</GeoTransform></PAMDataset>"


def seen(path: Path) -> tuple[tuple[float, ...], None, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as dataset:
            return tuple(dataset.transform)[:6], dataset.crs, dataset.read_masks(1).all()


@pytest.mark.parametrize("name", ["c.tif", "c.png"])
@pytest.mark.parametrize("beside", ["{}.aux.xml", "c.pgw", "c.wld", "c.tfw", "C.PGW"])
def test_georeferencing_of_a_replaced_raster_goes_with_it(
    tmp_path: Path, name: str, beside: str
) -> None:
    change_map, path = make(tmp_path / "work", (40, 50), Affine.identity(), None), tmp_path / name
    write = write_mask_picture if name == "c.png" else partial(write_mask, options={}, qml="")
    write(change_map, path)
    wanted = seen(path)
    (tmp_path / "c.prj").write_text("of a shapefile")
    (tmp_path / beside.format(name)).write_text(PAM if "xml" in beside else WORLD)
    was_read = seen(path) != wanted
    write(change_map, path)
    assert seen(path) == wanted
    assert (tmp_path / beside.format(name)).exists() is not was_read
    assert (tmp_path / "c.prj").exists()


@pytest.mark.parametrize("other", ["c.jpg", None])
def test_a_world_file_of_another_picture_is_not_taken_away(
    tmp_path: Path, other: str | None
) -> None:
    change_map = make(tmp_path / "work", (40, 50), Affine.identity(), None)
    (tmp_path / "c.wld").write_text(WORLD)
    if other is not None:
        (tmp_path / other).write_bytes(b"a picture")
        (tmp_path / "c.png").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"found .*c\.wld; move it away, or choose another name"):
        write_mask_picture(change_map, tmp_path / "c.png")
    assert (tmp_path / "c.wld").read_text() == WORLD
    if other is not None:
        assert (tmp_path / "c.png").read_bytes() == b"old"
