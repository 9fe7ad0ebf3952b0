"""Comparison of files read back after writing with what was to be written.

GDAL and its libraries report a failed write late or not at all: a file that looks finished may lack
rows, its index or some pixels. Every function here raises OSError for a mismatch.
"""

import filecmp
import re
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import geopandas
import numpy as np
import pandas as pd
import pyarrow
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import RasterBlockError
from rasterio.windows import Window

from rscd.base.files import require_as_written
from rscd.base.quiet import quiet
from rscd.export.database import SUFFIX
from rscd.geo.tiles import Box, round_up

Hashes = NDArray[np.uint64]

INDEXED = frozenset({".gpkg", ".fgb"})
"""Vector formats with a spatial index."""


def check_layer(
    path: Path, meant: geopandas.GeoDataFrame, layer: str, decimals: int | None
) -> None:
    """Compare a vector file with the table it was written from, in any order of rows.

    Args:
        path: vector file that GDAL reads.
        meant: table as passed to the driver.
        layer: name of the layer.
        decimals: decimals to which coordinates are compared; None: not at all.
    """
    with (
        # warnings about damage, which the comparison reveals
        quiet(),
        pyogrio.open_arrow(path, layer=layer, use_pyarrow=True) as (about, reader),
    ):
        kinds = _kinds(meant, reader.schema)
        geometry = about["geometry_name"] or "wkb_geometry"
        rows = total = 0
        for batch in reader:
            rows += batch.num_rows
            found = batch.select(list(kinds)).to_pandas()
            stored = batch.column(geometry).to_numpy(zero_copy_only=False)
            shapes = shapely.from_wkb(stored, on_invalid="ignore")
            total += _digest(found, shapes, kinds, decimals)
    require_as_written(rows == len(meant), f"{len(meant)} features")
    require_as_written((meant.crs is None) or about["crs"] is not None, "the CRS")
    wanted = _digest(meant, meant.geometry.to_numpy(), kinds, decimals)
    require_as_written(total % _WORD == wanted % _WORD, "geometry and attributes")
    if path.suffix.lower() in INDEXED:
        _check_index(path, meant, layer)
    if path.suffix.lower() == SUFFIX:
        _check_extent(path, meant, layer)


_WORD = 1 << 64


def _kinds(meant: geopandas.GeoDataFrame, stored: pyarrow.Schema) -> dict[str, str]:
    """How each column is compared: as numbers, as text, or by where it is null."""
    columns = {str(name): meant[name].dtype for name in meant.columns}
    del columns[meant.geometry.name]
    return {
        name: _kind(dtype, stored.field(name).type)
        for name, dtype in columns.items()
        if name in stored.names
    }


def _kind(dtype: Any, stored: pyarrow.DataType) -> str:
    types = pyarrow.types
    if pd.api.types.is_numeric_dtype(dtype):
        single = np.dtype(getattr(dtype, "numpy_dtype", dtype)).name == "float32"
        if types.is_integer(stored) or types.is_floating(stored) or types.is_boolean(stored):
            return "single" if single else "number"
    elif pd.api.types.is_string_dtype(dtype) and types.is_string(stored):
        return "text"
    return "null"


def _digest(
    table: pd.DataFrame, geometry: NDArray[Any], kinds: dict[str, str], decimals: int | None
) -> int:
    """Order-independent hash of rows; hashes of parts of a table can be added."""
    hashes = np.zeros(len(table), np.uint64)
    for name, kind in kinds.items():
        hashes = hashes * np.uint64(31) + _hashes(table[name], kind)
    if decimals is not None:
        rounded = shapely.transform(geometry, lambda p: np.round(p, decimals) + 0.0)
        # drivers store polygons as multipolygons of one part in layers that have both
        single = shapely.get_type_id(rounded) == shapely.GeometryType.POLYGON
        rounded[single] = shapely.multipolygons(rounded[single][:, None])
        shapes = shapely.to_wkb(shapely.normalize(rounded))
        hashes = hashes * np.uint64(31) + pd.util.hash_array(np.asarray(shapes, object))
    return int(np.bitwise_xor(hashes, hashes >> np.uint64(7)).sum(dtype=np.uint64))


def _hashes(column: "pd.Series[Any]", kind: str) -> Hashes:
    if kind in ("number", "single"):
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        if kind == "single":
            numbers = numbers.astype(np.float32).astype(np.float64)
        return np.asarray(pd.util.hash_array(numbers + 0.0))
    null = column.isna().to_numpy()
    if kind == "null":
        return np.asarray(pd.util.hash_array(null.astype(np.uint8)))
    return np.asarray(pd.util.hash_array(column.astype(object).where(~null, "\0null").to_numpy()))


def _check_index(path: Path, meant: geopandas.GeoDataFrame, layer: str) -> None:
    shapes = meant.geometry.to_numpy()
    shapes = shapes[~shapely.is_missing(shapes) & ~shapely.is_empty(shapes)]
    if not len(shapes):
        return
    left, bottom, right, top = shapely.total_bounds(shapes)
    middle, width = (left + right) / 2, right - left or 1.0
    # by halves: GDAL does not use the index for a box that covers everything
    for box in ((left - width, middle), (middle, right + width)):
        bounds = (box[0], bottom - 1, box[1], top + 1)
        fids, _ = pyogrio.read_bounds(path, layer=layer, bbox=bounds)
        wanted = np.count_nonzero(shapely.intersects(shapes, shapely.box(*bounds)))
        require_as_written(len(fids) == wanted, "the spatial index")


def _check_extent(path: Path, meant: geopandas.GeoDataFrame, layer: str) -> None:
    wanted = "SELECT min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = ?"
    with closing(sqlite3.connect(path)) as found:
        extent = np.array(found.execute(wanted, (layer,)).fetchone(), np.float64)
    # GDAL writes these numbers as text of 15 digits
    same = np.allclose(extent, meant.total_bounds, rtol=1e-12, atol=0, equal_nan=True)
    require_as_written(same, "the extent")


def check_geopackage(path: Path, empty: sqlite3.Connection, count: int, layer: str) -> None:
    """Compare everything except features of a GeoPackage with one made in memory.

    Args:
        path: GeoPackage.
        empty: the same without features, made in memory.
        count: number of features.
        layer: name of the layer.
    """
    with closing(sqlite3.connect(path)) as found:
        (verdict,) = found.execute("PRAGMA integrity_check(1)").fetchone()
        require_as_written(verdict == "ok", "the database")
        for name in ("application_id", "user_version"):  # by which programs know the format
            one, other = (db.execute(f"PRAGMA {name}").fetchone() for db in (found, empty))
            require_as_written(one == other, f"the {name}")
        require_as_written(_schema(found) == _schema(empty), "tables, triggers and indexes")
        tables = {name for kind, name, _ in _schema(empty) if kind == "table"}
        for table in sorted(tables):
            if table.startswith("gpkg_") or table == "layer_styles":
                same = _described(found, table) == _described(empty, table)
                require_as_written(same, f"table {table}")
        if "gpkg_ogr_contents" in tables:
            counted = "SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = ?"
            require_as_written(found.execute(counted, (layer,)).fetchone() == (count,), "the count")


def _schema(database: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    return set(database.execute("SELECT type, name, sql FROM sqlite_master"))


def _described(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Rows of a table, without columns that depend on the features."""
    names = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    kept = [n for n in names if n not in ("min_x", "min_y", "max_x", "max_y", "feature_count")]
    columns = ", ".join(f'"{name}"' for name in kept)
    return sorted(database.execute(f'SELECT {columns} FROM "{table}"'), key=repr)


_GHOST = re.compile(rb"GDAL_STRUCTURAL_METADATA_SIZE=(\d{6}) bytes\n")


def check_layout(path: Path) -> None:
    """Check that a cloud-optimised GeoTIFF is one: its first directory follows its first bytes.

    After a failed write GDAL may append a second directory and leave the rest as it is.
    """
    with path.open("rb") as file:
        start = file.read(64)
    order, version = ("<" if start[:2] == b"II" else ">"), start[3] | start[2]
    first, end = (8, 16) if version == 43 else (4, 8)  # BigTIFF, TIFF
    (directory,) = struct.unpack(order + ("Q" if version == 43 else "I"), start[first:end])
    ghost = _GHOST.match(start, end)
    if ghost is not None:
        end = round_up(ghost.end() + int(ghost[1]), 2)
    require_as_written(ghost is not None and directory == end, "the layout")


def largest_difference(path: Path, meant: Iterable[tuple[Box, NDArray[Any]]]) -> float:
    """Largest difference between the first band of a raster and the intended values.

    Args:
        path: raster.
        meant: boxes and their values (h,w).

    Returns:
        0 if all are equal; infinity if a value is missing in only one of them.
    """
    largest = 0.0
    with rasterio.open(path) as dataset:
        for box, values in meant:
            found = dataset.read(1, window=Window(box.col, box.row, box.width, box.height))
            largest = max(largest, _difference(found, values))
    return largest


def _difference(found: NDArray[Any], values: NDArray[Any]) -> float:
    if np.array_equal(found, values, equal_nan=found.dtype.kind == "f"):
        return 0.0
    with np.errstate(all="ignore"):  # damaged blocks may contain any number
        gap = np.abs(found.astype(np.float64) - values.astype(np.float64))
    gap[np.isnan(found) & np.isnan(values)] = 0
    return float(np.nan_to_num(gap, nan=np.inf).max())


def same_rasters(path: Path, other: Path) -> bool:
    """Whether the first bands of two rasters are equal, overviews included."""
    if filecmp.cmp(path, other, shallow=False):
        return True
    for options in _levels(path):
        with rasterio.open(path, **options) as one, rasterio.open(other, **options) as two:
            if one.shape != two.shape or any(
                _difference(one.read(1, window=window), two.read(1, window=window))
                for _, window in one.block_windows(1)
            ):
                return False
    return True


def _levels(path: Path) -> list[dict[str, int]]:
    """Options that open a raster at each of its levels."""
    with rasterio.open(path) as dataset:
        return [{}, *({"overview_level": level} for level in range(len(dataset.overviews(1))))]


def checksum(values: NDArray[Any]) -> int:
    """CRC-32 of an array's bytes."""
    return crc32(np.ascontiguousarray(values).data)


def check_blocks(path: Path) -> None:
    """Read every block of a raster at every level; raise if one is missing or damaged."""
    for options in _levels(path):
        with rasterio.open(path, **options) as dataset:
            for (row, col), window in dataset.block_windows(1):
                try:
                    dataset.block_size(1, row, col)
                except RasterBlockError:
                    require_as_written(False, "an empty block")
                dataset.read(1, window=window)
