"""Change events between two layers of footprints in vector files: cadastres, OSM, Overture."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import DataError, UsageError
from rscd.base.types import BoolArray
from rscd.events.pixels import DELTA
from rscd.events.polygons import Polygons, polygon_events, repaired
from rscd.geo.columns import distinct_names, joined
from rscd.geo.grid import bounds_text, crs_name
from rscd.geo.measure import Ground
from rscd.geo.table import feature_table
from rscd.geo.vectors import carried, exist, read_layer
from rscd.segmenters.overlaps import Array

logger = logging.getLogger(__name__)

KEPT = "kept"
KINDS = ("appeared", "vanished", KEPT)

MIN_OVERLAP_M2 = 0.1
"""Footprints that share less do not overlap: a ten-metre wall, drawn one centimetre off."""

COLUMNS = ("id", "kind", "class", "score", "iou_sum", "area_m2", "layer", "feature")
"""Columns of `footprint_events` before those of the sources."""


@dataclass(frozen=True, eq=False)
class Footprints:
    """One layer, ready for comparison."""

    name: str
    """File and layer, for messages."""
    polygons: Polygons
    """(N,) valid Polygon or MultiPolygon with area."""
    crs: pyproj.CRS
    attributes: pd.DataFrame
    """N rows; the index is the feature's number in the file."""
    repaired: int = 0
    """Number of invalid polygons that have been made valid."""
    dropped: int = 0
    """Number of features omitted because they have no geometry or no area."""


def read_footprints(
    path: str | Path, *, layer: str | None = None, crs: str | None = None
) -> Footprints:
    """Read polygons with their attributes from any vector file that GDAL supports, or GeoParquet.

    Args:
        path: file, or a GDAL path such as ``/vsizip/...``.
        layer: name of the layer, if a file has several.
        crs: CRS of a file without one.

    Raises:
        DataError: if there is no such file or layer, it is unreadable, it has no polygons or no
            CRS, or its coordinates do not fit its CRS.
        UsageError: if ``crs`` is not a CRS.
    """
    frame = read_layer(
        path, "footprints in", layer=layer, choose="name it with --layer-t1 or --layer-t2"
    )
    name = str(path) if layer is None else f"{path} ({layer})"
    own = frame.crs if frame.crs is not None else _named_crs(crs)
    if own is None:
        raise DataError(
            f"expected a CRS in {name}, found none; name it with --crs, such as --crs EPSG:25832"
        )
    shapes = frame.geometry.to_numpy()
    polygons, bad = repaired(shapes)
    kept = shapely.area(polygons) > 0
    others = [column for column in frame.columns if str(frame[column].dtype) == "geometry"]
    others.remove(frame.geometry.name)
    if others:
        logger.warning("%s: omitted the additional geometries %s", name, ", ".join(others))
    if len(shapes) and not kept.any():
        kinds = sorted({str(shape.geom_type) for shape in shapes if shape is not None})
        raise DataError(
            f"expected polygons in {name}, found {', '.join(kinds) or 'features without geometry'};"
            " give a layer of footprints"
        )
    found = Footprints(
        name,
        polygons[kept],
        pyproj.CRS(own),
        pd.DataFrame(frame.drop(columns=[frame.geometry.name, *others]))[kept],
        repaired=int(np.count_nonzero(bad & kept)),
        dropped=int(np.count_nonzero(~kept)),
    )
    _check_degrees(found)
    return found


def in_crs(footprints: Footprints, crs: pyproj.CRS) -> Footprints:
    """Footprints transformed to another CRS.

    Raises:
        DataError: if some of them do not exist there.
    """
    if footprints.crs == crs or not len(footprints.polygons):
        return replace(footprints, crs=crs)
    moved = carried(footprints.polygons, footprints.crs, crs)
    if not exist(moved).all():
        raise DataError(
            f"expected footprints inside the area of {crs_name(crs)}, found others in "
            f"{footprints.name}; reproject both layers to one CRS first"
        )
    return replace(footprints, polygons=repaired(moved)[0], crs=crs)


def footprint_events(
    first: Footprints,
    second: Footprints,
    *,
    delta: float = DELTA,
    min_overlap_m2: float = MIN_OVERLAP_M2,
    min_area_m2: float = 0.0,
    kinds: Sequence[str] = KINDS,
    class_field: str | None = None,
    fields: Sequence[str] | None = None,
    threads: int | None = None,
) -> geopandas.GeoDataFrame:
    """Which footprints appeared, vanished or stayed (DiffMatch, Eq. 8 to 10, on polygons).

    Args:
        first: layer of t1; its CRS is that of the result.
        second: layer of t2.
        delta: largest IoU sum of an event.
        min_overlap_m2: shared area in square metres up to which two footprints do not overlap.
        min_area_m2: smaller footprints are compared, but omitted from the result.
        kinds: those of `KINDS` that the result contains.
        class_field: field whose text becomes ``class``.
        fields: source fields to keep; default those that both layers have. A field named like a
            column of the result gets the prefix ``source_``, one that differs from another only by
            case a numeric suffix (`written_names`).
        threads: see `rscd.events.polygons.polygon_overlaps`.

    Returns:
        One row per footprint: first those of t2 (``appeared``, ``kept``), then those of t1
        (``vanished``), each in the order of its file. A kept footprint has the outline of t2; its
        outline of t1 is not included. ``score`` is null; ``layer`` (t1 or t2) and ``feature`` state
        the source of the row.

    Raises:
        UsageError: for a negative delta, or an unknown kind or field.
        DataError: if the layers do not overlap.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"expected kinds {', '.join(KINDS)}, found {', '.join(unknown)}")
    second = in_crs(second, first.crs)
    _check_overlap(first, second)
    ground = Ground(first.crs, Affine.identity())  # coordinates are in the CRS already
    area1, area2 = (ground.areas_m2(date.polygons) for date in (first, second))
    # from square metres to square units of the plane, at each footprint
    least = min_overlap_m2 * shapely.area(first.polygons) / area1
    events = polygon_events(
        first.polygons, second.polygons, delta=delta, min_overlap=least, threads=threads
    )
    kept = kept_fields(first, second, fields)
    here = np.where(events.appeared, "appeared", KEPT)
    gone = np.where(events.vanished, "vanished", "stays at t2")
    parts = [
        _rows(second, "t2", here, events.iou_sum2, area2, class_field, kept),
        _rows(first, "t1", gone, events.iou_sum1, area1, class_field, kept),
    ]
    table = pd.DataFrame({name: joined([part[name] for part in parts]) for name in parts[0]})
    geometry = np.concatenate([second.polygons, first.polygons])
    wanted = (table["kind"].isin(list(kinds)) & (table["area_m2"] >= min_area_m2)).to_numpy()
    table, geometry = table[wanted].reset_index(drop=True), geometry[wanted]
    table["id"] = np.arange(1, len(table) + 1)
    return feature_table(table, geometry, first.crs, own=COLUMNS)


def _named_crs(crs: str | None) -> pyproj.CRS | None:
    if crs is None:
        return None
    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise UsageError(f"expected a CRS such as EPSG:25832 for --crs, found {crs!r}") from error


def _check_degrees(footprints: Footprints) -> None:
    """Detect metres in a GeoJSON, for which GDAL always assumes degrees."""
    if not footprints.crs.is_geographic or not len(footprints.polygons):
        return
    bounds = shapely.total_bounds(footprints.polygons)
    if np.abs(bounds).max() > 400:  # 400 grads are a circle
        raise DataError(
            f"expected longitude and latitude in {footprints.name}, as its CRS "
            f"{crs_name(footprints.crs)} says, found coordinates {bounds_text(tuple(bounds))}; "
            "write it again with its real CRS (ogr2ogr -a_srs EPSG:... out.gpkg FILE)"
        )


def _check_overlap(first: Footprints, second: Footprints) -> None:
    if not len(first.polygons) or not len(second.polygons):
        return
    bounds1, bounds2 = (shapely.total_bounds(date.polygons) for date in (first, second))
    if not shapely.box(*bounds1).intersects(shapely.box(*bounds2)):
        raise DataError(
            f"expected two layers of one place, found {first.name} at "
            f"{bounds_text(tuple(bounds1))} and {second.name} at {bounds_text(tuple(bounds2))} in "
            f"{crs_name(first.crs)}; check the files and their CRS"
        )


def kept_fields(first: Footprints, second: Footprints, wanted: Sequence[str] | None) -> list[str]:
    """Source fields that the result keeps: those requested, else those of both layers.

    Raises:
        UsageError: if neither layer has a requested field.
    """
    here, there = list(first.attributes.columns), list(second.attributes.columns)
    if wanted is None:
        return [name for name in there if name in here]
    known = {*here, *there}
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(
            f"expected fields of {first.name} or {second.name}, found {', '.join(unknown)}; they "
            f"have {', '.join(sorted(map(str, known))) or 'none'}"
        )
    return list(wanted)


def _rows(
    date: Footprints,
    layer: str,
    kind: NDArray[np.str_],
    iou_sum: Array,
    area_m2: Array,
    class_field: str | None,
    fields: Sequence[str],
) -> pd.DataFrame:
    """Table rows of one layer, without geometry."""
    rows = pd.DataFrame(
        {
            "id": 0,
            "kind": kind,
            "class": _texts(date, class_field),
            "score": np.nan,
            "iou_sum": iou_sum,
            "area_m2": np.round(area_m2, 4),
            "layer": layer,
            "feature": date.attributes.index.astype(str),
        },
        index=pd.RangeIndex(len(kind)),
    )
    missing = pd.Series([None] * len(rows), dtype=object)
    for name, written in zip(fields, written_names(fields), strict=True):
        values = date.attributes.get(name)
        rows[written] = missing if values is None else values.reset_index(drop=True)
    return rows


def written_names(fields: Sequence[str]) -> list[str]:
    """Names of source fields in the result, made distinct from its own columns."""
    return distinct_names(fields, (*COLUMNS, "geometry", "geom", "fid", "ogc_fid"), "source_")


def _texts(date: Footprints, field: str | None) -> Any:
    if field is None:
        return None
    if field not in date.attributes:
        raise UsageError(
            f"expected the field {field} for --class in {date.name}, found "
            f"{', '.join(map(str, date.attributes.columns)) or 'none'}"
        )
    return date.attributes[field].astype("string").to_numpy()


def outside(first: Footprints, second: Footprints) -> tuple[BoolArray, BoolArray]:
    """Which footprints are outside the other layer's extent: (M,) of t1, (N,) of t2.

    If the layers cover different extents, all of these appear as vanished or appeared.
    """
    if not len(first.polygons) or not len(second.polygons):
        return np.zeros(len(first.polygons), bool), np.zeros(len(second.polygons), bool)
    second = in_crs(second, first.crs)
    frames = [shapely.box(*shapely.total_bounds(date.polygons)) for date in (second, first)]
    beyond = [
        ~shapely.intersects(date.polygons, frame)
        for date, frame in zip((first, second), frames, strict=True)
    ]
    return beyond[0], beyond[1]
