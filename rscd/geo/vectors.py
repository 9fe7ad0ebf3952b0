"""Polygons from vector files, and the way into another coordinate reference system."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from rscd.border import border, found_in
from rscd.errors import DataError
from rscd.geo.grid import transformer_between
from rscd.types import BoolArray, Bounds

if TYPE_CHECKING:
    import geopandas

VECTOR_SUFFIXES = frozenset(
    {".geojson", ".json", ".gpkg", ".fgb", ".parquet", ".shp", ".kml", ".gml", ".sqlite"}
)
LAYER_WORD = "|layername="
"""``file.gpkg|layername=NAME`` chooses one of several layers, spelled as in QGIS."""

STRAIGHT_M = 1000.0
"""A longer edge bends visibly in another projection."""
MOST_PARTS = 10_000
"""Into more parts no layer's extent is cut, whatever its coordinates say."""
EARTH_RADIUS_M = 6_371_000.0
EDGE_POINTS = 33
MARGIN = 0.01
"""A rectangle carried into another CRS is widened by this share of its sides."""

Geometries = NDArray[Any]


def is_vector(path: str | Path) -> bool:
    """Whether a file holds polygons, by its suffix; a layer may be named behind it."""
    return Path(str(path).partition(LAYER_WORD)[0]).suffix.lower() in VECTOR_SUFFIXES


def read_layer(
    path: str | Path,
    what: str,
    *,
    layer: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    within: tuple[Bounds, CRS | None] | None = None,
    choose: str | None = None,
) -> "geopandas.GeoDataFrame":
    """Features of one layer of any vector file that GDAL or GeoParquet knows.

    Args:
        path: file, or a GDAL path such as ``/vsizip/...``; `LAYER_WORD` and a name may follow.
        what: what is looked for, with its preposition, for messages: ``"polygons in --aoi"``.
        layer: which one, where a file has several with geometries.
        columns: attributes to read; None: all.
        where: SQL condition on the attributes; not for GeoParquet.
        within: read what touches a rectangle (left, bottom, right, top) in that CRS, perhaps more.
        choose: how to name one of several layers; default: with `LAYER_WORD`.

    Returns:
        The features; the index is their number in the file.

    Raises:
        DataError: no such file or layer, several layers, or not readable.
    """
    import geopandas
    import pyogrio

    file, _, named = str(path).partition(LAYER_WORD)
    with vector_border(what, file):
        if Path(file).suffix.lower() == ".parquet":
            return _of_parquet(geopandas.read_parquet(file), file, columns, where, within)
        names = [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]
        chosen = _layer(file, what, names, layer or named or None, choose)
        stored = pyogrio.read_info(file, layer=chosen)["crs"]
        source = None if stored is None else CRS(stored)
        return pyogrio.read_dataframe(
            file,
            layer=chosen,
            columns=columns,
            where=where,
            bbox=None if within is None else carried_bounds(*within, source),
            fid_as_index=True,
        )


def vector_border(what: str, path: str | Path) -> AbstractContextManager[None]:
    """The border to what reads vector files.

    Args:
        what: is read, for the message: ``polygons in --aoi``.
        path: of the file.

    Raises:
        DataError: for whatever is raised within.
    """

    def told(error: Exception) -> DataError:
        found = found_in(path, error, "check the file", "vector")
        return DataError(f"expected {what.removesuffix(' in')}, {found}")

    return border(told)


def _layer(file: str, what: str, names: list[str], asked: str | None, choose: str | None) -> str:
    if not names:
        raise DataError(f"expected {what} {file}, found no geometries; check the file")
    found = ", ".join(names)
    if asked is None and len(names) != 1:
        how = choose or f"choose one with {file}{LAYER_WORD}NAME"
        raise DataError(f"expected one layer of {what} {file}, found {found}; {how}")
    if asked is not None and asked not in names:
        raise DataError(f"expected layer {asked} in {file}, found {found}; correct its name")
    return asked or names[0]


def _of_parquet(
    frame: Any,
    file: str,
    columns: Sequence[str] | None,
    where: str | None,
    within: tuple[Bounds, CRS | None] | None,
) -> Any:
    if where is not None:
        raise DataError(
            f"expected a file whose features a condition can choose, found GeoParquet {file}; "
            "write it as .gpkg, or leave out the condition"
        )
    if columns is not None:
        kept = [name for name in columns if name in frame.columns]
        frame = frame[[*kept, frame.geometry.name]]
    if within is not None:
        bounds = carried_bounds(*within, None if frame.crs is None else CRS(frame.crs))
        if bounds is not None:
            frame = frame[shapely.intersects(frame.geometry.to_numpy(), shapely.box(*bounds))]
    return frame


def carried(geometries: Geometries, source: CRS | None, target: CRS | None) -> Geometries:
    """Geometries in another CRS; what does not exist there gets infinite coordinates.

    Long edges are cut first, as straight lines bend under way. Without a CRS on either side
    nothing is done.
    """
    if source == target or source is None or target is None or not len(geometries):
        return geometries
    transformer = transformer_between(source, target)

    def carry(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return np.asarray(shapely.transform(cut_edges(geometries, source), carry), dtype=object)


def cut_edges(geometries: Geometries, crs: CRS) -> Geometries:
    """Geometries with more points, so that no edge is longer than about `STRAIGHT_M`."""
    if not len(geometries):
        return geometries
    unit = crs.axis_info[0].unit_conversion_factor  # to metres or radians
    longest = STRAIGHT_M / (unit * EARTH_RADIUS_M if crs.is_geographic else unit)
    left, bottom, right, top = shapely.total_bounds(geometries)
    extent = float(np.nan_to_num(max(right - left, top - bottom), posinf=0.0))
    return np.asarray(shapely.segmentize(geometries, max(longest, extent / MOST_PARTS)), object)


def exist(geometries: Geometries) -> BoolArray:
    """(N,) whether all coordinates are numbers; empty and missing geometries do not exist."""
    finite: BoolArray = np.isfinite(shapely.bounds(geometries)).all(axis=-1)
    return finite


def carried_bounds(bounds: Bounds, source: CRS | None, target: CRS | None) -> Bounds | None:
    """A rectangle around a rectangle in another CRS, a little wider; None where there is none."""
    if source == target or source is None or target is None:
        return bounds
    transformer = transformer_between(source, target)
    left, bottom, right, top = transformer.transform_bounds(*bounds, densify_pts=EDGE_POINTS)
    if not np.isfinite((left, bottom, right, top)).all() or left > right:
        return None  # across the antimeridian or beyond the projection: read everything
    dx, dy = MARGIN * (right - left), MARGIN * (top - bottom)
    return left - dx, bottom - dy, right + dx, top + dy
